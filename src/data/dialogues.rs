//! Examples for supervised fine-tuning, as trl has them: `.jsonl` or `.parquet`, one of these objects a row.
//!
//!   {"text"}                          all of it is learned
//!   {"prompt", "completion"}          texts, or lists of messages: the completion is learned
//!   {"messages": [{"role", "content"}]}, or "conversations" with "from" and "value" (ShareGPT): the assistant's turns are learned
//!
//! Tokens that are learned are found by rendering prefixes: a turn goes from where the dialogue before it, opened for an answer,
//! ends, to where the dialogue with it ends. So the token that ends a turn is learned too.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chat_template::{ASSISTANT, ChatTemplate, Message};
use super::lines::{self, Row, place};
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;

/// An example, and its line or row.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    pub line: usize,
    pub form: Form,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    Text(String),
    Completion {
        prompt: String,
        completion: String,
    },
    /// The assistant's turns from message `learned` on are learned.
    Dialogue {
        messages: Vec<Message>,
        learned: usize,
    },
}

/// A row as it is written.
#[derive(Deserialize)]
struct Written {
    text: Option<String>,
    prompt: Option<Part>,
    completion: Option<Part>,
    messages: Option<Vec<Message>>,
    conversations: Option<Vec<Turn>>,
}

/// A text, or a list of messages: a prompt or an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    Text(String),
    Messages(Vec<Message>),
}

/// A message as ShareGPT has it.
#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

const ROW: Row = Row {
    one: "example",
    many: "examples",
    form: "an object with `messages`, with `prompt` and `completion`, or with `text`",
};

/// All examples of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Example>> {
    let example = |(line, written): (usize, Written)| {
        let form = form(written).map_err(|why| Error::Input(format!("{}: {why}", place(path, line))))?;
        Ok(Example { line, form })
    };
    lines::read(path, ROW)?.into_iter().map(example).collect()
}

/// The form of a row, or the reason why it is refused.
fn form(written: Written) -> std::result::Result<Form, String> {
    let form = match written {
        Written { messages: Some(messages), .. } => Form::Dialogue { messages, learned: 0 },
        Written { conversations: Some(turns), .. } => {
            let message = |Turn { from, value }: Turn| Message { role: role(from), content: value };
            Form::Dialogue { messages: turns.into_iter().map(message).collect(), learned: 0 }
        }
        Written { prompt: Some(prompt), completion: Some(completion), .. } => answered(prompt, completion)?,
        Written { text: Some(text), .. } => Form::Text(text),
        _ => return Err(format!("there is nothing to learn from: write {}", ROW.form)),
    };
    check(&form)?;
    Ok(form)
}

/// A prompt with its completion, which is learned, or the reason why they are refused.
pub(super) fn answered(prompt: Part, completion: Part) -> std::result::Result<Form, String> {
    match (prompt, completion) {
        (Part::Text(prompt), Part::Text(completion)) => Ok(Form::Completion { prompt, completion }),
        (Part::Messages(prompt), Part::Messages(completion)) => {
            let learned = prompt.len();
            Ok(Form::Dialogue { messages: prompt.into_iter().chain(completion).collect(), learned })
        }
        _ => {
            Err("`prompt` is a text and `completion` a list of messages, or the other way round: write both alike"
                .into())
        }
    }
}

/// ShareGPT's names of roles.
fn role(from: String) -> String {
    match from.as_str() {
        "human" => "user".into(),
        "gpt" | "chatgpt" | "bing" | "bard" => ASSISTANT.into(),
        _ => from,
    }
}

/// What is wrong with an example, or nothing.
pub(super) fn check(form: &Form) -> std::result::Result<(), String> {
    match form {
        Form::Text(text) if text.trim().is_empty() => Err("the text is empty: remove the row".into()),
        Form::Completion { completion, .. } if completion.trim().is_empty() => {
            Err("the completion is empty: remove the row, or write one".into())
        }
        Form::Text(_) | Form::Completion { .. } => Ok(()),
        Form::Dialogue { messages, learned } => {
            let answers = || messages[*learned..].iter().filter(|message| message.role == ASSISTANT);
            if answers().next().is_none() {
                return Err("no message of the assistant is to be learned: remove the row, or write an answer".into());
            }
            if answers().any(|message| message.content.trim().is_empty()) {
                return Err("an answer of the assistant is empty: remove the row, or write one".into());
            }
            let system = messages.iter().rposition(|message| message.role == "system");
            if system.is_some_and(|at| at > 0) {
                return Err("a system message stands behind others: put it first".into());
            }
            let twice = messages.windows(2).any(|pair| pair[0].role == pair[1].role);
            if twice || messages.iter().find(|m| m.role != "system").is_some_and(|m| m.role == ASSISTANT) {
                return Err("roles are out of order: user and assistant take turns, and the user begins".into());
            }
            Ok(())
        }
    }
}

/// An example as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Which tokens are learned: they are targets of the position before them.
    pub learned: Vec<bool>,
    /// Whether the tokens of a prompt were not those of the same text with its completion: the border lies before its end.
    pub parted: bool,
}

impl Encoded {
    /// Targets that count.
    pub fn targets(&self) -> usize {
        self.learned.iter().skip(1).filter(|learned| **learned).count()
    }

    /// The first token that is learned.
    pub fn first_learned(&self) -> usize {
        self.learned.iter().position(|learned| *learned).unwrap_or(self.learned.len())
    }

    /// Keeps the first `longest` tokens; whether any were cut.
    pub fn cut(&mut self, longest: usize) -> bool {
        let is_longer = self.ids.len() > longest;
        self.ids.truncate(longest);
        self.learned.truncate(longest);
        is_longer
    }
}

/// The tokenizer and the template that encode examples.
pub struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    /// For dialogues.
    pub template: Option<&'a ChatTemplate>,
    /// The token that ends a text or a completion.
    pub end: Option<u32>,
}

impl Encoder<'_> {
    pub fn encode(&self, form: &Form) -> Result<Encoded> {
        match form {
            Form::Text(text) => {
                let ids = self.ended(self.tokenizer.encode_prompt(text)?);
                Ok(Encoded { learned: vec![true; ids.len()], ids, parted: false })
            }
            Form::Completion { prompt, completion } => {
                let before = if prompt.is_empty() { vec![] } else { self.tokenizer.encode_prompt(prompt)? };
                let ids = self.ended(self.tokenizer.encode_prompt(&format!("{prompt}{completion}"))?);
                let start = common(&before, &ids);
                let learned = (0..ids.len()).map(|at| at >= start).collect();
                Ok(Encoded { ids, learned, parted: start < before.len() })
            }
            Form::Dialogue { messages, learned } => self.dialogue(messages, *learned),
        }
    }

    fn dialogue(&self, messages: &[Message], from: usize) -> Result<Encoded> {
        let (template, text) = rendered(messages, self.template)?;
        let ids = self.tokenizer.encode(&text)?;
        let (mut learned, mut parted) = (vec![false; ids.len()], false);
        let turns = (from..messages.len()).filter(|at| messages[*at].role == ASSISTANT);
        for at in turns {
            let before = template.render(&messages[..at], true)?;
            let with = template.render(&messages[..=at], false)?;
            // Some templates, such as Phi-3's, end a dialogue by a token that a later turn has not in front.
            let with = template.without_end(&with).filter(|_| !text.starts_with(&with)).unwrap_or(&with);
            if !with.starts_with(&before) || !text.starts_with(with) {
                fail!(
                    Input,
                    "the chat template writes message {} otherwise when others follow or precede it, so what the assistant wrote \
                     cannot be told: use another with --template",
                    at + 1
                );
            }
            let [before, with] = [&before, with].map(|text| self.tokenizer.encode(text));
            let (before, with) = (before?, with?);
            let (start, end) = (common(&before, &ids), common(&with, &ids));
            parted |= start < before.len() || end < with.len();
            learned[start..end].fill(true);
        }
        Ok(Encoded { ids, learned, parted })
    }

    /// Ids with the token that ends a text.
    fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        ids.extend(self.end.filter(|end| ids.last() != Some(end)));
        ids
    }
}

/// The tokens of a whole dialogue, as the template writes it.
pub fn dialogue_ids(messages: &[Message], template: Option<&ChatTemplate>, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    tokenizer.encode(&rendered(messages, template)?.1)
}

/// The template, and the text of a whole dialogue.
pub fn rendered<'a>(messages: &[Message], template: Option<&'a ChatTemplate>) -> Result<(&'a ChatTemplate, String)> {
    let Some(template) = template else {
        fail!(
            Input,
            "dialogues need a chat template, and the model's folder has none: give one with --template chatml, plain, lines or FILE"
        );
    };
    Ok((template, template.render(messages, false)?))
}

/// Length of the common prefix.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// How often an example may come in a pass.
const MOST_REPEATS: usize = 1000;

/// The examples of all sources, each once; or with `shares`, one for each source, as many of each as its share says: the source that
/// is largest for its share has each example once, those of others come again, from the first on.
pub fn mixed<T: Clone>(sources: Vec<Vec<T>>, shares: &[f64]) -> Result<Vec<T>> {
    if shares.is_empty() {
        return Ok(sources.into_iter().flatten().collect());
    }
    let all = sources.iter().zip(shares).map(|(source, share)| source.len() as f64 / share).fold(0.0, f64::max);
    let mut mixed = vec![];
    for (source, share) in sources.iter().zip(shares) {
        let count = (all * share).round();
        if count > (source.len() * MOST_REPEATS) as f64 {
            let len = source.len();
            fail!(
                Usage,
                "--mix {share} would have the {len} examples of a source come more than {MOST_REPEATS} times: give it a smaller share"
            );
        }
        mixed.extend(source.iter().cycle().take(count as usize).cloned());
    }
    Ok(mixed)
}
