//! Pretraining: the next token of every position of windows of a text.

use std::sync::Arc;

use super::loss_sum::{add_loss, mean_loss};
use crate::data::batches::Batches;
use crate::data::corpus::Corpus;
use crate::error::Result;
use crate::graph::Graph;
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};

/// The objective of pretraining: mean cross-entropy, in nats per token.
pub struct Pretrain {
    networks: [Network; 1],
    /// Tokens of a window.
    context: usize,
    data: Option<Data>,
    floor: Option<f64>,
}

struct Data {
    corpus: Corpus,
    /// Made for the micro-batch's size when first asked.
    batches: Option<Batches>,
    ids: Vec<u32>,
    targets: Vec<u32>,
}

impl Pretrain {
    /// Windows of `context` tokens of a corpus. `floor` is the least loss that is possible, where it is known.
    pub fn new(config: Config, context: usize, corpus: Corpus, floor: Option<f64>) -> Pretrain {
        let data = Data { corpus, batches: None, ids: vec![], targets: vec![] };
        Pretrain { data: Some(data), floor, ..Pretrain::without_data(config, context) }
    }

    /// To plan a run, and to profile a step.
    pub fn without_data(config: Config, context: usize) -> Pretrain {
        Pretrain { networks: [Network::new(config)], context, data: None, floor: None }
    }

    fn data(&mut self) -> &mut Data {
        self.data.as_mut().expect("a run has data")
    }
}

impl Data {
    /// Sets the inputs to the next batch of `batches`.
    fn set(&mut self, batches: &mut Batches, context: usize, batch: &mut Batch) -> Result<()> {
        self.ids.resize(batch.size * context, 0);
        self.targets.resize(batch.size * context, 0);
        batches.next(&mut self.ids, &mut self.targets)?;
        batch.set("ids", &self.ids);
        batch.set("targets", &self.targets);
        Ok(())
    }
}

/// Epochs of each source of a mixture after so many micro-batches, for the log.
pub(super) fn epochs(batches: &Batches, micro_batches: u64) -> Vec<(String, f32)> {
    batches.epochs(micro_batches).into_iter().map(|(name, epochs)| (format!("epochs_{name}"), epochs as f32)).collect()
}

impl Objective for Pretrain {
    fn name(&self) -> &str {
        "pretraining"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_recurrence(&self) -> bool {
        true
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        vec![ShapeKey { batch, sequences: 1, length: self.context }]
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        models[0].loss(g, shape.batch, shape.length).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = models[0].loss(g, shape.batch, shape.length);
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        let tokens = self.data.as_ref().map_or(0, |data| data.corpus.training.len());
        tokens.div_ceil((batch * self.context) as u64).max(1)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let context = self.context;
        let data = self.data();
        let mut batches = match data.batches.take() {
            Some(batches) => batches,
            None => Batches::new(Arc::clone(&data.corpus.training), batch.size, context, batch.seed)?,
        };
        batches.seek(number);
        data.set(&mut batches, context, batch)?;
        data.batches = Some(batches);
        (batch.shape, batch.tokens) = (0, batch.size * context);
        Ok(())
    }

    /// Epochs of each source of a mixture.
    fn drawn(&self, micro_batches: u64, _: usize) -> Vec<(String, f32)> {
        let batches = self.data.as_ref().and_then(|data| data.batches.as_ref());
        batches.map_or(vec![], |batches| epochs(batches, micro_batches))
    }

    /// The mean over validation batches at even distances, the same every time, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let (context, count) = (self.context, programs.settings.eval_batches);
        let data = self.data();
        let validation = Arc::clone(&data.corpus.validation);
        let mut batches = Batches::evenly(validation, programs.settings.batch, context, count)?;
        mean_loss(programs, &mut |_, batch| data.set(&mut batches, context, batch))
    }

    fn floor(&self) -> Option<(f64, &'static str)> {
        self.floor.map(|floor| (floor, "entropy of the corpus"))
    }
}
