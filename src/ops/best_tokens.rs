//! best_tokens: the most likely next tokens of each row, from which a beam search chooses.
//!
//!   logits (B, columns);  seen (B, words) u32: a bit per token, in place;  ids (B, 1) u32: fed last
//!   best (B, count, 2), slot 0: the id's bits and its log-probability (nats), best first, the smaller id of equals first
//!
//! A repetition penalty works on log-probabilities here, as in transformers' beam search.
//! Cost: 2 + count passes over the logits.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::next_token::{finite, penalised, seen_words, vocabulary_threads};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// best = the `count` most likely tokens of each row.
#[derive(Clone, Debug)]
pub struct BestTokens {
    /// Ids below this count.
    pub vocabulary: usize,
    pub count: usize,
    /// Log-probabilities of tokens that the row has seen are multiplied by this; 1 for none.
    pub repetition_penalty: f32,
}

impl Op for BestTokens {
    fn name(&self) -> &'static str {
        "best_tokens"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [logits, seen, ids] = inputs else { panic!("best_tokens takes three tensors, not {inputs:?}") };
        let rows = ids.len();
        let fits = logits.rows() == rows && seen.len() == rows * seen_words(self.vocabulary);
        let fits = fits && self.count <= self.vocabulary && self.vocabulary <= logits.columns();
        assert!(fits, "best_tokens does not fit {inputs:?}");
        vec![Shape::f32(&[rows, self.count, 2]), (*seen).clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let logits = shapes.inputs[0];
        let dispatch = Dispatch::new(shader!("best_tokens"))
            .constant("COLUMNS", logits.columns())
            .constant("V", self.vocabulary)
            .constant("COUNT", self.count)
            .constant("THREADS", vocabulary_threads(self.vocabulary, limits))
            .constant("PENALTY", self.repetition_penalty)
            .constant("WORDS", seen_words(self.vocabulary))
            .read(0)
            .write(1)
            .read(2)
            .write(0)
            .groups(limits.fold(logits.rows()));
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (columns, words) = (shapes.inputs[0].columns(), seen_words(self.vocabulary));
        for (row, best) in outputs[0].chunks_mut(2 * self.count).enumerate() {
            let logits = finite(&inputs[0][row * columns..][..self.vocabulary]);
            let fed = as_ids(inputs[2])[row];
            let seen = &as_ids(inputs[1])[row * words..][..words];
            let total = log_sum_exp(logits.iter().copied());
            let value = |(i, x): (usize, &f32)| {
                let log_probability = (f64::from(*x) - total) as f32;
                (penalised(log_probability, i, fed, seen, self.repetition_penalty), i)
            };
            let mut order: Vec<(f32, usize)> = logits.iter().enumerate().map(value).collect();
            order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let is_broken = !inputs[0][row * columns..][..self.vocabulary].iter().all(|x| x.is_finite());
            for (pair, (log_probability, id)) in best.chunks_mut(2).zip(order) {
                let log_probability = if is_broken { f32::NAN } else { log_probability };
                pair.copy_from_slice(&[f32::from_bits(id as u32), log_probability]);
            }
        }
        for (seen, fed) in outputs[1].chunks_mut(words).zip(as_ids(inputs[2])) {
            bytemuck::cast_slice_mut::<f32, u32>(seen)[*fed as usize / 32] |= 1 << (fed % 32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(1, 1)]
    }
}

const REASON: &str = "ids are exact; a log-probability near -4 carries an exp and a log of a few 1e-7";

pub const CASES: &[Case] = &[
    Case {
        name: "best_tokens, 8 of 61",
        op: || Arc::new(BestTokens { vocabulary: 61, count: 8, repetition_penalty: 1.0 }),
        inputs: &[(&[4, 61], Draw::Uniform(4.0)), (&[4, 4], Draw::Exact(u32::MAX)), (&[4, 1], Draw::Exact(61))],
        gradient: false,
        position: 3,
        atol: 2e-6,
        rtol: 1e-6,
        reason: REASON,
    },
    Case {
        name: "best_tokens, all of 5 with a penalty",
        op: || Arc::new(BestTokens { vocabulary: 5, count: 5, repetition_penalty: 1.3 }),
        inputs: &[(&[3, 8], Draw::Uniform(4.0)), (&[3, 4], Draw::Exact(u32::MAX)), (&[3, 1], Draw::Exact(5))],
        gradient: false,
        position: 3,
        atol: 2e-6,
        rtol: 1e-6,
        reason: REASON,
    },
];
