//! The user's choices of a run, whatever its objective: flags, and the same as keys of a configuration file.

use super::{Cadence, Precision};
use crate::error::Result;
use crate::fail;
use crate::graph::Quantisation;
use crate::models::config::Config;
use crate::models::lora::Lora;
use crate::ranks::Wire;
use crate::train::rates::Freeze;
use crate::train::schedule::ScheduleKind;
use serde::{Deserialize, Serialize};

/// Every choice of a run that all objectives have, each a flag and a key of the configuration file; the command's recipe
/// has defaults for those that are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case")]
pub struct Choices {
    /// Sequences or examples per micro-batch
    #[arg(long, help_heading = "Optimiser")]
    pub batch: Option<usize>,
    /// Micro-batches per step, their gradients averaged
    #[arg(long, help_heading = "Optimiser")]
    pub accumulate: Option<usize>,
    /// Steps over which the micro-batches of a step grow linearly from 1 to --accumulate [default: none]
    #[arg(long, value_name = "STEPS", help_heading = "Optimiser")]
    pub batch_warmup: Option<u64>,
    /// Optimiser steps of the whole run
    #[arg(long, help_heading = "Optimiser")]
    pub steps: Option<u64>,
    /// Passes over the training data, in place of --steps
    #[arg(long, help_heading = "Optimiser", conflicts_with = "steps")]
    pub epochs: Option<u64>,
    /// Peak learning rate
    #[arg(long, help_heading = "Optimiser")]
    pub lr: Option<f32>,
    /// Learning rate at the end of the decay [default: a tenth of the peak in pretraining, else 0]
    #[arg(long, help_heading = "Optimiser")]
    pub min_lr: Option<f32>,
    /// Peak learning rate of the output projection or the task's head [default: that of the rest]
    #[arg(long, help_heading = "Optimiser")]
    pub head_lr: Option<f32>,
    /// Learning rate of a layer as a share of that of the layer above it [default: 1]
    #[arg(long, value_name = "SHARE", help_heading = "Optimiser")]
    pub layer_decay: Option<f32>,
    /// Steps of linear warmup
    #[arg(long, help_heading = "Optimiser")]
    pub warmup: Option<u64>,
    /// Steps, those of warmup among them, after which the learning rate stays at --min-lr [default: those of the run]
    #[arg(long, value_name = "STEPS", help_heading = "Optimiser")]
    pub decay_steps: Option<u64>,
    /// Learning rate after the warmup
    #[arg(long, value_enum, help_heading = "Optimiser")]
    pub schedule: Option<ScheduleKind>,
    /// Decoupled weight decay of matrices; biases and norms have none
    #[arg(long, help_heading = "Optimiser")]
    pub weight_decay: Option<f32>,
    /// AdamW's decay of the mean gradient
    #[arg(long, help_heading = "Optimiser")]
    pub beta1: Option<f64>,
    /// AdamW's decay of the mean squared gradient
    #[arg(long, help_heading = "Optimiser")]
    pub beta2: Option<f64>,
    /// Largest gradient norm; 0 for no clipping
    #[arg(long, help_heading = "Optimiser")]
    pub clip: Option<f32>,
    /// Of several ranks: take so many steps without the others, then average what all have learned (DiLoCo); 0 for the mean gradient of
    /// all in every step
    #[arg(long, value_name = "STEPS", help_heading = "Ranks")]
    pub sync_every: Option<u64>,
    /// Of several ranks: the type in which numbers travel [default: f32; f16 with --sync-every]
    #[arg(long, value_enum, help_heading = "Ranks")]
    pub wire: Option<Wire>,
    /// Dropout probability (embedding, attention, residual, task's head)
    #[arg(long, help_heading = "Optimiser")]
    pub dropout: Option<f32>,
    /// Freeze the embeddings and so many of the lowest layers; or all: train the task's head alone
    #[arg(long, value_name = "LAYERS|all", help_heading = "Optimiser")]
    pub freeze: Option<Freeze>,
    /// Train adapters of this rank on linear layers, and leave the model as it is (LoRA); --out then holds the adapters alone
    #[arg(long, value_name = "RANK", help_heading = "Adapters")]
    pub lora: Option<usize>,
    /// Factor of the adapters, divided by the rank [default: 8]
    #[arg(long, value_name = "A", requires = "lora", help_heading = "Adapters")]
    pub lora_alpha: Option<f32>,
    /// Dropout probability of the adapters' inputs [default: 0]
    #[arg(long, value_name = "P", requires = "lora", help_heading = "Adapters")]
    pub lora_dropout: Option<f32>,
    /// Names of the layers that have adapters, such as q_proj,v_proj, or all-linear [default: as in peft, q_proj,v_proj or c_attn]
    #[arg(long, value_name = "NAMES", requires = "lora", help_heading = "Adapters")]
    pub lora_targets: Option<String>,
    /// Divide the factor by the square root of the rank instead (rsLoRA)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false", requires = "lora", help_heading = "Adapters")]
    pub rslora: Option<bool>,
    /// How the matrices of the model that is adapted are kept on the device: less memory than f32
    #[arg(long, value_enum, help_heading = "Adapters")]
    pub base: Option<Quantisation>,
    /// Floating-point format: mixed halves the memory of activations, on devices that have f16 [default: f32]
    #[arg(long, value_enum, help_heading = "Memory")]
    pub precision: Option<Precision>,
    /// Compute the activations of a block again in the backward pass: less memory, a third more work
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false", help_heading = "Memory")]
    pub recompute: Option<bool>,
    /// Make logits, their loss and gradients for so many tokens at a time (a multiple of 64, or rounded up to one): less
    /// memory where the vocabulary is large; 0 for all at once
    #[arg(long, value_name = "N", help_heading = "Memory")]
    pub classifier_rows: Option<usize>,
    /// Seed of initial values, batches and dropout
    #[arg(long, help_heading = "Run")]
    pub seed: Option<u64>,
    /// Steps between validations; 0 for only the last; epoch for one after each pass over the data
    #[arg(long, value_name = "STEPS|epoch", help_heading = "Run")]
    pub eval_every: Option<Cadence>,
    /// Batches per validation, where the validation data is text
    #[arg(long, help_heading = "Run")]
    pub eval_batches: Option<u64>,
    /// Steps between checkpoints; 0 for only the last; epoch for one after each pass over the data
    #[arg(long, value_name = "STEPS|epoch", help_heading = "Run")]
    pub save_every: Option<Cadence>,
    /// Steps between sample texts; 0 for none
    #[arg(long, help_heading = "Run")]
    pub sample_every: Option<u64>,
    /// Stop after so many validations in a row that are no better; 0 for never
    #[arg(long, help_heading = "Run")]
    pub patience: Option<u64>,
}

impl Choices {
    /// The model with new adapters, where there are to be some. `base` is the model as it is in its files, and its name in the
    /// adapters' folder; tables that have more rows than there are trained as well. A model that has adapters is trained on with
    /// those.
    pub fn adapted(&self, config: Config, (base, name): (&Config, Option<String>)) -> Result<Config> {
        let Some(rank) = self.lora else {
            if self.base.is_some() && config.lora.is_none() {
                fail!(Usage, "--base quantises a model that stays as it is, under adapters: give --lora RANK as well");
            }
            if config.lora.is_some() && config.vocab_size != base.vocab_size {
                fail!(Usage, "the adapters' model needs tokens of its own for this: merge them first, with wgpt merge");
            }
            if self.lora_alpha.is_some()
                || self.lora_dropout.is_some()
                || self.lora_targets.is_some()
                || self.rslora.is_some()
            {
                fail!(Usage, "settings of adapters need their rank: give --lora RANK as well");
            }
            return Ok(config);
        };
        if config.lora.is_some() {
            fail!(
                Usage,
                "the model has adapters, which are trained on without --lora: leave it out, or merge them first"
            );
        }
        if self.freeze.is_some() {
            fail!(
                Usage,
                "--freeze is about the model's own layers, which --lora leaves as they are: leave one of them out"
            );
        }
        let targets = match &self.lora_targets {
            Some(names) => {
                names.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect()
            }
            None => config.family().lora_targets().iter().map(|name| name.to_string()).collect(),
        };
        let lora = Lora {
            rank,
            alpha: self.lora_alpha.unwrap_or(8.0),
            dropout: self.lora_dropout.unwrap_or(0.0),
            targets,
            rank_stabilised: self.rslora.unwrap_or(false),
            saved: config.tables_beyond(base),
            base: name,
        };
        Ok(Config { lora: Some(lora.check(&config)?), ..config })
    }
}

/// These choices where they are made, `other`'s elsewhere: of any structure of optional choices.
pub fn merged<T: Serialize + serde::de::DeserializeOwned>(choices: &T, other: &T) -> T {
    let object = |choices: &T| match serde_json::to_value(choices) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => unreachable!("choices are an object of optional values"),
    };
    let mut merged = object(other);
    merged.extend(object(choices).into_iter().filter(|(_, value)| !value.is_null()));
    serde_json::from_value(merged.into()).expect("choices read back what they wrote")
}
