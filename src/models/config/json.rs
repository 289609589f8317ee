//! Hugging Face's `config.json`: read as found in the wild, written as `transformers` loads it.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::*;
use crate::models::folder::WeightType;
use crate::models::keys::{Found, Keys, shown};

/// Heads over the same body; only the language model's is read, and others are refused by their tensors' names.
const ARCHITECTURES: [&str; 3] = ["GPT2LMHeadModel", "GPT2Model", "GPT2DoubleHeadsModel"];

impl Gpt2Config {
    /// Reads a Hugging Face `config.json`; `origin` is the file that errors name. Absent optional keys take the
    /// values that `transformers` gives them; sizes must be present. Anything that would change the model's arithmetic
    /// and is not implemented is refused by name; keys that are unknown there and here are ignored.
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        let at = |problem: String| Error::Input(format!("{}: {problem}", origin.display()));
        let config = Self::parse(text).map_err(at)?;
        config.problem().map_or(Ok(config), |problem| Err(at(problem)))
    }

    /// The `config.json` that `transformers` loads as `GPT2LMHeadModel`, for weights in f32.
    pub fn to_json(&self) -> String {
        self.to_json_for(WeightType::F32)
    }

    /// As [`Gpt2Config::to_json`], for weights of the given type.
    pub fn to_json_for(&self, weights: WeightType) -> String {
        let written = ConfigJson {
            activation_function: self.activation.name(),
            architectures: ["GPT2LMHeadModel"],
            attn_pdrop: self.dropout.attention,
            bos_token_id: self.bos_token_id,
            dtype: weights.name(),
            embd_pdrop: self.dropout.embedding,
            eos_token_id: one_or_list(&self.eos_token_id),
            initializer_range: self.initializer_range,
            layer_norm_epsilon: self.layer_norm_epsilon,
            model_type: "gpt2",
            n_ctx: self.context,
            n_embd: self.width,
            n_head: self.heads,
            n_inner: (self.inner != 4 * self.width).then_some(self.inner),
            n_layer: self.layers,
            n_positions: self.context,
            resid_pdrop: self.dropout.residual,
            tie_word_embeddings: self.tied,
            torch_dtype: weights.name(),
            vocab_size: self.vocab_size,
        };
        serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
    }

    fn parse(text: &str) -> Found<Self> {
        let keys = Keys::parse(text, "config.json")?;
        keys.only("model_type", &Value::from("gpt2"))?;
        architectures(&keys)?;
        let width = size(&keys, "n_embd", "hidden_size", MOST_WIDTH)?;
        let config = Self {
            vocab_size: size(&keys, "vocab_size", "vocab_size", MOST_VOCABULARY)?,
            context: size(&keys, "n_positions", "max_position_embeddings", MOST_CONTEXT)?,
            layers: size(&keys, "n_layer", "num_hidden_layers", MOST_LAYERS)?,
            heads: size(&keys, "n_head", "num_attention_heads", MOST_WIDTH)?,
            width,
            inner: keys.whole("n_inner", 1..=MOST_INNER)?.unwrap_or(4 * width),
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(true),
            layer_norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5),
            activation: activation(&keys)?,
            dropout: Dropout {
                embedding: keys.number("embd_pdrop")?.unwrap_or(0.1),
                attention: keys.number("attn_pdrop")?.unwrap_or(0.1),
                residual: keys.number("resid_pdrop")?.unwrap_or(0.1),
            },
            initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
            bos_token_id: keys.tokens("bos_token_id").first().copied(),
            eos_token_id: keys.tokens("eos_token_id"),
        };
        // `n_ctx` is the old name of `n_positions` and means nothing beside it; `reorder_and_upcast_attn` only changes
        // where halves are rounded, and everything here is f32.
        keys.only("scale_attn_weights", &Value::from(true))?;
        keys.only("scale_attn_by_inverse_layer_idx", &Value::from(false))?;
        keys.only("add_cross_attention", &Value::from(false))?;
        keys.only("is_encoder_decoder", &Value::from(false))?;
        keys.only("pruned_heads", &Value::Object(Default::default()))?;
        if let Some(value) = keys.get("quantization_config") {
            return Err(format!("quantization_config is {}, but quantised weights are not supported", shown(value)));
        }
        Ok(config)
    }
}

impl Activation {
    /// Hugging Face's name for `activation_function`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::GeluTanh => "gelu_new",
            Activation::GeluErf => "gelu",
        }
    }
}

/// What is written, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
/// `dtype` is the name since version 5, `torch_dtype` before.
#[derive(Serialize)]
struct ConfigJson {
    activation_function: &'static str,
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
    n_inner: Option<usize>,
    n_layer: usize,
    n_positions: usize,
    resid_pdrop: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    vocab_size: usize,
}

/// Token ids as Hugging Face writes them: nothing, one, or a list.
pub(in crate::models) fn one_or_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => Value::from(*id),
        ids => Value::from(ids),
    }
}

/// A size by its GPT-2 name or by the one that all models of `transformers` share.
fn size(keys: &Keys, key: &str, shared: &str, most: usize) -> Found<usize> {
    let found = keys.whole(key, 1..=most)?;
    let found = if found.is_none() { keys.whole(shared, 1..=most)? } else { found };
    found.ok_or_else(|| format!("the key {key} is missing; a GPT-2 configuration needs it"))
}

/// The names that mean the same function of real numbers as one of ours.
fn activation(keys: &Keys) -> Found<Activation> {
    match keys.get("activation_function").map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate") => {
            Ok(Activation::GeluTanh)
        }
        Some("gelu" | "gelu_python") => Ok(Activation::GeluErf),
        Some(other) => Err(format!(
            "activation_function {:?} is not supported; use gelu_new (or its equals gelu_pytorch_tanh, gelu_fast) or gelu",
            one_line(other)
        )),
    }
}

fn architectures(keys: &Keys) -> Found<()> {
    match keys.get("architectures") {
        Some(value @ Value::Array(names))
            if !names.is_empty() && !names.iter().any(|n| ARCHITECTURES.iter().any(|known| n == known)) =>
        {
            Err(format!("architectures is {}, but only {} is supported here", shown(value), ARCHITECTURES[0]))
        }
        _ => Ok(()),
    }
}
