//! row_dot: y_r = sum_c w_rc x_rc, a weighted sum of each row: the log-probability of a sequence from those of its tokens, or the
//! loss of a micro-batch as one row.
//!
//!   x, w of as many numbers, whatever their dimensions;  y (rows)
//!
//! The weights carry no gradient: they say which tokens count, and how much. Backward: dx_rc = w_rc dy_r.
//! Cost: 2 FLOPs per number forward, 1 backward; x and w are read once.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// A weighted sum of each row.
#[derive(Debug)]
pub struct RowDot {
    /// Rows that the numbers are cut into, evenly.
    pub rows: usize,
}

impl Op for RowDot {
    fn name(&self) -> &'static str {
        "row_dot"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && inputs[0].len() == inputs[1].len() && inputs[0].len().is_multiple_of(self.rows);
        assert!(fits, "row_dot of {} rows takes numbers and as many weights, not {inputs:?}", self.rows);
        vec![Shape::f32(&[self.rows])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("row_dot"))
            .constant("N", shapes.inputs[0].len() / self.rows)
            .reducing(limits.row_threads(), limits)
            .read(0)
            .read(1)
            .write(0)
            .groups(limits.fold(self.rows));
        vec![d]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [x, weights] = g.nodes()[node].inputs[..] else { unreachable!("two inputs") };
        let dims = g.shape(x).dims.clone();
        vec![needed[0].then(|| g.apply(RowDotBackward { dims, rows: self.rows }, &[weights, dy])), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let n = shapes.inputs[0].len() / self.rows;
        let rows = inputs[0].chunks(n).zip(inputs[1].chunks(n));
        for (y, (x, w)) in outputs[0].iter_mut().zip(rows) {
            *y = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 2 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx (dims) from the weights and dy (rows).
#[derive(Debug)]
pub struct RowDotBackward {
    pub dims: Vec<usize>,
    pub rows: usize,
}

impl Op for RowDotBackward {
    fn name(&self) -> &'static str {
        "row_dot_backward"
    }

    fn outputs(&self, _inputs: &[&Shape]) -> Vec<Shape> {
        vec![Shape::f32(&self.dims)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let dx = shapes.outputs[0];
        let d = elementwise(shader!("row_dot_backward"), dx.len(), limits).constant("N", dx.len() / self.rows);
        vec![d.read(0).read(1).write(0)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let n = shapes.outputs[0].len() / self.rows;
        for (i, dx) in outputs[0].iter_mut().enumerate() {
            *dx = inputs[0][i] * inputs[1][i / n];
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUM: &str =
    "products below 2, up to 1000 of them summed in another order: sums near 30, some 1e-6 of which is lost";

pub const CASES: &[Case] = &[
    Case {
        name: "row_dot of one number",
        op: || Arc::new(RowDot { rows: 1 }),
        inputs: &[(&[1, 1], Draw::Uniform(1.0)), (&[1], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "row_dot 7x67",
        op: || Arc::new(RowDot { rows: 7 }),
        inputs: &[(&[469], Draw::Uniform(1.0)), (&[7, 67], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-5,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "row_dot of one row of 1000",
        op: || Arc::new(RowDot { rows: 1 }),
        inputs: &[(&[1000], Draw::Uniform(1.0)), (&[1000], Draw::Between(0.0, 2.0))],
        gradient: true,
        position: 0,
        atol: 3e-5,
        rtol: 1e-6,
        reason: SUM,
    },
];
