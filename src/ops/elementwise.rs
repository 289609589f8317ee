//! Helpers of several ops: elementwise dispatches, one thread per element, and the bytes of a range of rows.

use crate::graph::{Dispatch, Dtype, Limits, Shader, Shape};
use std::ops::Range;

/// Threads per workgroup of every elementwise shader.
const THREADS: usize = 256;

/// A dispatch of `shader` over `len` elements; the shader has a constant LEN.
pub fn elementwise(shader: Shader, len: usize, limits: &Limits) -> Dispatch {
    Dispatch::new(shader).constant("LEN", len).groups(limits.fold(len.div_ceil(THREADS)))
}

/// Dispatches of `shader` over the elements of input 0, which make output 0 of the same shape and type: pieces that each fit a binding.
pub fn pieces(shader: Shader, shape: &Shape, limits: &Limits) -> Vec<Dispatch> {
    let piece = |range: Range<usize>| {
        let bytes = bytes_of(shape.dtype, &range, 1);
        elementwise(shader, range.len(), limits).read_range(0, bytes.clone()).write_range(0, bytes)
    };
    limits.row_chunks(shape.len(), 4).into_iter().map(piece).collect()
}

/// Bytes of a range of rows of 4-byte words.
pub fn bytes(rows: &Range<usize>, columns: usize) -> Range<u64> {
    (rows.start * columns * 4) as u64..(rows.end * columns * 4) as u64
}

/// Bytes of a range of rows of elements of a type, to the end of a word.
pub fn bytes_of(dtype: Dtype, rows: &Range<usize>, columns: usize) -> Range<u64> {
    let row_bytes = columns as u64 * dtype.size_bytes();
    rows.start as u64 * row_bytes..(rows.end as u64 * row_bytes).next_multiple_of(4)
}
