//! Text to text, as "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al. 2020), section 2.4,
//! has every task: an encoder reads an input, with a prefix that says what is asked, and a decoder writes the target.
//!
//!   loss = -sum over the targets' tokens of log p(token | input, tokens before it) / their number, over all micro-batches of a step
//!
//! Inputs are padded to one of a few lengths; the targets of each to the longest that may come with it.

pub mod folder;
pub mod predict;

use std::path::Path;

use self::folder::TextFile;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::objectives::encoded::{Data, Example, Examples, Row, groups, rows, set_inputs};
use crate::objectives::labelled;
use crate::ops::IGNORED;
use crate::ops::row_dot::RowDot;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::{Recipe, Settings};

use super::loss_sum::{add_loss, begin_sum, sum};

/// The name of the task.
pub const NAME: &str = "text";
/// The recipe of fine-tuning: the labelled tasks', with a rate that is usual for T5 and AdamW.
pub const RECIPE: Recipe = Recipe { lr: 3e-4, ..labelled::RECIPE };
/// Targets are padded to a multiple of this.
const STEP: usize = 8;

/// An input and its target, ready to be fed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its row in the file, counted from 1.
    pub line: usize,
    pub source: Vec<u32>,
    /// Tokens of the target, the end of the text among them; none where the row has no target.
    pub target: Vec<u32>,
    /// The target as it is written.
    pub text: Option<String>,
    /// Whether the input's end was cut.
    pub cut: bool,
}

impl Example for Item {
    fn count(&self) -> usize {
        1
    }

    fn row(&self, _n: usize) -> Row<'_> {
        Row { ids: &self.source, types: &[] }
    }
}

/// The objective of a text-to-text model: mean cross-entropy of targets, in nats per token.
pub struct Seq2Seq {
    networks: [Network; 1],
    task: TextFile,
    /// The first token of the decoder.
    start: u32,
    /// Tokens of targets, by the bucket of their inputs.
    targets: Vec<usize>,
    /// Micro-batches of a step.
    accumulate: u64,
    data: Data<Item>,
    outputs: Outputs,
}

/// The decoder's inputs of a micro-batch.
#[derive(Default)]
struct Outputs {
    outputs: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

impl Seq2Seq {
    /// Inputs with targets, to learn and to validate.
    pub fn new(config: Config, task: TextFile, settings: &Settings, both: (Vec<Item>, Vec<Item>)) -> Result<Seq2Seq> {
        let start = config.must_read_and_write("be fine-tuned for --task text")?.start;
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let data = Data::new(both, task.longest);
        let (outputs, accumulate) = (Outputs::default(), settings.accumulate as u64);
        // A bucket's remainder goes to the next longer one.
        let all = || data.training.items.iter().chain(&data.validation.items);
        let longest_within = |length: &usize| {
            let within = all().filter(|item| item.source.len() <= *length).map(|item| item.target.len());
            within.max().unwrap_or(1).next_multiple_of(STEP)
        };
        let targets = data.buckets.0.iter().map(longest_within).collect();
        Ok(Seq2Seq { networks, task, start, targets, accumulate, data, outputs })
    }

    /// Lengths that inputs are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.data.buckets.0
    }

    /// Minus the weighted sum of the log-probabilities of a micro-batch's targets. Reads `ids` (B, S) and `lengths` (B), `outputs`,
    /// `targets` and `weights` (B, T).
    fn weighted(&self, g: &mut Graph, model: &Model, shape: ShapeKey) -> Tensor {
        let ids = g.input("ids", Shape::u32(&[shape.batch, shape.length]));
        let lengths = g.input("lengths", Shape::u32(&[shape.batch]));
        let encoded = model.source(g, ids, Some(lengths));
        let dims = [shape.batch, self.targets[self.data.buckets.of(shape.length)]];
        let outputs = g.input("outputs", Shape::u32(&dims));
        let x = model.hidden_after(g, outputs, encoded, Some(lengths));
        let targets = g.input("targets", Shape::u32(&dims));
        let log_probs = model.token_log_probs(g, x, targets);
        g.scope("loss");
        let weights = g.input("weights", Shape::f32(&dims));
        g.apply(RowDot { rows: 1 }, &[log_probs, weights])
    }
}

/// Tokens of the targets of some rows.
fn tokens(examples: &Examples<Item>, rows: &[usize]) -> usize {
    rows.iter().map(|row| examples.of(*row).0.target.len()).sum()
}

impl Outputs {
    /// Sets the decoder's inputs to some rows of a batch, padded to `length`, whose targets weigh `weight` each.
    fn set(
        &mut self,
        (examples, rows): (&Examples<Item>, &[usize]),
        (start, length): (u32, usize),
        weight: f32,
        batch: &mut Batch,
    ) {
        let places = batch.size * length;
        for (words, padding) in [(&mut self.outputs, start), (&mut self.targets, IGNORED)] {
            words.clear();
            words.resize(places, padding);
        }
        self.weights.clear();
        self.weights.resize(places, 0.0);
        for (n, row) in rows.iter().enumerate() {
            let (target, first) = (&examples.of(*row).0.target, n * length);
            let end = first + target.len();
            self.targets[first..end].copy_from_slice(target);
            self.outputs[first + 1..end].copy_from_slice(&target[..target.len() - 1]);
            self.weights[first..end].fill(weight);
        }
        batch.set("outputs", &self.outputs);
        batch.set("targets", &self.targets);
        batch.set_f32("weights", &self.weights);
    }
}

impl Objective for Seq2Seq {
    fn name(&self) -> &str {
        NAME
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_encoder_decoders(&self) -> bool {
        true
    }

    fn takes_batch_warmup(&self) -> bool {
        false
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.data.shapes(batch)
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        self.weighted(g, &models[0], shape).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = self.weighted(g, &models[0], shape);
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.data.epoch(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let first = number / self.accumulate * self.accumulate;
        let mut all = 0;
        for other in first..first + self.accumulate {
            let members = self.data.members(other, batch);
            all += tokens(&self.data.training, &members);
        }
        let (rows, _) = self.data.fill(number, self.networks[0].config(), batch);
        // The step takes the mean over its micro-batches.
        let weight = -(self.accumulate as f32) / all as f32;
        let sizes = (self.start, self.targets[batch.shape]);
        self.outputs.set((&self.data.training, &rows), sizes, weight, batch);
        Ok(())
    }

    /// The mean over all tokens of the validation targets, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let examples = &self.data.validation;
        if examples.items.is_empty() {
            return Ok(None);
        }
        let rows = rows(&examples.items);
        let all: usize = examples.items.iter().map(|item| item.target.len()).sum();
        let mut batch = Batch::new(programs.settings.batch, 0);
        begin_sum(programs)?;
        for group in groups(&rows, &self.data.buckets, batch.size) {
            batch.clear();
            let members: Vec<Row> = group.examples.iter().map(|row| rows[*row]).collect();
            let sizes = (batch.size, self.data.buckets.0[group.bucket]);
            set_inputs(&members, self.networks[0].config(), sizes, &mut batch);
            let of = (examples, &group.examples[..]);
            self.outputs.set(of, (self.start, self.targets[group.bucket]), -1.0 / all as f32, &mut batch);
            batch.shape = group.bucket;
            programs.run(&batch)?;
        }
        let loss = sum(programs)?;
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![], text: String::new() }))
    }

    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let tokenizer = tokenizer.expect("texts have a tokenizer");
        folder::save(folder, self.networks[0].config(), &self.task, tokenizer, parameters)
    }
}
