//! The common part of all commands that train: the device, memory advice, the console, the run to its end, closing lines.

mod sinks;

use super::{Global, host_memory, interrupts, ranks};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use wgpt::data::corpus::DataDigest;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::formats::folder::{Weights, holds_model};
use wgpt::graph::Parameter;
use wgpt::models::config::Config;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::{LoadedCheckpoint, Mode, RunFolder};
use wgpt::train::memory::{advice, check_memory};
use wgpt::train::objective::Objective;
use wgpt::train::run::{Evaluated, Run, RunState, restore, run_state, saved_tokenizer};
use wgpt::train::settings::Settings;
use wgpt::train::trainer::{ChosenVariants, Trainer};

use self::sinks::{report, sinks};

/// Options of every command that trains.
#[derive(Clone, clap::Args)]
pub struct RunOptions {
    /// Continue the run in --out exactly where its last checkpoint left it
    #[arg(long, help_heading = "Run")]
    pub resume: bool,
    /// Replace the run in --out
    #[arg(long, conflicts_with = "resume", help_heading = "Run")]
    pub overwrite: bool,
    /// Write event files for TensorBoard into the run's folder; a run that has some goes on with them
    #[arg(long, help_heading = "Run")]
    tensorboard: bool,
    /// Resume although the data has changed since the run was started
    #[arg(long, requires = "resume", help_heading = "Run")]
    pub accept_changed_data: bool,
    /// Lose the device before this step, once for each time it is given
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "STEP")]
    lose_device_at: Vec<u64>,
}

impl RunOptions {
    pub fn mode(&self) -> Mode {
        if self.overwrite { Mode::Overwrite } else { Mode::Fresh }
    }

    /// Steps before which the device is lost, to prove that a run survives it.
    fn faults(&self) -> Vec<u64> {
        #[cfg(debug_assertions)]
        return self.lose_device_at.clone();
        #[cfg(not(debug_assertions))]
        vec![]
    }
}

/// Where a run's checkpoints and log are, below the model that it makes of another.
pub const TRAINING: &str = "training";

/// Prepares the folder of a run that makes a model of another, below `out`: refuses one with a model that no run made, and one
/// with a run in it unless it is to be replaced.
pub fn create_folder(out: &Path, options: &RunOptions) -> Result<RunFolder> {
    let training = out.join(TRAINING);
    if holds_model(out) && !training.exists() {
        fail!(Usage, "{} holds a model that was not fine-tuned there; choose another folder for --out", out.display());
    }
    RunFolder::create_in(out, TRAINING, options.mode())
}

/// The shape of a model that gets tokens, up to one of the id `last`.
pub fn with_tokens(model: &Config, last: u32) -> Result<Config> {
    let config = Config { vocab_size: model.vocab_size.max(last as usize + 1), ..model.clone() };
    config.validate()?;
    Ok(config)
}

/// A run that a command has prepared.
pub struct Prepared<'a> {
    pub global: &'a Global,
    pub options: &'a RunOptions,
    /// The command's name, for hints.
    pub command: &'static str,
    pub out: &'a Path,
    /// Where the best model goes.
    pub best: PathBuf,
    pub objective: Box<dyn Objective>,
    pub settings: Settings,
    pub tokenizer: Option<Tokenizer>,
    /// The command's own record, to make the objective again.
    pub arguments: serde_json::Value,
    /// The model and the data, for people.
    pub summary: String,
    /// The plot's title.
    pub title: String,
    /// Advice on using the model.
    pub hint: String,
}

/// The last checkpoint of a run, and its record of the run.
pub struct Resumed {
    pub folder: RunFolder,
    /// Of a rank that writes no run: its copy of the first one's.
    copy: Option<TempDir>,
    pub checkpoint: LoadedCheckpoint,
    pub state: RunState,
    pub tokenizer: Option<Tokenizer>,
}

/// Opens the last checkpoint in a run's folder; `objective` says whether its objective is one of the command's.
pub fn resumed(
    global: &Global,
    (out, inner): (&Path, &'static str),
    command: &str,
    is_ours: impl Fn(&str) -> bool,
) -> Result<Resumed> {
    let (folder, copy) = if global.ranks.is_first() {
        (RunFolder::open_in(out, inner)?, None)
    } else {
        ranks::copied(&global.ranks, None)?.map_or_else(
            || Err(Error::Training("there is no checkpoint to copy from rank 0: start the run again".into())),
            |(folder, copy)| Ok((folder, Some(copy))),
        )?
    };
    let root = folder.path();
    let Some(checkpoint) = folder.latest()? else {
        fail!(Input, "{} holds no checkpoint to resume: start it again with --overwrite", root.display());
    };
    if global.ranks.is_first() && global.ranks.are_several() {
        ranks::copied(&global.ranks, Some((&folder, checkpoint.step)))?;
    }
    checkpoint.warnings.iter().for_each(|warning| global.say(&format!("warning: {warning}")));
    let state = run_state(&checkpoint)?;
    if !is_ours(&state.objective) {
        let objective = &state.objective;
        fail!(Usage, "the run in {} is of {objective}, which wgpt {command} does not train", root.display());
    }
    let tokenizer = saved_tokenizer(&checkpoint)?.map(|tokenizer| tokenizer.with_settings_of(root)).transpose()?;
    Ok(Resumed { folder, copy, checkpoint, state, tokenizer })
}

impl Resumed {
    /// What the command kept, and the run's tokenizer.
    pub fn kept<T: DeserializeOwned>(&mut self) -> Result<(T, Option<Tokenizer>)> {
        let arguments = serde_json::from_value(self.state.command.clone())
            .map_err(|_| Error::Input(format!("trainer.json of {} is damaged", self.folder.path().display())))?;
        Ok((arguments, self.tokenizer.take()))
    }
}

/// The error of a run on texts in `out` without its tokenizer.
pub fn no_tokenizer(out: &Path) -> Error {
    Error::Input(format!("the run in {} has no tokenizer: its checkpoint is damaged", out.display()))
}

/// Refuses flags beside --resume that say something else than the run in `out` does; those that say the same do no harm.
/// `given` and `kept` are the user's choices, now and when the run was started, as objects; a choice that is new is compared
/// with the run's settings.
pub fn check_same(out: &Path, given: &Value, kept: &Value, settings: &Settings) -> Result<()> {
    let settings = serde_json::to_value(settings).expect("settings always serialise");
    for (key, value) in given.as_object().into_iter().flatten() {
        let own = [&kept[key], &settings[key.replace('-', "_")]];
        if key == "steps" || value.is_null() || *value == Value::Bool(false) || own.contains(&value) {
            continue;
        }
        let is =
            own.into_iter().find(|own| !own.is_null()).map_or(String::new(), |own| format!(", which is {own} there"));
        fail!(
            Usage,
            "--resume takes everything but --steps from the run in {}: leave out --{}{is}",
            out.display(),
            key.replace('_', "-")
        );
    }
    Ok(())
}

/// Two objects in one; the second's values count where it has some.
pub fn merge(first: Value, second: Value) -> Value {
    let (Value::Object(mut all), Value::Object(second)) = (first, second) else { unreachable!("choices are objects") };
    all.extend(second.into_iter().filter(|(_, value)| !value.is_null()));
    all.into()
}

impl RunOptions {
    /// Refuses data that has changed since the run was started, or warns where that is accepted. A run that does not say its data's
    /// digest takes any.
    pub fn check_data(&self, global: &Global, before: Option<&DataDigest>, now: &DataDigest) -> Result<()> {
        match before.and_then(|before| now.changed_since(before)) {
            Some(what) if self.accept_changed_data => {
                global.say(&format!("warning: {what} has changed since the run was started"));
                Ok(())
            }
            Some(what) => fail!(
                Input,
                "{what} has changed since the run was started: say with --data where the same data is, or go on with \
                 --accept-changed-data"
            ),
            None => Ok(()),
        }
    }
}

impl Prepared<'_> {
    /// A new run in the folder that `folder` prepares, from initial values and `weights`, to its end.
    pub fn start(mut self, folder: impl FnOnce() -> Result<RunFolder>, weights: Option<Weights>) -> Result<()> {
        let (ranks, micro_batches) = (self.global.ranks.count(), self.settings.accumulate);
        if micro_batches < ranks {
            fail!(
                Usage,
                "{ranks} ranks share the micro-batches of a step, which are {micro_batches}: give --accumulate {ranks} or more"
            );
        }
        if ranks == 1 && self.settings.wire.is_some() {
            fail!(
                Usage,
                "--wire is about the network between ranks, and there is one rank: start more with mpirun, or leave it out"
            );
        }
        self.settings = self.settings.shared(ranks)?;
        let planned = self.planned(&ChosenVariants::default())?;
        let own = (!self.global.ranks.is_first()).then(ranks::own_folder).transpose()?;
        let folder = own.as_ref().map_or_else(folder, |own| RunFolder::create(own.path(), Mode::Fresh))?;
        let (rest, mut trainer) = self.load(planned)?;
        trainer.initialise(weights.as_ref())?;
        drop(weights);
        rest.go(trainer, folder, vec![])
    }

    /// The run of a checkpoint, to its end.
    pub fn resume(mut self, resumed: Resumed) -> Result<()> {
        let Resumed { folder, copy, checkpoint, state, .. } = resumed;
        let ranks = self.global.ranks.count();
        self.settings = self.settings.shared(ranks)?;
        let planned = self.planned(&state.variants)?;
        let (rest, mut trainer) = self.load(planned)?;
        restore(&mut trainer, &checkpoint)?;
        rest.global.say(&format!("resuming after step {}", state.step));
        if state.differs_with(ranks) {
            let before = state.ranks;
            rest.global.say(&format!(
                "note: the run was of {before} ranks and goes on with {ranks}: from here on its bits differ from those of {before}"
            ));
        }
        drop(checkpoint); // some systems refuse to replace a file that is mapped
        let result = rest.go(trainer, folder, state.evaluations);
        drop(copy);
        result
    }

    /// Opens the device, and announces the run, its data and its memory.
    fn planned(&self, variants: &ChosenVariants) -> Result<(Box<dyn Executor>, Blueprint)> {
        let global = self.global;
        let mut executor = global.open()?;
        variants.settle(executor.as_mut());
        let (objective, settings) = (self.objective.as_ref(), &self.settings);
        let blueprint = check_memory(objective, settings, executor.limits(), host_memory(executor.as_ref()))?;
        let values = |parameters: &[Parameter]| parameters.iter().map(|p| p.len() as u64).sum::<u64>();
        let graph = blueprint.training_graph();
        let (trained, all) = (values(graph.trained()), values(graph.parameters()));
        let frozen = if trained < all { format!("; {trained} of {all} values are trained") } else { String::new() };
        global.say(&format!("{}{frozen}", self.summary));
        global.say(&advice(objective, settings, executor.limits(), &blueprint));
        global.detail(&format!("settings: {settings:?}"));
        ranks::check_alike(&global.ranks, objective.networks(), settings, &self.arguments)?;
        let blueprint = ranks::tuned(&global.ranks, executor.as_mut(), blueprint)?;
        Ok((executor, blueprint))
    }

    /// Allocates and compiles; returns the trainer, and the rest of the prepared run.
    fn load(self, planned: (Box<dyn Executor>, Blueprint)) -> Result<(Rest, Trainer)> {
        let Prepared { global, options, command, out, best, objective, settings, .. } = self;
        let closing = Rest {
            global: global.clone(),
            tensorboard: options.tensorboard,
            faults: options.faults(),
            command,
            out: out.to_path_buf(),
            best,
            tokenizer: self.tokenizer,
            arguments: self.arguments,
            title: self.title,
            hint: self.hint,
        };
        let mut trainer = Trainer::new(planned.0, planned.1, objective, settings)?;
        trainer.share(Arc::clone(&global.ranks));
        Ok((closing, trainer))
    }
}

/// Parts of a run beside its trainer and its folder.
struct Rest {
    global: Global,
    tensorboard: bool,
    faults: Vec<u64>,
    command: &'static str,
    out: PathBuf,
    best: PathBuf,
    tokenizer: Option<Tokenizer>,
    arguments: serde_json::Value,
    title: String,
    hint: String,
}

impl Rest {
    fn go(self, trainer: Trainer, folder: RunFolder, evaluations: Vec<Evaluated>) -> Result<()> {
        let Rest {
            global,
            tensorboard: with_tensorboard,
            faults,
            command,
            out,
            best,
            tokenizer,
            arguments,
            title,
            hint,
        } = self;
        let (step, steps) = (trainer.steps_done(), trainer.settings().steps);
        let state = RunState {
            step,
            objective: trainer.objective().name().to_string(),
            settings: trainer.settings().clone(),
            command: arguments,
            evaluations,
            variants: trainer.variants().clone(),
            ranks: trainer.ranks().count(),
            kept: Value::Null,
        };
        let floor = trainer.objective().floor();
        // The first rank writes for all.
        let sinks = match trainer.ranks().is_first() {
            true => sinks(&global, &folder, (step, steps), (title, floor), with_tensorboard)?,
            false => vec![],
        };
        let interrupted = interrupts(&global);
        let mut run = Run { trainer, state, folder, best, tokenizer, sinks, faults };
        let end = run.go(&interrupted, &mut || {
            let executor = global.open()?;
            let available = host_memory(executor.as_ref());
            Ok((executor, available))
        });
        run.sinks.clear(); // the console's bar ends before anything else is said
        report(&global, &run, end?, command, &out, floor, &hint)
    }
}
