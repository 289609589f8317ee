//! Log-probabilities of tokens with a gradient per row, by chunks of rows, beside the fused classifier, whose gradient is known
//! beforehand, and beside logits of all rows: memory of temporaries at GPT-2's size, and time at a size for the adapter.
//!
//! `cargo bench --bench log_prob`: runs of the three in turn, and ratios of their medians.

use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::{Executor, Program};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::memory::Class;
use wgpt::graph::{AdapterKind, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::ops::chunked_classifier::ChunkedClassifier;
use wgpt::ops::chunked_token_log_prob::{ChunkedTokenLogProb, ChunkedTokenLogProbBackward};
use wgpt::ops::fill::Fill;
use wgpt::ops::matmul::Matmul;
use wgpt::ops::token_log_prob::{TokenLogProb, TokenLogProbBackward};

const V: usize = 50257;
/// Rounds of the three in turn.
const ROUNDS: usize = 9;
const KINDS: [&str; 3] =
    ["fused classifier, by chunks", "log-probabilities, by chunks", "log-probabilities, whole logits"];

/// Hidden states and a head to losses or log-probabilities, and the gradients of both.
fn graph(kind: usize, rows: usize, c: usize, chunk: usize) -> Graph {
    let mut g = Graph::new();
    let (x, w) = (g.input("x", Shape::f32(&[rows, c])), g.input("w", Shape::f32(&[V, c])));
    let targets = g.input("targets", Shape::u32(&[rows]));
    let product = |ta, tb| Matmul { ta, tb, ..Matmul::default() };
    let (y, dx, dw) = match kind {
        0 => {
            let seed = g.apply(Fill { value: 1.0 }, &[]);
            let loss =
                g.apply(ChunkedClassifier { rows: chunk, weight: 1.0, accumulate: false }, &[x, w, targets, seed]);
            (loss, Tensor { node: loss.node, slot: 1 }, Tensor { node: loss.node, slot: 2 })
        }
        1 => {
            let dy = g.input("dy", Shape::f32(&[rows]));
            let y = g.apply(ChunkedTokenLogProb { rows: chunk }, &[x, w, targets]);
            let backward = ChunkedTokenLogProbBackward { rows: chunk, head_gradient: true, accumulate: false };
            let dx = g.apply(backward, &[x, w, targets, Tensor { node: y.node, slot: 1 }, dy]);
            (y, dx, Tensor { node: dx.node, slot: 1 })
        }
        _ => {
            let dy = g.input("dy", Shape::f32(&[rows]));
            let logits = g.apply(product(false, true), &[x, w]);
            let y = g.apply(TokenLogProb, &[logits, targets]);
            let lse = Tensor { node: y.node, slot: 1 };
            let dlogits = g.apply(TokenLogProbBackward, &[logits, targets, lse, dy]);
            (y, g.apply(product(false, false), &[dlogits, w]), g.apply(product(true, false), &[dlogits, x]))
        }
    };
    for (name, tensor) in [("y", y), ("dx", dx), ("dw", dw)] {
        g.output(name, tensor);
    }
    g
}

fn main() {
    if let Err(error) = compare() {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn compare() -> Result<()> {
    let roomy = Limits { buffer_bytes: 1 << 40, ..Limits::portable(AdapterKind::Gpu) };
    println!("Temporaries for 8192 rows of 768 and {V} tokens, chunks of 512 rows:");
    for (kind, name) in KINDS.iter().enumerate() {
        let plan = Plan::new(&graph(kind, 8192, 768, 512), &roomy)?;
        println!("  {name:32} {:8.1} MiB", plan.size_bytes(|c| *c == Class::Temporary) as f64 / f64::from(1 << 20));
    }
    let mut gpu = Gpu::with(choose("auto")?, None, false)?;
    let (rows, c, chunk) = if gpu.adapter().is_software() { (128, 64, 64) } else { (8192, 768, 512) };
    println!("{}: {rows} rows of {c}, {V} tokens, chunks of {chunk}", gpu.description());
    let mut programs = vec![];
    for kind in 0..KINDS.len() {
        let g = graph(kind, rows, c, chunk);
        let plan = Plan::new(&g, gpu.limits())?;
        let program = gpu.load(&g, plan.clone())?;
        for (name, _, shape) in &plan.inputs {
            let number = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0;
            let words: Vec<u8> = match name.as_str() {
                "targets" => (0..rows as u32).flat_map(|r| (r * 7919 % V as u32).to_le_bytes()).collect(),
                _ => (0..shape.len() as u32).flat_map(|i| number(i).to_le_bytes()).collect(),
            };
            gpu.write(program, name, &words)?;
        }
        programs.push(program);
    }
    let mut once = |program: Program| -> Result<f64> {
        let start = Instant::now();
        gpu.run(program, 0, &Step::default())?;
        gpu.wait()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut seconds = vec![vec![]; KINDS.len()];
    for round in 0..ROUNDS + 2 {
        for (program, seconds) in programs.iter().zip(&mut seconds) {
            let took = once(*program)?;
            // Drivers compile in the first; the second is cut into submits.
            if round >= 2 {
                seconds.push(took);
            }
        }
    }
    let median = |seconds: &mut Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let medians: Vec<f64> = seconds.iter_mut().map(median).collect();
    for (name, seconds) in KINDS.iter().zip(&medians) {
        println!("  {name:32} {:8.1} ms  {:.2} times the fused classifier", 1e3 * seconds, seconds / medians[0]);
    }
    Ok(())
}
