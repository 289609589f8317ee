//! classifier: cross_entropy of training: the loss, and in the same kernel the gradient of the logits, in place.
//!
//!   logits (..., V), f32 or f16;  targets (rows) u32, `data::IGNORED` to leave a row out;  seed (1): the gradient of the loss
//!   loss (1) = weight * mean over rows that count of (log-sum-exp(logits) - logits[target]), in nats
//!   dlogits (..., V) = weight * (softmax(logits) - onehot(target)) * seed / count, in place over the logits
//!
//! The rows that count are counted first, so that each row's gradient is whole when its loss is. A row is read twice, the
//! second time from a cache, and written once; nothing is left to do for backward. About 10 FLOPs per logit. The maximum
//! and the sum of exponentials are found together (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax").
//! All targets ignored: the loss is 0, and so is the gradient.
//!
//! Apart from `cross_entropy` and `token_log_prob` because the seed is known beforehand: those read the logits from memory once
//! more, in a backward kernel of their own.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::elementwise::{bytes, bytes_of};
use crate::graph::op::as_ids;
use crate::graph::{AdapterKind, Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::ops::IGNORED;
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// The mean cross-entropy of logits (..., V) against targets, times `weight`, with its gradient in slot 1. It is added to
/// other losses by `Add`, or stands alone: differentiation must come to it with the seed itself.
#[derive(Clone, Debug)]
pub struct Classifier {
    pub weight: f32,
}

/// Threads that share a row: a few words for each, as long as a workgroup holds them.
fn threads(v: usize, limits: &Limits) -> u32 {
    match limits.adapter {
        AdapterKind::Gpu => (v as u32 / 16).next_power_of_two().clamp(64, limits.invocations.min(1024)),
        AdapterKind::Software => 8,
    }
}

/// Threads of the kernels that run over rows in one workgroup.
fn sum_threads(limits: &Limits) -> u32 {
    if limits.adapter == AdapterKind::Gpu { 256 } else { 8 }
}

/// Counts `rows` targets. Bindings to add: targets, count.
pub(super) fn count_kernel(rows: usize, limits: &Limits) -> Dispatch {
    Dispatch::new(shader!("classifier_count")).constant("ROWS", rows).reducing(sum_threads(limits), limits)
}

/// Losses and gradients of `rows` rows. Bindings to add: logits, targets, count, seed, losses.
pub(super) fn rows_kernel(rows: usize, v: usize, weight: f32, limits: &Limits) -> Dispatch {
    let d = Dispatch::new(shader!("classifier"))
        .constant("ROWS", rows)
        .constant("V", v)
        .reducing(threads(v, limits), limits)
        .constant("WEIGHT", weight)
        .groups(limits.fold(rows));
    if v.is_multiple_of(4) { d } else { d.swap("logit_quads", "logit_quads_strided") }
}

/// The mean of `rows` losses. Bindings to add: losses, count, loss.
pub(super) fn mean_kernel(rows: usize, weight: f32, limits: &Limits) -> Dispatch {
    Dispatch::new(shader!("classifier_mean"))
        .constant("ROWS", rows)
        .reducing(sum_threads(limits), limits)
        .constant("WEIGHT", weight)
}

/// Fails where differentiation came to a classifier with something other than its seed.
#[track_caller]
pub(super) fn assert_seed(g: &Graph, node: usize, seed: Tensor, dy: Tensor) {
    assert!(
        dy == seed,
        "{} made its gradient from `{}`, but differentiation comes with `{}`: use cross_entropy",
        g.nodes()[node].label,
        g.nodes()[seed.node].label,
        g.nodes()[dy.node].label
    );
}

impl Op for Classifier {
    fn name(&self) -> &'static str {
        "classifier"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].rows();
        let fits = inputs.len() == 3 && inputs[1].len() == rows && inputs[2].len() == 1;
        assert!(fits, "classifier does not fit {inputs:?}");
        vec![Shape::f32(&[1]), inputs[0].clone(), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let dtype = shapes.inputs[0].dtype;
        let piece = |rows: Range<usize>| {
            rows_kernel(rows.len(), v, self.weight, limits)
                .element("X_TYPE", dtype)
                .write_range(1, bytes_of(dtype, &rows, v))
                .read_range(1, bytes(&rows, 1))
                .read_back(3)
                .read(2)
                .write_range(2, bytes(&rows, 1))
        };
        let mut dispatches = vec![count_kernel(rows, limits).read(1).write(3)];
        dispatches.extend(limits.row_chunks(rows, shapes.inputs[0].row_bytes()).into_iter().map(piece));
        dispatches.push(mean_kernel(rows, self.weight, limits).read_back(2).read_back(3).write(0));
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let seed = g.nodes()[node].inputs[2];
        assert_seed(g, node, seed, dy);
        vec![Some(Tensor { node, slot: 1 }), None, None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (v, targets) = (shapes.inputs[0].columns(), as_ids(inputs[1]));
        let (weight, count) = (f64::from(self.weight), targets.iter().filter(|id| **id != IGNORED).count() as f64);
        let scale = weight * f64::from(inputs[2][0]) / count.max(1.0);
        let losses: Vec<f64> =
            outputs[1].chunks_mut(v).zip(targets).map(|(row, target)| classify(row, *target, scale)).collect();
        outputs[0][0] = (weight * losses.iter().sum::<f64>() / count.max(1.0)) as f32;
        outputs[2] = losses.iter().map(|loss| *loss as f32).collect();
        outputs[3][0] = count as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let logits = shapes.inputs[0];
        Cost { flops: 10 * logits.len() as u64, size_bytes: 2 * logits.size_bytes() + shapes.inputs[1].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(1, 0)]
    }

    fn scratch(&self) -> usize {
        2
    }
}

/// The loss of a row, which becomes its gradient times `scale`.
pub(super) fn classify(row: &mut [f32], target: u32, scale: f64) -> f64 {
    if target == IGNORED {
        row.fill(0.0);
        return 0.0;
    }
    let lse = log_sum_exp(row.iter().copied());
    let loss = lse - f64::from(row[target as usize]);
    for (i, x) in row.iter_mut().enumerate() {
        let hit = f64::from(u8::from(i == target as usize));
        *x = (((f64::from(*x) - lse).exp() - hit) * scale) as f32;
    }
    loss
}

const EXP: &str = "exp and log are good to a few ulp; the sum over V rounds about sqrt(V) times, and divides every p";

const NEIGHBOURS: &str =
    "gradients round to either of two neighbours in f16, which differ by up to 9.8e-4; below 6.1e-5 they may be 0";

pub const CASES: &[Case] = &[
    Case {
        name: "classifier 1x2",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[(&[1, 2], Draw::Uniform(3.0)), (&[1], Draw::Ids(2)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: EXP,
    },
    Case {
        name: "classifier 3x7x65 with ignored targets, weighted",
        op: || Arc::new(Classifier { weight: 0.3 }),
        inputs: &[(&[3, 7, 65], Draw::Uniform(10.0)), (&[3, 7], Draw::Targets(65)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: EXP,
    },
    Case {
        name: "classifier 33x516, four logits at once",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[(&[33, 516], Draw::Uniform(10.0)), (&[33], Draw::Targets(516)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: EXP,
    },
    Case {
        name: "classifier of f16 3x7x65 with ignored targets, weighted",
        op: || Arc::new(Classifier { weight: 0.3 }),
        inputs: &[(&[3, 7, 65], Draw::Half(10.0)), (&[3, 7], Draw::Targets(65)), (&[1], Draw::Between(500.0, 2000.0))],
        gradient: false,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: NEIGHBOURS,
    },
    Case {
        name: "classifier of f16 33x516, four logits at once",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[(&[33, 516], Draw::Half(10.0)), (&[33], Draw::Targets(516)), (&[1], Draw::Between(500.0, 2000.0))],
        gradient: false,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: NEIGHBOURS,
    },
    Case {
        name: "classifier of logits up to 1000",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[(&[9, 300], Draw::Uniform(1000.0)), (&[9], Draw::Ids(300)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: EXP,
    },
    Case {
        name: "classifier, more than 65535 rows: 65601x3",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[(&[65601, 3], Draw::Uniform(3.0)), (&[65601], Draw::Targets(3)), (&[1], Draw::Between(1e4, 2e4))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 1e-5,
        reason: "as the others; the sum of 65601 losses rounds in 8201 steps for each of 8 lanes",
    },
    Case {
        name: "classifier, logits beyond one binding: 700x5025",
        op: || Arc::new(Classifier { weight: 1.0 }),
        inputs: &[
            (&[700, 5025], Draw::Uniform(5.0)),
            (&[700], Draw::Targets(5025)),
            (&[1], Draw::Between(300.0, 900.0)),
        ],
        gradient: false,
        position: 0,
        // Most gradients are near 1e-4.
        atol: 1e-9,
        rtol: 5e-6,
        reason: "a lane sums 157 exponentials four times side by side: sqrt(157) roundings of 6e-8 relative, sixfold",
    },
];
