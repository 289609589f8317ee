//! Generation on one device: which row is at which position, and the programs that fill, reorder and decode rows.

use super::graphs::{
    Choice, decode_graph, prefill_graph, reorder_graph, reorder_sources_graph, source_graph, state_name, window,
};
use super::{SamplingParams, Token};
use crate::error::Result;
use crate::executor::programs::Programs;
use crate::executor::{Executor, Program, check_finite};
use crate::graph::{AdapterKind, Graph, Step};
use crate::models::config::EncoderDecoder;
use crate::models::network::Network;
use crate::ops::cache_reorder;
use crate::ops::next_token::{PARAMS, seen_words};

/// Texts that can be generated at once.
pub const MOST_ROWS: usize = cache_reorder::MOST_ROWS;

/// The programs of a decoder.
#[derive(Debug, PartialEq)]
enum Kind {
    Parameters,
    /// By the length of the window.
    Prefill(usize),
    /// Of an encoder's input, by the length that it is padded to.
    Source(usize),
    /// By what is done with the logits.
    Decode(Choice),
    Reorder,
    ReorderSources,
}

pub(super) struct Decoder {
    network: Network,
    vocabulary: usize,
    rows: usize,
    programs: Programs<Kind>,
    /// Of each row, the position of the token that is fed next.
    positions: Vec<usize>,
}

/// A text that a row begins with.
pub(super) struct Start<'a> {
    pub row: usize,
    /// At least one token; an encoder's input where the model has one.
    pub prompt: &'a [u32],
    pub seed: u32,
    pub params: SamplingParams,
}

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
        Ok(Decoder { network: network.clone(), vocabulary, rows, programs, positions: vec![0; rows] })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    pub fn has_source(&self) -> bool {
        self.network.config().encoder_decoder.is_some()
    }

    /// Tokens that a text can have at most: a decoder that starts from its first token cannot read its last half again.
    pub fn most_tokens(&self) -> usize {
        if self.has_source() { self.network.config().context } else { usize::MAX }
    }

    /// Whether texts pass in segments, of which a memory is kept.
    fn recurs(&self) -> bool {
        self.network.config().recurrence.is_some()
    }

    /// Whether a row's cache has no room for the token that is fed next. A memory always has.
    pub fn is_full(&self, row: usize) -> bool {
        self.positions[row] == self.network.config().context && !self.recurs()
    }

    /// Makes rows the last tokens of their prompts that fit the context, the last of them not fed yet; the other rows stay.
    /// A prompt that several rows have is read once.
    ///
    /// Panics if a prompt is empty.
    pub fn start(&mut self, executor: &mut dyn Executor, choice: &Choice, starts: &[Start]) -> Result<()> {
        self.decode_program(executor, choice)?; // allocates what is written here
        if let Some(both) = self.network.config().encoder_decoder {
            return self.start_after(executor, both, starts);
        }
        let mut parents: Vec<u32> = (0..self.rows as u32).collect();
        for (n, Start { row, prompt, .. }) in starts.iter().enumerate() {
            let (_, before) = prompt.split_last().expect("a prompt of at least one token");
            let kept = if self.recurs() { before.len() } else { before.len().min(self.network.config().context - 1) };
            self.positions[*row] = kept;
            match starts[..n].iter().find(|earlier| earlier.prompt == *prompt) {
                Some(earlier) => parents[*row] = earlier.row as u32,
                None => self.prefill(executor, *row, &before[before.len() - kept..])?,
            }
        }
        self.gather(executor, choice, &parents)?;
        self.write_starts(executor, starts.iter().map(|start| (start.row, start.prompt, start.seed, start.params)))
    }

    /// As [`Decoder::start`], of a decoder with a source: each prompt is the encoder's input, of which the first tokens that fit the
    /// context are seen, and each text begins with the model's first token.
    fn start_after(&mut self, executor: &mut dyn Executor, both: EncoderDecoder, starts: &[Start]) -> Result<()> {
        let context = self.network.config().context;
        let seen = |prompt: &[u32]| prompt.len().min(context);
        let mut parents: Vec<u32> = (0..self.rows as u32).collect();
        for (n, Start { row, prompt, .. }) in starts.iter().enumerate() {
            self.positions[*row] = 0;
            match starts[..n].iter().find(|earlier| earlier.prompt == *prompt) {
                Some(earlier) => parents[*row] = earlier.row as u32,
                None => self.encode(executor, *row, &prompt[..seen(prompt)])?,
            }
            let last = seen(prompt) as u32 - 1;
            executor.write_state_at(&self.name("source_last"), *row, &[f32::from_bits(last)])?;
        }
        if parents.iter().zip(0..).any(|(parent, row)| *parent != row) {
            let longest = starts.iter().map(|start| seen(start.prompt)).max().unwrap_or(0);
            let (network, rows) = (&self.network, self.rows);
            let program = self.programs.get(executor, Kind::ReorderSources, || reorder_sources_graph(network, rows))?;
            executor.write(program, "parents", bytemuck::cast_slice(&parents))?;
            executor.run(program, 0, &Step { position: longest as u32, ..Step::default() })?;
        }
        let first = [both.start];
        self.write_starts(executor, starts.iter().map(|start| (start.row, &first[..], start.seed, start.params)))
    }

    /// Writes the last token, the seen tokens, the position, the seed and the parameters of rows.
    fn write_starts<'a>(
        &self,
        executor: &mut dyn Executor,
        starts: impl Iterator<Item = (usize, &'a [u32], u32, SamplingParams)>,
    ) -> Result<()> {
        let words = seen_words(self.vocabulary);
        for (row, prompt, seed, params) in starts {
            let (last, before) = prompt.split_last().expect("a prompt of at least one token");
            let mut seen = vec![0u32; words];
            let known = before.iter().filter(|id| (**id as usize) < self.vocabulary);
            known.for_each(|id| seen[*id as usize / 32] |= 1 << (id % 32));
            executor.write_state_at(&self.name("seen"), row * words, bytemuck::cast_slice(&seen))?;
            let position = self.positions[row] as u32;
            for (what, value) in [("ids", *last), ("positions", position), ("seeds", seed)] {
                executor.write_state_at(&self.name(what), row, &[f32::from_bits(value)])?;
            }
            executor.write_state_at(&self.name("params"), row * PARAMS, &params.words())?;
        }
        Ok(())
    }

    /// Makes room where a row's cache is full: reads the last half of its text again, from position 0.
    pub fn slide(&mut self, executor: &mut dyn Executor, row: usize, text: &[u32]) -> Result<()> {
        let kept = self.network.config().context / 2;
        let (_, before) = text.split_last().expect("a text of more than a context");
        self.prefill(executor, row, &before[before.len() - kept..])?;
        self.positions[row] = kept;
        executor.write_state_at(&self.name("positions"), row, &[f32::from_bits(kept as u32)])
    }

    /// Queues one decode step, which feeds the token that the last one drew.
    pub fn step(&mut self, executor: &mut dyn Executor, choice: &Choice) -> Result<()> {
        let program = self.decode_program(executor, choice)?;
        executor.run(program, 0, &Step::default())?;
        self.positions.iter_mut().for_each(|position| *position += 1);
        if let Choice::Draw { .. } = choice {
            executor.post(&self.name("report"), 0)?;
        }
        Ok(())
    }

    /// Tokens of the steps whose reports have arrived, each with one per row; of all steps if `wait`.
    pub fn collect(&self, executor: &mut dyn Executor, wait: bool) -> Result<Vec<Vec<Token>>> {
        // A few steps may be under way, so that a GPU never waits for the host. A software device is the host.
        let wait = wait || executor.limits().adapter == AdapterKind::Software;
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
        let positions: Vec<u32> = self.positions.iter().map(|position| *position as u32).collect();
        executor.write_state(&self.name("ids"), bytemuck::cast_slice(ids))?;
        executor.write_state(&self.name("positions"), bytemuck::cast_slice(&positions))?;
        self.gather(executor, choice, parents)
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

    /// Makes a row's memory that of a text, which is read in segments whose lengths are powers of two, so that few programs are made.
    fn remember(&mut self, executor: &mut dyn Executor, row: usize, mut ids: &[u32]) -> Result<()> {
        let (network, rows) = (&self.network, self.rows);
        for (name, dims) in network.config().memories_of_texts(rows) {
            let zeros = vec![0.0; dims[1] * dims[2]];
            executor.write_state_at(&format!("{}{name}", network.prefix()), row * zeros.len(), &zeros)?;
        }
        while !ids.is_empty() {
            let length = 1 << ids.len().min(network.config().context).ilog2();
            let (segment, rest) = ids.split_at(length);
            let program =
                self.programs.get(executor, Kind::Prefill(length), || prefill_graph(network, rows, length))?;
            executor.write(program, "ids", bytemuck::cast_slice(segment))?;
            executor.run(program, 0, &Step { micro_batch: row as u32, ..Step::default() })?;
            ids = rest;
        }
        Ok(())
    }

    /// Fills a row of the cache from position 0 on.
    fn prefill(&mut self, executor: &mut dyn Executor, row: usize, ids: &[u32]) -> Result<()> {
        if self.recurs() {
            return self.remember(executor, row, ids);
        }
        if ids.is_empty() {
            return Ok(());
        }
        let window = window(ids.len(), self.network.config().context);
        let (network, rows) = (&self.network, self.rows);
        let program = self.programs.get(executor, Kind::Prefill(window), || prefill_graph(network, rows, window))?;
        // Positions after the last are causal: what stands there changes nothing before, and is overwritten when reached.
        let padded: Vec<u32> = ids.iter().copied().chain(std::iter::repeat(0)).take(window).collect();
        executor.write(program, "ids", bytemuck::cast_slice(&padded))?;
        executor.run(program, 0, &Step { row: row as u32, ..Step::default() })
    }

    /// Fills a row of the caches of an encoder's input.
    fn encode(&mut self, executor: &mut dyn Executor, row: usize, ids: &[u32]) -> Result<()> {
        let length = window(ids.len(), self.network.config().context);
        let (network, rows) = (&self.network, self.rows);
        let program = self.programs.get(executor, Kind::Source(length), || source_graph(network, rows, length))?;
        let padded: Vec<u32> = ids.iter().copied().chain(std::iter::repeat(0)).take(length).collect();
        executor.write(program, "ids", bytemuck::cast_slice(&padded))?;
        executor.write(program, "lengths", bytemuck::cast_slice(&[ids.len() as u32]))?;
        executor.run(program, 0, &Step { row: row as u32, ..Step::default() })
    }

    /// Copies the cache and the seen tokens of each row's parent to the row.
    fn gather(&mut self, executor: &mut dyn Executor, choice: &Choice, parents: &[u32]) -> Result<()> {
        // Up to the longest row that is copied: positions behind the end of a shorter row are overwritten when they are reached.
        let copied = parents.iter().zip(0..).filter(|(parent, row)| **parent != *row);
        let Some(filled) = copied.map(|(parent, _)| self.positions[*parent as usize]).max() else { return Ok(()) };
        self.decode_program(executor, choice)?;
        let (network, vocabulary, rows) = (&self.network, self.vocabulary, self.rows);
        let program = self.programs.get(executor, Kind::Reorder, || reorder_graph(network, vocabulary, rows))?;
        executor.write(program, "parents", bytemuck::cast_slice(parents))?;
        executor.run(program, 0, &Step { position: filled as u32, ..Step::default() })
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
