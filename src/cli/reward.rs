//! `wgpt reward`: trains a reward model on preferences.

use super::Global;
use super::examples::{ExampleFiles, check_validation};
use super::run::{
    Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed, with_tokens,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wgpt::data::preferences;
use wgpt::data::tokenizer::{Marks, Tokenizer};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::models::config::Config;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::reward::{Pairs, RECIPE, Reward};
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct RewardModel {
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the reward model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Preferences: .jsonl or .parquet with `chosen` and `rejected` texts, and optionally `prompt` and `margin`
    #[arg(long, required_unless_present = "resume", help_heading = "Data")]
    data: Option<PathBuf>,
    /// Preferences for validation: the most accurate model is kept; without it, the last
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    /// Tokens of prompt and answer, at most: longer pairs are dropped [default: the model's context]
    #[arg(long, help_heading = "Task")]
    max_length: Option<usize>,
    /// Coefficient of the loss that keeps rewards around 0 [default: 0]
    #[arg(long, help_heading = "Task")]
    center: Option<f32>,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// What a checkpoint keeps of the command.
#[derive(Serialize, Deserialize)]
struct Arguments {
    #[serde(flatten)]
    files: ExampleFiles,
    longest: usize,
    centre: f32,
    /// The token for padding.
    pad: u32,
    /// What the user chose of the run.
    #[serde(default)]
    choices: Value,
}

impl RewardModel {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    fn start(&self, global: &Global) -> Result<()> {
        if self.data.is_none() {
            fail!(Usage, "a new run needs preferences: give --data");
        }
        check_validation(&self.choices, self.val.as_deref())?;
        if self.choices.classifier_rows.is_some_and(|rows| rows > 0) {
            fail!(Usage, "--classifier-rows is for logits of words, which a reward model does not have: leave it out");
        }
        let centre = self.center.unwrap_or(0.0);
        if !(centre.is_finite() && centre >= 0.0) {
            fail!(Usage, "--center {centre} is not a number from 0 up: give one");
        }
        let source = global.model(self.model.as_deref())?;
        let config = source.config()?;
        let (weights, tokenizer) = (source.weights(&config)?, source.tokenizer()?);
        let tokenizer = tokenizer.for_model(config.vocab_size, &source.path(""))?;
        let longest = self.max_length.unwrap_or(config.context);
        if !(1..=config.context).contains(&longest) {
            fail!(Usage, "--max-length {longest} must be from 1 to {}, the model's context", config.context);
        }
        let marks = Marks::of(&tokenizer, TaskFile::read(&source)?.and_then(|task| task.pad));
        let config = self.choices.adapted(with_tokens(&config, marks.pad)?, (&config, source.name()))?;
        let tokenizer = tokenizer.ended(marks, longest)?;
        let files = ExampleFiles::new(self.data.as_slice(), self.val.as_deref())?;
        let arguments = Arguments { files, longest, centre, pad: marks.pad, choices: json!(self.choices) };
        let pairs = pairs(global, &arguments, &tokenizer)?;
        let settings = self
            .choices
            .clone()
            .resolve(&RECIPE.for_adapters(&config), |batch| pairs.0.len().div_ceil(batch) as u64)?;
        settings.check_model(&config, true)?;
        let prepared = self.prepared(global, settings.quantised(config), settings, tokenizer, arguments, pairs);
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let mut resumed = resumed(global, (&self.out, TRAINING), "reward", |objective| objective == "reward")?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        let mut settings = resumed.state.settings.clone();
        let given = merge(json!({"max_length": self.max_length, "center": self.center}), json!(self.choices));
        let own = json!({"max_length": arguments.longest, "center": arguments.centre});
        check_same(&self.out, &given, &merge(own, arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (self.data.as_slice(), self.val.as_deref()))?;
        let pairs = pairs(global, &arguments, &tokenizer)?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        self.prepared(global, config, settings, tokenizer, arguments, pairs).resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        (training, validation): (Pairs, Pairs),
    ) -> Prepared<'a> {
        let out = self.out.display();
        let summary = format!("reward: {} training, {} validation pairs", training.len(), validation.len());
        let title = format!("reward model on {}", config.family);
        Prepared {
            global,
            options: &self.options,
            command: "reward",
            out: &self.out,
            best: PathBuf::new(),
            objective: Box::new(Reward::new(
                config,
                (arguments.centre, arguments.pad),
                &settings,
                (training, validation),
            )),
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
            title,
            hint: format!("reward model in {out}; try: wgpt predict --model {out} --data FILE"),
        }
    }
}

/// Training and validation pairs, saying how many were dropped.
fn pairs(global: &Global, arguments: &Arguments, tokenizer: &Tokenizer) -> Result<(Pairs, Pairs)> {
    let longest = arguments.longest;
    let (data, validation) = arguments.files.places();
    let read = |path: &Path| {
        let pairs = Pairs::encode(&preferences::read(path)?, tokenizer, longest)?;
        let (kept, dropped, path) = (pairs.len(), pairs.dropped, path.display());
        if kept == 0 {
            fail!(Input, "every pair of {path} is longer than {longest} tokens: allow longer ones with --max-length");
        }
        if dropped > 0 {
            let all = kept + dropped;
            global.say(&format!(
                "warning: {dropped} of {all} pairs of {path} are longer than {longest} tokens and were dropped"
            ));
        }
        Ok(pairs)
    };
    Ok((read(data)?, validation.map_or(Ok(Pairs::default()), read)?))
}
