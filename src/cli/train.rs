//! `wgpt train`: pretrains a model, prints progress, keeps checkpoints, log and plot.

mod material;
mod run;

use super::Global;
use material::{model_config, open_material, saved_tokenizer};
use run::{Run, allocated, go_on, planned};
use std::path::{Path, PathBuf};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::formats::folder::{Weights, read_config};
use wgpt::train::checkpoint::{Mode, RunFolder};
use wgpt::train::log::Log;
use wgpt::train::settings::Choices;
use wgpt::train::trainer::trainer_state;

#[derive(clap::Args)]
pub struct Train {
    /// Folder for the model, checkpoints, log and plot
    #[arg(long)]
    out: PathBuf,
    /// A file or folder of .txt, .jsonl (with a text field) or .bin token shards [default: the built-in stories]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Validation data [default: the last tenth of the data]
    #[arg(long)]
    val: Option<PathBuf>,
    /// A TOML file with any of the choices below; flags win over it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Start from the model in this folder, or ORG/NAME on the Hugging Face hub
    #[arg(long, conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Continue the run in --out exactly where its last checkpoint left it
    #[arg(long)]
    resume: bool,
    /// Replace the run in --out
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Lose the device before this step, once for each time it is given
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "STEP")]
    lose_device_at: Vec<u64>,
    #[command(flatten)]
    choices: Choices,
}

/// Times that a lost device is opened again before a run gives up.
const MOST_LOSSES: usize = 2;

impl Train {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.resume { self.resume(global) } else { self.start(global) }
    }

    /// A new run.
    fn start(&self, global: &Global) -> Result<()> {
        let init = self.init.as_deref().map(|dir| global.model_folder(dir)).transpose()?;
        let init = init.as_deref().map(|dir| Ok::<_, Error>((dir, read_config(dir)?))).transpose()?;
        let choices = match &self.config {
            Some(path) => self.choices.clone().or(read_choices(path)?),
            None => self.choices.clone(),
        };
        let settings = choices.resolve(init.as_ref().map(|(_, config)| config))?;
        settings.config(1)?; // refuse an impossible model before reading any data
        let known = init.as_ref().map(|(dir, _)| Tokenizer::load(dir)).transpose()?;
        let material = open_material(self.data.as_deref(), self.val.as_deref(), &settings, known)?;
        let config = model_config(&settings, &material, init.as_ref().map(|(_, config)| config))?;
        let mode = if self.overwrite { Mode::Overwrite } else { Mode::Fresh };
        let plan = planned(global, &config, &settings, &material, None)?;
        let folder = RunFolder::create(&self.out, mode)?;
        let mut trainer = allocated(plan, config, settings, &material)?;
        match &init {
            Some((dir, config)) => trainer.start_from(&Weights::open(dir, config)?)?,
            None => trainer.initialise()?,
        }
        let log = Log::create(&folder.log_path())?;
        let places = (path_text(self.data.as_deref()), path_text(self.val.as_deref()));
        self.run_to_end(Run { global, out: &self.out, folder, log, trainer, material, places, faults: self.faults() })
    }

    /// Goes on from the last checkpoint, with its settings; only --steps may change.
    fn resume(&self, global: &Global) -> Result<()> {
        let others = Choices { steps: None, ..self.choices.clone() };
        if others != Choices::default() || self.config.is_some() || self.data.is_some() || self.val.is_some() {
            fail!(
                Usage,
                "--resume takes everything but --steps from the run in {}: leave out the rest",
                self.out.display()
            );
        }
        let folder = RunFolder::open(&self.out)?;
        let Some(checkpoint) = folder.latest()? else {
            fail!(Input, "{} holds no checkpoint to resume: start it again with --overwrite", self.out.display());
        };
        checkpoint.warnings.iter().for_each(|w| global.say(&format!("warning: {w}")));
        let state = trainer_state(&checkpoint)?;
        let mut settings = state.settings.clone();
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        let known = saved_tokenizer(&checkpoint)?;
        let (data, val) = (state.data.as_deref().map(Path::new), state.validation.as_deref().map(Path::new));
        let material = open_material(data, val, &settings, known)?;
        if material.corpus.vocabulary_size != checkpoint.config.vocab_size {
            fail!(Input, "the data has another vocabulary than the checkpoint: it changed since the run was started");
        }
        let plan = planned(global, &checkpoint.config, &settings, &material, Some(&state))?;
        let mut trainer = allocated(plan, checkpoint.config.clone(), settings, &material)?;
        let log = go_on(global, &mut trainer, &checkpoint, &state, &folder)?;
        let places = (state.data.clone(), state.validation.clone());
        drop(checkpoint); // some systems refuse to replace a file that is mapped
        self.run_to_end(Run { global, out: &self.out, folder, log, trainer, material, places, faults: self.faults() })
    }

    /// Trains, on another device where one is lost: the same adapter after its driver came back, or the next best.
    fn run_to_end(&self, mut run: Run) -> Result<()> {
        let interrupted = super::interrupts(run.global);
        let mut losses = 0;
        loop {
            match run.go(&interrupted) {
                Err(Error::DeviceLost(why)) if losses < MOST_LOSSES => {
                    losses += 1;
                    let what = why.split(';').next().unwrap_or_default();
                    let note = format!("{what}; going on from the last checkpoint, {losses} of {MOST_LOSSES} times");
                    run.global.say(&format!("warning: {note}"));
                    run = run.on_new_device(why)?;
                }
                other => return other,
            }
        }
    }

    /// Steps before which the device is lost, to prove that a run survives it.
    fn faults(&self) -> Vec<u64> {
        #[cfg(debug_assertions)]
        return self.lose_device_at.clone();
        #[cfg(not(debug_assertions))]
        vec![]
    }
}

fn path_text(path: Option<&Path>) -> Option<String> {
    // Absolute, so that a run can be resumed from elsewhere.
    path.map(|p| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf()).display().to_string())
}

fn read_choices(path: &Path) -> Result<Choices> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let what = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::Usage(format!(
            "{}, line {line}: {what}; keys are the flags of wgpt train without the dashes",
            path.display()
        ))
    })
}
