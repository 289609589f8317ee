//! The file of preferences that grows with each choice: rows are appended and synced one by one, and the last can be taken back.

use crate::cli::Global;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use wgpt::data::dialogues::Part;
use wgpt::data::lines::{self, place};
use wgpt::error::{Error, Result};
use wgpt::fail;

/// A preference as it is written.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Row<'a> {
    /// Of two answers.
    Pair { prompt: &'a Part, chosen: &'a Part, rejected: &'a Part, margin: f64, criterion: &'a str },
    /// Of more: rank 1 is best, and equal ranks are ties.
    Ranking { prompt: &'a Part, answers: &'a [Part], ranks: &'a [usize], criterion: &'a str },
}

/// What of a row says that its prompt is done.
#[derive(Deserialize)]
struct Known {
    prompt: Option<Part>,
    criterion: Option<String>,
}

const ROW: lines::Row = lines::Row {
    one: "preference",
    many: "preferences",
    form: "an object on each line, or choose another file for --out",
};

/// The open file.
pub struct Rows {
    file: File,
    path: PathBuf,
    /// Its bytes, all of them whole lines.
    len: u64,
}

impl Rows {
    /// Opens the file, or a new one, and counts the rows of each prompt with this criterion. A last line that was cut off is moved to
    /// a file beside it.
    pub fn open(global: &Global, path: &Path, criterion: &str) -> Result<(Rows, HashMap<String, usize>)> {
        if path.extension().is_some_and(|extension| extension == "parquet") {
            fail!(Usage, "--out {} is not written as .parquet: name it .jsonl", path.display());
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let mut rows = Rows { file: file.map_err(Error::io("write", path))?, path: path.into(), len: 0 };
        let mut bytes = vec![];
        rows.file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        rows.len = bytes.len() as u64;
        rows.mend(global, &bytes)?;
        let mut done = HashMap::new();
        if rows.len > 0 {
            for (line, Known { prompt, criterion: of }) in lines::read::<Known>(path, ROW)? {
                let Some(prompt) = prompt else {
                    fail!(Input, "{}: it has no `prompt`: choose another file for --out", place(path, line));
                };
                if of.as_deref() == Some(criterion) {
                    *done.entry(key(&prompt)).or_default() += 1;
                }
            }
        }
        Ok((rows, done))
    }

    /// Ends a last line that is whole, and moves one that was cut off out of the way.
    fn mend(&mut self, global: &Global, bytes: &[u8]) -> Result<()> {
        let torn = bytes.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        if torn.is_empty() {
            return Ok(());
        }
        if serde_json::from_slice::<Known>(torn).is_ok() {
            return self.append("\n");
        }
        let mut name = self.path.clone().into_os_string();
        name.push(".torn");
        let aside = PathBuf::from(name);
        let kept = OpenOptions::new().append(true).create(true).open(&aside).and_then(|mut file| {
            file.write_all(torn)?;
            file.write_all(b"\n")?;
            file.sync_all()
        });
        kept.map_err(Error::io("write", &aside))?;
        self.truncate(self.len - torn.len() as u64)?;
        global.say(&format!(
            "warning: the last line of {} was cut off in the middle and does not count; it is in {} now",
            self.path.display(),
            aside.display()
        ));
        Ok(())
    }

    /// Appends a row; its place, to take it back.
    pub fn push(&mut self, row: &Row) -> Result<u64> {
        let start = self.len;
        self.append(&(serde_json::to_string(row).expect("texts and numbers always serialise") + "\n"))?;
        Ok(start)
    }

    /// Takes the last row back, which begins at `start`.
    pub fn pop(&mut self, start: u64) -> Result<()> {
        self.truncate(start)
    }

    fn append(&mut self, text: &str) -> Result<()> {
        self.check_unchanged()?;
        let write = |file: &mut File| {
            file.seek(SeekFrom::End(0))?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        if let Err(error) = write(&mut self.file) {
            // A disk that is full leaves a part of the row, which nobody needs.
            let _ = self.file.set_len(self.len);
            return Err(Error::io("write", &self.path)(error));
        }
        self.len += text.len() as u64;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.check_unchanged()?;
        self.file.set_len(len).and_then(|()| self.file.sync_data()).map_err(Error::io("write", &self.path))?;
        self.len = len;
        Ok(())
    }

    /// Refuses a file that another program has written to since.
    fn check_unchanged(&self) -> Result<()> {
        let now = std::fs::metadata(&self.path).map(|metadata| metadata.len());
        match now {
            Ok(len) if len == self.len => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("read", &self.path)(error)),
            _ => fail!(
                Input,
                "{} was changed by another program: the last choice is not written; start again",
                self.path.display()
            ),
        }
    }
}

/// What tells prompts apart.
pub fn key(prompt: &Part) -> String {
    serde_json::to_string(prompt).expect("texts always serialise")
}
