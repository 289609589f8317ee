//! The cost of a token by the number of experts, of which it uses two: training and decoding of the mixtral preset on the best
//! adapter, beside the llama-mini preset, whose feed-forward part is as large as two of them.
//!
//! A token's share is that of forward and backward; the update, which works on every parameter once per step, is a column of
//! its own. `cargo bench --bench experts`; numbers of experts may follow after `--`.

use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::{Executor, Program};
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::blocks::{Compute, Model};
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::train::graph::{ACCUMULATE, Optimizer, TrainingGraph, UPDATE};

const VOCABULARY: usize = 256;
const INIT_STD: f32 = 0.1;
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
    measure("dense", Config::preset("llama-mini")?)?;
    for &count in counts {
        let choices = ModelChoices { preset: Some("mixtral".into()), experts: Some(count), ..ModelChoices::default() };
        measure(&format!("2 of {count} experts"), choices.config(VOCABULARY, INIT_STD)?)?;
    }
    Ok(())
}

fn measure(name: &str, config: Config) -> Result<()> {
    // Initial values such that routers choose.
    let config = Config { initializer_range: INIT_STD, ..config };
    let network = Network::new(config.clone());
    // One device per model: states of different shapes cannot share names.
    let mut gpu = Gpu::open("auto")?;
    let (training, update) = training(&mut gpu, &network)?;
    let decoding = decoding(&mut gpu, &network)?;
    println!(
        "{name:22} {:10} {:10} {:14.2} {:13.3} {:14.1}",
        config.parameter_count(),
        config.multiplied_count(),
        training * 1e6 / (BATCH * config.context) as f64,
        update * 1e3,
        decoding * 1e6
    );
    Ok(())
}

/// Seconds of one micro-batch's forward and backward, and of an update.
fn training(gpu: &mut Gpu, network: &Network) -> Result<(f64, f64)> {
    let context = network.config().context;
    let networks = std::slice::from_ref(network);
    let loss = |g: &mut Graph, m: &[Model]| m[0].loss(g, BATCH, context);
    let graph = TrainingGraph::new(networks, Compute::default(), &Optimizer::default(), loss).graph;
    let plan = Plan::new(&graph, gpu.limits())?;
    let segments = (plan.segment(ACCUMULATE), plan.segment(UPDATE));
    let program = gpu.load(&graph, plan)?;
    network.parameters().iter().try_for_each(|p| gpu.write_state(&p.name, &initial_values(p, 1)))?;
    gpu.write(program, "ids", bytemuck::cast_slice(&ids(BATCH * context)))?;
    gpu.write(program, "targets", bytemuck::cast_slice(&ids(BATCH * context)))?;
    Ok((seconds(gpu, program, segments.0)?, seconds(gpu, program, segments.1)?))
}

/// Seconds of one token of one sequence, at the end of a full cache.
fn decoding(gpu: &mut Gpu, network: &Network) -> Result<f64> {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, 1]));
    let positions = g.input("positions", Shape::u32(&[1]));
    let logits = network.inference().decode(&mut g, ids, positions);
    g.output("logits", logits);
    let plan = Plan::new(&g, gpu.limits())?;
    let program = gpu.load(&g, plan)?;
    gpu.write(program, "ids", bytemuck::cast_slice(&[7u32]))?;
    gpu.write(program, "positions", bytemuck::cast_slice(&[127u32]))?;
    seconds(gpu, program, 0)
}

/// Ids that look random.
fn ids(len: usize) -> Vec<u32> {
    (0..len as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u32 % VOCABULARY as u32).collect()
}

/// Seconds of a segment, the least of twenty blocks of replays: what else runs on the machine only adds. Learning rate 0 keeps
/// the weights.
fn seconds(gpu: &mut Gpu, program: Program, segment: usize) -> Result<f64> {
    let step = Step::default();
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
