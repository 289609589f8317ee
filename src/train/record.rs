//! The record of one training step, from which the log, the console line and the plot are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// The record of one training step. JSON has no NaN: a loss that is not finite is written as null and read as NaN.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Loss of the step as the objective reports it: in pretraining the mean cross-entropy, in nats per token.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f32,
    /// The same on held-out data; absent unless measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f32>,
    /// Learning rate of the step.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f32,
    /// Norm of all gradients together, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f32,
    /// Wall time of the step in milliseconds.
    #[serde(deserialize_with = "nan_if_null")]
    pub step_ms: f32,
    /// Tokens trained on per second of wall time.
    #[serde(deserialize_with = "nan_if_null")]
    pub tokens_per_second: f32,
    /// Device memory in use.
    pub memory_bytes: u64,
    /// For every layer with experts the share of choices that went to each since the last validation, relative to an even
    /// one; absent where there are none, and where `val_loss` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_load: Option<Vec<Vec<f32>>>,
    /// The chosen kernels by class; only in the first record since the run began or was resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<BTreeMap<String, String>>,
    /// Mixed precision's loss scale after the step; absent in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Why the update of this step was left out; absent for ordinary steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Numbers of the objective, under their names: means over the step's micro-batches, and measures of the
    /// validation data after it.
    #[serde(flatten)]
    pub scalars: BTreeMap<String, f32>,
}

impl Record {
    /// Its finite numbers by their names in the log, but for the step and the memory.
    pub fn numbers(&self) -> BTreeMap<&str, f64> {
        let mut numbers: BTreeMap<&str, f64> =
            self.scalars.iter().map(|(name, value)| (name.as_str(), f64::from(*value))).collect();
        let Record { loss, lr, grad_norm, step_ms, tokens_per_second, .. } = self;
        let own = [("loss", loss), ("lr", lr), ("grad_norm", grad_norm), ("step_ms", step_ms)];
        numbers.extend(own.map(|(name, value)| (name, f64::from(*value))));
        numbers.insert("tokens_per_second", f64::from(*tokens_per_second));
        numbers.extend(self.val_loss.map(|loss| ("val_loss", f64::from(loss))));
        numbers.extend(self.loss_scale.map(|scale| ("loss_scale", f64::from(scale))));
        numbers.retain(|_, value| value.is_finite());
        numbers
    }
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}
