//! Options of `wgpt finetune`, some of which `wgpt predict` shares.

use std::collections::BTreeMap;
use wgpt::finetune::metrics::Measure;
use wgpt::finetune::settings::{ClassWeights, Freeze, Settings};

/// Names of columns, where they are not those of the options.
#[derive(clap::Args, Clone, PartialEq, Default)]
#[command(next_help_heading = "Columns")]
pub struct Columns {
    /// classify: the text
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// entail: what is given
    #[arg(long, value_name = "COLUMN")]
    premise: Option<String>,
    /// entail: what may follow
    #[arg(long, value_name = "COLUMN")]
    hypothesis: Option<String>,
    /// similar: one text
    #[arg(long, value_name = "COLUMN")]
    first: Option<String>,
    /// similar: the other text
    #[arg(long, value_name = "COLUMN")]
    second: Option<String>,
    /// choose: what comes before the choices
    #[arg(long, value_name = "COLUMN")]
    context: Option<String>,
    /// choose: a question between context and choices; without it, there is none
    #[arg(long, value_name = "COLUMN")]
    question: Option<String>,
    /// choose: the list of choices, or what the names of their numbered columns begin with
    #[arg(long, value_name = "COLUMN")]
    choices: Option<String>,
    /// The label, the grade, or the number of the right choice
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
}

#[derive(clap::Args)]
pub struct Choices {
    /// Learn numbers, not labels (similar)
    #[arg(long)]
    pub grades: bool,
    /// Times that all data is gone through
    #[arg(long, default_value_t = Settings::default().epochs)]
    epochs: u64,
    /// Peak learning rate, after a warmup over 0.2% of the steps; it falls to 0 in a straight line
    #[arg(long, default_value_t = Settings::default().lr)]
    lr: f32,
    /// Examples per micro-batch
    #[arg(long, default_value_t = Settings::default().batch)]
    batch: usize,
    /// Micro-batches per step, their gradients averaged
    #[arg(long, default_value_t = Settings::default().accumulate)]
    accumulate: usize,
    /// Weight of the language model's loss beside the head's
    #[arg(long, default_value_t = Settings::default().lambda)]
    lambda: f32,
    /// Dropout probability, in the model and before the head
    #[arg(long, default_value_t = Settings::default().dropout)]
    dropout: f32,
    /// Decoupled weight decay of matrices
    #[arg(long, default_value_t = Settings::default().weight_decay)]
    weight_decay: f32,
    /// Largest gradient norm; 0 for no clipping
    #[arg(long, default_value_t = Settings::default().clip)]
    clip: f32,
    /// Seed of the order of examples, of new weights and of dropout
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// Do not train so many of the lowest layers nor the embeddings; or all: train the head alone
    #[arg(long, default_value = "0", value_name = "LAYERS|all")]
    freeze: Freeze,
    /// How much examples count by their label: balanced, or label=weight,label=weight
    #[arg(long, value_name = "WEIGHTS")]
    class_weights: Option<ClassWeights>,
    /// What is best on the validation data [default: accuracy, or pearson of grades]
    #[arg(long, value_enum)]
    metric: Option<Measure>,
    /// Stop after so many epochs in a row that are no better; 0 for never
    #[arg(long, default_value_t = 0)]
    patience: u64,
    /// Tokens per sequence, at most [default: the model's context]
    #[arg(long)]
    max_length: Option<usize>,
    /// Lengths that sequences are padded to, at most so many
    #[arg(long, default_value_t = Settings::default().buckets)]
    buckets: usize,
    /// Start from random weights, to see what pre-training is worth
    #[arg(long)]
    from_scratch: bool,
}

impl Columns {
    /// Option to name, of those that are given.
    pub fn names(&self) -> BTreeMap<String, String> {
        let all = [
            ("text", &self.text),
            ("premise", &self.premise),
            ("hypothesis", &self.hypothesis),
            ("first", &self.first),
            ("second", &self.second),
            ("context", &self.context),
            ("question", &self.question),
            ("choices", &self.choices),
            ("label", &self.label),
        ];
        all.into_iter().filter_map(|(option, name)| Some((option.to_string(), name.clone()?))).collect()
    }
}

impl Choices {
    pub fn settings(&self) -> Settings {
        Settings {
            epochs: self.epochs,
            lr: self.lr,
            batch: self.batch,
            accumulate: self.accumulate,
            lambda: self.lambda,
            dropout: self.dropout,
            weight_decay: self.weight_decay,
            clip: self.clip,
            seed: self.seed,
            freeze: self.freeze,
            class_weights: self.class_weights.clone().unwrap_or(ClassWeights::Equal),
            patience: self.patience,
            measure: self.metric,
            buckets: self.buckets,
            longest: self.max_length,
            from_scratch: self.from_scratch,
        }
    }
}
