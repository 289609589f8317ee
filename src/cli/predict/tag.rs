//! Entities of texts, or of sentences whose words are given.

use super::{Predict, STANDARD_INPUT, standard_input};
use crate::cli::finetune::tokens::tag_form as form;
use crate::cli::{Global, console};
use serde_json::json;
use std::path::Path;
use wgpt::data::labelled::{self, Task};
use wgpt::data::tagged::sequences::{Encoder, Words, labels};
use wgpt::data::tagged::{self, Sentence};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::objectives::tag::folder::{Tagger, open};
use wgpt::objectives::tag::{Item, measured};

/// Runs `wgpt predict` on a tagger: an object with its entities for each row.
pub fn run(predict: &Predict, global: &Global, source: &ModelSource) -> Result<()> {
    if predict.template.is_some() {
        fail!(Usage, "--template is for models that score lists of messages, and this one tags words: leave it out");
    }
    let model = open(source)?;
    let rows = rows(predict, &model)?;
    let items: Vec<Item> = rows.iter().map(|row| row.item.clone()).collect();
    let mut executor = global.open()?;
    let scores = model.scores(executor.as_mut(), &items, predict.batch)?;
    for (row, scores) in rows.iter().zip(&scores) {
        let entities = model.prediction(&row.words, &row.item, scores);
        console::line(json!({"entities": entities, "line": row.line}))?;
    }
    if let Some((figures, loss)) = measured(&model.task.labels, &items, &scores) {
        global.say(&format!("loss {loss:.4}, {figures}"));
        for (kind, of) in &figures.types {
            let (p, r, f) = (of.precision, of.recall, of.f1);
            global.say(&format!("{kind}: precision {p:.4}, recall {r:.4}, F1 {f:.4} over {}", of.support));
        }
    }
    Ok(())
}

/// A text or a sentence.
struct Row {
    line: usize,
    words: Words,
    item: Item,
}

/// The rows: sentences with words of their own, or texts, which the tokenizer splits into words.
fn rows(predict: &Predict, model: &Tagger) -> Result<Vec<Row>> {
    let encoder = Encoder::new(&model.tokenizer, model.task.longest)?;
    let row = |line: usize, words: Words, labels: Option<Vec<usize>>| {
        let (sequences, count) = (encoder.encode(&words), words.places.len());
        Row { line, words, item: Item { sequences, words: count, labels } }
    };
    let mut columns = model.task.columns.clone();
    columns.extend(predict.columns.names());
    let texts = match (predict.file(), columns.remove("text")) {
        (Some(path), None) => {
            let of = |sentence: &Sentence| {
                let words = encoder.words(sentence)?;
                Ok(row(sentence.line, words, labels(sentence, &model.task.labels, path)?))
            };
            return tagged::read(path, &form(&columns)?, false)?.iter().map(of).collect();
        }
        (file, text) => {
            let mut form = Task::Classify.form();
            form.texts[0].name = text.unwrap_or_else(|| "text".into());
            match file {
                Some(path) => labelled::read(path, &form, false)?,
                None => labelled::read_lines(Path::new(STANDARD_INPUT), &standard_input()?, &form, None)?,
            }
        }
    };
    texts.iter().map(|text| Ok(row(text.line, Words::split(&text.texts[0], &model.tokenizer)?, None))).collect()
}
