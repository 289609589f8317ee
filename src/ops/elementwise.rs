//! What elementwise ops share: one thread per element, folded into two dimensions.

use crate::graph::{Dispatch, Limits, Shader};

/// Threads per workgroup of every elementwise shader.
const THREADS: usize = 256;

/// A dispatch of `shader` over `len` elements; the shader has a constant LEN.
pub fn elementwise(shader: Shader, len: usize, limits: &Limits) -> Dispatch {
    Dispatch::new(shader).constant("LEN", len).groups(limits.fold(len.div_ceil(THREADS)))
}
