//! The plans of generation on one device: prefill, reorder, decode.

use super::{Draw, Token};
use crate::error::Result;
use crate::executor::programs::Programs;
use crate::executor::{Executor, Program, check_finite};
use crate::graph::{Family, Graph, Shape, Step};
use crate::models::network::Network;
use crate::ops::best_tokens::BestTokens;
use crate::ops::cache_reorder::{self, CacheReorder};
use crate::ops::next_token::{NextToken, seen_words};

/// Texts that can be generated at once.
pub const MOST_ROWS: usize = cache_reorder::MOST_ROWS;

/// What a decode plan does with its logits.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Choice {
    Draw(Draw),
    /// The best `count` tokens of each row are handed to the host.
    Best {
        count: usize,
        repetition_penalty: f32,
    },
}

/// The programs of a decoder.
#[derive(Debug, PartialEq)]
enum Kind {
    Parameters,
    /// By the length of the window.
    Prefill(usize),
    /// By what is done with the logits.
    Decode(Choice),
    Reorder,
}

pub(super) struct Decoder {
    network: Network,
    vocabulary: usize,
    rows: usize,
    programs: Programs<Kind>,
    /// Position of the token that is fed next.
    position: usize,
}

/// Tokens that the shortest prefill window holds.
const SHORTEST_WINDOW: usize = 16;

impl Decoder {
    /// Allocates the parameters, unless they are in the executor's store.
    pub fn new(executor: &mut dyn Executor, network: &Network, vocabulary: usize, rows: usize) -> Result<Decoder> {
        assert!((1..=MOST_ROWS).contains(&rows), "from 1 to {MOST_ROWS} rows, not {rows}");
        let mut programs = Programs::default();
        programs.get(executor, Kind::Parameters, || {
            let mut g = Graph::new();
            network.declare(&mut g);
            g
        })?;
        Ok(Decoder { network: network.clone(), vocabulary, rows, programs, position: 0 })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Whether the cache has no room for the token that is fed next.
    pub fn is_full(&self) -> bool {
        self.position == self.network.config().context
    }

    /// Makes every row the last tokens of `prompt` that fit the context, the last of them not fed yet.
    pub fn start(&mut self, executor: &mut dyn Executor, prompt: &[u32], choice: &Choice) -> Result<()> {
        let (last, before) = prompt.split_last().expect("a prompt of at least one token");
        self.decode_program(executor, choice)?; // allocates what is written here
        let words = seen_words(self.vocabulary);
        let mut seen = vec![0u32; words];
        let known = before.iter().filter(|id| (**id as usize) < self.vocabulary);
        known.for_each(|id| seen[*id as usize / 32] |= 1 << (id % 32));
        executor.write_state(&self.name("seen"), bytemuck::cast_slice(&seen.repeat(self.rows)))?;
        self.feed(executor, &vec![*last; self.rows])?;
        let kept = before.len().min(self.network.config().context - 1);
        self.prefill(executor, 0, &before[before.len() - kept..])?;
        self.position = kept;
        if self.rows > 1 && kept > 0 {
            self.gather(executor, choice, &vec![0; self.rows])?;
        }
        Ok(())
    }

    /// Makes room where the cache is full: reads the last half of each text again, from position 0.
    pub fn slide(&mut self, executor: &mut dyn Executor, texts: &[Vec<u32>]) -> Result<()> {
        let kept = self.network.config().context / 2;
        for (row, text) in texts.iter().enumerate() {
            let (_, before) = text.split_last().expect("a text of more than a context");
            self.prefill(executor, row, &before[before.len() - kept..])?;
        }
        self.position = kept;
        Ok(())
    }

    /// Queues one decode step, which feeds the token that the last one drew.
    pub fn step(&mut self, executor: &mut dyn Executor, choice: &Choice, seed: u32) -> Result<()> {
        let program = self.decode_program(executor, choice)?;
        executor.run(program, 0, &Step { position: self.position as u32, seed, ..Step::default() })?;
        self.position += 1;
        if let Choice::Draw(_) = choice {
            executor.post(&self.name("report"), 0)?;
        }
        Ok(())
    }

    /// Tokens of the steps whose reports have arrived, each with one per row; of all steps if `wait`.
    pub fn collect(&self, executor: &mut dyn Executor, wait: bool) -> Result<Vec<Vec<Token>>> {
        // A few steps may be under way, so that a GPU never waits for the host. A software device is the host.
        let wait = wait || executor.limits().family == Family::Software;
        let token = |pair: &[f32]| Token { id: pair[0].to_bits(), log_probability: pair[1] };
        let steps: Vec<Vec<Token>> =
            executor.collect(wait)?.into_iter().map(|(_, report)| report.chunks(2).map(token).collect()).collect();
        // A logit that is not finite makes the logarithm of their sum so, too.
        steps
            .iter()
            .flatten()
            .try_for_each(|token| check_finite(&[token.log_probability], || "the model's log-probabilities".into()))?;
        Ok(steps)
    }

    /// Waits for the best tokens of each row, best first, with their log-probabilities.
    pub fn candidates(&mut self, executor: &mut dyn Executor, choice: &Choice) -> Result<Vec<Vec<(u32, f32)>>> {
        let program = self.decode_program(executor, choice)?;
        let best = executor.read(program, "best")?;
        let row = |pairs: &[f32]| pairs.chunks(2).map(|pair| (pair[0].to_bits(), pair[1])).collect();
        Ok(best.chunks(best.len() / self.rows).map(row).collect())
    }

    /// Row r continues what row `parents[r]` was, with the token `ids[r]`.
    pub fn follow(&mut self, executor: &mut dyn Executor, choice: &Choice, ids: &[u32], parents: &[u32]) -> Result<()> {
        self.feed(executor, ids)?;
        if parents.iter().zip(0..).any(|(parent, row)| *parent != row) {
            self.gather(executor, choice, parents)?;
        }
        Ok(())
    }

    /// Waits for the logits (rows, V) of the last step.
    pub fn logits(&mut self, executor: &mut dyn Executor, choice: &Choice) -> Result<Vec<f32>> {
        let program = self.decode_program(executor, choice)?;
        executor.read(program, "logits")
    }

    /// Frees the programs, and the caches and other states of decoding unless another decoder of as many rows uses them.
    pub fn free(mut self, executor: &mut dyn Executor) {
        self.programs.unload(executor);
        let (prefix, rows) = (self.network.prefix(), self.rows);
        [format!("{prefix}cache.{rows}."), format!("{prefix}decode.{rows}.")]
            .iter()
            .for_each(|states| executor.free_states(states));
    }

    /// Sets the tokens that the next step feeds.
    fn feed(&self, executor: &mut dyn Executor, ids: &[u32]) -> Result<()> {
        executor.write_state(&self.name("ids"), bytemuck::cast_slice(ids))
    }

    /// Fills a row of the cache from position 0 on.
    fn prefill(&mut self, executor: &mut dyn Executor, row: usize, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        // Windows of few lengths, so that few programs are made, none much longer than needed.
        let step = (ids.len().next_power_of_two() / 4).max(SHORTEST_WINDOW);
        let window = ids.len().next_multiple_of(step);
        let program = self.prefill_program(executor, window)?;
        let window = window.min(self.network.config().context);
        // Positions after the last are causal: what stands there changes nothing before, and is overwritten when reached.
        let padded: Vec<u32> = ids.iter().copied().chain(std::iter::repeat(0)).take(window).collect();
        executor.write(program, "ids", bytemuck::cast_slice(&padded))?;
        executor.run(program, 0, &Step { row: row as u32, ..Step::default() })
    }

    fn gather(&mut self, executor: &mut dyn Executor, choice: &Choice, parents: &[u32]) -> Result<()> {
        self.decode_program(executor, choice)?;
        let (network, vocabulary, rows) = (&self.network, self.vocabulary, self.rows);
        let program = self.programs.get(executor, Kind::Reorder, || {
            let mut g = Graph::new();
            let parents = g.input("parents", Shape::u32(&[rows]));
            for cache in network.inference().caches(&mut g, rows) {
                g.apply(CacheReorder { filled: true }, &[cache, parents]);
            }
            let seen = g.state_u32(&state_name(network, rows, "seen"), &[rows, seen_words(vocabulary)]);
            g.apply(CacheReorder { filled: false }, &[seen, parents]);
            g
        })?;
        executor.write(program, "parents", bytemuck::cast_slice(parents))?;
        executor.run(program, 0, &Step { position: self.position as u32, ..Step::default() })
    }

    fn prefill_program(&mut self, executor: &mut dyn Executor, window: usize) -> Result<Program> {
        let window = window.min(self.network.config().context);
        let (network, rows) = (&self.network, self.rows);
        self.programs.get(executor, Kind::Prefill(window), || {
            let mut g = Graph::new();
            let ids = g.input("ids", Shape::u32(&[1, window]));
            network.inference().prefill(&mut g, ids, rows);
            g
        })
    }

    fn decode_program(&mut self, executor: &mut dyn Executor, choice: &Choice) -> Result<Program> {
        let (network, vocabulary, rows) = (&self.network, self.vocabulary, self.rows);
        self.programs.get(executor, Kind::Decode(choice.clone()), || decode_graph(network, vocabulary, rows, choice))
    }

    /// The name of a state of decoding; sizes depend on the rows.
    fn name(&self, what: &str) -> String {
        state_name(&self.network, self.rows, what)
    }
}

fn state_name(network: &Network, rows: usize, what: &str) -> String {
    format!("{}decode.{rows}.{what}", network.prefix())
}

/// One decode step: the next token of each row.
pub(super) fn decode_graph(network: &Network, vocabulary: usize, rows: usize, choice: &Choice) -> Graph {
    let mut g = Graph::new();
    let ids = g.state_u32(&state_name(network, rows, "ids"), &[rows, 1]);
    let report = g.state(&state_name(network, rows, "report"), &[rows, 2]);
    let seen = g.state_u32(&state_name(network, rows, "seen"), &[rows, seen_words(vocabulary)]);
    let logits = network.inference().decode(&mut g, ids);
    g.output("logits", logits);
    g.scope("choice");
    match choice.clone() {
        Choice::Draw(Draw { repetition_penalty, temperature, top_k, top_p, min_p }) => {
            let op = NextToken { vocabulary, repetition_penalty, temperature, top_k, top_p, min_p };
            g.apply(op, &[logits, seen, ids, report]);
        }
        Choice::Best { count, repetition_penalty } => {
            let best = g.apply(BestTokens { vocabulary, count, repetition_penalty }, &[logits, seen, ids]);
            g.output("best", best);
        }
    }
    g
}
