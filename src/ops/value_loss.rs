//! value_loss: the clipped squared error of a critic's values: "Implementation Matters in Deep Policy Gradients" (Engstrom et al. 2020,
//! section 3), as PPO for language models has it.
//!
//!   values, old, returns, weights (N): of tokens;  weights: 0 leaves one out
//!   near = clip(values, old - c, old + c)
//!   loss (1) = sum_i w_i / 2 max((values - returns)^2, (near - returns)^2);  clipped (1): the share where the second counts
//!
//! Backward: dvalues = w (values - returns) dloss, 0 where the clip counts. Cost: some 10 FLOPs an element.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// The sum of weighted squared errors of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueLoss {
    /// How far a value may move from the older one.
    pub clip: f32,
}

impl ValueLoss {
    /// The error of element `i`, and whether that of the clipped value is the larger.
    fn error(&self, inputs: &[&[f32]], i: usize) -> (f64, bool) {
        let [value, old, wanted] = [0, 1, 2].map(|input| f64::from(inputs[input][i]));
        let clip = f64::from(self.clip);
        let (plain, near) = (value - wanted, value.clamp(old - clip, old + clip) - wanted);
        if near * near > plain * plain { (near, true) } else { (plain, false) }
    }
}

impl Op for ValueLoss {
    fn name(&self) -> &'static str {
        "value_loss"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 4 && inputs.iter().all(|s| s.len() == inputs[0].len());
        assert!(fits, "value_loss takes four inputs of one length, not {inputs:?}");
        vec![Shape::f32(&[1]); 2]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("value_loss"))
            .constant("N", shapes.inputs[0].len())
            .constant("THREADS", limits.row_threads())
            .constant("CLIP", self.clip);
        vec![(0..4).fold(d, |d, input| d.read(input)).write(0).write(1)]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let mut inputs = g.nodes()[node].inputs.clone();
        inputs.push(dy);
        vec![needed[0].then(|| g.apply(ValueLossBackward(*self), &inputs)), None, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (mut loss, mut clipped, mut counted) = (0.0, 0.0, 0.0);
        for (i, weight) in inputs[3].iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let (error, is_clipped) = self.error(inputs, i);
            loss += f64::from(*weight) * 0.5 * error * error;
            clipped += if is_clipped { 1.0 } else { 0.0 };
            counted += 1.0;
        }
        (outputs[0][0], outputs[1][0]) = (loss as f32, (clipped / f64::max(counted, 1.0)) as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 10 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dvalues.
#[derive(Debug)]
pub struct ValueLossBackward(ValueLoss);

impl Op for ValueLossBackward {
    fn name(&self) -> &'static str {
        "value_loss_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("value_loss_backward"), shapes.inputs[0].len(), limits);
        vec![(0..5).fold(d.constant("CLIP", self.0.clip), |d, input| d.read(input)).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (i, dx) in outputs[0].iter_mut().enumerate() {
            let (error, is_clipped) = self.0.error(inputs, i);
            let of_square = if is_clipped { 0.0 } else { error };
            *dx = (f64::from(inputs[3][i]) * f64::from(inputs[4][0]) * of_square) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 8 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

pub const CASES: &[Case] = &[Case {
    name: "value_loss of 131",
    op: || Arc::new(ValueLoss { clip: 0.2 }),
    inputs: &[
        (&[131], Draw::Uniform(1.0)),
        (&[131], Draw::Uniform(1.0)),
        (&[131], Draw::Uniform(2.0)),
        (&[131], Draw::Between(0.5, 1.0)),
    ],
    gradient: true,
    position: 0,
    atol: 2e-6,
    rtol: 4e-6,
    reason: "131 squares below 9 are summed in another order",
}];
