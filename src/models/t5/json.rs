//! T5's `config.json`.

use super::{NAME, is_gated};
use crate::models::config::*;
use crate::models::family::{architectures, one_or_list};
use crate::models::keys::{Found, Keys, shown};
use crate::ops::gelu::Form;
use serde::Serialize;
use serde_json::Value;

const ARCHITECTURE: &str = "T5ForConditionalGeneration";
/// Tokens of a text, where the file does not say: T5's positions have no end.
const CONTEXT: usize = 512;

pub(super) fn read(keys: &Keys) -> Found<Config> {
    architectures(keys, ARCHITECTURE, &["T5Model", "T5WithLMHeadModel"])?;
    let needed = keys.needed(NAME);
    let (layers, heads) = (needed("num_layers", MOST_LAYERS)?, needed("num_heads", MOST_WIDTH)?);
    let width = needed("d_model", MOST_WIDTH)?;
    let context = keys.whole("n_positions", 1..=MOST_CONTEXT)?.unwrap_or(CONTEXT);
    let buckets = keys.whole("relative_attention_num_buckets", 4..=MOST_CONTEXT)?.unwrap_or(32);
    let most = keys.whole("relative_attention_max_distance", 2..=MOST_CONTEXT)?.unwrap_or(128);
    if !buckets.is_multiple_of(4) || most <= buckets / 2 {
        return Err(format!(
            "relative_attention_num_buckets is {buckets} and relative_attention_max_distance {most}, but the first must be a \
             multiple of 4 and the second above half of it"
        ));
    }
    keys.only("is_encoder_decoder", &Value::from(true))?;
    keys.only("is_decoder", &Value::from(false))?;
    let start = keys.tokens("decoder_start_token_id").first().or(keys.tokens("pad_token_id").first()).copied();
    let tied = keys.flag("tie_word_embeddings")?.unwrap_or(true);
    // Files before transformers 5 scale where the head is tied.
    let scaled_outputs = keys.flag("scale_decoder_outputs")?.unwrap_or(tied);
    let decoder_layers = keys.whole("num_decoder_layers", 1..=MOST_LAYERS)?.unwrap_or(layers);
    Ok(Config {
        family: NAME,
        head_size: needed("d_kv", MOST_WIDTH)?,
        inner: needed("d_ff", MOST_INNER)?,
        tied,
        norm: Norm::RmsNorm,
        norm_epsilon: keys.number("layer_norm_epsilon")?.unwrap_or(1e-6),
        position: Position::Relative { buckets, most },
        feed_forward: feed_forward(keys)?,
        attention_bias: (false, false),
        attention_scale: Some(1.0),
        dropout: Dropout::of(keys.number("dropout_rate")?.unwrap_or(0.1)),
        initializer_range: keys.number("initializer_factor")?.unwrap_or(1.0),
        scaled_residual: false,
        eos_token_id: keys.tokens("eos_token_id"),
        encoder_decoder: Some(EncoderDecoder { decoder_layers, start: start.unwrap_or(0), scaled_outputs }),
        ..Config::new(needed("vocab_size", MOST_VOCABULARY)?, context, layers, heads, width)
    })
}

fn feed_forward(keys: &Keys) -> Found<FeedForward> {
    let Some(value) = keys.get("feed_forward_proj") else { return Ok(FeedForward::Relu) };
    match value.as_str() {
        Some("relu") => Ok(FeedForward::Relu),
        // transformers' own reading of this name is the tanh form.
        Some("gated-gelu") => Ok(FeedForward::GeGlu(Form::Tanh)),
        _ => Err(format!("feed_forward_proj is {}, but only relu and gated-gelu are supported here", shown(value))),
    }
}

#[derive(Serialize)]
struct Json {
    architectures: [&'static str; 1],
    model_type: &'static str,
    dtype: &'static str,
    torch_dtype: &'static str,
    vocab_size: usize,
    n_positions: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_decoder_layers: usize,
    num_heads: usize,
    relative_attention_num_buckets: usize,
    relative_attention_max_distance: usize,
    dropout_rate: f32,
    layer_norm_epsilon: f32,
    initializer_factor: f32,
    feed_forward_proj: &'static str,
    scale_decoder_outputs: bool,
    tie_word_embeddings: bool,
    is_encoder_decoder: bool,
    use_cache: bool,
    pad_token_id: u32,
    decoder_start_token_id: u32,
    eos_token_id: Value,
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let Position::Relative { buckets, most } = config.position else { unreachable!("T5's positions") };
    let both = config.encoder_decoder.expect("a T5 has a decoder");
    let json = Json {
        architectures: [ARCHITECTURE],
        model_type: "t5",
        dtype,
        torch_dtype: dtype,
        vocab_size: config.vocab_size,
        n_positions: config.context,
        d_model: config.width,
        d_kv: config.head_size,
        d_ff: config.inner,
        num_layers: config.layers,
        num_decoder_layers: both.decoder_layers,
        num_heads: config.heads,
        relative_attention_num_buckets: buckets,
        relative_attention_max_distance: most,
        dropout_rate: config.dropout.residual,
        layer_norm_epsilon: config.norm_epsilon,
        initializer_factor: config.initializer_range,
        feed_forward_proj: if is_gated(config) { "gated-gelu" } else { "relu" },
        scale_decoder_outputs: both.scaled_outputs,
        tie_word_embeddings: config.tied,
        is_encoder_decoder: true,
        use_cache: true,
        pad_token_id: both.start,
        decoder_start_token_id: both.start,
        eos_token_id: one_or_list(&config.eos_token_id),
    };
    serde_json::to_string_pretty(&json).expect("JSON always serialises") + "\n"
}
