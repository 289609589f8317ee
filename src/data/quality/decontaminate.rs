//! Documents that hold a part of texts that a model will be evaluated on: any n-gram of words of theirs, 13 unless another number is
//! given, in simple form (Brown et al. 2020, appendix C; datatrove's `NGramsDecontFilter`, with 12).

use std::path::PathBuf;

use ahash::AHashSet;
use serde_json::Value;

use super::document::Document;
use super::filter::{Filter, LineCounts};
use super::simplify::n_grams;
use crate::data::found;
use crate::data::lines::{self, Row};
use crate::data::source::Source;
use crate::error::Result;
use crate::fail;

/// The number of words in an n-gram.
pub const WORDS: usize = 13;
const ROW: Row = Row { one: "row", many: "rows", form: "a JSON object" };

/// The files that are named, and all files of text in the folders that are named: files for validation and tests are held out too.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = vec![];
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let texts = found::texts(path)?;
        if texts.is_empty() {
            fail!(Input, "--decontaminate {} has no files of text in it", path.display());
        }
        files.extend(texts);
    }
    Ok(files)
}

/// The n-grams of held-out texts.
pub struct Decontaminate {
    n: usize,
    hashes: AHashSet<u64>,
    /// Texts, and those of them that are shorter than an n-gram and are not found.
    pub texts: usize,
    pub short: usize,
}

impl Decontaminate {
    /// Reads the texts of files: the strings of each row of .jsonl and .parquet, and whole other texts.
    pub fn read(paths: &[PathBuf], n: usize) -> Result<Decontaminate> {
        let mut held_out = Decontaminate { n, hashes: AHashSet::new(), texts: 0, short: 0 };
        for path in &files(paths)? {
            let is_rows = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "parquet");
            if is_rows {
                for (_, row) in lines::read::<Value>(path, ROW)? {
                    let mut text = String::new();
                    strings(&row, &mut text);
                    held_out.add(&text);
                }
            } else {
                let source = Source::open(path)?;
                if !source.is_text() {
                    fail!(Usage, "--decontaminate {} holds token ids; give the text", path.display());
                }
                let mut pieces = source.pieces(1 << 20);
                while let Some(document) = pieces.next_document()? {
                    held_out.add(&document.text);
                }
            }
        }
        if held_out.hashes.is_empty() {
            let names = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            fail!(
                Input,
                "no text of {names} has {n} words, so that nothing can be found; give a smaller --decontaminate-words"
            );
        }
        Ok(held_out)
    }

    fn add(&mut self, text: &str) {
        let found = n_grams(text, self.n);
        self.texts += 1;
        self.short += usize::from(found.is_empty());
        self.hashes.extend(found);
    }
}

/// All strings in a value, with newlines between them.
fn strings(value: &Value, text: &mut String) {
    match value {
        Value::String(string) => {
            *text += string;
            text.push('\n');
        }
        Value::Array(values) => values.iter().for_each(|value| strings(value, text)),
        Value::Object(fields) => fields.values().for_each(|value| strings(value, text)),
        _ => {}
    }
}

impl Filter for Decontaminate {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        let found = n_grams(document.text(), self.n).iter().any(|hash| self.hashes.contains(hash));
        found.then_some("contaminated")
    }
}
