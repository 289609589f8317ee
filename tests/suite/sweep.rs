//! Random shapes: matrix products, attention, norms and losses at sizes that nobody listed, as released, with margins around
//! their buffers, against the reference. `WGPT_SWEEP=N` draws N shapes for each of the four; `WGPT_SWEEP_SEED=S` others.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::sync::Arc;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Dtype, Op};
use wgpt::ops::attention::{Attention, Mask};
use wgpt::ops::case::Problem;
use wgpt::ops::chunked_classifier::ChunkedClassifier;
use wgpt::ops::chunked_cross_entropy::ChunkedCrossEntropy;
use wgpt::ops::chunked_token_log_prob::ChunkedTokenLogProb;
use wgpt::ops::class_loss::ClassLoss;
use wgpt::ops::classifier::Classifier;
use wgpt::ops::cross_entropy::CrossEntropy;
use wgpt::ops::gelu::Form;
use wgpt::ops::layernorm::LayerNorm;
use wgpt::ops::matmul::Matmul;
use wgpt::ops::rmsnorm::RmsNorm;
use wgpt::ops::token_log_prob::TokenLogProb;
use wgpt::ops::token_scores::TokenScores;
use wgpt::ops::{Draw, cases};
use wgpt::reference::Cpu;

/// Shapes of each kind where nothing else is asked for: a few seconds on two cores.
const SHAPES: usize = 4;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is a number, not `{value}`")))
}

/// Draws problems one after another and checks each on both families of kernels.
fn sweep(kind: u64, draw: impl Fn(&mut Pcg64) -> Problem) {
    let count = number("WGPT_SWEEP").map_or(SHAPES, |n| n as usize);
    let first = number("WGPT_SWEEP_SEED").unwrap_or(1);
    let mut gpus =
        [AdapterKind::Software, AdapterKind::Gpu].map(|f| Gpu::with(choose("auto").unwrap(), Some(f), false).unwrap());
    let mut failures = vec![];
    for n in 0..count as u64 {
        let seed = first.wrapping_mul(1_000_003) + n;
        let problem = draw(&mut Pcg64::seed_from_u64(4 * seed + kind));
        let built = problem.build(seed);
        let want = built.run(&mut Cpu::default()).unwrap();
        for gpu in &mut gpus {
            if let Err(why) = problem.check_surrounded(gpu, &built, &want).unwrap() {
                failures.push(format!("{:?}, shape {n} of WGPT_SWEEP_SEED={first}: {why}", limits(gpu).adapter));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count} shapes fail:\n{}", failures.len(), failures.join("\n"));
}

fn limits(gpu: &Gpu) -> &wgpt::graph::Limits {
    wgpt::executor::Executor::limits(gpu)
}

/// A size up to `most`: often small, often next to a multiple of a tile's side.
fn size(rng: &mut Pcg64, most: usize) -> usize {
    let any = match rng.random_range(0..4) {
        0 => rng.random_range(1..=8),
        1 => 16 * rng.random_range(1..=8usize) + rng.random_range(0..3) - 1,
        2 => 4 * rng.random_range(1..=33),
        _ => rng.random_range(1..=most),
    };
    any.clamp(1, most)
}

fn uniform(dims: &[usize], dtype: Dtype) -> (Vec<usize>, Draw) {
    (dims.to_vec(), if dtype == Dtype::F16 { Draw::Half(1.0) } else { Draw::Uniform(1.0) })
}

fn dtype(rng: &mut Pcg64) -> Dtype {
    if rng.random_bool(0.3) { Dtype::F16 } else { Dtype::F32 }
}

/// A problem whose tolerance is that of the loosest case of its op in the same type: those are argued for in their files, for
/// sizes at least as large as are drawn here.
fn problem(op: impl Op + 'static, inputs: Vec<(Vec<usize>, Draw)>, gradient: bool) -> Problem {
    let op: Arc<dyn Op> = Arc::new(op);
    let mut problem = Problem { name: String::new(), op, inputs, gradient, position: 0, atol: 0.0, rtol: 0.0 };
    let half = problem.is_half();
    let like = cases().into_iter().filter(|c| (c.op)().name() == problem.op.name() && c.is_half() == half);
    for case in like.filter(|c| c.gradient >= gradient) {
        (problem.atol, problem.rtol) = (problem.atol.max(case.atol), problem.rtol.max(case.rtol));
    }
    let shapes: Vec<String> = problem.inputs.iter().map(|(dims, draw)| format!("{dims:?} {draw:?}")).collect();
    problem.name = format!("{:?} of {}", problem.op, shapes.join(", "));
    assert!(problem.atol + problem.rtol > 0.0, "{} has no case to take a tolerance from", problem.name);
    problem
}

fn matmul(rng: &mut Pcg64) -> Problem {
    let [m, n, k] = [0; 3].map(|_| size(rng, 133));
    let [ta, tb, bias, residual] = [0; 4].map(|_| rng.random_bool(0.5));
    let (a, output) = (dtype(rng), dtype(rng));
    let accumulate = !bias && !residual && rng.random_bool(0.5);
    let gelu = (bias && !residual && rng.random_bool(0.5)).then_some(Form::Tanh);
    // Residuals and sums are f32.
    let output = if accumulate { Dtype::F32 } else { output };
    let mut inputs = vec![uniform(&if ta { [k, m] } else { [m, k] }, a), uniform(&if tb { [n, k] } else { [k, n] }, a)];
    if bias {
        inputs.push(uniform(&[n], Dtype::F32));
    }
    if residual || accumulate {
        inputs.push(uniform(&[m, n], Dtype::F32));
    }
    problem(Matmul { ta, tb, bias, residual, gelu, accumulate, output, quantisation: None }, inputs, false)
}

#[test]
fn matrix_products_of_random_shapes_agree_with_the_reference() {
    sweep(0, matmul);
}

fn attention(rng: &mut Pcg64) -> Problem {
    let kv_heads = rng.random_range(1..=3usize);
    let heads = kv_heads * rng.random_range(1..=3usize);
    // Wide heads compile for seconds on a CPU: they are for those who ask for more.
    let (widest, longest) = if number("WGPT_SWEEP").is_some() { (128, 97) } else { (24, 41) };
    let hs = 4 * rng.random_range(1..=widest / 4);
    let (b, t, apart) = (rng.random_range(1..=2usize), size(rng, longest), rng.random_bool(0.4));
    let keys = if apart { size(rng, longest) } else { t };
    let window = rng.random_bool(0.4).then(|| rng.random_range(1..=keys));
    let mask = match rng.random_range(0..4) {
        0 => Mask::Full,
        1 => Mask::Lengths,
        _ => Mask::Causal { window },
    };
    let bias = (mask != Mask::Lengths || !apart) && rng.random_bool(0.3);
    let is_causal = matches!(mask, Mask::Causal { .. }) && t <= keys;
    let by_query = bias && is_causal && rng.random_bool(0.5);
    let dropout = if rng.random_bool(0.3) { 0.2 } else { 0.0 };
    let salt = rng.random_range(0..100);
    let dtype = dtype(rng);
    let mut inputs = if apart {
        vec![uniform(&[b, t, heads * hs], dtype), uniform(&[b, keys, 2 * kv_heads * hs], dtype)]
    } else {
        vec![uniform(&[b, t, (heads + 2 * kv_heads) * hs], dtype)]
    };
    if mask == Mask::Lengths {
        inputs.push((vec![b], Draw::Ids(keys as u32 + 1)));
    }
    if bias {
        let dims = if by_query { vec![b, t, heads * keys] } else { vec![heads, t + keys - 1] };
        inputs.push(uniform(&dims, Dtype::F32));
    }
    let op = Attention { heads, kv_heads, apart, mask, bias, by_query, scale: None, dropout, salt };
    problem(op, inputs, true)
}

#[test]
fn attention_of_random_shapes_agrees_with_the_reference() {
    sweep(1, attention);
}

fn norm(rng: &mut Pcg64) -> Problem {
    let (rows, c) = (size(rng, 150), size(rng, 250).next_multiple_of(4));
    let output = dtype(rng);
    let (x, weight) = ((vec![rows, c], Draw::Uniform(2.0)), (vec![c], Draw::Between(0.5, 1.5)));
    if rng.random_bool(0.5) {
        problem(LayerNorm { eps: 1e-5, output }, vec![x, weight, uniform(&[c], Dtype::F32)], true)
    } else {
        problem(RmsNorm { eps: 1e-5, groups: None, output }, vec![x, weight], true)
    }
}

#[test]
fn norms_of_random_shapes_agree_with_the_reference() {
    sweep(2, norm);
}

fn loss(rng: &mut Pcg64) -> Problem {
    let (rows, v, c) = (size(rng, 200), size(rng, 500) + 1, 4 * rng.random_range(1..=9usize));
    let dtype = dtype(rng);
    let scores = |dims: &[usize], scale: f32| {
        (dims.to_vec(), if dtype == Dtype::F16 { Draw::Half(scale) } else { Draw::Uniform(scale) })
    };
    let targets = (vec![rows], Draw::Targets(v as u32));
    let logits = scores(&[rows, v], 10.0);
    let (x, w) = (scores(&[rows, c], 1.0), scores(&[v, c], 1.0));
    let plain = (vec![rows, v], Draw::Uniform(10.0));
    // As large as the rows that a loss is the mean of, as the cases have it.
    let seed = (vec![1], Draw::Between(0.25 * rows as f32, rows as f32));
    let chunk = rng.random_range(1..=130usize);
    match rng.random_range(0..8) {
        0 => problem(CrossEntropy, vec![logits, targets], true),
        1 => problem(TokenLogProb, vec![logits, targets], true),
        2 => problem(Classifier { weight: 0.3 }, vec![logits, targets, seed], false),
        3 => {
            problem(ChunkedClassifier { rows: chunk, weight: 1.0, accumulate: false }, vec![x, w, targets, seed], false)
        }
        4 => problem(ChunkedCrossEntropy { rows: chunk }, vec![x, w, targets], false),
        5 => problem(ChunkedTokenLogProb { rows: chunk }, vec![x, w, targets], true),
        6 => problem(TokenScores, vec![plain, targets], false),
        _ => {
            let weights = (vec![rows], Draw::Between(0.0, 2.0));
            problem(ClassLoss, vec![plain, (vec![rows], Draw::Ids(v as u32)), weights], true)
        }
    }
}

#[test]
fn losses_of_random_shapes_agree_with_the_reference() {
    sweep(3, loss);
}
