//! gelu: y = x Phi(x), exact or in the tanh form that GPT-2 uses (Hendrycks and Gimpel 2016).
//!
//!   x, y of any shape, f32 or f16; x is kept for backward
//!
//! Cost: about 15 FLOPs and 8 bytes per element. As a rule it runs as the epilogue of a matmul, not by itself.

use super::case::{Case, Draw};
use super::elementwise::{self, VALUES};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

/// Which form of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): `gelu_new` in Hugging Face configurations.
    Tanh,
    /// x Phi(x) by the error function: `gelu`.
    Erf,
}

fn pieces(shader: Shader, form: Form, shape: &Shape, limits: &Limits) -> Vec<Dispatch> {
    let types = [("X_TYPE", shape.dtype), VALUES];
    let pieces = elementwise::pieces(shader, shape, &types, limits).into_iter();
    pieces.map(|d| d.constant("GELU_ERF", form == Form::Erf)).collect()
}

/// y = gelu(x).
#[derive(Debug)]
pub struct Gelu {
    pub form: Form,
}

impl Op for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1, "gelu takes one tensor, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("gelu"), self.form, shapes.outputs[0], limits)
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let x = g.nodes()[node].inputs[0];
        vec![Some(g.apply(GeluBackward { form: self.form }, &[x, dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (y, x) in outputs[0].iter_mut().zip(inputs[0]) {
            *y = gelu(self.form, f64::from(*x)) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 15 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx = dy gelu'(x), in place over dy.
#[derive(Debug)]
pub struct GeluBackward {
    pub form: Form,
}

impl Op for GeluBackward {
    fn name(&self) -> &'static str {
        "gelu_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(
            inputs.len() == 2 && inputs[0] == inputs[1],
            "gelu_backward takes x and dy of one shape, not {inputs:?}"
        );
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        pieces(shader!("gelu_backward"), self.form, shapes.outputs[0], limits)
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (d, x) in outputs[0].iter_mut().zip(inputs[0]) {
            *d = (f64::from(*d) * gelu_derivative(self.form, f64::from(*x))) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 25 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

/// gelu(x) in f64.
pub fn gelu(form: Form, x: f64) -> f64 {
    match form {
        Form::Tanh => 0.5 * x * (1.0 + tanh_part(x)),
        Form::Erf => x * normal_cdf(x),
    }
}

/// gelu'(x) in f64.
pub fn gelu_derivative(form: Form, x: f64) -> f64 {
    match form {
        Form::Tanh => {
            let t = tanh_part(x);
            0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * (2.0 / PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x)
        }
        Form::Erf => normal_cdf(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
    }
}

fn tanh_part(x: f64) -> f64 {
    ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()
}

/// Phi(x), from erf's Maclaurin series where it converges fast and the continued fraction of erfc elsewhere
/// (Abramowitz and Stegun 7.1.6 and 7.1.14); relative error below 1e-13.
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() * FRAC_1_SQRT_2;
    let upper = if z < 2.0 {
        let mut term = z;
        let mut sum = z;
        for n in 1..60 {
            term *= 2.0 * z * z / (2.0 * f64::from(n) + 1.0);
            sum += term;
        }
        0.5 - sum * (-z * z).exp() / PI.sqrt()
    } else {
        let mut fraction = 0.0;
        for n in (1..80).rev() {
            fraction = 0.5 * f64::from(n) / (z + fraction);
        }
        0.5 * (-z * z).exp() / (PI.sqrt() * (z + fraction))
    };
    if x >= 0.0 { 1.0 - upper } else { upper }
}

const TRANSCENDENTAL: &str = "WGSL leaves tanh and exp a few ulp; erf is a polynomial with error 1.5e-7";

pub const CASES: &[Case] = &[
    Case {
        name: "gelu tanh 5x67",
        op: || Arc::new(Gelu { form: Form::Tanh }),
        inputs: &[(&[5, 67], Draw::Uniform(4.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: TRANSCENDENTAL,
    },
    Case {
        name: "gelu erf 5x68",
        op: || Arc::new(Gelu { form: Form::Erf }),
        inputs: &[(&[5, 68], Draw::Uniform(4.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: TRANSCENDENTAL,
    },
    Case {
        name: "gelu tanh of f16, 5x68",
        op: || Arc::new(Gelu { form: Form::Tanh }),
        inputs: &[(&[5, 68], Draw::Half(4.0))],
        gradient: true,
        position: 0,
        atol: 1e-4,
        rtol: 1e-3,
        reason: "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4",
    },
    Case {
        name: "gelu tanh, arguments past overflow",
        op: || Arc::new(Gelu { form: Form::Tanh }),
        inputs: &[(&[256], Draw::Uniform(1000.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: TRANSCENDENTAL,
    },
    Case {
        name: "gelu erf, arguments past overflow",
        op: || Arc::new(Gelu { form: Form::Erf }),
        inputs: &[(&[257], Draw::Uniform(1000.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 5e-6,
        reason: TRANSCENDENTAL,
    },
];
