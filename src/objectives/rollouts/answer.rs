//! Answers that a policy has drawn, and what they say of it.

use serde::{Deserialize, Serialize};

use crate::train::objective::RollOut;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub question: usize,
    pub ids: Vec<u32>,
    /// The policy's log-probabilities of the tokens when they were drawn, as bits: JSON does not keep every one.
    pub(super) log_probs: Vec<u32>,
    /// The reference's.
    pub(super) references: Vec<u32>,
    /// Whether it ended by itself.
    pub ended: bool,
    pub(super) reward: Option<u32>,
}

impl Answer {
    /// One to a question, with nothing said yet.
    pub(super) fn to(question: usize) -> Answer {
        Answer { question, ids: vec![], log_probs: vec![], references: vec![], ended: false, reward: None }
    }

    /// Log-probabilities of its tokens when they were drawn, in nats.
    pub fn log_probs(&self) -> impl Iterator<Item = f32> {
        self.log_probs.iter().map(|bits| f32::from_bits(*bits))
    }

    /// Those of the reference.
    pub fn references(&self) -> impl Iterator<Item = f32> {
        self.references.iter().map(|bits| f32::from_bits(*bits))
    }

    /// None where its source gave none.
    pub fn reward(&self) -> Option<f32> {
        self.reward.map(f32::from_bits)
    }

    /// The sum over its tokens of the difference between both log-probabilities: an estimate of the KL divergence of the policy from its
    /// reference, in nats per answer.
    pub fn log_ratio(&self) -> f64 {
        self.log_probs().zip(self.references()).map(|(own, reference)| f64::from(own) - f64::from(reference)).sum()
    }
}

/// What answers say of a policy.
pub(super) fn measures(answers: &[Answer]) -> RollOut {
    let count = answers.len() as f64;
    let mean = |of: &dyn Fn(&Answer) -> f64| (answers.iter().map(of).sum::<f64>() / count) as f32;
    let tokens: usize = answers.iter().map(|answer| answer.ids.len()).sum();
    let drawn: f64 = answers.iter().flat_map(Answer::log_probs).map(f64::from).sum();
    let rewards: Vec<f64> = answers.iter().filter_map(Answer::reward).map(f64::from).collect();
    let reward = rewards.iter().sum::<f64>() / (rewards.len() as f64).max(1.0);
    let spread = rewards.iter().map(|r| (r - reward).powi(2)).sum::<f64>() / (rewards.len() as f64 - 1.0).max(1.0);
    let scalars = vec![
        ("reward", reward as f32),
        ("reward_std", spread.sqrt() as f32),
        ("kl", mean(&Answer::log_ratio)),
        // What a token was drawn at says its entropy, on average.
        ("entropy", (-drawn / tokens.max(1) as f64) as f32),
        ("answer_tokens", mean(&|answer| answer.ids.len() as f64)),
        ("ended", mean(&|answer| f64::from(u8::from(answer.ended)))),
    ];
    RollOut { scalars, ..RollOut::default() }
}
