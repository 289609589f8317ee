//! cache_append: keys and values of S new positions are stored in the cache that later positions attend to.
//!
//!   qkv (B, S, 3C): q | k | v;  cache (rows, T, 2C): k | v of each position, in place
//!
//! Row b of qkv goes to row `Step::row + b`, its first position to `Step::position`. Positions from T on, which only fill up
//! a window, and rows that the cache lacks are dropped. Cost: 2/3 of qkv is read and written once.

use super::case::{Case, Draw};
use super::elementwise::{bytes, elementwise};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// cache[row + b, position + s] = k | v of qkv[b, s].
#[derive(Debug)]
pub struct CacheAppend;

impl Op for CacheAppend {
    fn name(&self) -> &'static str {
        "cache_append"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs[0].dims.len() == 3 && inputs[1].dims.len() == 3;
        let fits = fits && inputs[0].columns().is_multiple_of(12) && 2 * inputs[0].columns() == 3 * inputs[1].columns();
        assert!(fits, "cache_append takes (B, S, 3C) and (rows, T, 2C), C a multiple of 4, not {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (qkv, cache) = (shapes.inputs[0], shapes.inputs[1]);
        let (time, columns) = (cache.dims[1], cache.columns());
        let piece = |(new, rows): (std::ops::Range<usize>, std::ops::Range<usize>)| {
            elementwise(shader!("cache_append"), new.len() * columns / 4, limits)
                .constant("S", qkv.dims[1])
                .constant("T", time)
                .constant("CV", columns / 8)
                .constant("FIRST_NEW", new.start)
                .constant("FIRST_ROW", rows.start)
                .constant("ROWS", rows.len())
                .read_range(0, bytes(&new, qkv.columns()))
                .write_range(0, bytes(&rows, time * columns))
                .step()
        };
        let caches = limits.entry_chunks(cache.dims[0], (time * columns * 4) as u64);
        let news = limits.row_chunks(qkv.rows(), (qkv.columns() * 4) as u64);
        news.into_iter().flat_map(|n| caches.iter().map(move |c| (n.clone(), c.clone()))).map(piece).collect()
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("cache_append stands in generation only")
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let (news, kept) = (shapes.inputs[0].dims[1], shapes.inputs[1].columns());
        let (rows, time) = (shapes.inputs[1].dims[0], shapes.inputs[1].dims[1]);
        for (n, qkv) in inputs[0].chunks(kept / 2 * 3).enumerate() {
            let (row, t) = (step.row as usize + n / news, step.position as usize + n % news);
            if row < rows && t < time {
                outputs[0][(row * time + t) * kept..][..kept].copy_from_slice(&qkv[kept / 2..]);
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.inputs[0].size_bytes() / 3 * 4 }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "cache_append of one position to 3 rows of 9x24",
        op: || Arc::new(CacheAppend),
        inputs: &[(&[3, 1, 36], Draw::Uniform(1.0)), (&[3, 9, 24], Draw::Uniform(1.0))],
        gradient: false,
        position: 8,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "cache_append of a window that is longer than what is left: 7 positions at 5 of 9",
        op: || Arc::new(CacheAppend),
        inputs: &[(&[1, 7, 36], Draw::Uniform(1.0)), (&[2, 9, 24], Draw::Uniform(1.0))],
        gradient: false,
        position: 5,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
];
