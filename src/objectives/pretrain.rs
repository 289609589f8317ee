//! Pretraining: the next token of every position of windows of a text.

use std::sync::Arc;

use crate::data::batches::Batches;
use crate::data::corpus::Corpus;
use crate::error::Result;
use crate::graph::Graph;
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::add::AddInPlace;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};

/// State: the sum of the losses of the validation batches so far.
const LOSS_SUM: &str = "evaluation.loss_sum";

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
        let sum = g.state(LOSS_SUM, &[1]);
        g.apply(AddInPlace, &[sum, loss]);
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

    /// The mean over validation batches at even distances, the same every time, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let (context, count) = (self.context, programs.settings.eval_batches);
        let data = self.data();
        let mut batch = Batch::new(programs.settings.batch, programs.settings.seed);
        let mut batches = Batches::evenly(Arc::clone(&data.corpus.validation), batch.size, context, count)?;
        programs.executor.write_state(LOSS_SUM, &[0.0])?;
        for _ in 0..count {
            batch.clear();
            data.set(&mut batches, context, &mut batch)?;
            programs.run(&batch)?;
        }
        let loss = f64::from(programs.executor.read_state(LOSS_SUM)?[0]) / count as f64;
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
    }

    fn floor(&self) -> Option<(f64, &'static str)> {
        self.floor.map(|floor| (floor, "entropy of the corpus"))
    }
}
