//! The three matmuls of a chunk, over parts of the operands of the op that they are within.

use crate::graph::op::Operand;
use crate::graph::{Dispatch, Dtype, Limits, Op, Shape, Shapes, Step};
use crate::ops::matmul::Matmul;
use std::sync::Arc;

/// A part of an op's operand from a row on, in the place of one of a matmul's.
pub(in crate::ops) type Part = (Operand, u64);

/// A matmul with the shapes of its A, B and C.
pub(in crate::ops) struct Product {
    op: Matmul,
    shapes: [Shape; 3],
    /// Products that a kernel sums at most.
    depth: usize,
}

/// Columns of x and rows of W, whose type x and the logits have as well.
#[derive(Clone, Copy)]
pub(in crate::ops) struct Sizes {
    pub c: usize,
    pub v: usize,
    pub dtype: Dtype,
}

impl Product {
    /// logits = x W^T of `rows` rows.
    pub fn head(rows: usize, Sizes { c, v, dtype }: Sizes) -> Product {
        let shapes = [&[rows, c], &[v, c], &[rows, v]].map(|dims| Shape::f32(dims).with_dtype(dtype));
        Product { op: Matmul { tb: true, output: dtype, ..Matmul::default() }, shapes, depth: usize::MAX }
    }

    /// dW = dlogits^T x, or dW += dlogits^T x; f32 in any case.
    pub fn dw(rows: usize, Sizes { c, v, dtype }: Sizes, accumulate: bool) -> Product {
        let [a, b] = [&[rows, v], &[rows, c]].map(|dims| Shape::f32(dims).with_dtype(dtype));
        Product {
            op: Matmul { ta: true, accumulate, ..Matmul::default() },
            shapes: [a, b, Shape::f32(&[v, c])],
            depth: usize::MAX,
        }
    }

    /// dx = dlogits W.
    pub fn dx(rows: usize, Sizes { c, v, dtype }: Sizes) -> Product {
        let shapes = [&[rows, v], &[v, c], &[rows, c]].map(|dims| Shape::f32(dims).with_dtype(dtype));
        Product { op: Matmul { output: dtype, ..Matmul::default() }, shapes, depth: usize::MAX }
    }

    /// The same in parts of at most `depth` products, where C is f32: in half precision every part would round.
    pub fn in_slabs(self, depth: usize) -> Product {
        let depth = if self.shapes[2].dtype == Dtype::F32 { depth } else { self.depth };
        Product { depth, ..self }
    }

    /// Shapes of the inputs: C is one where it is added to.
    fn inputs(&self) -> &[Shape] {
        &self.shapes[..2 + usize::from(self.op.accumulate)]
    }

    /// As [`Op::parts`] wants it.
    pub fn as_part(&self) -> (Arc<dyn Op>, Vec<Shape>) {
        (Arc::new(self.op.clone()), self.inputs().to_vec())
    }

    /// The kernels over parts of another op's operands: its A, B and C.
    pub fn dispatch(&self, parts: [Part; 3], limits: &Limits) -> Vec<Dispatch> {
        let shapes = Shapes { inputs: self.inputs().iter().collect(), outputs: vec![&self.shapes[2]] };
        let mut dispatches = self.op.dispatch_in_slabs(&shapes, self.depth, limits);
        for binding in dispatches.iter_mut().flat_map(|d| &mut d.bindings) {
            let which = match binding.operand {
                Operand::Input(i) => i,
                Operand::Output(_) => 2,
                Operand::Step => continue,
            };
            let (operand, start) = parts[which];
            let range = binding.range.clone().unwrap_or(0..self.shapes[which].size_bytes());
            (binding.operand, binding.range) = (operand, Some(range.start + start..range.end + start));
        }
        dispatches
    }

    /// C, from A and B and, where it accumulates, from its old contents.
    pub fn reference(&self, a: &[f32], b: &[f32], c: Vec<f32>) -> Vec<f32> {
        let shapes = Shapes { inputs: self.inputs().iter().collect(), outputs: vec![&self.shapes[2]] };
        let mut outputs = [c];
        self.op.reference(&shapes, &[a, b], &mut outputs, &Step::default());
        let [c] = outputs;
        c
    }
}
