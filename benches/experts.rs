//! What a token costs by the number of experts, of which it uses two: training and decoding of the mixtral preset on the best
//! adapter, beside the llama-mini preset, whose feed-forward part is as large as two of them.
//!
//! A token's share is that of forward and backward; the update, which works on every parameter once per step, is a column of
//! its own. `cargo bench --bench experts`; numbers of experts may follow after `--`.

use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::{Executor, Program};
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::model::Model;
use wgpt::train::graph::{ACCUMULATE, TrainingGraph, UPDATE};
use wgpt::train::settings::{Choices, Settings};

const VOCABULARY: usize = 256;
/// Enough tokens that 64 experts have 64 rows each.
const BATCH: usize = 16;
const COUNTS: [usize; 6] = [2, 4, 8, 16, 32, 64];

fn main() {
    let given: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let counts = if given.is_empty() { COUNTS.to_vec() } else { given };
    if let Err(error) = run(&counts) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn run(counts: &[usize]) -> Result<()> {
    println!("{}", Gpu::open("auto")?.description());
    println!(
        "{:22} {:>10} {:>10} {:>14} {:>12} {:>14}",
        "model", "values", "per token", "training us/tok", "update ms", "decode us/tok"
    );
    let batch = Some(BATCH);
    measure("dense", Choices { preset: Some("llama-mini".into()), batch, ..Choices::default() })?;
    for &count in counts {
        let choices = Choices { preset: Some("mixtral".into()), experts: Some(count), batch, ..Choices::default() };
        measure(&format!("2 of {count} experts"), choices)?;
    }
    Ok(())
}

fn measure(name: &str, choices: Choices) -> Result<()> {
    let settings = choices.resolve(None)?;
    let config = settings.config(VOCABULARY)?;
    // One device per model: states of different shapes cannot share names.
    let mut gpu = Gpu::open("auto")?;
    let (training, update) = training(&mut gpu, &config, &settings)?;
    let decoding = decoding(&mut gpu, &config)?;
    println!(
        "{name:22} {:10} {:10} {:14.2} {:13.3} {:14.1}",
        config.parameter_count(),
        config.multiplied_count(),
        training * 1e6 / (settings.batch * settings.context) as f64,
        update * 1e3,
        decoding * 1e6
    );
    Ok(())
}

/// Seconds of one micro-batch's forward and backward, and of an update.
fn training(gpu: &mut Gpu, config: &Config, settings: &Settings) -> Result<(f64, f64)> {
    let (batch, context) = (settings.batch, settings.context);
    let graph = TrainingGraph::new(&config.parameters(), &settings.optimizer(), |g| {
        Model { config, training: true, mixed: false }.objective(g, batch, context)
    })
    .graph;
    let plan = Plan::new(&graph, gpu.limits())?;
    let segments = (plan.segment(ACCUMULATE), plan.segment(UPDATE));
    let program = gpu.load(&graph, plan)?;
    initialise(gpu, config)?;
    gpu.write(program, "ids", bytemuck::cast_slice(&ids(batch * context)))?;
    gpu.write(program, "targets", bytemuck::cast_slice(&ids(batch * context)))?;
    Ok((seconds(gpu, program, segments.0)?, seconds(gpu, program, segments.1)?))
}

/// Seconds of one token of one sequence, at the end of a full cache.
fn decoding(gpu: &mut Gpu, config: &Config) -> Result<f64> {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, 1]));
    let logits = Model { config, training: false, mixed: false }.decode(&mut g, ids);
    g.output("logits", logits);
    let plan = Plan::new(&g, gpu.limits())?;
    let program = gpu.load(&g, plan)?;
    gpu.write(program, "ids", bytemuck::cast_slice(&[7u32]))?;
    seconds(gpu, program, 0)
}

/// Initial values, so that routers choose.
fn initialise(gpu: &mut Gpu, config: &Config) -> Result<()> {
    for (name, dims) in config.parameters() {
        gpu.write_state(&name, &initial_values(config, &name, dims.iter().product(), 0.1, 1))?;
    }
    Ok(())
}

/// Ids that look random.
fn ids(len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u32 % VOCABULARY as u32).collect()
}

/// Seconds of a segment, the least of twenty blocks of replays: what else runs on the machine only adds. Learning rate 0 keeps
/// the weights.
fn seconds(gpu: &mut Gpu, program: Program, segment: usize) -> Result<f64> {
    let step = Step { position: 127, ..Step::default() };
    let mut replay = |times: u32| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            gpu.run(program, segment, &step)?;
        }
        gpu.wait()?;
        Ok(start.elapsed().as_secs_f64() / f64::from(times))
    };
    replay(1)?;
    let times = (0.03 / replay(1)?).clamp(1.0, 1000.0) as u32;
    (0..20).try_fold(f64::INFINITY, |least, _| Ok(least.min(replay(times)?)))
}
