//! router: each token's k most likely experts and their weights (Shazeer et al. 2017; Mixtral, Jiang et al. 2024, section 2.1).
//!
//!   logits (..., E);  weights (..., k), slot 0, best first;  ids (..., k) u32, slot 1;  lse (rows), slot 2: log-sum-exp
//!
//! With p = softmax(logits) over all experts, a chosen expert's weight is p, or, renormalised, p divided by the sum over the
//! chosen ones: the softmax over their logits alone. Of equal logits the expert with the lower index goes first.
//!
//! Backward, with s = sum over the chosen of weight * dweight; an expert that was not chosen has neither:
//!   dlogit = weight * (dweight - s) if renormalised,  weight * dweight - p * s otherwise
//! The choice itself has no gradient. Cost: about (k + 3) FLOPs per logit; every tensor moved once.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::elementwise::elementwise;
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// weights and ids of the `top` most likely experts.
#[derive(Clone, Debug)]
pub struct Router {
    /// Experts per token.
    pub top: usize,
    /// A token's weights are divided by their sum.
    pub renormalise: bool,
}

impl Op for Router {
    fn name(&self) -> &'static str {
        "router"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && (1..=inputs[0].columns()).contains(&self.top);
        assert!(fits, "a router to {} experts takes logits (..., E), not {inputs:?}", self.top);
        let weights = inputs[0].with_columns(self.top);
        let ids = Shape::u32(&weights.dims);
        vec![weights, ids, Shape::f32(&[inputs[0].rows()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let rows = shapes.inputs[0].rows();
        let dispatch = Dispatch::new(shader!("router"))
            .constant("ROWS", rows)
            .constant("E", shapes.inputs[0].columns())
            .constant("TOP", self.top)
            .constant("RENORMALISE", self.renormalise)
            .read(0)
            .write(0)
            .write(1)
            .write(2)
            .groups(limits.fold(rows.div_ceil(64)));
        vec![dispatch]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        let logits = g.nodes()[node].inputs[0];
        let kept = [0, 1, 2].map(|slot| Tensor { node, slot });
        let backward = RouterBackward { forward: self.clone(), accumulate: false };
        vec![Some(g.apply(backward, &[logits, kept[0], kept[1], kept[2], dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let experts = shapes.inputs[0].columns();
        let [weights, ids, lse] = outputs else { unreachable!("three outputs") };
        for (row, logits) in inputs[0].chunks(experts).enumerate() {
            let mut best: Vec<usize> = (0..experts).collect();
            // A zero is added so that both zeros are equal.
            best.sort_by(|a, b| (logits[*b] + 0.0).total_cmp(&(logits[*a] + 0.0)));
            best.truncate(self.top);
            let all = log_sum_exp(logits.iter().copied());
            let from = if self.renormalise { log_sum_exp(best.iter().map(|e| logits[*e])) } else { all };
            for (j, e) in best.into_iter().enumerate() {
                weights[row * self.top + j] = (f64::from(logits[e]) - from).exp() as f32;
                ids[row * self.top + j] = f32::from_bits(e as u32);
            }
            lse[row] = all as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: (self.top + 3) as u64 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dlogits from logits, weights, ids, lse and dy.
#[derive(Clone, Debug)]
pub struct RouterBackward {
    pub forward: Router,
    /// The last input (..., E) is added to, in place.
    pub accumulate: bool,
}

impl Op for RouterBackward {
    fn name(&self) -> &'static str {
        "router_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 5 + usize::from(self.accumulate) && inputs[4] == inputs[1];
        assert!(fits, "router_backward does not fit {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let dispatch = elementwise(shader!("router_backward"), shapes.inputs[0].len(), limits)
            .constant("E", shapes.inputs[0].columns())
            .constant("TOP", self.forward.top)
            .constant("RENORMALISE", self.forward.renormalise)
            .constant("ACCUMULATE", self.accumulate);
        vec![(0..5).fold(dispatch, Dispatch::read).write(0)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (experts, top) = (shapes.inputs[0].columns(), self.forward.top);
        for (row, dlogits) in outputs[0].chunks_mut(experts).enumerate() {
            let pairs = row * top..(row + 1) * top;
            let part = |pair: usize| f64::from(inputs[1][pair]) * f64::from(inputs[4][pair]);
            let sum: f64 = pairs.clone().map(part).sum();
            for (e, d) in dlogits.iter_mut().enumerate() {
                let chosen = pairs.clone().find(|pair| as_ids(inputs[2])[*pair] == e as u32);
                let share = match (self.forward.renormalise, chosen) {
                    (true, Some(pair)) => f64::from(inputs[1][pair]),
                    (true, None) => 0.0,
                    (false, _) => (f64::from(inputs[0][row * experts + e]) - f64::from(inputs[3][row])).exp(),
                };
                let start = if self.accumulate { f64::from(*d) } else { 0.0 };
                *d = (start + chosen.map_or(0.0, part) - share * sum) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let per_logit = 4 * self.forward.top as u64 + 2;
        Cost { flops: per_logit * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 5)] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let op = RouterBackward { accumulate: true, ..self.clone() };
        (slot == 0 && !self.accumulate).then(|| Arc::new(op) as Arc<dyn Op>)
    }
}

const SOFTMAX: &str =
    "exp of numbers up to 8 is good to 11 ulp and the sum of E of them to a few: 2e-6 of weights up to 1";

/// Logits at a shape.
macro_rules! case {
    ($name:literal, $dims:expr, $top:literal, $renormalise:literal, $draw:expr) => {
        Case {
            name: $name,
            op: || Arc::new(Router { top: $top, renormalise: $renormalise }),
            inputs: &[(&$dims, $draw)],
            gradient: true,
            position: 0,
            atol: 2e-6,
            rtol: 4e-6,
            reason: SOFTMAX,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("router 1x1, top 1", [1, 1], 1, true, Draw::Uniform(2.0)),
    case!("router 3x43x8, top 2", [3, 43, 8], 2, true, Draw::Uniform(4.0)),
    case!("router 3x43x8, top 2, not renormalised", [3, 43, 8], 2, false, Draw::Uniform(4.0)),
    case!("router 65x130, top 8", [65, 130], 8, true, Draw::Uniform(4.0)),
    case!("router 7x5, all chosen, not renormalised", [7, 5], 5, false, Draw::Uniform(4.0)),
    case!("router 65601x4, top 1, not renormalised", [65601, 4], 1, false, Draw::Uniform(4.0)),
    Case {
        name: "router 100x9 of few different logits, top 3",
        op: || Arc::new(Router { top: 3, renormalise: true }),
        inputs: &[(&[100, 9], Draw::Whole(3))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: SOFTMAX,
    },
];
