//! Evaluation without fine-tuning: the log-probabilities of given tokens after given others, and metrics of
//! them.
//!
//! Requests and their tokens are those of EleutherAI's lm-evaluation-harness, so that figures can be compared.

pub mod choose;
pub mod cloze;
pub mod embed;
pub mod entities;
pub mod inspect;
pub mod metrics;
pub mod plot;
pub mod prompt;
pub mod scorer;
pub mod segments;
pub mod spans;
pub mod squad;
pub mod stride;
pub mod texts;

use crate::error::Result;
use crate::fail;

/// exp of a mean loss in nats. Fails where that is no finite number, which says nothing but that the model has diverged.
pub fn perplexity(loss: f64) -> Result<f64> {
    let perplexity = loss.exp();
    if !perplexity.is_finite() {
        fail!(
            Input,
            "the loss is {loss} nats per token, which has no perplexity: the model has diverged or is damaged"
        );
    }
    Ok(perplexity)
}

/// A share of things that were right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    pub mean: f64,
    /// Standard error of the mean; none for a single thing.
    pub error: Option<f64>,
}

impl Accuracy {
    /// Of outcomes, at least one.
    pub fn of(outcomes: impl Iterator<Item = bool>) -> Accuracy {
        let (right, all) = outcomes.fold((0, 0), |(right, all), outcome| (right + u64::from(outcome), all + 1));
        let mean = right as f64 / all as f64;
        let error = (all > 1).then(|| (mean * (1.0 - mean) / (all as f64 - 1.0)).sqrt());
        Accuracy { mean, error }
    }
}
