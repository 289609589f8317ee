//! glu: y = f(gate) * up, with gate and up side by side as one matmul makes them (Shazeer 2020, "GLU Variants Improve Transformer"):
//! SwiGLU with f = silu, silu(x) = x / (1 + exp(-x)), GEGLU with f = gelu.
//!
//!   x (..., 2F): gate | up;  y (..., F), both f32 or f16;  x is kept for backward
//!
//! Backward:  dgate = dy * up * f'(gate),  dup = dy * f(gate);  silu'(x) = s (1 + x (1 - s)), s = 1 / (1 + exp(-x))
//! Cost: about 6 FLOPs per element of y forward and 12 backward (GEGLU 16 and 40); every tensor moved once.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, bytes_of, in_quads, width};
use super::gelu::{Form, gelu, gelu_derivative};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// The nonlinearity of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SwiGLU.
    Silu,
    /// GEGLU.
    Gelu(Form),
}

impl Gate {
    /// f(x) in f64.
    fn value(self, x: f64) -> f64 {
        match self {
            Gate::Silu => x * sigmoid(x),
            Gate::Gelu(form) => gelu(form, x),
        }
    }

    /// f'(x) in f64.
    fn derivative(self, x: f64) -> f64 {
        match self {
            Gate::Silu => sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))),
            Gate::Gelu(form) => gelu_derivative(form, x),
        }
    }

    fn on(self, dispatch: Dispatch) -> Dispatch {
        match self {
            Gate::Silu => dispatch,
            Gate::Gelu(form) => dispatch.swap("gate_silu", "gate_gelu").constant("GELU_ERF", form == Form::Erf),
        }
    }

    /// FLOPs for each element, forward and backward.
    fn flops(self) -> [u64; 2] {
        match self {
            Gate::Silu => [6, 12],
            Gate::Gelu(_) => [16, 40],
        }
    }
}

/// y = f(gate) * up.
#[derive(Debug)]
pub struct Glu {
    pub gate: Gate,
}

impl Op for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].columns().is_multiple_of(2);
        assert!(fits, "glu takes one tensor (..., 2F), not {inputs:?}");
        vec![inputs[0].with_columns(inputs[0].columns() / 2)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, f) = (shapes.outputs[0].rows(), shapes.outputs[0].columns());
        let dtype = shapes.outputs[0].dtype;
        let (width, types) = (width(f), [("X_TYPE", dtype), VALUES]);
        let piece = |rows: Range<usize>| {
            let d = in_quads(shader!("glu"), rows.len() * f, width, &types, limits);
            self.gate
                .on(d)
                .constant("F", f / width)
                .read_range(0, bytes_of(dtype, &rows, 2 * f))
                .write_range(0, bytes_of(dtype, &rows, f))
        };
        limits.row_chunks(rows, 2 * f as u64 * dtype.size_bytes()).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let x = g.nodes()[node].inputs[0];
        vec![Some(g.apply(GluBackward { gate: self.gate }, &[x, dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let f = shapes.outputs[0].columns();
        for (x, y) in inputs[0].chunks(2 * f).zip(outputs[0].chunks_mut(f)) {
            for (i, y) in y.iter_mut().enumerate() {
                let (gate, up) = (f64::from(x[i]), f64::from(x[f + i]));
                *y = (self.gate.value(gate) * up) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: self.gate.flops()[0] * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx = dgate | dup from x and dy.
#[derive(Debug)]
pub struct GluBackward {
    pub gate: Gate,
}

impl Op for GluBackward {
    fn name(&self) -> &'static str {
        "glu_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && *inputs[0] == inputs[1].with_columns(2 * inputs[1].columns());
        assert!(fits, "glu_backward takes x (..., 2F) and dy (..., F), not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, f) = (shapes.inputs[1].rows(), shapes.inputs[1].columns());
        let dtype = shapes.outputs[0].dtype;
        let (width, types) = (width(f), [("X_TYPE", dtype), VALUES]);
        let piece = |rows: Range<usize>| {
            let d = in_quads(shader!("glu_backward"), rows.len() * f, width, &types, limits);
            self.gate
                .on(d)
                .constant("F", f / width)
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
                dx[i] = (dy * up * self.gate.derivative(gate)) as f32;
                dx[f + i] = (dy * self.gate.value(gate)) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: self.gate.flops()[1] * shapes.inputs[1].len() as u64, size_bytes: shapes.size_bytes() }
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
            op: || Arc::new(Glu { gate: Gate::Silu }),
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
    case!("glu of silu 1x2", [1, 2], 4.0, true),
    case!("glu of silu 3x5x134", [3, 5, 134], 4.0, true),
    case!("glu of silu 2x2x514", [2, 2, 514], 4.0, true),
    case!("glu of silu, SmolLM2's 128x3072", [1, 128, 3072], 4.0, true),
    Case {
        name: "glu of silu, f16, 3x5x136",
        op: || Arc::new(Glu { gate: Gate::Silu }),
        inputs: &[(&[3, 5, 136], Draw::Half(4.0))],
        gradient: true,
        position: 0,
        atol: 1e-4,
        rtol: 1e-3,
        reason: "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4",
    },
    Case {
        name: "glu of gelu's tanh form, 3x5x134",
        op: || Arc::new(Glu { gate: Gate::Gelu(Form::Tanh) }),
        inputs: &[(&[3, 5, 134], Draw::Uniform(4.0))],
        gradient: true,
        position: 0,
        atol: 1e-5,
        rtol: 2e-5,
        reason: "as gelu's cases: WGSL leaves tanh a few ulp of f32, times arguments up to 4",
    },
    case!("glu of silu, arguments past overflow", [3, 258], 1000.0, false),
    case!("glu of silu, beyond one binding: 769x3072", [769, 3072], 4.0, false),
];
