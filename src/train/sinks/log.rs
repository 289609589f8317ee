//! `log.jsonl`: one JSON object per step, appended while training and cut back when a run resumes.

use std::path::Path;

use crate::error::Result;
use crate::train::checkpoint::RunFolder;
use crate::train::record::Record;
use crate::train::sinks::Sink;
use crate::train::sinks::lines::{self, Lines};

/// The open log of a run.
#[derive(Debug)]
pub struct Log(Lines);

impl Log {
    /// Continues a log after `step`. A log that is missing starts empty.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let mut lines = Lines::resume(path, |record: &Record| record.step <= step)?;
        lines.open()?;
        Ok(Log(lines))
    }
}

impl Sink for Log {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.0.append(record)
    }

    /// The log is never behind a checkpoint.
    fn sync(&mut self) -> Result<()> {
        self.0.sync()
    }

    fn moved(&mut self, folder: &RunFolder) {
        self.0.path = folder.log_path();
    }

    fn resume(&mut self, step: u64) -> Result<()> {
        *self = Log::resume(&self.0.path, step)?;
        Ok(())
    }
}

/// All records of a log, in order. Lines that are not records (torn by a crash) are left out; a missing file is empty.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    lines::read(path)
}
