//! attention_backward: the gradient of attention, with the probabilities made again from lse. Per head and query i:
//!
//!   delta = rowsum(dy * y);  p = exp(q k^T / sqrt(HS) - lse);  dp = keep * (dy v^T);  ds = p (dp - delta)
//!   dq = ds k / sqrt(HS);  dk = ds^T q / sqrt(HS);  dv = (keep * p)^T dy
//!
//!   qkv, dqkv (B, T, C + 2 KVC);  y, dy (B, T, C);  lse, delta (B, NH, T); delta is scratch, slot 1
//!
//! Two kernels instead of float atomics, so that a run is repeatable: one over blocks of queries (dq, delta), one over blocks
//! of keys (dk, dv), which goes through the heads of queries that share a head of keys in order. Dao 2023,
//! "FlashAttention-2", algorithm 2.
//! Cost: 5 B NH HS T (T + 1) FLOPs, the causal half of five products; the two that the second kernel makes again are not
//! counted. qkv, y, lse and dy are read, dqkv is written.

use super::attention::{Attention, Kernel, Size, dot, variants};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor, Variants};
use crate::shader;
use rayon::prelude::*;
use std::ops::Range;

/// dqkv from qkv, y, lse and dy.
#[derive(Clone, Debug)]
pub struct AttentionBackward {
    pub forward: Attention,
}

impl AttentionBackward {
    /// dq and delta.
    fn over_queries(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let tiling = OVER_QUERIES.tiling(&size.class(self.name()), size, limits);
        self.forward
            .kernel(size, &tiling, size.heads, entries, limits)
            .read_range(0, size.bytes(entries, size.row()))
            .read_range(1, size.bytes(entries, size.c()))
            .read(2)
            .read_range(3, size.bytes(entries, size.c()))
            .write_range(0, size.bytes(entries, size.row()))
            .write(1)
            .step()
    }

    /// dk and dv, once delta is there.
    fn over_keys(&self, size: Size, entries: &Range<usize>, limits: &Limits) -> Dispatch {
        let tiling = OVER_KEYS.tiling(&size.class(self.name()), size, limits);
        self.forward
            .kernel(size, &tiling, size.kv_heads, entries, limits)
            .read_range(0, size.bytes(entries, size.row()))
            .read(2)
            .read_range(3, size.bytes(entries, size.c()))
            .read_back(1)
            .write_range(0, size.bytes(entries, size.row()))
            .step()
    }

    /// dq of one head of queries and what it adds to dk and dv, each (T, HS).
    fn one_head(&self, size: Size, head: usize, inputs: &[&[f32]], step: &Step) -> [Vec<f64>; 3] {
        let Size { t, hs, .. } = size;
        let part = |t, part| &inputs[0][size.at(head, t, part)..][..hs];
        let row = |x: usize, t| &inputs[x][size.y_at(head, t)..][..hs];
        let add = |to: &mut [f64], factor: f64, from: &[f32]| {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * f64::from(*from));
        };
        let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![0.0f64; t * hs]);
        for i in 0..t {
            let delta = dot(row(3, i), row(1, i));
            for j in size.seen(i) {
                let p = (size.score(part(i, 0), part(j, 1)) - f64::from(inputs[2][head * t + i])).exp();
                let keep = self.forward.keep(size, head, i, j, step);
                let ds = p * (keep * dot(row(3, i), part(j, 2)) - delta) / (hs as f64).sqrt();
                add(&mut dq[i * hs..][..hs], ds, part(j, 1));
                add(&mut dk[j * hs..][..hs], ds, part(i, 0));
                add(&mut dv[j * hs..][..hs], keep * p, row(3, i));
            }
        }
        [dq, dk, dv]
    }
}

const OVER_QUERIES: Kernel = Kernel {
    tiled: shader!("attention_backward_query_tiled"),
    held: 2,
    registers: shader!("attention_backward_query_registers"),
    most: 1,
    cooperative: shader!("attention_backward_query_cooperative"),
};

const OVER_KEYS: Kernel = Kernel {
    tiled: shader!("attention_backward_key_tiled"),
    held: 2,
    registers: shader!("attention_backward_key_registers"),
    most: 1,
    cooperative: shader!("attention_backward_key_cooperative"),
};

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 4, "attention_backward takes qkv, y, lse and dy, not {inputs:?}");
        let size = self.forward.size(inputs[0]);
        let y = inputs[0].with_columns(size.c());
        let fits = *inputs[1] == y && *inputs[2] == size.statistics() && *inputs[3] == y;
        assert!(fits, "attention_backward takes qkv, y, lse and dy that belong together, not {inputs:?}");
        vec![inputs[0].clone(), size.statistics()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.forward.size(shapes.inputs[0]);
        let chunks = size.chunks(limits);
        let queries = chunks.iter().map(|entries| self.over_queries(size, entries, limits));
        let keys = chunks.iter().map(|entries| self.over_keys(size, entries, limits));
        queries.chain(keys).collect()
    }

    fn variants(&self, shapes: &Shapes, limits: &Limits) -> Option<Variants> {
        let size = self.forward.size(shapes.inputs[0]);
        let inputs = |trial: Size| {
            let qkv = trial.qkv(shapes.inputs[0].dtype);
            let y = |i: usize| Shape { dtype: shapes.inputs[i].dtype, ..qkv.with_columns(trial.c()) };
            vec![qkv.clone(), y(1), trial.statistics(), y(3)]
        };
        Some(variants(self.name(), &[OVER_QUERIES, OVER_KEYS], size, limits, inputs))
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("gradients of gradients are not taken")
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let size = self.forward.size(shapes.inputs[0]);
        let Size { t, heads, hs, .. } = size;
        let one = |head| self.one_head(size, head, inputs, step);
        let all: Vec<_> = (0..size.b * heads).into_par_iter().map(one).collect();
        let mut sums = vec![0.0f64; outputs[0].len()];
        for (head, parts) in all.iter().enumerate() {
            for (part, i) in (0..3).flat_map(|part| (0..t).map(move |i| (part, i))) {
                let row = &mut sums[size.at(head, i, part)..][..hs];
                row.iter_mut().zip(&parts[part][i * hs..]).for_each(|(to, d)| *to += *d);
            }
        }
        outputs[0].iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as f32);
        outputs[1].fill(0.0); // scratch
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let size = self.forward.size(shapes.inputs[0]);
        Cost { flops: 5 * 2 * size.pairs() * size.hs as u64, size_bytes: shapes.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}
