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

use super::config::{Config, Dropout, FeedForward, HEAD};
use super::experts::Routed;
use super::family::Family;
use super::keys::{Found, Keys};
use super::model::{Model, Past, Stored};
use crate::graph::{Dtype, Graph, Tensor};
use crate::ops::embedding::Embedding;

#[derive(Debug)]
pub struct Gpt;

impl Family for Gpt {
    /// Hidden states (B, T, C) of the last block.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, past: Past, _routed: &mut Vec<Routed>) -> Tensor {
        let Config { vocab_size: v, context, width: c, layers, .. } = *m.config;
        g.scope("embedding");
        let tokens = g.state(self.embedding(), &[v, c]);
        let positions = g.state(POSITIONS, &[context, c]);
        let mut x = g.apply(Embedding, &[ids, tokens, positions]); // (B, T, C)
        x = m.drop_embedding(g, x);
        for layer in 0..layers {
            x = g.region(|g| block(m, g, x, layer, past));
        }
        x
    }

    /// Weights of linear layers are (inputs, outputs), that of an untied head (V, C).
    fn parameters(&self, config: &Config) -> Vec<(String, Vec<usize>)> {
        let Config { vocab_size, context, width: c, inner, .. } = *config;
        let mut all = vec![(self.embedding().into(), vec![vocab_size, c]), (POSITIONS.to_string(), vec![context, c])];
        for layer in 0..config.layers {
            let mut add = |name: &str, shape: &[usize]| all.push((format!("h.{layer}.{name}"), shape.to_vec()));
            add("attn.c_attn.weight", &[c, 3 * c]);
            add("attn.c_attn.bias", &[3 * c]);
            add("attn.c_proj.weight", &[c, c]);
            add("attn.c_proj.bias", &[c]);
            add("ln_1.weight", &[c]);
            add("ln_1.bias", &[c]);
            add("mlp.c_fc.weight", &[c, inner]);
            add("mlp.c_fc.bias", &[inner]);
            add("mlp.c_proj.weight", &[inner, c]);
            add("mlp.c_proj.bias", &[c]);
            add("ln_2.weight", &[c]);
            add("ln_2.bias", &[c]);
        }
        if !config.tied {
            all.push((HEAD.into(), vec![vocab_size, c]));
        }
        all
    }

    fn name(&self) -> &'static str {
        "GPT"
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

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embedding(&self) -> &'static str {
        "tokens_embed.weight"
    }

    fn positions(&self) -> Option<&'static str> {
        Some(POSITIONS)
    }

    /// The causal-mask buffers `h.N.attn.bias`, and the positions counted up.
    fn is_buffer(&self, name: &str) -> bool {
        name == "position_ids" || name.starts_with("h.") && name.ends_with(".attn.bias")
    }
}

const POSITIONS: &str = "positions_embed.weight";

/// norm(x + attention(x)), then norm(x + mlp(x)). The norms are the residual stream, so that they stay f32.
fn block(m: &Model, g: &mut Graph, x: Tensor, layer: usize, past: Past) -> Tensor {
    let Config { width: c, inner, feed_forward, .. } = *m.config;
    let FeedForward::Gelu(form) = feed_forward else { unreachable!("GPT has a GELU") };
    let h = |name: &str| format!("h.{layer}.{name}");

    g.scope(h("attn"));
    let qkv = m.linear(g, x, &h("attn.c_attn"), (c, 3 * c), Stored::InOut, true); // (B, T, 3C)
    let y = m.attention(g, qkv, layer, past); // (B, T, C)
    let y = m.projection(g, y, &h("attn.c_proj"), (c, c), Stored::InOut, true);
    let sum = m.add_residual(g, x, y, layer, 0);
    let x = m.norm_to(g, sum, &h("ln_1"), Dtype::F32);

    g.scope(h("mlp"));
    let y = m.linear_gelu(g, x, &h("mlp.c_fc"), (c, inner), form); // (B, T, inner)
    let y = m.projection(g, y, &h("mlp.c_proj"), (inner, c), Stored::InOut, true);
    let sum = m.add_residual(g, x, y, layer, 1);
    m.norm_to(g, sum, &h("ln_2"), Dtype::F32)
}

/// A GPT of these sizes, with the paper's dropout of 0.1.
fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Config {
    let dropout = Dropout::of(0.1);
    Config { family: &Gpt, dropout, ..Config::new(vocab_size, context, layers, heads, width) }
}

/// The paper's model: 40,000 merges, 478 base symbols and special tokens.
pub(super) fn gpt() -> Config {
    new(40_478, 512, 12, 12, 768)
}

/// As large as the demo.
pub(super) fn mini() -> Config {
    new(256, 128, 4, 8, 64)
}
