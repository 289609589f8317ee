//! Cases of the chunked classifier.

use super::ChunkedClassifier;
use crate::ops::case::{Case, Draw};
use std::sync::Arc;

const SUMS: &str = "logits are f32 sums of C products, off by 1e-6 where they are near 10, which is a part in a million of \
                    every exponential; dx and dW are f32 sums of as many of those as V and rows";

const HALF: &str = "a logit near 4 may round to either of two neighbours in f16, 4e-3 apart, which moves its p by as much, and dx and \
                    dW by that times a seed of half a number per row and x or W below 1; the loss is the mean of 160 rows";

pub const CASES: &[Case] = &[
    Case {
        name: "chunked_classifier 1x1, one chunk of one row",
        op: || Arc::new(ChunkedClassifier { rows: 64, weight: 1.0, accumulate: false }),
        inputs: &[
            (&[1, 1], Draw::Uniform(3.0)),
            (&[2, 1], Draw::Uniform(3.0)),
            (&[1], Draw::Ids(2)),
            (&[1], Draw::Between(0.5, 2.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-6,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_classifier 5x40 rows of 36, 65 tokens, the last chunk shorter, ignored targets",
        op: || Arc::new(ChunkedClassifier { rows: 64, weight: 1.0, accumulate: false }),
        inputs: &[
            (&[5, 40, 36], Draw::Uniform(1.0)),
            (&[65, 36], Draw::Uniform(1.0)),
            (&[5, 40], Draw::Targets(65)),
            (&[1], Draw::Between(50.0, 200.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_classifier 129x24, 516 tokens, added into a gradient",
        op: || Arc::new(ChunkedClassifier { rows: 1, weight: 0.5, accumulate: true }),
        inputs: &[
            (&[129, 24], Draw::Uniform(1.0)),
            (&[516, 24], Draw::Uniform(1.0)),
            (&[129], Draw::Targets(516)),
            (&[1], Draw::Between(50.0, 200.0)),
            (&[516, 24], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 1e-5,
        rtol: 1e-5,
        reason: SUMS,
    },
    Case {
        name: "chunked_classifier of f16 5x40 rows of 36, 65 tokens, added into a gradient",
        op: || Arc::new(ChunkedClassifier { rows: 64, weight: 1.0, accumulate: true }),
        inputs: &[
            (&[5, 40, 36], Draw::Half(1.0)),
            (&[65, 36], Draw::Half(1.0)),
            (&[5, 40], Draw::Targets(65)),
            (&[1], Draw::Between(50.0, 200.0)),
            (&[65, 36], Draw::Uniform(1.0)),
        ],
        gradient: false,
        position: 0,
        atol: 2e-3,
        rtol: 1e-3,
        reason: HALF,
    },
];
