//! Preferences for preference optimisation: pairs of answers of which one is better, as trl has them; [`super::rankings`] reads them for
//! reward models.
//!
//! `.jsonl` or `.parquet`, one object per row: `prompt` (optional), `chosen`, `rejected`, all texts, or all lists of messages; without a
//! `prompt`, the messages that both answers begin with are it. Lines are counted from 1; empty lines are skipped.

use std::path::Path;

use serde::Deserialize;

use super::dialogues::{Form, Part, check};
use super::lines::{self, Row};
use crate::error::{Error, Result};

/// Two answers to one prompt, as examples of which the answers are learned.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    pub line: usize,
    pub chosen: Form,
    pub rejected: Form,
}

/// A row as it is written.
#[derive(Deserialize)]
struct Written {
    prompt: Option<Part>,
    chosen: Part,
    rejected: Part,
}

const PAIR: Row = Row {
    one: "preference",
    many: "preferences",
    form: "an object with `chosen` and `rejected`, and optionally `prompt`, texts or lists of messages",
};

/// All pairs of a file, texts or messages; errors name the line.
pub fn read_pairs(path: &Path) -> Result<Vec<Pair>> {
    let pair = |(line, written): (usize, Written)| {
        let refused = |why: String| Error::Input(format!("{}: {why}", lines::place(path, line)));
        let (chosen, rejected) = forms(written).map_err(refused)?;
        if chosen == rejected {
            return Err(refused("the chosen and the rejected answer are the same; remove the pair".into()));
        }
        [&chosen, &rejected].into_iter().try_for_each(check).map_err(refused)?;
        Ok(Pair { line, chosen, rejected })
    };
    lines::read(path, PAIR)?.into_iter().map(pair).collect()
}

/// The two answers with their prompt, or the reason why they are refused.
fn forms(written: Written) -> std::result::Result<(Form, Form), String> {
    match written {
        Written { prompt: None, chosen: Part::Text(chosen), rejected: Part::Text(rejected) } => {
            let form = |completion| Form::Completion { prompt: String::new(), completion };
            Ok((form(chosen), form(rejected)))
        }
        Written { prompt: Some(Part::Text(prompt)), chosen: Part::Text(chosen), rejected: Part::Text(rejected) } => {
            let form = |completion| Form::Completion { prompt: prompt.clone(), completion };
            Ok((form(chosen), form(rejected)))
        }
        Written { prompt: None, chosen: Part::Messages(chosen), rejected: Part::Messages(rejected) } => {
            let learned = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let form = |messages| Form::Dialogue { messages, learned };
            Ok((form(chosen), form(rejected)))
        }
        Written {
            prompt: Some(Part::Messages(prompt)),
            chosen: Part::Messages(chosen),
            rejected: Part::Messages(rejected),
        } => {
            let form = |answer: Vec<_>| Form::Dialogue {
                learned: prompt.len(),
                messages: prompt.iter().cloned().chain(answer).collect(),
            };
            Ok((form(chosen), form(rejected)))
        }
        _ => {
            Err("some of `prompt`, `chosen` and `rejected` are texts and others lists of messages: write all alike"
                .into())
        }
    }
}
