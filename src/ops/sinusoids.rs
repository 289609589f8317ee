//! sinusoids: the positions of Transformer-XL (Dai et al. 2019, section 3.3), by the distance of a key before a query.
//!
//!   table (D, C): row d is sin(a f_i), then cos(a f_i), i < C / 2, for the angle a = min(d, clamp) and f_i = 10,000^(-2 i / C)
//!
//! The angle is a product of two f32, as in transformers. Cost: 20 FLOPs per element, written once.

use super::case::Case;
use super::elementwise::elementwise;
use super::rope::Scaling;
use crate::graph::{Constant, Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// A table without inputs.
#[derive(Debug)]
pub struct Sinusoids {
    pub distances: usize,
    /// C, even.
    pub width: usize,
    /// Distances from this one on are the same; 0 for none.
    pub clamp: usize,
}

impl Sinusoids {
    fn frequencies(&self) -> Vec<f32> {
        Scaling::None.inverse_frequencies(10_000.0, self.width)
    }

    fn most(&self) -> usize {
        if self.clamp > 0 { self.clamp } else { self.distances }
    }
}

impl Op for Sinusoids {
    fn name(&self) -> &'static str {
        "sinusoids"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.is_empty() && self.width.is_multiple_of(2), "sinusoids take an even width, not {}", self.width);
        vec![Shape::f32(&[self.distances, self.width])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("sinusoids"), shapes.outputs[0].len() / 2, limits)
            .constant("HALF", self.width / 2)
            .constant("MOST", self.most())
            .constant("FREQUENCIES", Constant::Table(self.frequencies().into()));
        vec![d.write(0)]
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![]
    }

    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let frequencies = self.frequencies();
        for (d, row) in outputs[0].chunks_mut(self.width).enumerate() {
            for (i, frequency) in frequencies.iter().enumerate() {
                let angle = f64::from(d.min(self.most()) as f32 * frequency);
                row[i] = angle.sin() as f32;
                row[self.width / 2 + i] = angle.cos() as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.outputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

pub const CASES: &[Case] = &[Case {
    name: "sinusoids of 300 distances, clamped at 250, width 36",
    op: || Arc::new(Sinusoids { distances: 300, width: 36, clamp: 250 }),
    inputs: &[],
    gradient: false,
    position: 0,
    atol: 2e-7,
    rtol: 0.0,
    reason: "the cases of rope_table, whose sine and cosine these are",
}];
