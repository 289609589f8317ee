//! preference_loss: the loss of pairs of answers from their log-probabilities and those of a reference: "Direct Preference
//! Optimization" (Rafailov et al. 2023), SLiC (hinge, Zhao et al. 2023), IPO (Azar et al. 2023) and robust DPO (Chowdhury et al. 2024).
//!
//!   log_probs, reference (2 B): of the chosen and the rejected answer of each pair;  weights (B): 0 leaves a pair out
//!   r = log_probs - reference;  delta = r_chosen - r_rejected
//!   loss (1) = sum_b w_b f(delta_b) / sum_b w_b;  total (1): the weights' sum, kept for backward
//!   chosen, rejected (1): the means of beta r;  accuracy (1): the share of pairs with delta > 0
//!
//! f, with beta and e = smoothing, as trl has it: sigmoid -log s(beta delta);  hinge max(0, 1 - beta delta);  ipo (delta - 1 / (2
//! beta))^2;  robust (-(1 - e) log s(beta delta) + e log s(-beta delta)) / (1 - 2 e).
//!
//! Backward: dlog_probs = w f'(delta) dloss / total of a chosen answer, and minus that of a rejected one. Cost: some 20 FLOPs a pair.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// How a pair's difference becomes a loss.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    Sigmoid,
    Hinge,
    Ipo,
    Robust,
}

/// The mean loss of pairs.
#[derive(Clone, Copy, Debug)]
pub struct PreferenceLoss {
    pub form: Form,
    pub beta: f32,
    /// The share of pairs whose preference is taken to be wrong, below 0.5, of [`Form::Robust`].
    pub smoothing: f32,
}

/// Lower bound of a sum of weights by which a loss is divided.
const LEAST_WEIGHT: f64 = 1e-20;

impl PreferenceLoss {
    /// Loss and derivative of a difference.
    pub fn of(&self, delta: f64) -> (f64, f64) {
        let beta = f64::from(self.beta);
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self.form {
            Form::Hinge if beta * delta < 1.0 => (1.0 - beta * delta, -beta),
            Form::Hinge => (0.0, 0.0),
            Form::Ipo => {
                let by = delta - 0.5 / beta;
                (by * by, 2.0 * by)
            }
            Form::Sigmoid | Form::Robust => {
                let (right, wrong) = self.shares();
                let (right, wrong) = (f64::from(right), f64::from(wrong));
                let loss = right * softplus(-beta * delta) + wrong * softplus(beta * delta);
                (loss, beta * (wrong * sigmoid(beta * delta) - right * sigmoid(-beta * delta)))
            }
        }
    }

    /// Factors of -log s(beta delta) and of -log s(-beta delta).
    fn shares(&self) -> (f32, f32) {
        match self.form {
            Form::Robust => {
                let e = self.smoothing;
                ((1.0 - e) / (1.0 - 2.0 * e), -e / (1.0 - 2.0 * e))
            }
            _ => (1.0, 0.0),
        }
    }

    /// The kernels' constants.
    fn constants(&self, d: Dispatch) -> Dispatch {
        let form: usize = match self.form {
            Form::Sigmoid | Form::Robust => 0,
            Form::Hinge => 1,
            Form::Ipo => 2,
        };
        let (right, wrong) = self.shares();
        d.constant("FORM", form).constant("BETA", self.beta).constant("RIGHT", right).constant("WRONG", wrong)
    }

    /// The differences of the pairs.
    fn deltas(inputs: &[&[f32]]) -> Vec<f64> {
        let ratio = |i: usize| f64::from(inputs[0][i]) - f64::from(inputs[1][i]);
        (0..inputs[0].len() / 2).map(|pair| ratio(2 * pair) - ratio(2 * pair + 1)).collect()
    }
}

impl Op for PreferenceLoss {
    fn name(&self) -> &'static str {
        "preference_loss"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 3 && inputs[0].len() == inputs[1].len() && inputs[0].len() == 2 * inputs[2].len();
        assert!(fits, "preference_loss takes two log-probabilities and references for each pair, not {inputs:?}");
        vec![Shape::f32(&[1]); 5]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("preference_loss"))
            .constant("PAIRS", shapes.inputs[2].len())
            .constant("THREADS", limits.row_threads());
        let d = self.constants(d).read(0).read(1).read(2);
        vec![(0..5).fold(d, |d, output| d.write(output))]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [log_probs, reference, weights] = g.nodes()[node].inputs[..] else { unreachable!("three inputs") };
        let total = Tensor { node, slot: 1 };
        let dx = needed[0].then(|| g.apply(PreferenceLossBackward(*self), &[log_probs, reference, weights, total, dy]));
        vec![dx, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let mut sums = [0.0; 5];
        for (pair, delta) in Self::deltas(inputs).into_iter().enumerate() {
            let weight = f64::from(inputs[2][pair]);
            let reward = |i: usize| f64::from(self.beta) * (f64::from(inputs[0][i]) - f64::from(inputs[1][i]));
            let is_right = if delta > 0.0 { 1.0 } else { 0.0 };
            let of_pair = [self.of(delta).0, 1.0, reward(2 * pair), reward(2 * pair + 1), is_right];
            sums.iter_mut().zip(of_pair).for_each(|(sum, value)| *sum += weight * value);
        }
        let total = sums[1].max(LEAST_WEIGHT);
        for (i, (output, sum)) in outputs.iter_mut().zip(sums).enumerate() {
            output[0] = (if i == 1 { sum } else { sum / total }) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.inputs[2].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dlog_probs.
#[derive(Debug)]
pub struct PreferenceLossBackward(PreferenceLoss);

impl Op for PreferenceLossBackward {
    fn name(&self) -> &'static str {
        "preference_loss_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("preference_loss_backward"), shapes.inputs[2].len(), limits);
        vec![self.0.constants(d).read(0).read(1).read(2).read(3).read(4).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let scale = f64::from(inputs[4][0]) / f64::from(inputs[3][0]).max(LEAST_WEIGHT);
        for (pair, delta) in PreferenceLoss::deltas(inputs).into_iter().enumerate() {
            let d = (f64::from(inputs[2][pair]) * self.0.of(delta).1 * scale) as f32;
            (outputs[0][2 * pair], outputs[0][2 * pair + 1]) = (d, -d);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.inputs[2].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUM: &str = "exponentials of numbers below 4 and their logarithms, up to 67 of them summed in another order";

/// A case of a form.
const fn case(name: &'static str, op: fn() -> Arc<dyn Op>, inputs: &'static [(&'static [usize], Draw)]) -> Case {
    Case { name, op, inputs, gradient: true, position: 0, atol: 2e-6, rtol: 4e-6, reason: SUM }
}

const SMALL: &[(&[usize], Draw)] =
    &[(&[10], Draw::Uniform(3.0)), (&[10], Draw::Uniform(3.0)), (&[5], Draw::Between(0.5, 2.0))];

pub const CASES: &[Case] = &[
    case(
        "preference_loss sigmoid of 67",
        || Arc::new(PreferenceLoss { form: Form::Sigmoid, beta: 0.3, smoothing: 0.0 }),
        &[(&[134], Draw::Uniform(3.0)), (&[134], Draw::Uniform(3.0)), (&[67], Draw::Between(0.0, 2.0))],
    ),
    case("preference_loss hinge", || Arc::new(PreferenceLoss { form: Form::Hinge, beta: 0.5, smoothing: 0.0 }), SMALL),
    case("preference_loss ipo", || Arc::new(PreferenceLoss { form: Form::Ipo, beta: 0.5, smoothing: 0.0 }), SMALL),
    case(
        "preference_loss robust",
        || Arc::new(PreferenceLoss { form: Form::Robust, beta: 0.4, smoothing: 0.2 }),
        SMALL,
    ),
];
