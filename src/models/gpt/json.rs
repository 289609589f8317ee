//! GPT's `config.json`, `openai-gpt` in Hugging Face's names.

use super::NAME;
use crate::files::one_line;
use crate::models::config::*;
use crate::models::family::architectures;
use crate::models::gpt2::json::{body, text, written_body};
use crate::models::keys::{Found, Keys};
use crate::ops::gelu::Form;

const ARCHITECTURE: &str = "OpenAIGPTLMHeadModel";
const BODIES: [&str; 2] = ["OpenAIGPTModel", "OpenAIGPTDoubleHeadsModel"];

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &BODIES)?;
    let body = body(keys, "GPT")?;
    Ok(Config { family: NAME, feed_forward: FeedForward::Gelu(activation(keys)?), ..body })
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let mut written = written_body(config, dtype);
    (written.afn, written.architectures, written.model_type) = (Some("gelu"), vec![ARCHITECTURE], "openai-gpt");
    text(&written)
}

/// `gelu` means the tanh form here, as it does in `transformers` for this model alone.
fn activation(keys: &Keys) -> Found<Form> {
    match keys.get("afn").map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu") => Ok(Form::Tanh),
        Some(other) => Err(format!("afn {:?} is not supported; only gelu is", one_line(other))),
    }
}
