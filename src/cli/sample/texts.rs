//! Texts from a model: generated together, printed one after the other.

use super::settings::{Method, Settings};
use crate::cli::console;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::files::one_line;
use wgpt::generate::beam::{BeamOptions, Hypothesis};
use wgpt::generate::stop::{Continuation, Finish, first_stop};
use wgpt::generate::{Generator, Request, SamplingParams, Token};

/// A model on a device, with everything that is settled about its texts.
pub struct Writer {
    pub executor: Box<dyn Executor>,
    pub generator: Generator,
    pub tokenizer: Tokenizer,
    pub settings: Settings,
    /// Print objects, one a line, rather than text.
    pub json: bool,
    /// Print the prompt before each text.
    pub echo: bool,
    /// Once true, texts end where they are.
    pub interrupted: Arc<AtomicBool>,
}

/// A text to continue.
pub struct Given {
    pub text: String,
    /// Its line and file, for errors, where it is one of many.
    pub place: Option<String>,
}

impl From<String> for Given {
    fn from(text: String) -> Given {
        Given { text, place: None }
    }
}

/// How much was generated.
pub struct Written {
    pub texts: usize,
    pub tokens: usize,
}

impl Writer {
    /// Generates and prints the texts that continue each prompt, in their order; of each prompt the first with this seed.
    pub fn write(&mut self, prompts: &[Given], seed: u32) -> Result<Written> {
        let encode = |prompt: &str| match self.tokenizer.encode_prompt(prompt)? {
            ids if ids.is_empty() => {
                let shown = one_line(prompt);
                fail!(Input, "the tokenizer has no tokens for the prompt `{shown}`: give it more to continue")
            }
            ids => Ok(ids),
        };
        let encode = |given: &Given| match &given.place {
            Some(place) => encode(&given.text).map_err(|error| error.in_place(place)),
            None => encode(&given.text),
        };
        let ids = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let prompts: Vec<(&str, Vec<u32>)> = prompts.iter().map(|given| given.text.as_str()).zip(ids).collect();
        match self.settings.method.clone() {
            Method::Draw(draw) => self.draw(&prompts, &draw, seed),
            Method::Beam(options) => {
                let mut written = Written { texts: 0, tokens: 0 };
                for (prompt, ids) in &prompts {
                    let Written { texts, tokens } = self.search(prompt, ids, options)?;
                    written = Written { texts: written.texts + texts, tokens: written.tokens + tokens };
                }
                Ok(written)
            }
        }
    }

    /// Texts that are drawn token by token, shown as they come.
    fn draw(&mut self, prompts: &[(&str, Vec<u32>)], draw: &SamplingParams, seed: u32) -> Result<Written> {
        let Writer { executor, generator, tokenizer, settings, interrupted, .. } = self;
        let (has_source, most) = (generator.has_source(), generator.most_tokens());
        let count = settings.count;
        let limits = prompts.iter().map(|(_, ids)| settings.tokens(continued(ids, has_source).len()));
        let limits = limits.map(|tokens| tokens.map(|tokens| tokens.min(most))).collect::<Result<Vec<usize>>>()?;
        let text = |n: usize| {
            let (ids, tokens) = (&prompts[n / count].1, limits[n / count]);
            let text = Continuation::new(tokenizer, tokens, &settings.stop_tokens, &settings.stops);
            text.after(tokenizer, continued(ids, has_source))
        };
        let mut texts = (0..prompts.len() * count).map(text).collect::<Result<Vec<Continuation>>>()?;
        let seed = |n: usize| seed.wrapping_add((n % count) as u32);
        let request = |n: usize| {
            let (prompt, tokens) = (prompts[n / count].1.clone(), limits[n / count]);
            Request { prompt, tokens, seed: seed(n), params: *draw, best: 0 }
        };
        let label = |n: usize| Label { prompt: prompts[n / count].0, seed: Some(seed(n)), score: None };
        let mut printer = Printer { json: self.json, echo: self.echo, ..Printer::default() };
        let stopped = || interrupted.load(Ordering::SeqCst);
        let mut requests = (0..texts.len()).take_while(|_| !stopped()).map(request);
        generator.generate(executor.as_mut(), &mut requests, &mut |n, token| {
            texts[n].push(token)?;
            let goes_on = texts[n].finish().is_none() && !stopped();
            printer.update(&texts, label)?;
            Ok(goes_on)
        })?;
        if stopped() {
            printer.break_off()?;
        }
        Ok(written(&texts))
    }

    /// The best texts that beam search finds, shown when it is over.
    fn search(&mut self, prompt: &str, ids: &[u32], options: BeamOptions<'static>) -> Result<Written> {
        let Writer { executor, generator, tokenizer, settings, interrupted, .. } = self;
        let before = continued(ids, generator.has_source());
        let tokens = settings.tokens(before.len())?;
        // Bytes of a stop text, and a few more tokens for the neighbours that a decoder may look at.
        let window = settings.stops.iter().map(String::len).max().map(|bytes| bytes + 8);
        let stops = |ids: &[u32]| {
            let last = window.and_then(|window| tokenizer.decode(&ids[ids.len().saturating_sub(window)..]).ok());
            // Where everything has ended, the search is over.
            interrupted.load(Ordering::SeqCst) || last.is_some_and(|text| first_stop(&text, &settings.stops).is_some())
        };
        let options = BeamOptions { stop_tokens: &settings.stop_tokens, stops: Some(&stops), ..options };
        let found = generator.beams(executor.as_mut(), ids, tokens, &options)?;
        let text = |found: &Hypothesis| {
            let text = Continuation::new(tokenizer, tokens, &settings.stop_tokens, &settings.stops);
            let mut text = text.after(tokenizer, before)?;
            for (id, log_probability) in found.ids.iter().zip(&found.log_probabilities) {
                text.push(Token { id: *id, log_probability: *log_probability })?;
            }
            text.close(Finish::Length)?;
            Ok(text)
        };
        let texts = found.iter().map(text).collect::<Result<Vec<Continuation>>>()?;
        let mut printer = Printer { json: self.json, echo: self.echo, ..Printer::default() };
        printer.update(&texts, |n| Label { prompt, seed: None, score: Some(found[n].score) })?;
        Ok(written(&texts))
    }
}

/// The ids that a text continues: none where they are an encoder's input.
fn continued(ids: &[u32], has_source: bool) -> &[u32] {
    if has_source { &[] } else { ids }
}

fn written(texts: &[Continuation]) -> Written {
    Written { texts: texts.len(), tokens: texts.iter().map(|text| text.ids().len()).sum() }
}

/// Where a text comes from.
struct Label<'a> {
    prompt: &'a str,
    seed: Option<u32>,
    score: Option<f32>,
}

/// A text as `--json` prints it.
#[derive(Serialize)]
struct Record<'a> {
    prompt: &'a str,
    text: &'a str,
    ids: &'a [u32],
    /// In nats; with the token that ended the text, as `ids`.
    log_probabilities: &'a [f32],
    finish_reason: Option<Finish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f32>,
}

/// Prints texts in their order: the first that is not complete appears as it grows, and those after it wait.
#[derive(Default)]
struct Printer {
    json: bool,
    echo: bool,
    /// Texts that are printed to their end.
    complete: usize,
    /// The next one has been begun.
    is_begun: bool,
    /// Its bytes that are printed.
    shown: usize,
}

impl Printer {
    /// Prints what is new.
    fn update<'a>(&mut self, texts: &[Continuation], label: impl Fn(usize) -> Label<'a>) -> Result<()> {
        let mut new = String::new();
        while let Some(text) = texts.get(self.complete) {
            if self.json {
                let Some(_) = text.finish() else { break };
                new += &self.record(text, label(self.complete));
            } else {
                let prompt = label(self.complete).prompt;
                new += if self.is_begun || !self.echo { "" } else { prompt.trim_start_matches('\n') };
                new += &text.text()[self.shown..];
                (self.is_begun, self.shown) = (true, text.text().len());
                let Some(_) = text.finish() else { break };
            }
            new.push('\n');
            (self.is_begun, self.shown) = (false, 0);
            self.complete += 1;
        }
        console::data(&new)
    }

    /// Ends the line of a text that stays incomplete.
    fn break_off(&self) -> Result<()> {
        console::data(if self.is_begun { "\n" } else { "" })
    }

    fn record(&self, text: &Continuation, label: Label) -> String {
        let record = Record {
            prompt: label.prompt,
            text: text.text(),
            ids: text.ids(),
            log_probabilities: text.log_probabilities(),
            finish_reason: text.finish(),
            seed: label.seed,
            score: label.score,
        };
        serde_json::to_string(&record).expect("numbers and texts always serialise")
    }
}
