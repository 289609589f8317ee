//! chunked_classifier: head and classifier over `rows` rows of hidden states at a time, so that logits of all rows never
//! exist (Liger kernel, Hsu et al. 2024, "FusedLinearCrossEntropy"; Wijmans et al. 2024, "Cut your losses").
//!
//!   x (..., C), W (V, C), both f32 or f16;  targets (rows) u32;  seed (1)
//!   loss (1), dx (..., C), in place over x, and dW (V, C), f32
//!
//! For each chunk: logits = x W^T, the loss and dlogits in place as `classifier` makes them, dW += dlogits^T x,
//! dx = dlogits W. All of it is the forward pass: nothing is left to do for backward, and nothing is computed twice.
//! Logits take chunk * V words whatever the batch; dW is read and written once more for each chunk.
//! Cost: three matmuls of rows x V x C, 6 rows V C FLOPs, and 10 per logit.

mod cases;

pub use cases::CASES;

use super::classifier::{assert_seed, classify, count_kernel, mean_kernel, rows_kernel};
use super::cross_entropy::{self, log_sum_exp};
use super::elementwise::{bytes, bytes_of};
use super::matmul::Matmul;
use crate::data::IGNORED;
use crate::graph::op::{Operand, as_ids};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Chunks are of a multiple of so many rows: then each starts where a binding may, on every device.
const ALIGNED_ROWS: usize = 64;

/// `rows` rows in chunks of `chunk`, rounded up.
fn chunks(rows: usize, chunk: usize) -> impl Iterator<Item = Range<usize>> {
    let size = chunk.next_multiple_of(ALIGNED_ROWS);
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// Logits of the largest chunk.
fn logits_shape(x: &Shape, chunk: usize, v: usize) -> Shape {
    Shape::f32(&[chunk.next_multiple_of(ALIGNED_ROWS).min(x.rows()), v]).with_dtype(x.dtype)
}

/// Rows, C and V of x and W.
fn sizes(inputs: &[&Shape]) -> (usize, usize, usize) {
    (inputs[0].rows(), inputs[0].columns(), inputs[1].rows())
}

#[track_caller]
fn check(name: &str, inputs: &[&Shape], count: usize) {
    let fits =
        inputs.len() == count && inputs[1].columns() == inputs[0].columns() && inputs[2].len() == inputs[0].rows();
    // So that chunks of x start aligned.
    let even = inputs[0].dtype == Dtype::F32 || inputs[0].columns().is_multiple_of(2);
    assert!(fits && even && inputs[0].dtype == inputs[1].dtype, "{name} does not fit {inputs:?}");
}

/// A part of an op's operand from a row on, in the place of one of a matmul's.
type Part = (Operand, u64);

/// The kernels of `product` over parts of another op's operands: its A, B and C.
fn product(product: Matmul, shapes: [&Shape; 3], parts: [Part; 3], limits: &Limits) -> Vec<Dispatch> {
    let inputs: Vec<&Shape> = if product.accumulate { shapes.to_vec() } else { shapes[..2].to_vec() };
    let mut dispatches = product.dispatch(&Shapes { inputs, outputs: vec![shapes[2]] }, limits);
    for binding in dispatches.iter_mut().flat_map(|d| &mut d.bindings) {
        let which = match binding.operand {
            Operand::Input(i) => i,
            Operand::Output(_) => 2,
            Operand::Step => continue,
        };
        let (operand, start) = parts[which];
        let range = binding.range.clone().unwrap_or(0..shapes[which].size_bytes());
        (binding.operand, binding.range) = (operand, Some(range.start + start..range.end + start));
    }
    dispatches
}

/// The reference of a matmul of A and B, each with its dimensions, over what C is.
fn multiplied(op: &Matmul, a: (&[f32], [usize; 2]), b: (&[f32], [usize; 2]), c: Vec<f32>) -> Vec<f32> {
    let mut outputs = [c];
    let shapes = [Shape::f32(&a.1), Shape::f32(&b.1)];
    let shapes = Shapes { inputs: shapes.iter().collect(), outputs: vec![] };
    op.reference(&shapes, &[a.0, b.0], &mut outputs, &Step::default());
    let [c] = outputs;
    c
}

/// logits = x W^T of one chunk, the logits being output `slot`.
fn head(rows: &Range<usize>, inputs: &[&Shape], slot: usize, limits: &Limits) -> Vec<Dispatch> {
    let ((_, c, v), dtype) = (sizes(inputs), inputs[0].dtype);
    let [x, w, logits] = [[rows.len(), c], [v, c], [rows.len(), v]].map(|dims| Shape::f32(&dims).with_dtype(dtype));
    let x_part = (Operand::Input(0), bytes_of(dtype, rows, c).start);
    let parts = [x_part, (Operand::Input(1), 0), (Operand::Output(slot), 0)];
    product(Matmul { tb: true, output: dtype, ..Matmul::default() }, [&x, &w, &logits], parts, limits)
}

/// `rows` from their first row on.
fn moved(rows: &Range<usize>, by: usize) -> Range<usize> {
    rows.start + by..rows.end + by
}

/// The mean cross-entropy of the logits x W^T, with the gradients of x in slot 1 and of W in slot 2.
#[derive(Clone, Debug)]
pub struct ChunkedClassifier {
    /// Rows of a chunk, rounded up to a multiple of 64.
    pub rows: usize,
    /// The last input (V, C) is added to, in place, in slot 2.
    pub accumulate: bool,
}

impl ChunkedClassifier {
    /// Kernels of one chunk.
    fn chunk(&self, rows: &Range<usize>, inputs: &[&Shape], limits: &Limits) -> Vec<Dispatch> {
        let ((_, c, v), dtype) = (sizes(inputs), inputs[0].dtype);
        let [x, w, logits] = [[rows.len(), c], [v, c], [rows.len(), v]].map(|dims| Shape::f32(&dims).with_dtype(dtype));
        let mut dispatches = head(rows, inputs, 3, limits);
        for piece in limits.row_chunks(rows.len(), logits.row_bytes()) {
            let place = bytes(&moved(&piece, rows.start), 1);
            let d = rows_kernel(piece.len(), v, 1.0, limits).element("X_TYPE", dtype);
            let d = d.write_range(3, bytes_of(dtype, &piece, v));
            let d = d.read_range(2, place.clone()).read_back(5).read(3).write_range(4, place);
            dispatches.push(d);
        }
        let start = bytes_of(dtype, rows, c).start;
        let (x_part, dx_part) = ((Operand::Input(0), start), (Operand::Output(1), start));
        let (logits_part, dw_part) = ((Operand::Output(3), 0), (Operand::Output(2), 0));
        let accumulate = self.accumulate || rows.start > 0;
        let dw = Matmul { ta: true, accumulate, ..Matmul::default() };
        let into = w.with_dtype(Dtype::F32);
        dispatches.extend(product(dw, [&logits, &x, &into], [logits_part, x_part, dw_part], limits));
        // Last, because it is written over x.
        let dx = [logits_part, (Operand::Input(1), 0), dx_part];
        let to_x = Matmul { output: dtype, ..Matmul::default() };
        dispatches.extend(product(to_x, [&logits, &w, &x], dx, limits));
        dispatches
    }
}

impl Op for ChunkedClassifier {
    fn name(&self) -> &'static str {
        "chunked_classifier"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        check(self.name(), inputs, 4 + usize::from(self.accumulate));
        let (rows, _, v) = sizes(inputs);
        let (dx, dw) = (inputs[0].clone(), inputs[1].with_dtype(Dtype::F32));
        assert!(inputs[4..].iter().all(|into| **into == dw), "chunked_classifier adds {dw:?} into {inputs:?}");
        vec![Shape::f32(&[1]), dx, dw, logits_shape(inputs[0], self.rows, v), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let rows = shapes.inputs[0].rows();
        let mut dispatches = vec![count_kernel(rows, limits).read(2).write(5)];
        dispatches.extend(chunks(rows, self.rows).flat_map(|chunk| self.chunk(&chunk, &shapes.inputs, limits)));
        dispatches.push(mean_kernel(rows, 1.0, limits).read_back(4).read_back(5).write(0));
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let seed = g.nodes()[node].inputs[3];
        assert_seed(g, node, seed, dy);
        vec![Some(Tensor { node, slot: 1 }), Some(Tensor { node, slot: 2 }), None, None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let ((rows, c, v), targets) = (sizes(&shapes.inputs), as_ids(inputs[2]));
        let count = targets.iter().filter(|id| **id != IGNORED).count() as f64;
        let scale = f64::from(inputs[3][0]) / count.max(1.0);
        let w = (inputs[1], [v, c]);
        for chunk in chunks(rows, self.rows) {
            let at = chunk.start * c..chunk.end * c;
            let x = (&inputs[0][at.clone()], [chunk.len(), c]);
            let head = Matmul { tb: true, ..Matmul::default() };
            let mut logits = multiplied(&head, x, w, vec![f32::NAN; chunk.len() * v]);
            let rounded = |values: &mut [f32]| values.iter_mut().for_each(|x| *x = shapes.inputs[0].dtype.round(*x));
            rounded(&mut logits);
            let losses = &mut outputs[4][chunk.clone()];
            for ((row, target), loss) in logits.chunks_mut(v).zip(&targets[chunk.clone()]).zip(losses) {
                *loss = classify(row, *target, scale) as f32;
            }
            rounded(&mut logits);
            let dlogits = (logits.as_slice(), [chunk.len(), v]);
            let accumulate = self.accumulate || chunk.start > 0;
            let into = Matmul { ta: true, accumulate, ..Matmul::default() };
            outputs[2] = multiplied(&into, dlogits, x, std::mem::take(&mut outputs[2]));
            let dx = multiplied(&Matmul::default(), dlogits, w, vec![f32::NAN; x.0.len()]);
            outputs[1][at].copy_from_slice(&dx);
        }
        let sum: f64 = outputs[4].iter().map(|loss| f64::from(*loss)).sum();
        outputs[0][0] = (sum / count.max(1.0)) as f32;
        outputs[5][0] = count as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (rows, c, v) = sizes(&shapes.inputs);
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

/// The mean cross-entropy of the logits x W^T, without gradients: that of evaluation.
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
        let (rows, _, v) = sizes(inputs);
        vec![Shape::f32(&[1]), logits_shape(inputs[0], self.rows, v), Shape::f32(&[rows, 2]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let ((rows, _, v), dtype) = (sizes(&shapes.inputs), shapes.inputs[0].dtype);
        let mut dispatches = vec![];
        for chunk in chunks(rows, self.rows) {
            dispatches.extend(head(&chunk, &shapes.inputs, 1, limits));
            for piece in limits.row_chunks(chunk.len(), shapes.outputs[1].row_bytes()) {
                let place = moved(&piece, chunk.start);
                let d = cross_entropy::rows_kernel(piece.len(), v, limits).element("X_TYPE", dtype);
                let d = d.bind(Operand::Output(1), Some(bytes_of(dtype, &piece, v)), false);
                dispatches.push(d.read_range(2, bytes(&place, 1)).write_range(2, bytes(&place, 2)));
            }
        }
        dispatches.push(cross_entropy::mean_kernel(rows, limits).read(2).read_back(2).write(0).write(3));
        dispatches
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("only evaluation takes losses by chunks without their gradients")
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (_, c, _) = sizes(&shapes.inputs);
        let loss = |(x, target): (&[f32], &u32)| {
            let dot = |w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            let rounded = |dot: f64| f64::from(shapes.outputs[1].dtype.round(dot as f32));
            let logits: Vec<f64> = inputs[1].chunks(c).map(|w| rounded(dot(w))).collect();
            (*target != IGNORED).then(|| log_sum_exp(logits.iter().copied()) - logits[*target as usize])
        };
        let losses: Vec<Option<f64>> = inputs[0].par_chunks(c).zip(as_ids(inputs[2])).map(loss).collect();
        let (sum, count) = (losses.iter().flatten().sum::<f64>(), losses.iter().flatten().count() as f64);
        outputs[0][0] = (sum / count.max(1.0)) as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (rows, c, v) = sizes(&shapes.inputs);
        let (count, w) = (chunks(rows, self.rows).count() as u64, shapes.inputs[1].size_bytes());
        let logits = rows as u64 * shapes.outputs[1].row_bytes();
        let size_bytes = count * w + 2 * logits + shapes.inputs[0].size_bytes();
        Cost { flops: (rows * v) as u64 * (2 * c as u64 + 6), size_bytes }
    }

    fn scratch(&self) -> usize {
        3
    }
}
