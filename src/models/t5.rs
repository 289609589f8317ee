//! T5: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al. 2020), section 2.1.
//!
//! An encoder reads a text; a decoder writes another, attending to what it has written and to the encoder's last hidden states. RMSNorm
//! stands before each part, nothing has a bias, scores of attention are not divided by the square root of the head size, and positions are
//! known by a bias on the scores alone, by head and distance, which all blocks of a stack share.
//!
//!   x = x + attention(norm(x)),  x = x + attention to the source(norm(x)) in the decoder,  x = x + wo f(wi norm(x))
//!   logits = shared (d^-0.5 norm(x)), f = relu; or lm_head norm(x) and f = gelu(wi_0 x) * (wi_1 x) in version 1.1 (Shazeer 2020)
//!
//! Tensors carry the names and layouts of Hugging Face checkpoints, but for `qkv` and `kv`, which are made of q, k and v, and `wi` of a
//! gated part, which is wi_0 and wi_1.

mod attention;
mod json;

use self::attention::{bias_of, cross_attention, self_attention};
use super::blocks::{CacheMode, Model};
use super::config::{Config, Dropout, EncoderDecoder, FeedForward, Norm, Position};
use super::encoder_decoder::Source;
use super::family::Family;
use super::keys::{Found, Keys};
use crate::graph::{Depth, Dtype, Graph, Tensor};
use crate::ops::cast::cast;
use crate::ops::glu::{Gate, Glu};
use crate::ops::relu::Relu;
use crate::ops::scale::Scale;

/// The family's name.
pub const NAME: &str = "T5";

#[derive(Debug)]
pub struct T5;

impl Family for T5 {
    /// Hidden states (B, S, C) of the encoder after its last norm.
    fn source(&self, m: &Model, g: &mut Graph, ids: Tensor, lengths: Option<Tensor>) -> Tensor {
        let mut x = embedding(m, g, ids);
        let bias = bias_of(m, g, Stack::Encoder, (ids, CacheMode::Off));
        for layer in 0..m.config.layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| {
                let h = |part: &str| format!("encoder.block.{layer}.layer.{part}");
                let cache = CacheMode::Encoded { types: None, lengths };
                let x = self_attention(m, g, x, &h("0"), (Stack::Encoder, layer, bias), cache);
                feed_forward(m, g, x, &h("1"), layer)
            });
        }
        last_norm(m, g, x, "encoder.final_layer_norm")
    }

    /// Hidden states (B, T, C) of the decoder after its last norm.
    fn hidden_after(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode, source: Source) -> Tensor {
        let mut x = embedding(m, g, ids);
        let bias = bias_of(m, g, Stack::Decoder, (ids, cache));
        for layer in 0..m.decoder_layers() {
            g.depth(Depth::Block(m.config.layers + layer));
            x = g.region(|g| {
                let h = |part: &str| format!("decoder.block.{layer}.layer.{part}");
                let x = self_attention(m, g, x, &h("0"), (Stack::Decoder, layer, bias), cache);
                let x = cross_attention(m, g, x, &h("1"), layer, (cache, source));
                feed_forward(m, g, x, &h("2"), m.config.layers + layer)
            });
        }
        last_norm(m, g, x, "decoder.final_layer_norm")
    }

    fn keys_values(&self, m: &Model, g: &mut Graph, encoded: Tensor, layer: usize) -> Tensor {
        attention::keys_values(m, g, encoded, layer)
    }

    fn hidden(&self, _m: &Model, _g: &mut Graph, _ids: Tensor, _cache: CacheMode) -> Tensor {
        unreachable!("T5's decoder has a source")
    }

    fn before_output(&self, m: &Model, g: &mut Graph, x: Tensor) -> Tensor {
        let is_scaled = m.config.encoder_decoder.is_some_and(|both| both.scaled_outputs);
        if !is_scaled {
            return x;
        }
        let x = cast(g, x, Dtype::F32);
        g.apply(Scale { factor: per_root(m.config.width) as f32 }, &[x])
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["t5"]
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
    }

    fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let path = name.strip_suffix(".weight")?;
        let (c, inner) = (config.width, config.heads * config.head_size);
        let of = |module: &str, parts: &[&str], rows: usize| {
            Some(parts.iter().map(|part| (format!("{module}{part}.weight"), vec![rows, c])).collect())
        };
        match (path.strip_suffix("qkv"), path.strip_suffix("kv"), path.strip_suffix("wi")) {
            (Some(module), ..) => of(module, &["q", "k", "v"], inner),
            (_, Some(module), _) => of(module, &["k", "v"], inner),
            (.., Some(module)) if is_gated(config) => of(module, &["wi_0", "wi_1"], config.inner),
            _ => None,
        }
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["q", "v"]
    }

    fn prefix(&self) -> &'static str {
        ""
    }

    fn embedding(&self) -> &'static str {
        EMBEDDING
    }

    /// The embedding's other names, and a bias table that old versions saved for the attention to the source.
    fn is_buffer(&self, name: &str) -> bool {
        matches!(name, "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight")
            || name.ends_with(".EncDecAttention.relative_attention_bias.weight")
    }
}

const EMBEDDING: &str = "shared.weight";

/// One of the two stacks of blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stack {
    Encoder,
    Decoder,
}

/// d^-0.5.
fn per_root(d: usize) -> f64 {
    1.0 / (d as f64).sqrt()
}

fn is_gated(config: &Config) -> bool {
    matches!(config.feed_forward, FeedForward::GeGlu(_))
}

/// Embeddings (B, T, C) of ids (B, T). Their initial values have the deviation 1: a tied head takes scaled states for that.
fn embedding(m: &Model, g: &mut Graph, ids: Tensor) -> Tensor {
    let Config { vocab_size: v, width: c, .. } = *m.config;
    g.scope("embedding");
    g.depth(Depth::Embedding);
    let shared = m.table(g, EMBEDDING, &[v, c]);
    let x = m.embedding(g, ids, shared, None, CacheMode::Off);
    m.drop_embedding(g, x)
}

/// x + wo f(wi norm(x)).
fn feed_forward(m: &Model, g: &mut Graph, x: Tensor, name: &str, layer: usize) -> Tensor {
    let Config { width: c, inner, feed_forward, .. } = *m.config;
    g.scope(name);
    let n = m.norm(g, x, &format!("{name}.layer_norm"));
    let (wi, std) = (format!("{name}.DenseReluDense.wi"), m.std(per_root(c)));
    let y = match feed_forward {
        FeedForward::GeGlu(form) => {
            let y = m.linear_from(g, n, &wi, (c, 2 * inner), std); // (B, T, wi_0 | wi_1)
            g.apply(Glu { gate: Gate::Gelu(form) }, &[y])
        }
        _ => {
            let y = m.linear_from(g, n, &wi, (c, inner), std);
            g.apply(Relu, &[y])
        }
    };
    let y = m.drop_inner(g, y, layer); // (B, T, inner)
    let y = m.projection_from(g, y, &format!("{name}.DenseReluDense.wo"), (inner, c), m.std(per_root(inner)));
    m.add_residual(g, x, y, layer, 1)
}

fn last_norm(m: &Model, g: &mut Graph, x: Tensor, name: &str) -> Tensor {
    g.scope(name);
    g.depth(Depth::Top);
    let x = m.norm(g, x, name);
    m.drop_top(g, x)
}

/// A T5 of version 1.0: as many blocks in the decoder as in the encoder, dropout of 0.1.
fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, (width, inner): (usize, usize)) -> Config {
    Config {
        family: NAME,
        norm: Norm::RmsNorm,
        norm_epsilon: 1e-6,
        inner,
        position: Position::Relative { buckets: 32, most: 128 },
        feed_forward: FeedForward::Relu,
        attention_bias: (false, false),
        attention_scale: Some(1.0),
        initializer_range: 1.0,
        scaled_residual: false,
        dropout: Dropout::of(0.1),
        eos_token_id: vec![1],
        encoder_decoder: Some(EncoderDecoder { decoder_layers: layers, start: 0, scaled_outputs: true }),
        ..Config::new(vocab_size, context, layers, heads, width)
    }
}

/// About as large as the demo.
pub(super) fn mini() -> Config {
    Config { dropout: Dropout::default(), ..new(512, 128, 2, 8, (64, 256)) }
}

/// The paper's small model: 32,000 pieces, 100 sentinels, and rows of padding to a multiple of 128.
pub(super) fn small() -> Config {
    new(32_128, 512, 6, 8, (512, 2048))
}

/// The paper's baseline.
pub(super) fn base() -> Config {
    new(32_128, 512, 12, 12, (768, 3072))
}
