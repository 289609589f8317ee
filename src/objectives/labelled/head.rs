//! The head and its loss, on top of any model's hidden states (Radford et al. 2018, section 3.2):
//!
//!   P(y | x) = softmax(h W), h the hidden state of the last token;  L3 = L2 + lambda L1
//!
//! L2 is the head's cross-entropy (or squared error of grades), L1 the language model's of the same sequences. Of a pair, both
//! orders' states are added; of choices, each has one score, and the softmax goes over the choices. W is `score.weight`, as
//! `transformers` calls it: (outputs, C), no bias.

use super::batch::POSITIONS;
use crate::data::labelled::Task;
use crate::data::labelled::target::Target;
use crate::graph::{Dtype, Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::SCORE;
use crate::ops::add::Add;
use crate::ops::cast::cast;
use crate::ops::class_loss::ClassLoss;
use crate::ops::dropout::Dropout;
use crate::ops::gather_rows::GatherRows;
use crate::ops::matmul::Matmul;
use crate::ops::squared_error::SquaredError;

/// Tells the head's dropout from the model's.
const SALT: u32 = u32::MAX;

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
            (Task::Similar, _) => 2,
            (_, Target::Choices(choices)) => *choices,
            _ => 1,
        }
    }

    /// Numbers that are predicted of an example: a score for each label or choice, or a grade.
    pub fn scores_per_example(&self) -> usize {
        self.outputs() * if let Target::Choices(choices) = self.target { choices } else { 1 }
    }

    /// Shape of its parameter, [`SCORE`].
    pub fn dims(&self) -> Vec<usize> {
        vec![self.outputs(), self.width]
    }

    /// Scores, `scores_per_example` in a row for each example, of hidden states `x` (examples * sequences, T, C), in f32. Reads
    /// the inputs `positions.0` and, of pairs, `positions.1`.
    pub fn scores(&self, g: &mut Graph, model: &Model, x: Tensor) -> Tensor {
        g.scope("score");
        let x = cast(g, x, Dtype::F32);
        let mut state = |order: usize| {
            let rows = if self.task == Task::Similar { self.batch } else { self.batch * self.sequences() };
            let positions = g.input(POSITIONS[order], Shape::u32(&[rows]));
            g.apply(GatherRows, &[x, positions])
        };
        let mut h = state(0);
        if self.task == Task::Similar {
            let other = state(1);
            h = g.apply(Add, &[h, other]);
        }
        if model.training && self.dropout > 0.0 {
            h = g.apply(Dropout { p: self.dropout, salt: SALT }, &[h]);
        }
        let weight = model.task_head(g, SCORE, &self.dims());
        g.apply(Matmul { tb: true, ..Matmul::default() }, &[h, weight])
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
