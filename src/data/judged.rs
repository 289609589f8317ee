//! Completions that are each judged by themselves, desirable or not, as trl has them.
//!
//! `.jsonl` or `.parquet`, one object per row: `prompt` and `completion`, both texts or both lists of messages, and `label`, true for a
//! desirable completion and false for an undesirable one. Lines are counted from 1; empty lines are skipped.

use std::path::Path;

use serde::Deserialize;

use super::dialogues::{Form, Part, answered, check};
use super::lines::{self, Row};
use crate::error::{Error, Result};

/// A prompt with a completion, of which that is learned, and its judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Where it is in its file.
    pub line: usize,
    pub form: Form,
    pub is_desirable: bool,
}

/// A row as it is written.
#[derive(Deserialize)]
struct Written {
    prompt: Part,
    completion: Part,
    label: bool,
}

const ROW: Row = Row {
    one: "judged completion",
    many: "judged completions",
    form: "an object with `prompt` and `completion`, texts or lists of messages, and `label`, true or false",
};

/// All rows of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Judged>> {
    let judged = |(line, Written { prompt, completion, label }): (usize, Written)| {
        let form = answered(prompt, completion).and_then(|form| check(&form).map(|()| form));
        let form = form.map_err(|why| Error::Input(format!("{}: {why}", lines::place(path, line))))?;
        Ok(Judged { line, form, is_desirable: label })
    };
    lines::read(path, ROW)?.into_iter().map(judged).collect()
}
