//! The blocks that families are made of: norms, projections, attention, residuals.

use super::config::{Config, Norm, Position};
use super::linear::Branch;
use crate::graph::{Dtype, Graph, Initial, NetworkId, Tensor};
use crate::ops::add::Add;
use crate::ops::attention::{Attention, Mask};
use crate::ops::attention_cached::AttentionCached;
use crate::ops::cache_append::CacheAppend;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::layernorm::LayerNorm;
use crate::ops::matmul::Matmul;
use crate::ops::rmsnorm::RmsNorm;
use crate::ops::rope::{Rope, RopeTable};
use std::cell::{Cell, RefCell};

/// What the rows of a forward pass are, and whether their keys and values are cached.
#[derive(Clone, Copy)]
pub enum CacheMode {
    /// No cache: sequences are whole.
    Off,
    /// Sequences are whole, and their keys and values fill a cache of this many rows.
    Prefill { rows: usize },
    /// No cache: a row is several documents, one after another. The position of each token in its document and the first token of
    /// that document in its row, (B, T) u32 both: attention stays within documents.
    Documents { positions: Tensor, starts: Tensor },
    /// No cache: a row is a text, or a pair of texts, of an encoder. The type of each token, (B, T) u32, where there are several texts;
    /// and the tokens of each row, (B) u32, where rows are padded at their ends.
    Encoded { types: Option<Tensor>, lengths: Option<Tensor> },
    /// No cache of keys: a row is a segment of a text. The segment before it was `slots` micro-batches ago, and its hidden states are kept.
    Segments { slots: usize },
    /// One new position of each row, (rows) u32, is appended to a cache of this many rows, and attends to it.
    Decode { rows: usize, positions: Tensor },
}

impl CacheMode {
    /// A position for each row, where they differ.
    pub fn positions(self) -> Option<Tensor> {
        match self {
            CacheMode::Decode { positions, .. } => Some(positions),
            _ => None,
        }
    }
}

/// How a training graph computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Compute {
    /// f16 activations and copies of the weights (Micikevicius et al. 2018, "Mixed Precision Training"): parameters, sums, the
    /// residual stream and losses stay f32, and so do experts and their routers.
    pub mixed: bool,
    /// Blocks are computed again in the backward pass.
    pub recompute: bool,
    /// About as many positions have logits at a time; all of them if `None`.
    pub classifier_rows: Option<usize>,
}

/// Builds one network's part of a graph. Dropout is on only while training.
pub struct Model<'a> {
    pub config: &'a Config,
    /// Stands before the names of all its states.
    pub prefix: &'a str,
    pub network: NetworkId,
    pub training: bool,
    pub compute: Compute,
    /// The routers' outputs of the layers with experts, in the order of the layers.
    pub routed: RefCell<Vec<Routed>>,
    /// Names of the matrices of linear layers, in the order of their use.
    pub matrices: RefCell<Vec<String>>,
    /// Products with adapters so far.
    pub adapters: Cell<u32>,
}

/// The outputs of a layer's router.
#[derive(Clone, Copy)]
pub struct Routed {
    /// (B, T, E)
    pub logits: Tensor,
    /// Where each expert's group of choices begins, (E + 1) u32.
    pub offsets: Tensor,
}

impl Model<'_> {
    /// A parameter of this network.
    #[track_caller]
    pub fn parameter(&self, g: &mut Graph, name: &str, dims: &[usize], initial: Initial) -> Tensor {
        g.parameter(self.network, &format!("{}{name}", self.prefix), dims, initial)
    }

    /// A matrix, a table or a vector with normal initial values.
    #[track_caller]
    pub fn table(&self, g: &mut Graph, name: &str, dims: &[usize]) -> Tensor {
        self.parameter(g, name, dims, Initial::Normal { std: f64::from(self.config.initializer_range) })
    }

    /// The type of activations.
    pub(super) fn activation(&self) -> Dtype {
        if self.compute.mixed { Dtype::F16 } else { Dtype::F32 }
    }

    /// Attention (B, T, NH * HS) of whole sequences, or of one new position to the cache; qkv (B, T, q | k | v).
    pub(super) fn attention(&self, g: &mut Graph, qkv: Tensor, layer: usize, cache: CacheMode) -> Tensor {
        let Config { heads, kv_heads, attention_scale: scale, .. } = *self.config;
        let window = self.config.window.filter(|_| !self.config.full_layers.contains(&layer));
        if let CacheMode::Prefill { rows } | CacheMode::Decode { rows, .. } = cache {
            assert!(!self.compute.mixed, "caches and decoding are f32");
            let kept = self.cache(g, layer, rows);
            let inputs = [qkv, kept].into_iter().chain(cache.positions()).collect::<Vec<_>>();
            let kept = g.apply(CacheAppend, &inputs);
            if let CacheMode::Decode { positions, .. } = cache {
                return g
                    .apply(AttentionCached { window, scale, ..AttentionCached::default() }, &[qkv, kept, positions]);
            }
        }
        let (mask, words) = match cache {
            CacheMode::Encoded { lengths: Some(lengths), .. } => (Mask::Lengths, Some(lengths)),
            _ if self.config.encoder.is_some() => (Mask::Full, None),
            CacheMode::Documents { starts, .. } => (Mask::Documents { window }, Some(starts)),
            _ => (Mask::Causal { window }, None),
        };
        let inputs = [qkv].into_iter().chain(words).collect::<Vec<_>>();
        let (dropout, salt) = self.attention_dropout(layer);
        g.apply(Attention { heads, kv_heads, mask, scale, dropout, salt, ..Attention::default() }, &inputs)
    }

    /// The keys and values that a layer keeps of `rows` texts, (rows, 2, KVH, T, HS).
    pub(super) fn cache(&self, g: &mut Graph, layer: usize, rows: usize) -> Tensor {
        self.cache_named(g, &format!("h.{layer}"), rows)
    }

    /// A cache of keys and values of `rows` texts under a name, as [`Model::cache`].
    pub(super) fn cache_named(&self, g: &mut Graph, name: &str, rows: usize) -> Tensor {
        let Config { context, kv_heads, head_size, .. } = *self.config;
        let name = format!("{}cache.{rows}.{name}", self.prefix);
        g.state_of(self.network, &name, &[rows, 2, kv_heads, context, head_size])
    }

    /// The sum of the embeddings of tokens, ids (B, T) of `table`, and of learned positions, where `wpe` is their table.
    pub(super) fn embedding(
        &self,
        g: &mut Graph,
        ids: Tensor,
        table: Tensor,
        wpe: Option<Tensor>,
        cache: CacheMode,
    ) -> Tensor {
        if let (CacheMode::Documents { positions, .. }, Some(wpe)) = (cache, wpe) {
            let tokens = g.apply(Embedding, &[ids, table]);
            let positions = g.apply(Embedding, &[positions, wpe]);
            return g.apply(Add, &[tokens, positions]);
        }
        let positions = cache.positions().filter(|_| wpe.is_some());
        let inputs = [ids, table].into_iter().chain(wpe).chain(positions).collect::<Vec<_>>();
        g.apply(Embedding, &inputs) // (B, T, C)
    }

    /// The angles of rotary positions of ids (B, T), the same in all layers: (T, HS) from `Step::position` on, or (B, HS) with
    /// T = 1 where each row has a position of its own, or (B * T, HS) where each token has. Nothing where positions are learned.
    pub(super) fn angles(&self, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Option<Tensor> {
        let Position::Rope { base, scaling } = self.config.position else { return None };
        let positions = match cache {
            CacheMode::Documents { positions, .. } => Some(positions),
            _ => cache.positions(),
        };
        let time = positions.map_or(g.shape(ids).columns(), |positions| g.shape(positions).len());
        let table = RopeTable { time, head_size: self.config.head_size, base, scaling };
        Some(g.apply(table, positions.as_slice()))
    }

    /// Turns the heads of q and k.
    pub(super) fn turned(&self, g: &mut Graph, qkv: Tensor, angles: Tensor) -> Tensor {
        g.apply(Rope { heads: self.config.heads + self.config.kv_heads, inverse: false }, &[qkv, angles])
    }

    /// The norm named `name` of whole rows, for products to take.
    pub(super) fn norm(&self, g: &mut Graph, x: Tensor, name: &str) -> Tensor {
        self.norm_to(g, x, name, self.activation())
    }

    /// As [`Model::norm`], of a type of its own.
    pub(super) fn norm_to(&self, g: &mut Graph, x: Tensor, name: &str, output: Dtype) -> Tensor {
        let (c, eps) = (self.config.width, self.config.norm_epsilon);
        let weight = self.parameter(g, &format!("{name}.weight"), &[c], Initial::Ones);
        match self.config.norm {
            Norm::RmsNorm => g.apply(RmsNorm { eps, groups: None, output }, &[x, weight]),
            Norm::LayerNorm => {
                let bias = self.parameter(g, &format!("{name}.bias"), &[c], Initial::Zeros);
                g.apply(LayerNorm { eps, output }, &[x, weight, bias])
            }
        }
    }

    /// The residual stream `x` plus the output of attention (`part` 0) or of the feed-forward part (1) of a layer, of which
    /// elements are dropped in training. Without dropout the projection's kernel adds.
    pub(super) fn add_residual(
        &self,
        g: &mut Graph,
        x: Tensor,
        branch: impl Into<Branch>,
        layer: usize,
        part: u32,
    ) -> Tensor {
        let (p, salt) = (self.config.dropout.residual, salt(layer) + 1 + part);
        let y = match branch.into() {
            Branch::Made(y) => y,
            Branch::Projection { x: y, linear } if self.training && p > 0.0 => {
                self.product(g, y, linear, None, Matmul::default())
            }
            Branch::Projection { x: y, linear } => return self.product(g, y, linear, Some(x), Matmul::default()),
        };
        let y = self.dropout(g, y, p, salt);
        g.apply(Add, &[x, y])
    }

    /// Normal initial values, whose standard deviation is the model's times `scale`.
    pub(super) fn std(&self, scale: f64) -> Initial {
        Initial::Normal { std: self.deviation(scale) }
    }

    pub(super) fn deviation(&self, scale: f64) -> f64 {
        f64::from(self.config.initializer_range) * scale
    }

    /// Drops elements of the embedding.
    pub(super) fn drop_embedding(&self, g: &mut Graph, x: Tensor) -> Tensor {
        self.dropout(g, x, self.config.dropout.embedding, 0)
    }

    /// Drops elements inside a feed-forward part.
    pub(super) fn drop_inner(&self, g: &mut Graph, x: Tensor, layer: usize) -> Tensor {
        self.dropout(g, x, self.config.dropout.residual, salt(layer) | INNER)
    }

    /// Drops elements of the last hidden states.
    pub(super) fn drop_top(&self, g: &mut Graph, x: Tensor) -> Tensor {
        self.dropout(g, x, self.config.dropout.embedding, TOP)
    }

    /// Drops elements of a table of positions.
    pub(super) fn drop_positions(&self, g: &mut Graph, x: Tensor) -> Tensor {
        self.dropout(g, x, self.config.dropout.embedding, POSITIONS)
    }

    /// The probability of dropping one of a layer's attention weights, and the stream of its random numbers.
    pub(super) fn attention_dropout(&self, layer: usize) -> (f32, u32) {
        (if self.training { self.config.dropout.attention } else { 0.0 }, salt(layer))
    }

    fn dropout(&self, g: &mut Graph, x: Tensor, p: f32, salt: u32) -> Tensor {
        if self.training && p > 0.0 { g.apply(Dropout { p, salt }, &[x]) } else { x }
    }

    /// Factor of the standard deviation of projections onto the residual stream.
    pub(super) fn residual_scale(&self) -> f64 {
        if self.config.scaled_residual { 1.0 / (2.0 * self.config.layers as f64).sqrt() } else { 1.0 }
    }
}

/// Streams of dropout inside feed-forward parts, of the last hidden states, and of positions, beyond those of adapters, which begin at
/// 2^16.
const INNER: u32 = 1 << 17;
const TOP: u32 = 1 << 18;
const POSITIONS: u32 = 1 << 19;

/// The first of a layer's three streams of dropout: attention, and two residuals. Stream 0 is the embedding's.
fn salt(layer: usize) -> u32 {
    3 * layer as u32 + 1
}
