//! The plans of generation on one device: prefill, reorder, decode.

use super::{Draw, Token};
use crate::error::Result;
use crate::executor::{Executor, Program, tuned_plan};
use crate::graph::{Family, Graph, Shape, Step};
use crate::models::config::Config;
use crate::models::model::Model;
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

pub(super) struct Decoder {
    config: Config,
    vocabulary: usize,
    rows: usize,
    /// Prefill programs by the length of their window, made when first needed.
    windows: Vec<(usize, Program)>,
    /// Decode programs by what they do at the end.
    decoders: Vec<(Choice, Program)>,
    reorder: Option<Program>,
    /// Position of the token that is fed next.
    position: usize,
}

/// Tokens that the shortest prefill window holds.
const SHORTEST_WINDOW: usize = 16;

impl Decoder {
    /// Allocates the parameters, unless they are in the executor's store.
    pub fn new(executor: &mut dyn Executor, config: &Config, vocabulary: usize, rows: usize) -> Result<Decoder> {
        assert!((1..=MOST_ROWS).contains(&rows), "from 1 to {MOST_ROWS} rows, not {rows}");
        let mut parameters = Graph::new();
        config.parameters().iter().for_each(|(name, dims)| _ = parameters.state(name, dims));
        load(executor, &parameters)?;
        let (windows, decoders) = (vec![], vec![]);
        Ok(Decoder { config: config.clone(), vocabulary, rows, windows, decoders, reorder: None, position: 0 })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Whether the cache has no room for the token that is fed next.
    pub fn is_full(&self) -> bool {
        self.position == self.config.context
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
        let kept = before.len().min(self.config.context - 1);
        self.prefill(executor, 0, &before[before.len() - kept..])?;
        self.position = kept;
        if self.rows > 1 && kept > 0 {
            self.gather(executor, choice, &vec![0; self.rows])?;
        }
        Ok(())
    }

    /// Makes room where the cache is full: reads the last half of each text again, from position 0.
    pub fn slide(&mut self, executor: &mut dyn Executor, texts: &[Vec<u32>]) -> Result<()> {
        let kept = self.config.context / 2;
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
        let steps = executor.collect(wait)?.into_iter();
        Ok(steps.map(|(_, report)| report.chunks(2).map(token).collect()).collect())
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

    pub fn free(self, executor: &mut dyn Executor) {
        let decoders = self.decoders.into_iter().map(|(_, program)| program);
        let windows = self.windows.into_iter().map(|(_, program)| program);
        decoders.chain(windows).chain(self.reorder).for_each(|program| executor.unload(program));
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
        let window = window.min(self.config.context);
        // Positions after the last are causal: what stands there changes nothing before, and is overwritten when reached.
        let padded: Vec<u32> = ids.iter().copied().chain(std::iter::repeat(0)).take(window).collect();
        executor.write(program, "ids", bytemuck::cast_slice(&padded))?;
        executor.run(program, 0, &Step { row: row as u32, ..Step::default() })
    }

    fn gather(&mut self, executor: &mut dyn Executor, choice: &Choice, parents: &[u32]) -> Result<()> {
        self.decode_program(executor, choice)?;
        let program = match self.reorder {
            Some(program) => program,
            None => {
                let mut g = Graph::new();
                let parents = g.input("parents", Shape::u32(&[self.rows]));
                for cache in self.model().caches(&mut g, self.rows) {
                    g.apply(CacheReorder { filled: true }, &[cache, parents]);
                }
                let seen = g.state_u32(&self.name("seen"), &[self.rows, seen_words(self.vocabulary)]);
                g.apply(CacheReorder { filled: false }, &[seen, parents]);
                *self.reorder.insert(load(executor, &g)?)
            }
        };
        executor.write(program, "parents", bytemuck::cast_slice(parents))?;
        executor.run(program, 0, &Step { position: self.position as u32, ..Step::default() })
    }

    fn prefill_program(&mut self, executor: &mut dyn Executor, window: usize) -> Result<Program> {
        let window = window.min(self.config.context);
        if let Some((_, program)) = self.windows.iter().find(|(w, _)| *w == window) {
            return Ok(*program);
        }
        let mut g = Graph::new();
        let ids = g.input("ids", Shape::u32(&[1, window]));
        self.model().prefill(&mut g, ids, self.rows);
        let program = load(executor, &g)?;
        self.windows.push((window, program));
        Ok(program)
    }

    fn decode_program(&mut self, executor: &mut dyn Executor, choice: &Choice) -> Result<Program> {
        if let Some((_, program)) = self.decoders.iter().find(|(known, _)| known == choice) {
            return Ok(*program);
        }
        let program = load(executor, &decode_graph(&self.config, self.vocabulary, self.rows, choice))?;
        self.decoders.push((choice.clone(), program));
        Ok(program)
    }

    fn model(&self) -> Model<'_> {
        Model { config: &self.config, training: false, mixed: false }
    }

    /// The name of a state of decoding; sizes depend on the rows.
    fn name(&self, what: &str) -> String {
        state_name(self.rows, what)
    }
}

fn state_name(rows: usize, what: &str) -> String {
    format!("decode.{rows}.{what}")
}

/// One decode step: the next token of each row.
pub(super) fn decode_graph(config: &Config, vocabulary: usize, rows: usize, choice: &Choice) -> Graph {
    let mut g = Graph::new();
    let ids = g.state_u32(&state_name(rows, "ids"), &[rows, 1]);
    let report = g.state(&state_name(rows, "report"), &[rows, 2]);
    let seen = g.state_u32(&state_name(rows, "seen"), &[rows, seen_words(vocabulary)]);
    let logits = Model { config, training: false, mixed: false }.decode(&mut g, ids);
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

fn load(executor: &mut dyn Executor, g: &Graph) -> Result<Program> {
    let plan = tuned_plan(executor, g)?;
    executor.load(g, plan)
}
