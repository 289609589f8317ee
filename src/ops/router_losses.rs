//! router_losses: the balance loss and the z-loss of a mixture's routers, of one layer or of several taken together.
//!
//!   logits (..., E) of each layer, then offsets (E + 1) u32 of each layer's groups;  loss (1)
//!   slopes (E), slot 1, kept for backward;  sums (strips, 2E + 1), scratch
//!
//! With N tokens in all layers together, c[e] the choices that went to expert e, p the softmax of a token's logits and P[e] its
//! sum over tokens:
//!   loss = balance * E * sum over e of c[e] / N * P[e] / N  +  z * mean of log-sum-exp(logits)^2
//! The first term is the loss of Fedus et al. 2021, section 2.2, as Mixtral in transformers has it: k if all is even. The second
//! is the z-loss of Zoph et al. 2022, section 3.1.
//! Backward: dlogit = p * (s[e] - sum of p * s) + 2 z / N * log-sum-exp * p, with s[e] = balance * E * c[e] / N^2. The counts have
//! no gradient. Cost: about 12 FLOPs per logit, forward and backward together.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// The losses of the routers of some layers.
#[derive(Clone, Debug)]
pub struct RouterLosses {
    /// Coefficient of the load-balancing loss.
    pub balance: f32,
    /// Coefficient of the z-loss.
    pub z: f32,
}

/// Tokens whose statistics one workgroup sums up.
const STRIP_ROWS: usize = 256;

/// Tokens of all layers together.
fn tokens(logits: &[&Shape]) -> usize {
    logits.iter().map(|l| l.rows()).sum()
}

impl Op for RouterLosses {
    fn name(&self) -> &'static str {
        "router_losses"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (logits, offsets) = inputs.split_at(inputs.len() / 2);
        let experts = logits.first().map_or(0, |l| l.columns());
        let fits = logits.len() == offsets.len() && logits.iter().all(|l| l.columns() == experts);
        let fits = fits && experts > 0 && offsets.iter().all(|o| o.len() == experts + 1);
        assert!(fits, "router_losses takes logits of all layers, then offsets of all layers, not {inputs:?}");
        let strips = logits.iter().map(|l| l.rows().div_ceil(STRIP_ROWS)).sum();
        vec![Shape::f32(&[1]), Shape::f32(&[experts]), Shape::f32(&[strips, 2 * experts + 1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let layers = shapes.inputs.len() / 2;
        let experts = shapes.inputs[0].columns();
        let mut dispatches = vec![];
        let mut first_strip = 0;
        for (layer, logits) in shapes.inputs[..layers].iter().enumerate() {
            let strips = logits.rows().div_ceil(STRIP_ROWS);
            dispatches.push(
                Dispatch::new(shader!("router_statistics"))
                    .constant("ROWS", logits.rows())
                    .constant("E", experts)
                    .constant("STRIP_ROWS", STRIP_ROWS)
                    .constant("FIRST_STRIP", first_strip)
                    .constant("THREADS", limits.row_threads())
                    .read(layer)
                    .read(layers + layer)
                    .write(2)
                    .groups(limits.fold(strips)),
            );
            first_strip += strips;
        }
        dispatches.push(
            Dispatch::new(shader!("router_losses"))
                .constant("STRIPS", first_strip)
                .constant("E", experts)
                .constant("TOKENS", tokens(&shapes.inputs[..layers]))
                .constant("BALANCE", self.balance)
                .constant("Z", self.z)
                .constant("THREADS", limits.row_threads())
                .read_back(2)
                .write(0)
                .write(1),
        );
        dispatches
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let inputs = g.nodes()[node].inputs.clone();
        let layers = inputs.len() / 2;
        let shapes: Vec<&Shape> = inputs[..layers].iter().map(|t| g.shape(*t)).collect();
        let backward = RouterLossesBackward { z: self.z, tokens: tokens(&shapes) };
        let slopes = Tensor { node, slot: 1 };
        let of = |(layer, input): (usize, &Tensor)| {
            let wanted = layer < layers && needed[layer];
            wanted.then(|| g.apply(backward.clone(), &[*input, slopes, dy]))
        };
        inputs.iter().enumerate().map(of).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (layers, experts) = (shapes.inputs.len() / 2, shapes.inputs[0].columns());
        let n = tokens(&shapes.inputs[..layers]) as f64;
        let (mut probabilities, mut counts, mut squares) = (vec![0.0f64; experts], vec![0.0f64; experts], 0.0);
        for logits in inputs[..layers].iter().flat_map(|l| l.chunks(experts)) {
            let lse = log_sum_exp(logits.iter().copied());
            probabilities.iter_mut().zip(logits).for_each(|(sum, l)| *sum += (f64::from(*l) - lse).exp());
            squares += lse * lse;
        }
        for offsets in &inputs[layers..] {
            counts.iter_mut().zip(as_ids(offsets).windows(2)).for_each(|(c, ends)| *c += f64::from(ends[1] - ends[0]));
        }
        let scale = f64::from(self.balance) * experts as f64 / n / n;
        let balance: f64 = counts.iter().zip(&probabilities).map(|(c, p)| c * p).sum();
        outputs[0][0] = (scale * balance + f64::from(self.z) / n * squares) as f32;
        outputs[1].iter_mut().zip(counts).for_each(|(slope, c)| *slope = (scale * c) as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let logits: usize = shapes.inputs[..shapes.inputs.len() / 2].iter().map(|l| l.len()).sum();
        Cost { flops: 6 * logits as u64, size_bytes: shapes.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}

/// One layer's dlogits from its logits, the slopes and dy.
#[derive(Clone, Debug)]
pub struct RouterLossesBackward {
    pub z: f32,
    /// Tokens of all layers together.
    pub tokens: usize,
}

impl Op for RouterLossesBackward {
    fn name(&self) -> &'static str {
        "router_losses_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 3 && inputs[1].len() == inputs[0].columns() && inputs[2].len() == 1;
        assert!(fits, "router_losses_backward does not fit {inputs:?}");
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let rows = shapes.inputs[0].rows();
        let dispatch = Dispatch::new(shader!("router_losses_backward"))
            .constant("ROWS", rows)
            .constant("E", shapes.inputs[0].columns())
            .constant("TOKENS", self.tokens)
            .constant("Z", self.z)
            .read(0)
            .read(1)
            .read(2)
            .write(0)
            .groups(limits.fold(rows.div_ceil(64)));
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let experts = shapes.inputs[0].columns();
        let slope = |e: usize| f64::from(inputs[1][e]);
        for (logits, d) in inputs[0].chunks(experts).zip(outputs[0].chunks_mut(experts)) {
            let lse = log_sum_exp(logits.iter().copied());
            let p = |e: usize| (f64::from(logits[e]) - lse).exp();
            let mean: f64 = (0..experts).map(|e| p(e) * slope(e)).sum();
            let z = 2.0 * f64::from(self.z) / self.tokens as f64 * lse;
            for (e, d) in d.iter_mut().enumerate() {
                *d = (f64::from(inputs[2][0]) * p(e) * (slope(e) - mean + z)) as f32;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 6 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUMS: &str =
    "probabilities and squares below 30 summed over strips of 256, then over strips: sqrt(256) roundings, tenfold";

/// Where E + 1 uneven groups of `pairs` pairs begin; the last one is empty.
fn offsets(pairs: u32, experts: u32) -> Vec<u32> {
    (0..=experts).map(|e| if e + 1 >= experts { pairs } else { pairs * e * e / (experts * experts) }).collect()
}

pub const CASES: &[Case] = &[
    Case {
        name: "router_losses of 1 token and 2 experts",
        op: || Arc::new(RouterLosses { balance: 0.5, z: 0.1 }),
        inputs: &[(&[1, 2], Draw::Uniform(4.0)), (&[3], Draw::Words(|| vec![0, 1, 1]))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 4e-6,
        reason: SUMS,
    },
    Case {
        name: "router_losses of 2 layers, 3x43x8 logits",
        op: || Arc::new(RouterLosses { balance: 1.0, z: 0.1 }),
        inputs: &[
            (&[3, 43, 8], Draw::Uniform(4.0)),
            (&[3, 43, 8], Draw::Uniform(4.0)),
            (&[9], Draw::Words(|| offsets(258, 8))),
            (&[9], Draw::Words(|| offsets(258, 8))),
        ],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 4e-6,
        reason: SUMS,
    },
    Case {
        name: "router_losses of 3000 tokens and 70 experts",
        op: || Arc::new(RouterLosses { balance: 1.0, z: 0.01 }),
        inputs: &[(&[3000, 70], Draw::Uniform(4.0)), (&[71], Draw::Words(|| offsets(6000, 70)))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-5,
        reason: SUMS,
    },
];
