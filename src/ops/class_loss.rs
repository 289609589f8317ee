//! class_loss: loss = sum_r w_r (log-sum-exp(scores_r) - scores_r[target_r]) / sum_r w_r: the cross-entropy of a few classes,
//! each row with a weight of its own (its class's, or 0 to leave it out), as PyTorch's with class weights.
//!
//!   scores, N rows of classes, in any shape;  targets (N) u32;  weights (N);  loss (1)
//!   log_probs, lse (N): log-probability and log-sum-exp of each row, kept for backward;  total (1): the weights' sum
//!
//! Minus the weighted mean of `token_log_prob`, by its kernels. Backward, in place over the scores: dscores = (softmax(scores) - onehot(target)) * w * dloss / total. All weights 0: the loss is 0.
//! In nats. Cost: about 5 FLOPs per score.

use super::case::{Case, Draw};
use super::token_log_prob::{RowGradient, Rows, backward_row, log_prob, mean_kernel};
use crate::graph::op::{Operand, as_ids};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use std::sync::Arc;

/// The weighted mean cross-entropy of a few classes.
#[derive(Debug)]
pub struct ClassLoss;

/// Lower bound of a sum of weights by which a loss is divided.
const LEAST_WEIGHT: f64 = 1e-20;

/// The rows of scores, whatever their shape; targets are input 1 of both ops.
fn rows(shapes: &Shapes, logits: Operand, lse: Operand) -> Rows {
    let (count, &Shape { dtype, .. }) = (shapes.inputs[1].len(), shapes.inputs[0]);
    Rows { count, v: shapes.inputs[0].len() / count, dtype, logits, first: 0, targets: Operand::Input(1), lse }
}

impl Op for ClassLoss {
    fn name(&self) -> &'static str {
        "class_loss"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[1].len();
        let fits = inputs.len() == 3 && inputs[2].len() == rows && inputs[0].len().is_multiple_of(rows);
        assert!(fits, "class_loss does not fit {inputs:?}");
        vec![Shape::f32(&[1]), Shape::f32(&[rows]), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let mut dispatches = rows(shapes, Operand::Input(0), Operand::Output(2)).forward(Operand::Output(1), limits);
        let mean = mean_kernel(shapes.inputs[1].len(), true, limits);
        dispatches.push(mean.read_back(1).write(0).write(3).read(2));
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [scores, targets, weights] = g.nodes()[node].inputs[..] else { unreachable!("three inputs") };
        let (lse, total) = (Tensor { node, slot: 2 }, Tensor { node, slot: 3 });
        let dscores = needed[0].then(|| g.apply(ClassLossBackward, &[scores, targets, weights, lse, total, dy]));
        vec![dscores, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let classes = inputs[0].len() / inputs[1].len();
        let (mut sum, mut total) = (0.0, 0.0);
        for (r, (row, target)) in inputs[0].chunks(classes).zip(as_ids(inputs[1])).enumerate() {
            let ((log_prob, lse), weight) = (log_prob(row, *target), f64::from(inputs[2][r]));
            (outputs[1][r], outputs[2][r]) = (log_prob as f32, lse as f32);
            sum -= weight * log_prob;
            total += weight;
        }
        outputs[0][0] = (sum / total.max(LEAST_WEIGHT)) as f32;
        outputs[3][0] = total as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 5 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dscores, in place over the scores.
#[derive(Debug)]
pub struct ClassLossBackward;

impl Op for ClassLossBackward {
    fn name(&self) -> &'static str {
        "class_loss_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (total, dloss, weights) = (Operand::Input(4), Operand::Input(5), Operand::Input(2));
        let rows = rows(shapes, Operand::Output(0), Operand::Input(3));
        rows.backward(&RowGradient::Weighted(total, dloss, weights), limits)
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let classes = inputs[0].len() / inputs[1].len();
        let scale = f64::from(inputs[5][0]) / f64::from(inputs[4][0]).max(LEAST_WEIGHT);
        let rows = outputs[0].chunks_mut(classes).zip(as_ids(inputs[1]));
        for (r, (row, target)) in rows.enumerate() {
            backward_row(row, *target, inputs[3][r], -f64::from(inputs[2][r]) * scale);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 5 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const LSE: &str = "log and exp are good to a few ulp of numbers near 10; the sum over rows rounds a few times";

pub const CASES: &[Case] = &[
    Case {
        name: "class_loss 1x2",
        op: || Arc::new(ClassLoss),
        inputs: &[(&[1, 2], Draw::Uniform(3.0)), (&[1], Draw::Ids(2)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "class_loss 67x5",
        op: || Arc::new(ClassLoss),
        inputs: &[(&[67, 5], Draw::Uniform(10.0)), (&[67], Draw::Ids(5)), (&[67], Draw::Between(0.0, 2.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "class_loss of scores up to 1000, a score per choice: 12x1 as 3x4",
        op: || Arc::new(ClassLoss),
        inputs: &[(&[12, 1], Draw::Uniform(1000.0)), (&[3], Draw::Ids(4)), (&[3], Draw::Between(0.5, 2.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
];
