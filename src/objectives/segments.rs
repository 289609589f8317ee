//! Pretraining in segments: the next token of every position of texts that pass in order, one for each row of a batch, by a model with
//! a memory of the segments before (Dai et al. 2019, "Transformer-XL", section 3.2).
//!
//! The tokens are one circle, on which the rows of all micro-batches of a step start at even distances and go on by a segment with each
//! step. So micro-batch n is a function of n, and memories are states that checkpoints keep.

use std::sync::Arc;

use super::loss_sum::{add_loss, mean_loss};
use crate::data::corpus::Corpus;
use crate::data::tokens::Tokens;
use crate::error::Result;
use crate::fail;
use crate::graph::Graph;
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::Settings;

/// Its name in checkpoints.
pub const NAME: &str = "pretraining in segments";

/// The objective: mean cross-entropy, in nats per token.
pub struct Segments {
    networks: [Network; 1],
    /// Tokens of a segment.
    context: usize,
    batch: usize,
    /// Micro-batches of a step, each with streams of its own.
    accumulate: usize,
    corpus: Corpus,
    floor: Option<f64>,
    ids: Vec<u32>,
    targets: Vec<u32>,
    window: Vec<u32>,
}

impl Segments {
    /// Segments of `context` tokens of a corpus. `floor` is the least loss that is possible, where it is known.
    pub fn new(
        config: Config,
        context: usize,
        settings: &Settings,
        corpus: Corpus,
        floor: Option<f64>,
    ) -> Result<Segments> {
        for tokens in [&corpus.training, &corpus.validation] {
            let (name, length, needed) = (tokens.name(), tokens.len(), context as u64 + 1);
            if length < needed {
                fail!(
                    Input,
                    "{name} has {length} tokens, but a segment of {context} needs at least {needed}; give more data"
                );
            }
        }
        let (batch, accumulate) = (settings.batch, settings.accumulate);
        let networks = [Network::new(config)];
        let (ids, targets, window) = (vec![], vec![], vec![0; context + 1]);
        Ok(Segments { networks, context, batch, accumulate, corpus, floor, ids, targets, window })
    }

    fn config(&self) -> &Config {
        self.networks[0].config()
    }

    /// Sets the inputs to segment number `segment` of the rows `first` and those after it, of `rows` rows.
    fn set(&mut self, tokens: &Tokens, segment: u64, (first, rows): (usize, usize), batch: &mut Batch) -> Result<()> {
        let context = self.context;
        self.ids.clear();
        self.targets.clear();
        for row in first..first + batch.size {
            let start = start(tokens.len(), context, segment, (row, rows));
            tokens.read(start, &mut self.window)?;
            self.ids.extend_from_slice(&self.window[..context]);
            self.targets.extend_from_slice(&self.window[1..]);
        }
        batch.set("ids", &self.ids);
        batch.set("targets", &self.targets);
        Ok(())
    }
}

/// Where segment number `segment` of a row begins among tokens: segments that do not end with the tokens' last are left out.
fn start(tokens: u64, context: usize, segment: u64, (row, rows): (usize, usize)) -> u64 {
    let segments = (tokens - 1) / context as u64;
    let first = (u128::from(segments) * row as u128 / rows as u128) as u64;
    (first + segment) % segments * context as u64
}

impl Objective for Segments {
    fn name(&self) -> &str {
        NAME
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    /// Each micro-batch of a step has a memory of its own.
    fn takes_batch_warmup(&self) -> bool {
        false
    }

    fn takes_recurrence(&self) -> bool {
        true
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        vec![ShapeKey { batch, sequences: 1, length: self.context }]
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        models[0].segment_loss(g, (shape.batch, shape.length), self.accumulate).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = models[0].segment_loss(g, (shape.batch, shape.length), 1);
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.corpus.training.len().div_ceil((batch * self.context) as u64).max(1)
    }

    fn states(&self) -> Vec<(String, Vec<usize>)> {
        self.config().memories(self.accumulate * self.batch, true)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let (step, slot) = (number / self.accumulate as u64, number as usize % self.accumulate);
        let rows = (slot * self.batch, self.accumulate * self.batch);
        let tokens = Arc::clone(&self.corpus.training);
        self.set(&tokens, step, rows, batch)?;
        (batch.shape, batch.tokens) = (0, batch.size * self.context);
        Ok(())
    }

    /// The mean over the first segments of rows that start at even distances, from an empty memory, the same every time.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let tokens = Arc::clone(&self.corpus.validation);
        for (name, dims) in self.config().memories(programs.settings.batch, false) {
            programs.executor.write_state(&name, &vec![0.0; dims.iter().product()])?;
        }
        mean_loss(programs, &mut |segment, batch| self.set(&tokens, segment, (0, batch.size), batch))
    }

    fn floor(&self) -> Option<(f64, &'static str)> {
        self.floor.map(|floor| (floor, "entropy of the corpus"))
    }
}
