//! attention_cached: attention of one new position of each row to itself and all before it, whose keys and values are cached.
//!
//!   qkv (B, 1, C + 2 KVC): q | k | v, of which q is read, or q (B, 1, C) apart;  cache (B, 2, KVH, T, HS): keys, then values
//!   positions (B) u32: the last key that each row's query sees, its own while decoding, whose keys and values are in the cache
//!   already. Where a query attends to keys from elsewhere, the last of them: their number less one, which wraps where a row has
//!   none, whose y is 0
//!   bias (NH, 2 T - 1), where there is one: added to the scaled scores, element j - i + T - 1 of a head's row for key j of a query
//!   at position i, as in `attention` of T positions
//!   y (B, 1, C)
//!   parts (B, NH, splits, HS + 4), slot 1, scratch: for each split the unscaled sum of values, then its maximum and its sum
//!
//! Time is split so that one long row keeps a whole GPU busy; a second kernel combines the splits: flash-decoding (Dao, Haziza,
//! Massa and Sizov 2023). Splits after the position, or before a window, end at once.
//! Cost: the filled cache is read once; T positions at most.

use super::attention::{Attention, Mask, Size};
use super::case::{Case, Draw};
use super::elementwise::{bytes, elementwise};
use crate::graph::op::as_ids;
use crate::graph::{AdapterKind, Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// y = softmax(scale q k^T + bias) v over the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionCached {
    /// How many keys the query sees at most, its own included; all before it if `None`.
    pub window: Option<usize>,
    /// Whether q stands alone: for keys that come from elsewhere.
    pub apart: bool,
    /// Whether a bias by head and distance is added to the scores.
    pub bias: bool,
    /// What scores are multiplied by: 1 / sqrt(HS) if `None`.
    pub scale: Option<f32>,
}

/// Keys of one split: enough that combining is cheap, few enough that a thousand keys make work for many cores.
const SPLIT: usize = 64;

/// Heads of queries that a workgroup works on, of `sharing` that share their keys and values: as many as let its sums of values fit
/// 9 KiB of workgroup memory, `columns` vec4 in each of its threads.
fn heads_together(sharing: usize, threads: usize, columns: usize) -> usize {
    let most = (576 / (threads * columns)).clamp(1, 8).min(threads);
    (1..=most).rev().find(|heads| sharing.is_multiple_of(*heads)).unwrap_or(1)
}

impl AttentionCached {
    /// Sizes of the cache, whose heads and the columns of qkv say how many heads of queries there are.
    fn size(&self, inputs: &[&Shape]) -> Size {
        let (qkv, cache) = (inputs[0], inputs[1]);
        let [batch, 2, kv_heads, time, hs] = cache.dims[..] else { panic!("attention_cached does not fit {inputs:?}") };
        let beside = if self.apart { 0 } else { 2 * kv_heads };
        let heads = (qkv.columns() / hs.max(1)).saturating_sub(beside);
        let fits = qkv.dims == [batch, 1, (heads + beside) * hs] && inputs[2].len() == batch;
        let fits = fits && inputs.len() == 3 + usize::from(self.bias);
        let fits = fits && (!self.bias || inputs[3].dims == [heads, 2 * time - 1]);
        assert!(fits, "attention_cached does not fit {inputs:?}");
        let mask = Mask::Causal { window: self.window };
        let attention = Attention { heads, kv_heads, mask, scale: self.scale, ..Attention::default() };
        let packed = Shape { dims: vec![batch, 1, (heads + 2 * kv_heads) * hs], dtype: qkv.dtype };
        let window = self.window.unwrap_or(time).min(time);
        Size { t: time, keys: time, window, apart: self.apart, ..attention.size(&[&packed]) }
    }
}

impl Op for AttentionCached {
    fn name(&self) -> &'static str {
        "attention_cached"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let size = self.size(inputs);
        let parts = Shape::f32(&[size.b, size.heads, size.t.div_ceil(SPLIT), size.hs + 4]);
        vec![inputs[0].with_columns(size.c()), parts]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size @ Size { b: batch, t: time, heads, kv_heads, hs, .. } = self.size(&shapes.inputs);
        let (splits, row) = (time.div_ceil(SPLIT), 2 * kv_heads * time * hs);
        let threads = match limits.adapter {
            AdapterKind::Gpu => SPLIT,
            AdapterKind::Software => 8,
        };
        // Threads side by side along a head's columns; those beyond share out the keys.
        let across = threads.min(hs / 4);
        let together = heads_together(heads / kv_heads, threads, (hs / 4).div_ceil(across));
        let partial = |rows: std::ops::Range<usize>| {
            let d = Dispatch::new(shader!("attention_cached"))
                .constant("B", rows.len())
                .constant("FIRST", rows.start)
                .constant("T", time)
                .constant("NH", heads)
                .constant("KVH", kv_heads)
                .constant("HEADS", together)
                .constant("HS", hs)
                .constant("WINDOW", size.window)
                .constant("SPLIT", SPLIT)
                .constant("THREADS", threads)
                .constant("ACROSS", across)
                .constant("ROW", size.row() / 4)
                .read(0)
                .read_range(1, bytes(&rows, row))
                .write(1)
                .read(2)
                .groups(limits.fold(rows.len() * (heads / together) * splits));
            let d = if let Some(scale) = self.scale { d.constant("SCALE", scale) } else { d };
            if self.bias { d.swap("bias_none", "bias_distance").read(3) } else { d }
        };
        let mut dispatches: Vec<Dispatch> =
            limits.entry_chunks(batch, row as u64 * 4).into_iter().map(partial).collect();
        dispatches.push(
            elementwise(shader!("attention_cached_combine"), batch * heads * hs / 4, limits)
                .constant("T", time)
                .constant("WINDOW", size.window)
                .constant("NH", heads)
                .constant("HS", hs)
                .constant("SPLIT", SPLIT)
                .constant("SPLITS", splits)
                .read_back(1)
                .write(0)
                .read(2),
        );
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let size @ Size { t: time, heads, kv_heads, hs, .. } = self.size(&shapes.inputs);
        for (i, y) in outputs[0].chunks_mut(hs).enumerate() {
            let (b, head) = (i / heads, i % heads);
            let q = &inputs[0][b * size.row() + head * hs..][..hs];
            let position = as_ids(inputs[2])[b];
            if position == u32::MAX {
                y.fill(0.0);
                continue;
            }
            let shared = head / (heads / kv_heads);
            let kept =
                |t: usize, part: usize| &inputs[1][(((b * 2 + part) * kv_heads + shared) * time + t) * hs..][..hs];
            let seen = size.seen(position as usize);
            let bias = |t: usize| match self.bias {
                true => f64::from(inputs[3][size.bias_at(head, position as usize, t)]),
                false => 0.0,
            };
            let scores: Vec<f64> = seen.clone().map(|t| size.score(q, kept(t, 0)) + bias(t)).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
            let weighted = |x: usize| {
                seen.clone().zip(&scores).map(|(t, s)| (s - most).exp() * f64::from(kept(t, 1)[x])).sum::<f64>()
            };
            y.iter_mut().enumerate().for_each(|(x, y)| *y = (weighted(x) / total) as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let cache = shapes.inputs[1];
        // Each of T keys and values meets every head of queries that shares it.
        let size = self.size(&shapes.inputs);
        Cost { flops: 2 * (cache.len() * size.heads / size.kv_heads) as u64, size_bytes: cache.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}

const REASON: &str =
    "scores below 2, whose exp WGSL allows 7 ulp, 4e-7 of each weight; the weights of a query sum to 1";

/// A case over queries, a cache, positions, and where there is one a bias.
macro_rules! case {
    ($name:literal, $op:expr, $inputs:expr) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: $inputs,
            gradient: false,
            position: 0,
            atol: 2e-6,
            rtol: 2e-6,
            reason: REASON,
        }
    };
}

pub const CASES: &[Case] = &[
    case!(
        "attention_cached at the first position, 3 heads of 4",
        AttentionCached::default(),
        &[
            (&[2, 1, 36], Draw::Uniform(1.0)),
            (&[2, 2, 3, 9, 4], Draw::Uniform(1.0)),
            (&[2], Draw::Words(|| vec![0, 0])),
        ]
    ),
    case!(
        "attention_cached at 200 of 300, 3 heads of 20",
        AttentionCached::default(),
        &[
            (&[3, 1, 180], Draw::Uniform(1.0)),
            (&[3, 2, 3, 300, 20], Draw::Uniform(1.0)),
            (&[3], Draw::Words(|| vec![200, 0, 299])),
        ]
    ),
    case!(
        "attention_cached at the last of 128, 2 heads of 128",
        AttentionCached::default(),
        &[
            (&[2, 1, 768], Draw::Uniform(1.0)),
            (&[2, 2, 2, 128, 128], Draw::Uniform(1.0)),
            (&[2], Draw::Words(|| vec![127, 0])),
        ]
    ),
    case!(
        "attention_cached, GPT-2's 12 heads of 64 at 1000 of 1024",
        AttentionCached::default(),
        &[
            (&[1, 1, 2304], Draw::Uniform(1.0)),
            (&[1, 2, 12, 1024, 64], Draw::Uniform(1.0)),
            (&[1], Draw::Words(|| vec![1000])),
        ]
    ),
    case!(
        "attention_cached, beyond one binding: 22 rows of 2 heads of 64, 1024 positions",
        AttentionCached::default(),
        &[(&[22, 1, 384], Draw::Uniform(1.0)), (&[22, 2, 2, 1024, 64], Draw::Uniform(1.0)), (&[22], Draw::Ids(1024)),]
    ),
    case!(
        "attention_cached at 99 of 130, 9 heads of 64 over 3 of keys",
        AttentionCached::default(),
        &[
            (&[2, 1, 960], Draw::Uniform(1.0)),
            (&[2, 2, 3, 130, 64], Draw::Uniform(1.0)),
            (&[2], Draw::Words(|| vec![99, 0])),
        ]
    ),
    case!(
        "attention_cached at 299 of 300 in a window of 100, 6 heads of 20 over 2 of keys",
        AttentionCached { window: Some(100), ..AttentionCached::default() },
        &[
            (&[2, 1, 200], Draw::Uniform(1.0)),
            (&[2, 2, 2, 300, 20], Draw::Uniform(1.0)),
            (&[2], Draw::Words(|| vec![299, 0])),
        ]
    ),
    case!(
        "attention_cached at 64 of 200 in a window of 1, 2 heads of 8",
        AttentionCached { window: Some(1), ..AttentionCached::default() },
        &[
            (&[3, 1, 48], Draw::Uniform(1.0)),
            (&[3, 2, 2, 200, 8], Draw::Uniform(1.0)),
            (&[3], Draw::Words(|| vec![64, 0, 199])),
        ]
    ),
    case!(
        "attention_cached at 30 of 200 in a window of 100, 4 heads of 8 over 1 of keys",
        AttentionCached { window: Some(100), ..AttentionCached::default() },
        &[
            (&[1, 1, 48], Draw::Uniform(1.0)),
            (&[1, 2, 1, 200, 8], Draw::Uniform(1.0)),
            (&[1], Draw::Words(|| vec![30])),
        ]
    ),
    case!(
        "attention_cached with a bias and a scale at 99, 0 and 129 of 130, 4 heads of 8 over 2 of keys",
        AttentionCached { bias: true, scale: Some(1.0), ..AttentionCached::default() },
        &[
            (&[3, 1, 64], Draw::Uniform(0.5)),
            (&[3, 2, 2, 130, 8], Draw::Uniform(1.0)),
            (&[3], Draw::Words(|| vec![99, 0, 129])),
            (&[4, 259], Draw::Uniform(1.0)),
        ]
    ),
    case!(
        "attention_cached to keys from elsewhere: 70, 1, none and 66 of 70, 3 heads of 20",
        AttentionCached { apart: true, ..AttentionCached::default() },
        &[
            (&[4, 1, 60], Draw::Uniform(1.0)),
            (&[4, 2, 3, 70, 20], Draw::Uniform(1.0)),
            (&[4], Draw::Words(|| vec![69, 0, u32::MAX, 65])),
        ]
    ),
];
