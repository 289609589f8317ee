//! What a run is made of: what the user gave, and what follows from it together with the preset's defaults.

use super::graph::Optimizer;
use super::schedule::{Schedule, ScheduleKind};
use crate::error::Result;
use crate::fail;
use crate::models::config::{Config, Dropout, FeedForward, Norm, Position};
use crate::ops::rope::Scaling;
use serde::{Deserialize, Serialize};

/// Floating-point format of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// f16 activations with f32 master weights.
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
    /// Floating-point format
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Compute what is inside a block again in the backward pass: less memory, a third more work
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub recompute: Option<bool>,
    /// char, bytes, or a Hugging Face tokenizer.json
    #[arg(long)]
    pub tokenizer: Option<String>,
}

/// A run's settings, complete. Saved with every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub preset: String,
    pub layers: usize,
    pub heads: usize,
    #[serde(default)]
    pub kv_heads: Option<usize>,
    pub width: usize,
    pub context: usize,
    #[serde(default)]
    pub norm: Option<Norm>,
    #[serde(default)]
    pub position: Option<PositionKind>,
    #[serde(default)]
    pub feed_forward: Option<FeedForwardKind>,
    #[serde(default)]
    pub experts: Option<usize>,
    #[serde(default)]
    pub experts_per_token: Option<usize>,
    #[serde(default)]
    pub router_balance: Option<f32>,
    #[serde(default)]
    pub router_z: Option<f32>,
    pub batch: usize,
    pub accumulate: usize,
    pub steps: u64,
    pub lr: f32,
    pub min_lr: f32,
    pub warmup: u64,
    pub schedule: ScheduleKind,
    pub weight_decay: f32,
    pub beta1: f64,
    pub beta2: f64,
    pub clip: f32,
    pub dropout: f32,
    pub init_std: f32,
    pub seed: u64,
    pub eval_every: u64,
    pub eval_batches: u64,
    pub save_every: u64,
    pub sample_every: u64,
    #[serde(default)]
    pub recompute: bool,
    pub tokenizer: String,
}

/// Training defaults that go with a preset.
struct Recipe {
    batch: usize,
    accumulate: usize,
    steps: u64,
    lr: f32,
    warmup: u64,
    weight_decay: f32,
    beta2: f64,
    dropout: f32,
    init_std: f32,
    every: u64,
    tokenizer: &'static str,
}

impl Recipe {
    fn of(preset: &str) -> Recipe {
        match preset {
            // Chosen by trial: grammatical samples within three minutes on two CPU cores.
            "demo" | "gpt-mini" | "llama-mini" | "mixtral" => Recipe {
                batch: 4,
                accumulate: 1,
                steps: 1400,
                lr: 6e-3,
                warmup: 50,
                weight_decay: 0.1,
                beta2: 0.99,
                dropout: 0.0,
                init_std: 0.1,
                every: 200,
                tokenizer: "char",
            },
            // nanoGPT's settings for its character model.
            "char" => Recipe {
                batch: 64,
                accumulate: 1,
                steps: 5000,
                lr: 1e-3,
                warmup: 100,
                weight_decay: 0.1,
                beta2: 0.99,
                dropout: 0.2,
                init_std: 0.02,
                every: 250,
                tokenizer: "char",
            },
            // The paper's: 64 sequences of 512 tokens, 100 epochs of 800 million words.
            "gpt" => Recipe {
                batch: 8,
                accumulate: 8,
                steps: 3_000_000,
                lr: 2.5e-4,
                warmup: 2000,
                weight_decay: 0.01,
                beta2: 0.999,
                dropout: 0.1,
                init_std: 0.02,
                every: 1000,
                tokenizer: "bytes",
            },
            // nanoGPT's and llm.c's settings for GPT-2: half a million tokens per step.
            _ => Recipe {
                batch: 8,
                accumulate: 64,
                steps: 19_000,
                lr: 6e-4,
                warmup: 700,
                weight_decay: 0.1,
                beta2: 0.95,
                dropout: 0.0,
                init_std: 0.02,
                every: 250,
                tokenizer: "bytes",
            },
        }
    }
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
            tokenizer: self.tokenizer.or(other.tokenizer),
        }
    }

    /// Fills in the preset's defaults, or those of the model that is continued, and checks what is there.
    pub fn resolve(self, init: Option<&Config>) -> Result<Settings> {
        let preset = self.preset.unwrap_or_else(|| "demo".into());
        let base = match init {
            Some(config) => config.clone(),
            None => Config::preset(&preset)?,
        };
        let recipe = Recipe::of(&preset);
        let lr = self.lr.unwrap_or(recipe.lr);
        let steps = self.steps.unwrap_or(recipe.steps);
        let settings = Settings {
            layers: self.layers.unwrap_or(base.layers),
            heads: self.heads.unwrap_or(base.heads),
            kv_heads: self.kv_heads,
            width: self.width.unwrap_or(base.width),
            context: self.context.unwrap_or(base.context),
            norm: self.norm,
            position: self.position,
            feed_forward: self.feed_forward,
            experts: self.experts,
            experts_per_token: self.experts_per_token,
            router_balance: self.router_balance,
            router_z: self.router_z,
            batch: self.batch.unwrap_or(recipe.batch),
            accumulate: self.accumulate.unwrap_or(recipe.accumulate),
            steps,
            lr,
            min_lr: self.min_lr.unwrap_or(lr / 10.0),
            warmup: self.warmup.unwrap_or(recipe.warmup.min(steps / 10)),
            schedule: self.schedule.unwrap_or_default(),
            weight_decay: self.weight_decay.unwrap_or(recipe.weight_decay),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(recipe.beta2),
            clip: self.clip.unwrap_or(1.0),
            dropout: self.dropout.unwrap_or(recipe.dropout),
            init_std: self.init_std.unwrap_or(recipe.init_std),
            seed: self.seed.unwrap_or(1337),
            eval_every: self.eval_every.unwrap_or(recipe.every),
            eval_batches: self.eval_batches.unwrap_or(20),
            save_every: self.save_every.unwrap_or(recipe.every),
            sample_every: self.sample_every.unwrap_or(0),
            recompute: self.recompute.unwrap_or(false),
            tokenizer: self.tokenizer.unwrap_or_else(|| recipe.tokenizer.into()),
            preset,
        };
        if self.precision == Some(Precision::Mixed) {
            fail!(Usage, "--precision mixed is not there yet: train with --precision f32");
        }
        settings.check(init)?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self, init: Option<&Config>) -> Result<()> {
        let positive = [("batch", self.batch as u64), ("accumulate", self.accumulate as u64), ("steps", self.steps)];
        for (name, value) in positive.into_iter().chain([("eval-batches", self.eval_batches)]) {
            if value == 0 {
                fail!(Usage, "--{name} 0 does nothing: give 1 or more");
            }
        }
        if self.batch > 1 << 20 || self.accumulate > 1 << 20 || self.batch.saturating_mul(self.context) > 1 << 28 {
            fail!(Usage, "--batch {} x --context {} is beyond any device: use less", self.batch, self.context);
        }
        let rates =
            [("lr", self.lr), ("min-lr", self.min_lr), ("weight-decay", self.weight_decay), ("clip", self.clip)];
        for (name, value) in rates {
            if !(value.is_finite() && value >= 0.0) {
                fail!(Usage, "--{name} {value} is not a number from 0 up: give one");
            }
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("dropout", f64::from(self.dropout))] {
            if !(0.0..1.0).contains(&value) {
                fail!(Usage, "--{name} {value} is not in 0..1: give a number from 0 up to but not including 1");
            }
        }
        if let Some(init) = init {
            let (layers, heads, width) = (self.layers, self.heads, self.width);
            if (layers, heads, width) != (init.layers, init.heads, init.width) || self.context > init.context {
                fail!(
                    Usage,
                    "the model given with --init has {} layers, {} heads, width {} and context {}: leave out what differs",
                    init.layers,
                    init.heads,
                    init.width,
                    init.context
                );
            }
            let parts = [self.norm.is_some(), self.position.is_some(), self.feed_forward.is_some()];
            if parts.contains(&true) || self.kv_heads.is_some() || self.changes_experts() {
                fail!(
                    Usage,
                    "the model given with --init has its own parts: leave out --norm, --position, --feed-forward, \
                     --kv-heads, --experts, --experts-per-token, --router-balance, --router-z"
                );
            }
        }
        Ok(())
    }

    /// The model that these settings describe, for a vocabulary.
    pub fn config(&self, vocab_size: usize) -> Result<Config> {
        let mut config = Config::preset(&self.preset)?.resized(self.layers, self.heads, self.width);
        (config.vocab_size, config.context) = (vocab_size, self.context);
        (config.dropout, config.initializer_range) = (self.dropout(), self.init_std);
        self.exchange(&mut config)?;
        config.validate()?;
        Ok(config)
    }

    /// Puts in the parts that are not the preset's.
    fn exchange(&self, config: &mut Config) -> Result<()> {
        let parts = [self.norm.is_some(), self.position.is_some(), self.feed_forward.is_some()];
        if !config.family.is_exchangeable() && parts.contains(&true) {
            let preset = &self.preset;
            fail!(Usage, "--norm, --position and --feed-forward are for GPT-2 presets: {preset} has its own parts");
        }
        match &mut config.feed_forward {
            FeedForward::Experts(experts) => {
                experts.count = self.experts.unwrap_or(experts.count);
                experts.top = self.experts_per_token.unwrap_or(experts.top);
                experts.balance = self.router_balance.unwrap_or(experts.balance);
                experts.z = self.router_z.unwrap_or(experts.z);
            }
            _ if self.changes_experts() => {
                fail!(
                    Usage,
                    "--experts, --experts-per-token, --router-balance and --router-z are for mixtral: {} has no experts",
                    self.preset
                );
            }
            _ => {}
        }
        config.kv_heads = self.kv_heads.unwrap_or(config.kv_heads);
        config.norm = self.norm.unwrap_or(config.norm);
        if self.position == Some(PositionKind::Rope) {
            config.position = Position::Rope { base: 10_000.0, scaling: Scaling::None };
        }
        if self.feed_forward == Some(FeedForwardKind::SwiGlu) {
            config.feed_forward = FeedForward::SwiGlu;
            config.inner = (2 * config.inner).div_ceil(3).next_multiple_of(4);
        }
        Ok(())
    }

    fn changes_experts(&self) -> bool {
        let counts = self.experts.is_some() || self.experts_per_token.is_some();
        counts || self.router_balance.is_some() || self.router_z.is_some()
    }

    /// The same probability everywhere.
    pub fn dropout(&self) -> Dropout {
        Dropout { embedding: self.dropout, attention: self.dropout, residual: self.dropout }
    }

    pub fn schedule(&self) -> Schedule {
        Schedule { kind: self.schedule, peak: self.lr, min: self.min_lr, warmup: self.warmup, steps: self.steps }
    }

    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: 1e-8,
            weight_decay: self.weight_decay,
            max_norm: self.clip,
            accumulate: self.accumulate,
        }
    }

    /// Tokens of one step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch * self.context * self.accumulate) as u64
    }
}
