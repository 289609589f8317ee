//! attention: causal multi-head self-attention, y = dropout(softmax(q k^T / sqrt(HS))) v for each head, in one kernel.
//!
//!   qkv (B, T, C + 2 KVC): q | k | v along the last dimension, C = NH * HS, KVC = KVH * HS, head h at columns h * HS of each
//!   y (B, T, C);  lse (B, NH, T), f32: log-sum-exp of a query's scaled scores, slot 1, kept for backward
//!
//! NH / KVH heads of queries that follow one another share a head of keys and values (Ainslie et al. 2023), which nobody
//! repeats in memory. With a window of W, a query sees its own key and the W - 1 before it (Beltagy, Peters and Cohan 2020).
//!
//! Keys pass in blocks under an online softmax, so that no T x T tensor exists: FlashAttention, Dao, Fu, Ermon, Rudra and Ré
//! 2022, algorithm 1. A block of keys that no query of the workgroup sees is not visited.
//! Cost: 2 B NH HS T (T + 1) FLOPs, the causal half of two products, less with a window; qkv is read, y and lse written.
//!
//! Where qkv is larger than a binding, ranges of whole batch entries are worked on: one entry, T * (C + 2 KVC) elements, must
//! fit.

mod cases;
mod tiling;

pub use cases::CASES;

use super::attention_backward::AttentionBackward;
use super::cross_entropy::log_sum_exp;
use super::dropout::{keep_factor, threshold};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor, Variants};
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;
pub(super) use tiling::Kernel;
use tiling::Tiling;

/// y = attention(qkv). `salt` tells the dropout of one layer from another's.
#[derive(Clone, Debug)]
pub struct Attention {
    pub heads: usize,
    /// Heads of keys and values: a divisor of `heads`.
    pub kv_heads: usize,
    /// How many keys a query sees at most, its own included; all before it if `None`.
    pub window: Option<usize>,
    /// Probability with which an attention weight is dropped.
    pub dropout: f32,
    pub salt: u32,
}

/// Sizes of the tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub b: usize,
    pub t: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Columns of a head.
    pub hs: usize,
    /// Keys that a query sees at most: `t` without a window.
    pub window: usize,
    /// Type of what is not a statistic of rows.
    pub dtype: Dtype,
}

impl Attention {
    /// Panics unless `qkv` is (B, T, (heads + 2 * kv_heads) * HS) with a head size that the kernels take.
    pub(super) fn size(&self, qkv: &Shape) -> Size {
        let Attention { heads, kv_heads, .. } = *self;
        let all = heads + 2 * kv_heads;
        assert!(
            kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads),
            "{kv_heads} heads of keys cannot serve {heads}"
        );
        let fits = qkv.dims.len() == 3 && qkv.dims[2].is_multiple_of(all);
        assert!(
            fits,
            "attention takes q, k and v of {heads}, {kv_heads} and {kv_heads} heads side by side, not {qkv:?}"
        );
        let hs = qkv.dims[2] / all;
        assert!(self.window != Some(0), "a window of attention holds at least the query's own key");
        assert!(
            hs.is_multiple_of(4) && (4..=128).contains(&hs),
            "attention takes heads of 4, 8, .. 128 columns, not {hs}"
        );
        assert!((0.0..1.0).contains(&self.dropout), "attention cannot drop with probability {}", self.dropout);
        assert!(u32::try_from(qkv.len()).is_ok(), "attention indexes with 32 bits: {qkv:?} is too large");
        let (b, t) = (qkv.dims[0], qkv.dims[1]);
        let window = self.window.map_or(t, |window| window.min(t));
        Size { b, t, heads, kv_heads, hs, window, dtype: qkv.dtype }
    }

    /// What the kernels of both directions have in common, for blocks of `heads` heads of the batch entries `entries`.
    pub(super) fn kernel(
        &self,
        size: Size,
        tiling: &Tiling,
        heads: usize,
        entries: &Range<usize>,
        limits: &Limits,
    ) -> Dispatch {
        let blocks = entries.len() * heads * size.t.div_ceil(tiling.block);
        let mut d = Dispatch::new(tiling.shader)
            .constant("ENTRIES", entries.len())
            .constant("B_FIRST", entries.start)
            .constant("T", size.t)
            .constant("NH", size.heads)
            .constant("KVH", size.kv_heads)
            .constant("HS", size.hs)
            .constant("WINDOW", size.window)
            .constant("DROPOUT", self.dropout > 0.0)
            .constant("THRESHOLD", threshold(self.dropout))
            .constant("KEEP_SCALE", 1.0 / (1.0 - self.dropout))
            .constant("SALT", self.salt)
            .element("X_TYPE", size.dtype)
            .groups(limits.fold(blocks));
        for (name, value) in &tiling.constants {
            d = d.constant(name, *value);
        }
        for (named, taken) in &tiling.swaps {
            d = d.swap(named, taken);
        }
        d
    }
}

impl Size {
    /// What a choice of tiling depends on.
    pub fn class(&self, name: &str) -> String {
        let heads = (self.b * self.heads).next_power_of_two();
        let window =
            if self.window < self.t { format!(" window {}", self.window.next_power_of_two()) } else { "".into() };
        format!("{name} {heads}x{}x{}{window}{}", self.t.next_power_of_two(), self.hs, self.dtype.suffix())
    }

    pub fn qkv(&self, dtype: Dtype) -> Shape {
        Shape { dims: vec![self.b, self.t, self.row()], dtype }
    }

    /// Shape of lse and delta.
    pub fn statistics(&self) -> Shape {
        Shape::f32(&[self.b, self.heads, self.t])
    }

    /// Pairs of a query and a key that it sees, over all heads.
    pub fn pairs(&self) -> u64 {
        let (t, window) = (self.t as u64, self.window as u64);
        (self.b * self.heads) as u64 * (window * (window + 1) / 2 + (t - window) * window)
    }

    /// Columns of y.
    pub fn c(&self) -> usize {
        self.heads * self.hs
    }

    /// Columns of qkv.
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.hs
    }

    /// The keys that query `i` sees.
    pub fn seen(&self, i: usize) -> std::ops::RangeInclusive<usize> {
        (i + 1).saturating_sub(self.window)..=i
    }

    /// Bytes of one batch entry of a tensor with `columns` columns per position, a multiple of 4 of them.
    fn entry_bytes(&self, columns: usize) -> u64 {
        (self.t * columns) as u64 * self.dtype.size_bytes()
    }

    /// Bytes of `entries` in a tensor with `columns` columns per position.
    pub fn bytes(&self, entries: &Range<usize>, columns: usize) -> Range<u64> {
        let entry = self.entry_bytes(columns);
        entries.start as u64 * entry..entries.end as u64 * entry
    }

    /// Ranges of batch entries whose qkv fits one binding and whose qkv and y start aligned.
    pub fn chunks(&self, limits: &Limits) -> Vec<Range<usize>> {
        let (entry, y_entry) = (self.entry_bytes(self.row()), self.entry_bytes(self.c()));
        let fit = (limits.binding_bytes / entry) as usize;
        if fit >= self.b {
            return std::iter::once(0..self.b).collect();
        }
        // An alignment is a power of two.
        let step = (limits.alignment_bytes >> entry.trailing_zeros().min(y_entry.trailing_zeros())).max(1) as usize;
        let count = fit / step * step;
        let (mib, limit) = ((step as u64 * entry) >> 20, limits.binding_bytes >> 20);
        assert!(
            count > 0,
            "attention binds at least {mib} MiB of q, k and v at {self:?}; this device allows {limit} MiB"
        );
        (0..self.b).step_by(count).map(|start| start..self.b.min(start + count)).collect()
    }

    /// The element of qkv at which position `t` of a head of queries, counted over the batch, starts: its q, or the k or v
    /// that it shares.
    pub fn at(&self, head: usize, t: usize, part: usize) -> usize {
        let shared = head % self.heads / (self.heads / self.kv_heads);
        let column = [head % self.heads, self.heads + shared, self.heads + self.kv_heads + shared][part];
        (head / self.heads * self.t + t) * self.row() + column * self.hs
    }

    /// The element of y at which a head's position `t` starts.
    pub fn y_at(&self, head: usize, t: usize) -> usize {
        (head / self.heads * self.t + t) * self.c() + head % self.heads * self.hs
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
    while flops(&trial) > limits.trial_flops() && trial.t > 128 {
        trial.t /= 2;
        trial.window = trial.window.min(trial.t);
    }
    Variants { class: size.class(name), names, inputs: inputs(trial) }
}

const FORWARD: Kernel = Kernel {
    tiled: shader!("attention_tiled"),
    held: 1,
    registers: shader!("attention_registers"),
    most: 2,
    cooperative: shader!("attention_cooperative"),
};

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1, "attention takes one tensor, not {inputs:?}");
        let size = self.size(inputs[0]);
        vec![inputs[0].with_columns(size.c()), size.statistics()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.size(shapes.inputs[0]);
        let tiling = FORWARD.tiling(&size.class(self.name()), size, limits);
        let piece = |entries: Range<usize>| {
            self.kernel(size, &tiling, size.heads, &entries, limits)
                .read_range(0, size.bytes(&entries, size.row()))
                .write_range(0, size.bytes(&entries, size.c()))
                .write(1)
                .step()
        };
        size.chunks(limits).into_iter().map(piece).collect()
    }

    fn variants(&self, shapes: &Shapes, limits: &Limits) -> Option<Variants> {
        let size = self.size(shapes.inputs[0]);
        Some(variants(self.name(), &[FORWARD], size, limits, |trial| vec![trial.qkv(shapes.inputs[0].dtype)]))
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let qkv = g.nodes()[node].inputs[0];
        let backward = AttentionBackward { forward: self.clone() };
        vec![Some(g.apply(backward, &[qkv, Tensor { node, slot: 0 }, Tensor { node, slot: 1 }, dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let size = self.size(shapes.inputs[0]);
        let part = |head, t, part| &inputs[0][size.at(head, t, part)..][..size.hs];
        let one_head = |head: usize| {
            let mut y = vec![0.0f64; size.t * size.hs];
            let mut lse = vec![0.0f64; size.t];
            for (i, y) in y.chunks_mut(size.hs).enumerate() {
                let scores: Vec<f64> = size.seen(i).map(|j| size.score(part(head, i, 0), part(head, j, 1))).collect();
                lse[i] = log_sum_exp(scores.iter().copied());
                for (j, score) in size.seen(i).zip(&scores) {
                    let p = (score - lse[i]).exp() * self.keep(size, head, i, j, step);
                    y.iter_mut().zip(part(head, j, 2)).for_each(|(y, v)| *y += p * f64::from(*v));
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
        let size = self.size(shapes.inputs[0]);
        Cost { flops: 2 * 2 * size.pairs() * size.hs as u64, size_bytes: shapes.size_bytes() }
    }
}

/// Twins of what the shaders compute, for both references.
impl Attention {
    /// Dropout's factor for query i and key j of a head, counted over the batch.
    pub(super) fn keep(&self, size: Size, head: usize, i: usize, j: usize, step: &Step) -> f64 {
        if self.dropout == 0.0 {
            return 1.0;
        }
        let element = ((head * size.t + i) as u32).wrapping_mul(size.t as u32).wrapping_add(j as u32);
        f64::from(keep_factor(element, step, self.salt, self.dropout))
    }
}

impl Size {
    pub fn score(&self, q: &[f32], k: &[f32]) -> f64 {
        dot(q, k) / (self.hs as f64).sqrt()
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Family;

    #[test]
    fn chunks_are_aligned_whole_entries_that_cover_the_batch() {
        let limits = |binding_bytes| Limits { binding_bytes, ..Limits::portable(Family::Gpu) };
        // One entry of y is 5 * 32 * 4 = 640 bytes: every second one starts at a multiple of 256.
        let size = Size { b: 7, t: 5, heads: 2, kv_heads: 2, hs: 16, window: 5, dtype: Dtype::F32 };
        assert_eq!(size.chunks(&limits(7 * 1920)).len(), 1);
        assert_eq!(size.chunks(&limits(5 * 1920)), [0..4, 4..7]);
        assert!(size.chunks(&limits(4000)).iter().all(|c| size.bytes(c, 32).start.is_multiple_of(256)));
    }
}
