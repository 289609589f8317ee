//! token_log_prob: the log-probability of a given token in each row of logits, with a gradient for each row: the base of
//! losses of heads, preferences and policies.
//!
//!   logits (..., V), f32 or f16;  targets (rows) u32, `IGNORED` for a row that is left out
//!   y (rows) = logits[target] - log-sum-exp(logits), in nats; 0 where ignored;  lse (rows): log-sum-exp, kept for backward
//!
//! Backward works in place over the logits: dlogits = (onehot(target) - softmax(logits)) * dy, 0 where ignored.
//! Cost: about 6 FLOPs per logit forward and 4 backward; the logits are read once, and once more and written in backward.
//!
//! `chunked_token_log_prob` makes the logits from hidden states, some rows at a time; `cross_entropy`, `chunked_cross_entropy`
//! and `class_loss` are means of this with a weight per row, by the same kernels.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::elementwise::{bytes, bytes_of};
use crate::graph::op::{Operand, as_ids};
use crate::graph::{AdapterKind, Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::ops::IGNORED;
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// The log-probability of a token in each row of logits (..., V).
#[derive(Debug)]
pub struct TokenLogProb;

/// Threads that share a row of the vocabulary.
pub(super) fn threads(v: usize, limits: &Limits) -> u32 {
    match limits.adapter {
        AdapterKind::Gpu if v > 32 => 256,
        AdapterKind::Gpu => 32,
        AdapterKind::Software => 8,
    }
}

/// Threads of a kernel that runs over all rows in one workgroup.
fn mean_threads(limits: &Limits) -> u32 {
    if limits.adapter == AdapterKind::Gpu { 256 } else { 8 }
}

/// Rows of logits, and the layout and types of their kernels' buffers.
pub(super) struct Rows {
    pub count: usize,
    pub v: usize,
    /// Type of the logits.
    pub dtype: Dtype,
    pub logits: Operand,
    /// The row of targets, log-probabilities and so on that the first row of logits belongs to: a multiple of 64.
    pub first: usize,
    pub targets: Operand,
    pub lse: Operand,
}

/// Where the gradient of each row comes from.
pub(super) enum RowGradient {
    /// It is given: (rows).
    Given(Operand),
    /// The loss is minus the mean of rows that count: their number and the loss's gradient.
    Mean(Operand, Operand),
    /// The loss is minus the mean by weights: the sum of the weights, the loss's gradient, the weights (rows).
    Weighted(Operand, Operand, Operand),
}

impl Rows {
    /// Kernels over pieces that fit a binding: `kernel` adds the bindings after the logits, for rows `first..`.
    fn pieces(&self, limits: &Limits, kernel: impl Fn(Dispatch, Range<u64>) -> Dispatch, of: Kernel) -> Vec<Dispatch> {
        let piece = |rows: Range<usize>| {
            let d = Dispatch::new(of.shader)
                .constant("ROWS", rows.len())
                .constant("V", self.v)
                .element("X_TYPE", self.dtype)
                .bind(self.logits, Some(bytes_of(self.dtype, &rows, self.v)), of.writes)
                .groups(limits.fold(rows.len()));
            let place = bytes(&(rows.start + self.first..rows.end + self.first), 1);
            let threads = threads(self.v, limits);
            // The kernel that writes gradients sums nothing up.
            let d = if of.writes { d.constant("THREADS", threads) } else { d.reducing(threads, limits) };
            kernel(d.bind(self.targets, Some(place.clone()), false), place)
        };
        limits.row_chunks(self.count, self.v as u64 * self.dtype.size_bytes()).into_iter().map(piece).collect()
    }

    /// Log-probabilities and log-sum-exps.
    pub fn forward(&self, log_probs: Operand, limits: &Limits) -> Vec<Dispatch> {
        let bind = |d: Dispatch, place: Range<u64>| {
            d.bind(log_probs, Some(place.clone()), true).bind(self.lse, Some(place), true)
        };
        self.pieces(limits, bind, Kernel { shader: shader!("token_log_prob"), writes: false })
    }

    /// Gradients in place over the logits.
    pub fn backward(&self, gradient: &RowGradient, limits: &Limits) -> Vec<Dispatch> {
        let bind = |d: Dispatch, place: Range<u64>| {
            let d = d.bind(self.lse, Some(place.clone()), false);
            match *gradient {
                RowGradient::Given(dy) => d.bind(dy, Some(place), false),
                RowGradient::Mean(counted, dloss) => {
                    let d = d.swap("row_gradient", "row_gradient_mean");
                    d.bind(counted, None, false).bind(dloss, None, false)
                }
                RowGradient::Weighted(total, dloss, weights) => {
                    let d = d.swap("row_gradient", "row_gradient_weighted");
                    d.bind(total, None, false).bind(dloss, None, false).bind(weights, Some(place), false)
                }
            }
        };
        self.pieces(limits, bind, Kernel { shader: shader!("token_log_prob_backward"), writes: true })
    }
}

/// A kernel over rows, and whether it writes the logits.
struct Kernel {
    shader: crate::graph::Shader,
    writes: bool,
}

/// Minus the mean of `rows` log-probabilities. Bindings to add: log-probabilities, loss, sum of weights, and the targets, which
/// hold the weights where `weighted`, and otherwise mark the rows that count.
pub(super) fn mean_kernel(rows: usize, weighted: bool, limits: &Limits) -> Dispatch {
    let d = Dispatch::new(shader!("token_log_prob_mean"));
    let d = d.constant("ROWS", rows).reducing(mean_threads(limits), limits);
    if weighted { d.swap("row_weight_counted", "row_weight_given") } else { d }
}

/// The log-probability of a target in a row, 0 where it is ignored, and the row's log-sum-exp: the twin of the forward kernel.
pub(super) fn log_prob(row: &[f32], target: u32) -> (f64, f64) {
    let lse = log_sum_exp(row.iter().copied());
    (if target == IGNORED { 0.0 } else { f64::from(row[target as usize]) - lse }, lse)
}

/// A row of logits becomes its gradient, `scale` being that of the log-probability: the twin of the backward kernel.
pub(super) fn backward_row(row: &mut [f32], target: u32, lse: f32, scale: f64) {
    for (i, x) in row.iter_mut().enumerate() {
        let hit = f64::from(u8::from(i == target as usize));
        let d = hit - (f64::from(*x) - f64::from(lse)).exp();
        *x = if target == IGNORED { 0.0 } else { (d * scale) as f32 };
    }
}

impl Op for TokenLogProb {
    fn name(&self) -> &'static str {
        "token_log_prob"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].rows();
        assert!(inputs.len() == 2 && inputs[1].len() == rows, "token_log_prob does not fit {inputs:?}");
        vec![Shape::f32(&[rows]); 2]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (logits, targets, lse) = (Operand::Input(0), Operand::Input(1), Operand::Output(1));
        let &Shape { dtype, .. } = shapes.inputs[0];
        let (count, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        Rows { count, v, dtype, logits, first: 0, targets, lse }.forward(Operand::Output(0), limits)
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let (logits, targets) = (g.nodes()[node].inputs[0], g.nodes()[node].inputs[1]);
        let lse = Tensor { node, slot: 1 };
        vec![needed[0].then(|| g.apply(TokenLogProbBackward, &[logits, targets, lse, dy])), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let rows = inputs[0].chunks(shapes.inputs[0].columns()).zip(as_ids(inputs[1]));
        for (r, (row, target)) in rows.enumerate() {
            let (log_prob, lse) = log_prob(row, *target);
            (outputs[0][r], outputs[1][r]) = (log_prob as f32, lse as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 6 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dlogits, in place over the logits.
#[derive(Debug)]
pub struct TokenLogProbBackward;

impl Op for TokenLogProbBackward {
    fn name(&self) -> &'static str {
        "token_log_prob_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (logits, targets, lse) = (Operand::Output(0), Operand::Input(1), Operand::Input(2));
        let &Shape { dtype, .. } = shapes.inputs[0];
        let (count, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let rows = Rows { count, v, dtype, logits, first: 0, targets, lse };
        rows.backward(&RowGradient::Given(Operand::Input(3)), limits)
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let rows = outputs[0].chunks_mut(shapes.inputs[0].columns()).zip(as_ids(inputs[1]));
        for ((row, target), (lse, dy)) in rows.zip(inputs[2].iter().zip(inputs[3])) {
            backward_row(row, *target, *lse, f64::from(*dy));
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
        name: "token_log_prob 1x2",
        op: || Arc::new(TokenLogProb),
        inputs: &[(&[1, 2], Draw::Uniform(3.0)), (&[1], Draw::Ids(2))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_log_prob 3x7x65 with ignored targets",
        op: || Arc::new(TokenLogProb),
        inputs: &[(&[3, 7, 65], Draw::Uniform(10.0)), (&[3, 7], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_log_prob of f16 3x7x65 with ignored targets",
        op: || Arc::new(TokenLogProb),
        inputs: &[(&[3, 7, 65], Draw::Half(10.0)), (&[3, 7], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: "gradients round to either of two neighbours in f16, which differ by up to 9.8e-4; below 6.1e-5 they may be 0",
    },
    Case {
        name: "token_log_prob of logits up to 1000",
        op: || Arc::new(TokenLogProb),
        inputs: &[(&[9, 300], Draw::Uniform(1000.0)), (&[9], Draw::Ids(300))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_log_prob, more than 65535 rows: 65601x3",
        op: || Arc::new(TokenLogProb),
        inputs: &[(&[65601, 3], Draw::Uniform(3.0)), (&[65601], Draw::Targets(3))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 1e-5,
        reason: LSE,
    },
];
