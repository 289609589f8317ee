//! `samples.jsonl`: the texts that a model has drawn on the way, one JSON object each, cut back when a run resumes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Sink, read_lines};
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::train::checkpoint::RunFolder;
use crate::train::record::Record;

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Steps before it.
    pub step: u64,
    pub text: String,
}

/// The open file of a run; it is made with the first text.
#[derive(Debug)]
pub struct Samples {
    path: PathBuf,
    file: Option<File>,
}

impl Samples {
    /// Continues after `step`: texts of later steps, and lines torn by a crash, are removed first.
    pub fn resume(path: &Path, step: u64) -> Result<Samples> {
        let all = read(path)?;
        if !all.is_empty() {
            let mut kept = all.iter().filter(|sample| sample.step <= step);
            write_atomic(path, |writer| kept.try_for_each(|sample| writer.write_all(line(sample).as_bytes())))?;
        }
        Ok(Samples { path: path.to_path_buf(), file: None })
    }
}

impl Sink for Samples {
    fn record(&mut self, _record: &Record) -> Result<()> {
        Ok(())
    }

    fn sample(&mut self, step: u64, text: &str) -> Result<()> {
        let Samples { path, file } = self;
        let file = match file {
            Some(file) => file,
            None => {
                let opened = OpenOptions::new().append(true).create(true).open(&*path);
                file.insert(opened.map_err(Error::io("append to", &*path))?)
            }
        };
        let text = line(&Sample { step, text: text.into() });
        file.write_all(text.as_bytes()).map_err(Error::io("append to", &*path))
    }

    fn moved(&mut self, folder: &RunFolder) {
        *self = Samples { path: folder.samples_path(), file: None };
    }

    fn resume(&mut self, step: u64) -> Result<()> {
        *self = Samples::resume(&self.path, step)?;
        Ok(())
    }
}

/// All texts of a file, in order; lines that are none are left out, and a missing file is empty.
pub fn read(path: &Path) -> Result<Vec<Sample>> {
    read_lines(path)
}

fn line(sample: &Sample) -> String {
    serde_json::to_string(sample).expect("a number and a text always serialise") + "\n"
}
