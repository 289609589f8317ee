//! grouped_weights: dw[e] = sum over the rows r of expert e of dy[r]^T x[source of r], or dw += it: the gradient of the matrices
//! of [`super::grouped_matmul`].
//!
//!   dy (P, N);  x (P, K), or (..., K) by token if `gather`;  offsets (E + 1) u32;  if `gather`: order (P) u32;  dw (E, N, K)
//!
//! A tile of dw is made by one workgroup that walks its expert's rows in order, so sums repeat. An idle expert's gradient is
//! zero: it is written, or, if added, left alone. Cost: 2 P N K FLOPs; every tensor moved once at least.

use super::case::{Case, Draw};
use super::expert_groups::{example_ids, sort};
use super::grouped_matmul::{matrices, matrix_bytes, tiles};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shader, Shape, Shapes, Step};
use crate::shader;
use rayon::prelude::*;
use std::sync::Arc;

/// dw = dy^T x, by groups of rows.
#[derive(Clone, Debug)]
pub struct GroupedWeights {
    pub experts: usize,
    /// x holds tokens, and a row takes that of its pair; otherwise x is sorted as dy is.
    pub gather: bool,
    /// The last input (E, N, K) is added to, in place.
    pub accumulate: bool,
}

impl GroupedWeights {
    /// N, K and rows of dy per row of x.
    fn size(&self, inputs: &[&Shape]) -> (usize, usize, usize) {
        let count = 3 + usize::from(self.gather) + usize::from(self.accumulate);
        let fits = inputs.len() == count && inputs[2].len() == self.experts + 1;
        let fits = fits && inputs[0].rows().is_multiple_of(inputs[1].rows());
        assert!(fits, "grouped_weights of {} experts does not fit {inputs:?}", self.experts);
        (inputs[0].columns(), inputs[1].columns(), inputs[0].rows() / inputs[1].rows())
    }
}

/// Shader, its constants, and rows and columns of dw per workgroup.
fn tiling(n: usize, k: usize, experts: usize, limits: &Limits) -> (Shader, Vec<(&'static str, usize)>, (usize, usize)) {
    if let Some(lanes) = limits.register_lanes() {
        let tm = n.min(16);
        return (shader!("grouped_weights_registers"), vec![("TM", tm), ("LANES", lanes)], (tm, 4 * lanes));
    }
    let (constants, tile) = tiles(experts * n.div_ceil(128) * k.div_ceil(128), n.min(k));
    (shader!("grouped_weights_tiled"), constants, tile)
}

impl Op for GroupedWeights {
    fn name(&self) -> &'static str {
        "grouped_weights"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (n, k, _) = self.size(inputs);
        let dw = Shape::f32(&[self.experts, n, k]);
        let into = inputs.last().filter(|_| self.accumulate);
        assert!(into.is_none_or(|into| **into == dw), "grouped_weights adds {dw:?} into {into:?}");
        vec![dw]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (n, k, top) = self.size(&shapes.inputs);
        let row_bytes = |columns: usize| columns as u64 * 4;
        let longest = if self.gather { n } else { n.max(k) };
        let mut dispatches = vec![];
        for rows in limits.row_chunks(shapes.inputs[0].rows(), row_bytes(longest)) {
            for (experts, part) in matrices(self.experts, n, row_bytes(k), limits) {
                let (shader, constants, tile) = tiling(part.len(), k, experts.len(), limits);
                let count = experts.len() * part.len().div_ceil(tile.0) * k.div_ceil(tile.1);
                let bytes = |columns| rows.start as u64 * row_bytes(columns)..rows.end as u64 * row_bytes(columns);
                let mut d = Dispatch::new(shader)
                    .constant("M", part.len())
                    .constant("N", k)
                    .constant("LDA", n)
                    .constant("LDB", k)
                    .constant("LDC", k)
                    .constant("A_COLUMN", part.start)
                    .constant("ACCUMULATE", self.accumulate || rows.start > 0)
                    .constant("FIRST_EXPERT", experts.start)
                    .constant("EXPERTS", experts.len())
                    .constant("FIRST_ROW", rows.start)
                    .constant("ROWS", rows.len())
                    .constant("TOP", top)
                    .read_range(0, bytes(n));
                for (name, value) in constants {
                    d = d.constant(name, value);
                }
                d = if self.gather { d.read(1) } else { d.read_range(1, bytes(k)) };
                d = d.write_range(0, matrix_bytes(&experts, &part, n, row_bytes(k))).read(2);
                d = d.groups(limits.fold(count));
                if self.gather {
                    d = d.read(3).swap("rows_sorted", "rows_gathered");
                }
                if [n, k, part.start].iter().any(|words| words % 4 != 0) {
                    d = d.swap("quads", "quads_unaligned");
                }
                dispatches.push(d);
            }
        }
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (n, k, top) = self.size(&shapes.inputs);
        let offsets = as_ids(inputs[2]);
        outputs[0].par_chunks_mut(k).enumerate().for_each(|(at, dw)| {
            let (expert, column) = (at / n, at % n);
            let mut sums = vec![0.0f64; k];
            for row in offsets[expert] as usize..offsets[expert + 1] as usize {
                let source = if self.gather { as_ids(inputs[3])[row] as usize / top } else { row };
                let dy = f64::from(inputs[0][row * n + column]);
                let x = &inputs[1][source * k..][..k];
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += dy * f64::from(*x));
            }
            for (dw, sum) in dw.iter_mut().zip(sums) {
                *dw = if self.accumulate { *dw } else { 0.0 } + sum as f32;
            }
        });
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (n, k, _) = self.size(&shapes.inputs);
        Cost { flops: 2 * shapes.inputs[0].rows() as u64 * (n * k) as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 3 + usize::from(self.gather))] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let op = GroupedWeights { accumulate: true, ..self.clone() };
        (slot == 0 && !self.accumulate).then(|| Arc::new(op) as Arc<dyn Op>)
    }
}

const SUM: &str = "f32 sums of a group's rows, products of numbers below 1: sqrt(rows) roundings of 6e-8, tenfold";

// Without accumulation it runs as the gradient in the cases of grouped_matmul.
pub const CASES: &[Case] = &[
    Case {
        name: "grouped_weights += of 67 tokens, 2 of 5 experts, 65x70",
        op: || Arc::new(GroupedWeights { experts: 5, gather: true, accumulate: true }),
        inputs: &[
            (&[134, 65], Draw::Uniform(1.0)),
            (&[67, 70], Draw::Uniform(1.0)),
            (&[6], Draw::Words(|| sort(&example_ids(67, 2, 5), 5).offsets)),
            (&[134], Draw::Words(|| sort(&example_ids(67, 2, 5), 5).order)),
            (&[5, 65, 70], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 2e-6,
        reason: SUM,
    },
    Case {
        name: "grouped_weights += of 200 rows, 3 experts, 36x132",
        op: || Arc::new(GroupedWeights { experts: 3, gather: false, accumulate: true }),
        inputs: &[
            (&[200, 36], Draw::Uniform(1.0)),
            (&[200, 132], Draw::Uniform(1.0)),
            (&[4], Draw::Words(|| vec![0, 3, 200, 200])),
            (&[3, 36, 132], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 2e-6,
        reason: SUM,
    },
];
