//! rows: y = w[first .. first + R], the part of a matrix that is several, one below the other.
//!
//!   w (W, C);  y (R, C);  dw's rows += dy, or dw = dy between rows of zeros
//!
//! Cost: a copy.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = `count` rows from `first` on.
#[derive(Debug)]
pub struct Rows {
    pub first: usize,
    pub count: usize,
}

/// dw of W rows from dy; the second input (W, C), where it is there, is added to, in place.
#[derive(Clone, Debug)]
struct RowsBackward {
    first: usize,
    rows: usize,
    accumulate: bool,
}

impl Op for Rows {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs[0].dims.len() == 2 && self.first + self.count <= inputs[0].rows();
        assert!(fits, "{self:?} does not fit {inputs:?}");
        vec![Shape::f32(&[self.count, inputs[0].columns()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let first = self.first * shapes.inputs[0].columns();
        let d = elementwise(shader!("rows"), shapes.outputs[0].len(), limits);
        vec![d.constant("FIRST", first).read(0).write(0)]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let rows = g.shape(g.nodes()[node].inputs[0]).rows();
        vec![Some(g.apply(RowsBackward { first: self.first, rows, accumulate: false }, &[dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let first = self.first * shapes.inputs[0].columns();
        let len = outputs[0].len();
        outputs[0].copy_from_slice(&inputs[0][first..][..len]);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }
}

impl Op for RowsBackward {
    fn name(&self) -> &'static str {
        "rows_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let wanted = Shape::f32(&[self.rows, inputs[0].columns()]);
        let fits = self.first + inputs[0].rows() <= self.rows && inputs.get(1).is_none_or(|into| **into == wanted);
        assert!(fits, "{self:?} does not fit {inputs:?}");
        vec![wanted]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let part = shapes.inputs[0].len();
        let len = if self.accumulate { part } else { shapes.outputs[0].len() };
        let d = elementwise(shader!("rows_backward"), len, limits)
            .constant("FIRST", self.first * shapes.inputs[0].columns())
            .constant("PART", part)
            .constant("ACCUMULATE", self.accumulate);
        vec![d.read(0).write(0)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let first = self.first * shapes.inputs[0].columns();
        if !self.accumulate {
            outputs[0].fill(0.0);
        }
        outputs[0][first..].iter_mut().zip(inputs[0]).for_each(|(dw, dy)| *dw += dy);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 1)] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let adds = slot == 0 && !self.accumulate;
        adds.then(|| Arc::new(RowsBackward { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "rows 3 to 7 of 9x67",
        op: || Arc::new(Rows { first: 3, count: 5 }),
        inputs: &[(&[9, 67], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "rows_backward += 40x12 from row 20 of 64",
        op: || Arc::new(RowsBackward { first: 20, rows: 64, accumulate: true }),
        inputs: &[(&[40, 12], Draw::Uniform(1.0)), (&[64, 12], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 1e-7,
        reason: "one addition, the same on both sides",
    },
];
