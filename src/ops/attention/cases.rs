//! Cases of attention: one and odd numbers of positions, head sizes, shared heads of keys, windows, dropout.

use super::{Attention, Mask};
use crate::ops::case::{Case, Draw};
use std::sync::Arc;

const fn op(heads: usize, dropout: f32) -> Attention {
    grouped(heads, heads, None, dropout)
}

const fn grouped(heads: usize, kv_heads: usize, window: Option<usize>, dropout: f32) -> Attention {
    let mask = Mask::Causal { window };
    Attention { heads, kv_heads, apart: false, mask, bias: false, by_query: false, scale: None, dropout, salt: 11 }
}

const SMALL: &str = "scores below 2, whose exp WGSL allows 7 ulp, 4e-7 of each weight; the weights of a query sum to 1, \
                     those of a key to about ln(T) < 6 times values below 1; lse below 8 from a log of 3 ulp";
const GROUPED: &str =
    "as for one head of queries per head of keys, whose gradients are sums over up to four such heads here";
const LARGE: &str = "scores near 75 are sums that round by 4e-6 each, sixteen of them: weights are off by up to 3e-5, times \
                     values up to 8 in y, and times dy v^T up to 60 in the gradients";

const HALF: &str = "as in f32; what is nearly the same may round to either of two neighbours in f16, which differ by up to \
                    9.8e-4; and on cooperative matrices weights are f16, off by up to 4.9e-4 of values below 1: those of a query \
                    sum to 1, those of a key to about ln(T) < 6, where errors of both signs add up to less than 1e-3";

/// q, k and v in half precision.
macro_rules! half {
    ($name:literal, $op:expr, $qkv:expr) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: &[(&$qkv, Draw::Half(1.0))],
            gradient: true,
            position: 0,
            atol: 1e-3,
            rtol: 1e-3,
            reason: HALF,
        }
    };
}

pub const CASES: &[Case] = &[
    half!("attention of f16, 2x37, 3 heads of 16, dropout 0.2", op(3, 0.2), [2, 37, 144]),
    half!("attention of f16, 1x65, 4 heads of 64 over 2 of keys", grouped(4, 2, None, 0.0), [1, 65, 512]),
    half!("attention of f16, 3x9, 2 heads of 4 in a window of 5", grouped(2, 2, Some(5), 0.0), [3, 9, 24]),
    half!(
        "attention of f16, 1x131 in a window of 33, 2 heads of 32, dropout 0.2",
        grouped(2, 2, Some(33), 0.2),
        [1, 131, 192]
    ),
    Case {
        name: "attention of f16 with scores up to 75, 1x100, 2 heads of 16",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[1, 100, 96], Draw::Half(8.0))],
        gradient: false,
        position: 0,
        atol: 4e-3,
        rtol: 1e-3,
        reason: "as for small scores in f16, with values up to 8",
    },
    Case {
        name: "attention of one position, 3 heads of 16",
        op: || Arc::new(op(3, 0.0)),
        inputs: &[(&[2, 1, 144], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 2x37, 3 heads of 16",
        op: || Arc::new(op(3, 0.0)),
        inputs: &[(&[2, 37, 144], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 3x9, 2 heads of 4",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[3, 9, 24], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x21, 3 heads of 20",
        op: || Arc::new(op(3, 0.0)),
        inputs: &[(&[1, 21, 180], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 2x65, 2 heads of 64",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[2, 65, 384], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x33, 2 heads of 80",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[1, 33, 480], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x35, 1 head of 96",
        op: || Arc::new(op(1, 0.0)),
        inputs: &[(&[1, 35, 288], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x19, 2 heads of 128",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[1, 19, 768], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x257, 1 head of 32",
        op: || Arc::new(op(1, 0.0)),
        inputs: &[(&[1, 257, 96], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention with dropout 0.2, 2x37, 3 heads of 16",
        op: || Arc::new(op(3, 0.2)),
        inputs: &[(&[2, 37, 144], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention with scores up to 75, 1x37, 2 heads of 16",
        op: || Arc::new(op(2, 0.0)),
        inputs: &[(&[1, 37, 96], Draw::Uniform(8.0))],
        gradient: true,
        position: 0,
        atol: 4e-4,
        rtol: 1e-5,
        reason: LARGE,
    },
    Case {
        name: "attention 2x37, 6 heads of 16 over 2 of keys",
        op: || Arc::new(grouped(6, 2, None, 0.0)),
        inputs: &[(&[2, 37, 160], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4e-6,
        rtol: 2e-6,
        reason: GROUPED,
    },
    Case {
        name: "attention 1x65, 9 heads of 64 over 3 of keys",
        op: || Arc::new(grouped(9, 3, None, 0.0)),
        inputs: &[(&[1, 65, 960], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4e-6,
        rtol: 2e-6,
        reason: GROUPED,
    },
    Case {
        name: "attention 3x33, 4 heads of 20 over 1 of keys, dropout 0.2",
        op: || Arc::new(grouped(4, 1, None, 0.2)),
        inputs: &[(&[3, 33, 120], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4e-6,
        rtol: 2e-6,
        reason: GROUPED,
    },
    Case {
        name: "attention 2x67 in a window of 1, 2 heads of 8",
        op: || Arc::new(grouped(2, 2, Some(1), 0.0)),
        inputs: &[(&[2, 67, 48], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 1x131 in a window of 33, 2 heads of 32",
        op: || Arc::new(grouped(2, 2, Some(33), 0.0)),
        inputs: &[(&[1, 131, 192], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 2e-6,
        rtol: 2e-6,
        reason: SMALL,
    },
    Case {
        name: "attention 2x75 in a window of 20, 4 heads of 16 over 2 of keys, dropout 0.2",
        op: || Arc::new(grouped(4, 2, Some(20), 0.2)),
        inputs: &[(&[2, 75, 128], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4e-6,
        rtol: 2e-6,
        reason: GROUPED,
    },
    Case {
        name: "attention 1x41 in a window of 50, 4 heads of 16 over 2 of keys",
        op: || Arc::new(grouped(4, 2, Some(50), 0.0)),
        inputs: &[(&[1, 41, 128], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4e-6,
        rtol: 2e-6,
        reason: GROUPED,
    },
];
