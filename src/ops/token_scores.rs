//! token_scores: the log-probability of a given token in each row of logits, which evaluation sums.
//!
//!   logits (..., V);  tokens (rows) u32, `data::IGNORED` for a row of zeros
//!   scores (rows, 2): the token's log-probability (nats), and how many tokens come before it: those that are more
//!   likely, and those that are as likely and have a smaller id. 0 is greedy's choice.
//!
//! Cost: about 7 FLOPs per logit, two passes over the logits. Apart from `token_log_prob`, whose kernel counts no tokens: the
//! count is made in the pass that finds the maximum.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::elementwise::bytes;
use super::token_log_prob::threads;
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::ops::IGNORED;
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// scores = (log p(token), rank of the token).
#[derive(Debug)]
pub struct TokenScores;

impl Op for TokenScores {
    fn name(&self) -> &'static str {
        "token_scores"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].rows();
        assert!(inputs.len() == 2 && inputs[1].len() == rows, "token_scores does not fit {inputs:?}");
        vec![Shape::f32(&[rows, 2])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, v) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let piece = |rows: Range<usize>| {
            Dispatch::new(shader!("token_scores"))
                .constant("ROWS", rows.len())
                .constant("V", v)
                .reducing(threads(v, limits), limits)
                .read_range(0, bytes(&rows, v))
                .read_range(1, bytes(&rows, 1))
                .write_range(0, bytes(&rows, 2))
                .groups(limits.fold(rows.len()))
        };
        limits.row_chunks(rows, v as u64 * 4).into_iter().map(piece).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let v = shapes.inputs[0].columns();
        let rows = inputs[0].chunks(v).zip(as_ids(inputs[1]));
        for (scores, (row, token)) in outputs[0].chunks_mut(2).zip(rows) {
            scores.fill(0.0);
            if *token == IGNORED {
                continue;
            }
            let own = row[*token as usize];
            let before = row.iter().zip(0..).filter(|(x, id)| **x > own || (**x == own && id < token));
            scores[0] = (f64::from(own) - log_sum_exp(row.iter().copied())) as f32;
            scores[1] = before.count() as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let logits = shapes.inputs[0];
        Cost { flops: 7 * logits.len() as u64, size_bytes: 2 * logits.size_bytes() + shapes.outputs[0].size_bytes() }
    }
}

const LSE: &str =
    "log and exp are good to a few ulp of numbers near 10; the sum over V rounds about sqrt(V) times; ranks are exact";

pub const CASES: &[Case] = &[
    Case {
        name: "token_scores 1x2",
        op: || Arc::new(TokenScores),
        inputs: &[(&[1, 2], Draw::Uniform(3.0)), (&[1], Draw::Ids(2))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_scores 3x7x65 with ignored tokens",
        op: || Arc::new(TokenScores),
        inputs: &[(&[3, 7, 65], Draw::Uniform(10.0)), (&[21], Draw::Targets(65))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_scores of logits up to 1000",
        op: || Arc::new(TokenScores),
        inputs: &[(&[40, 257], Draw::Uniform(1000.0)), (&[40], Draw::Ids(257))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 4e-6,
        reason: LSE,
    },
    Case {
        name: "token_scores, logits beyond one binding: 700x5025",
        op: || Arc::new(TokenScores),
        inputs: &[(&[700, 5025], Draw::Uniform(5.0)), (&[700], Draw::Targets(5025))],
        gradient: false,
        position: 0,
        atol: 2e-6,
        rtol: 1.5e-5,
        reason: "8 lanes each sum 628 exponentials in order: sqrt(628) roundings of 6e-8 relative, tenfold",
    },
];
