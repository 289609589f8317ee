//! segment_memory: the hidden states of the segments before stand in front of those of this segment, and are kept for the next one:
//! "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context" (Dai et al. 2019), section 3.2.
//!
//! [`Recall`]:    memory (SLOTS * B, M, C);  x (B, T, C);  y (B, M + T, C) = memory | x;  dx = dy's last T, the memory has no gradient
//! [`Remember`]:  memory (SLOTS * B, M, C), in place;  y (B, M + T, C): memory = y's last M
//!
//! Micro-batch n has the rows of slot n mod SLOTS, so that each micro-batch of a step has streams of its own. Cost: a copy.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = memory | x.
#[derive(Debug)]
pub struct Recall;

/// memory = the end of y.
#[derive(Debug)]
pub struct Remember;

/// dx = dy without its first positions.
#[derive(Debug)]
struct RecallBackward {
    /// T.
    time: usize,
}

/// Slots, B, M and C of a memory and the whole (B, K, C).
fn sizes(memory: &Shape, batch: usize, columns: usize) -> Option<[usize; 4]> {
    let [rows, length, own] = memory.dims[..] else { return None };
    let fits = batch > 0 && rows.is_multiple_of(batch) && rows > 0 && own == columns;
    fits.then(|| [rows / batch, batch, length, columns])
}

fn slot(step: &Step, slots: usize) -> usize {
    step.micro_batch as usize % slots
}

impl Op for Recall {
    fn name(&self) -> &'static str {
        "recall"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [memory, x] = inputs else { panic!("recall takes a memory and x, not {inputs:?}") };
        let sizes = sizes(memory, x.dims[0], x.columns()).filter(|_| x.dims.len() == 3);
        let Some([_, batch, length, columns]) = sizes else { panic!("recall does not fit {inputs:?}") };
        vec![Shape::f32(&[batch, length + x.dims[1], columns])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let [slots, batch, length, columns] =
            sizes(shapes.inputs[0], shapes.inputs[1].dims[0], shapes.inputs[1].columns()).expect("checked in outputs");
        let d = elementwise(shader!("recall"), shapes.outputs[0].len(), limits)
            .constant("SLOTS", slots)
            .constant("B", batch)
            .constant("M", length)
            .constant("T", shapes.inputs[1].dims[1])
            .constant("C", columns);
        vec![d.read(0).read(1).write(0).step()]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let time = g.shape(g.nodes()[node].inputs[1]).dims[1];
        vec![None, Some(g.apply(RecallBackward { time }, &[dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let time = shapes.inputs[1].dims[1];
        let [slots, batch, length, columns] =
            sizes(shapes.inputs[0], shapes.inputs[1].dims[0], shapes.inputs[1].columns()).expect("checked in outputs");
        let first = slot(step, slots) * batch;
        for (b, y) in outputs[0].chunks_mut((length + time) * columns).enumerate() {
            let (kept, new) = y.split_at_mut(length * columns);
            kept.copy_from_slice(&inputs[0][(first + b) * length * columns..][..length * columns]);
            new.copy_from_slice(&inputs[1][b * time * columns..][..time * columns]);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }
}

impl Op for RecallBackward {
    fn name(&self) -> &'static str {
        "recall_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [batch, all, columns] = inputs[0].dims[..] else { panic!("recall_backward does not fit {inputs:?}") };
        assert!(self.time <= all, "recall_backward of {} does not fit {inputs:?}", self.time);
        vec![Shape::f32(&[batch, self.time, columns])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let [_, all, columns] = shapes.inputs[0].dims[..] else { unreachable!("checked in outputs") };
        let d = elementwise(shader!("recall_backward"), shapes.outputs[0].len(), limits)
            .constant("M", all - self.time)
            .constant("T", self.time)
            .constant("C", columns);
        vec![d.read(0).write(0)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let [_, all, columns] = shapes.inputs[0].dims[..] else { unreachable!("checked in outputs") };
        let dy = inputs[0].chunks(all * columns);
        for (dx, dy) in outputs[0].chunks_mut(self.time * columns).zip(dy) {
            dx.copy_from_slice(&dy[(all - self.time) * columns..]);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.outputs[0].size_bytes() }
    }
}

impl Op for Remember {
    fn name(&self) -> &'static str {
        "remember"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [memory, y] = inputs else { panic!("remember takes a memory and y, not {inputs:?}") };
        let sizes = sizes(memory, y.dims[0], y.columns()).filter(|sizes| y.dims.len() == 3 && sizes[2] <= y.dims[1]);
        assert!(sizes.is_some(), "remember does not fit {inputs:?}");
        vec![(*memory).clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let y = shapes.inputs[1];
        let [slots, batch, length, columns] =
            sizes(shapes.inputs[0], y.dims[0], y.columns()).expect("checked in outputs");
        let d = elementwise(shader!("remember"), batch * length * columns, limits)
            .constant("SLOTS", slots)
            .constant("B", batch)
            .constant("M", length)
            .constant("K", y.dims[1])
            .constant("C", columns);
        vec![d.write(0).read(1).step()]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let y = shapes.inputs[1];
        let [slots, batch, length, columns] =
            sizes(shapes.inputs[0], y.dims[0], y.columns()).expect("checked in outputs");
        let first = slot(step, slots) * batch * length * columns;
        let kept = outputs[0][first..].chunks_mut(length * columns);
        for (kept, y) in kept.zip(inputs[1].chunks(y.dims[1] * columns)) {
            kept.copy_from_slice(&y[y.len() - length * columns..]);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 2 * shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const COPY: &str = "a copy";

/// Micro-batch 5 is in slot 2 of 3, and in the only slot.
pub const CASES: &[Case] = &[
    Case {
        name: "recall of 5 positions before 3, 2 rows of 3 slots",
        op: || Arc::new(Recall),
        inputs: &[(&[6, 5, 7], Draw::Uniform(1.0)), (&[2, 3, 7], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: COPY,
    },
    Case {
        name: "recall of 9 positions before 40, 33 columns",
        op: || Arc::new(Recall),
        inputs: &[(&[2, 9, 33], Draw::Uniform(1.0)), (&[2, 40, 33], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: COPY,
    },
    Case {
        name: "remember 5 of 8 positions, 2 rows of 3 slots",
        op: || Arc::new(Remember),
        inputs: &[(&[6, 5, 7], Draw::Uniform(1.0)), (&[2, 8, 7], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: COPY,
    },
    Case {
        name: "remember 30 of 49 positions, 33 columns",
        op: || Arc::new(Remember),
        inputs: &[(&[2, 30, 33], Draw::Uniform(1.0)), (&[2, 49, 33], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: COPY,
    },
];
