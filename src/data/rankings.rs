//! Preferences for reward models: pairs of answers of which one is better, as trl has them, and rankings of several answers.
//!
//! `.jsonl` or `.parquet`, one object per row; `prompt` is optional, and all of its texts are texts, or all are lists of messages:
//!
//!   {"prompt", "chosen", "rejected"}, optionally with "margin", a number that is larger the better the chosen answer is
//!   {"prompt", "answers": [...], "ranks": [1, 2, 2, 3]}: rank 1 is best, and equal ranks are ties
//!
//! Other columns, such as the `criterion` that `wgpt prefer` writes, are passed over.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::chat_template::ChatTemplate;
use super::dialogues::{Form, Part, check, dialogue_ids};
use super::lines::{self, Row};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::files::one_line;

/// Answers to one prompt, and which are better than which.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Where it is in its file.
    pub line: usize,
    /// Each with the prompt in front.
    pub answers: Vec<Form>,
    /// All pairs of answers that are not ties.
    pub pairs: Vec<Pair>,
}

/// Two of a ranking's answers, by their places in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    pub chosen: usize,
    pub rejected: usize,
    pub margin: f32,
}

/// A row as it is written.
#[derive(Deserialize)]
struct Written {
    prompt: Option<Part>,
    chosen: Option<Part>,
    rejected: Option<Part>,
    margin: Option<Value>,
    answers: Option<Vec<Part>>,
    ranks: Option<Vec<usize>>,
}

const ROW: Row = Row {
    one: "preference",
    many: "preferences",
    form: "an object with `chosen` and `rejected`, or with `answers` and `ranks`, and optionally `prompt`",
};

/// More answers in one row are a mistake.
const MOST_ANSWERS: usize = 256;

/// All rankings of a file, a pair being one of two answers; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Ranking>> {
    let ranking = |(line, written): (usize, Written)| {
        let refused = |why: String| Error::Input(format!("{}: {why}", lines::place(path, line)));
        ranking(line, written).map_err(refused)
    };
    lines::read(path, ROW)?.into_iter().map(ranking).collect()
}

/// The ranking of a row, or the reason why it is refused.
fn ranking(line: usize, written: Written) -> std::result::Result<Ranking, String> {
    let Written { prompt, chosen, rejected, margin, answers, ranks } = written;
    let margin = read_margin(margin.as_ref())?;
    let (answers, pairs) = match (chosen, rejected, answers, ranks) {
        (None, None, Some(answers), Some(ranks)) => {
            if margin.is_some() {
                return Err(
                    "a margin is for `chosen` and `rejected`, and these answers have ranks: leave it out".into()
                );
            }
            let pairs = pairs(answers.len(), &ranks)?;
            (answers, pairs)
        }
        (Some(chosen), Some(rejected), None, None) => {
            (vec![chosen, rejected], vec![Pair { chosen: 0, rejected: 1, margin: margin.unwrap_or(0.0) }])
        }
        _ => return Err(format!("some of its parts are missing, or are those of another form: write {}", ROW.form)),
    };
    let is_text = |part: &Part| matches!(part, Part::Text(_));
    if answers.iter().chain(&prompt).any(|part| is_text(part) != is_text(&answers[0])) {
        return Err("prompt and answers are texts and lists of messages: write all alike".into());
    }
    let is_pair = answers.len() == 2;
    if let Some(Pair { chosen, rejected, .. }) =
        pairs.iter().find(|pair| answers[pair.chosen] == answers[pair.rejected])
    {
        return Err(match is_pair {
            true => "the chosen and the rejected answer are the same; remove the pair".into(),
            false => format!("answers {} and {} are the same, and their ranks are not", chosen + 1, rejected + 1),
        });
    }
    let answers: Vec<Form> = answers.into_iter().map(|answer| form(prompt.as_ref(), answer)).collect();
    // A text may be empty, which is an answer, too.
    answers.iter().filter(|answer| matches!(answer, Form::Dialogue { .. })).try_for_each(check)?;
    Ok(Ranking { line, answers, pairs })
}

/// The margin of a row that has one.
fn read_margin(written: Option<&Value>) -> std::result::Result<Option<f32>, String> {
    let Some(written) = written.filter(|margin| !margin.is_null()) else { return Ok(None) };
    match written.as_f64().map(|margin| margin as f32).filter(|margin| margin.is_finite()) {
        Some(margin) => Ok(Some(margin)),
        None => {
            let written = one_line(&written.to_string());
            Err(format!("the margin {written} is not a number: write one, such as 1, or leave it out"))
        }
    }
}

/// All pairs of answers of different ranks, or what is wrong with the ranks.
fn pairs(answers: usize, ranks: &[usize]) -> std::result::Result<Vec<Pair>, String> {
    if answers != ranks.len() {
        return Err(format!("there are {answers} answers and {} ranks: give each answer one", ranks.len()));
    }
    if !(2..=MOST_ANSWERS).contains(&answers) {
        return Err(format!(
            "a ranking has from 2 to {MOST_ANSWERS} answers, and this one has {answers}: remove the row"
        ));
    }
    let mut all = ranks.to_vec();
    all.sort_unstable();
    all.dedup();
    if all.iter().copied().ne(1..=all.len()) {
        let all = one_line(&all.iter().map(usize::to_string).collect::<Vec<_>>().join(", "));
        return Err(format!("the ranks are {all}: number them from 1, the best, without gaps"));
    }
    if all.len() == 1 {
        return Err("all answers have the same rank, so there is nothing to learn: remove the row".into());
    }
    let better = |chosen: usize| (0..answers).filter(move |rejected| ranks[chosen] < ranks[*rejected]);
    let pair = |chosen, rejected| Pair { chosen, rejected, margin: 0.0 };
    Ok((0..answers).flat_map(|chosen| better(chosen).map(move |rejected| pair(chosen, rejected))).collect())
}

/// An answer behind its prompt, both texts or both messages.
fn form(prompt: Option<&Part>, answer: Part) -> Form {
    match answer {
        Part::Text(completion) => {
            let prompt = if let Some(Part::Text(prompt)) = prompt { prompt.clone() } else { String::new() };
            Form::Completion { prompt, completion }
        }
        Part::Messages(answer) => {
            let mut messages = if let Some(Part::Messages(prompt)) = prompt { prompt.clone() } else { vec![] };
            let learned = messages.len();
            messages.extend(answer);
            Form::Dialogue { messages, learned }
        }
    }
}

impl Ranking {
    /// The tokens of each answer behind its prompt: those of a text with what the tokenizer puts around every text, those of messages as
    /// the chat template writes them.
    pub fn encode(&self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<Vec<u32>>> {
        let encode = |form: &Form| match form {
            Form::Text(text) => tokenizer.encode_prompt(text),
            Form::Completion { prompt, completion } => tokenizer.encode_prompt(&format!("{prompt}{completion}")),
            Form::Dialogue { messages, .. } => dialogue_ids(messages, template, tokenizer),
        };
        self.answers.iter().map(encode).collect()
    }
}
