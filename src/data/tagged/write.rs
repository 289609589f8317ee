//! Writing, so that `read` gives the same sentences back.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::tags::OUTSIDE;
use super::{Form, Format, Sentence, format};
use crate::error::Result;
use crate::fail;
use crate::files::write_atomic;

/// Replaces the file by the sentences: objects in `.jsonl`, else a word and its tag on each line and an empty line after each sentence.
pub fn write(path: &Path, form: &Form, sentences: &[Sentence]) -> Result<()> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        fail!(Usage, "{}: sentences are written as .jsonl or as CoNLL's lines; name another file", path.display());
    }
    let object = |Sentence { words, tags, .. }: &Sentence| {
        let field = |name: &str, list: &[String]| format!("{}: {}", json!(name), json!(list));
        let tags = tags.iter().map(|tags| field(&form.tags.name, tags));
        let fields: Vec<String> = [field(&form.tokens.name, words)].into_iter().chain(tags).collect();
        format!("{{{}}}\n", fields.join(", "))
    };
    let lines = |Sentence { words, tags, .. }: &Sentence| {
        let tag = |word: usize| tags.as_ref().map_or(OUTSIDE, |tags| &tags[word]);
        let lines = words.iter().enumerate().map(|(at, word)| format!("{word} {}\n", tag(at)));
        lines.chain(["\n".into()]).collect::<String>()
    };
    let is_words = format(path)? == Format::Words;
    write_atomic(path, |file| {
        sentences.iter().try_for_each(|sentence| {
            file.write_all(if is_words { lines(sentence) } else { object(sentence) }.as_bytes())
        })
    })
}
