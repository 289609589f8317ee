//! adamw: Adam with decoupled weight decay (Loshchilov and Hutter 2017, algorithm 2; the order of torch.optim.AdamW).
//!
//!   parameter, gradient, exp_avg, exp_avg_sq of one shape, all in place, each of one tensor or of many stored together;
//!   report (8) of the step, from global_norm
//!
//!   g = clip * gradient;  lr = rate * the step's learning rate;  p -= lr * decay * p;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//!   p -= lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps);  gradient = 0, ready to be added to again
//!
//! A step that the report calls bad changes nothing but the gradient. Cost: about 15 FLOPs per element, 16 bytes read and 16
//! written.

use super::case::{Case, Draw};
use super::elementwise::bytes;
use super::global_norm::report;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// The update of parameters that decay alike.
#[derive(Clone, Debug)]
pub struct AdamW {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f32,
    /// 0 for biases and norms.
    pub weight_decay: f32,
    /// Multiplies the step's learning rate.
    pub rate: f32,
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let same = inputs[1..4].iter().all(|s| *s == inputs[0]);
        let quads = inputs[0].len().is_multiple_of(4);
        assert!(inputs.len() == 5 && same && quads && inputs[4].len() >= report::LEN, "adamw does not fit {inputs:?}");
        vec![inputs[0].clone(); 4]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let piece = |range: Range<usize>| {
            let bytes = bytes(&range, 4);
            let mut d = Dispatch::new(shader!("adamw"))
                .groups(limits.fold(range.len().div_ceil(256)))
                .constant("BETA1", self.beta1 as f32)
                .constant("BETA2", self.beta2 as f32)
                // In f32, 1 - 0.999 and 0.999^t lose four digits: these are rounded once instead.
                .constant("ONE_MINUS_BETA1", (1.0 - self.beta1) as f32)
                .constant("ONE_MINUS_BETA2", (1.0 - self.beta2) as f32)
                .constant("LN_BETA1", self.beta1.ln().max(-1e4) as f32)
                .constant("LN_BETA2", self.beta2.ln().max(-1e4) as f32)
                .constant("EPS", self.eps)
                .constant("WEIGHT_DECAY", self.weight_decay)
                .constant("RATE", self.rate);
            for slot in 0..4 {
                d = d.write_range(slot, bytes.clone());
            }
            d.read(4).step()
        };
        limits.row_chunks(shapes.outputs[0].len() / 4, 16).into_iter().map(piece).collect()
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let [p, g, m, v] = outputs else { unreachable!("adamw has four outputs") };
        let words = inputs[4];
        let t = f64::from(words[report::UPDATES].to_bits());
        let apply = words[report::BAD].to_bits() == report::FINE;
        let (clip, lr) = (f64::from(words[report::CLIP]), f64::from(step.learning_rate) * f64::from(self.rate));
        let (correct1, correct2) = (1.0 - self.beta1.powf(t), 1.0 - self.beta2.powf(t));
        for i in 0..p.len() {
            if apply {
                let gradient = clip * f64::from(g[i]);
                let first = self.beta1 * f64::from(m[i]) + (1.0 - self.beta1) * gradient;
                let second = self.beta2 * f64::from(v[i]) + (1.0 - self.beta2) * gradient * gradient;
                let decayed = f64::from(p[i]) * (1.0 - lr * f64::from(self.weight_decay));
                let by = lr * first / correct1 / ((second / correct2).sqrt() + f64::from(self.eps));
                (p[i], m[i], v[i]) = ((decayed - by) as f32, first as f32, second as f32);
            }
            g[i] = 0.0;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let p = shapes.outputs[0];
        Cost { flops: 15 * p.len() as u64, size_bytes: 8 * p.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0), (1, 1), (2, 2), (3, 3)]
    }
}

const UPDATE: &str = "a division and a square root of f32 roundings, times the learning rate, on parameters near 1";

/// Parameter, gradient, averages and a report.
macro_rules! case {
    ($name:literal, $dims:expr) => {
        Case {
            name: $name,
            op: || Arc::new(AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, rate: 0.5 }),
            inputs: &[
                (&$dims, Draw::Uniform(1.0)),
                (&$dims, Draw::Uniform(1.0)),
                (&$dims, Draw::Uniform(0.1)),
                (&$dims, Draw::Between(1e-4, 0.1)),
                (&[report::LEN], Draw::Report),
            ],
            gradient: false,
            position: 0,
            atol: 1e-7,
            rtol: 4e-6,
            reason: UPDATE,
        }
    };
}

pub const CASES: &[Case] =
    &[case!("adamw 4", [4]), case!("adamw 65x68", [65, 68]), case!("adamw, beyond one binding: 3147x768", [3147, 768])];
