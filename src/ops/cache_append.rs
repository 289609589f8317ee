//! cache_append: keys and values of S new positions are stored in the cache that later positions attend to.
//!
//!   qkv (B, S, C + 2 KVC): q | k | v, or k | v alone, C = NH * HS, KVC = KVH * HS;  cache (rows, 2, KVH, T, HS): keys, then values, in place
//!
//! The keys, or values, of one head are contiguous, so that it streams them from memory. Row b of qkv goes to row
//! `Step::row + b`, its first position to `positions[b]`, (B) u32, or to `Step::position` where those are not given. Positions
//! from T on, which only fill up a window, and rows that the cache lacks are dropped.
//! Cost: k | v is read and written once.

use super::case::{Case, Draw};
use super::elementwise::{bytes, elementwise};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// cache[row + b, position + s] = k | v of qkv[b, s]; a third input is a position for each row b.
#[derive(Debug)]
pub struct CacheAppend;

impl Op for CacheAppend {
    fn name(&self) -> &'static str {
        "cache_append"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = match inputs[1].dims[..] {
            [_, 2, kv_heads, _, hs] if inputs[0].dims.len() == 3 && hs > 0 && hs.is_multiple_of(4) => {
                inputs[0].columns() >= 2 * kv_heads * hs && inputs[0].columns().is_multiple_of(hs)
            }
            _ => false,
        };
        let fits = fits && inputs.get(2).is_none_or(|positions| positions.len() == inputs[0].dims[0]);
        assert!(fits, "cache_append takes (B, S, C + 2 KVC), (rows, 2, KVH, T, HS) and B positions, not {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (qkv, cache) = (shapes.inputs[0], shapes.inputs[1]);
        let [rows, _, kv_heads, time, hs] = cache.dims[..] else { unreachable!("checked in outputs") };
        let row = 2 * kv_heads * time * hs;
        let piece = |(fed, kept): (Range<usize>, Range<usize>)| {
            let d = elementwise(shader!("cache_append"), fed.len() * 2 * kv_heads * hs / 4, limits)
                .constant("S", qkv.dims[1])
                .constant("T", time)
                .constant("KVH", kv_heads)
                .constant("HV", hs / 4)
                .constant("ROW", qkv.columns() / 4)
                .constant("FIRST_FED", fed.start)
                .constant("FIRST_ROW", kept.start)
                .constant("ROWS", kept.len())
                .read_range(0, bytes(&fed, qkv.columns()))
                .write_range(0, bytes(&kept, row))
                .step();
            if shapes.inputs.len() > 2 { d.swap("first_position", "first_position_by_row").read(2) } else { d }
        };
        let caches = limits.entry_chunks(rows, row as u64 * 4);
        let feds = limits.row_chunks(qkv.rows(), (qkv.columns() * 4) as u64);
        feds.into_iter().flat_map(|f| caches.iter().map(move |c| (f.clone(), c.clone()))).map(piece).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let [rows, _, kv_heads, time, hs] = shapes.inputs[1].dims[..] else { unreachable!("checked in outputs") };
        let fed = shapes.inputs[0].dims[1];
        for (n, qkv) in inputs[0].chunks(shapes.inputs[0].columns()).enumerate() {
            let first = inputs.get(2).map_or(step.position, |positions| as_ids(positions)[n / fed]);
            let (row, t) = (step.row as usize + n / fed, first as usize + n % fed);
            if row < rows && t < time {
                for (part, values) in qkv[qkv.len() - 2 * kv_heads * hs..].chunks(hs).enumerate() {
                    outputs[0][((row * 2 * kv_heads + part) * time + t) * hs..][..hs].copy_from_slice(values);
                }
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let [_, _, kv_heads, _, hs] = shapes.inputs[1].dims[..] else { unreachable!("checked in outputs") };
        Cost { flops: 0, size_bytes: 2 * 4 * (shapes.inputs[0].rows() * 2 * kv_heads * hs) as u64 }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "cache_append of one position to 3 rows of 9, 3 heads of 4",
        op: || Arc::new(CacheAppend),
        inputs: &[(&[3, 1, 36], Draw::Uniform(1.0)), (&[3, 2, 3, 9, 4], Draw::Uniform(1.0))],
        gradient: false,
        position: 8,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "cache_append of a window that is longer than what is left: 7 positions at 5 of 9",
        op: || Arc::new(CacheAppend),
        inputs: &[(&[1, 7, 36], Draw::Uniform(1.0)), (&[2, 2, 1, 9, 12], Draw::Uniform(1.0))],
        gradient: false,
        position: 5,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "cache_append of one position to 4 rows of 9, each at a position of its own, one past the end",
        op: || Arc::new(CacheAppend),
        inputs: &[
            (&[4, 1, 36], Draw::Uniform(1.0)),
            (&[4, 2, 3, 9, 4], Draw::Uniform(1.0)),
            (&[4], Draw::Words(|| vec![8, 0, 9, 4])),
        ],
        gradient: false,
        position: 2,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "cache_append of 3 positions of 6 heads of 4 over 2 of keys to 2 rows of 9",
        op: || Arc::new(CacheAppend),
        inputs: &[(&[2, 3, 40], Draw::Uniform(1.0)), (&[2, 2, 2, 9, 4], Draw::Uniform(1.0))],
        gradient: false,
        position: 4,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
];
