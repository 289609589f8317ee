//! Options of `wgpt finetune`, some of which `wgpt predict` shares.

use serde::Serialize;
use std::collections::BTreeMap;
use wgpt::error::Result;
use wgpt::evaluate::metrics::Measure;
use wgpt::fail;
use wgpt::objectives::labelled::Options;
use wgpt::objectives::labelled::class_weights::ClassWeights;

/// Names of columns, where they are not those of the options.
#[derive(clap::Args)]
#[command(next_help_heading = "Columns")]
pub struct Columns {
    /// classify: the text
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// entail: the premise
    #[arg(long, value_name = "COLUMN")]
    premise: Option<String>,
    /// entail: the hypothesis, which may follow
    #[arg(long, value_name = "COLUMN")]
    hypothesis: Option<String>,
    /// similar: one text
    #[arg(long, value_name = "COLUMN")]
    first: Option<String>,
    /// similar: the other text
    #[arg(long, value_name = "COLUMN")]
    second: Option<String>,
    /// choose: the text before the choices; answer: the text that answers are spans of
    #[arg(long, value_name = "COLUMN")]
    context: Option<String>,
    /// choose: a question between context and choices; without it, there is none; answer: the question
    #[arg(long, value_name = "COLUMN")]
    question: Option<String>,
    /// choose: the list of choices, or the prefix of numbered columns
    #[arg(long, value_name = "COLUMN")]
    choices: Option<String>,
    /// tag: the list of words
    #[arg(long, value_name = "COLUMN")]
    tokens: Option<String>,
    /// tag: the list of their tags
    #[arg(long, value_name = "COLUMN")]
    tags: Option<String>,
    /// answer: the answers, with where they begin in the context
    #[arg(long, value_name = "COLUMN")]
    answers: Option<String>,
    /// text: the text that is read
    #[arg(long, value_name = "COLUMN")]
    input: Option<String>,
    /// text: the text that is written
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// The label, the grade, or the number of the right choice
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
}

/// Options of a task's training beside those of every run.
#[derive(clap::Args, Serialize)]
#[command(next_help_heading = "Task")]
pub struct TaskOptions {
    /// Learn numbers, not labels (similar)
    #[arg(long)]
    pub grades: bool,
    /// Weight of the language model's loss beside the head's [default: 0.5]
    #[arg(long)]
    pub lambda: Option<f32>,
    /// How much examples count by their label: balanced, or label=weight,label=weight
    #[arg(long, value_name = "WEIGHTS")]
    pub class_weights: Option<ClassWeights>,
    /// Measure of the best model on the validation data [default: accuracy, or pearson of grades]
    #[arg(long, value_enum)]
    pub metric: Option<Measure>,
    /// Tokens per sequence, at most [default: the model's context]
    #[arg(long)]
    pub max_length: Option<usize>,
    /// Lengths that sequences are padded to, at most so many [default: 4]
    #[arg(long)]
    pub buckets: Option<usize>,
    /// text: what stands before every input and says what is asked, such as "summarize: "
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// answer: tokens of a context that neighbouring windows share [default: 128, or a quarter of a window]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Start from random weights, for comparison with pre-trained ones
    #[arg(long)]
    pub from_scratch: bool,
}

impl TaskOptions {
    /// Refuses the option of windows over contexts, which other tasks have not.
    pub fn refuse_stride(&self) -> Result<()> {
        if self.stride.is_some() {
            fail!(Usage, "--stride is for --task answer: leave it out");
        }
        Ok(())
    }

    /// Refuses the prefix of inputs, which tasks with a head have not.
    pub fn refuse_prefix(&self) -> Result<()> {
        if self.prefix.is_some() {
            fail!(Usage, "--prefix is for --task text: leave it out");
        }
        Ok(())
    }

    pub fn options(&self) -> Options {
        let usual = Options::default();
        Options {
            lambda: self.lambda.unwrap_or(usual.lambda),
            measure: self.metric,
            buckets: self.buckets.unwrap_or(usual.buckets),
        }
    }
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
            ("tokens", &self.tokens),
            ("tags", &self.tags),
            ("answers", &self.answers),
            ("input", &self.input),
            ("target", &self.target),
            ("label", &self.label),
        ];
        all.into_iter().filter_map(|(option, name)| Some((option.to_string(), name.clone()?))).collect()
    }
}
