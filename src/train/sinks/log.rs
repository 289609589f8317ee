//! `log.jsonl`: one JSON object per step, appended while training and cut back when a run resumes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::train::checkpoint::RunFolder;
use crate::train::record::Record;
use crate::train::sinks::{Sink, read_lines};

/// The open log of a run.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Continues a log after `step`: later lines, and lines torn by a crash, are removed first. A log that is missing
    /// starts empty.
    pub fn resume(path: &Path, step: u64) -> Result<Self> {
        let mut kept = read(path)?;
        kept.retain(|record| record.step <= step);
        write_atomic(path, |writer| kept.iter().try_for_each(|record| writer.write_all(line(record).as_bytes())))?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("append to", path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }
}

impl Sink for Log {
    /// Appends one line in one write, so that a crash can tear at most the last line.
    fn record(&mut self, record: &Record) -> Result<()> {
        self.file.write_all(line(record).as_bytes()).map_err(Error::io("append to", &self.path))
    }

    /// Makes all lines survive a power loss, so that the log is never behind a checkpoint.
    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(Error::io("sync", &self.path))
    }

    fn moved(&mut self, folder: &RunFolder) {
        self.path = folder.log_path();
    }

    fn resume(&mut self, step: u64) -> Result<()> {
        *self = Log::resume(&self.path, step)?;
        Ok(())
    }
}

/// All records of a log, in order. Lines that are not records (torn by a crash) are left out; a missing file is empty.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    read_lines(path)
}

fn line(record: &Record) -> String {
    serde_json::to_string(record).expect("a struct of numbers and strings always serialises") + "\n"
}
