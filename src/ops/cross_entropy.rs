//! cross_entropy: loss = mean over rows of (log-sum-exp(logits) - logits[target]), rows whose target is ignored left out.
//!
//!   logits (..., V), f32 or f16;  targets (rows) u32, `IGNORED` to leave a row out;  loss (1)
//!   log_probs, lse (rows): log-probability and log-sum-exp of each row, kept for backward;  count (1): rows that count
//!
//! Minus the mean of `token_log_prob`, by its kernels. Backward works in place over the logits:
//! dlogits = (softmax(logits) - onehot(target)) * dloss / count.
//! Cost: about 6 FLOPs per logit forward and 4 backward; the logits are read once, and once more and written in backward.
//! In nats. All targets ignored: the loss is 0, and so is the gradient.

use super::case::{Case, Draw};
use super::token_log_prob::{RowGradient, Rows, backward_row, log_prob, mean_kernel};
use crate::graph::op::{Operand, as_ids};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::ops::IGNORED;
use std::sync::Arc;

/// The mean cross-entropy of logits (..., V) against targets.
#[derive(Debug)]
pub struct CrossEntropy;

impl Op for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].rows();
        assert!(inputs.len() == 2 && inputs[1].len() == rows, "cross_entropy does not fit {inputs:?}");
        vec![Shape::f32(&[1]), Shape::f32(&[rows]), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (logits, targets, lse) = (Operand::Input(0), Operand::Input(1), Operand::Output(2));
        let &Shape { dtype, .. } = shapes.inputs[0];
        let (count, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let rows = Rows { count, v, dtype, logits, first: 0, targets, lse };
        let mut dispatches = rows.forward(Operand::Output(1), limits);
        dispatches.push(mean_kernel(count, false, limits).read_back(1).write(0).write(3).read(1));
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let (logits, targets) = (g.nodes()[node].inputs[0], g.nodes()[node].inputs[1]);
        let (lse, count) = (Tensor { node, slot: 2 }, Tensor { node, slot: 3 });
        vec![needed[0].then(|| g.apply(CrossEntropyBackward, &[logits, targets, lse, count, dy])), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let v = shapes.inputs[0].columns();
        let (mut sum, mut count) = (0.0f64, 0.0f64);
        for (r, (row, target)) in inputs[0].chunks(v).zip(as_ids(inputs[1])).enumerate() {
            let (log_prob, lse) = log_prob(row, *target);
            sum -= log_prob;
            count += f64::from(u8::from(*target != IGNORED));
            (outputs[1][r], outputs[2][r]) = (log_prob as f32, lse as f32);
        }
        outputs[0][0] = (sum / count.max(1.0)) as f32;
        outputs[3][0] = count as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 6 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// log(sum of exp(x)), without overflow: the twin of a function of several shaders.
pub(super) fn log_sum_exp(x: impl Iterator<Item = impl Into<f64>> + Clone) -> f64 {
    let x = x.map(Into::into);
    let most = x.clone().fold(f64::MIN, f64::max);
    most + x.map(|x| (x - most).exp()).sum::<f64>().ln()
}

/// dlogits, in place over the logits.
#[derive(Debug)]
pub struct CrossEntropyBackward;

impl Op for CrossEntropyBackward {
    fn name(&self) -> &'static str {
        "cross_entropy_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (logits, targets, lse) = (Operand::Output(0), Operand::Input(1), Operand::Input(2));
        let &Shape { dtype, .. } = shapes.inputs[0];
        let (count, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let rows = Rows { count, v, dtype, logits, first: 0, targets, lse };
        rows.backward(&RowGradient::Mean(Operand::Input(3), Operand::Input(4)), limits)
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let scale = -f64::from(inputs[4][0]) / f64::from(inputs[3][0]).max(1.0);
        let rows = outputs[0].chunks_mut(shapes.inputs[0].columns());
        for ((row, target), lse) in rows.zip(as_ids(inputs[1])).zip(inputs[2]) {
            backward_row(row, *target, *lse, scale);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let logits = shapes.inputs[0];
        Cost { flops: 4 * logits.len() as u64, size_bytes: 2 * logits.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const LSE: &str = "log and exp are good to a few ulp of numbers near 10; the sum over V rounds about sqrt(V) times";

pub const CASES: &[Case] = &[
    Case {
        name: "cross_entropy 1x2",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[1, 2], Draw::Uniform(3.0)), (&[1], Draw::Ids(2))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "cross_entropy 3x7x65 with ignored targets",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[3, 7, 65], Draw::Uniform(10.0)), (&[3, 7], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "cross_entropy of f16 3x7x65 with ignored targets",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[3, 7, 65], Draw::Half(10.0)), (&[3, 7], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: "gradients round to either of two neighbours in f16, which differ by up to 9.8e-4; below 6.1e-5 they may be 0",
    },
    Case {
        name: "cross_entropy of logits up to 1000",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[9, 300], Draw::Uniform(1000.0)), (&[9], Draw::Ids(300))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "cross_entropy, more than 65535 rows: 65601x3",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[65601, 3], Draw::Uniform(3.0)), (&[65601], Draw::Targets(3))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 1e-5,
        reason: LSE,
    },
    Case {
        name: "cross_entropy, logits beyond one binding: 700x5025",
        op: || Arc::new(CrossEntropy),
        inputs: &[(&[700, 5025], Draw::Uniform(5.0)), (&[700], Draw::Targets(5025))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 1.5e-5,
        reason: "8 lanes each sum 628 exponentials in order: sqrt(628) roundings of 6e-8 relative, tenfold",
    },
];
