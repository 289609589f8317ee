//! GPT-2: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), section 2.3.
//!
//! A decoder of `layers` blocks with layernorm **before** attention and MLP and one more at the end; learned positions; the
//! token embedding is the output projection as well, unless the model has one of its own. Tensors carry the names and
//! layouts of Hugging Face checkpoints.
//!
//! Three of its parts can be exchanged for those of later models, one at a time: the norm, the positions, and the
//! nonlinearity between the layers of the MLP. Attention may have a window, in all layers or in some.

pub(super) mod json;

use super::blocks::{CacheMode, Model};
use super::config::{Config, FeedForward, Position};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::Stored;
use crate::graph::{Depth, Graph, Tensor};
use crate::ops::glu::{Gate, Glu};

/// The family's name.
pub const NAME: &str = "GPT-2";

#[derive(Debug)]
pub struct Gpt2;

impl Family for Gpt2 {
    /// Hidden states (B, T, C) after the last layernorm.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, context, width: c, layers, position, .. } = *m.config;
        g.scope("embedding");
        g.depth(Depth::Embedding);
        let wte = m.table(g, "wte.weight", &[v, c]);
        let wpe = (position == Position::Learned).then(|| m.table(g, "wpe.weight", &[context, c]));
        let mut x = m.embedding(g, ids, wte, wpe, cache); // (B, T, C)
        let angles = m.angles(g, ids, cache);
        x = m.drop_embedding(g, x);
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| block(m, g, x, angles, layer, cache));
        }
        g.scope("ln_f");
        g.depth(Depth::Top);
        m.norm(g, x, "ln_f")
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gpt2", json::ABLATION]
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
    }

    fn foreign(&self, config: &Config) -> Option<&'static str> {
        json::is_ablation(config)
            .then_some("transformers has no GPT-2 with another norm, position or feed-forward part, or with a window")
    }

    fn takes_windows(&self) -> bool {
        true
    }

    fn is_exchangeable(&self) -> bool {
        true
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["c_attn"]
    }

    fn is_transposed(&self) -> bool {
        true
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embedding(&self) -> &'static str {
        "wte.weight"
    }

    /// The causal-mask buffers `h.N.attn.bias` and `h.N.attn.masked_bias`.
    fn is_buffer(&self, name: &str) -> bool {
        let Some((layer, rest)) = name.strip_prefix("h.").and_then(|rest| rest.split_once('.')) else { return false };
        layer.bytes().all(|byte| byte.is_ascii_digit()) && matches!(rest, "attn.bias" | "attn.masked_bias")
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)).
fn block(m: &Model, g: &mut Graph, x: Tensor, angles: Option<Tensor>, layer: usize, cache: CacheMode) -> Tensor {
    let Config { width: c, inner, feed_forward, .. } = *m.config;
    let h = |name: &str| format!("h.{layer}.{name}");

    g.scope(h("attn"));
    let n = m.norm(g, x, &h("ln_1"));
    let mut qkv = m.linear(g, n, &h("attn.c_attn"), (c, 3 * c), Stored::InOut, true); // (B, T, 3C)
    if let Some(angles) = angles {
        qkv = m.turned(g, qkv, angles);
    }
    let y = m.attention(g, qkv, layer, cache); // (B, T, C)
    let y = m.projection(g, y, &h("attn.c_proj"), (c, c), Stored::InOut, true);
    let x = m.add_residual(g, x, y, layer, 0);

    g.scope(h("mlp"));
    let n = m.norm(g, x, &h("ln_2"));
    let y = match feed_forward {
        FeedForward::Gelu(form) => m.linear_gelu(g, n, &h("mlp.c_fc"), (c, inner), Stored::InOut, form), // (B, T, inner)
        FeedForward::SwiGlu => {
            let y = m.linear(g, n, &h("mlp.c_fc"), (c, 2 * inner), Stored::InOut, true); // gate | up
            g.apply(Glu { gate: Gate::Silu }, &[y])
        }
        _ => unreachable!("GPT-2 has a GELU or a SwiGLU"),
    };
    let y = m.projection(g, y, &h("mlp.c_proj"), (inner, c), Stored::InOut, true);
    m.add_residual(g, x, y, layer, 1)
}
