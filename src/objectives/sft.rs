//! Supervised fine-tuning: the next token of answers, prompts being given ("Training language models to follow instructions with
//! human feedback", Ouyang et al. 2022, section 3.5).
//!
//!   loss = -sum of the log-probabilities of learned targets / their number, over all micro-batches of a step
//!
//! Several examples may share a row (packing): positions restart with each, and attention stays within it, so that an example has the
//! loss that it has alone. They are put together by best fit, the longest first, as in trl.
//!
//! So a step's loss and gradients are the same however its examples are split into micro-batches: each target weighs the same.

use super::loss_sum::{add_loss, begin_sum, sum};
pub use super::rows::Rows;
use super::rows::{Inputs, NAMES};
use crate::data::buckets::{Buckets, Epochs, Group, group};
use crate::error::Result;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::row_dot::RowDot;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::schedule::ScheduleKind;
use crate::train::settings::{Cadence, Duration, Recipe, Settings, Warmup};

/// trl's recipe for supervised fine-tuning.
pub const RECIPE: Recipe = Recipe {
    batch: 8,
    accumulate: 1,
    duration: Duration::Epochs(3),
    lr: 2e-5,
    min_lr_divisor: f32::INFINITY,
    warmup: Warmup::Steps(0),
    schedule: ScheduleKind::Linear,
    weight_decay: 0.0,
    beta2: 0.999,
    dropout: 0.0,
    every: Cadence::Epoch,
};

/// The objective of supervised fine-tuning.
pub struct Sft {
    networks: [Network; 1],
    buckets: Buckets,
    epochs: Epochs,
    /// Micro-batches of a step.
    accumulate: u64,
    training: Rows,
    validation: Rows,
    /// Filled again for every micro-batch.
    inputs: Inputs,
}

impl Sft {
    /// Rows are no longer than the context; both sets are packed to one length, or neither is.
    pub fn new(config: Config, settings: &Settings, (training, validation): (Rows, Rows)) -> Sft {
        let buckets = match training.packed() {
            Some(longest) => Buckets(vec![longest]),
            None => {
                Buckets::fit(training.lengths().chain(validation.lengths()), super::labelled::BUCKETS, config.context)
            }
        };
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let epochs = Epochs::new(training.lengths().map(|length| buckets.of(length)).collect());
        let accumulate = settings.accumulate as u64;
        Sft { networks, buckets, epochs, accumulate, training, validation, inputs: Inputs::default() }
    }
}

/// Minus the weighted sum of the log-probabilities of a micro-batch's targets, in rows of one example or packed ones.
pub(super) fn weighted(g: &mut Graph, model: &Model, shape: ShapeKey, is_packed: bool) -> Tensor {
    let dims = [shape.batch, shape.length];
    let ids = g.input(NAMES.ids, Shape::u32(&dims));
    let x = if is_packed {
        let [positions, starts] = ["positions", "starts"].map(|name| g.input(name, Shape::u32(&dims)));
        model.hidden_of_documents(g, ids, positions, starts)
    } else {
        model.hidden(g, ids)
    };
    let targets = g.input(NAMES.targets, Shape::u32(&dims));
    let log_probs = model.token_log_probs(g, x, targets);
    g.scope("loss");
    let weights = g.input(NAMES.weights, Shape::f32(&dims));
    g.apply(RowDot { rows: 1 }, &[log_probs, weights])
}

impl Objective for Sft {
    fn name(&self) -> &str {
        "sft"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_batch_warmup(&self) -> bool {
        false
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 1, length }).collect()
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        weighted(g, &models[0], shape, self.training.packed().is_some()).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = weighted(g, &models[0], shape, self.training.packed().is_some());
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let first = number / self.accumulate * self.accumulate;
        let (mut own, mut all) = (Group { bucket: 0, examples: vec![] }, 0);
        for other in first..first + self.accumulate {
            let group = self.epochs.group(other, batch.size, batch.seed);
            all += self.training.targets(&group.examples);
            if other == number {
                own = group;
            }
        }
        // The step takes the mean over its micro-batches.
        let weight = -(self.accumulate as f32) / all as f32;
        self.inputs.set(&self.training, &own.examples, (batch.size, self.buckets.0[own.bucket]), &|_| weight, batch);
        batch.tokens = own.examples.iter().map(|row| self.training.fed(*row)).sum();
        batch.shape = own.bucket;
        Ok(())
    }

    /// The mean over all targets of the validation examples that are learned, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let order: Vec<usize> = (0..self.validation.len()).collect();
        let buckets: Vec<usize> = self.validation.lengths().map(|length| self.buckets.of(length)).collect();
        let weight = -1.0 / self.validation.targets(&order) as f32;
        let mut batch = Batch::new(programs.settings.batch, 0);
        begin_sum(programs)?;
        for group in group(&buckets, &order, batch.size) {
            batch.clear();
            self.inputs.set(
                &self.validation,
                &group.examples,
                (batch.size, self.buckets.0[group.bucket]),
                &|_| weight,
                &mut batch,
            );
            batch.shape = group.bucket;
            programs.run(&batch)?;
        }
        let loss = sum(programs)?;
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
    }
}
