//! add: y = a + b, elementwise, any shape: the residual connection, and the sum of two gradients. y is of a's type.
//!
//! Cost: 1 FLOP and 12 bytes per element (8 read, 4 written).

use super::case::{Case, Draw};
use super::cast::cast;
use super::elementwise::{VALUES, bytes_of, in_quads, width};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = a + b.
#[derive(Debug)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(
            inputs.len() == 2 && inputs[0].dims == inputs[1].dims,
            "add takes two tensors of one shape, not {inputs:?}"
        );
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (a, b) = (shapes.inputs[0].dtype, shapes.inputs[1].dtype);
        let width = width(shapes.outputs[0].len());
        let types = [("A_TYPE", a), ("B_TYPE", b), ("Y_TYPE", a), VALUES];
        let add = |range: Range<usize>| {
            in_quads(shader!("add"), range.len(), width, &types, limits)
                .read_range(0, bytes_of(a, &range, 1))
                .read_range(1, bytes_of(b, &range, 1))
                .write_range(0, bytes_of(a, &range, 1))
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(add).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(dy), Some(dy_of_b(g, node, dy))]
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

/// dy as the type of b.
fn dy_of_b(g: &mut Graph, node: usize, dy: Tensor) -> Tensor {
    let wanted = g.shape(g.nodes()[node].inputs[1]).dtype;
    cast(g, dy, wanted)
}

/// a += b: added to a gradient by a kernel of its own, where the op that made b cannot accumulate.
#[derive(Debug)]
pub struct AddInPlace;

/// The op with which differentiation sums gradients.
pub fn add_in_place() -> Arc<dyn Op> {
    Arc::new(AddInPlace)
}

impl Op for AddInPlace {
    fn name(&self) -> &'static str {
        "add_in_place"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        Add.outputs(inputs)
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (a, b) = (shapes.inputs[0].dtype, shapes.inputs[1].dtype);
        let width = width(shapes.outputs[0].len());
        let types = [("A_TYPE", a), ("B_TYPE", b), VALUES];
        let add = |range: Range<usize>| {
            in_quads(shader!("add_in_place"), range.len(), width, &types, limits)
                .read_range(1, bytes_of(b, &range, 1))
                .write_range(0, bytes_of(a, &range, 1))
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(add).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(dy), Some(dy_of_b(g, node, dy))]
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

const HALF: &str = "one rounding, the same on both sides; devices may take f16 below 6.1e-5 as 0";
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
        name: "add f16 to f32, 33x68",
        op: || Arc::new(Add),
        inputs: &[(&[33, 68], Draw::Uniform(2.0)), (&[33, 68], Draw::Half(2.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-7,
        reason: HALF,
    },
    Case {
        name: "add in place, f16, 33x65",
        op: || Arc::new(AddInPlace),
        inputs: &[(&[33, 65], Draw::Half(2.0)), (&[33, 65], Draw::Half(2.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-7,
        reason: HALF,
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
        name: "add in place 33x64",
        op: || Arc::new(AddInPlace),
        inputs: &[(&[33, 64], Draw::Uniform(2.0)), (&[33, 64], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
];
