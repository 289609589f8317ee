//! column_sum: y[c] = sum over rows of x[r, c]: the gradient of a bias.
//!
//!   x (..., C), f32 or f16;  y (C);  partial (P, C), scratch
//!
//! Two stages in a fixed order: P workgroups each sum a strip of rows, then one pass sums the strips.
//! Cost: one FLOP and 4 bytes per element of x.

use super::case::{Case, Draw};
use super::elementwise::{bytes_of, width};
use crate::graph::{Cost, Dispatch, Dtype, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// y = sum of x over rows, or y += it.
#[derive(Clone, Debug, Default)]
pub struct ColumnSum {
    /// The second input (C) is added to, in place.
    pub accumulate: bool,
}

/// Rows summed by one thread before the second stage.
const STRIP_ROWS: usize = 64;

impl Op for ColumnSum {
    fn name(&self) -> &'static str {
        "column_sum"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (rows, columns) = (inputs[0].rows(), inputs[0].columns());
        let y = if self.accumulate { inputs[1].clone() } else { Shape::f32(&[columns]) };
        assert!(y.len() == columns, "column_sum of {:?} does not add into {y:?}", inputs[0]);
        vec![y, Shape::f32(&[rows.div_ceil(STRIP_ROWS), columns])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, columns) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let strips = shapes.outputs[1].rows();
        let blocks = columns.div_ceil(64);
        let width = width(columns);
        let mut dispatches = vec![];
        for piece in limits.row_chunks(rows, columns as u64 * 4) {
            // Pieces are cut at multiples of 64 rows, so a strip lies in one piece.
            let strip = piece.start / STRIP_ROWS;
            let count = piece.len().div_ceil(STRIP_ROWS);
            assert!(piece.start % STRIP_ROWS == 0, "pieces of {} rows do not hold whole strips", piece.start);
            let dtype = shapes.inputs[0].dtype;
            dispatches.push(
                Dispatch::new(shader!("column_sum"))
                    .constant("ROWS", piece.len())
                    .constant("C", columns / width)
                    .constant("STRIP_ROWS", STRIP_ROWS)
                    .constant("FIRST_STRIP", strip)
                    .elements("X_TYPE", dtype, width)
                    .elements("VALUES", Dtype::F32, width)
                    .read_range(0, bytes_of(dtype, &piece, columns))
                    .write(1)
                    .groups(limits.fold(count * (columns / width).div_ceil(64))),
            );
        }
        dispatches.push(
            Dispatch::new(shader!("column_sum_final"))
                .constant("STRIPS", strips)
                .constant("C", columns)
                .constant("ACCUMULATE", self.accumulate)
                .read_back(1)
                .write(0)
                .groups(limits.fold(blocks)),
        );
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let columns = shapes.inputs[0].columns();
        let mut sums = vec![0.0f64; columns];
        for row in inputs[0].chunks(columns) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        for (y, sum) in outputs[0].iter_mut().zip(sums) {
            *y = if self.accumulate { *y } else { 0.0 } + sum as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.inputs[0].len() as u64, size_bytes: shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 1)] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        (slot == 0 && !self.accumulate).then(|| Arc::new(ColumnSum { accumulate: true }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        1
    }
}

const SUM: &str = "f32 sums of R numbers below 1 in two stages: about sqrt(R) roundings of sums up to sqrt(R), tenfold";

pub const CASES: &[Case] = &[
    Case {
        name: "column_sum 1x1",
        op: || Arc::new(ColumnSum::default()),
        inputs: &[(&[1, 1], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "column_sum += 3x65x67",
        op: || Arc::new(ColumnSum { accumulate: true }),
        inputs: &[(&[3, 65, 67], Draw::Uniform(1.0)), (&[67], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "column_sum += f16 3x65x68",
        op: || Arc::new(ColumnSum { accumulate: true }),
        inputs: &[(&[3, 65, 68], Draw::Half(1.0)), (&[68], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "column_sum 65601x5",
        op: || Arc::new(ColumnSum::default()),
        inputs: &[(&[65601, 5], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 5e-4,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "column_sum, rows beyond one binding: 3147x768",
        op: || Arc::new(ColumnSum::default()),
        inputs: &[(&[3147, 768], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 5e-4,
        rtol: 1e-6,
        reason: SUM,
    },
];
