//! `wgpt eval`: loss, perplexity and bits per byte of data; multiple choice and last words without fine-tuning; or the
//! logits of given token ids.

mod logits;
mod perplexity;
mod tasks;

use super::{Global, console};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use wgpt::data::source::Extensions;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::graph::Quantisation;
use wgpt::models::config::{Config, Recurrence};

#[derive(clap::Args)]
pub struct Eval {
    /// Model folder, GGUF file, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Evaluation data: a file of text, .jsonl or .bin, or a folder of them; for choose and cloze a .jsonl, .csv or .tsv
    /// with named columns; without it, built-in stories that no model was trained on
    #[arg(long)]
    data: Option<PathBuf>,
    /// Extensions of the files that a folder is searched for, such as md,py [default: txt,jsonl,parquet,bin]
    #[arg(long, value_name = "LIST", requires = "data")]
    ext: Option<Extensions>,
    /// perplexity, choose (the most likely of several choices) or cloze (the last word of each text)
    #[arg(long, value_enum, default_value_t = Kind::Perplexity)]
    task: Kind,
    /// Sequences evaluated at once
    #[arg(long, default_value_t = 8, help_heading = "Windows")]
    batch: usize,
    /// Tokens from one window of the context to the next, so that each token is scored once with at least context - N
    /// before it [default: windows follow each other]
    #[arg(long, value_name = "N", help_heading = "Windows")]
    stride: Option<usize>,
    /// Positions of the memory of a model that passes texts in segments, in place of its own
    #[arg(long, value_name = "N", help_heading = "Windows")]
    memory: Option<usize>,
    /// Tokens that a model with rotary positions sees at once, or of a segment [default: its context, at most 1024]
    #[arg(long, value_name = "N", help_heading = "Windows")]
    window: Option<usize>,
    /// Only the first N examples of choose or cloze
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Solved examples from --train before each question of choose or cloze; several numbers, such as 0,1,2,4,8, make a table
    #[arg(long, value_name = "K", value_delimiter = ',', default_values_t = [0], help_heading = "Solved examples")]
    shots: Vec<usize>,
    /// Draw accuracies over several numbers of solved examples, as SVG
    #[arg(long, value_name = "FILE", help_heading = "Solved examples")]
    plot: Option<PathBuf>,
    /// File that solved examples are drawn from
    #[arg(long, value_name = "FILE", help_heading = "Solved examples")]
    train: Option<PathBuf>,
    /// Seed of the draw [default: 1337]
    #[arg(long, help_heading = "Solved examples")]
    seed: Option<u32>,
    /// Separator between solved examples and the question [default: an empty line]
    #[arg(long, value_name = "TEXT", help_heading = "Solved examples")]
    separator: Option<String>,
    /// Column of the texts whose last word is asked [default: text]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    text: Option<String>,
    /// Column of the text before the choices [default: context]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    context: Option<String>,
    /// Column of a question between context and choice [default: none]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    question: Option<String>,
    /// Column of the list of choices, or the prefix of numbered columns: choices0, choices1, ...
    /// [default: choices]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    choices: Option<String>,
    /// Column of the right choice's number [default: label]
    #[arg(long, value_name = "COLUMN", help_heading = "Columns")]
    label: Option<String>,
    /// File for the result of each example, one JSON object per line
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    items: Option<PathBuf>,
    /// Results of choose and cloze as JSON; those of perplexity always are
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// A JSON file of token ids, [[...], ...], all sequences of one length
    #[arg(long, requires = "logits", conflicts_with_all = ["batch", "data", "ext", "json", "memory", "stride", "window"], help_heading = "Output")]
    ids: Option<PathBuf>,
    /// Where to write the logits of --ids, a safetensors file with one tensor `logits`
    #[arg(long, requires = "ids", help_heading = "Output")]
    logits: Option<PathBuf>,
}

/// Tokens of a window unless more are asked for.
const MOST_WINDOW: usize = 1024;

/// The values of `--task`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Perplexity,
    Choose,
    Cloze,
}

impl Eval {
    pub fn run(&self, global: &Global) -> Result<()> {
        self.check()?;
        super::check_device(&global.device)?;
        let model = global.adapted_model(self.model.as_deref(), self.adapter.as_deref())?;
        let config = model.config()?;
        let weights = model.weights(&config)?;
        let config = Config { quantisation: self.base, ..config };
        match (&self.ids, &self.logits) {
            (Some(ids), Some(logits)) => logits::dump(global, &config, &weights, ids, logits),
            _ if self.task == Kind::Perplexity => {
                let config = self.remembering(config.within_context(self.window, MOST_WINDOW)?)?;
                perplexity::evaluate(self, global, &model, &config, &weights)
            }
            _ => tasks::evaluate(self, global, &model, &config, &weights),
        }
    }

    /// The model with the memory that is asked for.
    fn remembering(&self, config: Config) -> Result<Config> {
        let Some(own) = config.recurrence else {
            if self.memory.is_some() {
                fail!(
                    Usage,
                    "--memory is of models that pass texts in segments, and a {} has none: leave it out",
                    config.family
                );
            }
            return Ok(config);
        };
        if self.stride.is_some() {
            fail!(Usage, "--stride is of windows, and a {} passes texts in segments: leave it out", config.family);
        }
        let memory = self.memory.unwrap_or(own.memory);
        // Where every query sees as many keys as the memory is long, there is nothing to see without one.
        let recurrence = Recurrence { memory, same_length: own.same_length && memory > 0, ..own };
        let config = Config { recurrence: Some(recurrence), ..config };
        config.validate()?;
        Ok(config)
    }

    /// Refuses options that would do nothing.
    fn check(&self) -> Result<()> {
        if self.limit == Some(0) {
            fail!(Usage, "--limit 0 leaves nothing to evaluate: give 1 or more");
        }
        match self.batch {
            0 => fail!(Usage, "--batch 0 does nothing: give 1 or more"),
            65_537.. => fail!(Usage, "--batch {} is beyond any device: give at most 65536", self.batch),
            _ => {}
        }
        let (perplexity, choose, cloze) = (Kind::Perplexity, Kind::Choose, Kind::Cloze);
        let most = self.shots.iter().copied().max().unwrap_or(0);
        let given: [(&str, bool, &[Kind]); 15] = [
            ("--ext", self.ext.is_some(), &[perplexity]),
            ("--window", self.window.is_some(), &[perplexity]),
            ("--memory", self.memory.is_some(), &[perplexity]),
            ("--stride", self.stride.is_some(), &[perplexity]),
            ("--limit", self.limit.is_some(), &[choose, cloze]),
            ("--shots", self.shots != [0], &[choose, cloze]),
            ("--plot", self.plot.is_some(), &[choose, cloze]),
            ("--train", self.train.is_some(), &[choose, cloze]),
            ("--text", self.text.is_some(), &[cloze]),
            ("--context", self.context.is_some(), &[choose]),
            ("--question", self.question.is_some(), &[choose]),
            ("--choices", self.choices.is_some(), &[choose]),
            ("--label", self.label.is_some(), &[choose]),
            ("--items", self.items.is_some(), &[choose, cloze]),
            ("--ids", self.ids.is_some(), &[perplexity]),
        ];
        for (option, given, tasks) in given {
            if given && !tasks.contains(&self.task) {
                let names: Vec<String> = tasks.iter().map(|task| format!("{task:?}").to_lowercase()).collect();
                fail!(Usage, "{option} is for --task {}; leave it out or choose that", names.join(" and "));
            }
        }
        if self.plot.is_some() && self.shots.len() < 2 {
            fail!(Usage, "--plot draws accuracies over --shots: give several numbers of them, such as 0,1,2,4");
        }
        if self.items.is_some() && self.shots.len() > 1 {
            fail!(Usage, "--items is of one number of --shots: give one, or leave it out");
        }
        match (most, &self.train) {
            (0, Some(_)) => fail!(Usage, "--train is where --shots K are drawn from; give --shots as well"),
            (1.., None) => fail!(Usage, "--shots needs a file to draw from; give --train FILE"),
            (0, None) if self.seed.is_some() => fail!(Usage, "--seed is of the draw of --shots; give that as well"),
            (0, None) if self.separator.is_some() => {
                fail!(Usage, "--separator stands between solved examples; give --shots as well")
            }
            _ => super::check_extensions(self.ext.as_ref(), &[self.data.as_deref()]),
        }
    }
}

/// A bar over things that are scored, on standard error if that is a terminal.
fn progress(global: &Global, things: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {pos} of {len}, {eta} left");
    ProgressBar::with_draw_target(Some(things), console::bars(global.quiet))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
