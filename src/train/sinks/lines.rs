//! A file of one JSON object a line, appended while a run goes on and cut back when it resumes.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// The file, which is opened with the first line.
#[derive(Debug)]
pub(super) struct Lines {
    pub path: PathBuf,
    file: Option<File>,
}

impl Lines {
    /// Continues a file with the lines that `keep` accepts: others, and lines torn by a crash, are removed first.
    pub fn resume<T: Serialize + DeserializeOwned>(path: &Path, keep: impl Fn(&T) -> bool) -> Result<Lines> {
        if path.exists() {
            let mut kept = read::<T>(path)?.into_iter().filter(keep);
            write_atomic(path, |writer| kept.try_for_each(|value| writer.write_all(line(&value).as_bytes())))?;
        }
        Ok(Lines { path: path.to_path_buf(), file: None })
    }

    /// Appends one line in one write, so that a crash can tear at most the last line.
    pub fn append(&mut self, value: &impl Serialize) -> Result<()> {
        self.open()?.write_all(line(value).as_bytes()).map_err(Error::io("append to", &self.path))
    }

    /// Makes all lines survive a power loss.
    pub fn sync(&mut self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_all().map_err(Error::io("sync", &self.path)))
    }

    /// The open file, which is made where it is not there.
    pub fn open(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let opened = OpenOptions::new().append(true).create(true).open(&self.path);
            self.file = Some(opened.map_err(Error::io("append to", &self.path))?);
        }
        Ok(self.file.as_mut().expect("opened above"))
    }
}

/// The lines of a file, in order. Those of another form (torn by a crash) are left out; a missing file is empty.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes.split(|&byte| byte == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("numbers and texts always serialise") + "\n"
}
