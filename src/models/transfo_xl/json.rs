//! Transformer-XL's `config.json`, as transformers 4.57 has it: later versions have no such model.

use super::{NAME, Recurrence};
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::keys::{Found, Keys, shown};
use serde::Serialize;
use serde_json::{Value, json};

const ARCHITECTURE: &str = "TransfoXLLMHeadModel";
/// Tokens of a segment, where the file does not say: transformers has no such key any more.
const SEGMENT: usize = 128;

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &["TransfoXLModel"])?;
    let needed = keys.needed(NAME);
    let (vocab_size, layers) = (needed("vocab_size", MOST_VOCABULARY)?, needed("n_layer", MOST_LAYERS)?);
    let (heads, width) = (needed("n_head", MOST_WIDTH)?, needed("d_model", MOST_WIDTH)?);
    // What is left out means something else than what is implemented.
    only_given(keys, "cutoffs", &json!([]), "the adaptive softmax is not implemented")?;
    only_given(keys, "div_val", &json!(1), "embeddings of several widths are not implemented")?;
    only_given(keys, "d_embed", &json!(width), "embeddings of another width are not implemented")?;
    for (key, supported) in [
        ("attn_type", json!(0)),
        ("pre_lnorm", json!(false)),
        ("untie_r", json!(true)),
        ("sample_softmax", json!(-1)),
        ("add_cross_attention", json!(false)),
        ("is_encoder_decoder", json!(false)),
        ("pruned_heads", json!({})),
    ] {
        keys.only(key, &supported)?;
    }
    let context = keys.whole("tgt_len", 1..=MOST_CONTEXT)?.unwrap_or(SEGMENT);
    let sizes = Config::new(vocab_size, context, layers, heads, width);
    let dropout = keys.number("dropout")?.unwrap_or(0.1);
    let clamp = keys.get("clamp_len").map_or(Some(1000), |value| value.as_i64().map(|n| n.max(0)));
    let clamp = clamp.and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MOST_CONTEXT);
    let Some(clamp) = clamp else {
        return Err(format!(
            "clamp_len is {}, not a whole number up to {MOST_CONTEXT}",
            keys.get("clamp_len").map_or_else(String::new, shown)
        ));
    };
    let memory = keys.whole("mem_len", 0..=MOST_CONTEXT)?.unwrap_or(1600);
    let same_length = keys.flag("same_length")?.unwrap_or(true);
    if same_length && memory == 0 {
        return Err("same_length is true with a mem_len of 0, which leaves nothing to see; give false".into());
    }
    Ok(Config {
        family: NAME,
        head_size: keys.whole("d_head", 1..=MOST_WIDTH)?.unwrap_or(sizes.head_size),
        inner: needed("d_inner", MOST_INNER)?,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(true),
        norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-5),
        feed_forward: FeedForward::Relu,
        attention_bias: (false, false),
        scaled_residual: false,
        dropout: Dropout { embedding: dropout, attention: keys.number("dropatt")?.unwrap_or(0.0), residual: dropout },
        initializer_range: keys.number("init_std")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        recurrence: Some(Recurrence { memory, clamp, same_length }),
        ..sizes
    })
}

/// Refuses a key that has not the only value that is implemented, or is left out.
fn only_given(keys: &Keys, key: &str, supported: &Value, why: &str) -> Found<()> {
    keys.only(key, supported).map_err(|problem| format!("{problem}: {why}"))?;
    match keys.get(key) {
        Some(_) => Ok(()),
        None => Err(format!("the key {key} is missing, and only {supported} is supported here: {why}")),
    }
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let Recurrence { memory, clamp, same_length } = super::recurrence(config);
    let written = ConfigJson {
        adaptive: true,
        architectures: [ARCHITECTURE],
        attn_type: 0,
        bos_token_id: config.bos_token_id,
        clamp_len: if clamp > 0 { clamp as i64 } else { -1 },
        cutoffs: [],
        d_embed: config.width,
        d_head: config.head_size,
        d_inner: config.inner,
        d_model: config.width,
        div_val: 1,
        dropatt: config.dropout.attention,
        dropout: config.dropout.residual,
        dtype,
        eos_token_id: one_or_list(&config.eos_token_id),
        init: "normal",
        init_std: config.initializer_range,
        layer_norm_epsilon: config.norm_epsilon,
        mem_len: memory,
        model_type: "transfo-xl",
        n_head: config.heads,
        n_layer: config.layers,
        pre_lnorm: false,
        proj_share_all_but_first: true,
        same_length,
        sample_softmax: -1,
        tgt_len: config.context,
        tie_word_embeddings: config.tied,
        torch_dtype: dtype,
        untie_r: true,
        vocab_size: config.vocab_size,
    };
    serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
}

/// The written keys, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
#[derive(Serialize)]
struct ConfigJson {
    adaptive: bool,
    architectures: [&'static str; 1],
    attn_type: u32,
    bos_token_id: Option<u32>,
    clamp_len: i64,
    cutoffs: [u32; 0],
    d_embed: usize,
    d_head: usize,
    d_inner: usize,
    d_model: usize,
    div_val: u32,
    dropatt: f32,
    dropout: f32,
    dtype: &'static str,
    eos_token_id: Value,
    init: &'static str,
    init_std: f32,
    layer_norm_epsilon: f32,
    mem_len: usize,
    model_type: &'static str,
    n_head: usize,
    n_layer: usize,
    pre_lnorm: bool,
    proj_share_all_but_first: bool,
    same_length: bool,
    sample_softmax: i32,
    tgt_len: usize,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    untie_r: bool,
    vocab_size: usize,
}
