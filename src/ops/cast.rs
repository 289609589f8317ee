//! cast: y = x in another element type, any shape: the f16 copy of a weight, or of the gradient of an f32 tensor.
//!
//! Rounded to the nearest; values beyond 65504, f16's largest, become infinite. The gradient passes through as it is where it
//! is f32 already: a product makes a weight's gradient in f32, and rounding it to the type of the copy would only lose digits.
//! Cost: 6 bytes per element.

use super::case::{Case, Draw};
use super::elementwise::{bytes_of, in_quads, width};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Source, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = x as `to`.
#[derive(Debug)]
pub struct Cast {
    pub to: Dtype,
}

/// `x` as `to`: itself where it is that already, and the f16 tensor that it is an f32 copy of where there is one.
pub fn cast(g: &mut Graph, x: Tensor, to: Dtype) -> Tensor {
    if g.shape(x).dtype == to {
        return x;
    }
    let node = &g.nodes()[x.node];
    let is_copy = matches!(&node.source, Source::Op(op) if op.name() == NAME);
    match node.inputs.first() {
        Some(&original) if is_copy && to == Dtype::F16 && g.shape(original).dtype == to => original,
        _ => g.apply(Cast { to }, &[x]),
    }
}

const NAME: &str = "cast";

impl Op for Cast {
    fn name(&self) -> &'static str {
        NAME
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && inputs[0].dtype != Dtype::U32, "cast takes one tensor of numbers, not {inputs:?}");
        vec![inputs[0].with_dtype(self.to)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (x, y) = (shapes.inputs[0].dtype, shapes.outputs[0].dtype);
        let width = width(shapes.outputs[0].len());
        let piece = |range: Range<usize>| {
            in_quads(shader!("cast"), range.len(), width, &[("X_TYPE", x), ("Y_TYPE", y)], limits)
                .read_range(0, bytes_of(x, &range, 1))
                .write_range(0, bytes_of(y, &range, 1))
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let wanted = g.shape(g.nodes()[node].inputs[0]).dtype;
        vec![Some(cast(g, dy, wanted))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].copy_from_slice(inputs[0]); // the executor rounds
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }
}

const EXACT: &str = "one rounding, the same on both sides; devices may take f16 below 6.1e-5 as 0";

pub const CASES: &[Case] = &[
    Case {
        name: "cast to f16, 3x68",
        op: || Arc::new(Cast { to: Dtype::F16 }),
        inputs: &[(&[3, 68], Draw::Uniform(1000.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 0.0,
        reason: EXACT,
    },
    Case {
        name: "cast from f16, 65537x3",
        op: || Arc::new(Cast { to: Dtype::F32 }),
        inputs: &[(&[65537, 3], Draw::Half(1000.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 0.0,
        reason: EXACT,
    },
    Case {
        name: "cast to f16, beyond one binding: 50257x768",
        op: || Arc::new(Cast { to: Dtype::F16 }),
        inputs: &[(&[50257, 768], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 6.2e-5,
        rtol: 0.0,
        reason: EXACT,
    },
];
