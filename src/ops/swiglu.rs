//! swiglu: y = silu(gate) * up, silu(x) = x / (1 + exp(-x)), with gate and up side by side as one matmul makes them
//! (Shazeer 2020).
//!
//!   x (..., 2F): gate | up;  y (..., F), both f32 or f16;  x is kept for backward
//!
//! Backward, with s = 1 / (1 + exp(-gate)):  dgate = dy * up * s * (1 + gate * (1 - s)),  dup = dy * gate * s
//! Cost: about 6 FLOPs per element of y forward and 12 backward; every tensor moved once.

use super::case::{Case, Draw};
use super::elementwise::{bytes_of, elementwise};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = silu(gate) * up.
#[derive(Debug)]
pub struct SwiGlu;

impl Op for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].columns().is_multiple_of(2);
        assert!(fits, "swiglu takes one tensor (..., 2F), not {inputs:?}");
        vec![inputs[0].with_columns(inputs[0].columns() / 2)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, f) = (shapes.outputs[0].rows(), shapes.outputs[0].columns());
        let dtype = shapes.outputs[0].dtype;
        let piece = |rows: Range<usize>| {
            elementwise(shader!("swiglu"), rows.len() * f, limits)
                .constant("F", f)
                .element("X_TYPE", dtype)
                .read_range(0, bytes_of(dtype, &rows, 2 * f))
                .write_range(0, bytes_of(dtype, &rows, f))
        };
        limits.row_chunks(rows, 2 * f as u64 * dtype.size_bytes()).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let x = g.nodes()[node].inputs[0];
        vec![Some(g.apply(SwiGluBackward, &[x, dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let f = shapes.outputs[0].columns();
        for (x, y) in inputs[0].chunks(2 * f).zip(outputs[0].chunks_mut(f)) {
            for (i, y) in y.iter_mut().enumerate() {
                let (gate, up) = (f64::from(x[i]), f64::from(x[f + i]));
                *y = (gate * sigmoid(gate) * up) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 6 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx = dgate | dup from x and dy.
#[derive(Debug)]
pub struct SwiGluBackward;

impl Op for SwiGluBackward {
    fn name(&self) -> &'static str {
        "swiglu_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && *inputs[0] == inputs[1].with_columns(2 * inputs[1].columns());
        assert!(fits, "swiglu_backward takes x (..., 2F) and dy (..., F), not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, f) = (shapes.inputs[1].rows(), shapes.inputs[1].columns());
        let dtype = shapes.outputs[0].dtype;
        let piece = |rows: Range<usize>| {
            elementwise(shader!("swiglu_backward"), rows.len() * f, limits)
                .constant("F", f)
                .element("X_TYPE", dtype)
                .read_range(0, bytes_of(dtype, &rows, 2 * f))
                .read_range(1, bytes_of(dtype, &rows, f))
                .write_range(0, bytes_of(dtype, &rows, 2 * f))
        };
        limits.row_chunks(rows, 2 * f as u64 * dtype.size_bytes()).into_iter().map(piece).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let f = shapes.inputs[1].columns();
        for ((x, dy), dx) in inputs[0].chunks(2 * f).zip(inputs[1].chunks(f)).zip(outputs[0].chunks_mut(2 * f)) {
            for i in 0..f {
                let (gate, up, dy) = (f64::from(x[i]), f64::from(x[f + i]), f64::from(dy[i]));
                let s = sigmoid(gate);
                dx[i] = (dy * up * s * (1.0 + gate * (1.0 - s))) as f32;
                dx[f + i] = (dy * gate * s) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 12 * shapes.inputs[1].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

const EXP: &str =
    "WGSL allows exp 3 + 2 |x| ulp, 11 at the 4 drawn here, and a division 2.5; past 80, exp is 0 either way";

/// x at a shape, up to a size.
macro_rules! case {
    ($name:literal, $rows:expr, $scale:literal, $gradient:literal) => {
        Case {
            name: $name,
            op: || Arc::new(SwiGlu),
            inputs: &[(&$rows, Draw::Uniform($scale))],
            gradient: $gradient,
            position: 0,
            atol: 2e-6,
            rtol: 4e-6,
            reason: EXP,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("swiglu 1x2", [1, 2], 4.0, true),
    case!("swiglu 3x5x134", [3, 5, 134], 4.0, true),
    case!("swiglu 2x2x514", [2, 2, 514], 4.0, true),
    case!("swiglu, SmolLM2's 128x3072", [1, 128, 3072], 4.0, true),
    Case {
        name: "swiglu of f16, 3x5x134",
        op: || Arc::new(SwiGlu),
        inputs: &[(&[3, 5, 134], Draw::Half(4.0))],
        gradient: true,
        position: 0,
        atol: 1e-4,
        rtol: 1e-3,
        reason: "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4",
    },
    case!("swiglu, arguments past overflow", [3, 258], 1000.0, false),
    case!("swiglu, beyond one binding: 12289x3072", [12289, 3072], 4.0, false),
];
