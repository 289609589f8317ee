//! scale: y = factor * x, any shape: the weight of one loss beside another.
//!
//! Backward is the same op. Cost: 1 FLOP and 8 bytes per element.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, pieces};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = factor * x.
#[derive(Clone, Debug)]
pub struct Scale {
    pub factor: f32,
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && *inputs[0] == Shape::f32(&inputs[0].dims);
        assert!(fits, "scale takes one tensor of f32, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let pieces = pieces(shader!("scale"), shapes.outputs[0], &[VALUES], limits).into_iter();
        pieces.map(|d| d.constant("FACTOR", self.factor)).collect()
    }

    fn vjp(&self, g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(self.clone(), &[dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].iter_mut().zip(inputs[0]).for_each(|(y, x)| *y = self.factor * x);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

pub const CASES: &[Case] = &[Case {
    name: "scale 5x128 by 0.3",
    op: || Arc::new(Scale { factor: 0.3 }),
    inputs: &[(&[5, 128], Draw::Uniform(3.0))],
    gradient: true,
    position: 0,
    atol: 0.0,
    rtol: 1e-7,
    reason: "one multiplication, the same on both sides",
}];
