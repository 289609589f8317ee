//! policy_loss: the clipped loss of a policy on what an older one drew: "Proximal Policy Optimization Algorithms" (Schulman et al. 2017,
//! equation 7), with the KL divergence from a reference in it: "DeepSeekMath" (Shao et al. 2024, equations 3 and 4), times the ratio so that
//! its gradient is unbiased: "DeepSeek-V3.2" (DeepSeek-AI 2025, arXiv 2512.02556).
//!
//!   log_probs, old, references, advantages, weights (N): of tokens, or of whole answers;  weights: 0 leaves one out
//!   ratio = exp(log_probs - old);  d = references - log_probs;  kl_i = exp(d) - d - 1
//!   loss (1) = sum_i w_i (beta ratio kl_i - min(ratio A, clip(ratio, 1 - low, 1 + high) A))
//!   kl (1): the mean of kl_i;  clipped (1): the share where the clip counts; both over those of weight unlike 0
//!
//! The weights say how losses are normalised: 1 / tokens of a step (DAPO), 1 / (answers * tokens of the answer) (GRPO), and so on.
//! Backward: dlog_probs = w ratio (beta (1 - exp(d) + kl_i) - A) dloss, without the second part where the clip counts. Cost: some 20 FLOPs an
//! element.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// The sum of weighted policy losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyLoss {
    /// How far the ratio may fall below 1, and how far it may rise above.
    pub low: f32,
    pub high: f32,
    /// Factor of the KL divergence from the reference.
    pub beta: f32,
}

impl PolicyLoss {
    fn constants(&self, d: Dispatch) -> Dispatch {
        d.constant("LOW", 1.0 - self.low).constant("HIGH", 1.0 + self.high).constant("BETA", self.beta)
    }

    /// Whether the clip counts.
    fn is_clipped(&self, ratio: f64, advantage: f64) -> bool {
        (ratio < f64::from(1.0 - self.low) && advantage < 0.0)
            || (ratio > f64::from(1.0 + self.high) && advantage > 0.0)
    }
}

/// The ratio of element `i`, and how far its reference's log-probability is above the policy's.
fn ratio(inputs: &[&[f32]], i: usize) -> (f64, f64) {
    let [log_prob, old, reference] = [0, 1, 2].map(|input| f64::from(inputs[input][i]));
    ((log_prob - old).exp(), reference - log_prob)
}

impl Op for PolicyLoss {
    fn name(&self) -> &'static str {
        "policy_loss"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 5 && inputs.iter().all(|s| s.len() == inputs[0].len());
        assert!(fits, "policy_loss takes five inputs of one length, not {inputs:?}");
        vec![Shape::f32(&[1]); 3]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("policy_loss"))
            .constant("N", shapes.inputs[0].len())
            .constant("THREADS", limits.row_threads());
        let d = (0..5).fold(self.constants(d), |d, input| d.read(input));
        vec![(0..3).fold(d, |d, output| d.write(output))]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let mut inputs = g.nodes()[node].inputs.clone();
        inputs.push(dy);
        vec![needed[0].then(|| g.apply(PolicyLossBackward(*self), &inputs)), None, None, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let [mut loss, mut divergences, mut clipped, mut counted] = [0.0; 4];
        for (i, weight) in inputs[4].iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            let ((ratio, beyond), advantage) = (ratio(inputs, i), f64::from(inputs[3][i]));
            let is_clipped = self.is_clipped(ratio, advantage);
            let (low, high) = (f64::from(1.0 - self.low), f64::from(1.0 + self.high));
            let gain = advantage * if is_clipped { ratio.clamp(low, high) } else { ratio };
            let divergence = beyond.exp() - beyond - 1.0;
            loss += f64::from(*weight) * (f64::from(self.beta) * ratio * divergence - gain);
            divergences += divergence;
            clipped += if is_clipped { 1.0 } else { 0.0 };
            counted += 1.0;
        }
        let means = [divergences, clipped].map(|sum| sum / f64::max(counted, 1.0));
        for (output, value) in outputs.iter_mut().zip([loss].into_iter().chain(means)) {
            output[0] = value as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dlog_probs.
#[derive(Debug)]
pub struct PolicyLossBackward(PolicyLoss);

impl Op for PolicyLossBackward {
    fn name(&self) -> &'static str {
        "policy_loss_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("policy_loss_backward"), shapes.inputs[0].len(), limits);
        vec![(0..6).fold(self.0.constants(d), |d, input| d.read(input)).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (i, dx) in outputs[0].iter_mut().enumerate() {
            let weight = f64::from(inputs[4][i]);
            if weight == 0.0 {
                *dx = 0.0;
                continue;
            }
            let ((ratio, beyond), advantage) = (ratio(inputs, i), f64::from(inputs[3][i]));
            let of_gain = if self.0.is_clipped(ratio, advantage) { 0.0 } else { ratio * advantage };
            // 1 - exp(d) + kl_i
            let of_divergence = -ratio * beyond;
            *dx = (weight * f64::from(inputs[5][0]) * (f64::from(self.0.beta) * of_divergence - of_gain)) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 15 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUM: &str = "exponentials of numbers below 2, whose products with advantages are summed in another order";

pub const CASES: &[Case] = &[
    Case {
        name: "policy_loss of 131 with a reference",
        op: || Arc::new(PolicyLoss { low: 0.2, high: 0.28, beta: 0.1 }),
        inputs: &[
            (&[131], Draw::Uniform(0.4)),
            (&[131], Draw::Uniform(0.4)),
            (&[131], Draw::Uniform(0.4)),
            (&[131], Draw::Uniform(2.0)),
            (&[131], Draw::Between(0.0, 0.1)),
        ],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: SUM,
    },
    Case {
        name: "policy_loss of rows 3x7",
        op: || Arc::new(PolicyLoss { low: 0.2, high: 0.2, beta: 0.0 }),
        inputs: &[
            (&[3, 7], Draw::Uniform(0.3)),
            (&[3, 7], Draw::Uniform(0.3)),
            (&[3, 7], Draw::Uniform(0.3)),
            (&[3, 7], Draw::Uniform(2.0)),
            (&[3, 7], Draw::Between(0.5, 1.0)),
        ],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: SUM,
    },
];
