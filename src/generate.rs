//! Generation: a prompt fills a cache of keys and values, and every further token is one replay of a small decode plan.
//!
//! The token that a step draws stays on the device, where the next step reads it: the host only watches, a few steps behind.
//! Past the context length the last half of it is read again from position 0 and generation goes on from there: positions
//! are learned, so a cache cannot simply slide.

pub mod beam;
mod decoder;
pub mod stop;

use crate::error::Result;
use crate::executor::Executor;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::Graph;
use crate::models::network::Network;
use beam::{BeamOptions, BeamSearch, Hypothesis, Next};
use decoder::{Choice, Decoder};

pub use decoder::MOST_ROWS;

/// What one token was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    pub id: u32,
    /// The model's log-probability of it, in nats: log-softmax of the unprocessed logits.
    pub log_probability: f32,
}

/// How tokens are drawn: with the meaning of Hugging Face transformers, in the order of the fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Draw {
    /// Above 1, tokens that the text has become less likely; 1 is off.
    pub repetition_penalty: f32,
    /// Below 1 is more likely text, above 1 more varied; 0 takes the most likely token.
    pub temperature: f32,
    /// Draws among this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Draws among the most likely tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Draws among tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
}

impl Draw {
    /// The most likely token, always.
    pub const GREEDY: Draw = Draw { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
}

/// A model on a device that continues texts, `rows` of them at once.
pub struct Generator {
    decoder: Decoder,
}

impl Generator {
    /// A generator whose weights it writes to the device's store. `vocabulary`: ids below it may be drawn.
    pub fn new(
        executor: &mut dyn Executor,
        network: &Network,
        weights: &Weights,
        vocabulary: usize,
        rows: usize,
    ) -> Result<Generator> {
        let generator = Generator::of_store(executor, network, vocabulary, rows)?;
        upload(executor, network, weights)?;
        Ok(generator)
    }

    /// A generator of the model whose weights are in the device's store, or will be.
    pub fn of_store(
        executor: &mut dyn Executor,
        network: &Network,
        vocabulary: usize,
        rows: usize,
    ) -> Result<Generator> {
        Ok(Generator { decoder: Decoder::new(executor, network, vocabulary, rows)? })
    }

    /// Draws up to `tokens` tokens in each row after `prompt`, of which the last tokens that fit the context are seen; row r
    /// draws with seed `seed + r`. `take(row, token)` gets each token in order as it arrives and returns whether the row
    /// goes on.
    ///
    /// Panics if `prompt` is empty.
    pub fn sample(
        &mut self,
        executor: &mut dyn Executor,
        prompt: &[u32],
        tokens: usize,
        draw: &Draw,
        seed: u32,
        take: &mut dyn FnMut(usize, Token) -> Result<bool>,
    ) -> Result<()> {
        let rows = self.decoder.rows();
        let choice = Choice::Draw(draw.clone());
        self.decoder.start(executor, prompt, &choice)?;
        let mut texts = vec![prompt.to_vec(); rows];
        let mut going = vec![true; rows];
        let mut queued = 0;
        while queued < tokens && going.contains(&true) {
            if self.decoder.is_full() {
                // The texts so far are needed to read the last of them again.
                for step in self.decoder.collect(executor, true)? {
                    deliver(&step, &mut texts, &mut going, take)?;
                }
                self.decoder.slide(executor, &texts)?;
            }
            self.decoder.step(executor, &choice, seed)?;
            queued += 1;
            for step in self.decoder.collect(executor, false)? {
                deliver(&step, &mut texts, &mut going, take)?;
            }
        }
        for step in self.decoder.collect(executor, true)? {
            deliver(&step, &mut texts, &mut going, take)?;
        }
        Ok(())
    }

    /// The best continuations of `prompt` by beam search; the generator's rows are the beams.
    ///
    /// Panics if `prompt` is empty or the rows are not `options.beams`.
    pub fn beams(
        &mut self,
        executor: &mut dyn Executor,
        prompt: &[u32],
        tokens: usize,
        options: &BeamOptions,
    ) -> Result<Vec<Hypothesis>> {
        assert_eq!(self.decoder.rows(), options.beams, "a row for every beam");
        let count = options.candidates().min(self.decoder.vocabulary());
        let choice = Choice::Best { count, repetition_penalty: options.repetition_penalty };
        self.decoder.start(executor, prompt, &choice)?;
        let mut search = BeamSearch::new(*options, tokens);
        let mut texts = vec![prompt.to_vec(); options.beams];
        for _ in 0..tokens {
            if self.decoder.is_full() {
                self.decoder.slide(executor, &texts)?;
            }
            self.decoder.step(executor, &choice, 0)?;
            let candidates = self.decoder.candidates(executor, &choice)?;
            let Next::Continue { ids, parents } = search.advance(&candidates) else { break };
            texts = parents.iter().map(|parent| texts[*parent as usize].clone()).collect();
            texts.iter_mut().zip(&ids).for_each(|(text, id)| text.push(*id));
            self.decoder.follow(executor, &choice, &ids, &parents)?;
        }
        Ok(search.finish())
    }

    /// Logits (rows, V) of the token after `prompt`.
    pub fn logits(&mut self, executor: &mut dyn Executor, prompt: &[u32]) -> Result<Vec<f32>> {
        let choice = Choice::Draw(Draw::GREEDY);
        self.decoder.start(executor, prompt, &choice)?;
        self.decoder.step(executor, &choice, 0)?;
        self.decoder.collect(executor, true)?;
        self.decoder.logits(executor, &choice)
    }

    /// Frees the programs, the caches and the other states of generation; no other generator of as many rows may be in use.
    pub fn free(self, executor: &mut dyn Executor) {
        self.decoder.free(executor);
    }
}

/// The graph that decodes one greedy token in each of `rows` rows, as [`Generator::sample`] replays it; its output `logits`
/// is (rows, 1, V).
pub fn decode_graph(network: &Network, rows: usize) -> Graph {
    decoder::decode_graph(network, network.config().vocab_size, rows, &Choice::Draw(Draw::GREEDY))
}

/// Hands one step's tokens on; rows that have ended stay silent.
fn deliver(
    step: &[Token],
    texts: &mut [Vec<u32>],
    going: &mut [bool],
    take: &mut dyn FnMut(usize, Token) -> Result<bool>,
) -> Result<()> {
    for (row, token) in step.iter().enumerate() {
        texts[row].push(token.id);
        going[row] = going[row] && take(row, *token)?;
    }
    Ok(())
}
