//! grouped_matmul: y[r] = x[source of r] op(w[expert of r]), rows sorted by expert: all experts' linear layers as one op.
//!
//!   x (P, K), sorted as well, or (..., K) by token if `gather`;  w (E, K, N), or (E, N, K) if `tb`, as Hugging Face stores a
//!   linear layer;  offsets (E + 1) u32;  if `gather`:  order (P) u32, position (..., k) u32;  y (P, N)
//!
//! The groups are those of [`super::expert_groups`]. A tile of y holds rows of one expert only. How many tiles there are depends
//! on the routing, but not by much: the plan has workgroups for the most that P rows in E groups can make, each finds its
//! expert by walking the offsets, and the overhang leaves at once. An idle expert's matrix is not read.
//!
//! Backward: dx is the same op with the matrices turned around, then summed over a token's rows if `gather`; dw is
//! [`super::grouped_weights`]. Cost: 2 P N K FLOPs; x and y, and the matrices of experts in use, moved once at least.
//!
//! Matrices beyond a binding are worked on in pieces of experts, or of one expert's rows; rows of y, and of x if it is sorted,
//! in pieces as well. Tokens that are gathered must fit a binding.

use super::case::{Case, Draw};
use super::combine::Combine;
use super::expert_groups::{example_ids, sort};
use super::grouped_weights::GroupedWeights;
use crate::graph::op::as_ids;
use crate::graph::{AdapterKind, Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// y = x op(w), by groups of rows.
#[derive(Clone, Debug)]
pub struct GroupedMatmul {
    /// x holds tokens, and a row takes that of its pair; otherwise x is sorted as y is.
    pub gather: bool,
    /// The matrices are stored (N, K).
    pub tb: bool,
}

/// Sizes of the tensors.
struct Size {
    pairs: usize,
    experts: usize,
    n: usize,
    k: usize,
    /// Choices per token, if x holds tokens.
    top: usize,
}

impl GroupedMatmul {
    fn size(&self, inputs: &[&Shape]) -> Size {
        let fits = inputs.len() == if self.gather { 5 } else { 3 } && inputs[1].dims.len() == 3;
        assert!(fits, "grouped_matmul does not fit {inputs:?}");
        let (x, w) = (inputs[0], inputs[1]);
        let (n, k) = if self.tb { (w.dims[1], w.dims[2]) } else { (w.dims[2], w.dims[1]) };
        let (pairs, top) = if self.gather { (inputs[4].len(), inputs[4].columns()) } else { (x.rows(), 1) };
        let fits = x.columns() == k && x.rows() * top == pairs && inputs[2].len() == w.dims[0] + 1;
        assert!(fits, "grouped_matmul (w {}transposed) does not fit {inputs:?}", if self.tb { "" } else { "not " });
        Size { pairs, experts: w.dims[0], n, k, top }
    }
}

/// A tiling of one of the shaders.
struct Tiling {
    shader: Shader,
    constants: Vec<(&'static str, usize)>,
    /// Rows and columns of y per workgroup.
    tile: (usize, usize),
}

impl Tiling {
    fn choose(size: &Size, rows: usize, n: usize, limits: &Limits) -> Tiling {
        // An expert's share of the rows, rounded up: a larger tile would mostly be empty.
        let share = rows.div_ceil(size.experts);
        if let Some(lanes) = limits.register_lanes() {
            let tm = share.next_power_of_two().min(16);
            let constants = vec![("TM", tm), ("LANES", lanes)];
            return Tiling { shader: shader!("grouped_matmul_registers"), constants, tile: (tm, 4 * lanes) };
        }
        if rows <= FEW_ROWS {
            let (across, slices) = if limits.adapter == AdapterKind::Gpu { (8, 32) } else { (8, 1) };
            let constants = vec![("ACROSS", across), ("SLICES", slices)];
            return Tiling { shader: shader!("grouped_matmul_vector"), constants, tile: (1, 4 * across) };
        }
        let (constants, tile) = tiles(rows.div_ceil(128) * n.div_ceil(128), share.min(n));
        Tiling { shader: shader!("grouped_matmul_tiled"), constants, tile }
    }
}

/// Constants and size of the tiles of the two tiled kernels: the largest that still leave enough workgroups to fill a large GPU,
/// if there are `large` of 128 x 128, and that are not mostly empty where the shorter side is `side`.
pub fn tiles(large: usize, side: usize) -> (Vec<(&'static str, usize)>, (usize, usize)) {
    let (tile, bk, thread) = match side {
        _ if large >= 128 && side > 64 => (128, 8, 8),
        33.. => (64, 16, 4),
        _ => (32, 16, 2),
    };
    (vec![("BM", tile), ("BN", tile), ("BK", bk), ("TM", thread), ("TN", thread)], (tile, tile))
}

/// Rows up to which reading the matrices is all that counts.
const FEW_ROWS: usize = 8;

/// The most tiles of `height` rows that `rows` rows in `groups` groups can make: a group has at most `height - 1` rows short.
fn most_tiles(rows: usize, groups: usize, height: usize) -> usize {
    rows.min((rows + groups.min(rows) * (height - 1)) / height)
}

/// Pieces of `experts` matrices of `rows` rows that fit a binding: whole experts, or rows of one.
pub fn matrices(experts: usize, rows: usize, row_bytes: u64, limits: &Limits) -> Vec<(Range<usize>, Range<usize>)> {
    if rows as u64 * row_bytes <= limits.binding_bytes {
        let chunks = limits.entry_chunks(experts, rows as u64 * row_bytes);
        return chunks.into_iter().map(|experts| (experts, 0..rows)).collect();
    }
    let of = |e: usize| limits.row_chunks(rows, row_bytes).into_iter().map(move |rows| (e..e + 1, rows));
    (0..experts).flat_map(of).collect()
}

/// Bytes of such a piece.
pub fn matrix_bytes(experts: &Range<usize>, rows: &Range<usize>, matrix_rows: usize, row_bytes: u64) -> Range<u64> {
    let row = |expert: usize, row: usize| (expert * matrix_rows + row) as u64 * row_bytes;
    row(experts.start, rows.start)..row(experts.end - 1, rows.end)
}

impl Op for GroupedMatmul {
    fn name(&self) -> &'static str {
        "grouped_matmul"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let size = self.size(inputs);
        vec![Shape::f32(&[size.pairs, size.n])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.size(&shapes.inputs);
        let row_bytes = |columns: usize| columns as u64 * 4;
        // Stored rows and columns of a matrix.
        let (matrix_rows, columns) = if self.tb { (size.n, size.k) } else { (size.k, size.n) };
        let longest = if self.gather { size.n } else { size.n.max(size.k) };
        let mut dispatches = vec![];
        for rows in limits.row_chunks(size.pairs, row_bytes(longest)) {
            for (experts, part) in matrices(size.experts, matrix_rows, row_bytes(columns), limits) {
                let (n, k) = if self.tb { (part.clone(), 0..size.k) } else { (0..size.n, part.clone()) };
                let tiling = Tiling::choose(&size, rows.len(), n.len(), limits);
                let count = most_tiles(rows.len(), experts.len(), tiling.tile.0) * n.len().div_ceil(tiling.tile.1);
                let bytes = |columns| rows.start as u64 * row_bytes(columns)..rows.end as u64 * row_bytes(columns);
                let matrix = matrix_bytes(&experts, &part, matrix_rows, row_bytes(columns));
                let mut d = Dispatch::new(tiling.shader)
                    .constant("N", n.len())
                    .constant("K", k.len())
                    .constant("LDA", size.k)
                    .constant("LDB", columns)
                    .constant("LDC", size.n)
                    .constant("A_COLUMN", k.start)
                    .constant("C_COLUMN", n.start)
                    .constant("TB", self.tb)
                    .constant("ACCUMULATE", k.start > 0)
                    .constant("EXPERT_WORDS", size.n * size.k)
                    .constant("FIRST_EXPERT", experts.start)
                    .constant("EXPERTS", experts.len())
                    .constant("FIRST_ROW", rows.start)
                    .constant("ROWS", rows.len())
                    .constant("TOP", size.top);
                for (name, value) in tiling.constants {
                    d = d.constant(name, value);
                }
                d = if self.gather { d.read(0) } else { d.read_range(0, bytes(size.k)) };
                d = d.read_range(1, matrix).write_range(0, bytes(size.n)).read(2).groups(limits.fold(count));
                if self.gather {
                    d = d.read(3).swap("rows_sorted", "rows_gathered");
                }
                if [size.k, columns, k.start].iter().any(|words| words % 4 != 0) {
                    d = d.swap("quads", "quads_unaligned");
                }
                dispatches.push(d);
            }
        }
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        assert!(self.tb, "the gradient of matrices that are stored (K, N) is not made");
        let inputs = g.nodes()[node].inputs.clone();
        let (x, w, offsets) = (inputs[0], inputs[1], inputs[2]);
        let experts = g.shape(w).dims[0];
        let sources: Vec<Tensor> = if self.gather { vec![inputs[3]] } else { vec![] };
        let dx = needed[0].then(|| {
            let dx = g.apply(GroupedMatmul { gather: false, tb: false }, &[dy, w, offsets]);
            if self.gather { g.apply(Combine { weighted: false }, &[dx, inputs[4]]) } else { dx }
        });
        let dw = needed[1].then(|| {
            let backward = GroupedWeights { experts, gather: self.gather, accumulate: false };
            g.apply(backward, &[vec![dy, x, offsets], sources].concat())
        });
        let rest = inputs.len() - 2;
        [dx, dw].into_iter().chain(std::iter::repeat_n(None, rest)).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let Size { n, k, top, .. } = self.size(&shapes.inputs);
        let offsets = as_ids(inputs[2]);
        outputs[0].par_chunks_mut(n).enumerate().for_each(|(row, y)| {
            let expert = offsets.partition_point(|first| *first as usize <= row) - 1;
            let w = &inputs[1][expert * n * k..][..n * k];
            let source = if self.gather { as_ids(inputs[3])[row] as usize / top } else { row };
            let x = &inputs[0][source * k..][..k];
            for (j, y) in y.iter_mut().enumerate() {
                let weight = |i: usize| f64::from(if self.tb { w[j * k + i] } else { w[i * n + j] });
                *y = x.iter().enumerate().map(|(i, x)| f64::from(*x) * weight(i)).sum::<f64>() as f32;
            }
        });
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let size = self.size(&shapes.inputs);
        let matrix = (size.n * size.k) as u64;
        let moved = shapes.inputs[0].len() as u64 + shapes.outputs[0].len() as u64;
        let in_use = size.experts.min(size.pairs) as u64;
        Cost { flops: 2 * size.pairs as u64 * matrix, size_bytes: 4 * (moved + in_use * matrix) }
    }
}

const SUM: &str =
    "f32 sums of K products of numbers below 1, or of N, or of a group's rows: sqrt(K) roundings of sums up to sqrt(K)";

/// Tokens, choices, experts, N and K of matrices stored (N, K), with x by token.
macro_rules! gathered {
    ($name:literal, $tokens:literal, $top:literal, $experts:literal, $n:literal, $k:literal, $atol:literal) => {
        Case {
            name: $name,
            op: || Arc::new(GroupedMatmul { gather: true, tb: true }),
            inputs: &[
                (&[$tokens, $k], Draw::Uniform(1.0)),
                (&[$experts, $n, $k], Draw::Uniform(1.0)),
                (&[$experts + 1], Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).offsets)),
                (&[$tokens * $top], Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).order)),
                (&[$tokens, $top], Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).position)),
            ],
            gradient: true,
            position: 0,
            atol: $atol,
            rtol: 2e-6,
            reason: SUM,
        }
    };
}

/// The same with x sorted.
macro_rules! sorted {
    ($name:literal, $tokens:literal, $top:literal, $experts:literal, $n:literal, $k:literal, $atol:literal) => {
        Case {
            name: $name,
            op: || Arc::new(GroupedMatmul { gather: false, tb: true }),
            inputs: &[
                (&[$tokens * $top, $k], Draw::Uniform(1.0)),
                (&[$experts, $n, $k], Draw::Uniform(1.0)),
                (&[$experts + 1], Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).offsets)),
            ],
            gradient: true,
            position: 0,
            atol: $atol,
            rtol: 2e-6,
            reason: SUM,
        }
    };
}

pub const CASES: &[Case] = &[
    sorted!("grouped_matmul of 1 row, 1 expert, 1x1", 1, 1, 1, 1, 1, 2e-5),
    gathered!("grouped_matmul of 1 token, 2 of 8 experts, 36x20", 1, 2, 8, 36, 20, 2e-5),
    gathered!("grouped_matmul of 4 tokens, 2 of 3 experts, 33x68", 4, 2, 3, 33, 68, 2e-5),
    gathered!("grouped_matmul of 67 tokens, 2 of 5 experts, 65x68", 67, 2, 5, 65, 68, 2e-5),
    sorted!("grouped_matmul of 67 tokens, 2 of 5 experts, sorted, 65x70", 67, 2, 5, 65, 70, 2e-5),
    gathered!("grouped_matmul of 300 tokens, 2 of 3 experts, 132x68", 300, 2, 3, 132, 68, 2e-5),
    sorted!("grouped_matmul of 1100 tokens, 4 of 7 experts, 516x24", 1100, 4, 7, 516, 24, 2e-5),
    sorted!("grouped_matmul of 3 tokens, 1 of 130 experts, 12x20", 3, 1, 130, 12, 20, 2e-5),
    sorted!("grouped_matmul, experts beyond one binding: 70 of 128x256", 2, 3, 70, 128, 256, 2e-5),
    gathered!("grouped_matmul, an expert beyond one binding: 4100x520", 1, 2, 2, 4100, 520, 4e-3),
    sorted!("grouped_matmul, rows beyond one binding: 2050 of 4x1028", 2050, 1, 4, 4, 1028, 2e-3),
];
