//! `log.jsonl`: one JSON object per step, appended while training and cut back when a run resumes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// What one training step measured. JSON has no NaN: a loss that is not finite is written as null and read as NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Mean cross entropy of the step's tokens, in nats per token.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f32,
    /// The same on held-out data; absent unless measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f32>,
    /// Learning rate of the step.
    #[serde(deserialize_with = "nan_if_null")]
    pub lr: f32,
    /// Norm of all gradients together, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f32,
    /// Wall time of the step in milliseconds.
    #[serde(deserialize_with = "nan_if_null")]
    pub step_ms: f32,
    /// Tokens trained on per second of wall time.
    #[serde(deserialize_with = "nan_if_null")]
    pub tokens_per_second: f32,
    /// Device memory in use.
    pub memory_bytes: u64,
    /// For every layer with experts the share of choices that went to each since the last validation, relative to an even
    /// one; absent where there are none, and where `val_loss` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expert_load: Option<Vec<Vec<f32>>>,
    /// What runs where there is a choice of kernels, by class; only in the first record since the run began or went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variants: Option<BTreeMap<String, String>>,
    /// Mixed precision's loss scale after the step; absent in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f32>,
    /// Why the update of this step was left out; absent for ordinary steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// The open log of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Starts an empty log.
    pub fn create(path: &Path) -> Result<Self> {
        File::create(path).map_err(Error::io("create", path))?;
        Self::open(path)
    }

    /// Continues a log after `step`: later lines, and lines torn by a crash, are removed first. A log that is missing
    /// starts empty.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let mut kept = read(path)?;
        kept.retain(|record| record.step <= step);
        write_atomic(path, |writer| kept.iter().try_for_each(|record| writer.write_all(line(record).as_bytes())))?;
        Self::open(path)
    }

    /// Appends one line in one write, so that a crash can tear at most the last line.
    pub fn append(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(line(record).as_bytes()).map_err(Error::io("append to", &self.path))
    }

    /// Makes all lines survive a power loss. Call it before saving a checkpoint, so that the log is never behind it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("sync", &self.path))
    }

    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("append to", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }
}

/// All records of a log, in order. Lines that are not records (torn by a crash) are left out; a missing file is empty.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.split(|&byte| byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The line on the console:
/// `step 120/400  loss 1.734  val 1.802  norm 0.91  lr 5.8e-4  212 ms  2415 tok/s  41 MiB`, and for experts the least and
/// the largest load of one, relative to an even one: `load 0.71 to 1.36`; in mixed precision the loss scale: `scale 65536`
pub fn console_line(record: &Record, steps: u64) -> String {
    let digits = steps.to_string().len();
    let val = record.val_loss.map_or(String::new(), |loss| format!("  val {loss:.3}"));
    let skipped = record.skipped.as_ref().map_or(String::new(), |reason| format!("  skipped: {reason}"));
    let load = record.expert_load.as_ref().map_or(String::new(), |layers| {
        let all = || layers.iter().flatten().copied();
        format!("  load {:.2} to {:.2}", all().fold(f32::INFINITY, f32::min), all().fold(0.0, f32::max))
    });
    let scale = record.loss_scale.map_or(String::new(), |scale| format!("  scale {scale}"));
    let ms_decimals = if record.step_ms < 9.95 { 1 } else { 0 };
    format!(
        "step {:>digits$}/{steps}  loss {:.3}{val}  \
         norm {:.2}  lr {:.1e}  {:.ms_decimals$} ms  {:.0} tok/s  {}{load}{scale}{skipped}",
        record.step,
        record.loss,
        record.grad_norm,
        record.lr,
        record.step_ms,
        record.tokens_per_second,
        memory(record.memory_bytes),
    )
}

/// Whole MiB below 10 GiB, tenths of a GiB above.
fn memory(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 10240.0 { format!("{mib:.0} MiB") } else { format!("{:.1} GiB", mib / 1024.0) }
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a struct of numbers and strings always serialises") + "\n"
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f32::NAN))
}
