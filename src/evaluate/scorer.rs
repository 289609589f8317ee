//! Batches of token sequences through a model: log-probabilities of the last tokens of each, given those before them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::error::Result;
use crate::executor::programs::Programs;
use crate::executor::{Executor, Program};
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Shape, Step};
use crate::models::network::Network;
use crate::ops::IGNORED;
use crate::ops::gather_rows::GatherRows;
use crate::ops::token_scores::TokenScores;

/// Tokens, of which the last `scored` are predicted, each from those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// At most one more than the model's context: the last is predicted only.
    pub ids: Vec<u32>,
    /// At least one, and fewer than there are ids.
    pub scored: usize,
}

/// A model's answer to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// Sum over the scored tokens, in nats.
    pub log_probability: f64,
    /// Whether each scored token is the most likely one.
    pub greedy: bool,
}

/// A model on a device.
///
/// Sequences are padded on the right, which no position before sees, up to a few lengths; only positions that are
/// scored reach the output projection.
pub struct Scorer<'a> {
    executor: &'a mut dyn Executor,
    network: &'a Network,
    /// Written to the store at first use; none if it holds them.
    weights: Option<&'a Weights>,
    /// Sequences at once.
    batch: usize,
    /// By length and number of scored positions.
    programs: Programs<(usize, usize)>,
}

impl<'a> Scorer<'a> {
    /// A scorer that takes `batch` sequences at once, at least one.
    pub fn new(executor: &'a mut dyn Executor, network: &'a Network, weights: &'a Weights, batch: usize) -> Self {
        Scorer { executor, network, weights: Some(weights), batch, programs: Programs::default() }
    }

    /// As [`Scorer::new`], of the parameters that the executor's store holds, such as those of a model in training.
    pub fn of_store(executor: &'a mut dyn Executor, network: &'a Network, batch: usize) -> Self {
        Scorer { executor, network, weights: None, batch, programs: Programs::default() }
    }

    /// The longest sequence that the model can see.
    pub fn context(&self) -> usize {
        self.network.config().context
    }

    /// Sequences at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Scores in the order of the requests; `done` is told how many more are done.
    ///
    /// # Panics
    ///
    /// If a request is longer than the model's context, or its last tokens do not follow on any.
    pub fn score(&mut self, requests: &[Request], done: &mut dyn FnMut(usize)) -> Result<Vec<Score>> {
        self.network.config().must_decode("say how likely a text is")?;
        let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, Request { ids, scored }) in requests.iter().enumerate() {
            let fits = (1..ids.len()).contains(scored) && ids.len() <= self.network.config().context + 1;
            assert!(fits, "{scored} of {} tokens cannot be scored", ids.len());
            classes.entry(self.padded(ids.len() - 1)).or_default().push(at);
        }
        let mut scores = vec![Score::default(); requests.len()];
        for (time, mut members) in classes {
            members.sort_by_key(|at| Reverse(requests[*at].scored));
            let scored = |chunk: &[usize]| chunk.iter().map(|at| requests[*at].scored).sum::<usize>();
            let most = members.chunks(self.batch).map(scored).max().unwrap_or(1);
            let rows = most.next_power_of_two();
            let program = self.program(time, rows)?;
            for chunk in members.chunks(self.batch) {
                let batch: Vec<&Request> = chunk.iter().map(|at| &requests[*at]).collect();
                let found = self.run(program, (time, rows), &batch)?;
                chunk.iter().zip(found).for_each(|(at, score)| scores[*at] = score);
                done(chunk.len());
            }
        }
        Ok(scores)
    }

    /// The length that sequences of so many inputs are padded to.
    fn padded(&self, inputs: usize) -> usize {
        inputs.next_power_of_two().max(16).min(self.network.config().context)
    }

    fn program(&mut self, time: usize, rows: usize) -> Result<Program> {
        let (is_first, shape) = (self.programs.is_empty(), (self.batch, time));
        let program = self.programs.get(self.executor, (time, rows), || graph(self.network, shape, rows))?;
        if is_first && let Some(weights) = self.weights {
            upload(self.executor, self.network, weights)?;
        }
        Ok(program)
    }

    fn run(&mut self, program: Program, (time, rows): (usize, usize), batch: &[&Request]) -> Result<Vec<Score>> {
        let mut ids = vec![0; self.batch * time];
        let (mut positions, mut targets) = (vec![], vec![]);
        for (row, Request { ids: all, scored }) in batch.iter().enumerate() {
            let inputs = all.len() - 1;
            ids[row * time..][..inputs].copy_from_slice(&all[..inputs]);
            positions.extend((inputs - scored..inputs).map(|position| (row * time + position) as u32));
            targets.extend_from_slice(&all[all.len() - scored..]);
        }
        positions.resize(rows, IGNORED);
        targets.resize(rows, IGNORED);
        self.executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
        self.executor.write(program, "positions", bytemuck::cast_slice(&positions))?;
        self.executor.write(program, "targets", bytemuck::cast_slice(&targets))?;
        self.executor.run(program, 0, &Step::default())?;
        let values = self.executor.read(program, "scores")?;
        let mut pairs = values.chunks_exact(2);
        let scores = batch.iter().map(|request| {
            let pairs = pairs.by_ref().take(request.scored);
            pairs.fold(Score { log_probability: 0.0, greedy: true }, |sum, pair| Score {
                log_probability: sum.log_probability + f64::from(pair[0]),
                greedy: sum.greedy && pair[1] == 0.0,
            })
        });
        Ok(scores.collect())
    }
}

impl Drop for Scorer<'_> {
    /// Frees the programs' buffers and pipelines; the device stays usable.
    fn drop(&mut self) {
        self.programs.unload(self.executor);
    }
}

/// The graph that scores `rows` positions of sequences of tokens (B, T): output `scores` (rows, 2), of inputs `ids`
/// (B, T), `positions` (rows), counted over all sequences, and `targets` (rows).
pub fn graph(network: &Network, (batch, time): (usize, usize), rows: usize) -> Graph {
    let mut g = Graph::new();
    let model = network.inference();
    let ids = g.input("ids", Shape::u32(&[batch, time]));
    let positions = g.input("positions", Shape::u32(&[rows]));
    let targets = g.input("targets", Shape::u32(&[rows]));
    let x = model.hidden(&mut g, ids); // (B, T, C)
    g.scope("scored positions");
    let x = g.apply(GatherRows, &[x, positions]); // (rows, C)
    let logits = model.head(&mut g, x); // (rows, V)
    g.scope("scores");
    let scores = g.apply(TokenScores, &[logits, targets]);
    g.output("scores", scores);
    g
}
