//! embedding: y[b, t] = wte[ids[b, t]] + wpe[position + t]: token and position embedding (GPT, Radford et al. 2018, section
//! 3.1), or wte[ids[b, t]] alone.
//!
//!   ids (B, T) u32;  wte (V, C);  wpe (positions, C), positions >= T, where positions are learned;  y (B, T, C)
//!   positions (B) u32, where each row has a position of its own: that of its first token; else `Step::position` for all
//!
//! Backward adds rows of dy that share a token, without atomics and in the order of their positions: a first kernel links
//! each position to the next one with the same token, a second walks each chain from its first position.
//!   next (B*T) u32, scratch: the next position of the same token, or B*T; the top bit marks the first of a chain
//! Cost: one FLOP per element; y, and the rows that are used, moved once.

use super::case::{Case, Draw};
use super::elementwise::{VALUES, bytes, cleared, elementwise, in_quads, width};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = wte[ids] + wpe, or wte[ids] of two inputs; a fourth input is a position for each row.
#[derive(Debug)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (ids, wte) = (inputs[0], inputs[1]);
        assert!(ids.dims.len() == 2, "embedding does not fit {inputs:?}");
        if let Some(wpe) = inputs.get(2) {
            assert!(wte.columns() == wpe.columns(), "embedding does not fit {inputs:?}");
            assert!(ids.columns() <= wpe.rows(), "{} positions are more than the {} of wpe", ids.columns(), wpe.rows());
        }
        let fits = inputs.get(3).is_none_or(|positions| positions.len() == ids.rows());
        assert!(fits, "embedding takes a position for each row, not {inputs:?}");
        vec![Shape::f32(&[ids.rows(), ids.columns(), wte.columns()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (ids, wte) = (shapes.inputs[0], shapes.inputs[1]);
        let c = wte.columns();
        let width = width(c);
        let mut dispatches = vec![];
        for rows in limits.row_chunks(ids.len(), c as u64 * 4) {
            for tokens in limits.row_chunks(wte.rows(), c as u64 * 4) {
                let tokens = in_quads(shader!("embedding"), rows.len() * c, width, &[VALUES], limits)
                    .constant("C", c / width)
                    .constant("T", ids.columns())
                    .constant("FIRST_ROW", rows.start)
                    .constant("FIRST_TOKEN", tokens.start)
                    .constant("TOKENS", tokens.len())
                    .read(0)
                    .read_range(1, bytes(&tokens, c))
                    .write_range(0, bytes(&rows, c));
                dispatches.push(match shapes.inputs.len() {
                    2 => tokens.swap("position_learned", "position_none"),
                    3 => tokens.step().read(2),
                    _ => tokens.swap("position_learned", "position_by_row").read(3).read(2),
                });
            }
        }
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let inputs = &g.nodes()[node].inputs;
        assert!(inputs.len() < 4, "a position for each row stands in generation only");
        let vocabulary = g.shape(inputs[1]).rows();
        let positions = inputs.get(2).map(|wpe| g.shape(*wpe).rows());
        let ids = inputs[0];
        let dwte = g.apply(EmbeddingBackward { vocabulary, positions, accumulate: vec![] }, &[ids, dy]);
        let dwpe = positions.and_then(|_| needed[2].then_some(Tensor { slot: 1, ..dwte }));
        [None, needed[1].then_some(dwte), dwpe].into_iter().take(needed.len()).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let (t, c) = (shapes.inputs[0].columns(), shapes.inputs[1].columns());
        for (row, (y, id)) in outputs[0].chunks_mut(c).zip(as_ids(inputs[0])).enumerate() {
            let token = &inputs[1][*id as usize * c..][..c];
            y.copy_from_slice(token);
            if let Some(wpe) = inputs.get(2) {
                let first = inputs.get(3).map_or(step.position, |positions| as_ids(positions)[row / t]);
                let position = &wpe[(first as usize + row % t) * c..][..c];
                y.iter_mut().zip(position).for_each(|(y, position)| *y += position);
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let y = shapes.outputs[0];
        let positions = shapes.inputs.get(2).map_or(0, |wpe| wpe.size_bytes());
        Cost { flops: y.len() as u64, size_bytes: 2 * y.size_bytes() + positions }
    }
}

/// dwte (V, C) and, where positions are learned, dwpe (positions, C) from dy (B, T, C).
#[derive(Clone, Debug)]
pub struct EmbeddingBackward {
    pub vocabulary: usize,
    pub positions: Option<usize>,
    /// Slots that are added into the inputs from the third on, in this order.
    pub accumulate: Vec<usize>,
}

impl Op for EmbeddingBackward {
    fn name(&self) -> &'static str {
        "embedding_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let c = inputs[1].columns();
        assert!(inputs[0].len() == inputs[1].rows(), "embedding_backward does not fit {inputs:?}");
        let tables = [Some(self.vocabulary), self.positions].into_iter().flatten();
        tables.map(|rows| Shape::f32(&[rows, c])).chain([Shape::u32(&[inputs[0].len()])]).collect()
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (ids, c) = (shapes.inputs[0], shapes.inputs[1].columns());
        let (rows, t, width) = (ids.len(), ids.columns(), width(c));
        let next = shapes.outputs.len() - 1;
        // Most rows of a table that is not added to are not written otherwise.
        let fresh = (0..next).filter(|slot| !self.accumulate.contains(slot));
        let mut dispatches: Vec<Dispatch> =
            fresh.flat_map(|slot| cleared(slot, shapes.outputs[slot], limits)).collect();
        dispatches.push(elementwise(shader!("embedding_link"), rows, limits).read(0).write(next));
        for dy in limits.row_chunks(rows, c as u64 * 4) {
            for tokens in limits.row_chunks(self.vocabulary, c as u64 * 4) {
                dispatches.push(
                    Dispatch::new(shader!("embedding_backward"))
                        .constant("ROWS", rows)
                        .constant("C", c / width)
                        .elements("VALUES", Dtype::F32, width)
                        .constant("FIRST_ROW", dy.start)
                        .constant("DY_ROWS", dy.len())
                        .constant("FIRST_TOKEN", tokens.start)
                        .constant("TOKENS", tokens.len())
                        .constant("THREADS", limits.row_threads())
                        .read(0)
                        .read_back(next)
                        .read_range(1, bytes(&dy, c))
                        .write_range(0, bytes(&tokens, c))
                        .groups(limits.fold(rows)),
                );
            }
            if self.positions.is_some() {
                dispatches.push(
                    in_quads(shader!("embedding_backward_position"), t * c, width, &[VALUES], limits)
                        .constant("C", c / width)
                        .constant("T", t)
                        .constant("FIRST_ROW", dy.start)
                        .constant("DY_ROWS", dy.len())
                        .read_range(1, bytes(&dy, c))
                        .write(1),
                );
            }
        }
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (t, c) = (shapes.inputs[0].columns(), shapes.inputs[1].columns());
        let mut sums: Vec<_> = outputs[..outputs.len() - 1].iter().map(|output| vec![0.0f64; output.len()]).collect();
        for (row, (dy, id)) in inputs[1].chunks(c).zip(as_ids(inputs[0])).enumerate() {
            for (sums, at) in sums.iter_mut().zip([*id as usize, row % t]) {
                sums[at * c..].iter_mut().zip(dy).for_each(|(sum, d)| *sum += f64::from(*d));
            }
        }
        for (slot, (output, sums)) in outputs.iter_mut().zip(sums).enumerate() {
            let start = |y: f32| if self.accumulate.contains(&slot) { y } else { 0.0 };
            output.iter_mut().zip(sums).for_each(|(y, sum)| *y = start(*y) + sum as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let dy = shapes.inputs[1];
        Cost { flops: 2 * dy.len() as u64, size_bytes: 3 * dy.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        self.accumulate.iter().enumerate().map(|(i, slot)| (*slot, 2 + i)).collect()
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let accumulate = self.accumulate.iter().copied().chain([slot]).collect();
        let tables = 1 + usize::from(self.positions.is_some());
        let can = slot < tables && !self.accumulate.contains(&slot);
        can.then(|| Arc::new(EmbeddingBackward { accumulate, ..self.clone() }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        1
    }
}

const SUM: &str =
    "one addition forward; backward sums as many rows as share a token or a position, each sum rounded in f32";

pub const CASES: &[Case] = &[
    Case {
        name: "embedding 1x1 of 1x1",
        op: || Arc::new(Embedding),
        inputs: &[(&[1, 1], Draw::Ids(1)), (&[1, 1], Draw::Uniform(1.0)), (&[1, 1], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "embedding 3x17 of 11x67",
        op: || Arc::new(Embedding),
        inputs: &[(&[3, 17], Draw::Ids(11)), (&[11, 67], Draw::Uniform(1.0)), (&[20, 67], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 3e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "embedding without positions 3x17 of 11x67",
        op: || Arc::new(Embedding),
        inputs: &[(&[3, 17], Draw::Ids(11)), (&[11, 67], Draw::Uniform(1.0))],
        gradient: true,
        position: 3,
        atol: 3e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "embedding, beyond one binding: 2x9 of 3147x768",
        op: || Arc::new(Embedding),
        inputs: &[(&[2, 9], Draw::Ids(3147)), (&[3147, 768], Draw::Uniform(1.0)), (&[9, 768], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "embedding, more than 65535 rows: 70x1000 of 50x3",
        op: || Arc::new(Embedding),
        inputs: &[(&[70, 1000], Draw::Ids(50)), (&[50, 3], Draw::Uniform(1.0)), (&[1000, 3], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-4,
        rtol: 1e-6,
        reason: "a token's 1400 rows sum to about 20 with roundings of 1e-6 each, tenfold",
    },
];
