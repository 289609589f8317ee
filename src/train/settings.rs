//! The settings of a run, whatever its objective: the user's choices, and the command's recipe for the rest.

mod cadence;
mod choices;

pub use cadence::Cadence;
pub use choices::{Choices, merged};

use super::graph::Optimizer;
use super::rates::{Freeze, Rates};
use super::schedule::{Accumulation, Schedule, ScheduleKind};
use crate::error::Result;
use crate::fail;
use crate::graph::Quantisation;
use crate::models::blocks::Compute;
use crate::models::config::{Config, Dropout};
use crate::ranks::Wire;
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

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Steps(u64),
    Epochs(u64),
}

/// Steps of warmup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// So many, and at most a tenth of the run.
    Steps(u64),
    /// A share of the run.
    Share(f64),
}

/// Defaults of a run.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    pub batch: usize,
    pub accumulate: usize,
    pub duration: Duration,
    pub lr: f32,
    /// The peak learning rate divided by that at the end of the decay; infinite for a decay to 0.
    pub min_lr_divisor: f32,
    pub warmup: Warmup,
    pub schedule: ScheduleKind,
    pub weight_decay: f32,
    pub beta2: f64,
    pub dropout: f32,
    /// Between validations, and between checkpoints.
    pub every: Cadence,
}

impl Recipe {
    /// The same with micro-batches for so many ranks: a multiple of their number.
    pub fn for_ranks(self, count: usize) -> Recipe {
        Recipe { accumulate: self.accumulate.next_multiple_of(count), ..self }
    }

    /// The same with ten times the learning rate where adapters are trained: they start from nothing, and are few.
    pub fn for_adapters(self, config: &Config) -> Recipe {
        let lr = if config.lora.is_some() { 10.0 * self.lr } else { self.lr };
        Recipe { lr, ..self }
    }
}

/// A run's settings, complete. Saved with every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub batch: usize,
    pub accumulate: usize,
    /// Steps over which the micro-batches of a step grow to `accumulate`.
    #[serde(default)]
    pub batch_warmup: u64,
    pub steps: u64,
    pub lr: f32,
    pub min_lr: f32,
    pub head_lr: f32,
    pub layer_decay: f32,
    pub warmup: u64,
    /// Steps after which the learning rate stays; 0 for those of the run.
    #[serde(default)]
    pub decay_steps: u64,
    pub schedule: ScheduleKind,
    pub weight_decay: f32,
    pub beta1: f64,
    pub beta2: f64,
    pub clip: f32,
    pub dropout: f32,
    pub freeze: Freeze,
    pub precision: Precision,
    /// How the model under adapters is quantised.
    #[serde(default)]
    pub base: Option<Quantisation>,
    pub recompute: bool,
    /// Tokens whose logits exist at a time; 0 for all.
    pub classifier_rows: usize,
    pub seed: u64,
    pub eval_every: Cadence,
    pub eval_batches: u64,
    pub save_every: Cadence,
    pub sample_every: u64,
    /// Validations in a row that are no better after which the run stops; 0 for never.
    pub patience: u64,
    /// Steps that ranks take without each other; 0 for none.
    #[serde(default)]
    pub sync_every: u64,
    /// The type in which gradients or differences of weights travel between ranks.
    #[serde(default)]
    pub wire: Option<Wire>,
    /// Ranks that share a step's micro-batches; not a part of the run, which any number may resume.
    #[serde(skip, default = "one")]
    pub ranks: usize,
}

fn one() -> usize {
    1
}

/// No size of a run may be larger.
const MOST: u64 = 1 << 20;

impl Choices {
    /// Fills in the recipe, and checks what is there. `epoch` says how many micro-batches of so many sequences or examples one
    /// pass over the training data has.
    pub fn resolve(self, recipe: &Recipe, epoch: impl FnOnce(usize) -> u64) -> Result<Settings> {
        let batch = self.batch.unwrap_or(recipe.batch);
        let accumulate = self.accumulate.unwrap_or(recipe.accumulate);
        for (name, value) in [("batch", batch), ("accumulate", accumulate)] {
            if !(1..=MOST).contains(&(value as u64)) {
                fail!(Usage, "--{name} {value} is not possible: give 1 to {MOST}");
            }
        }
        let batch_warmup = self.batch_warmup.unwrap_or(0);
        if batch_warmup > MOST || batch_warmup > 0 && accumulate == 1 {
            fail!(
                Usage,
                "--batch-warmup {batch_warmup} is not possible: give at most {MOST} steps, and --accumulate 2 or more to grow to"
            );
        }
        let accumulation = Accumulation { most: accumulate as u64, warmup: batch_warmup };
        let duration = match (self.steps, self.epochs) {
            (Some(0), _) => fail!(Usage, "--steps 0 does nothing: give 1 or more"),
            (_, Some(epochs)) if !(1..=MOST).contains(&epochs) => {
                fail!(Usage, "--epochs {epochs} is not possible: give 1 to {MOST}")
            }
            (Some(steps), _) => Duration::Steps(steps),
            (None, Some(epochs)) => Duration::Epochs(epochs),
            (None, None) => recipe.duration,
        };
        let steps = match duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => accumulation.steps(epochs.saturating_mul(epoch(batch))),
        };
        let lr = self.lr.unwrap_or(recipe.lr);
        let schedule = self.schedule.unwrap_or(recipe.schedule);
        if self.min_lr.is_some_and(|min| min != lr) && schedule == ScheduleKind::Constant {
            fail!(Usage, "--min-lr is where a decay ends, and --schedule constant has none: leave one of them out");
        }
        if self.decay_steps.is_some() && schedule == ScheduleKind::Constant {
            fail!(
                Usage,
                "--decay-steps is how long a decay lasts, and --schedule constant has none: leave one of them out"
            );
        }
        if self.decay_steps == Some(0) {
            fail!(Usage, "--decay-steps 0 leaves nothing of the peak: give 1 or more");
        }
        let warmup = match recipe.warmup {
            Warmup::Steps(warmup) => warmup.min(steps / 10),
            Warmup::Share(share) => (steps as f64 * share).ceil() as u64,
        };
        let settings = Settings {
            batch,
            accumulate,
            batch_warmup,
            steps,
            lr,
            min_lr: self.min_lr.unwrap_or(lr / recipe.min_lr_divisor),
            head_lr: self.head_lr.unwrap_or(lr),
            layer_decay: self.layer_decay.unwrap_or(1.0),
            warmup: self.warmup.unwrap_or(warmup),
            decay_steps: self.decay_steps.unwrap_or(0),
            schedule,
            weight_decay: self.weight_decay.unwrap_or(recipe.weight_decay),
            beta1: self.beta1.unwrap_or(0.9),
            beta2: self.beta2.unwrap_or(recipe.beta2),
            clip: self.clip.unwrap_or(1.0),
            dropout: self.dropout.unwrap_or(recipe.dropout),
            freeze: self.freeze.unwrap_or(Freeze::Layers(0)),
            precision: self.precision.unwrap_or_default(),
            base: self.base,
            recompute: self.recompute.unwrap_or(false),
            classifier_rows: self.classifier_rows.unwrap_or(0),
            seed: self.seed.unwrap_or(1337),
            eval_every: self.eval_every.unwrap_or(recipe.every),
            eval_batches: self.eval_batches.unwrap_or(20),
            save_every: self.save_every.unwrap_or(recipe.every),
            sample_every: self.sample_every.unwrap_or(0),
            patience: self.patience.unwrap_or(0),
            sync_every: self.sync_every.unwrap_or(0),
            wire: self.wire,
            ranks: 1,
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<()> {
        if self.eval_batches == 0 {
            fail!(Usage, "--eval-batches 0 does nothing: give 1 or more");
        }
        if self.patience > 0 && self.eval_every == Cadence::Steps(0) {
            fail!(
                Usage,
                "--patience counts validations, and with --eval-every 0 only the last step has one: leave one of them out"
            );
        }
        let rates = [
            ("lr", self.lr),
            ("min-lr", self.min_lr),
            ("head-lr", self.head_lr),
            ("weight-decay", self.weight_decay),
            ("clip", self.clip),
        ];
        for (name, value) in rates {
            if !(value.is_finite() && value >= 0.0) {
                fail!(Usage, "--{name} {value} is not a number from 0 up: give one");
            }
        }
        if !(self.layer_decay > 0.0 && self.layer_decay <= 1.0) {
            fail!(Usage, "--layer-decay {} is not above 0 and at most 1: give a share", self.layer_decay);
        }
        if self.head_lr != self.lr && self.lr == 0.0 {
            fail!(Usage, "--head-lr goes by --lr, which is 0: freeze the model with --freeze all instead");
        }
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2), ("dropout", f64::from(self.dropout))] {
            if !(0.0..1.0).contains(&value) {
                fail!(Usage, "--{name} {value} is not in 0..1: give a number from 0 up to but not including 1");
            }
        }
        Ok(())
    }

    /// Refuses to freeze more layers than a model has, or all of a model without a head of its own, and learning rates of
    /// parameters that are not trained.
    pub fn check_model(&self, config: &Config, has_head: bool) -> Result<()> {
        match self.freeze {
            Freeze::Layers(layers) if layers > config.layers => fail!(
                Usage,
                "--freeze {layers} is more than the model's {} layers; freeze all but the head with all",
                config.layers
            ),
            Freeze::All if !has_head => {
                fail!(Usage, "--freeze all leaves nothing to train: the model has no head of its own")
            }
            Freeze::All if self.layer_decay != 1.0 => {
                fail!(Usage, "--layer-decay is about layers, which --freeze all does not train: leave one of them out")
            }
            _ if self.head_lr != self.lr && !has_head => {
                fail!(
                    Usage,
                    "--head-lr is for a head of its own, and the model's output projection is its embeddings: leave it out"
                )
            }
            _ => Ok(()),
        }
    }

    /// The same probability everywhere.
    pub fn dropout(&self) -> Dropout {
        Dropout::of(self.dropout)
    }

    /// Whether activations and matrix inputs are f16.
    pub fn is_mixed(&self) -> bool {
        self.precision == Precision::Mixed
    }

    /// The model as it is quantised on the device.
    pub fn quantised(&self, config: Config) -> Config {
        Config { quantisation: self.base, ..config }
    }

    pub fn compute(&self) -> Compute {
        let classifier_rows = (self.classifier_rows > 0).then_some(self.classifier_rows);
        Compute { mixed: self.is_mixed(), recompute: self.recompute, classifier_rows }
    }

    pub fn schedule(&self) -> Schedule {
        let steps = if self.decay_steps > 0 { self.decay_steps } else { self.steps };
        Schedule { kind: self.schedule, peak: self.lr, min: self.min_lr, warmup: self.warmup, steps }
    }

    /// Micro-batches of each step.
    pub fn accumulation(&self) -> Accumulation {
        Accumulation { most: self.accumulate as u64, warmup: self.batch_warmup }
    }

    /// The same for one of `count` ranks. Fails where they cannot share a step.
    pub fn shared(self, count: usize) -> Result<Settings> {
        if self.sync_every > 0 && !self.accumulate.is_multiple_of(count) {
            let micro_batches = self.accumulate;
            fail!(
                Usage,
                "{count} ranks cannot share the {micro_batches} micro-batches of a step evenly, as --sync-every wants: give --accumulate a \
                 multiple of {count}, or start another number of ranks"
            );
        }
        if self.sync_every > 0 && self.batch_warmup > 0 && count > 1 {
            fail!(
                Usage,
                "--batch-warmup starts with steps of fewer micro-batches than ranks, and --sync-every needs some of each step on every \
                 rank: leave one of them out, or start one rank"
            );
        }
        Ok(Settings { ranks: count, ..self })
    }

    /// Micro-batches whose mean gradient a rank's optimiser takes: with local steps its own, otherwise those of all ranks.
    pub fn local_micro_batches(&self) -> usize {
        if self.sync_every > 0 { self.accumulate / self.ranks } else { self.accumulate }
    }

    /// The type in which numbers travel between ranks.
    pub fn wire(&self) -> Wire {
        self.wire.unwrap_or(if self.sync_every > 0 { Wire::F16 } else { Wire::F32 })
    }

    pub fn optimizer(&self) -> Optimizer {
        let head = if self.lr > 0.0 { self.head_lr / self.lr } else { 1.0 };
        Optimizer {
            beta1: self.beta1,
            beta2: self.beta2,
            weight_decay: self.weight_decay,
            max_norm: self.clip,
            accumulate: self.local_micro_batches(),
            rates: Rates { freeze: self.freeze, layer_decay: self.layer_decay, head },
            ..Optimizer::default()
        }
    }
}
