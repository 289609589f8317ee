//! A run from its first step to its last: validation after each epoch, the best model in the run's folder, checkpoints in
//! `training/` below it, early stopping, and going on where a run was interrupted. Callers hear of it by events.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::batches::Item;
use super::folder::{self, TaskFile};
use super::metrics::Metrics;
use super::settings::Settings;
use super::trainer::{Owned, Trainer};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::write_bytes;
use crate::formats::folder::{CONFIG_FILE, NamedTensor};
use crate::train::checkpoint::{Checkpoint, LoadedCheckpoint, Mode, RunFolder};
use crate::train::log::{self, Log, Record};
use crate::train::plot::{self, Plot};
use crate::train::trainer::ChosenVariants;

/// Where a run's checkpoints and log are, below its model.
pub const TRAINING: &str = "training";
/// What was measured after each epoch.
pub const METRICS_FILE: &str = "metrics.json";

/// What goes into `trainer.json`: with the tensors, everything that is needed to go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub step: u64,
    pub settings: Settings,
    pub task: TaskFile,
    pub data: PathBuf,
    pub validation: Option<PathBuf>,
    pub epochs: Vec<Epoch>,
    /// What runs where there is a choice of kernels, so that a resumed run has the same bits.
    #[serde(default)]
    pub variants: ChosenVariants,
}

/// What was measured after an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: u64,
    /// Mean loss of the head on the validation data, in nats or squared grades.
    pub loss: f64,
    /// The measure that decides what is best; null where it is not defined.
    pub value: Option<f64>,
    /// Whether no earlier epoch was as good.
    pub best: bool,
}

/// What a caller may want to tell.
pub enum Event<'a> {
    Step(&'a Record),
    Epoch(&'a Epoch, &'a Metrics),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// Some epochs in a row were no better.
    Early,
    Interrupted,
}

/// A run under way.
pub struct Run {
    pub trainer: Trainer,
    pub state: RunState,
    out: PathBuf,
    folder: RunFolder,
    log: Log,
    validation: Vec<Item>,
    tokenizer: Tokenizer,
}

/// Prepares the folder of a new run. Refuses one with a model that no run made, and one with a run in it unless `overwrite`.
pub fn create_folder(out: &Path, overwrite: bool) -> Result<RunFolder> {
    let training = out.join(TRAINING);
    if out.join(CONFIG_FILE).exists() && !training.exists() {
        fail!(Usage, "{} holds a model that was not fine-tuned there; choose another folder for --out", out.display());
    }
    RunFolder::create(&training, if overwrite { Mode::Overwrite } else { Mode::Fresh })
}

/// The run in a folder: its last checkpoint and its state.
pub fn open_folder(out: &Path) -> Result<(RunFolder, LoadedCheckpoint, RunState, Tokenizer)> {
    let training = out.join(TRAINING);
    let folder = RunFolder::open(&training)?;
    let Some(checkpoint) = folder.latest()? else {
        fail!(Input, "{} holds no checkpoint to resume: start it again with --overwrite", out.display());
    };
    let unreadable = |what: &str, why: String| {
        let why = crate::files::one_line(&why);
        Error::Input(format!("{what} of step {} is not what wgpt finetune writes ({why})", checkpoint.step))
    };
    let state = serde_json::from_value(checkpoint.trainer.clone());
    let state = state.map_err(|why| unreadable("trainer.json", why.to_string()))?;
    let tokenizer = Tokenizer::from_json(checkpoint.tokenizer.clone());
    let tokenizer = tokenizer.map_err(|why| unreadable("tokenizer.json", why))?;
    Ok((folder, checkpoint, state, tokenizer))
}

impl Run {
    /// A run whose trainer has its parameters, new or restored.
    pub fn new(
        out: &Path,
        folder: RunFolder,
        trainer: Trainer,
        validation: Vec<Item>,
        tokenizer: Tokenizer,
        state: RunState,
    ) -> Result<Run> {
        let log = Log::resume(&folder.log_path(), state.step)?;
        let state = RunState { variants: trainer.variants(), ..state };
        Ok(Run { trainer, state, out: out.to_path_buf(), folder, log, validation, tokenizer })
    }

    /// Trains to the end, or until `interrupted` after the step under way, with a checkpoint either way.
    pub fn go(&mut self, interrupted: &AtomicBool, tell: &mut dyn FnMut(Event)) -> Result<End> {
        let outcome = self.steps(interrupted, tell);
        // Records that have arrived are kept whatever ended the run.
        self.log.sync()?;
        outcome
    }

    fn steps(&mut self, interrupted: &AtomicBool, tell: &mut dyn FnMut(Event)) -> Result<End> {
        loop {
            let (steps, done) = self.trainer.steps();
            if done >= steps {
                return Ok(End::Done);
            }
            if self.is_stale() {
                return Ok(End::Early);
            }
            if interrupted.load(Ordering::SeqCst) {
                let records = self.trainer.finish()?;
                self.note(&records, None, tell)?;
                self.save()?;
                return Ok(End::Interrupted);
            }
            let records = self.trainer.step()?;
            match self.trainer.epoch_ended() {
                None => self.note(&records, None, tell)?,
                Some(epoch) => self.end_epoch(epoch, records, tell)?,
            }
            if self.trainer.is_hopeless() {
                fail!(
                    Training,
                    "five steps in a row were skipped because a value is not finite: use a lower --lr; what was best is kept \
                     in {}",
                    self.out.display()
                );
            }
        }
    }

    /// Validates, keeps the model if it is the best, and saves a checkpoint.
    fn end_epoch(&mut self, epoch: u64, mut records: Vec<Record>, tell: &mut dyn FnMut(Event)) -> Result<()> {
        records.extend(self.trainer.finish()?);
        let measured = self.trainer.evaluate(&self.validation)?;
        self.note(&records, measured.as_ref().map(|(_, loss)| *loss as f32), tell)?;
        let mut best = true;
        if let Some((metrics, loss)) = measured {
            let measure = self.state.settings.measure(&self.state.task.target);
            let value = metrics.get(measure).filter(|value| value.is_finite());
            let before = self.state.epochs.iter().filter_map(|e| e.value).fold(f64::NEG_INFINITY, f64::max);
            best = self.state.epochs.is_empty() || value.is_some_and(|value| value > before);
            let result = Epoch { epoch, loss, value, best };
            tell(Event::Epoch(&result, &metrics));
            self.state.epochs.push(result);
        }
        if best {
            self.keep()?;
        }
        self.save()
    }

    /// Whether so many epochs in a row were no better as the run has patience for.
    fn is_stale(&self) -> bool {
        let waited = self.state.epochs.iter().rev().take_while(|epoch| !epoch.best).count() as u64;
        self.state.settings.patience > 0 && waited >= self.state.settings.patience
    }

    /// Makes the model as it is the run's result.
    fn keep(&mut self) -> Result<()> {
        let parameters = self.trainer.read_parameters()?;
        folder::save(&self.out, self.trainer.config(), &self.state.task, &self.tokenizer, &borrowed(&parameters))
    }

    /// Saves a checkpoint of the steps done, which must be finished.
    fn save(&mut self) -> Result<()> {
        self.log.sync()?;
        self.state.step = self.trainer.steps().1;
        let count = self.trainer.parameters().len();
        let mut states = vec![];
        for (name, dims) in self.trainer.states() {
            let values = self.trainer.executor().read_state(&name)?;
            states.push((name, dims, values));
        }
        let states = borrowed(&states);
        self.folder.save(&Checkpoint {
            step: self.state.step,
            config: self.trainer.config(),
            tokenizer: self.tokenizer.json(),
            parameters: &states[..count],
            optimizer: &states[count..],
            trainer: &self.state,
        })?;
        let epochs = serde_json::to_string_pretty(&self.state.epochs).expect("numbers always serialise") + "\n";
        write_bytes(&self.out.join(METRICS_FILE), epochs.as_bytes())?;
        let records = log::read(&self.folder.log_path())?;
        let title = format!("{} on {}", self.state.task.task.name(), self.trainer.config().family.name());
        plot::write(&self.folder.plot_path(), &Plot { title: &title, records: &records, floor: None })
    }

    /// Logs records; `val` belongs to the last of them.
    fn note(&mut self, records: &[Record], val: Option<f32>, tell: &mut dyn FnMut(Event)) -> Result<()> {
        for (i, record) in records.iter().enumerate() {
            let record = Record { val_loss: val.filter(|_| i + 1 == records.len()), ..record.clone() };
            self.log.append(&record)?;
            tell(Event::Step(&record));
        }
        Ok(())
    }
}

/// Continues a trainer from a checkpoint.
pub fn restore(trainer: &mut Trainer, checkpoint: &LoadedCheckpoint) -> Result<()> {
    let head = trainer.head().parameter().0;
    crate::formats::upload::upload(trainer.executor(), &checkpoint.weights)?;
    let Some((_, score)) = checkpoint.weights.score()? else {
        fail!(Input, "the checkpoint of step {} has no head: it is of another run", checkpoint.step);
    };
    trainer.executor().write_state(&head, &score)?;
    let count = trainer.parameters().len();
    for (name, _) in trainer.states().split_off(count) {
        let values = checkpoint.optimizer.read(&name)?;
        trainer.executor().write_state(&name, &values)?;
    }
    trainer.seek(checkpoint.step);
    Ok(())
}

fn borrowed(tensors: &[Owned]) -> Vec<NamedTensor<'_>> {
    tensors.iter().map(|(name, dims, values)| (name.clone(), dims.clone(), values.as_slice())).collect()
}
