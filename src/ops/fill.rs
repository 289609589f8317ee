//! fill: y = value, one number. The seed of a backward pass: d loss / d loss, scaled.
//!
//! Cost: nothing worth counting.

use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;

/// A constant tensor (1).
#[derive(Debug)]
pub struct Fill {
    pub value: f32,
}

impl Op for Fill {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn outputs(&self, _inputs: &[&Shape]) -> Vec<Shape> {
        vec![Shape::f32(&[1])]
    }

    fn dispatch(&self, _shapes: &Shapes, _limits: &Limits) -> Vec<Dispatch> {
        vec![Dispatch::new(shader!("fill")).constant("VALUE", self.value).write(0)]
    }

    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![]
    }

    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].fill(self.value);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }
}
