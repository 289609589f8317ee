//! relu: y = max(x, 0), the nonlinearity of the Transformer (Vaswani et al. 2017), of T5 1.0 and of Transformer-XL.
//!
//!   x, y of any shape, f32 or f16; y is kept for backward: dx = dy where y > 0, else 0
//!
//! Cost: 1 FLOP per element; every tensor moved once.

use super::case::{Case, Draw};
use super::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = max(x, 0).
#[derive(Debug)]
pub struct Relu;

fn pieces(shader: Shader, shape: &Shape, limits: &Limits) -> Vec<Dispatch> {
    elementwise::pieces(shader, shape, &[("X_TYPE", shape.dtype)], limits)
}

impl Op for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1, "relu takes one tensor, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("relu"), shapes.outputs[0], limits)
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(ReluBackward, &[Tensor { node, slot: 0 }, dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].iter_mut().zip(inputs[0]).for_each(|(y, x)| *y = x.max(0.0));
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx = dy where y > 0, in place over dy.
#[derive(Debug)]
pub struct ReluBackward;

impl Op for ReluBackward {
    fn name(&self) -> &'static str {
        "relu_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2 && inputs[0] == inputs[1], "relu_backward takes y and dy, not {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("relu_backward"), shapes.outputs[0], limits)
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].iter_mut().zip(inputs[0]).filter(|(_, y)| **y <= 0.0).for_each(|(d, _)| *d = 0.0);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

const REASON: &str = "numbers are copied";

pub const CASES: &[Case] = &[
    Case {
        name: "relu 5x67",
        op: || Arc::new(Relu),
        inputs: &[(&[5, 67], Draw::Uniform(4.0))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: REASON,
    },
    Case {
        name: "relu of f16, 3x72",
        op: || Arc::new(Relu),
        inputs: &[(&[3, 72], Draw::Half(4.0))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: REASON,
    },
];
