//! ceiling: kernels that measure a device's peak, for comparison with all others: multiply-adds without memory, and a copy
//! without arithmetic.
//!
//!   fma: x (LEN), coefficients (2) -> y (LEN), the sum of eight chains x + j/8 <- (..) a + b, `rounds` steps long
//!   cooperative: X (16, 16) or (8, 8), LEN threads -> y (LEN), sums of `rounds` products X X by cooperative matrices
//!   copy: x (LEN) -> y (LEN)
//!
//! Cost: 16 FLOPs per element and round; 32 side^3 per subgroup and round; 8 bytes per element copied. Measured by `gpu::ceilings`.

use super::case::{Case, Draw};
use crate::graph::{Cost, Dispatch, Dtype, Limits, Op, Shader, Shape, Shapes, Step};
use crate::shader;
use std::sync::{Arc, LazyLock};

/// Eight chains of multiply-adds per element.
#[derive(Clone, Debug)]
pub struct Fma {
    /// Steps of each chain: a multiple of 8.
    pub rounds: usize,
    /// In f16, which the device must have.
    pub half: bool,
}

impl Op for Fma {
    fn name(&self) -> &'static str {
        "ceiling_fma"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2 && inputs[1].len() == 2, "ceiling_fma takes values and two numbers, not {inputs:?}");
        assert!(self.rounds.is_multiple_of(8), "{} rounds are not a multiple of 8", self.rounds);
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let len = shapes.inputs[0].len();
        let groups = limits.fold(len.div_ceil(256));
        let real = if self.half { Dtype::F16 } else { Dtype::F32 };
        let d = Dispatch::new(shader!("ceiling_fma")).element("Real", real);
        let d = d.constant("LEN", len).constant("ROUNDS", self.rounds);
        vec![d.read(0).read(1).write(0).groups(groups)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (a, b) = (f64::from(inputs[1][0]), f64::from(inputs[1][1]));
        for (y, x) in outputs[0].iter_mut().zip(inputs[0]) {
            let chain = |j: u32| (0..self.rounds).fold(f64::from(*x) + f64::from(j) / 8.0, |v, _| v * a + b);
            *y = (0..8).map(chain).sum::<f64>() as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: (16 * self.rounds * shapes.inputs[0].len()) as u64, size_bytes: shapes.size_bytes() }
    }
}

/// y from products of cooperative matrices, f16 summed in f32: an element of 16 times `rounds` X X for each thread.
#[derive(Clone, Debug)]
pub struct Cooperative {
    /// Rows and columns of a matrix: 16 or 8.
    pub side: usize,
    /// Products in each of a subgroup's 16 sums.
    pub rounds: usize,
    /// Lanes of a subgroup, to count how many there are.
    pub lanes: usize,
}

/// Threads of a workgroup of [`Cooperative`].
const COOPERATIVE_THREADS: usize = 128;

/// The shader with matrices of 8 x 8.
static SMALL: LazyLock<String> = LazyLock::new(|| shader!("ceiling_cooperative").source.replace("16x16", "8x8"));

impl Op for Cooperative {
    fn name(&self) -> &'static str {
        "ceiling_cooperative"
    }

    /// The input is X (side, side), and one word for each thread.
    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && inputs[0].len() == self.side * self.side;
        assert!(fits && [8, 16].contains(&self.side), "ceiling_cooperative takes a matrix and threads, not {inputs:?}");
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let full = shader!("ceiling_cooperative");
        let shader = if self.side == 8 { Shader { source: SMALL.as_str(), ..full } } else { full };
        let len = shapes.outputs[0].len();
        let d = Dispatch::new(shader).constant("TILE", self.side).constant("LEN", len).constant("ROUNDS", self.rounds);
        vec![d.read(0).write(0).groups(limits.fold(len.div_ceil(COOPERATIVE_THREADS)))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let half = |i: usize| half::f16::from_f32(inputs[0][i]).to_f64();
        for (at, y) in outputs[0].iter_mut().enumerate() {
            let element = at % COOPERATIVE_THREADS % (self.side * self.side);
            let (row, column) = (element / self.side, element % self.side);
            let product: f64 = (0..self.side).map(|k| half(row * self.side + k) * half(k * self.side + column)).sum();
            *y = (16.0 * self.rounds as f64 * product) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let subgroups = shapes.outputs[0].len() / self.lanes;
        let flops = subgroups * self.rounds * 16 * 2 * self.side.pow(3);
        Cost { flops: flops as u64, size_bytes: shapes.size_bytes() }
    }
}

/// y = x, of any length that is a multiple of 4.
#[derive(Debug)]
pub struct Copy;

impl Op for Copy {
    fn name(&self) -> &'static str {
        "ceiling_copy"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].len().is_multiple_of(4);
        assert!(fits, "ceiling_copy takes one tensor of whole quads, not {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let quads = shapes.inputs[0].len() / 4;
        let d = Dispatch::new(shader!("ceiling_copy")).constant("QUADS", quads);
        vec![d.read(0).write(0).groups(limits.fold(quads.div_ceil(256)))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].copy_from_slice(inputs[0]);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "ceiling, multiply-adds 257 x 64",
        op: || Arc::new(Fma { rounds: 64, half: false }),
        inputs: &[(&[257], Draw::Uniform(1.0)), (&[2], Draw::Between(0.5, 0.9))],
        gradient: false,
        position: 0,
        atol: 1e-6,
        rtol: 1e-5,
        reason: "each step multiplies the roundings before it by a < 0.9, so at most ten of them remain",
    },
    Case {
        name: "ceiling, copy 1028",
        op: || Arc::new(Copy),
        inputs: &[(&[1028], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: "a copy rounds nothing",
    },
];
