//! Supervised fine-tuning: the next token of answers, prompts being given ("Training language models to follow instructions with
//! human feedback", Ouyang et al. 2022, section 3.5).
//!
//!   loss = -sum of the log-probabilities of learned targets / their number, over all micro-batches of a step
//!
//! So a step's loss and gradients are the same however its examples are split into micro-batches: each target weighs the same.

use crate::data::buckets::{Buckets, Epochs, Group, group};
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::IGNORED;
use crate::ops::add::AddInPlace;
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

/// State: the sum of the losses of the validation batches so far.
const LOSS_SUM: &str = "evaluation.loss_sum";

/// The objective of supervised fine-tuning.
pub struct Sft {
    networks: [Network; 1],
    buckets: Buckets,
    epochs: Epochs,
    /// Micro-batches of a step.
    accumulate: u64,
    training: Vec<Encoded>,
    validation: Vec<Encoded>,
    /// Filled again for every micro-batch.
    inputs: Inputs,
}

/// The inputs of a micro-batch.
#[derive(Default)]
struct Inputs {
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Inputs {
    /// Sets the inputs to examples; each target that is learned has this weight.
    fn set(&mut self, examples: &[&Encoded], length: usize, weight: f32, batch: &mut Batch) {
        let positions = batch.size * length;
        self.ids.clear();
        self.ids.resize(positions, 0);
        self.targets.clear();
        self.targets.resize(positions, IGNORED);
        self.weights.clear();
        self.weights.resize(positions, 0.0);
        for (row, Encoded { ids, learned, .. }) in examples.iter().enumerate() {
            for at in 0..ids.len() - 1 {
                let place = row * length + at;
                self.ids[place] = ids[at];
                if learned[at + 1] {
                    (self.targets[place], self.weights[place]) = (ids[at + 1], weight);
                }
            }
        }
        batch.set("ids", &self.ids);
        batch.set("targets", &self.targets);
        batch.set_f32("weights", &self.weights);
    }
}

/// Tokens that an example feeds: its last is a target only.
fn fed(example: &Encoded) -> usize {
    example.ids.len() - 1
}

fn targets(examples: &[Encoded], members: &[usize]) -> usize {
    members.iter().map(|member| examples[*member].targets()).sum()
}

impl Sft {
    /// Examples have at least one target that is learned, and no more tokens than the context and one.
    pub fn new(config: Config, settings: &Settings, (training, validation): (Vec<Encoded>, Vec<Encoded>)) -> Sft {
        let lengths = training.iter().chain(&validation).map(fed);
        let buckets = Buckets::fit(lengths, super::labelled::BUCKETS, config.context);
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let epochs = Epochs::new(training.iter().map(|example| buckets.of(fed(example))).collect());
        let accumulate = settings.accumulate as u64;
        Sft { networks, buckets, epochs, accumulate, training, validation, inputs: Inputs::default() }
    }

    /// Minus the weighted sum of the log-probabilities of a micro-batch's targets.
    fn weighted(&self, g: &mut Graph, model: &Model, shape: ShapeKey) -> Tensor {
        let dims = [shape.batch, shape.length];
        let ids = g.input("ids", Shape::u32(&dims));
        let x = model.hidden(g, ids);
        let targets = g.input("targets", Shape::u32(&dims));
        let log_probs = model.token_log_probs(g, x, targets);
        g.scope("loss");
        let weights = g.input("weights", Shape::f32(&dims));
        g.apply(RowDot, &[log_probs, weights])
    }
}

impl Objective for Sft {
    fn name(&self) -> &str {
        "sft"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 1, length }).collect()
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        self.weighted(g, &models[0], shape).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = self.weighted(g, &models[0], shape);
        let sum = g.state(LOSS_SUM, &[1]);
        g.apply(AddInPlace, &[sum, loss]);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let first = number / self.accumulate * self.accumulate;
        let (mut own, mut all) = (Group { bucket: 0, examples: vec![] }, 0);
        for other in first..first + self.accumulate {
            let group = self.epochs.group(other, batch.size, batch.seed);
            all += targets(&self.training, &group.examples);
            if other == number {
                own = group;
            }
        }
        // The step takes the mean over its micro-batches.
        let weight = -(self.accumulate as f32) / all as f32;
        let members: Vec<&Encoded> = own.examples.iter().map(|&i| &self.training[i]).collect();
        self.inputs.set(&members, self.buckets.0[own.bucket], weight, batch);
        batch.tokens = members.iter().map(|example| fed(example)).sum();
        batch.shape = own.bucket;
        Ok(())
    }

    /// The mean over all targets of the validation examples that are learned, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let order: Vec<usize> = (0..self.validation.len()).collect();
        let buckets: Vec<usize> = self.validation.iter().map(|example| self.buckets.of(fed(example))).collect();
        let weight = -1.0 / targets(&self.validation, &order) as f32;
        let mut batch = Batch::new(programs.settings.batch, 0);
        programs.executor.write_state(LOSS_SUM, &[0.0])?;
        for group in group(&buckets, &order, batch.size) {
            batch.clear();
            let members: Vec<&Encoded> = group.examples.iter().map(|&i| &self.validation[i]).collect();
            self.inputs.set(&members, self.buckets.0[group.bucket], weight, &mut batch);
            batch.shape = group.bucket;
            programs.run(&batch)?;
        }
        let loss = f64::from(programs.executor.read_state(LOSS_SUM)?[0]);
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
    }
}
