//! `wgpt sft`: supervised fine-tuning on dialogues, prompts with completions, or texts.

use super::run::{Prepared, RunOptions, TRAINING, create_folder, resumed, template_text};
use super::{Global, console};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use wgpt::data::dialogues::{self, Encoded, Encoder};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::models::config::Config;
use wgpt::objectives::sft::{RECIPE, Sft};
use wgpt::train::run::absolute;
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct FineTune {
    /// Model folder to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Examples: .jsonl files with `messages`, `prompt` and `completion`, or `text` in each line
    #[arg(long, required_unless_present = "resume", num_args = 1.., value_name = "FILE", help_heading = "Data")]
    data: Vec<PathBuf>,
    /// Examples for validation: the model with the lowest loss is kept; without them, the last
    #[arg(long, num_args = 1.., value_name = "FILE", help_heading = "Data")]
    val: Vec<PathBuf>,
    /// Chat template: chatml, plain, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    template: Option<String>,
    /// Tokens of an example, at most: what is longer is cut at its end [default: 1024, or the model's context]
    #[arg(long, help_heading = "Data")]
    max_length: Option<usize>,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// What a checkpoint keeps of the command.
#[derive(Serialize, Deserialize)]
struct Arguments {
    data: Vec<PathBuf>,
    validation: Vec<PathBuf>,
    longest: usize,
}

/// Tokens of an example unless more are asked for, as in trl.
const LONGEST: usize = 1024;

impl FineTune {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    fn start(&self, global: &Global) -> Result<()> {
        let source = global.model(self.model.as_deref())?;
        let config = source.config()?;
        let (weights, tokenizer) = (source.weights(&config)?, source.tokenizer()?);
        let tokenizer = tokenizer.for_model(config.vocab_size, &source.path(""))?;
        let tokenizer = match &self.template {
            Some(template) => tokenizer.with_chat_template(&template_text(template)?),
            None => tokenizer,
        };
        let longest = self.max_length.unwrap_or(LONGEST.min(config.context));
        if !(2..=config.context).contains(&longest) {
            fail!(Usage, "--max-length {longest} must be from 2 to {}, the model's context", config.context);
        }
        let [data, validation] = [&self.data, &self.val].map(|paths| paths.iter().map(|path| absolute(path)).collect());
        let arguments = Arguments { data, validation, longest };
        let (training, held_out) = examples(global, &arguments, &config, &tokenizer)?;
        show(global, &training[0], &tokenizer)?;
        let settings = self.choices.clone().resolve(&RECIPE, |batch| training.len().div_ceil(batch) as u64)?;
        settings.check_freeze(&config, !config.tied)?;
        let prepared = self.prepared(global, config, settings, tokenizer, arguments, (training, held_out));
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let others = Choices { steps: None, ..self.choices.clone() };
        let is_changed = others != Choices::default() || self.max_length.is_some() || self.template.is_some();
        if is_changed || !self.data.is_empty() || !self.val.is_empty() {
            let out = self.out.display();
            fail!(Usage, "--resume takes everything but --steps from the run in {out}: leave out the rest");
        }
        let mut resumed = resumed(global, (&self.out, TRAINING), "sft", |objective| objective == "sft")?;
        let damaged = || Error::Input(format!("trainer.json of {} is damaged", self.out.display()));
        let arguments: Arguments = serde_json::from_value(resumed.state.command.clone()).map_err(|_| damaged())?;
        let tokenizer = resumed.tokenizer.take().ok_or_else(damaged)?;
        let mut settings = resumed.state.settings.clone();
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        let config = resumed.checkpoint.config.clone();
        let examples = examples(global, &arguments, &config, &tokenizer)?;
        self.prepared(global, config, settings, tokenizer, arguments, examples).resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        (training, validation): (Vec<Encoded>, Vec<Encoded>),
    ) -> Prepared<'a> {
        let out = self.out.display();
        let learned: usize = training.iter().map(Encoded::targets).sum();
        let summary = format!(
            "sft: {} training, {} validation examples; {learned} tokens are learned",
            training.len(),
            validation.len()
        );
        let title = format!("supervised fine-tuning of {}", config.family);
        Prepared {
            global,
            options: &self.options,
            command: "sft",
            out: &self.out,
            best: PathBuf::new(),
            objective: Box::new(Sft::new(config, &settings, (training, validation))),
            settings,
            tokenizer: Some(tokenizer),
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
            title,
            hint: format!("model in {out}; try: wgpt chat --model {out}"),
        }
    }
}

/// Training and validation examples, saying what was cut and dropped.
fn examples(
    global: &Global,
    arguments: &Arguments,
    config: &Config,
    tokenizer: &Tokenizer,
) -> Result<(Vec<Encoded>, Vec<Encoded>)> {
    let template = tokenizer.chat_template()?;
    let end = config.eos_token_id.first().copied().or(tokenizer.end_of_text());
    let encoder = Encoder { tokenizer, template: template.as_ref(), end };
    let longest = arguments.longest;
    let read = |paths: &[PathBuf]| {
        let (mut kept, mut cut, mut dropped, mut parted, mut all) = (vec![], 0, 0, 0, 0);
        for path in paths {
            for example in dialogues::read(path)? {
                let line = example.line;
                let named = |error| match error {
                    Error::Input(why) => Error::Input(format!("line {line} of {}: {why}", path.display())),
                    other => other,
                };
                let mut encoded = encoder.encode(&example.form).map_err(named)?;
                all += 1;
                parted += usize::from(encoded.parted);
                cut += usize::from(encoded.cut(longest));
                if encoded.targets() == 0 {
                    dropped += 1;
                } else {
                    kept.push(encoded);
                }
            }
        }
        let warn = |count: usize, what: &str| {
            if count > 0 {
                global.say(&format!("warning: {count} of {all} examples {what}"));
            }
        };
        warn(cut, &format!("are longer than {longest} tokens and were cut"));
        warn(dropped, "have no token left that is learned and were dropped");
        warn(parted, "have tokens across the border of prompt and answer, which are learned");
        if all > 0 && kept.is_empty() {
            fail!(
                Input,
                "no example has a token that is learned within {longest} tokens: allow more with --max-length"
            );
        }
        Ok(kept)
    };
    Ok((read(&arguments.data)?, read(&arguments.validation)?))
}

/// Shows an example, what is learned in green on a terminal, in brackets elsewhere.
fn show(global: &Global, example: &Encoded, tokenizer: &Tokenizer) -> Result<()> {
    let (open, close) = if console::shows_messages() { ("\x1b[32m", "\x1b[0m") } else { ("[", "]") };
    let (mut text, mut at) = (String::new(), 0);
    for run in example.learned.chunk_by(|a, b| a == b) {
        let part = tokenizer.decode(&example.ids[at..at + run.len()])?;
        at += run.len();
        text += &if run[0] { format!("{open}{part}{close}") } else { part };
    }
    let how = if console::shows_messages() { "green" } else { "[in brackets]" };
    global.say(&format!("the first example; what is learned is {how}:\n{text}"));
    Ok(())
}
