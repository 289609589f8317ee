//! GPT-2: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), section 2.3.
//!
//! A decoder of `layers` blocks with layernorm **before** attention and MLP and one more at the end; learned positions; the
//! token embedding is the output projection as well, unless the model has one of its own. Tensors carry the names and
//! layouts of Hugging Face checkpoints.

use super::config::{Activation, Gpt2Config, HEAD};
use crate::graph::{Graph, Shape, Tensor};
use crate::ops::add::Add;
use crate::ops::attention::Attention;
use crate::ops::attention_cached::AttentionCached;
use crate::ops::cache_append::CacheAppend;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::gelu::Form;
use crate::ops::layernorm::LayerNorm;
use crate::ops::matmul::Matmul;
use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64;

/// What attention sees beside the positions that are fed.
#[derive(Clone, Copy)]
enum Past {
    /// Nothing: sequences are whole.
    None,
    /// Nothing yet: sequences are whole, and their keys and values go to a cache of this many rows.
    Kept { rows: usize },
    /// A cache of this many rows, to which the one new position of each row is added.
    Cached { rows: usize },
}

/// Builds a model's graph. Dropout is on only while training.
pub struct Gpt2<'a> {
    pub config: &'a Gpt2Config,
    pub training: bool,
}

impl Gpt2<'_> {
    /// Mean cross-entropy, in nats per token, of inputs `ids` (B, T) against `targets` (B, T).
    pub fn loss(&self, g: &mut Graph, batch: usize, context: usize) -> Tensor {
        let ids = g.input("ids", Shape::u32(&[batch, context]));
        let targets = g.input("targets", Shape::u32(&[batch, context]));
        let logits = self.logits(g, ids);
        g.scope("loss");
        g.apply(CrossEntropy, &[logits, targets])
    }

    /// Logits (B, T, V) of token ids (B, T).
    pub fn logits(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let x = self.hidden(g, ids, Past::None);
        self.head(g, x)
    }

    /// Stores the keys and values of token ids (1, T), positions from 0 on, in row `Step::row` of a cache of `rows` rows.
    pub fn prefill(&self, g: &mut Graph, ids: Tensor, rows: usize) {
        self.hidden(g, ids, Past::Kept { rows });
    }

    /// Logits (B, 1, V) after one more token of each row, ids (B, 1), at position `Step::position` of a cache of B rows.
    pub fn decode(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let rows = g.shape(ids).rows();
        let x = self.hidden(g, ids, Past::Cached { rows });
        self.head(g, x)
    }

    /// The caches of all layers, each (rows, 2, NH, T, HS): keys, then values.
    pub fn caches(&self, g: &mut Graph, rows: usize) -> Vec<Tensor> {
        (0..self.config.layers).map(|layer| self.cache(g, layer, rows)).collect()
    }

    /// The output projection x W^T, where W is the token embedding unless the model has a head of its own.
    fn head(&self, g: &mut Graph, x: Tensor) -> Tensor {
        g.scope("lm_head");
        let name = if self.config.tied { "wte.weight" } else { HEAD };
        let weight = g.state(name, &[self.config.vocab_size, self.config.width]);
        g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, weight])
    }

    /// Hidden states (B, T, C) after the last layernorm.
    fn hidden(&self, g: &mut Graph, ids: Tensor, past: Past) -> Tensor {
        let Gpt2Config { vocab_size: v, context, width: c, layers, dropout, .. } = *self.config;
        g.scope("embedding");
        let wte = g.state("wte.weight", &[v, c]);
        let wpe = g.state("wpe.weight", &[context, c]);
        let mut x = g.apply(Embedding, &[ids, wte, wpe]); // (B, T, C)
        x = self.dropout(g, x, dropout.embedding, 0);
        for layer in 0..layers {
            x = self.block(g, x, layer, past);
        }
        g.scope("ln_f");
        self.layernorm(g, x, "ln_f")
    }

    /// x + attention(layernorm(x)), then x + mlp(layernorm(x)).
    fn block(&self, g: &mut Graph, x: Tensor, layer: usize, past: Past) -> Tensor {
        let Gpt2Config { width: c, inner, dropout, .. } = *self.config;
        let salt = 3 * layer as u32;
        let h = |name: &str| format!("h.{layer}.{name}");

        g.scope(h("attn"));
        let n = self.layernorm(g, x, &h("ln_1"));
        let qkv = self.linear(g, n, &h("attn.c_attn"), c, 3 * c, None); // (B, T, 3C)
        let y = self.attention(g, qkv, layer, past); // (B, T, C)
        let y = self.linear(g, y, &h("attn.c_proj"), c, c, None);
        let y = self.dropout(g, y, dropout.residual, salt + 2);
        let x = g.apply(Add, &[x, y]);

        g.scope(h("mlp"));
        let n = self.layernorm(g, x, &h("ln_2"));
        let y = self.linear(g, n, &h("mlp.c_fc"), c, inner, Some(self.gelu())); // (B, T, inner)
        let y = self.linear(g, y, &h("mlp.c_proj"), inner, c, None);
        let y = self.dropout(g, y, dropout.residual, salt + 3);
        g.apply(Add, &[x, y])
    }

    /// Of whole sequences, or of one new position to the cache.
    fn attention(&self, g: &mut Graph, qkv: Tensor, layer: usize, past: Past) -> Tensor {
        let Gpt2Config { heads, dropout, .. } = *self.config;
        if let Past::Kept { rows } | Past::Cached { rows } = past {
            let cache = self.cache(g, layer, rows);
            let cache = g.apply(CacheAppend, &[qkv, cache]);
            if let Past::Cached { .. } = past {
                return g.apply(AttentionCached { window: None }, &[qkv, cache]);
            }
        }
        let p = if self.training { dropout.attention } else { 0.0 };
        g.apply(Attention { heads, kv_heads: heads, window: None, dropout: p, salt: 3 * layer as u32 + 1 }, &[qkv])
    }

    fn cache(&self, g: &mut Graph, layer: usize, rows: usize) -> Tensor {
        let Gpt2Config { context, heads, .. } = *self.config;
        g.state(&format!("cache.{rows}.h.{layer}"), &[rows, 2, heads, context, self.config.head_size()])
    }

    fn layernorm(&self, g: &mut Graph, x: Tensor, name: &str) -> Tensor {
        let c = self.config.width;
        let weight = g.state(&format!("{name}.weight"), &[c]);
        let bias = g.state(&format!("{name}.bias"), &[c]);
        g.apply(LayerNorm { eps: self.config.layer_norm_epsilon }, &[x, weight, bias])
    }

    fn linear(&self, g: &mut Graph, x: Tensor, name: &str, from: usize, to: usize, gelu: Option<Form>) -> Tensor {
        let weight = g.state(&format!("{name}.weight"), &[from, to]);
        let bias = g.state(&format!("{name}.bias"), &[to]);
        g.apply(Matmul { bias: true, gelu, ..Matmul::default() }, &[x, weight, bias])
    }

    fn dropout(&self, g: &mut Graph, x: Tensor, p: f32, salt: u32) -> Tensor {
        if self.training && p > 0.0 { g.apply(Dropout { p, salt }, &[x]) } else { x }
    }

    fn gelu(&self) -> Form {
        match self.config.activation {
            Activation::GeluTanh => Form::Tanh,
            Activation::GeluErf => Form::Erf,
        }
    }
}

/// GPT-2's initial values of one parameter: normal with standard deviation `std` (0.02 in GPT-2), the projections onto the
/// residual stream scaled by 1 / sqrt(2 * layers), biases 0, layernorm weights 1. Each tensor has a stream of its own under
/// `seed`.
pub fn initial_values(config: &Gpt2Config, name: &str, len: usize, std: f32, seed: u64) -> Vec<f32> {
    if name.ends_with(".bias") {
        return vec![0.0; len];
    }
    if name.contains("ln_") {
        return vec![1.0; len];
    }
    let scale = if name.ends_with("c_proj.weight") { 1.0 / (2.0 * config.layers as f64).sqrt() } else { 1.0 };
    let normal = Normal::new(0.0, f64::from(std) * scale).expect("a finite standard deviation");
    // FNV-1a of the name picks the stream.
    let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Pcg64::seed_from_u64(seed ^ stream);
    (0..len).map(|_| normal.sample(&mut rng) as f32).collect()
}
