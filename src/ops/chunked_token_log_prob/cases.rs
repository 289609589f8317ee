//! Cases of log-probabilities by chunks of rows.

use super::{ChunkedTokenLogProb, ChunkedTokenLogProbBackward};
use crate::ops::case::{Case, Draw};
use std::sync::Arc;

const SUMS: &str = "logits are f32 sums of C products, off by 1e-6 where they are near 10, which is a part in a million of \
                    every exponential; dx and dW are f32 sums of as many of those as V and rows";

const HALF: &str = "a logit near 4 may round to either of two neighbours in f16, 4e-3 apart, which moves its p and the log-probability \
                    by as much; dx and dW are sums of 65 and 200 such p times W or x and dy below 1";

pub const CASES: &[Case] = &[
    Case {
        name: "chunked_token_log_prob 1x1, one chunk of one row",
        op: || Arc::new(ChunkedTokenLogProb { rows: 64 }),
        inputs: &[(&[1, 1], Draw::Uniform(3.0)), (&[2, 1], Draw::Uniform(3.0)), (&[1], Draw::Targets(2))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_token_log_prob 5x40 rows of 36, 65 tokens, the last chunk shorter, ignored targets",
        op: || Arc::new(ChunkedTokenLogProb { rows: 64 }),
        inputs: &[(&[5, 40, 36], Draw::Uniform(1.0)), (&[65, 36], Draw::Uniform(1.0)), (&[5, 40], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_token_log_prob 129x24, 516 tokens, chunks of 128",
        op: || Arc::new(ChunkedTokenLogProb { rows: 100 }),
        inputs: &[(&[129, 24], Draw::Uniform(1.0)), (&[516, 24], Draw::Uniform(1.0)), (&[129], Draw::Targets(516))],
        gradient: true,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_token_log_prob of f16 5x40 rows of 36, 65 tokens",
        op: || Arc::new(ChunkedTokenLogProb { rows: 64 }),
        inputs: &[(&[5, 40, 36], Draw::Half(1.0)), (&[65, 36], Draw::Half(1.0)), (&[5, 40], Draw::Targets(65))],
        gradient: true,
        position: 0,
        atol: 4e-3,
        rtol: 1e-3,
        reason: HALF,
    },
    Case {
        name: "chunked_token_log_prob_backward 130x20, 33 tokens, added into a gradient",
        op: || Arc::new(ChunkedTokenLogProbBackward { rows: 64, head_gradient: true, accumulate: true }),
        inputs: &[
            (&[130, 20], Draw::Uniform(1.0)),
            (&[33, 20], Draw::Uniform(1.0)),
            (&[130], Draw::Targets(33)),
            (&[130], Draw::Between(5.0, 6.0)),
            (&[130], Draw::Uniform(1.0)),
            (&[33, 20], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_token_log_prob_backward 130x20, 33 tokens, a head that is not trained",
        op: || Arc::new(ChunkedTokenLogProbBackward { rows: 64, head_gradient: false, accumulate: false }),
        inputs: &[
            (&[130, 20], Draw::Uniform(1.0)),
            (&[33, 20], Draw::Uniform(1.0)),
            (&[130], Draw::Targets(33)),
            (&[130], Draw::Between(5.0, 6.0)),
            (&[130], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
];
