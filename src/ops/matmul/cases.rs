//! Cases of matmul: transpositions, epilogues, odd sizes, more than a tile, few rows.

use super::Matmul;
use crate::graph::Dtype;
use crate::graph::quantisation::{Quantisation, Quantised};
use crate::ops::case::{Case, Draw};
use crate::ops::gelu::Form;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::sync::Arc;

/// A product of few rows, as in decoding.
macro_rules! few_rows {
    ($name:literal, $op:expr, $a:expr, $b:expr, $bias:expr) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: &[($a, Draw::Uniform(1.0)), ($b, Draw::Uniform(1.0)), ($bias, Draw::Uniform(1.0))],
            gradient: false,
            position: 0,
            atol: 2e-5,
            rtol: 2e-6,
            reason: SUM,
        }
    };
}

const SUM: &str = "f32 sums of K products of numbers below 1: about sqrt(K) roundings of 6e-8, tenfold";

const HALF: &str = "f32 sums of exact products; what is nearly the same may round to either of two neighbours in f16, which differ \
                    by up to 9.8e-4; a dC that does so, behind GELU, moves sums of 67 of its products with numbers below 1";

/// A product of matrices in half precision.
macro_rules! half {
    ($name:literal, $op:expr, $a:expr, $b:expr) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: &[(&$a, Draw::Half(1.0)), (&$b, Draw::Half(1.0))],
            gradient: true,
            position: 0,
            atol: 1e-4,
            rtol: 1e-3,
            reason: HALF,
        }
    };
    ($name:literal, $op:expr, $a:expr, $b:expr, $bias:expr) => {
        Case {
            name: $name,
            op: || Arc::new($op),
            inputs: &[(&$a, Draw::Half(1.0)), (&$b, Draw::Half(1.0)), (&$bias, Draw::Uniform(1.0))],
            gradient: true,
            position: 0,
            atol: 2e-3,
            rtol: 1e-3,
            reason: HALF,
        }
    };
}

const PLAIN: Matmul = Matmul {
    ta: false,
    tb: false,
    bias: false,
    residual: false,
    gelu: None,
    accumulate: false,
    output: Dtype::F32,
    quantisation: None,
};
const TO_HALF: Matmul = Matmul { output: Dtype::F16, ..PLAIN };

/// Seeded numbers, quantised: words and scales of a matrix of so many values.
fn quantised(quantisation: Quantisation, values: usize) -> Quantised {
    let mut rng = Pcg64::seed_from_u64(values as u64);
    quantisation.quantise(&(0..values).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>())
}

const QUANTISED: &str = "as of f32: a quantised value is exact in f32";

/// A product with a quantised matrix of `$values` values, (rows, words).
macro_rules! quantised {
    ($name:literal, $op:expr, $quantisation:ident, $a:expr, $words:expr, $values:literal, $scales:expr) => {
        Case {
            name: $name,
            op: || Arc::new(Matmul { quantisation: Some(Quantisation::$quantisation), ..$op }),
            inputs: &[
                (&$a, Draw::Uniform(1.0)),
                (&$words, Draw::Words(|| quantised(Quantisation::$quantisation, $values).words)),
                (&$scales, Draw::Words(|| quantised(Quantisation::$quantisation, $values).scales)),
            ],
            gradient: true,
            position: 0,
            atol: 6e-6,
            rtol: 1e-6,
            reason: QUANTISED,
        }
    };
    ($name:literal, $op:expr, $a:expr, $words:expr, $values:literal) => {
        Case {
            name: $name,
            op: || Arc::new(Matmul { quantisation: Some(Quantisation::F16), ..$op }),
            inputs: &[
                (&$a, Draw::Uniform(1.0)),
                (&$words, Draw::Words(|| quantised(Quantisation::F16, $values).words)),
            ],
            gradient: true,
            position: 0,
            atol: 6e-6,
            rtol: 1e-6,
            reason: QUANTISED,
        }
    };
}

pub const CASES: &[Case] = &[
    quantised!("matmul of f16 in words, 33x20 by B^T 36x20", Matmul { tb: true, ..PLAIN }, [33, 20], [36, 10], 720),
    quantised!("matmul of f16 in words, 5x20 by 20x44", PLAIN, [5, 20], [20, 22], 880),
    quantised!(
        "matmul of q8_0, 2x33x64 by B^T 68x64",
        Matmul { tb: true, ..PLAIN },
        Q8_0,
        [2, 33, 64],
        [68, 16],
        4352,
        [68]
    ),
    quantised!("matmul of q8_0, 70x36 by 36x96", PLAIN, Q8_0, [70, 36], [36, 24], 3456, [54]),
    quantised!(
        "matmul of q8_0, one row by B^T 132x96",
        Matmul { tb: true, ..PLAIN },
        Q8_0,
        [1, 96],
        [132, 24],
        12672,
        [198]
    ),
    quantised!(
        "matmul of q4_0, 33x96 by B^T 36x96",
        Matmul { tb: true, ..PLAIN },
        Q4_0,
        [33, 96],
        [36, 12],
        3456,
        [54]
    ),
    quantised!("matmul of q4_0, 70x36 by 36x64", PLAIN, Q4_0, [70, 36], [36, 8], 2304, [36]),
    quantised!(
        "matmul of q4_0, four rows by B^T 132x64",
        Matmul { tb: true, ..PLAIN },
        Q4_0,
        [4, 64],
        [132, 8],
        8448,
        [132]
    ),
    Case {
        name: "matmul of q4_0 with bias and residual, 9x32 by B^T 20x32",
        op: || {
            Arc::new(Matmul { tb: true, bias: true, residual: true, quantisation: Some(Quantisation::Q4_0), ..PLAIN })
        },
        inputs: &[
            (&[9, 32], Draw::Uniform(1.0)),
            (&[20, 4], Draw::Words(|| quantised(Quantisation::Q4_0, 640).words)),
            (&[20], Draw::Uniform(1.0)),
            (&[9, 20], Draw::Uniform(1.0)),
            (&[10], Draw::Words(|| quantised(Quantisation::Q4_0, 640).scales)),
        ],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: QUANTISED,
    },
    Case {
        name: "matmul of q8_0 with bias and gelu, 9x32 by B^T 20x32",
        op: || {
            Arc::new(Matmul {
                tb: true,
                bias: true,
                gelu: Some(Form::Tanh),
                quantisation: Some(Quantisation::Q8_0),
                ..PLAIN
            })
        },
        inputs: &[
            (&[9, 32], Draw::Uniform(1.0)),
            (&[20, 8], Draw::Words(|| quantised(Quantisation::Q8_0, 640).words)),
            (&[20], Draw::Uniform(1.0)),
            (&[10], Draw::Words(|| quantised(Quantisation::Q8_0, 640).scales)),
        ],
        gradient: true,
        position: 0,
        atol: 1.5e-5,
        rtol: 5e-6,
        reason: "as without GELU; backward sums 20 gradients that carry GELU's own error",
    },
    half!("matmul of f16 to f32, 2x33x70 by 70x65", Matmul::default(), [2, 33, 70], [70, 65]),
    half!("matmul of f16, 33x20 by 20x36", TO_HALF, [33, 20], [20, 36]),
    half!("matmul of f16, 129x68 by B^T 131x68", Matmul { tb: true, ..TO_HALF }, [129, 68], [131, 68]),
    half!("matmul of f16, A^T 19x130 by B^T 9x19", Matmul { ta: true, tb: true, ..TO_HALF }, [19, 130], [9, 19]),
    half!("matmul of f16, A^T 20x36 by 20x5", Matmul { ta: true, ..TO_HALF }, [20, 36], [20, 5]),
    half!("matmul of f16 with bias, 5x33 by 33x17", Matmul { bias: true, ..TO_HALF }, [5, 33], [33, 17], [17]),
    half!(
        "matmul of f16 with bias to f32, 3x36 by 36x17",
        Matmul { bias: true, ..Matmul::default() },
        [3, 36],
        [36, 17],
        [17]
    ),
    half!(
        "matmul of f16 with bias and gelu tanh, 67x40 by 40x66",
        Matmul { bias: true, gelu: Some(Form::Tanh), ..TO_HALF },
        [67, 40],
        [40, 66],
        [66]
    ),
    Case {
        name: "matmul 1x1x1",
        op: || Arc::new(Matmul::default()),
        inputs: &[(&[1, 1], Draw::Uniform(1.0)), (&[1, 1], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul 2x33x70 by 70x65",
        op: || Arc::new(Matmul::default()),
        inputs: &[(&[2, 33, 70], Draw::Uniform(1.0)), (&[70, 65], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul 33x20 by 20x36",
        op: || Arc::new(Matmul::default()),
        inputs: &[(&[33, 20], Draw::Uniform(1.0)), (&[20, 36], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul A^T 20x36 by B^T 44x20",
        op: || Arc::new(Matmul { ta: true, tb: true, ..Matmul::default() }),
        inputs: &[(&[20, 36], Draw::Uniform(1.0)), (&[44, 20], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul A^T 70x65 by 70x33",
        op: || Arc::new(Matmul { ta: true, ..Matmul::default() }),
        inputs: &[(&[70, 65], Draw::Uniform(1.0)), (&[70, 33], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul 65x70 by B^T 33x70",
        op: || Arc::new(Matmul { tb: true, ..Matmul::default() }),
        inputs: &[(&[65, 70], Draw::Uniform(1.0)), (&[33, 70], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul A^T 19x130 by B^T 9x19",
        op: || Arc::new(Matmul { ta: true, tb: true, ..Matmul::default() }),
        inputs: &[(&[19, 130], Draw::Uniform(1.0)), (&[9, 19], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul with bias 5x33 by 33x17",
        op: || Arc::new(Matmul { bias: true, ..Matmul::default() }),
        inputs: &[(&[5, 33], Draw::Uniform(1.0)), (&[33, 17], Draw::Uniform(1.0)), (&[17], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul with bias and gelu tanh 67x40 by 40x66",
        op: || Arc::new(Matmul { bias: true, gelu: Some(Form::Tanh), ..Matmul::default() }),
        inputs: &[(&[67, 40], Draw::Uniform(1.0)), (&[40, 66], Draw::Uniform(1.0)), (&[66], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1.5e-5,
        rtol: 5e-6,
        reason: "as without GELU; backward sums 67 gradients that carry GELU's own error",
    },
    Case {
        name: "matmul with bias and gelu erf 9x40 by 40x16",
        op: || Arc::new(Matmul { bias: true, gelu: Some(Form::Erf), ..Matmul::default() }),
        inputs: &[(&[9, 40], Draw::Uniform(1.0)), (&[40, 16], Draw::Uniform(1.0)), (&[16], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1.5e-5,
        rtol: 5e-6,
        reason: "as without GELU; backward sums 16 gradients that carry GELU's own error",
    },
    Case {
        name: "matmul with residual 2x33x20 by B^T 70x20",
        op: || Arc::new(Matmul { tb: true, residual: true, ..PLAIN }),
        inputs: &[
            (&[2, 33, 20], Draw::Uniform(1.0)),
            (&[70, 20], Draw::Uniform(1.0)),
            (&[2, 33, 70], Draw::Uniform(1.0)),
        ],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul with bias and residual 5x33 by 33x17",
        op: || Arc::new(Matmul { bias: true, residual: true, ..PLAIN }),
        inputs: &[
            (&[5, 33], Draw::Uniform(1.0)),
            (&[33, 17], Draw::Uniform(1.0)),
            (&[17], Draw::Uniform(1.0)),
            (&[5, 17], Draw::Uniform(1.0)),
        ],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul += A^T 33x20 by 33x70",
        op: || Arc::new(Matmul { ta: true, accumulate: true, ..Matmul::default() }),
        inputs: &[(&[33, 20], Draw::Uniform(1.0)), (&[33, 70], Draw::Uniform(1.0)), (&[20, 70], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 6e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul 129x257 by 257x131",
        op: || Arc::new(Matmul::default()),
        inputs: &[(&[129, 257], Draw::Uniform(1.0)), (&[257, 131], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 1.2e-5,
        rtol: 1e-6,
        reason: SUM,
    },
    few_rows!(
        "matmul of one row, with bias: 1x768 by 768x2304",
        Matmul { bias: true, ..Matmul::default() },
        &[1, 768],
        &[768, 2304],
        &[2304]
    ),
    few_rows!(
        "matmul of four rows, with bias and gelu: 4x130 by 130x66",
        Matmul { bias: true, gelu: Some(Form::Tanh), ..Matmul::default() },
        &[4, 130],
        &[130, 66],
        &[66]
    ),
    few_rows!(
        "matmul of eight rows, added: 8x257 by B^T 131x257",
        Matmul { tb: true, accumulate: true, ..Matmul::default() },
        &[8, 257],
        &[131, 257],
        &[8, 131]
    ),
    Case {
        name: "matmul, more rows than 65535: 65600x3 by 3x2",
        op: || Arc::new(Matmul::default()),
        inputs: &[(&[65600, 3], Draw::Uniform(1.0)), (&[3, 2], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 1e-6,
        rtol: 1e-6,
        reason: SUM,
    },
    Case {
        name: "matmul, beyond one binding: 3x768 by B^T 3147x768",
        op: || Arc::new(Matmul { tb: true, ..Matmul::default() }),
        inputs: &[(&[3, 768], Draw::Uniform(1.0)), (&[3147, 768], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 4.5e-4,
        rtol: 2e-5,
        reason: "dA sums 3147 products in order: a partial sum near 19 rounds by up to 9.5e-7, which over sqrt(3147) gives a \
                 standard deviation of 3e-5, and 2304 elements reach 3.5 of those; a sum that wanders to 50 rounds by four \
                 times as much",
    },
];
