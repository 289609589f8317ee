//! What a run is made of: what the user gave, and what follows from it together with the preset's defaults.

mod choices;
mod recipe;

pub use choices::{Choices, FeedForwardKind, PositionKind, Precision};

use super::graph::Optimizer;
use super::schedule::{Schedule, ScheduleKind};
use crate::error::Result;
use crate::fail;
use crate::models::config::{Config, Dropout, FeedForward, Norm, Position};
use crate::ops::loss_scale::GROW_AFTER;
use crate::ops::rope::Scaling;
use recipe::Recipe;
use serde::{Deserialize, Serialize};

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
    pub precision: Precision,
    #[serde(default)]
    pub recompute: bool,
    /// Tokens whose logits exist at a time; 0 for all.
    #[serde(default)]
    pub classifier_rows: usize,
    pub tokenizer: String,
}

impl Choices {
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
            precision: self.precision.unwrap_or_default(),
            recompute: self.recompute.unwrap_or(false),
            classifier_rows: self.classifier_rows.unwrap_or(0),
            tokenizer: self.tokenizer.unwrap_or_else(|| recipe.tokenizer.into()),
            preset,
        };
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
        Dropout::of(self.dropout)
    }

    /// Whether activations and matrix inputs are f16.
    pub fn is_mixed(&self) -> bool {
        self.precision == Precision::Mixed
    }

    /// Fine steps after which the loss scale doubles, where there is one.
    pub fn grow_after(&self) -> Option<u32> {
        self.is_mixed().then_some(GROW_AFTER)
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

    /// Tokens whose logits exist at a time, where that is not all of a batch.
    pub fn chunk_rows(&self) -> Option<usize> {
        (self.classifier_rows > 0).then_some(self.classifier_rows)
    }

    /// Tokens of one step.
    pub fn tokens_per_step(&self) -> u64 {
        (self.batch * self.context * self.accumulate) as u64
    }
}
