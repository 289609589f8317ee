//! Questions whose answers are spans of a context: files, and windows of tokens over contexts.
//!
//! - `.json`: the files of SQuAD 1.1 and 2.0.
//! - `.jsonl` (and `.parquet`): a question on each line, `id` (optional), `question`, `context` and `answers`, which is
//!   `{"text": [...], "answer_start": [...]}` or a list of `{"text", "answer_start"}`.
//!
//! Answers begin at a character, counted from 0. A question without answers in its list has none in the context.

mod read;
pub mod windows;
mod write;

pub use self::read::read;
pub use self::write::write;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::labelled::Column;
use crate::error::Result;
use crate::fail;

/// A question about a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its line in a `.jsonl` file, or its number among the questions of a `.json` file, counted from 1.
    pub line: usize,
    /// As in the file, or else its line.
    pub id: String,
    pub question: String,
    /// Questions about the same paragraph share it.
    pub context: Arc<str>,
    /// The right answers, none where the context has none; absent where the file does not say.
    pub answers: Option<Vec<Gold>>,
}

/// A right answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gold {
    /// Its bytes in the context.
    pub range: Range<usize>,
}

impl Question {
    /// The texts of the right answers.
    pub fn texts(&self) -> Vec<&str> {
        self.answers.iter().flatten().map(|gold| &self.context[gold.range.clone()]).collect()
    }
}

/// The columns of a file of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub id: Column,
    pub question: Column,
    pub context: Column,
    pub answers: Column,
}

impl Default for Form {
    fn default() -> Form {
        let [id, question, context, answers] = ["id", "question", "context", "answers"].map(Column::new);
        Form { id, question, context, answers }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    /// Articles of paragraphs of questions.
    Squad,
    /// A JSON object on each line, or a row of columns.
    Objects,
}

/// The format of a file by its name.
fn format(path: &Path) -> Result<Format> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("json") => Ok(Format::Squad),
        Some("jsonl" | "parquet") => Ok(Format::Objects),
        _ => fail!(
            Usage,
            "{} is neither .json, as SQuAD's files, nor .jsonl; convert it, or name it by its format",
            path.display()
        ),
    }
}
