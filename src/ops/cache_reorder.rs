//! cache_reorder: row r of a cache becomes a copy of row `parents[r]`, in place: beams follow their parents, and the rows of
//! a batch share one prompt.
//!
//!   x (rows, ..., columns), any 4-byte type;  parents (rows) u32
//!
//! A thread reads its four columns of all rows before it writes any, so rows may be swapped and copied at will. With
//! `filled`, x is a (rows, 2, NH, T, HS) cache and only the positions before `Step::position` move.
//! Cost: x is read and written once.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// Rows that a thread can hold at once.
pub const MOST_ROWS: usize = 64;

/// x[r] = x[parents[r]].
#[derive(Debug)]
pub struct CacheReorder {
    /// Only positions before `Step::position` hold anything.
    pub filled: bool,
}

impl Op for CacheReorder {
    fn name(&self) -> &'static str {
        "cache_reorder"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].dims[0];
        let fits = inputs[1].len() == rows && rows <= MOST_ROWS && inputs[0].columns().is_multiple_of(4);
        assert!(fits, "cache_reorder takes up to {MOST_ROWS} rows and as many parents, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let x = shapes.inputs[0];
        let row = x.len() / x.dims[0];
        let dispatch = elementwise(shader!("cache_reorder"), row / 4, limits)
            .constant("ROWS", x.dims[0])
            .constant("T", if self.filled { x.dims[3] } else { 0 })
            .constant("HV", if self.filled { x.dims[4] / 4 } else { 1 })
            .read(1)
            .write(0)
            .step();
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let x = shapes.inputs[0];
        let row = x.len() / x.dims[0];
        // Whole rows, or for each head the filled positions.
        let (run, moved) = match (self.filled, &x.dims[..]) {
            (true, [.., time, hs]) => (time * hs, step.position as usize * hs),
            _ => (row, row),
        };
        for (y, parent) in outputs[0].chunks_mut(row).zip(as_ids(inputs[1])) {
            let from = inputs[0][*parent as usize * row..][..row].chunks(run);
            y.chunks_mut(run).zip(from).for_each(|(y, from)| y[..moved].copy_from_slice(&from[..moved]));
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "cache_reorder of the filled part of 4 rows, 3 heads of 9x8",
        op: || Arc::new(CacheReorder { filled: true }),
        inputs: &[(&[4, 2, 3, 9, 8], Draw::Uniform(1.0)), (&[4], Draw::Ids(4))],
        gradient: false,
        position: 7,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "cache_reorder of whole rows 5x2000",
        op: || Arc::new(CacheReorder { filled: false }),
        inputs: &[(&[5, 2000], Draw::Uniform(1.0)), (&[5], Draw::Ids(5))],
        gradient: false,
        position: 3,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
];
