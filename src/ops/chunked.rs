//! Helpers of ops that make logits of some rows of hidden states at a time: chunks of rows, and the matrix products of a chunk.
//!
//!   x (..., C), W (V, C), both f32 or f16;  targets (rows) u32;  logits of a chunk (rows of it, V), of x's type

mod product;

use super::elementwise::bytes_of;
use crate::graph::op::Operand;
use crate::graph::{Dispatch, Dtype, Limits, Shape};
pub(super) use product::{Product, Sizes};
use std::ops::Range;

/// Chunks are of a multiple of so many rows: then each starts where a binding may, on every device.
const ALIGNED_ROWS: usize = 64;

/// `rows` rows in chunks of `chunk`, rounded up.
pub(super) fn chunks(rows: usize, chunk: usize) -> impl Iterator<Item = Range<usize>> {
    let size = chunk.next_multiple_of(ALIGNED_ROWS);
    (0..rows).step_by(size).map(move |start| start..rows.min(start + size))
}

/// Logits of the largest chunk.
pub(super) fn logits_shape(x: &Shape, chunk: usize, v: usize) -> Shape {
    Shape::f32(&[chunk.next_multiple_of(ALIGNED_ROWS).min(x.rows()), v]).with_dtype(x.dtype)
}

/// Rows of x, and the shapes and types of x and W.
pub(super) fn sizes(inputs: &[&Shape]) -> (usize, Sizes) {
    let (c, v, dtype) = (inputs[0].columns(), inputs[1].rows(), inputs[0].dtype);
    (inputs[0].rows(), Sizes { c, v, dtype })
}

/// Asserts that x, W and targets, the first of `count` inputs, fit each other.
#[track_caller]
pub(super) fn check(name: &str, inputs: &[&Shape], count: usize) {
    let fits =
        inputs.len() == count && inputs[1].columns() == inputs[0].columns() && inputs[2].len() == inputs[0].rows();
    // So that chunks of x start aligned.
    let even = inputs[0].dtype == Dtype::F32 || inputs[0].columns().is_multiple_of(2);
    assert!(fits && even && inputs[0].dtype == inputs[1].dtype, "{name} does not fit {inputs:?}");
}

/// logits = x W^T of one chunk, the logits being output `slot`.
pub(super) fn head(rows: &Range<usize>, sizes: Sizes, slot: usize, limits: &Limits) -> Vec<Dispatch> {
    let x = (Operand::Input(0), bytes_of(sizes.dtype, rows, sizes.c).start);
    Product::head(rows.len(), sizes).dispatch([x, (Operand::Input(1), 0), (Operand::Output(slot), 0)], limits)
}

/// `rows` from their first row on.
pub(super) fn moved(rows: &Range<usize>, by: usize) -> Range<usize> {
    rows.start + by..rows.end + by
}
