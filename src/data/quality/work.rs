//! The work folder: files that only grow, and a state that says how much of each is true.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::fault::{Step, point};
use crate::files::write_bytes;

const STATE: &str = "state.json";

/// How far the reading of documents is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Tells the rules and the files from others.
    pub key: String,
    pub position: Position,
    /// Bytes of each file that are true.
    pub lengths: BTreeMap<String, u64>,
    pub counts: Counts,
    /// All documents are read.
    pub is_complete: bool,
}

/// The place of the next document.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Position {
    pub origin: usize,
    pub file: usize,
    /// Documents of the file that are read.
    pub documents: u64,
}

impl State {
    /// The state in a folder, of a preparation with this key.
    pub fn read(folder: &Path, key: &str) -> Result<State> {
        let path = folder.join(STATE);
        let bytes = fs::read(&path).map_err(Error::io("read the unfinished preparation", &path))?;
        let state: State = match serde_json::from_slice(&bytes) {
            Ok(state) => state,
            Err(_) => fail!(Input, "{} is damaged: start again with --overwrite in place of --resume", path.display()),
        };
        if state.key != key {
            fail!(
                Usage,
                "the data or the choices are not those that {} was begun with: start again with --overwrite in place of --resume",
                folder.display()
            );
        }
        Ok(state)
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let json = serde_json::to_vec(self).expect("counts and names always serialise");
        write_bytes(&folder.join(STATE), &json)
    }

    /// Whether a folder holds a preparation that was begun.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(STATE).is_file()
    }
}

/// A file that only grows.
pub struct Log {
    path: PathBuf,
    file: BufWriter<File>,
    pub length: u64,
}

impl Log {
    /// Opens a file, and cuts what is behind `length`.
    pub fn open(folder: &Path, name: &str, length: u64) -> Result<Log> {
        let path = folder.join(name);
        let opened = point(Step::Write).and_then(|()| {
            let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            let found = file.metadata()?.len();
            if found >= length {
                file.set_len(length)?;
                file.seek(SeekFrom::Start(length))?;
            }
            Ok((file, found))
        });
        let (file, found) = opened.map_err(Error::io("open", &path))?;
        if found < length {
            fail!(
                Input,
                "{} is shorter than it was: start again with --overwrite in place of --resume",
                path.display()
            );
        }
        Ok(Log { path, file: BufWriter::with_capacity(1 << 20, file), length })
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io("write to", &self.path))
    }

    pub fn flush(&mut self) -> Result<()> {
        point(Step::Write).and_then(|()| self.file.flush()).map_err(Error::io("write to", &self.path))
    }
}

/// Numbers of eight bytes in a file.
pub fn numbers(folder: &Path, name: &str) -> Result<Vec<u64>> {
    let path = folder.join(name);
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok(bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes"))).collect())
}
