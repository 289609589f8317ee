//! tanh: y = tanh(x), the nonlinearity of BERT's pooler (Devlin et al. 2019).
//!
//!   x, y of any shape, f32; y is kept for backward: dx = dy (1 - y^2)
//!
//! Cost: about 10 FLOPs and 8 bytes per element; it runs over a row for each sequence.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, pieces};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = tanh(x).
#[derive(Debug)]
pub struct Tanh;

impl Op for Tanh {
    fn name(&self) -> &'static str {
        "tanh"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && *inputs[0] == Shape::f32(&inputs[0].dims), "tanh does not fit {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("tanh"), shapes.outputs[0], &[VALUES], limits)
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(TanhBackward, &[Tensor { node, slot: 0 }, dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].iter_mut().zip(inputs[0]).for_each(|(y, x)| *y = f64::from(*x).tanh() as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 10 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx = dy (1 - y^2), in place over dy.
#[derive(Debug)]
pub struct TanhBackward;

impl Op for TanhBackward {
    fn name(&self) -> &'static str {
        "tanh_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2 && inputs[0] == inputs[1], "tanh_backward takes y and dy, not {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("tanh_backward"), shapes.outputs[0], &[VALUES], limits)
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (d, y) in outputs[0].iter_mut().zip(inputs[0]) {
            *d = (f64::from(*d) * (1.0 - f64::from(*y).powi(2))) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 3 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "tanh 5x68",
        op: || Arc::new(Tanh),
        inputs: &[(&[5, 68], Draw::Uniform(4.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: "WGSL leaves tanh a few ulp, and 1 - y^2 subtracts numbers near 1 that are off by as much",
    },
    Case {
        name: "tanh, arguments past overflow",
        op: || Arc::new(Tanh),
        inputs: &[(&[257], Draw::Uniform(1000.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: "WGSL leaves tanh a few ulp",
    },
];
