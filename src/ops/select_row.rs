//! select_row: y[b] = x[b, position]: the hidden state of one position, so that only its logits are computed.
//!
//!   x (B, T, C);  y (B, C);  the position comes with each replay (`Step::position`)
//!
//! Cost: y is read and written once.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y[b] = x[b, position].
#[derive(Debug)]
pub struct SelectRow;

impl Op for SelectRow {
    fn name(&self) -> &'static str {
        "select_row"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && inputs[0].dims.len() == 3, "select_row takes a (B, T, C) tensor, not {inputs:?}");
        vec![Shape::f32(&[inputs[0].dims[0], inputs[0].dims[2]])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let [batch, time, c] = shapes.inputs[0].dims[..] else { unreachable!("checked in outputs") };
        let row_bytes = (c * 4) as u64;
        let piece = |rows: std::ops::Range<usize>| {
            elementwise(shader!("select_row"), batch * c, limits)
                .constant("C", c)
                .constant("T", time)
                .constant("FIRST_ROW", rows.start)
                .constant("ROWS", rows.len())
                .read_range(0, rows.start as u64 * row_bytes..rows.end as u64 * row_bytes)
                .write(0)
                .step()
        };
        limits.row_chunks(batch * time, row_bytes).into_iter().map(piece).collect()
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("select_row stands in generation only")
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let [_, time, c] = shapes.inputs[0].dims[..] else { unreachable!("checked in outputs") };
        for (b, y) in outputs[0].chunks_mut(c).enumerate() {
            y.copy_from_slice(&inputs[0][(b * time + step.position as usize) * c..][..c]);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "select_row of 3x5x67",
        op: || Arc::new(SelectRow),
        inputs: &[(&[3, 5, 67], Draw::Uniform(1.0))],
        gradient: false,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
    Case {
        name: "select_row, beyond one binding: 49x1024x768",
        op: || Arc::new(SelectRow),
        inputs: &[(&[49, 1024, 768], Draw::Uniform(1.0))],
        gradient: false,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy",
    },
];
