//! dropout: y = x * keep / (1 - p), with keep 0 with probability p and 1 otherwise (Srivastava et al. 2014).
//!
//!   x, y of any shape, f32 or f16
//!
//! The mask is a function of (element, micro-batch, seed, salt), so that backward makes it again and nothing is kept.
//! Cost: about 100 integer operations and 8 bytes per element.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, bytes_of, in_quads, width};
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = dropout(x). `salt` tells one place in the model from another.
#[derive(Clone, Debug)]
pub struct Dropout {
    pub p: f32,
    pub salt: u32,
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && (0.0..1.0).contains(&self.p), "dropout({}) does not fit {inputs:?}", self.p);
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let width = width(shapes.outputs[0].len());
        let types = [("X_TYPE", shapes.outputs[0].dtype), VALUES];
        let piece = |range: Range<usize>| {
            let bytes = bytes_of(shapes.outputs[0].dtype, &range, 1);
            let d = in_quads(shader!("dropout"), range.len(), width, &types, limits);
            if width == 4 { d.swap("keep_1", "keep_4") } else { d }
                .constant("FIRST", range.start / width)
                .constant("SALT", self.salt)
                .constant("THRESHOLD", threshold(self.p))
                .constant("SCALE", 1.0 / (1.0 - self.p))
                .read_range(0, bytes.clone())
                .write_range(0, bytes)
                .step()
        };
        limits.row_chunks(shapes.outputs[0].len(), 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(self.clone(), &[dy]))]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        for (i, (y, x)) in outputs[0].iter_mut().zip(inputs[0]).enumerate() {
            *y = x * keep_factor(i as u32, step, self.salt, self.p);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// The probability as a threshold on 32 random bits.
pub fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0) as u32
}

/// 0 with probability p, otherwise 1 / (1 - p); the twin of `keep_factor` in shaders/shared/random.wgsl.
pub fn keep_factor(element: u32, step: &Step, salt: u32, p: f32) -> f32 {
    let words = threefry([element / 2, step.micro_batch], [step.seed, salt]);
    if words[element as usize % 2] < threshold(p) { 0.0 } else { 1.0 / (1.0 - p) }
}

/// Threefry-2x32 with 20 rounds: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
pub fn threefry(counter: [u32; 2], key: [u32; 2]) -> [u32; 2] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDA];
    let mut x = [counter[0].wrapping_add(key[0]), counter[1].wrapping_add(key[1])];
    for round in 0..20 {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        if round % 4 == 3 {
            let n = round / 4 + 1;
            x[0] = x[0].wrapping_add(keys[n % 3]);
            x[1] = x[1].wrapping_add(keys[(n + 1) % 3]).wrapping_add(n as u32);
        }
    }
    x
}

const EXACT: &str = "one multiplication by the same factor on both sides";

pub const CASES: &[Case] = &[
    Case {
        name: "dropout 0.1 of 3x67",
        op: || Arc::new(Dropout { p: 0.1, salt: 9 }),
        inputs: &[(&[3, 67], Draw::Uniform(2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 2e-7,
        reason: EXACT,
    },
    Case {
        name: "dropout 0.1 of f16, 3x68",
        op: || Arc::new(Dropout { p: 0.1, salt: 9 }),
        inputs: &[(&[3, 68], Draw::Half(2.0))],
        gradient: true,
        position: 0,
        atol: 6.2e-5,
        rtol: 1e-3,
        reason: "one rounding of the same product; devices may take f16 below 6.1e-5 as 0",
    },
    Case {
        name: "dropout 0.5 of 300x300",
        op: || Arc::new(Dropout { p: 0.5, salt: 0 }),
        inputs: &[(&[300, 300], Draw::Between(1.0, 2.0))],
        gradient: true,
        position: 0,
        atol: 1e-9,
        rtol: 2e-7,
        reason: EXACT,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Threefry-2x32-20 from the authors' test vectors.
    #[test]
    fn threefry_gives_the_published_answers() {
        assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry([0x243f_6a88, 0x85a3_08d3], [0x1319_8a2e, 0x0370_7344]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn the_share_of_dropped_elements_is_p() {
        let step = Step { seed: 1, micro_batch: 2, ..Step::default() };
        let dropped = (0..100_000).filter(|i| keep_factor(*i, &step, 3, 0.1) == 0.0).count() as f64;
        // Binomial: standard deviation sqrt(100000 * 0.1 * 0.9) = 95.
        assert!((dropped - 10_000.0).abs() < 4.0 * 95.0, "{dropped} of 100000");
        let other = |salt| (0..64).map(|i| keep_factor(i, &step, salt, 0.5) == 0.0).collect::<Vec<_>>();
        assert_ne!(other(3), other(4), "another place has another mask");
    }
}
