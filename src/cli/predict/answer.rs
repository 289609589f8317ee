//! Answers to questions about contexts.

use super::Predict;
use crate::cli::finetune::tokens::answer_items;
use crate::cli::{Global, console};
use serde_json::json;
use wgpt::error::Result;
use wgpt::evaluate::spans::Search;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::objectives::answer::folder::open;
use wgpt::objectives::answer::{SEARCH, found, measured};

/// Runs `wgpt predict` on a model of span answers: an object with the best answers for each question.
pub fn run(predict: &Predict, global: &Global, source: &ModelSource) -> Result<()> {
    if predict.template.is_some() {
        fail!(
            Usage,
            "--template is for models that score lists of messages, and this one answers questions: leave it out"
        );
    }
    let Some(path) = predict.file() else {
        fail!(Usage, "questions and their contexts are in a file, .json as SQuAD's or .jsonl: give it with --data");
    };
    let mut model = open(source)?;
    model.task.columns.extend(predict.columns.names());
    let items = answer_items(&model.task, &model.tokenizer, path, false)?;
    let mut executor = global.open()?;
    let logits = model.logits(executor.as_mut(), &items, predict.batch)?;
    let found = found(&items, &logits, Search { best: predict.top.max(1), ..SEARCH });
    for (item, found) in items.iter().zip(&found) {
        let answer = found.text(predict.no_answer);
        let (no_answer, difference) = (found.no_answer, found.difference);
        console::line(
            json!({"id": item.question.id, "answer": answer, "answers": found.answers, "no_answer": no_answer,
            "difference": difference, "line": item.question.line}),
        )?;
    }
    if let Some(figures) = measured(&items, &found, predict.no_answer) {
        global.say(&figures.to_string());
        for (what, part) in [("with an answer", figures.has_answer), ("without", figures.no_answer)] {
            if let Some(part) = part.filter(|_| figures.no_answer.is_some()) {
                global.say(&format!("{what}: exact match {:.2}%, F1 {:.2}% of {}", part.exact, part.f1, part.total));
            }
        }
        if figures.no_answer.is_some() {
            let best = figures.best_f1;
            global.say(&format!("best F1 {:.2}% at --no-answer {:.4}", best.value, best.threshold));
        }
    }
    Ok(())
}
