//! What a fine-tuning run is made of. Defaults are those of the paper (Radford et al. 2018, section 4.1).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::batches::Item;
use super::metrics::Measure;
use super::task::{Answer, Target};
use crate::error::Result;
use crate::fail;
use crate::models::config::Config;
use crate::train::graph::Optimizer;
use crate::train::schedule::{Schedule, ScheduleKind};

/// Steps of warmup, as a share of all.
const WARMUP: f64 = 0.002;

/// A run's settings, complete. Saved with every checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub epochs: u64,
    /// Peak learning rate; it falls to 0.
    pub lr: f32,
    /// Examples per micro-batch.
    pub batch: usize,
    /// Micro-batches per step.
    pub accumulate: usize,
    /// Weight of the language model's loss beside the head's.
    pub lambda: f32,
    /// In the model and before the head.
    pub dropout: f32,
    pub weight_decay: f32,
    /// Largest gradient norm; 0 for no clipping.
    pub clip: f32,
    pub seed: u64,
    pub freeze: Freeze,
    pub class_weights: ClassWeights,
    /// Epochs without a better validation after which the run ends; 0 for never.
    pub patience: u64,
    /// What is better; without it, accuracy, or Pearson's correlation of grades.
    pub measure: Option<Measure>,
    /// Lengths that sequences are padded to, at most so many.
    pub buckets: usize,
    /// Tokens of a sequence, at most; the model's context without it.
    pub longest: Option<usize>,
    /// Ignores the model's weights: what is pre-training worth?
    pub from_scratch: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            epochs: 3,
            lr: 6.25e-5,
            batch: 32,
            accumulate: 1,
            lambda: 0.5,
            dropout: 0.1,
            weight_decay: 0.01,
            clip: 1.0,
            seed: 1337,
            freeze: Freeze::Layers(0),
            class_weights: ClassWeights::Equal,
            patience: 0,
            measure: None,
            buckets: 4,
            longest: None,
            from_scratch: false,
        }
    }
}

impl Settings {
    /// Refuses what makes no run, as a usage error; `target` is what is learned.
    pub fn check(&self, config: &Config, target: &Target) -> Result<()> {
        let counts = [("epochs", self.epochs), ("batch", self.batch as u64), ("accumulate", self.accumulate as u64)];
        for (name, value) in counts.into_iter().chain([("buckets", self.buckets as u64)]) {
            if !(1..=1 << 20).contains(&value) {
                fail!(Usage, "--{name} is {value}, but must be from 1 to 1048576");
            }
        }
        let numbers = [("lr", self.lr), ("lambda", self.lambda), ("weight-decay", self.weight_decay)];
        for (name, value) in numbers.into_iter().chain([("clip", self.clip)]) {
            if !(value.is_finite() && value >= 0.0) {
                fail!(Usage, "--{name} {value} is not a number from 0 up: give one");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            fail!(Usage, "--dropout {} is not in 0..1: give a number from 0 up to but not including 1", self.dropout);
        }
        if let Freeze::Layers(layers) = self.freeze
            && layers > config.layers
        {
            fail!(
                Usage,
                "--freeze {layers} is more than the model's {} layers; freeze all but the head with all",
                config.layers
            );
        }
        if let Some(longest) = self.longest
            && !(5..=config.context).contains(&longest)
        {
            let context = config.context;
            fail!(Usage, "--max-length {longest} must be from 5 to {context}, the model's context");
        }
        let of_grades = matches!(self.measure(target), Measure::Pearson | Measure::Spearman);
        if of_grades != (*target == Target::Grade) {
            fail!(
                Usage,
                "--metric is not one of this task's: pearson and spearman are of grades, the others of labels"
            );
        }
        if self.class_weights != ClassWeights::Equal && !matches!(target, Target::Labels(_)) {
            fail!(Usage, "--class-weights are for labels, and this task has none");
        }
        Ok(())
    }

    pub fn measure(&self, target: &Target) -> Measure {
        let usual = if *target == Target::Grade { Measure::Pearson } else { Measure::Accuracy };
        self.measure.unwrap_or(usual)
    }

    /// Tokens of a sequence, at most.
    pub fn longest(&self, config: &Config) -> usize {
        self.longest.unwrap_or(config.context)
    }

    /// A run over so many micro-batches: linear warmup, linear decay to 0.
    pub fn schedule(&self, micro_batches: u64) -> Schedule {
        let steps = micro_batches.div_ceil(self.accumulate as u64);
        let warmup = (steps as f64 * WARMUP).ceil() as u64;
        Schedule { kind: ScheduleKind::Linear, peak: self.lr, min: 0.0, warmup, steps }
    }

    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: self.weight_decay,
            max_norm: self.clip,
            accumulate: self.accumulate,
        }
    }
}

/// What is not trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// So many of the lowest layers, and the embeddings below them; 0 trains everything.
    Layers(usize),
    /// Everything but the head.
    All,
}

impl FromStr for Freeze {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "all" => Ok(Freeze::All),
            _ => text.parse().map(Freeze::Layers).map_err(|_| "give a number of layers, or all".into()),
        }
    }
}

impl Freeze {
    /// Whether a parameter of the model is trained.
    pub fn trains(self, config: &Config, name: &str) -> bool {
        match self {
            Freeze::Layers(0) => true,
            Freeze::Layers(layers) => match name.split('.').find_map(|part| part.parse::<usize>().ok()) {
                Some(layer) => layer >= layers,
                None => name != config.family.embedding() && Some(name) != config.family.positions(),
            },
            Freeze::All => false,
        }
    }
}

/// How much examples of each class count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    Equal,
    /// Every class as much as any other: examples / (classes * examples of the class).
    Balanced,
    /// Label and weight; labels that are not named have 1.
    Given(Vec<(String, f32)>),
}

impl FromStr for ClassWeights {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "balanced" {
            return Ok(ClassWeights::Balanced);
        }
        let one = |part: &str| {
            let (label, weight) = part.rsplit_once('=')?;
            let weight = weight.trim().parse::<f32>().ok().filter(|w| w.is_finite() && *w >= 0.0)?;
            Some((label.trim().to_string(), weight))
        };
        let all: Option<Vec<_>> = text.split(',').map(one).collect();
        all.map(ClassWeights::Given).ok_or_else(|| "give balanced, or label=weight,label=weight".into())
    }
}

impl ClassWeights {
    /// Sets the weight of every item that has an answer.
    pub fn apply(&self, target: &Target, items: &mut [Item]) -> Result<()> {
        let Target::Labels(labels) = target else { return Ok(()) };
        let class_of = |item: &Item| item.answer.map(Answer::class);
        let weights: Vec<f32> = match self {
            ClassWeights::Equal => return Ok(()),
            ClassWeights::Balanced => {
                let mut counts = vec![0usize; labels.len()];
                items.iter().filter_map(class_of).for_each(|class| counts[class] += 1);
                let weight = |count: &usize| items.len() as f32 / (labels.len() * count.max(&1)) as f32;
                counts.iter().map(weight).collect()
            }
            ClassWeights::Given(given) => {
                if let Some((unknown, _)) = given.iter().find(|(label, _)| !labels.contains(label)) {
                    fail!(Usage, "--class-weights names the label {unknown}, which the data has not");
                }
                let weight = |label: &String| given.iter().find(|(known, _)| known == label).map_or(1.0, |(_, w)| *w);
                labels.iter().map(weight).collect()
            }
        };
        for item in items {
            item.weight = class_of(item).map_or(1.0, |class| weights[class]);
        }
        Ok(())
    }
}
