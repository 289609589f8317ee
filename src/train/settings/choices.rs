//! What a user gives: flags, and the same as keys of a configuration file.

use crate::models::config::Norm;
use crate::train::schedule::ScheduleKind;
use serde::{Deserialize, Serialize};

/// Floating-point format of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// f16 activations and copies of the weights; f32 weights, sums, residual stream and optimiser; a loss scale.
    Mixed,
}

/// How a model of this program's own knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PositionKind {
    /// A learned vector per position.
    Learned,
    /// Rotary embedding of queries and keys, base 10,000.
    Rope,
}

/// What stands between the layers of a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum FeedForwardKind {
    Gelu,
    /// Of two thirds of the channels, so that the parameters stay as many.
    SwiGlu,
}

/// Every choice of a run, each a key of the configuration file and a flag; what is left out follows from the preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Choices {
    /// Named model: demo, char, gpt2, gpt2-medium, gpt2-large, gpt2-xl, gpt, gpt-mini, llama-mini, mixtral, smollm2-135m,
    /// smollm2-360m, tinyllama-1.1b [default: demo]
    #[arg(long)]
    pub preset: Option<String>,
    /// Transformer blocks
    #[arg(long)]
    pub layers: Option<usize>,
    /// Attention heads per block
    #[arg(long)]
    pub heads: Option<usize>,
    /// Heads of keys and values in a llama preset, each shared by several attention heads
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// Channels of the residual stream
    #[arg(long)]
    pub width: Option<usize>,
    /// Tokens per sequence
    #[arg(long)]
    pub context: Option<usize>,
    /// Norm of a GPT-2 preset [default: layernorm]
    #[arg(long, value_enum)]
    pub norm: Option<Norm>,
    /// Positions of a GPT-2 preset [default: learned]
    #[arg(long, value_enum)]
    pub position: Option<PositionKind>,
    /// Feed-forward part of a GPT-2 preset [default: gelu]
    #[arg(long, value_enum)]
    pub feed_forward: Option<FeedForwardKind>,
    /// Experts of each layer in a mixtral preset
    #[arg(long)]
    pub experts: Option<usize>,
    /// Experts that a token uses
    #[arg(long)]
    pub experts_per_token: Option<usize>,
    /// Coefficient of the loss that balances the experts' load
    #[arg(long)]
    pub router_balance: Option<f32>,
    /// Coefficient of the loss that keeps routers' logits small
    #[arg(long)]
    pub router_z: Option<f32>,
    /// Sequences per micro-batch
    #[arg(long)]
    pub batch: Option<usize>,
    /// Micro-batches per step, their gradients averaged
    #[arg(long)]
    pub accumulate: Option<usize>,
    /// Optimiser steps of the whole run
    #[arg(long)]
    pub steps: Option<u64>,
    /// Peak learning rate
    #[arg(long)]
    pub lr: Option<f32>,
    /// Learning rate at the end of the decay [default: a tenth of the peak]
    #[arg(long)]
    pub min_lr: Option<f32>,
    /// Steps of linear warmup
    #[arg(long)]
    pub warmup: Option<u64>,
    /// Learning rate after the warmup
    #[arg(long, value_enum)]
    pub schedule: Option<ScheduleKind>,
    /// Decoupled weight decay of matrices; biases and norms have none
    #[arg(long)]
    pub weight_decay: Option<f32>,
    /// AdamW's decay of the mean gradient
    #[arg(long)]
    pub beta1: Option<f64>,
    /// AdamW's decay of the mean squared gradient
    #[arg(long)]
    pub beta2: Option<f64>,
    /// Largest gradient norm; 0 for no clipping
    #[arg(long)]
    pub clip: Option<f32>,
    /// Dropout probability (embedding, attention, residual)
    #[arg(long)]
    pub dropout: Option<f32>,
    /// Standard deviation of initial weights [default: 0.02, as GPT-2; the demo preset has its own]
    #[arg(long)]
    pub init_std: Option<f32>,
    /// Seed of initialisation, batches and dropout
    #[arg(long)]
    pub seed: Option<u64>,
    /// Steps between validations; 0 for only the last
    #[arg(long)]
    pub eval_every: Option<u64>,
    /// Batches per validation
    #[arg(long)]
    pub eval_batches: Option<u64>,
    /// Steps between checkpoints; 0 for only the last
    #[arg(long)]
    pub save_every: Option<u64>,
    /// Steps between sample texts; 0 for none
    #[arg(long)]
    pub sample_every: Option<u64>,
    /// Floating-point format: mixed halves what activations take, on devices that have f16 [default: f32]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Compute what is inside a block again in the backward pass: less memory, a third more work
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub recompute: Option<bool>,
    /// Make logits, their loss and gradients for so many tokens at a time (a multiple of 64, or rounded up to one): less
    /// memory where the vocabulary is large; 0 for all at once
    #[arg(long, value_name = "N")]
    pub classifier_rows: Option<usize>,
    /// char, bytes, or a Hugging Face tokenizer.json
    #[arg(long)]
    pub tokenizer: Option<String>,
}

impl Choices {
    /// These choices where they are made, `other`'s elsewhere.
    pub fn or(self, other: Choices) -> Choices {
        Choices {
            preset: self.preset.or(other.preset),
            layers: self.layers.or(other.layers),
            heads: self.heads.or(other.heads),
            kv_heads: self.kv_heads.or(other.kv_heads),
            width: self.width.or(other.width),
            context: self.context.or(other.context),
            norm: self.norm.or(other.norm),
            position: self.position.or(other.position),
            feed_forward: self.feed_forward.or(other.feed_forward),
            experts: self.experts.or(other.experts),
            experts_per_token: self.experts_per_token.or(other.experts_per_token),
            router_balance: self.router_balance.or(other.router_balance),
            router_z: self.router_z.or(other.router_z),
            batch: self.batch.or(other.batch),
            accumulate: self.accumulate.or(other.accumulate),
            steps: self.steps.or(other.steps),
            lr: self.lr.or(other.lr),
            min_lr: self.min_lr.or(other.min_lr),
            warmup: self.warmup.or(other.warmup),
            schedule: self.schedule.or(other.schedule),
            weight_decay: self.weight_decay.or(other.weight_decay),
            beta1: self.beta1.or(other.beta1),
            beta2: self.beta2.or(other.beta2),
            clip: self.clip.or(other.clip),
            dropout: self.dropout.or(other.dropout),
            init_std: self.init_std.or(other.init_std),
            seed: self.seed.or(other.seed),
            eval_every: self.eval_every.or(other.eval_every),
            eval_batches: self.eval_batches.or(other.eval_batches),
            save_every: self.save_every.or(other.save_every),
            sample_every: self.sample_every.or(other.sample_every),
            precision: self.precision.or(other.precision),
            recompute: self.recompute.or(other.recompute),
            classifier_rows: self.classifier_rows.or(other.classifier_rows),
            tokenizer: self.tokenizer.or(other.tokenizer),
        }
    }
}
