//! attention_weights: how much each query of an attention attends to each key, for people to look at.
//!
//!   the inputs of an `attention` without dropout, and its lse (B, NH, TQ)
//!   weights (B, NH, TQ, TK) = exp(scale q k^T + bias - lse) where the query sees the key, otherwise 0
//!
//! Each row sums to 1, but for a query that sees no key.
//! Cost: 2 HS FLOPs for each head and pair of a query and a key; q and k are read, the weights written.

use super::attention::{Attention, Mask};
use super::case::{Case, Draw};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// weights = softmax(mask(scale q k^T + bias)) of this attention.
#[derive(Clone, Debug)]
pub struct AttentionWeights {
    pub forward: Attention,
}

/// Threads of a workgroup: `THREADS` of the shader, four keys each.
const THREADS: usize = 64;

impl Op for AttentionWeights {
    fn name(&self) -> &'static str {
        "attention_weights"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (lse, operands) = inputs.split_last().expect("the log-sum-exp is the last input");
        assert!(operands.len() == self.forward.places().count, "attention_weights takes one more than {operands:?}");
        let size = self.forward.size(operands);
        assert!(**lse == size.statistics(), "the log-sum-exp of attention is {:?}, not {lse:?}", size.statistics());
        vec![Shape::f32(&[size.b, size.heads, size.t, size.keys])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (size, lse) = (self.forward.size(&shapes.inputs), shapes.inputs.len() - 1);
        let row = size.heads * size.t * size.keys;
        let piece = |entries: Range<usize>| {
            let quads = entries.len() * size.heads * size.t * size.keys.div_ceil(4);
            let d = self
                .forward
                .constants(shader!("attention_weights"), size, &entries)
                .groups(limits.fold(quads.div_ceil(THREADS)))
                .read_range(0, size.bytes(&entries, size.row()))
                .read(lse)
                .write_range(0, (entries.start * row * 4) as u64..(entries.end * row * 4) as u64)
                .step();
            self.forward.bind_rest(d, size, &entries)
        };
        size.chunks(limits).into_iter().map(piece).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let size = self.forward.size(&shapes.inputs);
        let words = self.forward.places().words.map_or(&[][..], |at| as_ids(inputs[at]));
        let lse = inputs[inputs.len() - 1];
        outputs[0].fill(0.0);
        for (row, weights) in outputs[0].chunks_mut(size.keys).enumerate() {
            let (head, i) = (row / size.t, row % size.t);
            for j in size.seen_by(head / size.heads, i, words) {
                weights[j] = (self.forward.score(size, head, i, j, inputs) - f64::from(lse[row])).exp() as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let size = self.forward.size(&shapes.inputs);
        Cost { flops: 2 * size.pairs() * size.hs as u64, size_bytes: shapes.size_bytes() }
    }
}

const REASON: &str = "exp of a score near 10 whose sum of 20 products is good to a few 1e-7";

pub const CASES: &[Case] = &[
    Case {
        name: "attention_weights of 2 x 37 queries in a window of 9, 6 heads of 20 over 2 of keys",
        op: || {
            let mask = Mask::Causal { window: Some(9) };
            Arc::new(AttentionWeights { forward: Attention { heads: 6, kv_heads: 2, mask, ..Attention::default() } })
        },
        inputs: &[(&[2, 37, 200], Draw::Uniform(1.0)), (&[2, 6, 37], Draw::Between(2.0, 3.0))],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: REASON,
    },
    Case {
        name: "attention_weights with lengths, 3 heads of 8",
        op: || {
            let mask = Mask::Lengths;
            Arc::new(AttentionWeights { forward: Attention { heads: 3, kv_heads: 3, mask, ..Attention::default() } })
        },
        inputs: &[
            (&[2, 10, 72], Draw::Uniform(1.0)),
            (&[2], Draw::Words(|| vec![7, 10])),
            (&[2, 3, 10], Draw::Between(2.0, 3.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: REASON,
    },
];
