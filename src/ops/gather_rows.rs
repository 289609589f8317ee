//! gather_rows: y[i] = x[rows[i]]: the rows of x that are wanted, such as the positions that are scored or classified.
//!
//!   x (..., C);  rows (N) u32, counted over all of x's rows, `data::IGNORED` for a row of zeros;  y (N, C)
//!
//! Backward adds the rows of dy into zeros, those of the same row of x in their order and without atomics: the
//! kernels are those of the embedding, whose table x is.
//!   next (N) u32, scratch: the next entry of the same row, or N; the top bit marks the first of a chain
//! Cost: y and the rows of x that are used are moved once. Backward compares entries in pairs: N is in the thousands.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, bytes, cleared, elementwise, in_quads, width};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = x[rows].
#[derive(Debug)]
pub struct GatherRows;

impl Op for GatherRows {
    fn name(&self) -> &'static str {
        "gather_rows"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2 && !inputs[0].dims.is_empty(), "gather_rows does not fit {inputs:?}");
        vec![Shape::f32(&[inputs[1].len(), inputs[0].columns()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (x, rows) = (shapes.inputs[0], shapes.inputs[1]);
        let c = x.columns();
        let width = width(c);
        let mut dispatches = vec![];
        for wanted in limits.row_chunks(rows.len(), c as u64 * 4) {
            for held in limits.row_chunks(x.rows(), c as u64 * 4) {
                dispatches.push(
                    in_quads(shader!("gather_rows"), wanted.len() * c, width, &[VALUES], limits)
                        .constant("C", c / width)
                        .constant("FIRST", wanted.start)
                        .constant("FIRST_ROW", held.start)
                        .constant("ROWS", held.len())
                        .constant("ALL_ROWS", x.rows())
                        .read_range(0, bytes(&held, c))
                        .read(1)
                        .write_range(0, bytes(&wanted, c)),
                );
            }
        }
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let (x, rows) = (g.nodes()[node].inputs[0], g.nodes()[node].inputs[1]);
        let dims = g.shape(x).dims.clone();
        vec![needed[0].then(|| g.apply(GatherRowsBackward { dims }, &[rows, dy])), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let c = shapes.inputs[0].columns();
        for (y, row) in outputs[0].chunks_mut(c).zip(as_ids(inputs[1])) {
            match inputs[0].chunks(c).nth(*row as usize) {
                Some(x) => y.copy_from_slice(x),
                None => y.fill(0.0),
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }
}

/// dx, of the shape `dims`, from dy (N, C).
#[derive(Debug)]
pub struct GatherRowsBackward {
    pub dims: Vec<usize>,
}

impl Op for GatherRowsBackward {
    fn name(&self) -> &'static str {
        "gather_rows_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let dx = Shape::f32(&self.dims);
        let fits = inputs[0].len() == inputs[1].rows() && dx.columns() == inputs[1].columns();
        assert!(fits, "gather_rows_backward into {dx:?} does not fit {inputs:?}");
        vec![dx, Shape::u32(&[inputs[0].len()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, dx) = (shapes.inputs[0].len(), shapes.outputs[0]);
        let c = dx.columns();
        let width = width(c);
        let mut dispatches = cleared(0, dx, limits);
        dispatches.push(elementwise(shader!("embedding_link"), rows, limits).read(0).write(1));
        for dy in limits.row_chunks(rows, c as u64 * 4) {
            for held in limits.row_chunks(dx.rows(), c as u64 * 4) {
                dispatches.push(
                    Dispatch::new(shader!("embedding_backward"))
                        .constant("ROWS", rows)
                        .constant("C", c / width)
                        .elements("VALUES", Dtype::F32, width)
                        .constant("FIRST_ROW", dy.start)
                        .constant("DY_ROWS", dy.len())
                        .constant("FIRST_TOKEN", held.start)
                        .constant("TOKENS", held.len())
                        .constant("THREADS", limits.row_threads())
                        .read(0)
                        .read_back(1)
                        .read_range(1, bytes(&dy, c))
                        .write_range(0, bytes(&held, c))
                        .groups(limits.fold(rows)),
                );
            }
        }
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let c = shapes.outputs[0].columns();
        let mut dx = vec![0.0f64; outputs[0].len()];
        for (dy, row) in inputs[1].chunks(c).zip(as_ids(inputs[0])) {
            if let Some(dx) = dx.chunks_mut(c).nth(*row as usize) {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += f64::from(*dy));
            }
        }
        outputs[0].iter_mut().zip(dx).for_each(|(y, sum)| *y = sum as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let dy = shapes.inputs[1];
        Cost { flops: dy.len() as u64, size_bytes: dy.size_bytes() + shapes.outputs[0].size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}

const SUM: &str = "a copy forward; backward sums as many rows as share a row of x, each sum rounded in f32";

pub const CASES: &[Case] = &[
    Case {
        name: "gather_rows 1 of 1x1",
        op: || Arc::new(GatherRows),
        inputs: &[(&[1, 1], Draw::Uniform(1.0)), (&[1], Draw::Ids(1))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy, and back",
    },
    Case {
        name: "gather_rows 29 of 3x7x67, some twice and some ignored",
        op: || Arc::new(GatherRows),
        inputs: &[(&[3, 7, 67], Draw::Uniform(1.0)), (&[29], Draw::Targets(21))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "gather_rows, x beyond one binding: 9 of 3147x768",
        op: || Arc::new(GatherRows),
        inputs: &[(&[3147, 768], Draw::Uniform(1.0)), (&[9], Draw::Targets(3147))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "gather_rows, more than 65535 rows: 70000 of 500x3",
        op: || Arc::new(GatherRows),
        inputs: &[(&[500, 3], Draw::Uniform(1.0)), (&[70000], Draw::Ids(500))],
        gradient: true,
        position: 0,
        atol: 2e-5,
        rtol: 1e-6,
        reason: "a row's 140 entries sum to about 7 with roundings of 5e-7 each, some of them adding up: tenfold",
    },
];
