//! `wgpt train`: pretrains a model.

mod material;

use super::Global;
use super::run::{Prepared, RunOptions, resumed};
use material::{Material, model_config, open_material};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::formats::folder::{Weights, read_config};
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::checkpoint::RunFolder;
use wgpt::train::run::absolute;
use wgpt::train::settings::{Choices, Settings, merged};

/// The name of the objective.
const OBJECTIVE: &str = "pretraining";

#[derive(clap::Args)]
pub struct Train {
    /// Folder for the model, checkpoints, log and plot
    #[arg(long)]
    out: PathBuf,
    /// A file or folder of .txt, .jsonl (with a text field) or .bin token shards [default: the built-in stories]
    #[arg(long, help_heading = "Data")]
    data: Option<PathBuf>,
    /// Validation data [default: the last tenth of the data]
    #[arg(long, help_heading = "Data")]
    val: Option<PathBuf>,
    /// A TOML file with any of the choices of model, optimiser and run; flags win over it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Start from the model in this folder, or ORG/NAME on the Hugging Face hub
    #[arg(long, conflicts_with = "resume", help_heading = "Model")]
    init: Option<PathBuf>,
    #[command(flatten)]
    model: ModelChoices,
    #[command(flatten)]
    choices: Choices,
    #[command(flatten)]
    options: RunOptions,
}

/// What a checkpoint keeps of the command.
#[derive(Serialize, Deserialize)]
struct Arguments {
    data: Option<PathBuf>,
    validation: Option<PathBuf>,
    /// Tokens per sequence.
    context: usize,
}

impl Train {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.options.resume { self.resume(global) } else { self.start(global) }
    }

    /// A new run.
    fn start(&self, global: &Global) -> Result<()> {
        let init = self.init.as_deref().map(|dir| global.model_folder(dir)).transpose()?;
        let init = init.as_deref().map(|dir| Ok::<_, Error>((dir, read_config(dir)?))).transpose()?;
        let (model, choices) = match &self.config {
            Some(path) => {
                let (model, choices) = read_choices(path)?;
                (merged(&self.model, &model), merged(&self.choices, &choices))
            }
            None => (self.model.clone(), self.choices.clone()),
        };
        let recipe = PresetRecipe::of(model.recipe());
        let context = match &init {
            Some((_, config)) => model.check_init(config)?,
            // Refuse an impossible model before reading any data.
            None => model.config(1, recipe.init_std)?.context,
        };
        // Whatever cannot be right is refused before reading any data, too; without data an epoch has one micro-batch.
        choices.clone().resolve(&recipe.run, |_| 1)?;
        let known = init.as_ref().map(|(dir, _)| Tokenizer::load(dir)).transpose()?;
        let tokenizer = model.tokenizer.as_deref().unwrap_or(recipe.tokenizer);
        let seed = choices.seed.unwrap_or(1337);
        let material = open_material(self.data.as_deref(), self.val.as_deref(), seed, tokenizer, known)?;
        let tokens = material.corpus.training.len();
        let epoch = |batch: usize| tokens.div_ceil((batch * context) as u64).max(1);
        let settings = choices.resolve(&recipe.run, epoch)?;
        let config = model_config(&model, recipe.init_std, &settings, &material, init.as_ref().map(|(_, c)| c))?;
        settings.check_freeze(&config, !config.tied)?;
        let weights = init.as_ref().map(|(dir, config)| Weights::open(*dir, config)).transpose()?;
        let absolute = |path: &PathBuf| absolute(path);
        let (data, validation) = (self.data.as_ref().map(absolute), self.val.as_ref().map(absolute));
        let arguments = Arguments { data, validation, context };
        let prepared = self.prepared(global, config, settings, material, arguments);
        prepared.start(|| RunFolder::create(&self.out, self.options.mode()), weights)
    }

    /// Goes on from the last checkpoint, with its settings; only --steps may change.
    fn resume(&self, global: &Global) -> Result<()> {
        let others = Choices { steps: None, ..self.choices.clone() };
        let is_changed = others != Choices::default() || self.model != ModelChoices::default();
        if is_changed || self.config.is_some() || self.data.is_some() || self.val.is_some() {
            fail!(
                Usage,
                "--resume takes everything but --steps from the run in {}: leave out the rest",
                self.out.display()
            );
        }
        let mut resumed = resumed(global, (&self.out, ""), "train", |objective| objective == OBJECTIVE)?;
        let arguments: Arguments = serde_json::from_value(resumed.state.command.clone())
            .map_err(|_| Error::Input(format!("trainer.json of {} is damaged", self.out.display())))?;
        let mut settings = resumed.state.settings.clone();
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        let (data, val) = (arguments.data.as_deref(), arguments.validation.as_deref());
        let material = open_material(data, val, settings.seed, "char", resumed.tokenizer.take())?;
        let config = resumed.checkpoint.config.clone();
        if material.corpus.vocabulary_size > config.vocab_size {
            fail!(Input, "the data has another vocabulary than the checkpoint: it changed since the run was started");
        }
        self.prepared(global, config, settings, material, arguments).resume(resumed)
    }

    fn prepared<'a>(
        &'a self,
        global: &'a Global,
        config: Config,
        settings: Settings,
        material: Material,
        arguments: Arguments,
    ) -> Prepared<'a> {
        let Material { corpus, tokenizer, floor } = material;
        corpus.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        let Config { layers, heads, width, context, vocab_size, family, .. } = config;
        let (training, validation) = (corpus.training.len(), corpus.validation.len());
        let summary = format!(
            "model: {} parameters ({layers} layers, {heads} heads, {width} wide, {context} context, {vocab_size} tokens); \
             data: {training} training, {validation} validation tokens",
            config.parameter_count()
        );
        let out = self.out.display();
        Prepared {
            global,
            options: &self.options,
            command: "train",
            out: &self.out,
            best: "best".into(),
            title: format!("{family}, {layers} layers, {width} wide, {context} context"),
            hint: format!("model in {out}, curve in {out}/loss.svg; try: wgpt sample --model {out} --prompt \"...\""),
            objective: Box::new(Pretrain::new(config, arguments.context, corpus, floor)),
            settings,
            tokenizer,
            arguments: serde_json::to_value(arguments).expect("paths and numbers always serialise"),
            summary,
        }
    }
}

/// Reads a configuration file: keys are those of the flags.
fn read_choices(path: &Path) -> Result<(ModelChoices, Choices)> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let at = |e: toml::de::Error| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let what = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::Usage(format!(
            "{}, line {line}: {what}; keys are the flags of wgpt train without the dashes",
            path.display()
        ))
    };
    let table: toml::Table = toml::from_str(&text).map_err(at)?;
    let [model, run] = [keys(&ModelChoices::default()), keys(&Choices::default())];
    for key in table.keys() {
        let is_known = model.contains_key(key) || run.contains_key(key);
        if !is_known {
            let line = text.lines().position(|line| line.trim_start().starts_with(key.as_str())).unwrap_or(0) + 1;
            fail!(
                Usage,
                "{}, line {line}: there is no key `{key}`; keys are the flags of wgpt train without the dashes",
                path.display()
            );
        }
    }
    Ok((toml::from_str(&text).map_err(at)?, toml::from_str(&text).map_err(at)?))
}

/// The names of optional choices.
fn keys(choices: &impl Serialize) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(choices) {
        Ok(serde_json::Value::Object(keys)) => keys,
        _ => unreachable!("choices are an object of optional values"),
    }
}
