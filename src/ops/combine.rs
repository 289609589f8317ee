//! combine: y = sum over a token's choices of weight * x[row of the choice]: the experts' outputs, brought back to the tokens.
//!
//!   x (P, C), rows sorted by expert;  position (..., k) u32: the row of each pair;  y (..., C)
//!   weighted only:  weights (..., k);  order (P) u32: the pair at each row
//!
//! Without weights it is the backward of gathering rows by token. Choices are added in their order, so repeatably.
//! Backward: dx[row] = weight * dy[token], over x in place, and dweight = x[row] . dy[token]
//! Cost: 2 k FLOPs per element of y forward and 3 k backward; every tensor moved once.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use super::expert_groups::{example_ids, sort};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = the sum of each token's rows.
#[derive(Clone, Debug)]
pub struct Combine {
    pub weighted: bool,
}

impl Op for Combine {
    fn name(&self) -> &'static str {
        "combine"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (x, position) = (inputs[0], inputs[1]);
        let fits = inputs.len() == if self.weighted { 4 } else { 2 } && x.rows() == position.len();
        let fits = fits && inputs[2..].iter().all(|s| s.len() == position.len()) && x.columns().is_multiple_of(4);
        assert!(fits, "combine of rows of 4, 8, .. columns does not fit {inputs:?}");
        vec![Shape { dtype: x.dtype, ..position.with_columns(x.columns()) }]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let y = shapes.outputs[0];
        let dispatch = elementwise(shader!("combine"), y.len() / 4, limits)
            .constant("C", y.columns())
            .constant("TOP", shapes.inputs[1].columns())
            .read(0)
            .read(1)
            .write(0);
        vec![if self.weighted { dispatch.read(2) } else { dispatch.swap("combine_weighted", "combine_plain") }]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        assert!(self.weighted, "a sum without weights stands in backward passes only");
        let inputs = &g.nodes()[node].inputs;
        let (x, weights, order) = (inputs[0], inputs[2], inputs[3]);
        let dx = g.apply(CombineBackward, &[x, weights, order, dy]);
        vec![needed[0].then_some(dx), None, needed[2].then_some(Tensor { slot: 1, ..dx }), None]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (c, top) = (shapes.outputs[0].columns(), shapes.inputs[1].columns());
        for (token, y) in outputs[0].chunks_mut(c).enumerate() {
            for (i, y) in y.iter_mut().enumerate() {
                let part = |pair: usize| {
                    let weight = if self.weighted { f64::from(inputs[2][pair]) } else { 1.0 };
                    weight * f64::from(inputs[0][as_ids(inputs[1])[pair] as usize * c + i])
                };
                *y = (token * top..(token + 1) * top).map(part).sum::<f64>() as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 2 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx over x, and dweights in slot 1, from x, weights, order and dy.
#[derive(Debug)]
pub struct CombineBackward;

impl Op for CombineBackward {
    fn name(&self) -> &'static str {
        "combine_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 4 && inputs[0].columns() == inputs[3].columns();
        assert!(fits && inputs[1].rows() == inputs[3].rows(), "combine_backward does not fit {inputs:?}");
        vec![inputs[0].clone(), inputs[1].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, c) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let dispatch = Dispatch::new(shader!("combine_backward"))
            .constant("ROWS", rows)
            .constant("C", c)
            .constant("TOP", shapes.inputs[1].columns())
            .reducing(limits.row_threads().min((c as u32 / 4).next_power_of_two()), limits)
            .read(1)
            .read(2)
            .read(3)
            .write(0)
            .write(1)
            .groups(limits.fold(rows));
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (c, top) = (shapes.inputs[0].columns(), shapes.inputs[1].columns());
        let (dx, dweights) = outputs.split_at_mut(1);
        for (dx, pair) in dx[0].chunks_mut(c).zip(as_ids(inputs[2])) {
            let pair = *pair as usize;
            let dy = &inputs[3][pair / top * c..][..c];
            dweights[0][pair] = dx.iter().zip(dy).map(|(x, dy)| f64::from(*x) * f64::from(*dy)).sum::<f64>() as f32;
            dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = inputs[1][pair] * dy);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let x = shapes.inputs[0];
        Cost { flops: 3 * x.len() as u64, size_bytes: 2 * x.size_bytes() + shapes.inputs[3].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0)]
    }
}

const SUM: &str =
    "sums of k products in y and of C in dweights, of numbers up to 2: sqrt(C) roundings of 6e-8, tenfold";

/// Rows of a length for some tokens and their choices among experts.
macro_rules! case {
    ($name:literal, $lead:expr, $tokens:literal, $top:literal, $experts:literal, $c:literal, $gradient:literal) => {
        Case {
            name: $name,
            op: || Arc::new(Combine { weighted: true }),
            inputs: &[
                (&[$tokens * $top, $c], Draw::Uniform(2.0)),
                (&$lead, Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).position)),
                (&$lead, Draw::Between(0.1, 0.9)),
                (&[$tokens * $top], Draw::Words(|| sort(&example_ids($tokens, $top, $experts), $experts).order)),
            ],
            gradient: $gradient,
            position: 0,
            atol: 1e-5,
            rtol: 4e-6,
            reason: SUM,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("combine 1 token, 1 of 1 experts, 4 columns", [1, 1], 1, 1, 1, 4, true),
    case!("combine 3x43 tokens, 2 of 8 experts, 68 columns", [3, 43, 2], 129, 2, 8, 68, true),
    case!("combine 65 tokens, 5 of 6 experts, 260 columns", [65, 5], 65, 5, 6, 260, true),
    case!("combine 32801 tokens, 2 of 4 experts, 8 columns", [32801, 2], 32801, 2, 4, 8, true),
];
