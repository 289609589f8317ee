//! attention_backward: the gradient of attention, with the probabilities made again from lse. Per head and query i:
//!
//!   delta = rowsum(dy * y);  p = exp(scale q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta)
//!   dq = scale ds k;  dk = scale ds^T q;  dv = (keep * p)^T dy;  dbias = ds summed over pairs of one distance
//!
//!   q, k, v, words of the mask and bias as in attention, with gradients of the same shapes: packed one, apart two, then dbias
//!   y, dy (B, TQ, C);  lse, delta (B, NH, TQ);  delta is scratch, and so are sums of dbias (B * spans, NH, TQ + TK - 1)
//!
//! Two kernels instead of float atomics, so that a run is repeatable: one over blocks of queries (dq, delta), one over blocks
//! of keys (dk, dv), which goes through the heads of queries that share a head of keys in order. Dao 2023,
//! "FlashAttention-2", algorithm 2. A third goes along the diagonals where a bias has a gradient; that of a bias of each query is ds.
//! Cost: 10 HS FLOPs for each head and pair of a query and a key that it sees; what a later kernel makes again is not counted.
//! q, k, v, y, lse and dy are read, their gradients are written.

use super::attention::{Attention, Kernel, Size, dot, part, variants};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step, Variants};
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Gradients of q, k, v and perhaps a bias from all inputs of attention, y, lse and dy.
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    pub forward: Attention,
    /// Whether the bias has a gradient.
    pub bias_gradient: bool,
}

/// Which output is what; dq, or that of q, k and v, is the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    /// dk and dv.
    kv: usize,
    pub bias: usize,
    delta: usize,
    sums: usize,
}

/// Queries whose part of a bias's gradient one thread sums: short enough for lavapipe, which ends long loops.
const SPAN: usize = 256;
/// Queries of one thread where each has a bias of its own.
const QUERIES: usize = 4;

impl AttentionBackward {
    pub(super) fn slots(&self) -> Slots {
        let kv = usize::from(self.forward.apart);
        let bias = kv + usize::from(self.bias_gradient);
        Slots { kv, bias, delta: bias + 1, sums: bias + 2 }
    }

    /// Whether the gradient of the bias is made of sums.
    fn sums_bias(&self) -> bool {
        self.bias_gradient && !self.forward.by_query
    }

    /// Inputs y, lse and dy.
    fn saved(&self) -> [usize; 3] {
        let first = self.forward.places().count;
        [first, first + 1, first + 2]
    }

    /// dq and delta.
    fn over_queries(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let tiling = OVER_QUERIES.tiling(&size.class(self.name()), size, limits);
        let [y, lse, dy] = self.saved();
        let d = self
            .forward
            .kernel(size, &tiling, (size.heads, size.t), entries, limits)
            .read_range(0, size.bytes(entries, size.row()))
            .read_range(y, size.bytes(entries, size.c()))
            .read(lse)
            .read_range(dy, size.bytes(entries, size.c()))
            .write_range(0, size.bytes(entries, size.row()))
            .write(self.slots().delta)
            .step();
        self.forward.bind_rest(d, size, entries)
    }

    /// dk and dv, once delta is there.
    fn over_keys(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let tiling = OVER_KEYS.tiling(&size.class(self.name()), size, limits);
        let [_, lse, dy] = self.saved();
        let d = self
            .forward
            .kernel(size, &tiling, (size.kv_heads, size.keys), entries, limits)
            .read_range(0, size.bytes(entries, size.row()))
            .read(lse)
            .read_range(dy, size.bytes(entries, size.c()))
            .read_back(self.slots().delta)
            .write_range(self.slots().kv, size.kv_bytes(entries))
            .step();
        self.forward.bind_rest(d, size, entries)
    }

    /// Sums for dbias, once delta is there.
    fn over_distances(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let [_, lse, dy] = self.saved();
        let threads = limits.row_threads() as usize;
        let blocks = entries.len() * size.t.div_ceil(SPAN) * size.heads * size.distances().div_ceil(threads);
        let d = self
            .forward
            .constants(shader!("attention_backward_bias"), size, entries)
            .constant("THREADS", threads)
            .constant("SPAN", SPAN)
            .groups(limits.fold(blocks))
            .read_range(0, size.bytes(entries, size.row()))
            .read(lse)
            .read_range(dy, size.bytes(entries, size.c()))
            .read_back(self.slots().delta)
            .write(self.slots().sums)
            .step();
        self.forward.bind_rest(d, size, entries)
    }

    /// dbias of each query, once delta is there.
    fn over_pairs(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let [_, lse, dy] = self.saved();
        let threads = limits.row_threads() as usize;
        let places = size.keys + QUERIES - 1;
        let blocks = entries.len() * size.t.div_ceil(QUERIES) * size.heads * places.div_ceil(threads);
        let d = self
            .forward
            .constants(shader!("attention_backward_bias_queries"), size, entries)
            .constant("THREADS", threads)
            .groups(limits.fold(blocks))
            .read_range(0, size.bytes(entries, size.row()))
            .read(lse)
            .read_range(dy, size.bytes(entries, size.c()))
            .read_back(self.slots().delta)
            .write(self.slots().bias)
            .step();
        self.forward.bind_rest(d, size, entries)
    }

    /// dbias from its sums.
    fn add_sums(&self, size: Size, limits: &Limits) -> Dispatch {
        let columns = size.heads * size.distances();
        Dispatch::new(shader!("column_sum_final"))
            .constant("STRIPS", size.b * size.t.div_ceil(SPAN))
            .constant("C", columns)
            .constant("ACCUMULATE", false)
            .read_back(self.slots().sums)
            .write(self.slots().bias)
            .groups(limits.fold(columns.div_ceil(64)))
    }

    /// dq of one head of queries and what it adds to dk, dv and dbias: (TQ, HS), twice (TK, HS), its part of the bias.
    fn one_head(&self, size: Size, head: usize, inputs: &[&[f32]], step: &Step) -> [Vec<f64>; 4] {
        let Size { t, keys, hs, .. } = size;
        let [y, lse, dy] = self.saved().map(|at| inputs[at]);
        let words = self.forward.places().words.map_or(&[][..], |at| as_ids(inputs[at]));
        let row = |x: &'_ [f32], i| x[size.y_at(head, i)..][..hs].to_vec();
        let add = |to: &mut [f64], factor: f64, from: &[f32]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * f64::from(*from));
        };
        let mut dq = vec![0.0f64; t * hs];
        let [mut dk, mut dv] = [0; 2].map(|_| vec![0.0f64; keys * hs]);
        let mut dbias = vec![0.0f64; if self.forward.by_query { t * keys } else { size.distances() }];
        for i in 0..t {
            let dy = row(dy, i);
            let delta = dot(&dy, &row(y, i));
            for j in size.seen_by(head / size.heads, i, words) {
                let p = (self.forward.score(size, head, i, j, inputs) - f64::from(lse[head * t + i])).exp();
                let keep = self.forward.keep(size, head, i, j, step);
                let ds = p * (keep * dot(&dy, part(size, inputs, head, j, 2)) - delta);
                add(&mut dq[i * hs..][..hs], ds * size.scale(), part(size, inputs, head, j, 1));
                add(&mut dk[j * hs..][..hs], ds * size.scale(), part(size, inputs, head, i, 0));
                add(&mut dv[j * hs..][..hs], keep * p, &dy);
                let at = if self.forward.by_query { i * keys + i + keys - t - j } else { j + t - 1 - i };
                dbias[at] += ds;
            }
        }
        [dq, dk, dv, dbias]
    }
}

const OVER_QUERIES: Kernel = Kernel {
    tiled: shader!("attention_backward_query_tiled"),
    held: 2,
    registers: shader!("attention_backward_query_registers"),
    cooperative: shader!("attention_backward_query_cooperative"),
    over_keys: false,
};

const OVER_KEYS: Kernel = Kernel {
    tiled: shader!("attention_backward_key_tiled"),
    held: 2,
    registers: shader!("attention_backward_key_registers"),
    cooperative: shader!("attention_backward_key_cooperative"),
    over_keys: true,
};

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [y, lse, dy] = self.saved();
        assert!(inputs.len() == dy + 1, "attention_backward takes attention's inputs, y, lse and dy, not {inputs:?}");
        let size = self.forward.size(inputs);
        let fits = *inputs[y] == size.result() && *inputs[lse] == size.statistics() && *inputs[dy] == size.result();
        assert!(fits, "attention_backward takes inputs, y, lse and dy that belong together, not {inputs:?}");
        let mut outputs = size.operands();
        if self.bias_gradient {
            outputs.push(self.forward.bias_shape(size));
        }
        outputs.push(size.statistics());
        if self.sums_bias() {
            outputs.push(Shape::f32(&[size.b * size.t.div_ceil(SPAN), size.heads, size.distances()]));
        }
        outputs
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.forward.size(&shapes.inputs);
        let chunks = size.chunks(limits);
        let queries = chunks.iter().map(|entries| self.over_queries(size, entries, limits));
        let keys = chunks.iter().map(|entries| self.over_keys(size, entries, limits));
        let mut all: Vec<Dispatch> = queries.chain(keys).collect();
        if self.sums_bias() {
            all.extend(chunks.iter().map(|entries| self.over_distances(size, entries, limits)));
            all.push(self.add_sums(size, limits));
        } else if self.bias_gradient {
            all.extend(chunks.iter().map(|entries| self.over_pairs(size, entries, limits)));
        }
        all
    }

    fn variants(&self, shapes: &Shapes, limits: &Limits) -> Option<Variants> {
        if self.forward.places().words.is_some() {
            return None;
        }
        let size = self.forward.size(&shapes.inputs);
        let inputs = |trial: Size| {
            let mut inputs = self.forward.numbers(trial);
            inputs.extend([trial.result(), trial.statistics(), trial.result()]);
            inputs
        };
        Some(variants(self.name(), &[OVER_QUERIES, OVER_KEYS], size, limits, inputs))
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        let Some(forward) = self.forward.without_words() else { return vec![] };
        let size = self.forward.size(&shapes.inputs);
        let mut inputs = forward.numbers(size);
        inputs.extend([size.result(), size.statistics(), size.result()]);
        vec![(Arc::new(AttentionBackward { forward, ..self.clone() }), inputs)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let size = self.forward.size(&shapes.inputs);
        let Size { t, keys, heads, hs, .. } = size;
        let one = |head| self.one_head(size, head, inputs, step);
        let all: Vec<_> = (0..size.b * heads).into_par_iter().map(one).collect();
        let slots = self.slots();
        let mut sums: Vec<Vec<f64>> = outputs.iter().map(|to| vec![0.0; to.len()]).collect();
        for (head, parts) in all.iter().enumerate() {
            for (part, rows) in [(0, t), (1, keys), (2, keys)] {
                for i in 0..rows {
                    let (operand, at) = size.at(head, i, part);
                    let row = &mut sums[operand][at..][..hs];
                    row.iter_mut().zip(&parts[part][i * hs..]).for_each(|(to, d)| *to += *d);
                }
            }
            if self.bias_gradient && self.forward.by_query {
                for (i, part) in parts[3].chunks(keys).enumerate() {
                    let row = (head / heads * t + i) * heads + head % heads;
                    sums[slots.bias][row * keys..][..keys].copy_from_slice(part);
                }
            } else if self.bias_gradient {
                let row = &mut sums[slots.bias][head % heads * size.distances()..][..size.distances()];
                row.iter_mut().zip(&parts[3]).for_each(|(to, d)| *to += *d);
            }
        }
        // Scratch is left at zero.
        for (to, sums) in outputs.iter_mut().zip(sums) {
            to.iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let size = self.forward.size(&shapes.inputs);
        Cost { flops: 5 * 2 * size.pairs() * size.hs as u64, size_bytes: shapes.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1 + usize::from(self.sums_bias())
    }

    fn packing(&self, shapes: &Shapes, slot: usize) -> Vec<usize> {
        let Size { heads, kv_heads, hs, apart, .. } = self.forward.size(&shapes.inputs);
        let parts = [heads, kv_heads, kv_heads].map(|heads| heads * hs);
        match (apart, slot) {
            (false, 0) => parts.into(),
            (true, 1) => parts[1..].into(),
            _ => vec![shapes.outputs[slot].columns()],
        }
    }
}
