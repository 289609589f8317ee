//! Supervised fine-tuning: the next token of answers, prompts being given ("Training language models to follow instructions with
//! human feedback", Ouyang et al. 2022, section 3.5).
//!
//!   loss = -sum of the log-probabilities of learned targets / their number, over all micro-batches of a step
//!
//! Several examples may share a row (packing): positions restart with each, and attention stays within it, so that an example has the
//! loss that it has alone. They are put together by best fit, the longest first, as in trl.
//!
//! So a step's loss and gradients are the same however its examples are split into micro-batches: each target weighs the same.

use std::collections::BTreeMap;

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
    training: Rows,
    validation: Rows,
    /// Filled again for every micro-batch.
    inputs: Inputs,
}

/// Examples, and those of each row.
pub struct Rows {
    examples: Vec<Encoded>,
    rows: Vec<Vec<usize>>,
    /// The length of rows that hold several examples.
    packed: Option<usize>,
}

impl Rows {
    /// A row for each example; or, with a length, as many in each row as fit it. Examples have at least one target that is learned.
    pub fn new(examples: Vec<Encoded>, packed: Option<usize>) -> Rows {
        let lengths = examples.iter().map(fed);
        let rows = match packed {
            None => (0..examples.len()).map(|example| vec![example]).collect(),
            Some(longest) => best_fit(&lengths.collect::<Vec<_>>(), longest),
        };
        Rows { examples, rows, packed }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn examples(&self) -> &[Encoded] {
        &self.examples
    }

    /// Tokens that a row feeds.
    fn fed(&self, row: usize) -> usize {
        self.rows[row].iter().map(|example| fed(&self.examples[*example])).sum()
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).map(|row| self.fed(row))
    }

    /// Targets of rows that are learned.
    fn targets(&self, rows: &[usize]) -> usize {
        rows.iter().flat_map(|row| &self.rows[*row]).map(|example| self.examples[*example].targets()).sum()
    }
}

/// Which lengths share a row of `longest`: from the longest to the shortest, each goes where the least room is left.
fn best_fit(lengths: &[usize], longest: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<Vec<usize>> = vec![];
    // Rows by the room that is left in them.
    let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in order {
        let found = room.range_mut(lengths[i]..).next().map(|(left, rows)| (*left, rows.pop()));
        let (left, row) = match found {
            Some((left, Some(row))) => {
                room.retain(|_, rows| !rows.is_empty());
                (left, row)
            }
            _ => {
                rows.push(vec![]);
                (longest, rows.len() - 1)
            }
        };
        rows[row].push(i);
        room.entry(left - lengths[i]).or_default().push(row);
    }
    rows
}

/// The inputs of a micro-batch.
#[derive(Default)]
struct Inputs {
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    starts: Vec<u32>,
}

impl Inputs {
    /// Sets the inputs to some rows; each target that is learned has this weight.
    fn set(&mut self, all: &Rows, rows: &[usize], length: usize, weight: f32, batch: &mut Batch) {
        let places = batch.size * length;
        for words in [&mut self.ids, &mut self.positions] {
            words.clear();
            words.resize(places, 0);
        }
        self.targets.clear();
        self.targets.resize(places, IGNORED);
        self.weights.clear();
        self.weights.resize(places, 0.0);
        self.starts.clear();
        // Places behind the examples of a row are documents of one token.
        self.starts.extend((0..places).map(|place| (place % length) as u32));
        for (n, row) in rows.iter().enumerate() {
            let mut start = 0;
            for example in &all.rows[*row] {
                let Encoded { ids, learned, .. } = &all.examples[*example];
                for at in 0..ids.len() - 1 {
                    let place = n * length + start + at;
                    self.ids[place] = ids[at];
                    (self.positions[place], self.starts[place]) = (at as u32, start as u32);
                    if learned[at + 1] {
                        (self.targets[place], self.weights[place]) = (ids[at + 1], weight);
                    }
                }
                start += ids.len() - 1;
            }
        }
        batch.set("ids", &self.ids);
        if all.packed.is_some() {
            batch.set("positions", &self.positions);
            batch.set("starts", &self.starts);
        }
        batch.set("targets", &self.targets);
        batch.set_f32("weights", &self.weights);
    }
}

/// Tokens that an example feeds: its last is a target only.
fn fed(example: &Encoded) -> usize {
    example.ids.len() - 1
}

impl Sft {
    /// Rows are no longer than the context; both sets are packed to one length, or neither is.
    pub fn new(config: Config, settings: &Settings, (training, validation): (Rows, Rows)) -> Sft {
        let buckets = match training.packed {
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

    /// Minus the weighted sum of the log-probabilities of a micro-batch's targets.
    fn weighted(&self, g: &mut Graph, model: &Model, shape: ShapeKey) -> Tensor {
        let dims = [shape.batch, shape.length];
        let ids = g.input("ids", Shape::u32(&dims));
        let x = match self.training.packed {
            None => model.hidden(g, ids),
            Some(_) => {
                let [positions, starts] = ["positions", "starts"].map(|name| g.input(name, Shape::u32(&dims)));
                model.hidden_of_documents(g, ids, positions, starts)
            }
        };
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
            all += self.training.targets(&group.examples);
            if other == number {
                own = group;
            }
        }
        // The step takes the mean over its micro-batches.
        let weight = -(self.accumulate as f32) / all as f32;
        self.inputs.set(&self.training, &own.examples, self.buckets.0[own.bucket], weight, batch);
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
        programs.executor.write_state(LOSS_SUM, &[0.0])?;
        for group in group(&buckets, &order, batch.size) {
            batch.clear();
            self.inputs.set(&self.validation, &group.examples, self.buckets.0[group.bucket], weight, &mut batch);
            batch.shape = group.bucket;
            programs.run(&batch)?;
        }
        let loss = f64::from(programs.executor.read_state(LOSS_SUM)?[0]);
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::best_fit;

    #[test]
    fn the_longest_come_first_and_each_goes_where_the_least_room_is_left() {
        let rows = |lengths: &[usize]| best_fit(lengths, 10);
        assert_eq!(rows(&[3, 7, 5, 5, 2, 1]), [vec![1, 0], vec![2, 3], vec![4, 5]]);
        // 2 goes to the row with 8, not to that with 6.
        assert_eq!(rows(&[6, 8, 2]), [vec![1, 2], vec![0]]);
        assert_eq!(rows(&[10, 10]), [vec![0], vec![1]]);
        assert!(rows(&[]).is_empty());
    }
}
