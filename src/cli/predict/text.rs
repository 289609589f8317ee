//! Texts that are written for texts.

use super::{Predict, STANDARD_INPUT, standard_input};
use crate::cli::{Global, console};
use serde_json::json;
use std::path::Path;
use wgpt::data::labelled;
use wgpt::error::Result;
use wgpt::evaluate::texts::TextScores;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::generate::MOST_ROWS;
use wgpt::objectives::seq2seq::Item;
use wgpt::objectives::seq2seq::folder::{TextModel, open};

/// Runs `wgpt predict` on a text-to-text model: an object with the text that is written for each row.
pub fn run(predict: &Predict, global: &Global, source: &ModelSource) -> Result<()> {
    if predict.template.is_some() {
        fail!(Usage, "--template is for models that score lists of messages, and this one writes texts: leave it out");
    }
    if !(1..=MOST_ROWS).contains(&predict.beams) {
        fail!(Usage, "--beams is {}, but must be from 1 to {MOST_ROWS}", predict.beams);
    }
    let mut model = open(source)?;
    let context = model.config.context;
    if let Some(tokens) = predict.max_new_tokens.filter(|tokens| !(1..=context).contains(tokens)) {
        fail!(Usage, "--max-new-tokens is {tokens}, but must be from 1 to the model's context, {context}");
    }
    let tokens = predict.max_new_tokens.unwrap_or(model.task.longest);
    model.task.columns.extend(predict.columns.names());
    let items = items(predict, &model)?;
    let mut executor = global.open()?;
    let texts = model.texts(executor.as_mut(), &items, (predict.batch, predict.beams), tokens)?;
    for (item, text) in items.iter().zip(&texts) {
        console::line(json!({"text": text, "line": item.line}))?;
    }
    let wanted = items.iter().zip(&texts).filter_map(|(item, text)| Some((text.as_str(), item.text.as_deref()?)));
    if let Some(figures) = TextScores::of(&wanted.collect::<Vec<_>>()) {
        global.say(&figures.to_string());
    }
    Ok(())
}

/// The rows of the file, or of standard input, a text on each line.
fn items(predict: &Predict, model: &TextModel) -> Result<Vec<Item>> {
    let TextModel { task, tokenizer, .. } = model;
    if let Some(path) = predict.file() {
        return task.items(tokenizer, path, false);
    }
    let name = Path::new(STANDARD_INPUT);
    task.encoded(labelled::read_lines(name, &standard_input()?, &task.form()?, None)?, tokenizer, name)
}
