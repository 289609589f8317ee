//! GPT-Neo's `config.json`.

use super::NAME;
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::gpt2::json::{activation_named, name};
use crate::models::keys::{Found, Keys, shown};
use crate::ops::gelu::Form;
use serde::Serialize;
use serde_json::{Value, json};

const ARCHITECTURE: &str = "GPTNeoForCausalLM";
/// Tokens that a local layer sees, where the file does not say.
const WINDOW: usize = 256;

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &["GPTNeoModel"])?;
    let needed = keys.needed(NAME);
    let vocab_size = needed("vocab_size", MOST_VOCABULARY)?;
    let context = needed("max_position_embeddings", MOST_CONTEXT)?;
    let layers = needed("num_layers", MOST_LAYERS)?;
    let (heads, width) = (needed("num_heads", MOST_WIDTH)?, needed("hidden_size", MOST_WIDTH)?);
    let sizes = Config::new(vocab_size, context, layers, heads, width);
    let locals = locals(keys, layers)?;
    let window = keys.whole("window_size", 1..=usize::MAX)?.unwrap_or(WINDOW);
    let (window, full_layers) = match locals.iter().any(|local| *local) {
        true => (Some(window), (0..layers).filter(|layer| !locals[*layer]).collect()),
        false => (None, vec![]),
    };
    keys.only("add_cross_attention", &Value::from(false))?;
    keys.only("is_encoder_decoder", &Value::from(false))?;
    keys.only("pruned_heads", &json!({}))?;
    Ok(Config {
        family: NAME,
        inner: keys.whole("intermediate_size", 1..=MOST_INNER)?.unwrap_or(sizes.inner),
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        feed_forward: FeedForward::Gelu(activation_named(keys, "activation_function")?),
        attention_scale: Some(1.0),
        attention_bias: (false, true),
        window,
        full_layers,
        dropout: Dropout {
            embedding: keys.number("embed_dropout")?.unwrap_or(0.0),
            attention: keys.number("attention_dropout")?.unwrap_or(0.0),
            residual: keys.number("resid_dropout")?.unwrap_or(0.0),
        },
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        ..sizes
    })
}

/// Whether each layer is local: from `attention_layers`, or else `attention_types`, a list of kinds and how often they follow each other.
fn locals(keys: &Keys, layers: usize) -> Found<Vec<bool>> {
    let kind = |name: &Value| match name.as_str() {
        Some("local") => Ok(true),
        Some("global") => Ok(false),
        _ => Err(format!("attention_types has {}; only global and local are supported", shown(name))),
    };
    let mut locals = vec![];
    match (keys.get("attention_layers"), keys.get("attention_types")) {
        (Some(Value::Array(names)), None) => {
            for name in names {
                locals.push(kind(name)?);
            }
        }
        (_, Some(Value::Array(types))) => {
            for group in types {
                let names = group[0].as_array().map_or(&[][..], Vec::as_slice);
                let times = group[1].as_u64().filter(|times| *times <= MOST_LAYERS as u64);
                let Some(times) = times else {
                    return Err(format!("attention_types has {}, not a list of kinds and a number", shown(group)));
                };
                for _ in 0..times {
                    for name in names.iter().take(MOST_LAYERS) {
                        locals.push(kind(name)?);
                    }
                }
            }
        }
        // transformers' own: global and local in turn.
        (None, None) => locals.extend((0..layers).map(|layer| layer % 2 == 1)),
        (_, Some(other)) | (Some(other), _) => return Err(format!("attention_types is {}, not a list", shown(other))),
    }
    if locals.len() != layers {
        return Err(format!("attention_types names {} layers, and num_layers is {layers}", locals.len()));
    }
    Ok(locals)
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let is_local = |layer: usize| config.window.is_some() && !config.full_layers.contains(&layer);
    let kind = |layer: usize| if is_local(layer) { "local" } else { "global" };
    let kinds: Vec<&str> = (0..config.layers).map(kind).collect();
    let written = ConfigJson {
        activation_function: match config.feed_forward {
            FeedForward::Gelu(form) => name(form),
            _ => name(Form::Tanh),
        },
        architectures: [ARCHITECTURE],
        attention_dropout: config.dropout.attention,
        attention_layers: kinds.clone(),
        attention_types: json!([[kinds, 1]]),
        bos_token_id: config.bos_token_id,
        dtype,
        embed_dropout: config.dropout.embedding,
        eos_token_id: one_or_list(&config.eos_token_id),
        hidden_size: config.width,
        initializer_range: config.initializer_range,
        intermediate_size: (config.inner != 4 * config.width).then_some(config.inner),
        layer_norm_epsilon: config.norm_epsilon,
        max_position_embeddings: config.context,
        model_type: "gpt_neo",
        num_heads: config.heads,
        num_layers: config.layers,
        resid_dropout: config.dropout.residual,
        tie_word_embeddings: config.tied,
        torch_dtype: dtype,
        vocab_size: config.vocab_size,
        window_size: config.window.unwrap_or(WINDOW),
    };
    serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
}

/// The written keys, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
#[derive(Serialize)]
struct ConfigJson {
    activation_function: &'static str,
    architectures: [&'static str; 1],
    attention_dropout: f32,
    attention_layers: Vec<&'static str>,
    attention_types: Value,
    bos_token_id: Option<u32>,
    dtype: &'static str,
    embed_dropout: f32,
    eos_token_id: Value,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: Option<usize>,
    layer_norm_epsilon: f32,
    max_position_embeddings: usize,
    model_type: &'static str,
    num_heads: usize,
    num_layers: usize,
    resid_dropout: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    vocab_size: usize,
    window_size: usize,
}
