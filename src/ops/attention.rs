//! attention: multi-head attention, y = dropout(softmax(mask(scale q k^T + bias))) v for each head, in one kernel.
//!
//!   q (B, TQ, C), C = NH * HS;  k and v (B, TK, KVC), KVC = KVH * HS;  head h at columns h * HS of each
//!   packed: one tensor (B, T, q | k | v), TQ = TK = T;  apart: two, q and (B, TK, k | v)
//!   words of the mask, u32, where it has some (see [`Mask`]);  bias (NH, TQ + TK - 1) or (B, TQ, NH * TK), f32, where there is one
//!   y (B, TQ, C);  lse (B, NH, TQ), f32: log-sum-exp of a query's scores, slot 1, kept for backward
//!
//! NH / KVH heads of queries that follow one another share a head of keys and values (Ainslie et al. 2023), which nobody
//! repeats in memory. A query that sees no key has y = 0 and no gradients; its lse is -1e30.
//!
//! A bias is added to the scaled scores by head and distance: element j - i + TQ - 1 of a head's row for query i and key j. Its
//! gradient is a sum in a fixed order. `relative_bias` makes one from T5's buckets. A bias of each query has a row for each query and
//! head, and a key at distance d before the query, which itself stands at key i + TK - TQ, has element d: `head_product` makes
//! one from Transformer-XL's positions.
//!
//! Keys pass in blocks under an online softmax, so that no TQ x TK tensor exists: FlashAttention, Dao, Fu, Ermon, Rudra and Ré
//! 2022, algorithm 1. A block of keys that no query of the workgroup sees is not visited.
//! Cost: 4 HS FLOPs for each head and pair of a query and a key that it sees; q, k and v are read, y and lse written.
//!
//! Where a tensor is larger than a binding, ranges of whole batch entries are worked on: one entry must fit.

mod cases;
mod mask;
mod mask_cases;
mod size;
mod tiling;

pub use cases::CASES;
pub use mask::Mask;
pub use mask_cases::MASK_CASES;

use super::attention_backward::AttentionBackward;
use super::attention_weights::AttentionWeights;
use super::cross_entropy::log_sum_exp;
use super::dropout::{keep_factor, threshold};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor, Variants};
use crate::shader;
use rayon::prelude::*;
pub(super) use size::{Size, dot};
use std::ops::Range;
use std::sync::Arc;
pub(super) use tiling::Kernel;
use tiling::Tiling;

/// y = attention(q, k, v). `salt` tells the dropout of one layer from another's.
#[derive(Clone, Debug, Default)]
pub struct Attention {
    pub heads: usize,
    /// Heads of keys and values: a divisor of `heads`.
    pub kv_heads: usize,
    /// Whether q is a tensor of its own, and k and v are another: for keys that come from elsewhere.
    pub apart: bool,
    pub mask: Mask,
    /// Whether a bias by head and distance is added to the scores.
    pub bias: bool,
    /// Whether the bias is of each query, for causal masks of no more queries than keys.
    pub by_query: bool,
    /// What scores are multiplied by: 1 / sqrt(HS) if `None`.
    pub scale: Option<f32>,
    /// Probability with which an attention weight is dropped.
    pub dropout: f32,
    pub salt: u32,
}

/// Which input is what; q, or q, k and v, are the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub kv: Option<usize>,
    pub words: Option<usize>,
    pub bias: Option<usize>,
    /// How many there are.
    pub count: usize,
}

/// The log-sum-exp of a query that sees no key: `MASKED` of the shaders.
const NOTHING: f64 = -1e30;

impl Attention {
    pub(super) fn places(&self) -> Places {
        let mut count = 1;
        let mut place = |there: bool| {
            count += usize::from(there);
            there.then(|| count - 1)
        };
        let kv = place(self.apart);
        let words = place(self.mask.words(0, 0).is_some());
        let bias = place(self.bias);
        Places { kv, words, bias, count }
    }

    /// Panics unless the inputs belong together and have a head size that the kernels take.
    pub(super) fn size(&self, inputs: &[&Shape]) -> Size {
        let Attention { heads, kv_heads, apart, mask, scale, .. } = *self;
        let places = self.places();
        assert!(inputs.len() >= places.count, "attention takes {} tensors, not {inputs:?}", places.count);
        assert!(
            kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads),
            "{kv_heads} heads of keys cannot serve {heads}"
        );
        let q = inputs[0];
        let all = if apart { heads } else { heads + 2 * kv_heads };
        let fits = q.dims.len() == 3 && q.dims[2].is_multiple_of(all);
        assert!(
            fits,
            "attention takes q, k and v of {heads}, {kv_heads} and {kv_heads} heads side by side or q apart, not {inputs:?}"
        );
        let (b, t, hs) = (q.dims[0], q.dims[1], q.dims[2] / all);
        let keys = places.kv.map_or(t, |kv| inputs[kv].dims.get(1).copied().unwrap_or(0));
        assert!(
            hs.is_multiple_of(4) && (4..=128).contains(&hs),
            "attention takes heads of 4, 8, .. 128 columns, not {hs}"
        );
        assert!(mask.window() != Some(0), "a window of attention holds at least the query's own key");
        assert!((0.0..1.0).contains(&self.dropout), "attention cannot drop with probability {}", self.dropout);
        let window = mask.window().map_or(keys, |window| window.min(keys));
        let size = Size { b, t, keys, heads, kv_heads, hs, mask, window, apart, scale, dtype: q.dtype };
        let operands = size.operands();
        let fits = keys > 0 && operands.iter().zip(inputs).all(|(wanted, given)| wanted == *given);
        assert!(fits, "attention takes keys and values that belong to its queries, not {inputs:?}");
        if let Some((at, dims)) = places.words.zip(mask.words(b, t)) {
            let fits = *inputs[at] == Shape { dims: dims.clone(), dtype: Dtype::U32 };
            assert!(fits, "the words of {mask:?} are {dims:?} of u32, not {:?}", inputs[at]);
        }
        if let Some(at) = places.bias {
            let bias = self.bias_shape(size);
            assert!(*inputs[at] == bias, "a bias of attention is {bias:?}, not {:?}", inputs[at]);
        }
        let is_causal = matches!(mask.without_words(), Mask::Causal { .. }) && t <= keys && self.bias;
        assert!(is_causal || !self.by_query, "a bias of each query is for causal masks of no more queries than keys");
        // With q, k, v, y, lse, dy, dq and delta these would be nine buffers of the kernel for dq; every device has eight.
        let many = apart && self.bias && places.words.is_some();
        assert!(!many, "attention with a bias takes {mask:?} only where q, k and v are packed");
        size
    }

    /// What the kernels of both directions have in common, for blocks of `rows` rows of each of `heads` heads of the batch
    /// entries `entries`.
    pub(super) fn kernel(
        &self,
        size: Size,
        tiling: &Tiling,
        (heads, rows): (usize, usize),
        entries: &Range<usize>,
        limits: &Limits,
    ) -> Dispatch {
        let blocks = entries.len() * heads * rows.div_ceil(tiling.block);
        let mut d = self.constants(tiling.shader, size, entries).groups(limits.fold(blocks));
        for (name, value) in &tiling.constants {
            d = d.constant(name, *value);
        }
        for (named, taken) in &tiling.swaps {
            d = d.swap(named, taken);
        }
        d
    }

    /// A dispatch of one of the shaders that use `shared/attention`.
    pub(super) fn constants(&self, shader: crate::graph::Shader, size: Size, entries: &Range<usize>) -> Dispatch {
        let mut d = Dispatch::new(shader)
            .constant("ENTRIES", entries.len())
            .constant("B_FIRST", entries.start)
            .constant("TQ", size.t)
            .constant("TK", size.keys)
            .constant("NH", size.heads)
            .constant("KVH", size.kv_heads)
            .constant("HS", size.hs)
            .constant("WINDOW", size.window)
            .constant("DROPOUT", self.dropout > 0.0)
            .constant("THRESHOLD", threshold(self.dropout))
            .constant("KEEP_SCALE", 1.0 / (1.0 - self.dropout))
            .constant("SALT", self.salt)
            .element("X_TYPE", size.dtype);
        if let Some(scale) = self.scale {
            d = d.constant("SCALE", scale);
        }
        d
    }

    /// Adds the bindings that only some plans have, after all others.
    pub(super) fn bind_rest(&self, mut d: Dispatch, size: Size, entries: &Range<usize>) -> Dispatch {
        let places = self.places();
        let add = |d: Dispatch, number: &'static str, named: &'static str, taken: &'static str| {
            let next = d.bindings.len();
            d.constant(number, next).swap(named, taken)
        };
        if let Some(kv) = places.kv {
            d = add(d, "KV_BINDING", "attention_packed", "attention_apart").read_range(kv, size.kv_bytes(entries));
        }
        let file = self.mask.file();
        if let Some(words) = places.words {
            d = add(d, "WORDS_BINDING", "mask_causal", file).read(words);
        } else if file != "mask_causal" {
            d = d.swap("mask_causal", file);
        }
        if let Some(bias) = places.bias {
            let file = if self.by_query { "bias_queries" } else { "bias_distance" };
            d = add(d, "BIAS_BINDING", "bias_none", file).read(bias);
        }
        d
    }

    /// The op without the words of its mask, where it has some: kernels are measured with numbers only.
    pub(super) fn without_words(&self) -> Option<Attention> {
        self.places().words.map(|_| Attention { mask: self.mask.without_words(), ..self.clone() })
    }

    /// Shapes of q, k, v and a bias for a size.
    pub(super) fn numbers(&self, size: Size) -> Vec<Shape> {
        size.operands().into_iter().chain(self.bias.then(|| self.bias_shape(size))).collect()
    }

    /// Shape of the bias.
    pub(super) fn bias_shape(&self, size: Size) -> Shape {
        if self.by_query { size.bias_of_queries() } else { size.bias() }
    }

    /// The element of the bias for a head of queries, counted over the batch, and a pair of query and key.
    pub(super) fn bias_at(&self, size: Size, head: usize, i: usize, j: usize) -> usize {
        if self.by_query { size.bias_of_query_at(head, i, j) } else { size.bias_at(head, i, j) }
    }
}

/// One of the two directions as a class with variants: heads, lengths and the amount of work as powers of two. `inputs`
/// makes the shapes of a trial from its batch and length.
pub(super) fn variants(
    name: &str,
    kernels: &[Kernel],
    size: Size,
    limits: &Limits,
    inputs: impl Fn(Size) -> Vec<Shape>,
) -> Variants {
    let common = |name: &String| kernels.iter().all(|k| k.tilings(size, limits).iter().any(|t| t.name == *name));
    let names = kernels[0].tilings(size, limits).into_iter().map(|t| t.name).filter(common).collect();
    let mut trial = size;
    let flops = |s: &Size| 4 * s.pairs() * s.hs as u64;
    while flops(&trial) > limits.trial_flops() && trial.b > 1 {
        trial.b /= 2;
    }
    while flops(&trial) > limits.trial_flops() && trial.t.min(trial.keys) > 128 {
        trial.t /= 2;
        trial.keys /= 2;
        trial.window = trial.window.min(trial.keys);
    }
    Variants { class: size.class(name), names, inputs: inputs(trial) }
}

const FORWARD: Kernel = Kernel {
    tiled: shader!("attention_tiled"),
    held: 1,
    registers: shader!("attention_registers"),
    cooperative: shader!("attention_cooperative"),
    over_keys: false,
};

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == self.places().count, "attention takes {:?}, not {inputs:?}", self.places());
        let size = self.size(inputs);
        vec![size.result(), size.statistics()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.size(&shapes.inputs);
        let tiling = FORWARD.tiling(&size.class(self.name()), size, limits);
        let piece = |entries: Range<usize>| {
            let d = self
                .kernel(size, &tiling, (size.heads, size.t), &entries, limits)
                .read_range(0, size.bytes(&entries, size.row()))
                .write_range(0, size.bytes(&entries, size.c()))
                .write(1)
                .step();
            self.bind_rest(d, size, &entries)
        };
        size.chunks(limits).into_iter().map(piece).collect()
    }

    fn variants(&self, shapes: &Shapes, limits: &Limits) -> Option<Variants> {
        if self.places().words.is_some() {
            return None;
        }
        let size = self.size(&shapes.inputs);
        Some(variants(self.name(), &[FORWARD], size, limits, |trial| self.numbers(trial)))
    }

    fn attention_weights(&self) -> Option<Arc<dyn Op>> {
        Some(Arc::new(AttentionWeights { forward: Attention { dropout: 0.0, ..self.clone() } }))
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        let part = |op: Attention| (Arc::new(op) as Arc<dyn Op>, self.numbers(self.size(&shapes.inputs)));
        self.without_words().map(part).into_iter().collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let places = self.places();
        let mut inputs = g.nodes()[node].inputs.clone();
        let mut gradients = vec![None; inputs.len()];
        inputs.extend([Tensor { node, slot: 0 }, Tensor { node, slot: 1 }, dy]);
        let bias_gradient = places.bias.is_some_and(|at| needed[at]);
        let backward = AttentionBackward { forward: self.clone(), bias_gradient };
        let slots = backward.slots();
        let d = g.apply(backward, &inputs);
        let mut hand = |input: Option<usize>, slot: usize| {
            if let Some(input) = input {
                gradients[input] = Some(Tensor { slot, ..d });
            }
        };
        hand(Some(0), 0);
        hand(places.kv, 1);
        hand(places.bias.filter(|_| bias_gradient), slots.bias);
        gradients
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let size = self.size(&shapes.inputs);
        let words = self.places().words.map_or(&[][..], |at| as_ids(inputs[at]));
        let one_head = |head: usize| {
            let mut y = vec![0.0f64; size.t * size.hs];
            let mut lse = vec![NOTHING; size.t];
            for (i, y) in y.chunks_mut(size.hs).enumerate() {
                let seen = size.seen_by(head / size.heads, i, words);
                let scores: Vec<f64> = seen.clone().map(|j| self.score(size, head, i, j, inputs)).collect();
                if seen.is_empty() {
                    continue;
                }
                lse[i] = log_sum_exp(scores.iter().copied());
                for (j, score) in seen.zip(&scores) {
                    let p = (score - lse[i]).exp() * self.keep(size, head, i, j, step);
                    y.iter_mut().zip(part(size, inputs, head, j, 2)).for_each(|(y, v)| *y += p * f64::from(*v));
                }
            }
            (y, lse)
        };
        let heads: Vec<_> = (0..size.b * size.heads).into_par_iter().map(one_head).collect();
        for (head, (y, lse)) in heads.into_iter().enumerate() {
            for t in 0..size.t {
                outputs[1][head * size.t + t] = lse[t] as f32;
                let row = &mut outputs[0][size.y_at(head, t)..][..size.hs];
                row.iter_mut().zip(&y[t * size.hs..]).for_each(|(to, y)| *to = *y as f32);
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let size = self.size(&shapes.inputs);
        Cost { flops: 2 * 2 * size.pairs() * size.hs as u64, size_bytes: shapes.size_bytes() }
    }
}

/// The q, k or v of a position, for a head of queries counted over the batch.
pub(super) fn part<'a>(size: Size, inputs: &[&'a [f32]], head: usize, t: usize, part: usize) -> &'a [f32] {
    let (operand, at) = size.at(head, t, part);
    &inputs[operand][at..][..size.hs]
}

/// Twins of what the shaders compute, for both references.
impl Attention {
    /// The score of query i and key j of a head, counted over the batch.
    pub(super) fn score(&self, size: Size, head: usize, i: usize, j: usize, inputs: &[&[f32]]) -> f64 {
        let bias = self.places().bias.map_or(0.0, |at| f64::from(inputs[at][self.bias_at(size, head, i, j)]));
        size.score(part(size, inputs, head, i, 0), part(size, inputs, head, j, 1)) + bias
    }

    /// Dropout's factor for them.
    pub(super) fn keep(&self, size: Size, head: usize, i: usize, j: usize, step: &Step) -> f64 {
        if self.dropout == 0.0 {
            return 1.0;
        }
        let element = ((head * size.t + i) as u32).wrapping_mul(size.keys as u32).wrapping_add(j as u32);
        f64::from(keep_factor(element, step, self.salt, self.dropout))
    }
}
