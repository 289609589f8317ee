//! squared_error: loss = sum_r w_r (x_r - target_r)^2 / sum_r w_r: regression to graded labels, each row with a weight (0 to
//! leave it out).
//!
//!   x, N numbers in any shape;  targets, weights (N);  loss (1);  total (1): the weights' sum, kept for backward
//!
//! Backward: dx = 2 w (x - target) * dloss / total. All weights 0: the loss is 0. Cost: about 5 FLOPs per number.
//! It has no log-probability, and so no kernel in common with `token_log_prob` and its means.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// The weighted mean squared error.
#[derive(Debug)]
pub struct SquaredError;

/// Lower bound of a sum of weights by which a loss is divided.
const LEAST_WEIGHT: f64 = 1e-20;

impl Op for SquaredError {
    fn name(&self) -> &'static str {
        "squared_error"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 3 && inputs[1..].iter().all(|s| s.len() == inputs[0].len());
        assert!(fits, "squared_error does not fit {inputs:?}");
        vec![Shape::f32(&[1]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("squared_error"))
            .constant("ROWS", shapes.inputs[0].len())
            .constant("THREADS", limits.row_threads());
        vec![d.read(0).read(1).read(2).write(0).write(1)]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [x, targets, weights] = g.nodes()[node].inputs[..] else { unreachable!("three inputs") };
        let total = Tensor { node, slot: 1 };
        let dx = needed[0].then(|| g.apply(SquaredErrorBackward, &[x, targets, weights, total, dy]));
        vec![dx, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (mut sum, mut total) = (0.0, 0.0);
        for ((x, target), weight) in inputs[0].iter().zip(inputs[1]).zip(inputs[2]) {
            sum += f64::from(*weight) * (f64::from(*x) - f64::from(*target)).powi(2);
            total += f64::from(*weight);
        }
        outputs[0][0] = (sum / total.max(LEAST_WEIGHT)) as f32;
        outputs[1][0] = total as f32;
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 5 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx.
#[derive(Debug)]
pub struct SquaredErrorBackward;

impl Op for SquaredErrorBackward {
    fn name(&self) -> &'static str {
        "squared_error_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("squared_error_backward"), shapes.inputs[0].len(), limits);
        vec![d.read(0).read(1).read(2).read(3).read(4).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let scale = 2.0 * f64::from(inputs[4][0]) / f64::from(inputs[3][0]).max(LEAST_WEIGHT);
        for (i, d) in outputs[0].iter_mut().enumerate() {
            let by = f64::from(inputs[0][i]) - f64::from(inputs[1][i]);
            *d = (f64::from(inputs[2][i]) * by * scale) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 5 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUM: &str = "squares of numbers near 3, up to 70 of them summed in another order";

pub const CASES: &[Case] = &[
    Case {
        name: "squared_error 1x1",
        op: || Arc::new(SquaredError),
        inputs: &[(&[1, 1], Draw::Uniform(3.0)), (&[1], Draw::Uniform(3.0)), (&[1], Draw::Between(0.5, 2.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 2e-6,
        reason: SUM,
    },
    Case {
        name: "squared_error 67x1",
        op: || Arc::new(SquaredError),
        inputs: &[(&[67, 1], Draw::Uniform(3.0)), (&[67], Draw::Uniform(3.0)), (&[67], Draw::Between(0.0, 2.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 2e-6,
        reason: SUM,
    },
];
