//! Writing, so that `read` gives the same questions back.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Form, Format, Gold, Question, format};
use crate::error::Result;
use crate::fail;
use crate::files::write_atomic;

/// Replaces the file by the questions: a SQuAD file in `.json`, with a paragraph for neighbours about the same context, or objects on
/// lines in `.jsonl`.
pub fn write(path: &Path, form: &Form, questions: &[Question]) -> Result<()> {
    if path.extension().is_some_and(|extension| extension == "parquet") {
        fail!(Usage, "{}: questions are written as .json or .jsonl; name another file", path.display());
    }
    match format(path)? {
        Format::Objects => write_atomic(path, |file| {
            questions.iter().try_for_each(|question| writeln!(file, "{}", object(form, question)))
        }),
        Format::Squad => write_atomic(path, |file| {
            let paragraphs = questions.chunk_by(|a, b| Arc::ptr_eq(&a.context, &b.context) || a.context == b.context);
            let paragraphs: Vec<Value> = paragraphs.map(paragraph).collect();
            let data = json!({"version": "v2.0", "data": [{"title": "", "paragraphs": paragraphs}]});
            writeln!(file, "{data}")
        }),
    }
}

/// An object with its fields in the order of the form.
fn object(form: &Form, question: &Question) -> String {
    let answers = question.answers.iter().map(|golds| {
        let starts: Vec<usize> = golds.iter().map(|gold| characters(question, gold)).collect();
        (&form.answers.name, json!({"text": question.texts(), "answer_start": starts}))
    });
    let texts = [
        (&form.id.name, json!(question.id)),
        (&form.question.name, json!(question.question)),
        (&form.context.name, json!(*question.context)),
    ];
    let field = |(name, value): (&String, Value)| format!("{}: {value}", json!(name));
    let fields: Vec<String> = texts.into_iter().chain(answers).map(field).collect();
    format!("{{{}}}", fields.join(", "))
}

fn paragraph(questions: &[Question]) -> Value {
    let asked = |question: &Question| {
        let mut object = json!({"id": question.id, "question": question.question});
        if let Some(golds) = &question.answers {
            let text = |gold: &Gold| &question.context[gold.range.clone()];
            let each = golds.iter().map(|gold| json!({"text": text(gold), "answer_start": characters(question, gold)}));
            object["answers"] = each.collect();
            object["is_impossible"] = golds.is_empty().into();
        }
        object
    };
    json!({"context": *questions[0].context, "qas": questions.iter().map(asked).collect::<Vec<_>>()})
}

/// The first character of an answer.
fn characters(question: &Question, gold: &Gold) -> usize {
    question.context[..gold.range.start].chars().count()
}
