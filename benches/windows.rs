//! What a token costs in a layer of attention whose tokens see a window, and in one where they see all before them, as the context
//! grows: forward and backward pass, by wall clock.
//!
//!     cargo bench --bench windows

use std::sync::Arc;
use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::Plan;
use wgpt::ops::attention::{Attention, Mask};
use wgpt::ops::case::{Draw, Problem};

const CONTEXTS: [usize; 4] = [256, 512, 1024, 2048];
const WINDOW: usize = 64;
/// Heads and their size.
const HEADS: (usize, usize) = (4, 32);
/// Replays of each, of which the median counts.
const ROUNDS: usize = 7;

fn main() {
    let run = || -> Result<()> {
        let mut gpu = Gpu::with(choose("auto")?, None, false)?;
        let (heads, size) = HEADS;
        println!("{}: {heads} heads of {size}, microseconds for each token\n", gpu.description());
        println!("| context | window of {WINDOW} | all positions |");
        println!("|---|---|---|");
        for context in CONTEXTS {
            let windowed = measure(&mut gpu, context, Some(WINDOW))?;
            let full = measure(&mut gpu, context, None)?;
            println!("| {context} | {windowed:.2} | {full:.2} |");
        }
        Ok(())
    };
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

/// Microseconds for a token of a sequence, forward and backward.
fn measure(gpu: &mut Gpu, context: usize, window: Option<usize>) -> Result<f64> {
    let (heads, size) = HEADS;
    let op = Attention { heads, kv_heads: heads, mask: Mask::Causal { window }, ..Attention::default() };
    let inputs = vec![(vec![1, context, 3 * heads * size], Draw::Uniform(1.0))];
    let name = "attention".to_string();
    let problem = Problem { name, op: Arc::new(op), inputs, gradient: true, position: 0, atol: 0.0, rtol: 0.0 };
    let built = problem.build(42);
    let plan = Plan::new(&built.graph, gpu.limits())?;
    let program = gpu.load(&built.graph, plan)?;
    built.write_inputs(gpu, program)?;
    let mut seconds = vec![];
    // Drivers compile in the first; the second is cut into submits.
    for round in 0..ROUNDS + 2 {
        let start = Instant::now();
        gpu.run(program, 0, &built.step())?;
        gpu.wait()?;
        if round >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    gpu.unload(program);
    seconds.sort_by(f64::total_cmp);
    Ok(1e6 * seconds[ROUNDS / 2] / context as f64)
}
