//! global_norm: the norm of all gradients together, the clip factor, and the guard against non-finite numbers.
//!
//! [`SquaredSum`] writes sums of squares of gradients that are stored together, one per 16384 elements, into its part of a list:
//!   gradients (any shape);  squares (P, 2), in place: the sum, and the place (u32 bits) of the value that makes it not finite
//! [`GlobalNorm`] reduces the list and publishes the numbers that the update and the log need:
//!   squares (P, 2);  report (8 and more, see [`super::scalars`]), in place;  loss_sum (1), in place, set to 0 for the next step
//!   norm = sqrt(sum of squares),  clip = min(1, max_norm / (norm + 1e-6)) (Pascanu et al. 2013; torch.nn.utils.clip_grad_norm_)
//!
//! Gradients and losses are divided by the number of micro-batches where that is largest; norm, clip and loss are multiplied by what
//! this step has less of them (`Step::growth`).
//!
//! A non-finite gradient or loss is found by its bits (WGSL lets compilers assume that NaN and infinity do not occur): the
//! step is then skipped, which costs nothing further. The first sum that is not finite tells the host which tensor it was, by
//! the place of the largest among its elements. Cost: 2 FLOPs and 4 bytes per gradient element.
//!
//! Gradients of mixed precision carry the loss scale (see [`super::loss_scale`]): norm and clip are divided by it. A gradient that
//! is not finite while the loss is has overflown: the scale is halved, down to 1, and the step is skipped without being counted.

use super::case::{Case, Draw};
use super::elementwise::bytes;
use super::loss_scale;
use crate::graph::{AdapterKind, Cost, Dispatch, Limits, Op, PLACE, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// Elements per sum.
const ELEMENTS: usize = 16384;
/// Places per sum: no two tensors have elements in the same one.
pub const PLACES: usize = ELEMENTS / PLACE;

/// Words of the report.
pub mod report {
    /// Mean loss over the step's micro-batches.
    pub const LOSS: usize = 0;
    /// Gradient norm before clipping.
    pub const NORM: usize = 1;
    /// The factor of the gradients: it clips them, and divides by the loss scale that they carry.
    pub const CLIP: usize = 2;
    /// One more than the place of the value that is not finite, counted over all sums (u32 bits); [`FINE`] if all are finite,
    /// [`LOSS_BAD`] if it is only the loss.
    pub const BAD: usize = 3;
    /// Updates applied so far, this one included (u32 bits): AdamW's step number.
    pub const UPDATES: usize = 4;
    /// Steps skipped since the last applied one, or the last whose loss scale was halved (u32 bits).
    pub const SKIPPED_IN_A_ROW: usize = 5;
    /// Mixed precision's loss scale from the next step on; 0 where it has not been set (see [`crate::ops::loss_scale`]).
    pub const SCALE: usize = 6;
    /// Steps that were fine since the loss scale changed (u32 bits).
    pub const STEADY: usize = 7;
    pub const LEN: usize = 8;

    pub const FINE: u32 = 0;
    pub const LOSS_BAD: u32 = 1 << 30;
}

/// The parts of the list are a multiple of this long, so that each can be bound by itself on any device.
const PART: usize = 64;

/// Sums in the list that gradients of `len` elements take; those they do not need stay 0.
pub fn sums(len: usize) -> usize {
    len.div_ceil(ELEMENTS).next_multiple_of(PART)
}

fn threads(limits: &Limits) -> u32 {
    if limits.adapter == AdapterKind::Gpu { 256 } else { 8 }
}

/// squares[first..] = sums of squares of gradients.
#[derive(Debug)]
pub struct SquaredSum {
    /// Where the part of these gradients begins in the list, a multiple of 64.
    pub first: usize,
}

impl Op for SquaredSum {
    fn name(&self) -> &'static str {
        "squared_sum"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let last = self.first + sums(inputs[0].len());
        let fits = self.first.is_multiple_of(PART) && inputs[0].len().is_multiple_of(4);
        assert!(fits && inputs[1].dims[1..] == [2] && last <= inputs[1].rows(), "squared_sum does not fit {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let mut dispatches = vec![];
        // Cut at whole sums.
        for piece in limits.row_chunks(shapes.inputs[0].len().div_ceil(ELEMENTS), ELEMENTS as u64 * 4) {
            let end = shapes.inputs[0].len().min(piece.end * ELEMENTS);
            dispatches.push(
                Dispatch::new(shader!("squared_sum"))
                    .constant("ELEMENTS", ELEMENTS)
                    .reducing(threads(limits), limits)
                    .read_range(0, (piece.start * ELEMENTS * 4) as u64..(end * 4) as u64)
                    .write_range(0, bytes(&(self.first + piece.start..self.first + piece.end), 2))
                    .groups(limits.fold(piece.len())),
            );
        }
        dispatches
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (piece, squares) in inputs[0].chunks(ELEMENTS).zip(outputs[0][2 * self.first..].chunks_mut(2)) {
            let sum = piece.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>() as f32;
            let magnitude = |i: &usize| (piece[*i].abs().to_bits(), std::cmp::Reverse(*i));
            let largest = (0..piece.len()).max_by_key(magnitude).filter(|_| !sum.is_finite()).unwrap_or(0);
            squares.copy_from_slice(&[sum, f32::from_bits((largest / PLACE) as u32)]);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 2 * shapes.inputs[0].len() as u64, size_bytes: shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

/// The report of a step, from all sums of squares and the sum of the micro-batches' losses.
#[derive(Debug)]
pub struct GlobalNorm {
    /// Gradients are scaled down to this norm; 0 leaves them alone.
    pub max_norm: f32,
    /// Micro-batches whose losses are in the sum, where they are most.
    pub micro_batches: usize,
    /// Fine steps after which the loss scale doubles, where gradients carry one.
    pub grow_after: Option<u32>,
}

impl Op for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs[0].columns() == 2 && inputs[1].len() >= report::LEN && inputs[2].len() == 1;
        assert!(inputs.len() == 3 && fits, "global_norm does not fit {inputs:?}");
        vec![inputs[1].clone(), inputs[2].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        vec![
            Dispatch::new(shader!("global_norm"))
                .constant("SUMS", shapes.inputs[0].rows())
                .constant("PLACES", PLACES)
                .constant("MAX_NORM", self.max_norm)
                .constant("MICRO_BATCHES", self.micro_batches)
                .reducing(threads(limits), limits)
                .constant("GROW_AFTER", self.grow_after.unwrap_or(0))
                .constant("INITIAL", loss_scale::INITIAL)
                .constant("LEAST", loss_scale::LEAST)
                .constant("MOST", loss_scale::MOST)
                .read(0)
                .write(0)
                .write(1)
                .step(),
        ]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let loss = outputs[1][0] / self.micro_batches as f32 * step.growth;
        outputs[1][0] = 0.0;
        let first = inputs[0].chunks(2).position(|squares| !squares[0].is_finite());
        let bad = match first {
            Some(i) => (1 + i * PLACES) as u32 + inputs[0][2 * i + 1].to_bits(),
            None if !loss.is_finite() => report::LOSS_BAD,
            None => report::FINE,
        };
        let scale = self.grow_after.map_or(1.0, |_| loss_scale::scale_of(outputs[0][report::SCALE]));
        let finite = inputs[0].chunks(2).map(|squares| f64::from(squares[0])).filter(|sum| sum.is_finite());
        let norm = finite.sum::<f64>().sqrt() / f64::from(scale) * f64::from(step.growth);
        let clip = if self.max_norm > 0.0 { (f64::from(self.max_norm) / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let out = &mut outputs[0];
        let (updates, skipped) = (out[report::UPDATES].to_bits(), out[report::SKIPPED_IN_A_ROW].to_bits());
        let fine = bad == report::FINE;
        out[report::LOSS] = loss;
        // A value that is not finite is reported as it is.
        out[report::NORM] = first.map_or(norm as f32, |i| inputs[0][2 * i]);
        out[report::CLIP] = (clip / f64::from(scale) * f64::from(step.growth)) as f32;
        out[report::BAD] = f32::from_bits(bad);
        out[report::UPDATES] = f32::from_bits(if fine { updates + 1 } else { updates });
        out[report::SKIPPED_IN_A_ROW] = f32::from_bits(if fine { 0 } else { skipped + 1 });
        let Some(grow_after) = self.grow_after else { return };
        let steady = if fine { out[report::STEADY].to_bits() + 1 } else { 0 };
        let (overflow, grows) = (!fine && loss.is_finite() && scale > loss_scale::LEAST, steady >= grow_after);
        out[report::SCALE] = match (overflow, grows) {
            (true, _) => (0.5 * scale).max(loss_scale::LEAST),
            (_, true) => (2.0 * scale).min(loss_scale::MOST),
            _ => scale,
        };
        if overflow {
            out[report::SKIPPED_IN_A_ROW] = 0.0;
        }
        out[report::STEADY] = f32::from_bits(if grows { 0 } else { steady });
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1), (1, 2)]
    }
}

const SUM: &str =
    "sums of 16384 squares below 1 in f32, by 8 or 256 threads: sqrt(2048) roundings of 6e-8 relative, tenfold";

/// Sums of squares and a report, whose loss scale grows with the fifth fine step.
macro_rules! scaled {
    ($name:literal, $squares:expr, $report:expr) => {
        Case {
            name: $name,
            op: || Arc::new(GlobalNorm { max_norm: 1.0, micro_batches: 3, grow_after: Some(5) }),
            inputs: &[
                (&[4, 2], Draw::Words($squares)),
                (&[report::LEN], Draw::Words($report)),
                (&[1], Draw::Between(1.0, 5.0)),
            ],
            gradient: false,
            position: 0,
            atol: 0.0,
            rtol: 1e-6,
            reason: "a sum of four and a square root; the scale is a power of two, and counters are exact",
        }
    };
}

pub const CASES: &[Case] = &[
    Case {
        name: "squared_sum 4",
        op: || Arc::new(SquaredSum { first: 64 }),
        inputs: &[(&[4], Draw::Uniform(1.0)), (&[128, 2], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-9,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "squared_sum 181x180",
        op: || Arc::new(SquaredSum { first: 128 }),
        inputs: &[(&[181, 180], Draw::Uniform(1.0)), (&[192, 2], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-9,
        rtol: 3e-5,
        reason: SUM,
    },
    Case {
        name: "squared_sum, beyond one binding: 3147x768",
        op: || Arc::new(SquaredSum { first: 0 }),
        inputs: &[(&[3147, 768], Draw::Uniform(1.0)), (&[192, 2], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-9,
        rtol: 3e-5,
        reason: SUM,
    },
    Case {
        name: "global_norm of 1000",
        op: || Arc::new(GlobalNorm { max_norm: 1.0, micro_batches: 3, grow_after: None }),
        inputs: &[
            (&[1000, 2], Draw::Between(0.1, 1.0)),
            (&[report::LEN], Draw::Ids(100)),
            (&[1], Draw::Between(1.0, 5.0)),
        ],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 1e-5,
        reason: "a sum of 1000 and a square root; the counters, denormal as floats, must be exact",
    },
    scaled!("global_norm with a loss scale that is not set yet", || squares(2.0), || report_of(0.0, 3, 1)),
    scaled!("global_norm with a loss scale that grows", || squares(2.0), || report_of(512.0, 0, 4)),
    scaled!("global_norm with a loss scale that is largest", || squares(2.0), || report_of(loss_scale::MOST, 0, 4)),
    scaled!("global_norm with a loss scale that overflows", || squares(f32::INFINITY), || report_of(512.0, 3, 4)),
    scaled!("global_norm with a loss scale that is least, and overflows", || squares(f32::INFINITY), || report_of(
        1.0, 3, 4
    )),
];

/// Four sums of squares, the third of which is given.
fn squares(third: f32) -> Vec<u32> {
    [1.5, 0.25, third, 7.0].into_iter().flat_map(|sum| [sum.to_bits(), 5]).collect()
}

/// The report of a step before: the loss scale, how many steps were skipped and how many were fine in a row.
fn report_of(scale: f32, skipped: u32, steady: u32) -> Vec<u32> {
    vec![0, 0, 0, 0, 9, skipped, scale.to_bits(), steady]
}
