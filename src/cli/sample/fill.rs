//! The most likely words for the [MASK]s of a text, by an encoder.

use super::prompt::Prompt;
use super::texts::Given;
use super::{Files, Sample, stop_at_interrupt};
use crate::cli::{Global, console, typed};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wgpt::data::masking::EncoderTokens;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::files::one_line;
use wgpt::formats::folder::Weights;
use wgpt::generate::Token;
use wgpt::generate::fill::Filler;
use wgpt::models::network::Network;

/// Words that are shown for a mask.
const SHOWN: usize = 5;

/// An encoder that fills in what is masked, and how its words are printed.
struct Words<'a> {
    executor: Box<dyn Executor>,
    network: &'a Network,
    weights: &'a Weights,
    tokenizer: &'a Tokenizer,
    tokens: EncoderTokens,
    top: usize,
    json: bool,
}

/// Runs `wgpt sample` on an encoder.
pub fn run(sample: &Sample, global: &Global, files: Files) -> Result<()> {
    let Files { config, weights, tokenizer, .. } = files;
    if let Some(flag) = sample.choices.beside_top_k() {
        fail!(
            Usage,
            "--{flag} is about texts that are continued, and an encoder fills in what is masked: leave it out"
        );
    }
    if !config.heads_of_encoder().predicts() {
        fail!(
            Usage,
            "this {} has no head that predicts masked tokens: give a model of masked language modelling",
            config.family
        );
    }
    let tokens = EncoderTokens::needed(&tokenizer, "that of the model")?;
    let prompt = Prompt::of(sample)?;
    let network = Network::new(config);
    let mut words = Words {
        executor: global.open()?,
        network: &network,
        weights: &weights,
        tokenizer: &tokenizer,
        tokens,
        top: sample.choices.top_k().unwrap_or(SHOWN),
        json: sample.json || matches!(prompt, Prompt::Many(_)),
    };
    match prompt {
        Prompt::Text(text) => words.print(&[text.into()]),
        Prompt::Many(prompts) => words.print(&prompts),
        Prompt::Typed => {
            let interrupted = Arc::new(AtomicBool::new(false));
            stop_at_interrupt(global, interrupted.clone());
            let hint = "Enter fills in each [MASK], Ctrl-D or /quit ends";
            typed::lines(global, hint, &interrupted, &mut |_, line| words.print(&[line.into()]))
        }
    }
}

impl Words<'_> {
    /// The ids of a text, which has a mask and fits the context.
    fn encode(&self, given: &Given) -> Result<Vec<u32>> {
        let ids = self.tokenizer.encode_prompt(&given.text)?;
        let mask = self.tokenizer.token(self.tokens.mask).unwrap_or_default();
        if !ids.contains(&self.tokens.mask) {
            let text = one_line(&given.text);
            fail!(Input, "the text `{text}` has no {mask}: write {mask} where a word is to be filled in");
        }
        let context = self.network.config().context;
        if ids.len() > context {
            fail!(Input, "the text has {} tokens, and the model's context is {context}: give a shorter one", ids.len());
        }
        Ok(ids)
    }

    fn print(&mut self, prompts: &[Given]) -> Result<()> {
        let encode = |given: &Given| match &given.place {
            Some(place) => self.encode(given).map_err(|error| error.in_place(place)),
            None => self.encode(given),
        };
        let texts = prompts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        let mut filler = Filler::new(self.executor.as_mut(), self.network, self.weights);
        let filled = filler.fill(&texts, self.tokens.mask, (self.top, self.tokenizer.vocabulary_size()))?;
        drop(filler);
        for ((given, ids), masks) in prompts.iter().zip(&texts).zip(&filled) {
            match self.json {
                true => console::line(self.object(&given.text, ids, masks)?)?,
                false => self.table(masks)?,
            }
        }
        Ok(())
    }

    /// A line for each word, with its probability; masks are told apart where there are several.
    fn table(&self, masks: &[Vec<Token>]) -> Result<()> {
        for (n, words) in masks.iter().enumerate() {
            if masks.len() > 1 {
                console::line(format!("mask {} of {}", n + 1, masks.len()))?;
            }
            for word in words {
                console::line(format!("{:.4}  {}", word.log_probability.exp(), self.tokenizer.decode(&[word.id])?))?;
            }
        }
        Ok(())
    }

    /// As the pipeline `fill-mask` of `transformers` gives them, for each mask.
    fn object(&self, prompt: &str, ids: &[u32], masks: &[Vec<Token>]) -> Result<Value> {
        let EncoderTokens { first, separator, mask, pad } = self.tokens;
        let places = ids.iter().enumerate().filter(|(_, id)| **id == mask).map(|(at, _)| at);
        let mut all = vec![];
        for (place, words) in places.zip(masks) {
            let word = |word: &Token| {
                let mut ids = ids.to_vec();
                ids[place] = word.id;
                ids.retain(|id| ![first, separator, pad].contains(id));
                let score = f64::from(word.log_probability).exp();
                Ok(json!({"score": score, "token": word.id, "token_str": self.tokenizer.decode(&[word.id])?,
                    "sequence": self.tokenizer.decode(&ids)?}))
            };
            all.push(words.iter().map(word).collect::<Result<Vec<Value>>>()?);
        }
        Ok(json!({"prompt": prompt, "masks": all}))
    }
}
