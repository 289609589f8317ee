//! A model's graphs, whatever its family, and the pieces that families are made of.

use super::config::{Config, HEAD, Norm, Position};
use super::experts::Routed;
use crate::graph::{Dtype, Graph, Shape, Tensor};
use crate::ops::add::Add;
use crate::ops::attention::Attention;
use crate::ops::attention_cached::AttentionCached;
use crate::ops::cache_append::CacheAppend;
use crate::ops::cast::cast;
use crate::ops::chunked_classifier::{ChunkedClassifier, ChunkedCrossEntropy};
use crate::ops::classifier::Classifier;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::dropout::Dropout;
use crate::ops::gelu::Form;
use crate::ops::layernorm::LayerNorm;
use crate::ops::matmul::Matmul;
use crate::ops::rmsnorm::RmsNorm;
use crate::ops::rope::{Rope, RopeTable};
use crate::ops::router_losses::RouterLosses;

/// What attention sees beside the positions that are fed.
#[derive(Clone, Copy)]
pub enum Past {
    /// Nothing: sequences are whole.
    None,
    /// Nothing yet: sequences are whole, and their keys and values go to a cache of this many rows.
    Kept { rows: usize },
    /// A cache of this many rows, to which the one new position of each row is added.
    Cached { rows: usize },
}

/// Builds a model's graph. Dropout is on only while training.
///
/// In mixed precision (Micikevicius et al. 2018, "Mixed Precision Training") activations, what matrices are multiplied by and the
/// copies of the weights they are multiplied with are f16. Parameters, sums, the residual stream and losses stay f32, and so do
/// experts and their routers.
pub struct Model<'a> {
    pub config: &'a Config,
    pub training: bool,
    pub mixed: bool,
}

/// What training makes small, and what it says about it.
pub struct Objective {
    /// One number: the loss, and what keeps routers in order.
    pub minimised: Tensor,
    /// The loss alone, in nats per token.
    pub reported: Tensor,
    /// Where each expert's group begins, (E + 1) u32, in every layer that has experts.
    pub groups: Vec<Tensor>,
}

impl From<Tensor> for Objective {
    fn from(loss: Tensor) -> Objective {
        Objective { minimised: loss, reported: loss, groups: vec![] }
    }
}

/// Whether a weight is stored as its transpose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// (inputs, outputs)
    InOut,
    /// (outputs, inputs)
    OutIn,
}

/// What a part of a block adds to the residual stream.
pub(super) enum Branch {
    /// x W, or x W + b, which is not made yet.
    Projection {
        x: Tensor,
        weights: Weights,
        tb: bool,
    },
    Made(Tensor),
}

impl From<Tensor> for Branch {
    fn from(made: Tensor) -> Branch {
        Branch::Made(made)
    }
}

impl Model<'_> {
    /// Mean cross-entropy, in nats per token, of inputs `ids` (B, T) against `targets` (B, T).
    pub fn loss(&self, g: &mut Graph, batch: usize, context: usize) -> Tensor {
        self.chunked_loss(g, batch, context, None)
    }

    /// As [`Model::loss`], with logits of no more than about `rows` positions at a time.
    pub fn chunked_loss(&self, g: &mut Graph, batch: usize, context: usize, rows: Option<usize>) -> Tensor {
        self.routed_loss(g, batch, context, rows).0
    }

    /// As [`Model::loss`], with the losses of the model's routers where it has some.
    pub fn objective(&self, g: &mut Graph, batch: usize, context: usize) -> Objective {
        self.chunked_objective(g, batch, context, None)
    }

    /// As [`Model::objective`], with logits of no more than about `rows` positions at a time.
    pub fn chunked_objective(&self, g: &mut Graph, batch: usize, context: usize, rows: Option<usize>) -> Objective {
        let (loss, routed) = self.routed_loss(g, batch, context, rows);
        let Some(experts) = self.config.experts() else { return loss.into() };
        // The mean over layers. Mixtral in transformers counts all layers together instead, which lets the imbalance of one
        // make up for that of another.
        let share = 1.0 / routed.len() as f32;
        let mut minimised = loss;
        for (layer, r) in routed.iter().enumerate() {
            g.scope(format!("router of layer {layer}"));
            let losses = RouterLosses { balance: experts.balance * share, z: experts.z * share };
            let losses = g.apply(losses, &[r.logits, r.offsets]);
            minimised = g.apply(Add, &[minimised, losses]);
        }
        Objective { minimised, reported: loss, groups: routed.iter().map(|r| r.offsets).collect() }
    }

    fn routed_loss(&self, g: &mut Graph, batch: usize, context: usize, rows: Option<usize>) -> (Tensor, Vec<Routed>) {
        let ids = g.input("ids", Shape::u32(&[batch, context]));
        let targets = g.input("targets", Shape::u32(&[batch, context]));
        let mut routed = vec![];
        let x = self.config.family.hidden(self, g, ids, Past::None, &mut routed);
        let loss = match rows {
            Some(rows) if rows < batch * context => {
                let weight = self.head_weight(g);
                let (x, weight) = (cast(g, x, self.activation()), cast(g, weight, self.activation()));
                chunked_loss(g, x, weight, targets, rows)
            }
            _ => {
                let logits = self.head(g, x);
                token_loss(g, logits, targets)
            }
        };
        (loss, routed)
    }

    /// Logits (B, T, V) of token ids (B, T).
    pub fn logits(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let x = self.hidden(g, ids);
        self.head(g, x)
    }

    /// Hidden states (B, T, C) of token ids (B, T), as the output projection takes them.
    pub fn hidden(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        self.config.family.hidden(self, g, ids, Past::None, &mut vec![])
    }

    /// Stores the keys and values of token ids (1, T), positions from 0 on, in row `Step::row` of a cache of `rows` rows.
    pub fn prefill(&self, g: &mut Graph, ids: Tensor, rows: usize) {
        self.config.family.hidden(self, g, ids, Past::Kept { rows }, &mut vec![]);
    }

    /// Logits (B, 1, V) after one more token of each row, ids (B, 1), at position `Step::position` of a cache of B rows.
    pub fn decode(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let rows = g.shape(ids).rows();
        let x = self.config.family.hidden(self, g, ids, Past::Cached { rows }, &mut vec![]);
        self.head(g, x)
    }

    /// The caches of all layers, each (rows, 2, KVH, T, HS): keys, then values.
    pub fn caches(&self, g: &mut Graph, rows: usize) -> Vec<Tensor> {
        (0..self.config.layers).map(|layer| self.cache(g, layer, rows)).collect()
    }

    /// The output projection x W^T, where W is the token embedding unless the model has a head of its own.
    pub fn head(&self, g: &mut Graph, x: Tensor) -> Tensor {
        g.scope("lm_head");
        let weight = self.head_weight(g);
        self.product(g, x, (weight, None), None, Matmul { tb: true, output: self.activation(), ..Matmul::default() })
    }

    /// The type of activations.
    fn activation(&self) -> Dtype {
        if self.mixed { Dtype::F16 } else { Dtype::F32 }
    }

    /// A product of x and a weight, both as the type of activations.
    fn product(&self, g: &mut Graph, x: Tensor, (weight, bias): Weights, added: Option<Tensor>, op: Matmul) -> Tensor {
        let mut inputs = vec![cast(g, x, self.activation()), cast(g, weight, self.activation())];
        let op = Matmul { bias: bias.is_some(), residual: added.is_some(), ..op };
        inputs.extend(bias.into_iter().chain(added));
        g.apply(op, &inputs)
    }

    fn head_weight(&self, g: &mut Graph) -> Tensor {
        let name = if self.config.tied { self.config.family.embedding() } else { HEAD };
        g.state(name, &[self.config.vocab_size, self.config.width])
    }

    /// Attention (B, T, NH * HS) of whole sequences, or of one new position to the cache; qkv (B, T, q | k | v).
    pub(super) fn attention(&self, g: &mut Graph, qkv: Tensor, layer: usize, past: Past) -> Tensor {
        let Config { heads, kv_heads, window, dropout, .. } = *self.config;
        if let Past::Kept { rows } | Past::Cached { rows } = past {
            assert!(!self.mixed, "caches are f32, and so is what is generated");
            let cache = self.cache(g, layer, rows);
            let cache = g.apply(CacheAppend, &[qkv, cache]);
            if let Past::Cached { .. } = past {
                return g.apply(AttentionCached { window }, &[qkv, cache]);
            }
        }
        let dropout = if self.training { dropout.attention } else { 0.0 };
        g.apply(Attention { heads, kv_heads, window, dropout, salt: salt(layer) }, &[qkv])
    }

    fn cache(&self, g: &mut Graph, layer: usize, rows: usize) -> Tensor {
        let Config { context, kv_heads, head_size, .. } = *self.config;
        g.state(&format!("cache.{rows}.h.{layer}"), &[rows, 2, kv_heads, context, head_size])
    }

    /// The angles of rotary positions for `time` positions from `Step::position` on, the same in all layers; nothing where
    /// positions are learned.
    pub(super) fn angles(&self, g: &mut Graph, time: usize) -> Option<Tensor> {
        let Position::Rope { base, scaling } = self.config.position else { return None };
        Some(g.apply(RopeTable { time, head_size: self.config.head_size, base, scaling }, &[]))
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
        let weight = g.state(&format!("{name}.weight"), &[c]);
        match self.config.norm {
            Norm::RmsNorm => g.apply(RmsNorm { eps, groups: None, output }, &[x, weight]),
            Norm::LayerNorm => {
                let bias = g.state(&format!("{name}.bias"), &[c]);
                g.apply(LayerNorm { eps, output }, &[x, weight, bias])
            }
        }
    }

    /// x W, or x W + b; `sizes` are its inputs and outputs.
    pub(super) fn linear(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        bias: bool,
    ) -> Tensor {
        let weights = weights(g, name, sizes, stored, bias);
        let tb = stored == Stored::OutIn;
        self.product(g, x, weights, None, Matmul { tb, output: self.activation(), ..Matmul::default() })
    }

    /// As [`Model::linear`], for what [`Model::add_residual`] adds to the residual stream, which is f32.
    pub(super) fn projection(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        stored: Stored,
        bias: bool,
    ) -> Branch {
        Branch::Projection { x, weights: weights(g, name, sizes, stored, bias), tb: stored == Stored::OutIn }
    }

    /// The residual stream `x` and what attention (`part` 0) or the feed-forward part (1) of a layer adds to it, of which
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
            Branch::Projection { x: y, weights, tb } if self.training && p > 0.0 => {
                self.product(g, y, weights, None, Matmul { tb, ..Matmul::default() })
            }
            Branch::Projection { x: y, weights, tb } => {
                return self.product(g, y, weights, Some(x), Matmul { tb, ..Matmul::default() });
            }
        };
        let y = self.dropout(g, y, p, salt);
        g.apply(Add, &[x, y])
    }

    /// gelu(x W + b), W (inputs, outputs).
    pub(super) fn linear_gelu(
        &self,
        g: &mut Graph,
        x: Tensor,
        name: &str,
        sizes: (usize, usize),
        form: Form,
    ) -> Tensor {
        let weights = weights(g, name, sizes, Stored::InOut, true);
        let op = Matmul { gelu: Some(form), output: self.activation(), ..Matmul::default() };
        self.product(g, x, weights, None, op)
    }

    /// Drops elements of the embedding.
    pub(super) fn drop_embedding(&self, g: &mut Graph, x: Tensor) -> Tensor {
        self.dropout(g, x, self.config.dropout.embedding, 0)
    }

    fn dropout(&self, g: &mut Graph, x: Tensor, p: f32, salt: u32) -> Tensor {
        if self.training && p > 0.0 { g.apply(Dropout { p, salt }, &[x]) } else { x }
    }
}

/// Mean cross-entropy of logits, with their gradient already in training.
fn token_loss(g: &mut Graph, logits: Tensor, targets: Tensor) -> Tensor {
    g.scope("loss");
    match g.seed() {
        Some(seed) => g.apply(Classifier { weight: 1.0 }, &[logits, targets, seed]),
        None => g.apply(CrossEntropy, &[logits, targets]),
    }
}

/// Mean cross-entropy of the logits of hidden states `x`, with the gradients of `x` and of the weight already in training.
fn chunked_loss(g: &mut Graph, x: Tensor, weight: Tensor, targets: Tensor, rows: usize) -> Tensor {
    g.scope("lm_head and loss");
    match g.seed() {
        Some(seed) => g.apply(ChunkedClassifier { rows, accumulate: false }, &[x, weight, targets, seed]),
        None => g.apply(ChunkedCrossEntropy { rows }, &[x, weight, targets]),
    }
}

/// The parameters of a linear layer: weight and bias.
type Weights = (Tensor, Option<Tensor>);

fn weights(g: &mut Graph, name: &str, sizes: (usize, usize), stored: Stored, bias: bool) -> Weights {
    let dims = if stored == Stored::OutIn { [sizes.1, sizes.0] } else { [sizes.0, sizes.1] };
    let weight = g.state(&format!("{name}.weight"), &dims);
    (weight, bias.then(|| g.state(&format!("{name}.bias"), &[sizes.1])))
}

/// The first of a layer's three streams of dropout: attention, and two residuals. Stream 0 is the embedding's.
fn salt(layer: usize) -> u32 {
    3 * layer as u32 + 1
}
