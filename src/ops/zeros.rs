//! zeros: y = 0, of any shape and of 4-byte numbers: the first row of a table for every token, as ids of an embedding.
//!
//! Cost: y is written once.

use super::case::Case;
use super::elementwise::cleared;
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use std::sync::Arc;

/// A constant tensor of zeros.
#[derive(Debug)]
pub struct Zeros {
    pub shape: Shape,
}

impl Op for Zeros {
    fn name(&self) -> &'static str {
        "zeros"
    }

    fn outputs(&self, _inputs: &[&Shape]) -> Vec<Shape> {
        assert!(self.shape.dtype != Dtype::F16, "zeros are numbers of 4 bytes, not {:?}", self.shape);
        vec![self.shape.clone()]
    }

    fn dispatch(&self, _shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        cleared(0, &self.shape, limits)
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![]
    }

    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].fill(0.0);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }
}

pub const CASES: &[Case] = &[Case {
    name: "zeros 3x100",
    op: || Arc::new(Zeros { shape: Shape::f32(&[3, 100]) }),
    inputs: &[],
    gradient: false,
    position: 0,
    atol: 0.0,
    rtol: 0.0,
    reason: "a constant",
}];
