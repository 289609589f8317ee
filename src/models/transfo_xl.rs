//! Transformer-XL: "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context" (Dai et al. 2019).
//!
//! A text passes in segments. Each layer's keys and values are also made of the hidden states that it was given in the segments before,
//! its memory, without gradients; positions are distances, of sinusoids. The score of a query q and a key k at distance d before it is
//!
//!   ((q + u) k + (q + v) W_r R_d) / sqrt(HS)
//!
//! A text is generated in segments of one token: each sees as many before it as the memory has.
//!
//! A norm follows each sum, the feed-forward part has a rectifier, the token embedding is scaled by sqrt(C) and is the output projection
//! as well, which has a bias. As in transformers a memory starts with zeros, which are attended to.
//!
//! Tensors carry the names and layouts of Hugging Face checkpoints.

mod json;

use super::blocks::{CacheMode, Model};
use super::config::{Config, Dropout, FeedForward};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::{Linear, Stored};
use crate::error::Result;
use crate::fail;
use crate::graph::{Depth, Dtype, Graph, Shape, Tensor};
use crate::ops::attention::{Attention, Mask};
use crate::ops::cast::cast;
use crate::ops::head_product::HeadProduct;
use crate::ops::matmul::Matmul;
use crate::ops::relu::Relu;
use crate::ops::rows::Rows;
use crate::ops::scale::Scale;
use crate::ops::segment_memory::{Recall, Remember};
use crate::ops::sinusoids::Sinusoids;
use crate::ops::zeros::Zeros;

/// The family's name.
pub const NAME: &str = "Transformer-XL";

#[derive(Debug)]
pub struct TransfoXl;

/// What a model has that passes a text in segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recurrence {
    /// M, positions of its memory (`mem_len`).
    pub memory: usize,
    /// Distances from this one on are the same (`clamp_len`); 0 for none.
    pub clamp: usize,
    /// Whether every query sees as many keys, those of the memory's length (`same_length`).
    pub same_length: bool,
}

impl Recurrence {
    /// How many positions attention sees at most.
    fn window(&self) -> Option<usize> {
        self.same_length.then_some(self.memory)
    }
}

impl Config {
    /// Refuses a model that passes texts in segments, as a usage error; `what` says what it cannot do.
    pub fn must_not_recur(&self, what: &str) -> Result<()> {
        if self.recurrence.is_some() {
            fail!(
                Usage,
                "a {} has a memory of hidden states, and no cache of keys: it cannot {what}; give a GPT, GPT-2 or LLaMA",
                self.family
            );
        }
        Ok(())
    }

    /// Refuses a model that passes texts in segments and remembers nothing of those before: a token would follow from the last one alone.
    pub fn must_remember(&self, what: &str) -> Result<()> {
        if self.recurrence.is_some_and(|recurrence| recurrence.memory == 0) {
            fail!(
                Usage,
                "the model has no memory (mem_len 0), so that it cannot {what}: set mem_len in its config.json"
            );
        }
        Ok(())
    }

    /// Names and shapes of the memories of its layers, for `rows` texts that are generated.
    pub fn memories_of_texts(&self, rows: usize) -> Vec<(String, Vec<usize>)> {
        self.memories_named(&format!("cache.{rows}."), rows)
    }

    /// Names and shapes of the memories of its layers, for `rows` texts: of training, or of evaluation.
    pub fn memories(&self, rows: usize, is_training: bool) -> Vec<(String, Vec<usize>)> {
        self.memories_named(if is_training { "" } else { "evaluation." }, rows)
    }

    fn memories_named(&self, prefix: &str, rows: usize) -> Vec<(String, Vec<usize>)> {
        let Some(Recurrence { memory, .. }) = self.recurrence.filter(|recurrence| recurrence.memory > 0) else {
            return vec![];
        };
        let name = |layer: usize| format!("{prefix}memory.h.{layer}");
        (0..self.layers).map(|layer| (name(layer), vec![rows, memory, self.width])).collect()
    }
}

impl Model<'_> {
    /// The memories of all layers, each (rows, M, C), of `rows` texts that are generated.
    pub(super) fn memories(&self, g: &mut Graph, rows: usize) -> Vec<Tensor> {
        self.states(g, self.config.memories_of_texts(rows))
    }

    fn states(&self, g: &mut Graph, named: Vec<(String, Vec<usize>)>) -> Vec<Tensor> {
        let state =
            |(name, dims): (String, Vec<usize>)| g.state_of(self.network, &format!("{}{name}", self.prefix), &dims);
        named.into_iter().map(state).collect()
    }

    /// Hidden states (B, T, C) of segments, ids (B, T), that follow those of the micro-batch `slots` before, whose memory they see and
    /// make their own.
    pub fn segment(&self, g: &mut Graph, ids: Tensor, slots: usize) -> Tensor {
        self.config.family().hidden(self, g, ids, CacheMode::Segments { slots })
    }
}

impl Family for TransfoXl {
    /// Hidden states (B, T, C) after the last block.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, width: c, layers, .. } = *m.config;
        let Recurrence { memory, clamp, .. } = recurrence(m.config);
        let Shape { dims, .. } = g.shape(ids).clone();
        let kept = match cache {
            CacheMode::Off => vec![],
            CacheMode::Segments { slots } => m.states(g, m.config.memories(slots * dims[0], m.training)),
            CacheMode::Prefill { rows } | CacheMode::Decode { rows, .. } => m.memories(g, rows),
            _ => panic!("a Transformer-XL passes texts in segments, one in a row"),
        };
        g.scope("word_emb");
        g.depth(Depth::Embedding);
        let table = m.table(g, self.embedding(), &[v, c]);
        let x = m.embedding(g, ids, table, None, cache); // (B, T, C)
        let x = g.apply(Scale { factor: (c as f32).sqrt() }, &[x]);
        let mut x = m.drop_embedding(g, x);
        let positions = g.apply(Sinusoids { distances: memory + dims[1], width: c, clamp }, &[]); // (M + T, C)
        let positions = m.drop_positions(g, positions);
        // Without segments before, as transformers has it.
        let nothing = (matches!(cache, CacheMode::Off) && memory > 0).then(|| Shape::f32(&[dims[0], memory, c]));
        let nothing = nothing.map(|shape| g.apply(Zeros { shape }, &[]));
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            g.scope(format!("memory of layer {layer}"));
            // Outside of what is computed again in the backward pass, when the memory is another already.
            let memory = kept.get(layer).copied();
            let all = memory.or(nothing).map_or(x, |memory| g.apply(Recall, &[memory, x])); // (B, M + T, C)
            let before = x;
            x = g.region(|g| block(m, g, before, all, positions, layer));
            if let Some(memory) = memory {
                g.apply(Remember, &[memory, all]);
            }
        }
        g.depth(Depth::Top);
        m.drop_top(g, x)
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["transfo-xl"]
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
    }

    fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let is_bias = name.ends_with(".r_w_bias") || name.ends_with(".r_r_bias");
        is_bias.then(|| vec![(name.to_string(), vec![config.heads, config.head_size])])
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["o_net"]
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn embedding(&self) -> &'static str {
        "word_emb.emb_layers.0.weight"
    }

    fn output(&self) -> &'static str {
        "crit.out_layers.0.weight"
    }

    fn output_bias(&self) -> Option<&'static str> {
        Some("crit.out_layers.0.bias")
    }

    fn is_prefixed(&self, name: &str) -> bool {
        !name.starts_with("crit.") && name != super::config::SCORE
    }

    fn is_buffer(&self, name: &str) -> bool {
        name == "pos_emb.inv_freq"
    }
}

fn recurrence(config: &Config) -> Recurrence {
    config.recurrence.expect("a Transformer-XL has a memory")
}

/// norm(x + attention(x, all)), then norm(x + mlp(x)). The norms are the residual stream, so that they stay f32.
fn block(m: &Model, g: &mut Graph, x: Tensor, all: Tensor, positions: Tensor, layer: usize) -> Tensor {
    let Config { width: c, inner, heads, head_size, .. } = *m.config;
    let h = |name: &str| format!("layers.{layer}.{name}");

    g.scope(h("dec_attn"));
    let y = attention(m, g, x, all, positions, layer); // (B, T, NH * HS)
    let y = m.projection(g, y, &h("dec_attn.o_net"), (heads * head_size, c), Stored::OutIn, false);
    let sum = m.add_residual(g, x, y, layer, 0);
    let x = m.norm_to(g, sum, &h("dec_attn.layer_norm"), Dtype::F32);

    g.scope(h("pos_ff"));
    let y = m.linear(g, x, &h("pos_ff.CoreNet.0"), (c, inner), Stored::OutIn, true);
    let y = g.apply(Relu, &[y]); // (B, T, inner)
    let y = m.drop_inner(g, y, layer);
    let y = m.projection(g, y, &h("pos_ff.CoreNet.3"), (inner, c), Stored::OutIn, true);
    let sum = m.add_residual(g, x, y, layer, 1);
    m.norm_to(g, sum, &h("pos_ff.layer_norm"), Dtype::F32)
}

/// Attention (B, T, NH * HS) of a segment x (B, T, C) to itself and the memory before it, all (B, M + T, C).
fn attention(m: &Model, g: &mut Graph, x: Tensor, all: Tensor, positions: Tensor, layer: usize) -> Tensor {
    let Config { width: c, heads, head_size, .. } = *m.config;
    let name = |part: &str| format!("layers.{layer}.dec_attn.{part}");
    let inner = heads * head_size;
    // One matrix in files: rows for queries, keys and values.
    let qkv = m.table(g, &name("qkv_net.weight"), &[3 * inner, c]);
    let [u, v] = ["r_w_bias", "r_r_bias"].map(|bias| m.table(g, &name(bias), &[inner]));
    let rows = |g: &mut Graph, first: usize, count: usize| {
        g.apply(Rows { first: first * inner, count: count * inner }, &[qkv])
    };
    let (q, kv) = (rows(g, 0, 1), rows(g, 1, 2));
    let product = |g: &mut Graph, x: Tensor, weight: Tensor, bias: Option<Tensor>| {
        let linear = Linear { weight, bias, tb: true, quantisation: None, adapter: None };
        m.product(g, x, linear, None, Matmul { output: m.activation(), ..Matmul::default() })
    };
    let (content, place) = (product(g, x, q, Some(u)), product(g, x, q, Some(v))); // (B, T, NH * HS), both
    let kv = product(g, all, kv, None); // (B, M + T, k | v)
    let r = m.linear(g, positions, &name("r_net"), (c, inner), Stored::OutIn, false); // (M + T, NH * HS)
    let (place, r) = (cast(g, place, Dtype::F32), cast(g, r, Dtype::F32));
    let factor = 1.0 / (head_size as f32).sqrt();
    let bias = g.apply(HeadProduct { heads, ta: false, tb: true, factor }, &[place, r]); // (B, T, NH * (M + T))
    let mask = Mask::Causal { window: recurrence(m.config).window() };
    let (dropout, salt) = m.attention_dropout(layer);
    let op =
        Attention { heads, kv_heads: heads, apart: true, mask, bias: true, by_query: true, ..Attention::default() };
    g.apply(Attention { dropout, salt, ..op }, &[content, kv, bias])
}

/// A Transformer-XL of these sizes, that sees `memory` positions before its segments of `context`.
fn new(vocab_size: usize, context: usize, memory: usize, layers: usize, heads: usize, width: usize) -> Config {
    Config {
        family: NAME,
        feed_forward: FeedForward::Relu,
        attention_bias: (false, false),
        scaled_residual: false,
        recurrence: Some(Recurrence { memory, clamp: 0, same_length: false }),
        ..Config::new(vocab_size, context, layers, heads, width)
    }
}

/// As large as the demo.
pub(super) fn mini() -> Config {
    new(256, 64, 64, 4, 8, 64)
}

/// The paper's large model for WikiText-103, with one table for all words in place of its adaptive softmax.
pub(super) fn wt103() -> Config {
    let recurrence = Recurrence { memory: 384, clamp: 1000, same_length: false };
    Config { recurrence: Some(recurrence), dropout: Dropout::of(0.2), ..new(267_735, 384, 384, 18, 16, 1024) }
}
