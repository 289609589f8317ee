//! Texts from a model: generated together, printed one after the other.

use super::settings::{Method, Settings};
use crate::cli::console;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::generate::beam::{BeamOptions, Hypothesis};
use wgpt::generate::stop::{Continuation, Finish, first_stop};
use wgpt::generate::{Draw, Generator, Token};

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

impl Writer {
    /// Generates and prints the texts that continue a prompt, the first with this seed.
    pub fn write(&mut self, prompt: &str, seed: u32) -> Result<()> {
        let ids = self.tokenizer.encode_prompt(prompt)?;
        if ids.is_empty() {
            return Err(Error::Input("the tokenizer has no tokens for the prompt: give it more to continue".into()));
        }
        match self.settings.method.clone() {
            Method::Draw(draw) => self.draw(prompt, &ids, &draw, seed),
            Method::Beam(options) => self.search(prompt, &ids, options),
        }
    }

    /// Texts that are drawn token by token, shown as they come.
    fn draw(&mut self, prompt: &str, ids: &[u32], draw: &Draw, seed: u32) -> Result<()> {
        let Writer { executor, generator, tokenizer, settings, interrupted, .. } = self;
        let (rows, tokens) = (settings.rows(), settings.tokens(ids.len())?);
        for first in (0..settings.count).step_by(rows) {
            let seed = seed.wrapping_add(first as u32);
            let mut texts: Vec<Continuation> = (first..settings.count.min(first + rows))
                .map(|_| {
                    Continuation::new(tokenizer, tokens, &settings.stop_tokens, &settings.stops).after(tokenizer, ids)
                })
                .collect::<Result<_>>()?;
            let mut printer = Printer { prompt, json: self.json, echo: self.echo, ..Printer::default() };
            let label = |n: usize| Label { seed: Some(seed.wrapping_add(n as u32)), score: None };
            generator.sample(executor.as_mut(), ids, tokens, draw, seed, &mut |row, token| {
                // The last round may have fewer texts than rows.
                let Some(text) = texts.get_mut(row) else { return Ok(false) };
                text.push(token)?;
                let goes_on = text.finish().is_none() && !interrupted.load(Ordering::SeqCst);
                printer.update(&texts, label)?;
                Ok(goes_on)
            })?;
            if interrupted.load(Ordering::SeqCst) {
                return printer.break_off();
            }
            texts.iter_mut().try_for_each(|text| text.close(Finish::Length))?;
            printer.update(&texts, label)?;
        }
        Ok(())
    }

    /// The best texts that beam search finds, shown when it is over.
    fn search(&mut self, prompt: &str, ids: &[u32], options: BeamOptions) -> Result<()> {
        let Writer { executor, generator, tokenizer, settings, interrupted, .. } = self;
        let tokens = settings.tokens(ids.len())?;
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
            let mut text = text.after(tokenizer, ids)?;
            for (id, log_probability) in found.ids.iter().zip(&found.log_probabilities) {
                text.push(Token { id: *id, log_probability: *log_probability })?;
            }
            text.close(Finish::Length)?;
            Ok(text)
        };
        let texts = found.iter().map(text).collect::<Result<Vec<Continuation>>>()?;
        let mut printer = Printer { prompt, json: self.json, echo: self.echo, ..Printer::default() };
        printer.update(&texts, |n| Label { seed: None, score: Some(found[n].score) })
    }
}

/// What tells the texts of a prompt apart.
struct Label {
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
struct Printer<'a> {
    prompt: &'a str,
    json: bool,
    echo: bool,
    /// Texts that are printed to their end.
    complete: usize,
    /// The next one has been begun.
    is_begun: bool,
    /// Its bytes that are printed.
    shown: usize,
}

impl Printer<'_> {
    /// Prints what is new.
    fn update(&mut self, texts: &[Continuation], label: impl Fn(usize) -> Label) -> Result<()> {
        let mut new = String::new();
        while let Some(text) = texts.get(self.complete) {
            if self.json {
                let Some(_) = text.finish() else { break };
                new += &self.record(text, label(self.complete));
            } else {
                new += if self.is_begun || !self.echo { "" } else { self.prompt.trim_start_matches('\n') };
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
            prompt: self.prompt,
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
