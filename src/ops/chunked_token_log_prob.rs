//! chunked_token_log_prob: the log-probability of a given token for each row of hidden states, with a gradient for each row, the
//! head going through `rows` rows at a time, so that logits of all rows never exist.
//!
//!   x (..., C), W (V, C), both f32 or f16;  targets (rows) u32, `IGNORED` for a row that is left out
//!   y (rows), in nats, 0 where ignored;  lse (rows): log-sum-exp of the logits x W^T, kept for backward
//!
//! For each chunk: logits = x W^T, then as `token_log_prob`. Backward makes the logits again, because their gradient is known only
//! when those of the rows are: dlogits in place, dW += dlogits^T x, dx = dlogits W, in place over x.
//! Logits take chunk * V words whatever the batch. Cost: 2 rows V C FLOPs forward and 6 backward, and 10 per logit.

mod cases;

pub use cases::CASES;

use super::chunked::{Product, Sizes, check, chunks, head, logits_shape, sizes};
use super::elementwise::bytes_of;
use super::token_log_prob::{RowGradient, Rows, backward_row, log_prob};
use crate::graph::op::{Operand, as_ids};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The log-probability of a token for each row of hidden states.
#[derive(Clone, Debug)]
pub struct ChunkedTokenLogProb {
    /// Rows of a chunk, rounded up to a multiple of 64.
    pub rows: usize,
}

/// Tokens whose part of dx is summed at once. A sum over a vocabulary of 50257 in order, most of it tiny and of one sign, is off by
/// up to 1e-4 of the largest dx in f32; in parts of this length by a tenth of that.
const SLAB: usize = 2048;

/// The slots in which an op keeps the outputs of its row kernels.
pub(super) struct Slots {
    pub log_probs: usize,
    pub lse: usize,
    pub logits: usize,
}

/// Kernels for the log-probabilities of all rows of x, input 0, by W, input 1, of targets, input 2.
pub(super) fn forward(shapes: &Shapes, rows: usize, slots: &Slots, limits: &Limits) -> Vec<Dispatch> {
    let (all, sizes) = sizes(&shapes.inputs);
    let one = |chunk: Range<usize>| {
        let mut dispatches = head(&chunk, sizes, slots.logits, limits);
        let rows = rows_of(&chunk, sizes, slots.logits, Operand::Output(slots.lse));
        dispatches.extend(rows.forward(Operand::Output(slots.log_probs), limits));
        dispatches
    };
    chunks(all, rows).flat_map(one).collect()
}

/// The logits of a chunk, with targets from input 2.
fn rows_of(chunk: &Range<usize>, Sizes { v, dtype, .. }: Sizes, logits: usize, lse: Operand) -> Rows {
    let (logits, targets) = (Operand::Output(logits), Operand::Input(2));
    Rows { count: chunk.len(), v, dtype, logits, first: chunk.start, targets, lse }
}

/// The head of each chunk, as [`Op::parts`] wants it.
pub(super) fn heads(shapes: &Shapes, rows: usize) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
    let (all, sizes) = sizes(&shapes.inputs);
    chunks(all, rows).map(|chunk| Product::head(chunk.len(), sizes).as_part()).collect()
}

/// Log-probability and log-sum-exp of each row: the twin of [`forward`].
pub(super) fn forward_reference(shapes: &Shapes, rows: usize, inputs: &[&[f32]]) -> Vec<(f64, f64)> {
    let ((all, sizes), targets) = (sizes(&shapes.inputs), as_ids(inputs[2]));
    let one = |chunk: Range<usize>| {
        let logits = logits(&chunk, sizes, inputs);
        let rows = logits.chunks(sizes.v).zip(&targets[chunk]);
        rows.map(|(row, target)| log_prob(row, *target)).collect::<Vec<_>>()
    };
    chunks(all, rows).flat_map(one).collect()
}

/// Logits of a chunk, rounded to their type.
fn logits(chunk: &Range<usize>, sizes: Sizes, inputs: &[&[f32]]) -> Vec<f32> {
    let x = &inputs[0][chunk.start * sizes.c..chunk.end * sizes.c];
    let unset = vec![f32::NAN; chunk.len() * sizes.v];
    let mut logits = Product::head(chunk.len(), sizes).reference(x, inputs[1], unset);
    logits.iter_mut().for_each(|x| *x = sizes.dtype.round(*x));
    logits
}

/// FLOPs and bytes of the forward pass.
pub(super) fn forward_cost(shapes: &Shapes, rows: usize) -> Cost {
    let (all, Sizes { c, v, dtype }) = sizes(&shapes.inputs);
    let (count, w) = (chunks(all, rows).count() as u64, shapes.inputs[1].size_bytes());
    let logits = (all * v) as u64 * dtype.size_bytes();
    let size_bytes = count * w + 2 * logits + shapes.inputs[0].size_bytes();
    Cost { flops: (all * v) as u64 * (2 * c as u64 + 6), size_bytes }
}

impl Op for ChunkedTokenLogProb {
    fn name(&self) -> &'static str {
        "chunked_token_log_prob"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        check(self.name(), inputs, 3);
        let (rows, Sizes { v, .. }) = sizes(inputs);
        vec![Shape::f32(&[rows]), Shape::f32(&[rows]), logits_shape(inputs[0], self.rows, v)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        forward(shapes, self.rows, &Slots { log_probs: 0, lse: 1, logits: 2 }, limits)
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        heads(shapes, self.rows)
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [x, w, targets] = g.nodes()[node].inputs[..] else { unreachable!("three inputs") };
        let backward = ChunkedTokenLogProbBackward { rows: self.rows, head_gradient: needed[1], accumulate: false };
        let dx = g.apply(backward, &[x, w, targets, Tensor { node, slot: 1 }, dy]);
        vec![Some(dx), needed[1].then_some(Tensor { node: dx.node, slot: 1 }), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (r, (log_prob, lse)) in forward_reference(shapes, self.rows, inputs).into_iter().enumerate() {
            (outputs[0][r], outputs[1][r]) = (log_prob as f32, lse as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        forward_cost(shapes, self.rows)
    }

    fn scratch(&self) -> usize {
        1
    }
}

/// dx, in place over x, and dW (V, C), f32, in slot 1, from x, W, targets, lse and dy.
#[derive(Clone, Debug)]
pub struct ChunkedTokenLogProbBackward {
    pub rows: usize,
    /// Whether dW is made: a head that is not trained needs none.
    pub head_gradient: bool,
    /// The last input (V, C) is added to, in place, in slot 1.
    pub accumulate: bool,
}

impl ChunkedTokenLogProbBackward {
    /// The slot of the logits.
    fn logits(&self) -> usize {
        1 + usize::from(self.head_gradient)
    }

    /// Kernels of one chunk.
    fn chunk(&self, rows: &Range<usize>, sizes: Sizes, limits: &Limits) -> Vec<Dispatch> {
        let mut dispatches = head(rows, sizes, self.logits(), limits);
        let gradient = RowGradient::Given(Operand::Input(4));
        dispatches.extend(rows_of(rows, sizes, self.logits(), Operand::Input(3)).backward(&gradient, limits));
        let logits = (Operand::Output(self.logits()), 0);
        let start = bytes_of(sizes.dtype, rows, sizes.c).start;
        if self.head_gradient {
            let dw = Product::dw(rows.len(), sizes, self.accumulate || rows.start > 0);
            dispatches.extend(dw.dispatch([logits, (Operand::Input(0), start), (Operand::Output(1), 0)], limits));
        }
        // Last, because it is written over x.
        let dx = Product::dx(rows.len(), sizes).in_slabs(SLAB);
        dispatches.extend(dx.dispatch([logits, (Operand::Input(1), 0), (Operand::Output(0), start)], limits));
        dispatches
    }
}

impl Op for ChunkedTokenLogProbBackward {
    fn name(&self) -> &'static str {
        "chunked_token_log_prob_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        check(self.name(), inputs, 5 + usize::from(self.accumulate));
        let (rows, Sizes { v, .. }) = sizes(inputs);
        let dw = inputs[1].with_dtype(Dtype::F32);
        let fits = inputs[3].len() == rows && inputs[4].len() == rows && inputs[5..].iter().all(|into| **into == dw);
        assert!(fits && (self.head_gradient || !self.accumulate), "{} does not fit {inputs:?}", self.name());
        let dw = self.head_gradient.then_some(dw);
        std::iter::once(inputs[0].clone()).chain(dw).chain([logits_shape(inputs[0], self.rows, v)]).collect()
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (all, sizes) = sizes(&shapes.inputs);
        chunks(all, self.rows).flat_map(|chunk| self.chunk(&chunk, sizes, limits)).collect()
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        let (all, sizes) = sizes(&shapes.inputs);
        let of = |chunk: Range<usize>| {
            let rows = chunk.len();
            let dw = Product::dw(rows, sizes, self.accumulate || chunk.start > 0);
            let dw = self.head_gradient.then(|| dw.as_part());
            [Product::head(rows, sizes).as_part(), Product::dx(rows, sizes).as_part()].into_iter().chain(dw)
        };
        chunks(all, self.rows).flat_map(of).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let ((all, sizes), targets) = (sizes(&shapes.inputs), as_ids(inputs[2]));
        for chunk in chunks(all, self.rows) {
            let mut logits = logits(&chunk, sizes, inputs);
            for (row, r) in logits.chunks_mut(sizes.v).zip(chunk.clone()) {
                backward_row(row, targets[r], inputs[3][r], f64::from(inputs[4][r]));
            }
            logits.iter_mut().for_each(|x| *x = sizes.dtype.round(*x));
            let at = chunk.start * sizes.c..chunk.end * sizes.c;
            let x = &inputs[0][at.clone()];
            if self.head_gradient {
                let dw = Product::dw(chunk.len(), sizes, self.accumulate || chunk.start > 0);
                outputs[1] = dw.reference(&logits, x, std::mem::take(&mut outputs[1]));
            }
            let dx = Product::dx(chunk.len(), sizes).reference(&logits, inputs[1], vec![f32::NAN; x.len()]);
            outputs[0][at].copy_from_slice(&dx);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (all, Sizes { c, v, dtype }) = sizes(&shapes.inputs);
        let (count, w) = (chunks(all, self.rows).count() as u64, shapes.inputs[1].size_bytes());
        // W twice and dW to and fro for each chunk; logits written, made gradients of, and read twice.
        let dw = if self.head_gradient { shapes.outputs[1].size_bytes() } else { 0 };
        let logits = (all * v) as u64 * dtype.size_bytes();
        let size_bytes = count * 2 * (w + dw) + 5 * logits + 3 * shapes.inputs[0].size_bytes();
        let products = if self.head_gradient { 6 } else { 4 };
        Cost { flops: (all * v) as u64 * (products * c as u64 + 4), size_bytes }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 0), (1, 5)] } else { vec![(0, 0)] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let can = slot == 1 && self.head_gradient && !self.accumulate;
        can.then(|| Arc::new(ChunkedTokenLogProbBackward { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        1
    }
}
