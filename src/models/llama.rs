//! LLaMA and its kin: "LLaMA: Open and Efficient Foundation Language Models" (Touvron et al. 2023), section 2.2.
//!
//! A decoder of `layers` blocks with RMSNorm **before** attention and feed-forward part and one more at the end; rotary
//! positions; SwiGLU; no biases; heads of keys and values that several heads share (LLaMA 2, Touvron et al. 2023, section 2.2).
//! Mistral adds a sliding window (Jiang et al. 2023), Qwen2 biases of q, k and v (Yang et al. 2024), Qwen3 a norm of each head
//! of q and k (Yang et al. 2025), Mixtral several experts in place of the feed-forward part (see [`super::experts`]).
//!
//! Tensors carry the names and layouts of Hugging Face checkpoints, but for two that are made of several, one after another:
//! `qkv_proj` of q, k and v, and `gate_up_proj` of gate and up.

mod json;

use super::blocks::{CacheMode, Model};
use super::config::{Config, Experts, FeedForward, Norm, Position};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::{Branch, Stored};
use crate::graph::{Depth, Dtype, Graph, Initial, Tensor};
use crate::ops::glu::{Gate, Glu};
use crate::ops::rmsnorm::RmsNorm;
use crate::ops::rope::Scaling;

/// The family's name.
pub const NAME: &str = "LLaMA";

#[derive(Debug)]
pub struct Llama;

impl Family for Llama {
    /// Hidden states (B, T, C) after the last norm.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, width: c, layers, .. } = *m.config;
        g.scope("embed_tokens");
        g.depth(Depth::Embedding);
        let table = m.table(g, self.embedding(), &[v, c]);
        let mut x = m.embedding(g, ids, table, None, cache); // (B, T, C)
        x = m.drop_embedding(g, x);
        let angles = m.angles(g, ids, cache).expect("rotary positions");
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| block(m, g, x, angles, layer, cache));
        }
        g.scope("norm");
        g.depth(Depth::Top);
        m.norm(g, x, "norm")
    }

    fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let Config { width: c, inner, heads, kv_heads, head_size: hs, .. } = *config;
        if let Some(parts) = config.experts().and_then(|experts| experts.parts(config, name)) {
            return Some(parts);
        }
        let (path, kind) = name.rsplit_once('.')?;
        let (module, fused) = path.rsplit_once('.')?;
        let parts: &[(&str, usize)] = match fused {
            "qkv_proj" => &[("q_proj", heads * hs), ("k_proj", kv_heads * hs), ("v_proj", kv_heads * hs)],
            "gate_up_proj" => &[("gate_proj", inner), ("up_proj", inner)],
            _ => return None,
        };
        let shape = |rows: usize| if kind == "bias" { vec![rows] } else { vec![rows, c] };
        Some(parts.iter().map(|(part, rows)| (format!("{module}.{part}.{kind}"), shape(*rows))).collect())
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &json::MODEL_TYPES
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
    }

    fn takes_windows(&self) -> bool {
        true
    }

    fn foreign(&self, config: &Config) -> Option<&'static str> {
        json::is_mixed(config)
            .then_some("transformers has no LLaMA of which some layers have a window and others have none")
    }

    fn shares_heads(&self) -> bool {
        true
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["q_proj", "v_proj"]
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn embedding(&self) -> &'static str {
        "embed_tokens.weight"
    }

    fn is_buffer(&self, name: &str) -> bool {
        name.ends_with(".rotary_emb.inv_freq")
    }
}

/// x + attention(norm(x)), then x + down(silu(gate) * up) of norm(x), or what experts make of it.
fn block(m: &Model, g: &mut Graph, x: Tensor, angles: Tensor, layer: usize, cache: CacheMode) -> Tensor {
    let Config { width: c, inner, heads, kv_heads, head_size: hs, attention_bias, .. } = *m.config;
    let h = |name: &str| format!("layers.{layer}.{name}");
    let (columns, from) = ((heads + 2 * kv_heads) * hs, heads * hs);

    g.scope(h("self_attn"));
    let n = m.norm(g, x, &h("input_layernorm"));
    let qkv = m.linear(g, n, &h("self_attn.qkv_proj"), (c, columns), Stored::OutIn, attention_bias.0); // q | k | v
    let qkv = head_norms(m, g, qkv, &h("self_attn"));
    let qkv = m.turned(g, qkv, angles);
    let y = m.attention(g, qkv, layer, cache); // (B, T, NH * HS)
    let y = m.projection(g, y, &h("self_attn.o_proj"), (from, c), Stored::OutIn, attention_bias.1);
    let x = m.add_residual(g, x, y, layer, 0);

    g.scope(h("mlp"));
    let norm = h("post_attention_layernorm");
    let y = match m.config.experts() {
        Some(experts) => {
            let n = m.norm_to(g, x, &norm, Dtype::F32);
            Branch::Made(m.experts(g, n, &format!("layers.{layer}"), experts))
        }
        None => {
            let n = m.norm(g, x, &norm);
            let y = m.linear(g, n, &h("mlp.gate_up_proj"), (c, 2 * inner), Stored::OutIn, false); // gate | up
            let y = g.apply(Glu { gate: Gate::Silu }, &[y]);
            m.projection(g, y, &h("mlp.down_proj"), (inner, c), Stored::OutIn, false)
        }
    };
    m.add_residual(g, x, y, layer, 1)
}

/// Norms of each head of q and of k, where the model has them.
fn head_norms(m: &Model, g: &mut Graph, mut qkv: Tensor, module: &str) -> Tensor {
    let Config { heads, kv_heads, head_size, head_norm, norm_epsilon: eps, .. } = *m.config;
    if head_norm {
        for (name, groups) in [("q_norm", 0..heads), ("k_norm", heads..heads + kv_heads)] {
            let weight = m.parameter(g, &format!("{module}.{name}.weight"), &[head_size], Initial::Ones);
            let output = g.shape(qkv).dtype;
            qkv = g.apply(RmsNorm { eps, groups: Some(groups), output }, &[qkv, weight]);
        }
    }
    qkv
}

/// A LLaMA of these sizes with rotary positions of base 10,000, an untied head and no special tokens.
fn new(vocab_size: usize, context: usize, layers: usize, heads: (usize, usize), width: usize, inner: usize) -> Config {
    Config {
        family: NAME,
        scaled_residual: false,
        kv_heads: heads.1,
        inner,
        tied: false,
        norm: Norm::RmsNorm,
        position: Position::Rope { base: 10_000.0, scaling: Scaling::None },
        feed_forward: FeedForward::SwiGlu,
        attention_bias: (false, false),
        ..Config::new(vocab_size, context, layers, heads.0, width)
    }
}

/// As large as the demo: a feed-forward part of two thirds, as SwiGLU has three matrices and not two. Its initial values are large, so
/// projections onto the residual stream are scaled as in GPT-2, which trains better (BENCHMARKS.md, "Initial values").
pub(super) fn mini() -> Config {
    Config { tied: true, scaled_residual: true, ..new(256, 128, 4, (8, 4), 64, 172) }
}

/// As large as [`mini`] in what a token uses: two of eight experts have half of its feed-forward part each, less the router.
pub(super) fn mixtral() -> Config {
    let experts = Experts { count: 8, top: 2, balance: 0.05, z: 0.001 };
    Config { inner: 84, feed_forward: FeedForward::Experts(experts), ..mini() }
}

/// SmolLM2 135M (Allal et al. 2025).
pub(super) fn smollm2_135m() -> Config {
    smollm2(30, (9, 3), 576, 1536)
}

/// SmolLM2 360M.
pub(super) fn smollm2_360m() -> Config {
    smollm2(32, (15, 5), 960, 2560)
}

fn smollm2(layers: usize, heads: (usize, usize), width: usize, inner: usize) -> Config {
    Config {
        tied: true,
        position: Position::Rope { base: 100_000.0, scaling: Scaling::None },
        ..new(49_152, 8192, layers, heads, width, inner)
    }
}

/// TinyLlama 1.1B (Zhang et al. 2024).
pub(super) fn tinyllama_1_1b() -> Config {
    new(32_000, 2048, 22, (32, 4), 2048, 5632)
}
