//! Prompts that a model is to answer: `.jsonl` or `.parquet` with a `prompt` in each row, a text or a list of messages. Other columns
//! are passed over.

use std::path::Path;

use serde::Deserialize;

use super::chat_template::ASSISTANT;
use super::dialogues::Part;
use super::lines::{self, Row, place};
use crate::error::Result;
use crate::fail;

/// A prompt, and its line or row.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub line: usize,
    pub part: Part,
}

#[derive(Deserialize)]
struct Written {
    prompt: Part,
}

const ROW: Row =
    Row { one: "prompt", many: "prompts", form: "an object with a `prompt`, a text or a list of messages" };

/// All prompts of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let prompt = |(line, Written { prompt }): (usize, Written)| {
        let place = place(path, line);
        match &prompt {
            Part::Text(text) if text.is_empty() => fail!(Input, "{place}: the prompt is empty: remove the row"),
            Part::Messages(messages) if messages.last().is_none_or(|last| last.role == ASSISTANT) => {
                fail!(Input, "{place}: the prompt does not end with a message to the assistant: write one")
            }
            _ => Ok(Prompt { line, part: prompt }),
        }
    };
    lines::read(path, ROW)?.into_iter().map(prompt).collect()
}
