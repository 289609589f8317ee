//! GPT: "Improving Language Understanding by Generative Pre-Training" (Radford et al. 2018), section 4.1.
//!
//! GPT-2's parts in another order: layernorm stands **after** each sum, so that the residual stream itself is normalised, and
//! there is none at the end.
//!
//!   GPT:    x = norm(x + attention(x)),  x = norm(x + mlp(x))
//!   GPT-2:  x = x + attention(norm(x)),  x = x + mlp(norm(x)),  and a norm at the end
//!
//! Tensors carry the names and layouts of Hugging Face's `openai-gpt` checkpoints.

mod json;

use super::blocks::{CacheMode, Model};
use super::config::{Config, Dropout, FeedForward};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::Stored;
use crate::graph::{Depth, Dtype, Graph, Tensor};

/// The family's name.
pub const NAME: &str = "GPT";

#[derive(Debug)]
pub struct Gpt;

impl Family for Gpt {
    /// Hidden states (B, T, C) of the last block.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, context, width: c, layers, .. } = *m.config;
        g.scope("embedding");
        g.depth(Depth::Embedding);
        let tokens = m.table(g, self.embedding(), &[v, c]);
        let positions = m.table(g, POSITIONS, &[context, c]);
        let mut x = m.embedding(g, ids, tokens, Some(positions), cache); // (B, T, C)
        x = m.drop_embedding(g, x);
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| block(m, g, x, layer, cache));
        }
        x
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["openai-gpt"]
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
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
        "tokens_embed.weight"
    }

    /// The causal-mask buffers `h.N.attn.bias`, and the positions counted up.
    fn is_buffer(&self, name: &str) -> bool {
        name == "position_ids" || name.starts_with("h.") && name.ends_with(".attn.bias")
    }
}

const POSITIONS: &str = "positions_embed.weight";

/// norm(x + attention(x)), then norm(x + mlp(x)). The norms are the residual stream, so that they stay f32.
fn block(m: &Model, g: &mut Graph, x: Tensor, layer: usize, cache: CacheMode) -> Tensor {
    let Config { width: c, inner, feed_forward, .. } = *m.config;
    let FeedForward::Gelu(form) = feed_forward else { unreachable!("GPT has a GELU") };
    let h = |name: &str| format!("h.{layer}.{name}");

    g.scope(h("attn"));
    let qkv = m.linear(g, x, &h("attn.c_attn"), (c, 3 * c), Stored::InOut, true); // (B, T, 3C)
    let y = m.attention(g, qkv, layer, cache); // (B, T, C)
    let y = m.projection(g, y, &h("attn.c_proj"), (c, c), Stored::InOut, true);
    let sum = m.add_residual(g, x, y, layer, 0);
    let x = m.norm_to(g, sum, &h("ln_1"), Dtype::F32);

    g.scope(h("mlp"));
    let y = m.linear_gelu(g, x, &h("mlp.c_fc"), (c, inner), Stored::InOut, form); // (B, T, inner)
    let y = m.projection(g, y, &h("mlp.c_proj"), (inner, c), Stored::InOut, true);
    let sum = m.add_residual(g, x, y, layer, 1);
    m.norm_to(g, sum, &h("ln_2"), Dtype::F32)
}

/// A GPT of these sizes, with the paper's dropout of 0.1.
fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Config {
    let dropout = Dropout::of(0.1);
    Config { family: NAME, dropout, ..Config::new(vocab_size, context, layers, heads, width) }
}

/// The paper's model: 40,000 merges, 478 base symbols and special tokens.
pub(super) fn gpt() -> Config {
    new(40_478, 512, 12, 12, 768)
}

/// As large as the demo.
pub(super) fn mini() -> Config {
    new(256, 128, 4, 8, 64)
}
