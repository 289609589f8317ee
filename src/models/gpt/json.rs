//! GPT's `config.json`, `openai-gpt` in Hugging Face's names.

use serde::Serialize;
use serde_json::Value;

use super::Gpt;
use crate::files::one_line;
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::folder::WeightType;
use crate::models::keys::{Found, Keys};
use crate::ops::gelu::Form;

const ARCHITECTURE: &str = "OpenAIGPTLMHeadModel";
const BODIES: [&str; 2] = ["OpenAIGPTModel", "OpenAIGPTDoubleHeadsModel"];

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &BODIES)?;
    let width = size(keys, "n_embd", "hidden_size", MOST_WIDTH)?;
    let heads = size(keys, "n_head", "num_attention_heads", MOST_WIDTH)?;
    let layers = size(keys, "n_layer", "num_hidden_layers", MOST_LAYERS)?;
    let context = size(keys, "n_positions", "max_position_embeddings", MOST_CONTEXT)?;
    let vocab_size = size(keys, "vocab_size", "vocab_size", MOST_VOCABULARY)?;
    let sizes = Config::new(vocab_size, context, layers, heads, width);
    keys.only("is_encoder_decoder", &Value::from(false))?;
    keys.only("add_cross_attention", &Value::from(false))?;
    keys.only("pruned_heads", &Value::Object(Default::default()))?;
    Ok(Config {
        family: &Gpt,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        feed_forward: FeedForward::Gelu(activation(keys)?),
        dropout: Dropout {
            embedding: keys.number("embd_pdrop")?.unwrap_or(0.1),
            attention: keys.number("attn_pdrop")?.unwrap_or(0.1),
            residual: keys.number("resid_pdrop")?.unwrap_or(0.1),
        },
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        ..sizes
    })
}

pub(super) fn write(config: &Config, weights: WeightType) -> String {
    let written = ConfigJson {
        afn: "gelu",
        architectures: [ARCHITECTURE],
        attn_pdrop: config.dropout.attention,
        bos_token_id: config.bos_token_id,
        dtype: weights.name(),
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
        torch_dtype: weights.name(),
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

/// A size by GPT's name or by the one that all models of `transformers` share.
fn size(keys: &Keys, key: &str, shared: &str, most: usize) -> Found<usize> {
    let found = keys.whole(key, 1..=most)?;
    let found = if found.is_none() { keys.whole(shared, 1..=most)? } else { found };
    found.ok_or_else(|| format!("the key {key} is missing; a GPT configuration needs it"))
}

/// `gelu` means the tanh form here, as it does in `transformers` for this model alone.
fn activation(keys: &Keys) -> Found<Form> {
    match keys.get("afn").map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu") => Ok(Form::Tanh),
        Some(other) => Err(format!("afn {:?} is not supported; only gelu is", one_line(other))),
    }
}
