//! Texts to requests, as lm-evaluation-harness makes them.
//!
//! Context and target are encoded as one text, and the tokens after the context's own are the target. White
//! space at the end of a context belongs to the target, as tokenizers of words have it. Tokens that a tokenizer puts before
//! every text, such as LLaMA's `<s>`, come first. A sequence that is too long is cut at the beginning.

use rand::SeedableRng;
use rand_pcg::Pcg64;

use super::scorer::Request;
use crate::data::labelled::Example;
use crate::data::tokenizer::Tokenizer;
use crate::{error::Result, fail};

/// The separator between solved examples, and before the question.
pub const SEPARATOR: &str = "\n\n";

/// Makes requests that a model can take.
pub struct Prompter<'a> {
    pub tokenizer: &'a Tokenizer,
    /// The longest sequence that the model can see.
    pub context: usize,
    /// Requests that were cut.
    pub cut: usize,
}

impl Prompter<'_> {
    /// The request to score `target` after `context`; neither is empty.
    pub fn request(&mut self, context: &str, target: &str) -> Result<Request> {
        let (before, _) = context.split_at(context.trim_end().len());
        let whole = self.tokenizer.encode_prompt(&format!("{context}{target}"))?;
        let start = self.tokenizer.encode_prompt(before)?.len();
        let scored = whole.len().saturating_sub(start);
        if start == 0 || scored == 0 {
            fail!(Input, "its tokens cannot be told from those of the text before it; write more text");
        }
        if scored > self.context {
            fail!(Input, "it has {scored} tokens, more than the {} that the model can see", self.context);
        }
        let beyond = whole.len().saturating_sub(self.context + 1);
        self.cut += usize::from(beyond > 0);
        Ok(Request { ids: whole[beyond..].to_vec(), scored })
    }
}

/// Solved examples that stand before the one that is asked.
pub struct Shots<'a> {
    /// How many of them.
    pub count: usize,
    /// Where they are drawn from, anew for each question.
    pub examples: &'a [Example],
    pub seed: u64,
    pub separator: &'a str,
}

impl Shots<'_> {
    /// None.
    pub const NONE: Shots<'static> = Shots { count: 0, examples: &[], seed: 0, separator: SEPARATOR };

    /// The solved examples of question number `question`, each as `solved` writes it and followed by the separator.
    pub fn text(&self, question: usize, solved: impl Fn(&Example) -> String) -> String {
        // Each question has a stream of its own.
        let mut random = Pcg64::seed_from_u64((self.seed << 32) ^ question as u64);
        let drawn = rand::seq::index::sample(&mut random, self.examples.len(), self.count);
        drawn.iter().map(|at| solved(&self.examples[at]) + self.separator).collect()
    }
}
