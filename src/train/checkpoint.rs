//! The run folder: a model folder with all state that a bit-identical resume needs.
//!
//! ```text
//! run/  config.json model.safetensors tokenizer.json   the newest model, loadable as any model folder
//!       optimizer.safetensors trainer.json             the rest of the newest state
//!       log.jsonl loss.svg samples.jsonl reward.svg    written by the trainer, not here
//!       events.out.tfevents.*                          with --tensorboard, by the trainer
//!       checkpoints/step-000120/                       the same five files and SHA256SUMS; the last three are kept
//! ```
//!
//! Of a model with adapters `adapter_config.json` and `adapter_model.safetensors` stand in place of the first two.
//!
//! A checkpoint is written and synced under a temporary name and appears by one rename, so that a kill or a power loss
//! at any moment leaves complete checkpoints only. The files at the top are made from it afterwards, one rename each;
//! resuming reads `checkpoints/` alone.

mod content;
mod files;
mod lock;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use content::{SUMS_FILE, files_of, is_state, load_checkpoint, remove_checkpoint, verify, write_checkpoint};
use files::{entry_names, link_or_copy, with_suffix};
use lock::{LOCK_FILE, Lock, lock};

use crate::error::{Error, Result};
use crate::fail;
use crate::files::fault::{Step, point};
use crate::files::replacement::{Replacement, recover};
use crate::files::{TEMPORARY_PREFIX, sync_directory, write_atomic};
use crate::formats::folder::{CONFIG_FILE, NamedTensor, TensorFile, WEIGHTS_FILE, Weights, is_model_file};
use crate::models::config::Config;

pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub const TRAINER_FILE: &str = "trainer.json";
pub const LOG_FILE: &str = "log.jsonl";
pub const PLOT_FILE: &str = "loss.svg";
/// The picture of a policy's reward, beside the curve of its loss.
pub const REWARD_PLOT_FILE: &str = "reward.svg";
pub const SAMPLES_FILE: &str = "samples.jsonl";

/// Checkpoints that stay on disk.
const KEPT: usize = 3;
pub const CHECKPOINTS: &str = "checkpoints";
/// The folder of the best model in that of a run.
const BEST: &str = "best";
/// The file of finetune's validations.
const METRICS_FILE: &str = "metrics.json";
/// The beginning of the names of TensorBoard's event files.
pub const EVENTS: &str = "events.out.tfevents.";
/// A checkpoint that is being written.
const UNFINISHED: &str = ".tmp";
/// A checkpoint that a new one of the same step is about to replace.
const REPLACED: &str = ".replaced";
/// A checkpoint that is being deleted.
const DELETED: &str = ".deleted";

/// How a new run treats a folder that holds one already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Refuses.
    Fresh,
    /// Replaces the files that a run makes, and no others, once its first checkpoint stands.
    Overwrite,
}

/// Everything needed to continue a run with the same bits. `T` is the trainer's own state (step, seeds, position in
/// the data, hyperparameters), kept as JSON.
#[derive(Debug)]
pub struct Checkpoint<'a, T> {
    /// Optimizer steps done.
    pub step: u64,
    pub config: &'a Config,
    /// The bytes of `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// Parameters by their names without prefix.
    pub parameters: &'a [NamedTensor<'a>],
    /// `<parameter>.exp_avg` and `<parameter>.exp_avg_sq` for every parameter, and any small state by name.
    pub optimizer: &'a [NamedTensor<'a>],
    pub trainer: &'a T,
}

/// A checkpoint read back. It holds memory maps: drop it before the next save, which Windows would refuse otherwise.
#[derive(Debug)]
pub struct LoadedCheckpoint {
    pub step: u64,
    pub config: Config,
    pub tokenizer: Vec<u8>,
    pub weights: Weights,
    pub optimizer: TensorFile,
    pub trainer: serde_json::Value,
    /// One line for every newer checkpoint that was damaged and passed over.
    pub warnings: Vec<String>,
}

/// A run folder, locked against other trainers until it is dropped.
///
/// One that replaces another run is built beside it: until [`RunFolder::settle`] the old run is as it was, and dropped before
/// that, nothing of the new one is left.
#[derive(Debug)]
pub struct RunFolder {
    /// The command's folder.
    out: PathBuf,
    /// Where in it the run is; nothing where it is the folder itself.
    inner: &'static str,
    root: PathBuf,
    /// Held, never read.
    lock: Lock,
    /// The run to replace, and its lock.
    replaces: Option<(Replacement, Lock)>,
}

impl RunFolder {
    /// Prepares a folder, with its parents, for a new run. Refuses a file, a folder that cannot be written to, a
    /// folder in use, a model folder that no run made, and (with [`Mode::Fresh`]) a folder with a run in it.
    pub fn create(root: &Path, mode: Mode) -> Result<Self> {
        Self::create_in(root, "", mode)
    }

    /// As [`RunFolder::create`], of a run in the folder `inner` of `out`, which is replaced as a whole.
    pub fn create_in(out: &Path, inner: &'static str, mode: Mode) -> Result<Self> {
        let root = &join(out, inner);
        if root.exists() && !root.is_dir() {
            fail!(Usage, "{} is a file; give --out the name of a folder", root.display());
        }
        recover(out).map_err(Error::io("clear leftovers of an earlier process beside", out))?;
        fs::create_dir_all(root).map_err(Error::io("create the folder", root))?;
        let mut run = Self { out: out.to_path_buf(), inner, root: root.clone(), lock: lock(root)?, replaces: None };
        let holds = |names: &[&str]| names.iter().any(|name| root.join(name).exists());
        // A start that failed leaves no more than an empty folder, which is no run.
        let has_checkpoints = entry_names(&root.join(CHECKPOINTS)).is_ok_and(|names| !names.is_empty());
        if has_checkpoints || holds(&[LOG_FILE, TRAINER_FILE, OPTIMIZER_FILE]) {
            if mode == Mode::Fresh {
                fail!(
                    Usage,
                    "{} already holds a run; use --resume to continue it or --overwrite to start anew",
                    root.display()
                );
            }
            let replacement = Replacement::begin(out)?;
            let out = replacement.path().to_path_buf();
            let root = join(&out, inner);
            fs::create_dir_all(&root).map_err(Error::io("create the folder", &root))?;
            run = Self { lock: lock(&root)?, out, inner, root, replaces: Some((replacement, run.lock)) };
        } else if holds(&[CONFIG_FILE, WEIGHTS_FILE]) {
            fail!(
                Usage,
                "{} holds a model that was not trained there; choose another folder for --out",
                root.display()
            );
        }
        let checkpoints = run.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(Error::io("create the folder", &checkpoints))?;
        sync_directory(&run.root).map_err(Error::io("write to", root))?;
        Ok(run)
    }

    /// Puts a run that replaces another in its place, to be called when its first checkpoint is saved: true where that was
    /// done, and paths from before no longer hold. Does nothing for others.
    pub fn settle(&mut self) -> Result<bool> {
        let Some((replacement, old_lock)) = self.replaces.take() else { return Ok(false) };
        let target = replacement.target().to_path_buf();
        drop(old_lock);
        if cfg!(not(unix)) {
            self.lock.release(); // other systems refuse to rename a folder with an open file
        }
        let inner = self.inner;
        let in_run = |path: &Path| path.strip_prefix(inner).map_or(path, |rest| rest).to_path_buf();
        replacement.commit(&|path| is_users(&in_run(path)))?;
        self.root = join(&target, inner);
        self.out = target;
        if cfg!(not(unix)) {
            self.lock = lock(&self.root)?;
        }
        Ok(true)
    }

    /// Opens a folder to resume its run, and clears the leftovers of a crash. Fails if there is nothing to resume.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_in(root, "")
    }

    /// As [`RunFolder::open`], of the run in the folder `inner` of `out`.
    pub fn open_in(out: &Path, inner: &'static str) -> Result<Self> {
        recover(out).map_err(Error::io("clear leftovers of an earlier process beside", out))?;
        let root = &join(out, inner);
        if !root.join(CHECKPOINTS).is_dir() {
            fail!(Usage, "{} holds no run to resume; leave out --resume to start one", root.display());
        }
        let run = Self { out: out.to_path_buf(), inner, root: root.clone(), lock: lock(root)?, replaces: None };
        run.clean_up().map_err(Error::io("clean up", root))?;
        if run.steps()?.is_empty() {
            fail!(Usage, "{} has no checkpoint to resume from; start again with --overwrite", root.display());
        }
        Ok(run)
    }

    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The command's folder, which the run's is or lies in.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Whether another run stands until this one is settled.
    pub fn replaces(&self) -> bool {
        self.replaces.is_some()
    }

    pub fn log_path(&self) -> PathBuf {
        self.root.join(LOG_FILE)
    }

    pub fn samples_path(&self) -> PathBuf {
        self.root.join(SAMPLES_FILE)
    }

    pub fn plot_path(&self) -> PathBuf {
        self.root.join(PLOT_FILE)
    }

    /// Saves a checkpoint, makes the files at the top of the folder from it, and deletes all but the last three. After
    /// an error the earlier checkpoints are as they were. Needs room for four.
    pub fn save<T: Serialize>(&self, checkpoint: &Checkpoint<T>) -> Result<()> {
        let saved = self.directory(checkpoint.step);
        let unfinished = with_suffix(&saved, UNFINISHED);
        let written = remove_checkpoint(&unfinished).and_then(|()| write_checkpoint(&unfinished, checkpoint));
        if let Err(source) = written {
            let _ = remove_checkpoint(&unfinished); // the reason to report is the first one
            return Err(Error::Io { action: format!("save a checkpoint to {}", saved.display()), source });
        }
        self.put_in_place(&unfinished, &saved).map_err(Error::io("save a checkpoint to", &saved))?;
        self.publish(&saved)?;
        self.rotate(checkpoint.step)
    }

    /// The newest checkpoint whose files all match their checksums; its warnings name newer ones that do not. `None`
    /// if nothing was saved yet; an error if checkpoints exist and every one is damaged.
    pub fn latest(&self) -> Result<Option<LoadedCheckpoint>> {
        let mut warnings = Vec::new();
        for step in self.steps()? {
            let directory = self.directory(step);
            let mut damaged = |error| warnings.push(format!("{error}; going back to an earlier checkpoint"));
            if let Err(error) = verify(&directory) {
                damaged(error);
                continue;
            }
            // A crash may have come between a checkpoint and the files at the top. Before the maps are made: Windows
            // may refuse to replace a link to a mapped file.
            self.publish(&directory)?;
            match load_checkpoint(&directory, step) {
                Ok(loaded) => return Ok(Some(LoadedCheckpoint { warnings, ..loaded })),
                Err(error) => damaged(error),
            }
        }
        if warnings.is_empty() {
            return Ok(None);
        }
        let root = self.root.display();
        fail!(Input, "every checkpoint in {root} is damaged; restore one from a copy, or start anew with --overwrite")
    }

    /// Steps of all checkpoints under their final names, newest first.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let checkpoints = self.checkpoints();
        let names = entry_names(&checkpoints).map_err(Error::io("list", &checkpoints))?;
        let mut steps: Vec<u64> = names.iter().filter_map(|name| step_of(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// Where the checkpoint of a step is or would be.
    pub fn directory(&self, step: u64) -> PathBuf {
        self.checkpoints().join(directory_name(step))
    }

    fn checkpoints(&self) -> PathBuf {
        self.root.join(CHECKPOINTS)
    }

    /// Renames a finished checkpoint to its final name. One of the same step (damaged, or from before a change of
    /// hyperparameters) steps aside first and comes back in `clean_up` if the process ends between the two renames.
    fn put_in_place(&self, unfinished: &Path, saved: &Path) -> io::Result<()> {
        let replaced = with_suffix(saved, REPLACED);
        point(Step::Rename)?;
        if saved.exists() {
            remove_checkpoint(&replaced)?;
            fs::rename(saved, &replaced)?;
        }
        point(Step::Rename)?;
        fs::rename(unfinished, saved)?;
        sync_directory(&self.checkpoints())?;
        remove_checkpoint(&replaced)
    }

    /// Makes the files at the top of the folder from a checkpoint.
    fn publish(&self, directory: &Path) -> Result<()> {
        for name in files_of(directory) {
            let (from, to) = (directory.join(name), self.root.join(name));
            if name.ends_with(".json") {
                // Copied, because an editor may change a small text file in place, which would reach through a link.
                let bytes = fs::read(&from).map_err(Error::io("read", &from))?;
                write_atomic(&to, |writer| writer.write_all(&bytes))?;
            } else {
                link_or_copy(&from, &to).map_err(Error::io("write", &to))?;
            }
        }
        sync_directory(&self.root).map_err(Error::io("write to", &self.root))
    }

    /// Deletes all but the last three up to `newest`, and any beyond it: those were damaged and training has gone back
    /// behind them. Deleting is tried again after the next save where it fails (Windows keeps mapped files).
    fn rotate(&self, newest: u64) -> Result<()> {
        let (abandoned, valid): (Vec<_>, Vec<_>) = self.steps()?.into_iter().partition(|&step| step > newest);
        for step in abandoned.into_iter().chain(valid.into_iter().skip(KEPT)) {
            let (directory, deleted) = (self.directory(step), with_suffix(&self.directory(step), DELETED));
            // Renamed first, so that a half-deleted one never looks like a checkpoint.
            let _ = fs::rename(&directory, &deleted).and_then(|()| remove_checkpoint(&deleted));
        }
        Ok(())
    }

    /// Removes temporary files and unfinished checkpoints, and brings back a checkpoint that was being replaced.
    fn clean_up(&self) -> io::Result<()> {
        for name in entry_names(&self.checkpoints())? {
            let path = self.checkpoints().join(&name);
            if let Some(original) = name.strip_suffix(REPLACED).filter(|original| step_of(original).is_some()) {
                let original = self.checkpoints().join(original);
                if original.exists() { remove_checkpoint(&path)? } else { fs::rename(&path, &original)? }
            } else if [UNFINISHED, DELETED].iter().any(|suffix| name.strip_suffix(suffix).and_then(step_of).is_some()) {
                remove_checkpoint(&path)?;
            }
        }
        for name in entry_names(&self.root)?.iter().filter(|name| name.starts_with(TEMPORARY_PREFIX)) {
            let path = self.root.join(name);
            if path.is_file() {
                fs::remove_file(path)?
            }
        }
        Ok(())
    }
}

/// Whether something in a run's folder is the user's, and stays where a new run replaces the old one.
fn is_users(path: &Path) -> bool {
    let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap_or_default()).collect();
    match names[..] {
        [] => false,
        [name] => {
            let plots = [PLOT_FILE, REWARD_PLOT_FILE];
            let run = [LOG_FILE, SAMPLES_FILE, CHECKPOINTS, LOCK_FILE, METRICS_FILE, BEST];
            !is_model_file(name)
                && !is_state(name)
                && !plots.contains(&name)
                && !run.contains(&name)
                && !name.starts_with(EVENTS)
        }
        [BEST, name] => !is_model_file(name),
        [CHECKPOINTS, checkpoint] => !is_checkpoint(checkpoint),
        [CHECKPOINTS, checkpoint, name] if is_checkpoint(checkpoint) => {
            !is_state(name) && name != SUMS_FILE && !name.starts_with(TEMPORARY_PREFIX)
        }
        _ => true,
    }
}

/// `out` itself where `inner` is nothing.
fn join(out: &Path, inner: &str) -> PathBuf {
    if inner.is_empty() { out.to_path_buf() } else { out.join(inner) }
}

/// Whether this is the name of a checkpoint, whole or not.
fn is_checkpoint(name: &str) -> bool {
    [UNFINISHED, REPLACED, DELETED, ""].iter().any(|suffix| name.strip_suffix(suffix).and_then(step_of).is_some())
}

fn directory_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step of a checkpoint's folder name; nothing else has one.
fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (directory_name(step) == name).then_some(step)
}
