//! chunked_classifier: head and classifier over `rows` rows of hidden states at a time, so that logits of all rows never
//! exist (Hsu et al. 2024, "Liger Kernel: Efficient Triton Kernels for LLM Training").
//!
//!   x (..., C), W (V, C), both f32 or f16;  targets (rows) u32;  seed (1)
//!   loss (1), times a weight, dx (..., C), in place over x, and dW (V, C), f32
//!
//! For each chunk: logits = x W^T, the loss and dlogits in place as `classifier` makes them, dW += dlogits^T x,
//! dx = dlogits W. All of it is the forward pass: nothing is left to do for backward, and nothing is computed twice.
//! So it is apart from `chunked_token_log_prob`, whose gradient comes later and needs the logits again: 8 rows V C FLOPs.
//! Logits take chunk * V words whatever the batch; dW is read and written once more for each chunk.
//! Cost: three matmuls of rows x V x C, 6 rows V C FLOPs, and 10 per logit.

mod cases;

pub use super::chunked_cross_entropy::ChunkedCrossEntropy;
pub use cases::CASES;

use super::chunked::{Product, Sizes, check, chunks, head, logits_shape, moved, sizes};
use super::classifier::{assert_seed, classify, count_kernel, mean_kernel, rows_kernel};
use super::elementwise::{bytes, bytes_of};
use crate::graph::op::{Operand, as_ids};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::ops::IGNORED;
use std::ops::Range;
use std::sync::Arc;

/// The mean cross-entropy of the logits x W^T, with the gradients of x in slot 1 and of W in slot 2.
#[derive(Clone, Debug)]
pub struct ChunkedClassifier {
    /// Multiplies the loss and its gradients.
    pub weight: f32,
    /// Rows of a chunk, rounded up to a multiple of 64.
    pub rows: usize,
    /// The last input (V, C) is added to, in place, in slot 2.
    pub accumulate: bool,
}

impl ChunkedClassifier {
    /// Kernels of one chunk.
    fn chunk(&self, rows: &Range<usize>, sizes: Sizes, limits: &Limits) -> Vec<Dispatch> {
        let Sizes { c, v, dtype } = sizes;
        let mut dispatches = head(rows, sizes, 3, limits);
        for piece in limits.row_chunks(rows.len(), v as u64 * dtype.size_bytes()) {
            let place = bytes(&moved(&piece, rows.start), 1);
            let d = rows_kernel(piece.len(), v, self.weight, limits).element("X_TYPE", dtype);
            let d = d.write_range(3, bytes_of(dtype, &piece, v));
            let d = d.read_range(2, place.clone()).read_back(5).read(3).write_range(4, place);
            dispatches.push(d);
        }
        let (logits, start) = ((Operand::Output(3), 0), bytes_of(dtype, rows, c).start);
        let dw = Product::dw(rows.len(), sizes, self.accumulate || rows.start > 0);
        dispatches.extend(dw.dispatch([logits, (Operand::Input(0), start), (Operand::Output(2), 0)], limits));
        // Last, because it is written over x.
        let dx = Product::dx(rows.len(), sizes);
        dispatches.extend(dx.dispatch([logits, (Operand::Input(1), 0), (Operand::Output(1), start)], limits));
        dispatches
    }
}

impl Op for ChunkedClassifier {
    fn name(&self) -> &'static str {
        "chunked_classifier"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        check(self.name(), inputs, 4 + usize::from(self.accumulate));
        let (rows, Sizes { v, .. }) = sizes(inputs);
        let (dx, dw) = (inputs[0].clone(), inputs[1].with_dtype(Dtype::F32));
        assert!(inputs[4..].iter().all(|into| **into == dw), "chunked_classifier adds {dw:?} into {inputs:?}");
        vec![Shape::f32(&[1]), dx, dw, logits_shape(inputs[0], self.rows, v), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, sizes) = sizes(&shapes.inputs);
        let mut dispatches = vec![count_kernel(rows, limits).read(2).write(5)];
        dispatches.extend(chunks(rows, self.rows).flat_map(|chunk| self.chunk(&chunk, sizes, limits)));
        dispatches.push(mean_kernel(rows, self.weight, limits).read_back(4).read_back(5).write(0));
        dispatches
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        let (rows, sizes) = sizes(&shapes.inputs);
        let of = |chunk: Range<usize>| {
            let accumulate = self.accumulate || chunk.start > 0;
            let (head, dx) = (Product::head(chunk.len(), sizes), Product::dx(chunk.len(), sizes));
            [head, Product::dw(chunk.len(), sizes, accumulate), dx].map(|product| product.as_part())
        };
        chunks(rows, self.rows).flat_map(of).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let seed = g.nodes()[node].inputs[3];
        assert_seed(g, node, seed, dy);
        vec![Some(Tensor { node, slot: 1 }), Some(Tensor { node, slot: 2 }), None, None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let ((rows, sizes), targets) = (sizes(&shapes.inputs), as_ids(inputs[2]));
        let Sizes { c, v, dtype } = sizes;
        let count = targets.iter().filter(|id| **id != IGNORED).count() as f64;
        let weight = f64::from(self.weight);
        let scale = weight * f64::from(inputs[3][0]) / count.max(1.0);
        for chunk in chunks(rows, self.rows) {
            let (at, rows) = (chunk.start * c..chunk.end * c, chunk.len());
            let x = &inputs[0][at.clone()];
            let mut logits = Product::head(rows, sizes).reference(x, inputs[1], vec![f32::NAN; rows * v]);
            let rounded = |values: &mut [f32]| values.iter_mut().for_each(|x| *x = dtype.round(*x));
            rounded(&mut logits);
            let losses = &mut outputs[4][chunk.clone()];
            for ((row, target), loss) in logits.chunks_mut(v).zip(&targets[chunk.clone()]).zip(losses) {
                *loss = classify(row, *target, scale) as f32;
            }
            rounded(&mut logits);
            let dw = Product::dw(rows, sizes, self.accumulate || chunk.start > 0);
            outputs[2] = dw.reference(&logits, x, std::mem::take(&mut outputs[2]));
            let dx = Product::dx(rows, sizes).reference(&logits, inputs[1], vec![f32::NAN; x.len()]);
            outputs[1][at].copy_from_slice(&dx);
        }
        let sum: f64 = outputs[4].iter().map(|loss| f64::from(*loss)).sum();
        outputs[0][0] = (weight * sum / count.max(1.0)) as f32;
        outputs[5][0] = count as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (rows, Sizes { c, v, .. }) = sizes(&shapes.inputs);
        let (count, w) = (chunks(rows, self.rows).count() as u64, shapes.inputs[1].size_bytes());
        // W twice and dW to and fro for each chunk; logits written, made gradients of, and read twice.
        let (dw, logits) = (shapes.outputs[2].size_bytes(), rows as u64 * shapes.outputs[3].row_bytes());
        let size_bytes = count * 2 * (w + dw) + 5 * logits + 3 * shapes.inputs[0].size_bytes();
        Cost { flops: (rows * v) as u64 * (6 * c as u64 + 10), size_bytes }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(1, 0), (2, 4)] } else { vec![(1, 0)] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let can = slot == 2 && !self.accumulate;
        can.then(|| Arc::new(ChunkedClassifier { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        3
    }
}
