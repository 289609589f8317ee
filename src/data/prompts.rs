//! Prompts to which a policy draws answers: `.jsonl` or `.parquet`, one object a row: `prompt`, a text or a list of messages, and
//! whatever columns the reward is made from.

use std::path::Path;

use serde_json::{Map, Value};

use super::chat_template::{ASSISTANT, Message};
use super::dialogues::Part;
use super::lines::{self, Row, place};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub line: usize,
    pub prompt: Part,
    /// All columns, the prompt among them.
    pub row: Map<String, Value>,
}

const ROW: Row = Row { one: "prompt", many: "prompts", form: "an object with `prompt`, a text or a list of messages" };

/// All prompts of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Prompt>> {
    let prompt = |(line, row): (usize, Map<String, Value>)| {
        let refused = |why: String| Error::Input(format!("{}: {why}", place(path, line)));
        let prompt = row.get("prompt").cloned().unwrap_or_default();
        let prompt: Part = serde_json::from_value(prompt)
            .map_err(|_| refused(format!("there is no prompt to answer: write {}", ROW.form)))?;
        check(&prompt).map_err(refused)?;
        Ok(Prompt { line, prompt, row })
    };
    lines::read(path, ROW)?.into_iter().map(prompt).collect()
}

/// What is wrong with a prompt, or nothing.
fn check(prompt: &Part) -> std::result::Result<(), String> {
    match prompt {
        Part::Text(text) if text.is_empty() => Err("the prompt is empty: remove the row, or write one".into()),
        Part::Messages(messages) if messages.last().is_none_or(|last| last.role == ASSISTANT) => {
            Err("the prompt ends with an answer already, or is empty: write one that ends with the user".into())
        }
        _ => Ok(()),
    }
}

impl Prompt {
    /// The text that an answer goes on from, and its tokens, at least one.
    pub fn opened(&self, tokenizer: &Tokenizer) -> Result<(String, Vec<u32>)> {
        let (text, ids) = match &self.prompt {
            Part::Text(text) => (text.clone(), tokenizer.encode_prompt(text)?),
            Part::Messages(messages) => {
                let Some(template) = tokenizer.chat_template()? else {
                    fail!(
                        Input,
                        "messages need a chat template, and the model has none: give one with --template chatml, plain, lines or FILE"
                    );
                };
                let text = template.render(messages, true)?;
                let ids = tokenizer.encode(&text)?;
                (text, ids)
            }
        };
        if ids.is_empty() {
            fail!(Input, "the tokenizer has no tokens for the prompt: give it more to answer");
        }
        Ok((text, ids))
    }

    /// The prompt with an answer as one text, as a reward model sees it.
    pub fn answered(&self, answer: &str, tokenizer: &Tokenizer) -> Result<String> {
        match (&self.prompt, tokenizer.chat_template()?) {
            (Part::Messages(messages), Some(template)) => {
                let answer = Message { role: ASSISTANT.into(), content: answer.into() };
                let messages: Vec<Message> = messages.iter().cloned().chain([answer]).collect();
                template.render(&messages, false)
            }
            (Part::Text(text), _) => Ok(format!("{text}{answer}")),
            (Part::Messages(_), None) => Ok(answer.into()),
        }
    }
}
