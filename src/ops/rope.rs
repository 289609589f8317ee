//! rope: rotary position embedding (Su et al. 2021) of the heads that come first in a row, such as q and k of q | k | v, in
//! the form in which Hugging Face stores weights: element i of a head turns with element i + HS / 2.
//!
//!   x, y (B, T, columns), f32 or f16, in place: heads of HS columns, the first `heads` of which turn;  table (T, HS): cos | sin,
//!   or (B * T, HS): angles for each row
//!   y[i] = x[i] cos - x[i + HS/2] sin,  y[i + HS/2] = x[i + HS/2] cos + x[i] sin,  angle = position * inverse frequency i
//!
//! Backward turns by the negative angle. rope_table makes the table, once for all layers, at positions from `Step::position`
//! on, or at the position of each row. Its angle is a product of two f32, as in transformers, which computes its cos and sin likewise.
//! Cost: 3 FLOPs per element that turns, read and written once.

use super::case::{Case, Draw};
use super::elementwise::{bytes, bytes_of, elementwise};
use crate::graph::op::as_ids;
use crate::graph::{Constant, Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::f32::consts::PI;
use std::ops::Range;
use std::sync::Arc;

/// How the frequencies are changed for contexts that are longer than those of pretraining.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// All divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f32,
    },
    /// Slow ones divided by `factor`, fast ones kept, a ramp between (Llama 3.1: Grattafiori et al. 2024).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: usize,
    },
}

impl Scaling {
    /// HS / 2 inverse frequencies, in radians per position, with the roundings of transformers.
    pub fn inverse_frequencies(self, base: f32, head_size: usize) -> Vec<f32> {
        let plain = (0..head_size / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_size as f32;
            1.0 / f64::from(base).powf(f64::from(exponent)) as f32
        });
        plain.map(|frequency| self.scaled(frequency)).collect()
    }

    fn scaled(self, frequency: f32) -> f32 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let context = original_context as f32;
                let wavelength = 2.0 * PI / frequency;
                if wavelength < context / high_freq_factor {
                    frequency
                } else if wavelength > context / low_freq_factor {
                    frequency / factor
                } else {
                    let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// table (T, HS) of cos | sin. Its only input, where it has one, are T positions, u32.
#[derive(Clone, Debug)]
pub struct RopeTable {
    pub time: usize,
    pub head_size: usize,
    /// `rope_theta` in Hugging Face configurations.
    pub base: f32,
    pub scaling: Scaling,
}

impl RopeTable {
    fn frequencies(&self) -> Vec<f32> {
        self.scaling.inverse_frequencies(self.base, self.head_size)
    }
}

impl Op for RopeTable {
    fn name(&self) -> &'static str {
        "rope_table"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() < 2 && inputs.iter().all(|positions| positions.len() == self.time);
        assert!(fits, "rope_table takes nothing, or {} positions, not {inputs:?}", self.time);
        assert!(self.head_size.is_multiple_of(2), "rope_table turns pairs of columns, not heads of {}", self.head_size);
        vec![Shape::f32(&[self.time, self.head_size])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let piece = |rows: Range<usize>| {
            let d = elementwise(shader!("rope_table"), rows.len() * self.head_size / 2, limits)
                .constant("FIRST", rows.start)
                .constant("HALF", self.head_size / 2)
                .constant("FREQUENCIES", Constant::Table(self.frequencies().into()))
                .write_range(0, bytes(&rows, self.head_size));
            if shapes.inputs.is_empty() { d.step() } else { d.swap("row_positions", "row_positions_given").read(0) }
        };
        limits.row_chunks(self.time, self.head_size as u64 * 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let frequencies = self.frequencies();
        for (t, row) in outputs[0].chunks_mut(self.head_size).enumerate() {
            let position = inputs.first().map_or(step.position + t as u32, |positions| as_ids(positions)[t]);
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = f64::from(position as f32 * frequency);
                row[i] = angle.cos() as f32;
                row[self.head_size / 2 + i] = angle.sin() as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// y = rope(x, table), in place over x.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Heads of a row that are rotated, from the first on; the columns behind them pass unchanged.
    pub heads: usize,
    /// Turns by the negative angle.
    pub inverse: bool,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        if self.inverse { "rope_backward" } else { "rope" }
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && inputs[0].dims.len() == 3 && inputs[1].dims.len() == 2;
        let fits = fits && (inputs[0].dims[1] == inputs[1].rows() || inputs[0].rows() == inputs[1].rows());
        assert!(fits, "rope takes (B, T, columns) and a table (T, HS) or (B * T, HS), not {inputs:?}");
        let hs = inputs[1].columns();
        let fits =
            hs.is_multiple_of(4) && inputs[0].columns().is_multiple_of(hs) && self.heads * hs <= inputs[0].columns();
        assert!(fits && self.heads > 0, "rope of {} heads of 4, 8, .. columns does not fit {inputs:?}", self.heads);
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (x, hs) = (shapes.inputs[0], shapes.inputs[1].columns());
        let piece = |rows: Range<usize>| {
            elementwise(shader!("rope"), rows.len() * self.heads * hs / 4, limits)
                .constant("FIRST", rows.start)
                .constant("T", shapes.inputs[1].rows())
                .constant("HEADS", self.heads)
                .constant("HS", hs)
                .constant("COLUMNS", x.columns())
                .constant("INVERSE", self.inverse)
                .element("X_TYPE", x.dtype)
                .read(1)
                .write_range(0, bytes_of(x.dtype, &rows, x.columns()))
        };
        limits.row_chunks(x.rows(), x.row_bytes()).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let table = g.nodes()[node].inputs[1];
        let backward = Rope { inverse: !self.inverse, ..self.clone() };
        vec![Some(g.apply(backward, &[dy, table])), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (time, columns, hs) = (shapes.inputs[1].rows(), shapes.inputs[0].columns(), shapes.inputs[1].columns());
        for (r, row) in outputs[0].chunks_mut(columns).enumerate() {
            let (cos, sin) = inputs[1][r % time * hs..][..hs].split_at(hs / 2);
            for head in row.chunks_mut(hs).take(self.heads) {
                let (low, high) = head.split_at_mut(hs / 2);
                for i in 0..hs / 2 {
                    let (x, z) = (f64::from(low[i]), f64::from(high[i]));
                    let (c, s) = (f64::from(cos[i]), f64::from(if self.inverse { -sin[i] } else { sin[i] }));
                    (low[i], high[i]) = ((x * c - z * s) as f32, (z * c + x * s) as f32);
                }
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let turned = (shapes.inputs[0].rows() * self.heads * shapes.inputs[1].columns()) as u64;
        Cost {
            flops: 3 * turned,
            size_bytes: 2 * shapes.inputs[0].dtype.size_bytes() * turned + shapes.inputs[1].size_bytes(),
        }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const TURN: &str = "two products of numbers up to 1 and their sum";
const TABLE: &str = "the angle is cut to a quarter turn in integers, to 1.5e-9; as f32, its products and the series round five \
                     times by 6e-8 of up to 1";
const LLAMA3: Scaling =
    Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };

/// A table from a position on.
macro_rules! table {
    ($name:literal, $time:literal, $head_size:literal, $base:literal, $scaling:expr, $position:literal) => {
        Case {
            name: $name,
            op: || Arc::new(RopeTable { time: $time, head_size: $head_size, base: $base, scaling: $scaling }),
            inputs: &[],
            gradient: false,
            position: $position,
            atol: 3e-7,
            rtol: 0.0,
            reason: TABLE,
        }
    };
}

/// Rows and a table; any numbers turn, also such as are no cos and sin.
macro_rules! case {
    ($name:literal, $heads:literal, $rows:expr, $table:expr, $gradient:literal) => {
        Case {
            name: $name,
            op: || Arc::new(Rope { heads: $heads, inverse: false }),
            inputs: &[(&$rows, Draw::Uniform(1.0)), (&$table, Draw::Uniform(1.0))],
            gradient: $gradient,
            position: 0,
            atol: 3e-7,
            rtol: 0.0,
            reason: TURN,
        }
    };
}

pub const CASES: &[Case] = &[
    table!("rope_table 1x2", 1, 2, 10000.0, Scaling::None, 3),
    table!("rope_table 257x64", 257, 64, 10000.0, Scaling::None, 0),
    table!("rope_table 300x20 from 4000 on, linear", 300, 20, 1e6, Scaling::Linear { factor: 4.0 }, 4000),
    table!("rope_table 1024x128 from 130000 on, Llama 3", 1024, 128, 500000.0, LLAMA3, 130_000),
    table!("rope_table 3x64 from 16000000 on", 3, 64, 10000.0, Scaling::None, 16_000_000),
    case!("rope of one head of 4, 1x1", 1, [1, 1, 4], [1, 4], true),
    case!("rope of 4 heads of 20 out of 6, 2x7", 4, [2, 7, 120], [7, 20], true),
    Case {
        name: "rope of 4 f16 heads of 20 out of 6, 2x7",
        op: || Arc::new(Rope { heads: 4, inverse: false }),
        inputs: &[(&[2, 7, 120], Draw::Half(1.0)), (&[7, 20], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4",
    },
    case!("rope, SmolLM2's 9 + 3 heads of 64, 1x128", 12, [1, 128, 960], [128, 64], true),
    case!("rope, beyond one binding: 6 of 8 heads of 64, 3x1875", 6, [3, 1875, 512], [1875, 64], false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_from_one_and_scaling_slows_them() {
        let plain = Scaling::None.inverse_frequencies(10000.0, 64);
        assert_eq!((plain.len(), plain[0]), (32, 1.0));
        assert!(plain.is_sorted_by(|a, b| a > b));
        let halves: Vec<f32> = plain.iter().map(|f| f / 2.0).collect();
        assert_eq!(Scaling::Linear { factor: 2.0 }.inverse_frequencies(10000.0, 64), halves);
        let plain = Scaling::None.inverse_frequencies(500_000.0, 128);
        let scaled = LLAMA3.inverse_frequencies(500_000.0, 128);
        assert_eq!(scaled[0], 1.0, "a wavelength of 6 positions stays");
        assert_eq!(scaled[63], plain[63] / 8.0, "one of 2.5 million is a multiple of the factor");
        let between = plain.iter().zip(&scaled).filter(|(p, s)| *p / *s > 1.001 && *p / *s < 7.999).count();
        assert!((1..20).contains(&between), "{between} frequencies lie on the ramp");
    }

    #[test]
    fn turning_back_gives_the_same_numbers() {
        let shapes = Shapes { inputs: vec![], outputs: vec![] };
        let mut table = vec![vec![0.0; 3 * 8]];
        let op = RopeTable { time: 3, head_size: 8, base: 100.0, scaling: Scaling::None };
        op.reference(&shapes, &[], &mut table, &Step { position: 5, ..Step::default() });
        let (x, t) = (Shape::f32(&[1, 3, 16]), Shape::f32(&[3, 8]));
        let shapes = Shapes { inputs: vec![&x, &t], outputs: vec![&x] };
        let start: Vec<f32> = (0..48).map(|i| (i as f32).sin()).collect();
        let mut y = vec![start.clone()];
        Rope { heads: 2, inverse: false }.reference(&shapes, &[&start, &table[0]], &mut y, &Step::default());
        assert!(y[0].iter().zip(&start).all(|(y, x)| y != x));
        Rope { heads: 2, inverse: true }.reference(&shapes, &[&start, &table[0]], &mut y, &Step::default());
        // cos^2 + sin^2 is 1 to within the roundings of both.
        assert!(y[0].iter().zip(&start).all(|(y, x)| (y - x).abs() <= 3e-7));
    }
}
