//! Where prompts come from: the command line, a file, standard input, or somebody at a terminal.

use super::Sample;
use super::texts::{Given, Writer};
use crate::cli::{Global, typed};
use serde::Deserialize;
use std::io::{IsTerminal, Read};
use std::path::Path;
use wgpt::data::lines::{self, place};
use wgpt::data::pieces::BYTE_ORDER_MARK;
use wgpt::error::{Error, Result};
use wgpt::fail;

/// Bytes of a prompt that are read; no context is that long.
const MOST_BYTES: u64 = 16 << 20;

/// What is to be continued.
pub enum Prompt {
    Text(String),
    /// Of a file.
    Many(Vec<Given>),
    /// One after the other, as they are typed.
    Typed,
}

impl Prompt {
    /// The prompt that was asked for, read to its end.
    pub fn of(sample: &Sample) -> Result<Prompt> {
        if let Some(path) = &sample.prompts {
            return Ok(Prompt::Many(read_prompts(path)?));
        }
        let (text, from) = match (&sample.prompt, &sample.prompt_file) {
            (Some(text), _) => (text.clone(), "--prompt".to_string()),
            (None, Some(path)) => {
                let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
                (read(file, path)?, path.display().to_string())
            }
            (None, None) if std::io::stdin().is_terminal() => return Ok(Prompt::Typed),
            (None, None) => {
                let name = "standard input";
                (read(std::io::stdin(), Path::new(name))?, name.to_string())
            }
        };
        if text.is_empty() {
            fail!(Usage, "{from} is empty: give at least one character to continue, for example with --prompt TEXT");
        }
        Ok(Prompt::Text(text))
    }
}

/// A line of a file of prompts; other columns are passed over.
#[derive(Deserialize)]
struct Row {
    prompt: String,
}

fn read_prompts(path: &Path) -> Result<Vec<Given>> {
    let row = lines::Row { one: "prompt", many: "prompts", form: "an object with a text called `prompt`" };
    let prompt = |(line, Row { prompt }): (usize, Row)| match prompt.is_empty() {
        true => fail!(Input, "the prompt in {} is empty: give at least one character to continue", place(path, line)),
        false => Ok(Given { text: prompt, place: Some(place(path, line)) }),
    };
    lines::read(path, row)?.into_iter().map(prompt).collect()
}

/// All of a text, without the line break that ends a file (unless there is nothing else).
fn read(from: impl Read, name: &Path) -> Result<String> {
    let mut bytes = vec![];
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io("read", name))?;
    if bytes.len() as u64 > MOST_BYTES {
        fail!(Input, "{} holds more than {} MiB: give a shorter prompt", name.display(), MOST_BYTES >> 20);
    }
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        Error::Input(format!("{} is not UTF-8 text: byte {at} does not fit; convert it", name.display()))
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).len());
    text.truncate(line.filter(|length| *length > 0).unwrap_or(text.len()));
    Ok(text)
}

/// Continues prompts as they are typed, until the end of input or `/quit`.
pub fn converse(global: &Global, writer: &mut Writer) -> Result<()> {
    let hint = "Enter continues the prompt, Ctrl-C stops a text, Ctrl-D or /quit ends";
    let interrupted = writer.interrupted.clone();
    typed::lines(global, hint, &interrupted, &mut |n, line| {
        let seed = writer.settings.seed.wrapping_add(n.wrapping_mul(writer.settings.count as u32));
        writer.write(&[line.into()], seed).map(|_| ())
    })
}
