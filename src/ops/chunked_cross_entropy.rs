//! chunked_cross_entropy: the mean cross-entropy of hidden states and a head, `rows` rows at a time, without gradients: that of
//! evaluation. Minus the mean of `chunked_token_log_prob`, by its kernels.
//!
//!   x (..., C), W (V, C), both f32 or f16;  targets (rows) u32, `IGNORED` to leave a row out;  loss (1), in nats
//!
//! Cost: 2 rows V C FLOPs, and 6 per logit.

use super::case::{Case, Draw};
use super::chunked::{Sizes, check, logits_shape, sizes};
use super::chunked_token_log_prob::{Slots, forward, forward_cost, forward_reference, heads};
use super::token_log_prob::mean_kernel;
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::ops::IGNORED;
use std::sync::Arc;

/// The mean cross-entropy of the logits x W^T, without gradients.
#[derive(Clone, Debug)]
pub struct ChunkedCrossEntropy {
    /// Rows of a chunk, rounded up to a multiple of 64.
    pub rows: usize,
}

impl Op for ChunkedCrossEntropy {
    fn name(&self) -> &'static str {
        "chunked_cross_entropy"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        check(self.name(), inputs, 3);
        let (rows, Sizes { v, .. }) = sizes(inputs);
        let of_rows = Shape::f32(&[rows]);
        vec![Shape::f32(&[1]), logits_shape(inputs[0], self.rows, v), of_rows.clone(), of_rows, Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let mut dispatches = forward(shapes, self.rows, &Slots { log_probs: 2, lse: 3, logits: 1 }, limits);
        let mean = mean_kernel(shapes.inputs[0].rows(), false, limits);
        dispatches.push(mean.read_back(2).write(0).write(4).read(2));
        dispatches
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        heads(shapes, self.rows)
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let sum: f64 = forward_reference(shapes, self.rows, inputs).iter().map(|(log_prob, _)| -log_prob).sum();
        let count = as_ids(inputs[2]).iter().filter(|id| **id != IGNORED).count() as f64;
        outputs[0][0] = (sum / count.max(1.0)) as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        forward_cost(shapes, self.rows)
    }

    fn scratch(&self) -> usize {
        4
    }
}

const SUMS: &str = "logits are f32 sums of C products, off by 1e-6 where they are near 10, which is a part in a million of \
                    every exponential";

const HALF: &str =
    "a logit near 4 may round to either of two neighbours in f16, 4e-3 apart; the loss is the mean of 160 rows";

pub const CASES: &[Case] = &[
    Case {
        name: "chunked_cross_entropy of f16 5x40 rows of 36, 65 tokens",
        op: || Arc::new(ChunkedCrossEntropy { rows: 64 }),
        inputs: &[(&[5, 40, 36], Draw::Half(1.0)), (&[65, 36], Draw::Half(1.0)), (&[5, 40], Draw::Targets(65))],
        gradient: false,
        position: 0,
        atol: 1e-4,
        rtol: 1e-5,
        reason: HALF,
    },
    Case {
        name: "chunked_cross_entropy 5x40 rows of 36, 65 tokens, the last chunk shorter, ignored targets",
        op: || Arc::new(ChunkedCrossEntropy { rows: 64 }),
        inputs: &[(&[5, 40, 36], Draw::Uniform(1.0)), (&[65, 36], Draw::Uniform(1.0)), (&[5, 40], Draw::Targets(65))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 2e-6,
        reason: SUMS,
    },
];
