//! Options of PPO, and the advantages that they give.

use crate::objectives::rollouts::Answer;
use crate::ops::policy_loss::PolicyLoss;
use crate::ops::value_loss::ValueLoss;

/// What is added to a variance.
const LEAST_VARIANCE: f64 = 1e-8;

/// What the objective is made of beside its roll-outs.
#[derive(Clone, Copy, Debug)]
pub struct PpoOptions {
    pub loss: PolicyLoss,
    pub value: ValueLoss,
    /// Weight of the critic's loss.
    pub value_weight: f32,
    /// Factor of the KL divergence in the rewards.
    pub beta: f32,
    /// Nats per answer to which the factor is steered, where it is (Ziegler et al. 2019, section 2.2).
    pub target_kl: Option<f32>,
    pub gamma: f32,
    pub lambda: f32,
    /// Subtracted from the reward of an answer that did not end by itself.
    pub missing_end: f32,
}

impl PpoOptions {
    /// Generalised advantages of the states of an answer, from the rewards of its tokens with this factor of the KL divergence.
    pub(super) fn advantages(&self, beta: f32, answer: &Answer, values: &[f32]) -> Vec<f64> {
        let mut rewards: Vec<f64> = answer
            .log_probs()
            .zip(answer.references())
            .map(|(own, reference)| -f64::from(beta) * (f64::from(own) - f64::from(reference)))
            .collect();
        rewards.resize(values.len(), 0.0);
        let missing = if answer.ended { 0.0 } else { f64::from(self.missing_end) };
        if let (Some(last), Some(reward)) = (rewards.last_mut(), answer.reward()) {
            *last += f64::from(reward) - missing;
        }
        let (gamma, lambda) = (f64::from(self.gamma), f64::from(self.lambda));
        let mut advantages = vec![0.0; values.len()];
        let mut later = 0.0;
        for t in (0..values.len()).rev() {
            let next = values.get(t + 1).map_or(0.0, |value| f64::from(*value));
            later = rewards[t] + gamma * next - f64::from(values[t]) + gamma * lambda * later;
            advantages[t] = later;
        }
        advantages
    }
}

/// States of an answer that the critic values.
pub(super) fn states(answer: &Answer) -> usize {
    answer.ids.len() + usize::from(answer.ended)
}

/// Mean, and the root of the sample's variance.
pub(super) fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, (variance + LEAST_VARIANCE).sqrt())
}
