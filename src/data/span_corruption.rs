//! Span corruption, as "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al. 2020), section
//! 3.1.4, has it: spans of a text are each replaced by a sentinel token, and a model writes each sentinel and what stood there.
//!
//!   input:   kept text with <extra_id_0>, <extra_id_1>, ... </s>;   target: <extra_id_0> span <extra_id_1> span ... </s>
//!
//! 15% of the tokens are in spans of 3 on average; their places and lengths are drawn uniformly among all that have as many. So all
//! sequences of a length have inputs of one length, and targets of another.

use rand::RngExt;
use rand_pcg::Pcg64;

use super::tokenizer::{END_OF_SEQUENCE, Tokenizer};
use crate::error::Result;
use crate::fail;

/// Of the tokens, as in the paper.
const DENSITY: f64 = 0.15;
/// Tokens of a span on average, as in the paper.
const SPAN: f64 = 3.0;

/// The special tokens of a text-to-text model's sequences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// `</s>`, at the end of inputs and targets.
    pub end: u32,
    /// `<extra_id_0>`, `<extra_id_1>` and so on.
    pub ids: Vec<u32>,
}

impl Sentinels {
    /// Those of a tokenizer; `what` names it. It has at least `least` sentinels.
    pub fn needed(tokenizer: &Tokenizer, what: &str, least: usize) -> Result<Sentinels> {
        let end = tokenizer.token_id(END_OF_SEQUENCE);
        let ids: Vec<u32> = (0..).map_while(|n| tokenizer.token_id(&sentinel(n))).collect();
        let Some(end) = end.filter(|_| ids.len() >= least.max(1)) else {
            fail!(
                Usage,
                "span corruption needs a tokenizer with {END_OF_SEQUENCE} and {least} sentinels <extra_id_0>, <extra_id_1> ..., and {what} \
                 has {}: make one with wgpt tokenizer train --kind unigram, or give --tokenizer unigram",
                ids.len()
            );
        };
        Ok(Sentinels { end, ids })
    }
}

/// The name of a sentinel.
pub fn sentinel(n: usize) -> String {
    format!("<extra_id_{n}>")
}

/// Lengths of sequences, and of what is made of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Tokens of text.
    pub text: usize,
    /// Of them in spans.
    corrupted: usize,
    pub spans: usize,
}

impl Lengths {
    /// The longest sequences whose inputs have at most `longest` tokens.
    pub fn fit(longest: usize) -> Result<Lengths> {
        let fitting = (2..).map(Lengths::of).take_while(|lengths| lengths.inputs() <= longest).last();
        let Some(lengths) = fitting else {
            fail!(Usage, "inputs of {longest} tokens leave no room for text beside a span: give --context 8 or more");
        };
        Ok(lengths)
    }

    fn of(text: usize) -> Lengths {
        let corrupted = ((text as f64 * DENSITY).round() as usize).clamp(1, text - 1);
        let spans = ((corrupted as f64 / SPAN).round() as usize).clamp(1, text - corrupted);
        Lengths { text, corrupted, spans }
    }

    /// Tokens of an input.
    pub fn inputs(&self) -> usize {
        self.text - self.corrupted + self.spans + 1
    }

    /// Tokens of a target.
    pub fn targets(&self) -> usize {
        self.corrupted + self.spans + 1
    }

    /// Adds the input and the target of a text of as many tokens.
    pub fn corrupt(
        &self,
        text: &[u32],
        sentinels: &Sentinels,
        random: &mut Pcg64,
        (inputs, targets): (&mut Vec<u32>, &mut Vec<u32>),
    ) {
        let mut kept = Parts { left: self.text - self.corrupted, parts: self.spans };
        let mut spans = Parts { left: self.corrupted, parts: self.spans };
        let mut at = 0;
        for sentinel in &sentinels.ids[..self.spans] {
            let (before, span) = (kept.next(random), spans.next(random));
            inputs.extend(&text[at..at + before]);
            inputs.push(*sentinel);
            targets.push(*sentinel);
            targets.extend(&text[at + before..at + before + span]);
            at += before + span;
        }
        inputs.push(sentinels.end);
        targets.push(sentinels.end);
    }
}

/// Tokens that are shared out to parts of at least one, every way as likely as any other.
struct Parts {
    left: usize,
    parts: usize,
}

impl Parts {
    /// Tokens of the next part, drawn so that every way to share out the rest is as likely as any other.
    fn next(&mut self, random: &mut Pcg64) -> usize {
        let mut length = 1;
        // The part ends behind a token with the probability (boundaries left) / (places for them that are left).
        while self.parts > 1 && random.random_range(0..self.left - length) >= self.parts - 1 {
            length += 1;
        }
        if self.parts == 1 {
            length = self.left;
        }
        self.left -= length;
        self.parts -= 1;
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn lengths_are_those_of_the_paper() {
        let lengths = Lengths::fit(512).unwrap();
        assert_eq!((lengths.text, lengths.inputs(), lengths.targets()), (568, 512, 114));
    }

    /// Of 6 tokens in 3 parts there are 10 ways.
    #[test]
    fn every_way_to_share_out_is_as_likely() {
        let mut random = Pcg64::seed_from_u64(1);
        let mut counts = std::collections::BTreeMap::<Vec<usize>, u32>::new();
        for _ in 0..10_000 {
            let mut parts = Parts { left: 6, parts: 3 };
            let way: Vec<usize> = (0..3).map(|_| parts.next(&mut random)).collect();
            assert_eq!(way.iter().sum::<usize>(), 6);
            *counts.entry(way).or_default() += 1;
        }
        // Five standard deviations of a count of 1000.
        assert!(counts.len() == 10 && counts.values().all(|count| count.abs_diff(1000) < 150), "{counts:?}");
    }

    #[test]
    fn the_text_comes_back_from_input_and_target() {
        let sentinels = Sentinels { end: 1, ids: (0..40).map(|n| 999 - n).collect() };
        let mut random = Pcg64::seed_from_u64(7);
        for longest in [4, 5, 9, 64, 130] {
            let lengths = Lengths::fit(longest).unwrap();
            let text: Vec<u32> = (0..lengths.text as u32).map(|n| 10 + n).collect();
            let (mut inputs, mut targets) = (vec![], vec![]);
            lengths.corrupt(&text, &sentinels, &mut random, (&mut inputs, &mut targets));
            assert_eq!((inputs.len(), targets.len()), (lengths.inputs(), lengths.targets()), "{longest}");
            assert_eq!((inputs.pop(), targets.pop()), (Some(1), Some(1)));
            let mut spans = targets.split(|id| *id > 900).skip(1);
            let whole = inputs.iter().flat_map(|id| match *id > 900 {
                true => spans.next().unwrap().to_vec(),
                false => vec![*id],
            });
            assert_eq!(whole.collect::<Vec<_>>(), text, "{longest}");
        }
    }
}
