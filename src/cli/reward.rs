//! `wgpt reward`: trains a reward model on preferences.

use super::Global;
use super::run::{Prepared, RunOptions, TRAINING, create_folder, resumed};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wgpt::data::preferences;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::models::config::Config;
use wgpt::objectives::reward::{Pairs, RECIPE, Reward};
use wgpt::train::run::absolute;
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct RewardModel {
    /// Model folder to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the reward model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Preferences: .jsonl with `chosen` and `rejected` texts, and optionally `prompt` and `margin`
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
    data: PathBuf,
    validation: Option<PathBuf>,
    longest: usize,
    centre: f32,
}

impl RewardModel {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    fn start(&self, global: &Global) -> Result<()> {
        let Some(data) = self.data.as_deref() else { fail!(Usage, "--data says what to learn from: give it") };
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
        let validation = self.val.as_deref().map(absolute);
        let arguments = Arguments { data: absolute(data), validation, longest, centre };
        let (training, held_out) = pairs(global, (data, self.val.as_deref()), longest, &tokenizer)?;
        let settings = self.choices.clone().resolve(&RECIPE, |batch| training.len().div_ceil(batch) as u64)?;
        settings.check_freeze(&config, true)?;
        let prepared = self.prepared(global, config, settings, tokenizer, arguments, (training, held_out));
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let others = Choices { steps: None, ..self.choices.clone() };
        let is_changed = others != Choices::default() || self.max_length.is_some() || self.center.is_some();
        if is_changed || self.data.is_some() || self.val.is_some() {
            let out = self.out.display();
            fail!(Usage, "--resume takes everything but --steps from the run in {out}: leave out the rest");
        }
        let mut resumed = resumed(global, (&self.out, TRAINING), "reward", |objective| objective == "reward")?;
        let damaged = || Error::Input(format!("trainer.json of {} is damaged", self.out.display()));
        let arguments: Arguments = serde_json::from_value(resumed.state.command.clone()).map_err(|_| damaged())?;
        let tokenizer = resumed.tokenizer.take().ok_or_else(damaged)?;
        let mut settings = resumed.state.settings.clone();
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        let places = (arguments.data.as_path(), arguments.validation.as_deref());
        let pairs = pairs(global, places, arguments.longest, &tokenizer)?;
        let config = resumed.checkpoint.config.clone();
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
            objective: Box::new(Reward::new(config, arguments.centre, &settings, (training, validation))),
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
fn pairs(
    global: &Global,
    (data, validation): (&Path, Option<&Path>),
    longest: usize,
    tokenizer: &Tokenizer,
) -> Result<(Pairs, Pairs)> {
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
