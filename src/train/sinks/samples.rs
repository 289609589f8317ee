//! `samples.jsonl`: the texts that a model has drawn during training, one JSON object each, cut back when a run resumes.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Sink;
use super::lines::{self, Lines};
use crate::error::Result;
use crate::train::checkpoint::RunFolder;
use crate::train::record::Record;

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Optimizer steps before it was drawn.
    pub step: u64,
    pub text: String,
}

/// The file of a run, which is made with the first text.
#[derive(Debug)]
pub struct Samples(Lines);

impl Samples {
    /// Continues after `step`.
    pub fn resume(path: &Path, step: u64) -> Result<Samples> {
        Ok(Samples(Lines::resume(path, |sample: &Sample| sample.step <= step)?))
    }
}

impl Sink for Samples {
    fn record(&mut self, _record: &Record) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, step: u64, text: &str) -> Result<()> {
        self.0.append(&Sample { step, text: text.into() })
    }

    fn sync(&mut self) -> Result<()> {
        self.0.sync()
    }

    fn moved(&mut self, folder: &RunFolder) {
        self.0.path = folder.samples_path();
    }

    fn resume(&mut self, step: u64) -> Result<()> {
        *self = Samples::resume(&self.0.path, step)?;
        Ok(())
    }
}

/// All texts of a file, in order; a missing file is empty.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    lines::read(path)
}
