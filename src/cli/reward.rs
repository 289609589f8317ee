//! `wgpt reward`: trains a reward model on preferences.

use super::Global;
use super::examples::{
    ExampleFiles, check_kept, check_mix, check_same_template, check_validation, files, template_text,
};
use super::run::{
    Prepared, RunOptions, TRAINING, check_same, create_folder, merge, no_tokenizer, resumed, with_tokens,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use wgpt::data::tokenizer::{Marks, Tokenizer};
use wgpt::data::{dialogues, lines, rankings};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::models::config::Config;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::reward::{RECIPE, Ranked, Rankings, Reward, epoch_len};
use wgpt::train::settings::{Choices, Settings};

#[derive(clap::Args)]
pub struct RewardModel {
    /// Model folder or GGUF file to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the reward model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// Preferences: a .jsonl or .parquet file with `chosen` and `rejected` (and optionally `margin`), or `answers` and `ranks`, and
    /// optionally `prompt`, in each row, or a folder of them; texts or lists of messages; may be given several times
    #[arg(long, required_unless_present = "resume", value_name = "FILE|DIR", help_heading = "Data")]
    data: Vec<PathBuf>,
    /// Shares of several --data among the rows of a pass, such as 2,1: the rows of a source that is too small for its share come
    /// again [default: each row once]
    #[arg(long, value_name = "SHARES", value_delimiter = ',', help_heading = "Data")]
    mix: Vec<f64>,
    /// Preferences for validation: the most accurate model is kept; without it, the last
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    val: Option<PathBuf>,
    /// Chat template of messages: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Data")]
    template: Option<String>,
    /// Tokens of prompt and answer, at most: rows with longer ones are dropped [default: the model's context]
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
    #[serde(default)]
    mix: Vec<f64>,
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
        if self.data.is_empty() {
            fail!(Usage, "a new run needs preferences: give --data");
        }
        check_mix(&self.mix, self.data.len())?;
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
        let tokenizer = match &self.template {
            Some(template) => tokenizer.with_chat_template(&template_text(template)?),
            None => tokenizer,
        };
        let marks = Marks::of(&tokenizer, TaskFile::read(&source)?.and_then(|task| task.pad));
        let config = self.choices.adapted(with_tokens(&config, marks.pad)?, (&config, source.name()))?;
        let tokenizer = tokenizer.ended(marks, longest)?;
        let files = ExampleFiles::new(&self.data, self.val.as_deref())?;
        let mix = self.mix.clone();
        let arguments = Arguments { files, longest, centre, pad: marks.pad, mix, choices: json!(self.choices) };
        let (training, validation) = preferences(global, &arguments, &tokenizer)?;
        let settings =
            self.choices.clone().resolve(&RECIPE.for_adapters(&config).for_ranks(global.ranks.count()), |batch| {
                epoch_len(config.context, (&training, &validation), batch)
            })?;
        settings.check_model(&config, true)?;
        let (config, sets) = (settings.quantised(config), (training, validation));
        let prepared = self.prepared(global, config, settings, tokenizer, arguments, sets)?;
        prepared.start(|| create_folder(&self.out, &self.options), Some(weights))
    }

    fn resume(&self, global: &Global) -> Result<()> {
        let mut resumed = resumed(global, (&self.out, TRAINING), "reward", |objective| objective == "reward")?;
        let (mut arguments, tokenizer): (Arguments, _) = resumed.kept()?;
        let tokenizer = tokenizer.ok_or_else(|| no_tokenizer(&self.out))?;
        let mut settings = resumed.state.settings.clone();
        check_same_template(&self.out, self.template.as_deref(), &tokenizer)?;
        let mix = (!self.mix.is_empty()).then_some(&self.mix);
        let given = json!({"max_length": self.max_length, "center": self.center, "mix": mix});
        let given = merge(given, json!(self.choices));
        let own = json!({"max_length": arguments.longest, "center": arguments.centre, "mix": arguments.mix});
        check_same(&self.out, &given, &merge(own, arguments.choices.clone()), &settings)?;
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        arguments.files = arguments.files.moved(global, &self.options, (&self.data, self.val.as_deref()))?;
        let preferences = preferences(global, &arguments, &tokenizer)?;
        let config = settings.quantised(resumed.checkpoint.config.clone());
        self.prepared(global, config, settings, tokenizer, arguments, preferences)?.resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        tokenizer: Tokenizer,
        arguments: Arguments,
        (training, validation): (Rankings, Rankings),
    ) -> Result<Prepared<'a>> {
        let (out, most, batch) = (self.out.display(), training.most_answers(), settings.batch);
        if most > 2 * batch {
            let least = most.div_ceil(2);
            fail!(
                Usage,
                "a ranking has {most} answers, which are learned together, and --batch {batch} is {} answers at a time: give at least \
                 --batch {least}",
                2 * batch
            );
        }
        let rows = |all: &Rankings| match all.len() {
            rows if rows == all.pairs() => String::new(),
            rows => format!(" of {rows} rows"),
        };
        let counts = [&training, &validation].map(|all| (all.pairs(), rows(all)));
        let [(learned, of_rows), (held_out, of_held_out)] = counts;
        let summary = format!("reward: {learned} training pairs{of_rows}, {held_out} validation pairs{of_held_out}");
        let title = format!("reward model on {}", config.family);
        Ok(Prepared {
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
        })
    }
}

/// Training and validation preferences, saying how many were dropped.
fn preferences(global: &Global, arguments: &Arguments, tokenizer: &Tokenizer) -> Result<(Rankings, Rankings)> {
    let (longest, template) = (arguments.longest, tokenizer.chat_template()?);
    let read = |path: &Path| {
        let (mut kept, mut dropped) = (vec![], 0);
        for ranking in rankings::read(path)? {
            let place = lines::place(path, ranking.line);
            let answers = ranking.encode(tokenizer, template.as_ref()).map_err(|error| error.in_place(&place))?;
            if answers.iter().all(|ids| (1..=longest).contains(&ids.len())) {
                kept.push(Ranked { answers, pairs: ranking.pairs });
            } else {
                dropped += 1;
            }
        }
        let why = format!("are longer than {longest} tokens");
        let advice = "allow longer ones with --max-length";
        check_kept(global, path, (kept.len(), dropped), ("rows", &why, advice))?;
        Ok(kept)
    };
    let mut sources = vec![];
    for source in arguments.files.sources() {
        let mut kept = vec![];
        for file in files(source)? {
            kept.extend(read(&file)?);
        }
        sources.push(kept);
    }
    let training = dialogues::mixed(sources, &arguments.mix)?;
    let validation = arguments.files.places().1.map_or(Ok(vec![]), read)?;
    Ok((Rankings::new(training), Rankings::new(validation)))
}
