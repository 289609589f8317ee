//! The head and its loss, on top of any model's hidden states (Radford et al. 2018, section 3.2):
//!
//!   P(y | x) = softmax(h W), h the hidden state of the last token;  L3 = L2 + lambda L1
//!
//! L2 is the head's cross-entropy (or squared error of grades), L1 the language model's of the same sequences. Of a pair, both
//! orders' states are added; of choices, each has one score, and the softmax goes over the choices. W is `score.weight`, as
//! `transformers` calls it: (outputs, C), no bias.
//!
//! On an encoder (Devlin et al. 2019, section 3.2), h is the pooler's output of the first token, a pair is one sequence, and W is
//! `classifier.weight`, with a bias.

use super::batch::POSITIONS;
use crate::data::labelled::Task;
use crate::data::labelled::target::Target;
use crate::graph::{Dtype, Graph, Initial, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{CLASSIFIER, SCORE};
use crate::ops::add::Add;
use crate::ops::cast::cast;
use crate::ops::class_loss::ClassLoss;
use crate::ops::dropout::Dropout;
use crate::ops::gather_rows::GatherRows;
use crate::ops::matmul::Matmul;
use crate::ops::squared_error::SquaredError;

/// Tells the head's dropout from the model's.
pub(crate) const SALT: u32 = u32::MAX;

/// A task's head for batches of one size.
#[derive(Debug, Clone)]
pub struct Head {
    pub task: Task,
    pub target: Target,
    /// C, the model's width.
    pub width: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Of the hidden state, in training.
    pub dropout: f32,
    /// Where it is on an encoder.
    pub encoder: Option<OfEncoder>,
}

/// How an encoder takes texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfEncoder {
    /// Stands behind each text; tokens behind the first are of the second type.
    pub separator: u32,
    /// Whether the model has types.
    pub types: bool,
}

impl Head {
    /// Rows of W.
    pub fn outputs(&self) -> usize {
        match &self.target {
            Target::Labels(labels) => labels.len(),
            Target::Grade | Target::Choices(_) => 1,
        }
    }

    /// Sequences of an example.
    pub fn sequences(&self) -> usize {
        match (self.task, &self.target) {
            (Task::Similar, _) if self.has_orders() => 2,
            (_, Target::Choices(choices)) => *choices,
            _ => 1,
        }
    }

    /// Numbers that are predicted of an example: a score for each label or choice, or a grade.
    pub fn scores_per_example(&self) -> usize {
        self.outputs() * if let Target::Choices(choices) = self.target { choices } else { 1 }
    }

    /// Whether both orders of a pair are sequences: a decoder's last token has seen the second text as the end of the first.
    pub fn has_orders(&self) -> bool {
        self.task == Task::Similar && self.encoder.is_none()
    }

    /// Names and shapes of its parameters: the weight, and its bias where it has one.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        let weight = vec![self.outputs(), self.width];
        match self.encoder {
            None => vec![(SCORE, weight)],
            Some(_) => vec![(CLASSIFIER[0], weight), (CLASSIFIER[1], vec![self.outputs()])],
        }
    }

    /// Hidden states (examples * sequences, T, C) of sequences of one length. Reads the input `ids` and, on an encoder, `lengths` and
    /// `types`.
    pub fn hidden(&self, g: &mut Graph, model: &Model, length: usize) -> Tensor {
        let rows = self.batch * self.sequences();
        let ids = g.input("ids", Shape::u32(&[rows, length]));
        let Some(OfEncoder { types, .. }) = self.encoder else { return model.hidden(g, ids) };
        let types = types.then(|| g.input("types", Shape::u32(&[rows, length])));
        let lengths = g.input("lengths", Shape::u32(&[rows]));
        model.encoded(g, ids, types, Some(lengths))
    }

    /// Scores, `scores_per_example` in a row for each example, of hidden states `x` (examples * sequences, T, C), in f32. Reads
    /// the inputs `positions.0` and, of pairs, `positions.1`.
    pub fn scores(&self, g: &mut Graph, model: &Model, x: Tensor) -> Tensor {
        g.scope("score");
        let x = cast(g, x, Dtype::F32);
        let mut state = |order: usize| {
            let rows = if self.has_orders() { self.batch } else { self.batch * self.sequences() };
            let positions = g.input(POSITIONS[order], Shape::u32(&[rows]));
            g.apply(GatherRows, &[x, positions])
        };
        let mut h = state(0);
        if self.has_orders() {
            let other = state(1);
            h = g.apply(Add, &[h, other]);
        }
        if self.encoder.is_some() {
            h = model.config.family().pooled(model, g, h);
            g.scope("score");
        }
        if model.training && self.dropout > 0.0 {
            h = g.apply(Dropout { p: self.dropout, salt: SALT }, &[h]);
        }
        let parameters = self.parameters();
        let mut inputs = vec![h, model.task_head(g, parameters[0].0, &parameters[0].1)];
        inputs.extend(parameters.get(1).map(|(name, dims)| model.parameter(g, name, dims, Initial::Zeros)));
        g.apply(Matmul { tb: true, bias: inputs.len() > 2, ..Matmul::default() }, &inputs)
    }

    /// L2 of scores, in nats or in squared grades. Reads the inputs `classes` or `grades`, and `weights`.
    pub fn loss(&self, g: &mut Graph, scores: Tensor) -> Tensor {
        g.scope("score");
        let weights = g.input("weights", Shape::f32(&[self.batch]));
        match self.target {
            Target::Grade => {
                let grades = g.input("grades", Shape::f32(&[self.batch]));
                g.apply(SquaredError, &[scores, grades, weights])
            }
            _ => {
                let classes = g.input("classes", Shape::u32(&[self.batch]));
                g.apply(ClassLoss, &[scores, classes, weights])
            }
        }
    }
}
