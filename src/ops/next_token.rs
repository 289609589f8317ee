//! next_token: each row's next token, drawn from its logits without leaving the device.
//!
//!   logits (B, columns);  seen (B, words) u32: a bit per token, in place;  ids (B, 1) u32: fed last, becomes the next, in place
//!   positions (B) u32: of the token fed last, becomes the next one's, in place;  seeds (B) u32
//!   params (B, 5): how each row draws, see [`SamplingParams::words`]
//!   report (B, 2), in place: the next id's bits, and its log-probability (nats) under softmax of the unprocessed logits,
//!   NaN where one of those is not finite
//!
//! In the order, and with the meaning, of Hugging Face transformers: a repetition penalty on every token of the row (Keskar et
//! al. 2019, section 4.1), temperature, top-k (Fan et al. 2018), top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024).
//! Of tokens with equal logits, a cut keeps all or none. The random number is Threefry's of the row's seed, its position and the
//! token: a row draws the same on every device, whatever stands beside it. A position stays at the context's last: a row that
//! has ended goes on being fed, unheard, and must not leave the cache.
//! Cost: two passes over the logits for the most likely token, four to draw one, and eight more for each of top-k and top-p.

use super::case::{Case, Draw};
use super::cross_entropy::log_sum_exp;
use super::dropout::threefry;
use crate::graph::op::as_ids;
use crate::graph::{AdapterKind, Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// ids = a token drawn from softmax(logits).
#[derive(Clone, Debug)]
pub struct NextToken {
    /// Ids below this may be drawn.
    pub vocabulary: usize,
    /// Positions stay below this.
    pub context: usize,
}

/// How tokens are drawn: with the meaning of Hugging Face transformers, in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Above 1, tokens that the text has become less likely: their logits are divided by this if positive and multiplied if
    /// negative; 1 is off.
    pub repetition_penalty: f32,
    /// Divides the logits: below 1 is more likely text, above 1 more varied; 0 takes the most likely token, the first of equals.
    pub temperature: f32,
    /// Draws among the tokens that have fewer than this many above them; 0 for all.
    pub top_k: usize,
    /// Draws among the tokens that have less than this probability above them; 1 for all.
    pub top_p: f32,
    /// Draws among tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
}

/// Words of a row of parameters.
pub const PARAMS: usize = 5;

impl SamplingParams {
    /// The most likely token, always.
    pub const GREEDY: SamplingParams =
        SamplingParams { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// A row of the op's `params`: temperature, top-k, top-p, min-p, repetition penalty.
    pub fn words(&self) -> [f32; PARAMS] {
        [self.temperature, self.top_k as f32, self.top_p.max(LEAST_P), self.min_p, self.repetition_penalty]
    }

    fn of_words(words: &[f32]) -> SamplingParams {
        let [temperature, top_k, top_p, min_p, repetition_penalty] = words[..] else {
            unreachable!("checked in outputs")
        };
        SamplingParams { repetition_penalty, temperature, top_k: top_k as usize, top_p, min_p }
    }
}

/// The least of [`SamplingParams::top_p`] that is counted with: of the mass above it the most likely token has less.
const LEAST_P: f32 = 1e-30;
/// Salt of the random numbers, so that they are not dropout's.
const SALT: u32 = 0x746f_6b65;
/// Replaces logits that are not finite, in a broken model.
const LOWEST: f32 = -3e38;

/// Words of a row of `seen`.
pub fn seen_words(vocabulary: usize) -> usize {
    vocabulary.div_ceil(128) * 4
}

/// Threads that work on a row of the vocabulary together. On software adapters a barrier costs by the thread, but lavapipe
/// ends every loop once a thread's loops have gone round 65,535 times in all, silently: each gets some 400 tokens.
pub(super) fn vocabulary_threads(vocabulary: usize, limits: &Limits) -> usize {
    match limits.adapter {
        AdapterKind::Gpu => 128,
        AdapterKind::Software => vocabulary.div_ceil(400).next_power_of_two().clamp(8, 128),
    }
}

/// The logits of the vocabulary, those that are not finite replaced.
pub(super) fn finite(logits: &[f32]) -> Vec<f32> {
    logits.iter().map(|x| if x.is_finite() { *x } else { LOWEST }).collect()
}

/// The penalty on token `i` of a row that was fed `fed` last.
pub(super) fn penalised(x: f32, i: usize, fed: u32, seen: &[u32], penalty: f32) -> f32 {
    let known = i == fed as usize || seen[i / 32] >> (i % 32) & 1 == 1;
    match known {
        true if x < 0.0 => x * penalty,
        true => x / penalty,
        false => x,
    }
}

impl SamplingParams {
    /// The id that the device draws from a row's logits, which are finite, at a position and with a seed.
    fn choose(&self, logits: &[f32], seen: &[u32], fed: u32, (position, seed): (u32, u32)) -> usize {
        let scale = if self.temperature == 0.0 { 1.0 } else { self.temperature };
        let process = |(i, x): (usize, &f32)| penalised(*x, i, fed, seen, self.repetition_penalty) / scale;
        let x: Vec<f32> = logits.iter().enumerate().map(process).collect();
        let first_of_largest = |x: &[f64]| (0..x.len()).rev().max_by(|a, b| x[*a].total_cmp(&x[*b])).expect("a token");
        if self.temperature == 0.0 {
            return first_of_largest(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        }
        let kept = self.weights(&x);
        let arrival = |(i, weight): (usize, &f64)| weight / exponential(i as u32, position, seed);
        first_of_largest(&kept.iter().enumerate().map(arrival).collect::<Vec<_>>())
    }

    /// exp(x - largest) of the tokens that top-k, top-p and min-p keep, 0 of the others; x is divided by the temperature.
    pub fn weights(&self, x: &[f32]) -> Vec<f64> {
        let most = x.iter().copied().fold(f32::MIN, f32::max);
        let mut weights: Vec<f64> = x.iter().map(|x| f64::from(x - most).exp()).collect();
        let mut order: Vec<usize> = (0..x.len()).collect();
        order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
        let cut = |weights: &mut Vec<f64>, goal: f64, what: &dyn Fn(f64) -> f64| {
            let (mut above, mut equals) = (0.0, 0.0);
            for (n, i) in order.iter().enumerate() {
                if n > 0 && x[order[n - 1]] > x[*i] {
                    (above, equals) = (above + equals, 0.0);
                }
                equals += what(weights[*i]);
                if above >= goal {
                    weights[*i] = 0.0;
                }
            }
        };
        if self.top_k > 0 {
            cut(&mut weights, self.top_k as f64, &|_| 1.0);
        }
        if self.top_p < 1.0 {
            let goal = f64::from(self.top_p.max(LEAST_P)) * weights.iter().sum::<f64>();
            cut(&mut weights, goal, &|w| w);
        }
        weights.iter().map(|w| if *w >= f64::from(self.min_p) { *w } else { 0.0 }).collect()
    }
}

/// Twin of the shader's: exponentially distributed, of a token at a position.
fn exponential(token: u32, position: u32, seed: u32) -> f64 {
    let words = threefry([token / 2, position], [seed, SALT]);
    let t = (f64::from(words[token as usize % 2]) + 0.5) / 4_294_967_296.0;
    -(-t).ln_1p()
}

impl Op for NextToken {
    fn name(&self) -> &'static str {
        "next_token"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [logits, seen, ids, report, positions, seeds, params] = inputs else {
            panic!("next_token takes seven tensors, not {inputs:?}")
        };
        let rows = ids.len();
        let fits =
            logits.rows() == rows && report.len() == 2 * rows && seen.len() == rows * seen_words(self.vocabulary);
        let fits = fits && positions.len() == rows && seeds.len() == rows && params.dims == [rows, PARAMS];
        assert!(fits && (1..=logits.columns()).contains(&self.vocabulary), "next_token does not fit {inputs:?}");
        vec![(*ids).clone(), (*report).clone(), (*seen).clone(), (*positions).clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let logits = shapes.inputs[0];
        let dispatch = Dispatch::new(shader!("next_token"))
            .constant("COLUMNS", logits.columns())
            .constant("V", self.vocabulary)
            .constant("CONTEXT", self.context)
            .constant("THREADS", vocabulary_threads(self.vocabulary, limits))
            .constant("WORDS", seen_words(self.vocabulary))
            .read(0)
            .write(2)
            .write(0)
            .write(1)
            .write(3)
            .read(5)
            .read(6)
            .groups(limits.fold(logits.rows()));
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let (columns, words) = (shapes.inputs[0].columns(), seen_words(self.vocabulary));
        for (row, logits) in inputs[0].chunks(columns).enumerate() {
            let is_broken = !logits[..self.vocabulary].iter().all(|x| x.is_finite());
            let logits = finite(&logits[..self.vocabulary]);
            let fed = as_ids(inputs[2])[row];
            let seen: &mut [u32] = &mut bytemuck::cast_slice_mut(&mut outputs[2])[row * words..][..words];
            let (position, seed) = (as_ids(inputs[4])[row], as_ids(inputs[5])[row]);
            let params = SamplingParams::of_words(&inputs[6][row * PARAMS..][..PARAMS]);
            let chosen = params.choose(&logits, seen, fed, (position, seed));
            seen[fed as usize / 32] |= 1 << (fed % 32);
            outputs[3][row] = f32::from_bits((position + 1).min(self.context as u32 - 1));
            outputs[0][row] = f32::from_bits(chosen as u32);
            outputs[1][2 * row] = f32::from_bits(chosen as u32);
            let log_probability = (f64::from(logits[chosen]) - log_sum_exp(logits.iter().copied())) as f32;
            outputs[1][2 * row + 1] = if is_broken { f32::NAN } else { log_probability };
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 2), (1, 3), (2, 1), (3, 4)]
    }
}

const REASON: &str = "the id is exact; a log-probability near -4 carries an exp and a log of a few 1e-7";

/// A case over `rows` rows with the words that a vocabulary needs, which draw as `$params` says, every third row greedily.
macro_rules! case {
    ($name:literal, $vocabulary:literal, $params:expr, $rows:literal, $columns:literal, $words:literal) => {
        Case {
            name: $name,
            op: || Arc::new(NextToken { vocabulary: $vocabulary, context: 12 }),
            inputs: &[
                (&[$rows, $columns], Draw::Uniform(4.0)),
                (&[$rows, $words], Draw::Exact(u32::MAX)),
                (&[$rows, 1], Draw::Exact($vocabulary)),
                (&[$rows, 2], Draw::Uniform(1.0)),
                (&[$rows], Draw::Exact(12)),
                (&[$rows], Draw::Ids(u32::MAX)),
                (&[$rows, PARAMS], Draw::Values(|| rows_of($params, $rows))),
            ],
            gradient: false,
            position: 0,
            atol: 2e-6,
            rtol: 1e-6,
            reason: REASON,
        }
    };
}

/// Parameters of rows, of which every third is greedy.
fn rows_of(params: SamplingParams, rows: usize) -> Vec<f32> {
    let greedy = SamplingParams { temperature: 0.0, ..params };
    (0..rows).flat_map(|row| if row % 3 == 2 { greedy } else { params }.words()).collect()
}

const GREEDY: SamplingParams = SamplingParams::GREEDY;

pub const CASES: &[Case] = &[
    case!("next_token, the most likely of 61", 61, GREEDY, 3, 61, 4),
    case!(
        "next_token, the most likely after a penalty",
        61,
        SamplingParams { repetition_penalty: 1.7, ..GREEDY },
        5,
        64,
        4
    ),
    case!("next_token drawn at temperature 0.7", 61, SamplingParams { temperature: 0.7, ..GREEDY }, 40, 64, 4),
    case!("next_token drawn from the top 5", 61, SamplingParams { temperature: 1.5, top_k: 5, ..GREEDY }, 40, 61, 4),
    case!("next_token drawn from the top 0", 61, SamplingParams { temperature: 2.0, top_p: 0.0, ..GREEDY }, 40, 61, 4),
    case!(
        "next_token drawn from the top 0.6",
        61,
        SamplingParams { temperature: 2.0, top_p: 0.6, ..GREEDY },
        40,
        61,
        4
    ),
    case!(
        "next_token, everything at once",
        61,
        SamplingParams { temperature: 1.3, top_k: 9, top_p: 0.9, min_p: 0.05, repetition_penalty: 1.2 },
        40,
        61,
        4
    ),
    case!(
        "next_token of GPT-2's vocabulary, padded",
        50257,
        SamplingParams { temperature: 1.0, top_k: 50, top_p: 0.95, ..GREEDY },
        2,
        50304,
        1572
    ),
];
