//! attention_cached: attention of one new position per row to itself and all before it, whose keys and values are cached.
//!
//!   qkv (B, 1, 3C): q | k | v, of which q is read;  cache (B, 2, NH, T, HS): keys, then values
//!   y (B, 1, C) at position `Step::position`, whose own keys and values are in the cache already
//!   parts (B, NH, splits, HS + 4), slot 1, scratch: for each split the unscaled sum of values, then its maximum and its sum
//!
//! Time is split so that one long row keeps a whole GPU busy; a second kernel combines the splits: flash-decoding (Dao, Haziza,
//! Massa and Sizov 2023). Splits after the position end at once. Cost: the filled cache is read once; T positions at most.

use super::attention::dot;
use super::case::{Case, Draw};
use super::elementwise::{bytes, elementwise};
use crate::graph::{Cost, Dispatch, Family, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = softmax(q k^T / sqrt(HS)) v over the cache.
#[derive(Debug)]
pub struct AttentionCached;

/// Keys of one split: enough that combining is cheap, few enough that a thousand keys make work for many cores.
const SPLIT: usize = 64;

/// Batch, heads, time and head size.
fn size(inputs: &[&Shape]) -> [usize; 4] {
    let (qkv, cache) = (inputs[0], inputs[1]);
    let [batch, 2, heads, time, hs] = cache.dims[..] else { panic!("attention_cached does not fit {inputs:?}") };
    let fits = qkv.dims == [batch, 1, 3 * heads * hs] && hs.is_multiple_of(4) && hs <= 128;
    assert!(fits, "attention_cached does not fit {inputs:?}");
    [batch, heads, time, hs]
}

impl Op for AttentionCached {
    fn name(&self) -> &'static str {
        "attention_cached"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [batch, heads, time, hs] = size(inputs);
        let parts = Shape::f32(&[batch, heads, time.div_ceil(SPLIT), hs + 4]);
        vec![inputs[0].with_columns(heads * hs), parts]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let [batch, heads, time, hs] = size(&shapes.inputs);
        let (splits, row) = (time.div_ceil(SPLIT), 2 * heads * time * hs);
        let threads = match limits.family {
            Family::Gpu => SPLIT,
            Family::Software => 8,
        };
        // Threads side by side along a head's columns; those beyond share out the keys.
        let across = threads.min(hs / 4);
        let partial = |rows: std::ops::Range<usize>| {
            Dispatch::new(shader!("attention_cached"))
                .constant("B", rows.len())
                .constant("FIRST", rows.start)
                .constant("T", time)
                .constant("NH", heads)
                .constant("HS", hs)
                .constant("SPLIT", SPLIT)
                .constant("THREADS", threads)
                .constant("ACROSS", across)
                .read(0)
                .read_range(1, bytes(&rows, row))
                .write(1)
                .step()
                .groups(limits.fold(rows.len() * heads * splits))
        };
        let mut dispatches: Vec<Dispatch> =
            limits.entry_chunks(batch, row as u64 * 4).into_iter().map(partial).collect();
        dispatches.push(
            elementwise(shader!("attention_cached_combine"), batch * heads * hs / 4, limits)
                .constant("HS", hs)
                .constant("SPLIT", SPLIT)
                .constant("SPLITS", splits)
                .read_back(1)
                .write(0)
                .step(),
        );
        dispatches
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("attention_cached stands in generation only")
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let [_, heads, time, hs] = size(&shapes.inputs);
        let c = heads * hs;
        for (i, y) in outputs[0].chunks_mut(hs).enumerate() {
            let (b, at) = (i / heads, i % heads * hs);
            let q = &inputs[0][b * 3 * c + at..][..hs];
            let kept = |t: usize, part: usize| &inputs[1][(((b * 2 + part) * c + at) * time / hs + t) * hs..][..hs];
            let seen = 0..=step.position as usize;
            let scores: Vec<f64> = seen.clone().map(|t| dot(q, kept(t, 0)) / (hs as f64).sqrt()).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            let weighted =
                |x: usize| seen.clone().map(|t| (scores[t] - most).exp() * f64::from(kept(t, 1)[x])).sum::<f64>();
            y.iter_mut().enumerate().for_each(|(x, y)| *y = (weighted(x) / total) as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let cache = shapes.inputs[1];
        Cost { flops: 2 * cache.len() as u64, size_bytes: cache.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}

const REASON: &str =
    "scores below 2, whose exp WGSL allows 7 ulp, 4e-7 of each weight; the weights of a query sum to 1";

pub const CASES: &[Case] = &[
    Case {
        name: "attention_cached at the first position, 3 heads of 4",
        op: || Arc::new(AttentionCached),
        inputs: &[(&[2, 1, 36], Draw::Uniform(1.0)), (&[2, 2, 3, 9, 4], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "attention_cached at 200 of 300, 3 heads of 20",
        op: || Arc::new(AttentionCached),
        inputs: &[(&[3, 1, 180], Draw::Uniform(1.0)), (&[3, 2, 3, 300, 20], Draw::Uniform(1.0))],
        gradient: false,
        position: 200,
        atol: 2e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "attention_cached at the last of 128, 2 heads of 128",
        op: || Arc::new(AttentionCached),
        inputs: &[(&[2, 1, 768], Draw::Uniform(1.0)), (&[2, 2, 2, 128, 128], Draw::Uniform(1.0))],
        gradient: false,
        position: 127,
        atol: 2e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "attention_cached, GPT-2's 12 heads of 64 at 1000 of 1024",
        op: || Arc::new(AttentionCached),
        inputs: &[(&[1, 1, 2304], Draw::Uniform(1.0)), (&[1, 2, 12, 1024, 64], Draw::Uniform(1.0))],
        gradient: false,
        position: 1000,
        atol: 2e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "attention_cached, beyond one binding: 22 rows of 1024x1536",
        op: || Arc::new(AttentionCached),
        inputs: &[(&[22, 1, 2304], Draw::Uniform(1.0)), (&[22, 2, 12, 1024, 64], Draw::Uniform(1.0))],
        gradient: false,
        position: 66,
        atol: 2e-6,
        rtol: 2e-6,
        reason: REASON,
    },
];
