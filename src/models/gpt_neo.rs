//! GPT-Neo (Black et al. 2021), the open model of GPT-3's shape: "Language Models are Few-Shot Learners" (Brown et al. 2020), section 2.1.
//!
//! GPT-2's blocks, in which dense layers alternate with layers that see a window of the last tokens alone; scores of attention are not
//! divided by the square root of the head size, and q, k and v have no bias.
//!
//! Tensors carry the names and layouts of Hugging Face checkpoints, weights as (outputs, inputs), but for `qkv_proj`, which is made of
//! q, k and v.

mod json;

use super::blocks::{CacheMode, Model};
use super::config::{Config, FeedForward};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::Stored;
use crate::graph::{Depth, Graph, Tensor};

/// The family's name.
pub const NAME: &str = "GPT-Neo";

#[derive(Debug)]
pub struct GptNeo;

impl Family for GptNeo {
    /// Hidden states (B, T, C) after the last layernorm.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, context, width: c, layers, .. } = *m.config;
        g.scope("embedding");
        g.depth(Depth::Embedding);
        let wte = m.table(g, self.embedding(), &[v, c]);
        let wpe = m.table(g, "wpe.weight", &[context, c]);
        let mut x = m.embedding(g, ids, wte, Some(wpe), cache); // (B, T, C)
        x = m.drop_embedding(g, x);
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| block(m, g, x, layer, cache));
        }
        g.scope("ln_f");
        g.depth(Depth::Top);
        m.norm(g, x, "ln_f")
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gpt_neo"]
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

    fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let module = name.strip_suffix(".qkv_proj.weight")?;
        let (c, from) = (config.width, config.heads * config.head_size);
        Some(["q_proj", "k_proj", "v_proj"].map(|part| (format!("{module}.{part}.weight"), vec![from, c])).into())
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["q_proj", "v_proj"]
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embedding(&self) -> &'static str {
        "wte.weight"
    }

    /// The causal-mask buffers of each layer.
    fn is_buffer(&self, name: &str) -> bool {
        name.ends_with(".attn.attention.bias") || name.ends_with(".attn.attention.masked_bias")
    }
}

/// x + attention(norm(x)), then x + mlp(norm(x)).
fn block(m: &Model, g: &mut Graph, x: Tensor, layer: usize, cache: CacheMode) -> Tensor {
    let Config { width: c, inner, feed_forward, .. } = *m.config;
    let FeedForward::Gelu(form) = feed_forward else { unreachable!("GPT-Neo has a GELU") };
    let h = |name: &str| format!("h.{layer}.{name}");

    g.scope(h("attn"));
    let n = m.norm(g, x, &h("ln_1"));
    let qkv = m.linear(g, n, &h("attn.attention.qkv_proj"), (c, 3 * c), Stored::OutIn, false); // (B, T, 3C)
    let y = m.attention(g, qkv, layer, cache); // (B, T, C)
    let y = m.projection(g, y, &h("attn.attention.out_proj"), (c, c), Stored::OutIn, true);
    let x = m.add_residual(g, x, y, layer, 0);

    g.scope(h("mlp"));
    let n = m.norm(g, x, &h("ln_2"));
    let y = m.linear_gelu(g, n, &h("mlp.c_fc"), (c, inner), Stored::OutIn, form); // (B, T, inner)
    let y = m.projection(g, y, &h("mlp.c_proj"), (inner, c), Stored::OutIn, true);
    m.add_residual(g, x, y, layer, 1)
}

/// A model of GPT-3's table 2.1: GPT-2's vocabulary, 2048 tokens, dense layers and layers with windows of 256 tokens in turn.
fn gpt3(layers: usize, heads: usize, width: usize) -> Config {
    Config {
        family: NAME,
        window: Some(256),
        full_layers: (0..layers).step_by(2).collect(),
        attention_scale: Some(1.0),
        attention_bias: (false, true),
        ..Config::new(50_257, 2048, layers, heads, width)
    }
}

pub(super) fn small() -> Config {
    gpt3(12, 12, 768)
}

pub(super) fn medium() -> Config {
    gpt3(24, 16, 1024)
}

pub(super) fn large() -> Config {
    gpt3(24, 16, 1536)
}

/// The paper's 24 heads of 128 channels are not its width of 2048; GPT-Neo 1.3B has 16.
pub(super) fn xl() -> Config {
    gpt3(24, 16, 2048)
}

pub(super) fn b2_7() -> Config {
    gpt3(32, 32, 2560)
}

pub(super) fn b6_7() -> Config {
    gpt3(32, 32, 4096)
}

/// The paper's width of 5140 is not 40 heads of 128 channels: 5120 is.
pub(super) fn b13() -> Config {
    gpt3(40, 40, 5120)
}

pub(super) fn b175() -> Config {
    gpt3(96, 96, 12_288)
}
