//! `config.json` of LLaMA, Mistral, Mixtral, Qwen2 and Qwen3: read as found in the wild, written as `transformers` loads it.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::NAME;
use crate::files::one_line;
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::keys::{Found, Keys};
use crate::ops::rope::Scaling;

pub(super) const MODEL_TYPES: [&str; 6] = ["llama", "mistral", "mixtral", "qwen2", "qwen3", MIXED];
/// `model_type` of a LLaMA of which some layers have a window and others have none; `transformers` has no such model and refuses
/// it by this name. Its keys are those of LLaMA, or Mixtral, and `layer_types` and `sliding_window` as Qwen has them.
const MIXED: &str = "wgpt-llama";

/// What differs between the model types where a `config.json` is silent: the defaults of `transformers`.
struct Kind {
    model_type: &'static str,
    architecture: &'static str,
    body: &'static str,
    kv_heads: Option<usize>,
    head_size: Option<usize>,
    window: Option<usize>,
    /// Whether q, k and v have biases whatever the file says.
    biased: bool,
    head_norm: bool,
    norm_epsilon: f32,
    rope_base: f32,
    /// Whether the feed-forward part is several experts.
    experts: bool,
}

const LLAMA: Kind = Kind {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    body: "LlamaModel",
    kv_heads: None,
    head_size: None,
    window: None,
    biased: false,
    head_norm: false,
    norm_epsilon: 1e-6,
    rope_base: 10_000.0,
    experts: false,
};
const KINDS: [Kind; 7] = [
    LLAMA,
    Kind { model_type: MIXED, ..LLAMA },
    Kind { model_type: MIXED, experts: true, ..LLAMA },
    Kind {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        body: "MistralModel",
        kv_heads: Some(8),
        window: Some(4096),
        ..LLAMA
    },
    Kind {
        model_type: "mixtral",
        architecture: "MixtralForCausalLM",
        body: "MixtralModel",
        kv_heads: Some(8),
        norm_epsilon: 1e-5,
        rope_base: 1e6,
        experts: true,
        ..LLAMA
    },
    Kind {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        body: "Qwen2Model",
        kv_heads: Some(32),
        biased: true,
        ..LLAMA
    },
    Kind {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        body: "Qwen3Model",
        kv_heads: Some(32),
        head_size: Some(128),
        head_norm: true,
        ..LLAMA
    },
];

pub(super) fn read(keys: &Keys) -> Found<Config> {
    let experts_there = keys.has("num_local_experts");
    let named = |kind: &&Kind| {
        let is_same = keys.get("model_type").is_some_and(|name| name == kind.model_type);
        is_same && (kind.model_type != MIXED || kind.experts == experts_there)
    };
    let kind = KINDS.iter().find(named).unwrap_or(&LLAMA);
    architectures(keys, kind.architecture, &[kind.body])?;
    let size = keys.needed(kind.model_type);
    let (width, heads) = (size("hidden_size", MOST_WIDTH)?, size("num_attention_heads", MOST_WIDTH)?);
    let (layers, context) = (size("num_hidden_layers", MOST_LAYERS)?, size("max_position_embeddings", MOST_CONTEXT)?);
    let sizes = Config::new(size("vocab_size", MOST_VOCABULARY)?, context, layers, heads, width);
    let all_biased = keys.flag("attention_bias")?.unwrap_or(false);
    let (window, full_layers) = window(keys, kind, layers)?;
    let config = Config {
        family: NAME,
        scaled_residual: false,
        kv_heads: keys.whole("num_key_value_heads", 1..=MOST_WIDTH)?.or(kind.kv_heads).unwrap_or(heads),
        head_size: keys.whole("head_dim", 1..=MOST_WIDTH)?.or(kind.head_size).unwrap_or(sizes.head_size),
        inner: size("intermediate_size", MOST_INNER)?,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
        norm: Norm::RmsNorm,
        norm_epsilon: keys.number("rms_norm_eps")?.unwrap_or(kind.norm_epsilon),
        position: position(keys, kind.rope_base)?,
        feed_forward: if kind.experts { experts(keys)? } else { FeedForward::SwiGlu },
        attention_bias: match kind {
            Kind { biased: true, .. } => (true, false),
            Kind { experts: true, .. } => (false, false), // transformers does not look at it
            _ => (all_biased, all_biased),
        },
        head_norm: kind.head_norm,
        window,
        full_layers,
        dropout: Dropout { attention: keys.number("attention_dropout")?.unwrap_or(0.0), ..Dropout::default() },
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        ..sizes
    };
    match keys.get("hidden_act").map(|value| value.as_str().unwrap_or("")) {
        None | Some("silu" | "swish") => {}
        Some(other) => return Err(format!("hidden_act {:?} is not supported; use silu", one_line(other))),
    }
    keys.only("mlp_bias", &Value::from(false))?;
    keys.only("is_encoder_decoder", &Value::from(false))?;
    keys.only("add_cross_attention", &Value::from(false))?;
    keys.only("pruned_heads", &Value::Object(Default::default()))?;
    Ok(config)
}

/// Mixtral's experts.
fn experts(keys: &Keys) -> Found<FeedForward> {
    keys.only("router_jitter_noise", &Value::from(0.0))?;
    Ok(FeedForward::Experts(Experts {
        count: keys.whole("num_local_experts", 1..=usize::MAX)?.unwrap_or(8),
        top: keys.whole("num_experts_per_tok", 1..=usize::MAX)?.unwrap_or(2),
        balance: keys.number("router_aux_loss_coef")?.unwrap_or(0.001),
        z: keys.number("router_z_loss_coef")?.unwrap_or(0.0),
    }))
}

/// Rotary positions, from `rope_parameters` as it is since version 5 of `transformers`, or from `rope_theta` and
/// `rope_scaling` as before.
fn position(keys: &Keys, base: f32) -> Found<Position> {
    let empty = || Keys::of(Map::new());
    let rope = match keys.object("rope_parameters")? {
        Some(rope) => rope,
        None => keys.object("rope_scaling")?.unwrap_or_else(empty),
    };
    let theta = rope.number("rope_theta")?;
    let base = if theta.is_some() { theta } else { keys.number("rope_theta")? }.unwrap_or(base);
    for keys in [&rope, keys] {
        keys.only("partial_rotary_factor", &Value::from(1.0))?;
    }
    let needed = |key: &str| rope.number(key)?.ok_or_else(|| format!("{key} is missing beside the rope_type"));
    let kind = rope.get("rope_type").or(rope.get("type"));
    let scaling = match kind.map(|value| value.as_str().unwrap_or("")) {
        None | Some("default") => Scaling::None,
        Some("linear") => Scaling::Linear { factor: needed("factor")? },
        Some("llama3") => Scaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: rope
                .whole("original_max_position_embeddings", 1..=MOST_CONTEXT)?
                .ok_or("original_max_position_embeddings is missing beside the rope_type")?,
        },
        Some(other) => {
            let known = "default, linear and llama3";
            return Err(format!("rope_type {:?} is not supported; {known} are", one_line(other)));
        }
    };
    Ok(Position::Rope { base, scaling })
}

/// The sliding window and, where not all layers have it, those that have none.
fn window(keys: &Keys, kind: &Kind, layers: usize) -> Found<(Option<usize>, Vec<usize>)> {
    // Only Qwen has attention by layers, and models of this program's own.
    let types = match (kind.model_type, keys.get("layer_types")) {
        ("qwen2" | "qwen3" | MIXED, Some(Value::Array(types))) => Some(types),
        _ => None,
    };
    for name in types.into_iter().flatten() {
        if name != "full_attention" && name != "sliding_attention" {
            let name = one_line(&name.to_string());
            return Err(format!("layer_types has {name}; only full_attention and sliding_attention are supported"));
        }
    }
    if let Some(types) = types.filter(|types| types.len() != layers) {
        return Err(format!("layer_types names {} layers, and num_hidden_layers is {layers}", types.len()));
    }
    let given = if keys.has("sliding_window") { keys.whole("sliding_window", 1..=usize::MAX)? } else { kind.window };
    let Some(size) = given else { return Ok((None, vec![])) };
    match kind.model_type {
        "llama" => return Ok((None, vec![])), // transformers does not look at it
        "mistral" | "mixtral" => return Ok((Some(size), vec![])),
        MIXED => {}
        _ if !keys.flag("use_sliding_window")?.unwrap_or(false) => return Ok((None, vec![])),
        _ => {}
    }
    let from = keys.whole("max_window_layers", 0..=usize::MAX)?.unwrap_or(28);
    let is_full = |layer: &usize| match types {
        Some(types) => types[*layer] == "full_attention",
        None => *layer < from,
    };
    let full: Vec<usize> = (0..layers).filter(is_full).collect();
    Ok(if full.len() == layers { (None, vec![]) } else { (Some(size), full) })
}

/// Whether some layers have a window and others have none, in a model for which `transformers` has no such thing.
pub(super) fn is_mixed(config: &Config) -> bool {
    let is_qwen = config.head_norm || config.attention_bias == (true, false);
    config.window.is_some() && !config.full_layers.is_empty() && !is_qwen
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let model_type = match config {
        _ if is_mixed(config) => MIXED,
        Config { feed_forward: FeedForward::Experts(_), .. } => "mixtral",
        Config { head_norm: true, .. } => "qwen3",
        Config { attention_bias: (true, false), .. } => "qwen2",
        Config { window: Some(_), .. } => "mistral",
        _ => "llama",
    };
    let kind = KINDS.iter().find(|kind| kind.model_type == model_type).expect("one of ours");
    let Position::Rope { base, scaling } = config.position else { unreachable!("a LLaMA has rotary positions") };
    let scaling = scaling_json(scaling);
    let mut rope = scaling.clone().unwrap_or_else(|| Map::from_iter([("rope_type".into(), "default".into())]));
    rope.insert("rope_theta".into(), short(base));
    let windowed = !matches!(model_type, "mistral" | "mixtral") && config.window.is_some();
    let layer_type = |layer| if config.full_layers.contains(&layer) { "full_attention" } else { "sliding_attention" };
    let experts = config.experts();
    let written = ConfigJson {
        architectures: if model_type == MIXED { vec![] } else { vec![kind.architecture] },
        attention_bias: config.attention_bias.1,
        attention_dropout: config.dropout.attention,
        bos_token_id: config.bos_token_id,
        dtype,
        eos_token_id: one_or_list(&config.eos_token_id),
        head_dim: config.head_size,
        hidden_act: "silu",
        hidden_size: config.width,
        initializer_range: config.initializer_range,
        intermediate_size: config.inner,
        max_position_embeddings: config.context,
        layer_types: windowed.then(|| (0..config.layers).map(layer_type).collect()),
        max_window_layers: (windowed && model_type != MIXED)
            .then(|| (0..).find(|layer| !config.full_layers.contains(layer)).unwrap_or(0)),
        mlp_bias: false,
        model_type,
        num_attention_heads: config.heads,
        num_experts_per_tok: experts.map(|e| e.top),
        num_hidden_layers: config.layers,
        num_key_value_heads: config.kv_heads,
        num_local_experts: experts.map(|e| e.count),
        rms_norm_eps: config.norm_epsilon,
        rope_parameters: rope,
        rope_scaling: scaling,
        rope_theta: base,
        router_aux_loss_coef: experts.map(|e| e.balance),
        router_z_loss_coef: experts.map(|e| e.z).filter(|z| *z > 0.0),
        sliding_window: config.window,
        tie_word_embeddings: config.tied,
        torch_dtype: dtype,
        use_sliding_window: (windowed && model_type != MIXED).then_some(true),
        vocab_size: config.vocab_size,
    };
    serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
}

fn scaling_json(scaling: Scaling) -> Option<Map<String, Value>> {
    let written = match scaling {
        Scaling::None => return None,
        Scaling::Linear { factor } => json!({ "rope_type": "linear", "factor": short(factor) }),
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": short(factor),
            "low_freq_factor": short(low_freq_factor),
            "high_freq_factor": short(high_freq_factor),
            "original_max_position_embeddings": original_context,
        }),
    };
    written.as_object().cloned()
}

/// The shortest decimal number that is this one in f32.
fn short(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// What is written, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
/// `rope_parameters` and `dtype` are the names since version 5; `rope_theta`, `rope_scaling` and `torch_dtype` before.
#[derive(Serialize)]
struct ConfigJson {
    architectures: Vec<&'static str>,
    attention_bias: bool,
    attention_dropout: f32,
    bos_token_id: Option<u32>,
    dtype: &'static str,
    eos_token_id: Value,
    head_dim: usize,
    hidden_act: &'static str,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_types: Option<Vec<&'static str>>,
    /// As `layer_types`, of configurations that have none: the first layer with a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_window_layers: Option<usize>,
    mlp_bias: bool,
    model_type: &'static str,
    num_attention_heads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_experts_per_tok: Option<usize>,
    num_hidden_layers: usize,
    num_key_value_heads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_local_experts: Option<usize>,
    rms_norm_eps: f32,
    rope_parameters: Map<String, Value>,
    rope_scaling: Option<Map<String, Value>>,
    rope_theta: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    router_aux_loss_coef: Option<f32>,
    /// Not known to `transformers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    router_z_loss_coef: Option<f32>,
    sliding_window: Option<usize>,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    use_sliding_window: Option<bool>,
    vocab_size: usize,
}
