//! scale: y = factor * x, elementwise, any shape: the weight of one loss beside another.
//!
//! Cost: 1 FLOP and 8 bytes per element.

use super::case::{Case, Draw};
use super::elementwise::{bytes, elementwise};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
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
        assert!(inputs.len() == 1, "scale takes one tensor, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let piece = |range: Range<usize>| {
            let bytes = bytes(&range, 1);
            let scale = elementwise(shader!("scale"), range.len(), limits).constant("FACTOR", self.factor);
            scale.read_range(0, bytes.clone()).write_range(0, bytes)
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, _node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![needed[0].then(|| g.apply(self.clone(), &[dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].iter_mut().zip(inputs[0]).for_each(|(y, x)| *y = self.factor * x);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const EXACT: &str = "one multiplication, the same on both sides";

pub const CASES: &[Case] = &[
    Case {
        name: "scale 1",
        op: || Arc::new(Scale { factor: 0.3 }),
        inputs: &[(&[1], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
    Case {
        name: "scale 3x257",
        op: || Arc::new(Scale { factor: -1.7 }),
        inputs: &[(&[3, 257], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 1e-7,
        reason: EXACT,
    },
];
