//! GPT's `config.json`, `openai-gpt` in Hugging Face's names.

use serde::Serialize;
use serde_json::Value;

use super::NAME;
use crate::files::one_line;
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::gpt2::json::body;
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
    let written = ConfigJson {
        afn: "gelu",
        architectures: [ARCHITECTURE],
        attn_pdrop: config.dropout.attention,
        bos_token_id: config.bos_token_id,
        dtype,
        embd_pdrop: config.dropout.embedding,
        eos_token_id: one_or_list(&config.eos_token_id),
        initializer_range: config.initializer_range,
        layer_norm_epsilon: config.norm_epsilon,
        model_type: "openai-gpt",
        n_ctx: config.context,
        n_embd: config.width,
        n_head: config.heads,
        n_layer: config.layers,
        n_positions: config.context,
        resid_pdrop: config.dropout.residual,
        tie_word_embeddings: config.tied,
        torch_dtype: dtype,
        vocab_size: config.vocab_size,
    };
    serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
}

/// What is written, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
#[derive(Serialize)]
struct ConfigJson {
    afn: &'static str,
    architectures: [&'static str; 1],
    attn_pdrop: f32,
    bos_token_id: Option<u32>,
    dtype: &'static str,
    embd_pdrop: f32,
    eos_token_id: Value,
    initializer_range: f32,
    layer_norm_epsilon: f32,
    model_type: &'static str,
    n_ctx: usize,
    n_embd: usize,
    n_head: usize,
    n_layer: usize,
    n_positions: usize,
    resid_pdrop: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    vocab_size: usize,
}

/// `gelu` means the tanh form here, as it does in `transformers` for this model alone.
fn activation(keys: &Keys) -> Found<Form> {
    match keys.get("afn").map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu") => Ok(Form::Tanh),
        Some(other) => Err(format!("afn {:?} is not supported; only gelu is", one_line(other))),
    }
}
