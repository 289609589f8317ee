//! GPT-2's `config.json`: read as found in the wild, written as `transformers` loads it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::one_line;
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::keys::{Found, Keys, shown};
use crate::ops::gelu::Form;
use crate::ops::rope::Scaling;

/// `model_type` of a GPT-2 in which a part is exchanged, or whose attention has a window; `transformers` has no such model and
/// refuses it by this name.
pub(super) const ABLATION: &str = "wgpt-gpt2";
/// Heads over the same body; only the language model's is read, and others are refused by their tensors' names.
const ARCHITECTURE: &str = "GPT2LMHeadModel";
const BODIES: [&str; 2] = ["GPT2Model", "GPT2DoubleHeadsModel"];

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &BODIES)?;
    let body = body(keys, "GPT-2")?;
    let config = Config {
        inner: keys.whole("n_inner", 1..=MOST_INNER)?.unwrap_or(body.inner),
        feed_forward: FeedForward::Gelu(activation_named(keys, "activation_function")?),
        ..body
    };
    // `reorder_and_upcast_attn` only changes where halves are rounded, and everything here is f32.
    keys.only("scale_attn_weights", &Value::from(true))?;
    keys.only("scale_attn_by_inverse_layer_idx", &Value::from(false))?;
    match keys.get("ablation") {
        Some(value) if keys.get("model_type") == Some(&Value::from(ABLATION)) => {
            let ablation = Ablation::deserialize(value);
            ablation.map(|ablation| ablation.of(config)).map_err(|why| format!("ablation is {}: {why}", shown(value)))
        }
        _ => Ok(config),
    }
}

/// The keys that GPT's and GPT-2's files share; `model` is the model's name in errors. `n_ctx` is the old name of
/// `n_positions` and means nothing beside it.
pub(in crate::models) fn body(keys: &Keys, model: &str) -> Found<Config> {
    let needed = keys.needed(model);
    // By its own name or by the one that all models of `transformers` share.
    let size = |key: &str, shared: &str, most: usize| {
        let is_shared = keys.get(key).is_none() && keys.get(shared).is_some();
        needed(if is_shared { shared } else { key }, most)
    };
    let width = size("n_embd", "hidden_size", MOST_WIDTH)?;
    let heads = size("n_head", "num_attention_heads", MOST_WIDTH)?;
    let layers = size("n_layer", "num_hidden_layers", MOST_LAYERS)?;
    let context = size("n_positions", "max_position_embeddings", MOST_CONTEXT)?;
    let vocab_size = size("vocab_size", "vocab_size", MOST_VOCABULARY)?;
    keys.only("add_cross_attention", &Value::from(false))?;
    keys.only("is_encoder_decoder", &Value::from(false))?;
    keys.only("pruned_heads", &Value::Object(Default::default()))?;
    Ok(Config {
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        dropout: Dropout {
            embedding: keys.number("embd_pdrop")?.unwrap_or(0.1),
            attention: keys.number("attn_pdrop")?.unwrap_or(0.1),
            residual: keys.number("resid_pdrop")?.unwrap_or(0.1),
        },
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        ..Config::new(vocab_size, context, layers, heads, width)
    })
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let ablation = is_ablation(config);
    let activation = match config.feed_forward {
        FeedForward::Gelu(form) => form,
        _ => Form::Tanh, // means nothing beside `ablation`
    };
    let ablated = ablation.then(|| Ablation {
        norm: config.norm,
        rope_theta: match config.position {
            Position::Rope { base, .. } => Some(base),
            _ => None,
        },
        swiglu: config.feed_forward == FeedForward::SwiGlu,
        window: config.window,
        full_layers: config.full_layers.clone(),
    });
    let written = ConfigJson {
        ablation: ablated,
        activation_function: Some(name(activation)),
        architectures: if ablation { vec![] } else { vec![ARCHITECTURE] },
        model_type: if ablation { ABLATION } else { "gpt2" },
        n_inner: Some((config.inner != 4 * config.width).then_some(config.inner)),
        ..written_body(config, dtype)
    };
    text(&written)
}

/// The keys that GPT's and GPT-2's files share, as they are written; the others are left out.
pub(in crate::models) fn written_body(config: &Config, dtype: &'static str) -> ConfigJson {
    ConfigJson {
        ablation: None,
        activation_function: None,
        afn: None,
        architectures: vec![],
        attn_pdrop: config.dropout.attention,
        bos_token_id: config.bos_token_id,
        dtype,
        embd_pdrop: config.dropout.embedding,
        eos_token_id: one_or_list(&config.eos_token_id),
        initializer_range: config.initializer_range,
        layer_norm_epsilon: config.norm_epsilon,
        model_type: "",
        n_ctx: config.context,
        n_embd: config.width,
        n_head: config.heads,
        n_inner: None,
        n_layer: config.layers,
        n_positions: config.context,
        resid_pdrop: config.dropout.residual,
        tie_word_embeddings: config.tied,
        torch_dtype: dtype,
        vocab_size: config.vocab_size,
    }
}

/// The text of a `config.json`.
pub(in crate::models) fn text(written: &ConfigJson) -> String {
    serde_json::to_string_pretty(written).expect("a struct of numbers and strings always serialises") + "\n"
}

/// Whether a part of GPT-2 is exchanged.
pub(super) fn is_ablation(config: &Config) -> bool {
    config.norm != Norm::LayerNorm
        || config.position != Position::Learned
        || !matches!(config.feed_forward, FeedForward::Gelu(_))
        || config.window.is_some()
}

/// Hugging Face's name for `activation_function`.
pub(in crate::models) fn name(form: Form) -> &'static str {
    match form {
        Form::Tanh => "gelu_new",
        Form::Erf => "gelu",
    }
}

/// The parts that are not GPT-2's.
#[derive(Serialize, Deserialize)]
struct Ablation {
    norm: Norm,
    /// Base of rotary positions, in place of learned ones.
    rope_theta: Option<f32>,
    /// SwiGLU in place of GELU.
    swiglu: bool,
    /// Positions that attention sees at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
    /// Layers that see all positions although there is a window.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    full_layers: Vec<usize>,
}

impl Ablation {
    fn of(self, config: Config) -> Config {
        Config {
            norm: self.norm,
            position: self.rope_theta.map_or(Position::Learned, |base| Position::Rope { base, scaling: Scaling::None }),
            feed_forward: if self.swiglu { FeedForward::SwiGlu } else { config.feed_forward },
            window: self.window,
            full_layers: self.full_layers,
            ..config
        }
    }
}

/// The written keys, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
/// `dtype` is the name since version 5, `torch_dtype` before. `afn` is GPT's name of `activation_function`.
#[derive(Serialize)]
pub(in crate::models) struct ConfigJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    ablation: Option<Ablation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    activation_function: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::models) afn: Option<&'static str>,
    pub(in crate::models) architectures: Vec<&'static str>,
    attn_pdrop: f32,
    bos_token_id: Option<u32>,
    dtype: &'static str,
    embd_pdrop: f32,
    eos_token_id: Value,
    initializer_range: f32,
    layer_norm_epsilon: f32,
    pub(in crate::models) model_type: &'static str,
    n_ctx: usize,
    n_embd: usize,
    n_head: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    n_inner: Option<Option<usize>>,
    n_layer: usize,
    n_positions: usize,
    resid_pdrop: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    vocab_size: usize,
}

/// The names that mean the same function of real numbers as one of ours.
pub(in crate::models) fn activation_named(keys: &Keys, key: &str) -> Found<Form> {
    match keys.get(key).map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate") => {
            Ok(Form::Tanh)
        }
        Some("gelu" | "gelu_python") => Ok(Form::Erf),
        Some(other) => Err(format!(
            "{key} {:?} is not supported; use gelu_new (or its equals gelu_pytorch_tanh, gelu_fast) or gelu",
            one_line(other)
        )),
    }
}
