//! Reading: every answer is looked up in its context, and an error names the row and the question's id.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Form, Format, Gold, Question, format};
use crate::data::labelled::Column;
use crate::data::lines::{self, Row, place};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

const ROW: Row = Row { one: "question", many: "questions", form: "an object with `question`, `context` and `answers`" };
/// Characters of a text that an error shows.
const SHOWN: usize = 40;

/// A SQuAD file.
#[derive(Deserialize)]
struct Squad {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    qas: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    id: Value,
    question: String,
    answers: Option<Answers>,
    is_impossible: Option<bool>,
}

/// Answers as they are written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answers {
    Lists { text: Vec<String>, answer_start: Vec<usize> },
    Each(Vec<Written>),
}

#[derive(Deserialize)]
struct Written {
    text: String,
    answer_start: usize,
}

/// All questions of a file. With `labels` each must say its answers; without, they are read where there are some.
pub fn read(path: &Path, form: &Form, labels: bool) -> Result<Vec<Question>> {
    let questions = match format(path)? {
        Format::Squad => squad(path, labels)?,
        Format::Objects => objects(path, form, labels)?,
    };
    if questions.is_empty() {
        fail!(Input, "{} has no questions in it", path.display());
    }
    Ok(questions)
}

fn squad(path: &Path, labels: bool) -> Result<Vec<Question>> {
    let text = lines::text(path, ROW.many)?;
    let file: Squad = serde_json::from_str(&text).map_err(|cause| {
        let cause = one_line(&cause.to_string());
        Error::Input(format!("{} is no file of SQuAD ({cause}); questions on lines are .jsonl", path.display()))
    })?;
    let mut questions: Vec<Question> = vec![];
    for paragraph in file.data.into_iter().flat_map(|article| article.paragraphs) {
        let context: Arc<str> = paragraph.context.into();
        for Asked { id, question, answers, is_impossible } in paragraph.qas {
            let number = questions.len() + 1;
            let id = self::id(&id, number);
            let place = format!("question {number} of {} (id {})", path.display(), one_line(&id));
            let answers = golds(&place, &context, answers, is_impossible)?;
            if labels && answers.is_none() {
                fail!(Input, "{place} has no `answers`; add them, an empty list where the context has none");
            }
            questions.push(question_of(&place, (number, id), question, context.clone(), answers)?);
        }
    }
    Ok(questions)
}

fn objects(path: &Path, form: &Form, labels: bool) -> Result<Vec<Question>> {
    let read = |(line, mut object): (usize, Map<String, Value>)| {
        let id = self::id(object.get(&form.id.name).unwrap_or(&Value::Null), line);
        let place = match object.contains_key(&form.id.name) {
            true => format!("{} (id {})", place(path, line), one_line(&id)),
            false => place(path, line),
        };
        let mut text = |column: &Column| match object.remove(&column.name) {
            Some(Value::String(text)) => Ok(text),
            None | Some(Value::Null) => Err(missing(&place, column)),
            Some(_) => fail!(Input, "`{}` in {place} is not a text; put it in quotes", column.name),
        };
        let (question, context) = (text(&form.question)?, text(&form.context)?);
        let answers = match object.remove(&form.answers.name).filter(|answers| !answers.is_null()) {
            None => None,
            Some(answers) => Some(serde_json::from_value(answers).map_err(|_| {
                let name = &form.answers.name;
                Error::Input(format!(
                    "`{name}` in {place} is neither {{\"text\": [...], \"answer_start\": [...]}} nor a list of texts with their starts"
                ))
            })?),
        };
        let context: Arc<str> = context.into();
        let is_impossible = object.get("is_impossible").and_then(Value::as_bool);
        let answers = golds(&place, &context, answers, is_impossible)?;
        if labels && answers.is_none() {
            return Err(missing(&place, &form.answers));
        }
        question_of(&place, (line, id), question, context, answers)
    };
    lines::read(path, ROW)?.into_iter().map(read).collect()
}

fn question_of(
    place: &str,
    (line, id): (usize, String),
    question: String,
    context: Arc<str>,
    answers: Option<Vec<Gold>>,
) -> Result<Question> {
    if question.trim().is_empty() || context.trim().is_empty() {
        fail!(Input, "{place} has an empty question or context; fill it in or remove it");
    }
    Ok(Question { line, id, question, context, answers })
}

/// The places of answers in their context; none where the row does not say.
fn golds(
    place: &str,
    context: &str,
    answers: Option<Answers>,
    is_impossible: Option<bool>,
) -> Result<Option<Vec<Gold>>> {
    let written: Vec<Written> = match answers {
        None => return Ok((is_impossible == Some(true)).then(Vec::new)),
        Some(Answers::Each(each)) => each,
        Some(Answers::Lists { text, answer_start }) => {
            if text.len() != answer_start.len() {
                let (texts, starts) = (text.len(), answer_start.len());
                fail!(Input, "{place} has {texts} answers and {starts} starts: give each answer one");
            }
            let each = text.into_iter().zip(answer_start);
            each.map(|(text, answer_start)| Written { text, answer_start }).collect()
        }
    };
    if is_impossible == Some(true) && !written.is_empty() {
        fail!(Input, "{place} is impossible to answer and has answers: take out one of both");
    }
    written.iter().map(|answer| gold(place, context, answer)).collect::<Result<_>>().map(Some)
}

fn gold(place: &str, context: &str, Written { text, answer_start }: &Written) -> Result<Gold> {
    if text.trim().is_empty() {
        fail!(Input, "{place} has an empty answer: leave the list empty where the context has none");
    }
    let mut starts = context.char_indices().map(|(byte, _)| byte);
    let start = if context.is_ascii() { Some(*answer_start) } else { starts.nth(*answer_start) };
    let rest = start.and_then(|start| context.get(start..)).unwrap_or_default();
    if !rest.starts_with(text.as_str()) {
        let shown = |text: &str| one_line(&text.chars().take(SHOWN).collect::<String>());
        let (text, there) = (shown(text), shown(&rest.chars().take(text.chars().count()).collect::<String>()));
        let found = if there.is_empty() { "the context has ended".into() } else { format!("there is `{there}`") };
        fail!(Input, "the answer `{text}` of {place} is not in its context at character {answer_start}, where {found}");
    }
    let start = start.unwrap_or_default();
    Ok(Gold { range: start..start + text.len() })
}

/// An id as a text, or the number of its row.
fn id(id: &Value, number: usize) -> String {
    match id {
        Value::Null => number.to_string(),
        Value::String(id) => id.clone(),
        other => other.to_string(),
    }
}

fn missing(place: &str, Column { option, name }: &Column) -> Error {
    Error::Input(format!("{place} has no `{name}`; add it, or name its column with --{option}"))
}
