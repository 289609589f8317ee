//! add: y = a + b, elementwise, any shape: the residual connection, and the sum of two gradients.
//!
//! Cost: 1 FLOP and 12 bytes per element (8 read, 4 written).

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = a + b.
#[derive(Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2 && inputs[0] == inputs[1], "add takes two tensors of one shape, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let add = |range: std::ops::Range<usize>| {
            let bytes = range.start as u64 * 4..range.end as u64 * 4;
            let dispatch = elementwise(shader!("add"), range.len(), limits);
            dispatch.read_range(0, bytes.clone()).read_range(1, bytes.clone()).write_range(0, bytes)
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(add).collect()
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(dy), Some(dy)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for ((y, a), b) in outputs[0].iter_mut().zip(inputs[0]).zip(inputs[1]) {
            *y = a + b;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// a += b: what is left where an op cannot add into a gradient by itself.
#[derive(Debug)]
pub struct AddInPlace;

impl Op for AddInPlace {
    fn name(&self) -> &'static str {
        "add_in_place"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        Add.outputs(inputs)
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let add = |range: std::ops::Range<usize>| {
            let bytes = range.start as u64 * 4..range.end as u64 * 4;
            elementwise(shader!("add_in_place"), range.len(), limits).read_range(1, bytes.clone()).write_range(0, bytes)
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(add).collect()
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(dy), Some(dy)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (a, b) in outputs[0].iter_mut().zip(inputs[1]) {
            *a += b;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Add.cost(shapes)
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const EXACT: &str = "one rounding, the same on both sides";

pub const CASES: &[Case] = &[
    Case {
        name: "add 3x5x7",
        op: || Arc::new(Add),
        inputs: &[(&[3, 5, 7], Draw::Uniform(2.0)), (&[3, 5, 7], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
    Case {
        name: "add, more than 65535 workgroups",
        op: || Arc::new(Add),
        inputs: &[(&[65537, 257], Draw::Uniform(2.0)), (&[65537, 257], Draw::Uniform(2.0))],
        gradient: false,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
    Case {
        name: "add in place 1x1",
        op: || Arc::new(AddInPlace),
        inputs: &[(&[1, 1], Draw::Uniform(2.0)), (&[1, 1], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
    Case {
        name: "add in place 33x65",
        op: || Arc::new(AddInPlace),
        inputs: &[(&[33, 65], Draw::Uniform(2.0)), (&[33, 65], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
];
