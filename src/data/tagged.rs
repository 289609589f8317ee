//! Sentences whose words have tags, such as the named entities of a text: files, the scheme of tags, token sequences, and places of
//! entities in the text.
//!
//! - CoNLL files: a word on each line, its tag in the last column, columns parted by spaces or tabs, an empty line between sentences.
//!   Lines of `-DOCSTART-` are skipped.
//! - `.jsonl` (and `.parquet`): `tokens`, a list of words, and `tags` or `ner_tags`, a list of as many.
//!
//! Tags are IOB2's: `B-TYPE` where an entity begins, `I-TYPE` where it goes on, `O` elsewhere.

mod read;
pub mod sequences;
pub mod tags;
mod write;

pub use self::read::read;
pub use self::write::write;

use std::path::Path;

use super::labelled::Column;
use crate::error::Result;
use crate::fail;

/// The words of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Its first line, counted from 1; 0 if it is from nowhere.
    pub line: usize,
    /// At least one.
    pub words: Vec<String>,
    /// One for each word, where the file has some.
    pub tags: Option<Vec<String>>,
}

/// The columns of a file of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub tokens: Column,
    /// Under the name `tags`, a column `ner_tags` will do.
    pub tags: Column,
}

impl Default for Form {
    fn default() -> Form {
        Form { tokens: Column::new("tokens"), tags: Column::new("tags") }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    /// A JSON object on each line, or a row of columns.
    Objects,
    /// A word on each line.
    Words,
}

/// The format of a file by its name.
fn format(path: &Path) -> Result<Format> {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("jsonl" | "parquet") => Ok(Format::Objects),
        Some("json" | "csv") => fail!(
            Usage,
            "{} is neither .jsonl nor CoNLL's words and tags; convert it, or name it by its format",
            path.display()
        ),
        _ => Ok(Format::Words),
    }
}
