//! Cases of attention's masks: every one with q, k and v packed and apart, more queries than keys and fewer, shared heads of
//! keys, dropout, a bias, half precision, batch entries and queries that see nothing.

use super::{Attention, Mask};
use crate::ops::case::{Case, Draw};
use std::sync::Arc;

const CAUSAL: Mask = Mask::Causal { window: None };
const DOCUMENTS: Mask = Mask::Documents { window: None };

const fn window(window: usize) -> Mask {
    Mask::Causal { window: Some(window) }
}

const fn packed(heads: usize, kv_heads: usize, mask: Mask) -> Attention {
    Attention { heads, kv_heads, apart: false, mask, bias: false, by_query: false, scale: None, dropout: 0.0, salt: 11 }
}

const fn apart(heads: usize, kv_heads: usize, mask: Mask) -> Attention {
    Attention { apart: true, ..packed(heads, kv_heads, mask) }
}

const REASON: &str = "scores below 2, or 3 with a bias, whose exp WGSL allows 7 ulp, 4e-7 of each weight; those of a query sum to \
                      1, those of a key to less than 8 over up to three heads that share it; products of up to 20 columns below 1";
const LONG: &str =
    "as for short rows; a gradient of a bias adds up to 600 products of a weight below 1/100 and numbers below 8";
const HALF: &str = "as in f32; what is nearly the same may round to either of two neighbours in f16, which differ by up to 9.8e-4 of \
                    values below 1, and sums of a key's weights are below 4";

macro_rules! case {
    ($name:literal, $op:expr, $inputs:expr) => {
        case!($name, $op, $inputs, 4e-6, 2e-6, REASON)
    };
    ($name:literal, $op:expr, $inputs:expr, $atol:literal, $rtol:literal, $reason:ident) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: &$inputs,
            gradient: true,
            position: 0,
            atol: $atol,
            rtol: $rtol,
            reason: $reason,
        }
    };
}

macro_rules! half {
    ($name:literal, $op:expr, $inputs:expr) => {
        case!($name, $op, $inputs, 2e-3, 1e-3, HALF)
    };
}

const X: Draw = Draw::Uniform(1.0);
const H: Draw = Draw::Half(1.0);

/// Lengths of four entries of 37 keys: none, all, some, one.
const LENGTHS: Draw = Draw::Words(|| vec![0, 37, 20, 1]);
/// Of three entries of 33 keys; the last says more than there are.
const CROSSED: Draw = Draw::Words(|| vec![7, 0, 40]);

/// Documents of two rows of 41: the first key of each position's document.
fn documents() -> Vec<u32> {
    let row = |starts: &'static [u32]| (0..41).map(|i| *starts.iter().rev().find(|s| **s <= i).expect("0 is a start"));
    row(&[0, 1, 9, 10, 26]).chain(row(&[0])).collect()
}

/// Of 17 queries that are the last of 29 keys, in two rows: three documents, of which the first began before; one of which some
/// queries see nothing, because it begins later.
fn recent() -> Vec<u32> {
    let first = (12..29).map(|at| {
        if at < 15 {
            3
        } else if at < 23 {
            15
        } else {
            23
        }
    });
    first.chain([20; 17]).collect()
}

pub const MASK_CASES: &[Case] = &[
    case!("attention to all, 2x37, 3 heads of 16", packed(3, 3, Mask::Full), [(&[2, 37, 144], X)]),
    case!("attention apart, 2x33, 3 heads of 20", apart(3, 3, CAUSAL), [(&[2, 33, 60], X), (&[2, 33, 120], X)]),
    case!(
        "attention apart of 2x7 queries to 45 keys, 6 heads of 8 over 2 of keys",
        apart(6, 2, CAUSAL),
        [(&[2, 7, 48], X), (&[2, 45, 32], X)]
    ),
    case!(
        "attention apart of 2x45 queries to 7 keys, of which 38 see none, 2 heads of 8",
        apart(2, 2, CAUSAL),
        [(&[2, 45, 16], X), (&[2, 7, 32], X)]
    ),
    case!(
        "attention apart of 35 queries to 68 keys in a window of 11, 2 heads of 16, dropout 0.2",
        Attention { dropout: 0.2, ..apart(2, 2, window(11)) },
        [(&[1, 35, 32], X), (&[1, 68, 64], X)]
    ),
    case!(
        "attention apart of 41 queries to 30 keys in a window of 6, 2 heads of 16",
        apart(2, 2, window(6)),
        [(&[1, 41, 32], X), (&[1, 30, 64], X)]
    ),
    case!(
        "attention apart to all, 2x21 queries to 37 keys, 4 heads of 16 over 2 of keys, dropout 0.2",
        Attention { dropout: 0.2, ..apart(4, 2, Mask::Full) },
        [(&[2, 21, 64], X), (&[2, 37, 64], X)]
    ),
    case!(
        "attention apart to all, one query to one key, 1 head of 4",
        apart(1, 1, Mask::Full),
        [(&[1, 1, 4], X), (&[1, 1, 8], X)]
    ),
    case!(
        "attention within lengths, 4x37, 3 heads of 16",
        packed(3, 3, Mask::Lengths),
        [(&[4, 37, 144], X), (&[4], LENGTHS)]
    ),
    case!(
        "attention apart within lengths, 3x19 queries to 33 keys, 4 heads of 8 over 2 of keys, dropout 0.2",
        Attention { dropout: 0.2, ..apart(4, 2, Mask::Lengths) },
        [(&[3, 19, 32], X), (&[3, 33, 32], X), (&[3], CROSSED)]
    ),
    case!(
        "attention within documents, 2x41, 4 heads of 16 over 2 of keys",
        packed(4, 2, DOCUMENTS),
        [(&[2, 41, 128], X), (&[2, 41], Draw::Words(documents))]
    ),
    case!(
        "attention within documents, 2x41 in a window of 5, 2 heads of 8, dropout 0.2",
        Attention { dropout: 0.2, ..packed(2, 2, Mask::Documents { window: Some(5) }) },
        [(&[2, 41, 48], X), (&[2, 41], Draw::Words(documents))]
    ),
    case!(
        "attention apart within documents, 2x17 queries to 29 keys, 2 heads of 8",
        apart(2, 2, DOCUMENTS),
        [(&[2, 17, 16], X), (&[2, 29, 32], X), (&[2, 17], Draw::Words(recent))]
    ),
    case!(
        "attention with scale 1, 2x19, 2 heads of 8",
        Attention { scale: Some(1.0), ..packed(2, 2, CAUSAL) },
        [(&[2, 19, 48], X)]
    ),
    case!(
        "attention with a bias, 2x37, 3 heads of 16",
        Attention { bias: true, ..packed(3, 3, CAUSAL) },
        [(&[2, 37, 144], X), (&[3, 73], X)]
    ),
    case!(
        "attention with a bias to all, 1x300, 1 head of 8",
        Attention { bias: true, ..packed(1, 1, Mask::Full) },
        [(&[1, 300, 24], X), (&[1, 599], X)],
        1e-5,
        2e-6,
        LONG
    ),
    case!(
        "attention with a bias within lengths, 4x37, 4 heads of 8 over 2 of keys, scale 1, dropout 0.2",
        Attention { bias: true, scale: Some(1.0), dropout: 0.2, ..packed(4, 2, Mask::Lengths) },
        [(&[4, 37, 64], X), (&[4], LENGTHS), (&[4, 73], X)]
    ),
    case!(
        "attention with a bias within documents, 2x41, 2 heads of 8",
        Attention { bias: true, ..packed(2, 2, DOCUMENTS) },
        [(&[2, 41, 48], X), (&[2, 41], Draw::Words(documents)), (&[2, 81], X)]
    ),
    case!(
        "attention apart with a bias, 2x21 queries to 37 keys, 4 heads of 8 over 2 of keys",
        Attention { bias: true, ..apart(4, 2, CAUSAL) },
        [(&[2, 21, 32], X), (&[2, 37, 32], X), (&[4, 57], X)]
    ),
    case!(
        "attention apart with a bias to all, 2x37 queries to 11 keys, 2 heads of 8",
        Attention { bias: true, ..apart(2, 2, Mask::Full) },
        [(&[2, 37, 16], X), (&[2, 11, 32], X), (&[2, 47], X)]
    ),
    case!(
        "attention apart with a bias of each query, 2x21 queries to 37 keys, 4 heads of 8, dropout 0.2",
        Attention { bias: true, by_query: true, dropout: 0.2, ..apart(4, 4, CAUSAL) },
        [(&[2, 21, 32], X), (&[2, 37, 64], X), (&[2, 21, 148], X)]
    ),
    case!(
        "attention with a bias of each query, 1x70 in a window of 33, 2 heads of 8 over 1 of keys",
        Attention { bias: true, by_query: true, ..packed(2, 1, Mask::Causal { window: Some(33) }) },
        [(&[1, 70, 32], X), (&[1, 70, 140], X)]
    ),
    half!(
        "attention of f16 apart with a bias of each query, 2x21 queries to 37 keys, 2 heads of 16",
        Attention { bias: true, by_query: true, ..apart(2, 2, CAUSAL) },
        [(&[2, 21, 32], H), (&[2, 37, 64], H), (&[2, 21, 74], X)]
    ),
    half!(
        "attention of f16 apart to all, 2x21 queries to 37 keys, 2 heads of 16",
        apart(2, 2, Mask::Full),
        [(&[2, 21, 32], H), (&[2, 37, 64], H)]
    ),
    half!(
        "attention of f16 with a bias within lengths, 4x37, 2 heads of 16",
        Attention { bias: true, ..packed(2, 2, Mask::Lengths) },
        [(&[4, 37, 96], H), (&[4], LENGTHS), (&[2, 73], X)]
    ),
    half!(
        "attention of f16 within documents, 2x41, 2 heads of 16, dropout 0.2",
        Attention { dropout: 0.2, ..packed(2, 2, DOCUMENTS) },
        [(&[2, 41, 96], H), (&[2, 41], Draw::Words(documents))]
    ),
];
