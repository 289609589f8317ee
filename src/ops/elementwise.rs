//! Helpers of several ops: elementwise dispatches, a thread per element or per quad of them, and the bytes of a range of rows.

use crate::graph::{Dispatch, Dtype, Limits, Shader, Shape};
use crate::shader;
use std::ops::Range;

/// Threads per workgroup of every elementwise shader.
const THREADS: usize = 256;

/// A dispatch of `shader` over `len` elements; the shader has a constant LEN.
pub fn elementwise(shader: Shader, len: usize, limits: &Limits) -> Dispatch {
    Dispatch::new(shader).constant("LEN", len).groups(limits.fold(len.div_ceil(THREADS)))
}

/// Elements of a thread: four where `len` numbers, which belong together, are a multiple of four.
pub fn width(len: usize) -> usize {
    if len.is_multiple_of(4) { 4 } else { 1 }
}

/// As [`elementwise`], `width` elements per thread; LEN counts quads where that is four, the shader computes in VALUES, and `types`
/// are its operands' aliases and element types.
pub fn in_quads(
    shader: Shader,
    len: usize,
    width: usize,
    types: &[(&'static str, Dtype)],
    limits: &Limits,
) -> Dispatch {
    let d = elementwise(shader, len / width, limits);
    types.iter().fold(d, |d, (name, dtype)| d.elements(name, *dtype, width))
}

/// Dispatches that set output `slot`, of 4-byte numbers, to 0.
pub fn cleared(slot: usize, shape: &Shape, limits: &Limits) -> Vec<Dispatch> {
    let width = width(shape.len());
    let piece = |range: Range<usize>| {
        in_quads(shader!("clear"), range.len(), width, &[VALUES], limits).write_range(slot, bytes(&range, 1))
    };
    limits.row_chunks(shape.len(), 4).into_iter().map(piece).collect()
}

/// The type of a shader's arithmetic, where it is `VALUES`.
pub const VALUES: (&str, Dtype) = ("VALUES", Dtype::F32);

/// Dispatches of `shader` over the elements of input 0, which make output 0 of the same shape and type: pieces that each fit a binding.
/// `types` are the shader's aliases and their element types.
pub fn pieces(shader: Shader, shape: &Shape, types: &[(&'static str, Dtype)], limits: &Limits) -> Vec<Dispatch> {
    let width = width(shape.len());
    let piece = |range: Range<usize>| {
        let bytes = bytes_of(shape.dtype, &range, 1);
        in_quads(shader, range.len(), width, types, limits).read_range(0, bytes.clone()).write_range(0, bytes)
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
