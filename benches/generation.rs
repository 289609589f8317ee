//! Decoding: tokens per second at given positions of a context, and the share of the device's memory speed that they reach.
//!
//! `cargo bench --bench generation` takes a model of GPT-2's 124M size with random weights; `-- --model DIR` takes a model
//! folder. The last line is JSON: tokens per second by position.

use clap::Parser;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::source::ModelSource;
use wgpt::generate::{Generator, SamplingParams};
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Quantisation, Shape, Step};
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::ops::add::Add;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Model folder or GGUF file; without it, random weights of a preset
    #[arg(long)]
    model: Option<PathBuf>,
    /// Type of the blocks' matrices on the device, of --model
    #[arg(long, value_enum, requires = "model")]
    base: Option<Quantisation>,
    #[arg(long, default_value = "gpt2")]
    preset: String,
    /// Tokens that stand before the ones that are timed
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1000])]
    positions: Vec<usize>,
    /// Tokens timed at each position
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// Texts at once
    #[arg(long, default_value_t = 1)]
    rows: usize,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if let Err(error) = measure(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let mut gpu = Gpu::open(&arguments.device)?;
    println!("{}", gpu.description());
    let (config, mut generator) = match &arguments.model {
        Some(folder) => {
            let source = ModelSource::open(folder)?;
            let config = Config { quantisation: arguments.base, ..source.config()? };
            let weights = source.weights(&config)?;
            let generator =
                Generator::new(&mut gpu, &Network::new(config.clone()), &weights, config.vocab_size, arguments.rows)?;
            (config, generator)
        }
        None => {
            let config = Config::preset(&arguments.preset)?;
            let network = Network::new(config.clone());
            let generator = Generator::of_store(&mut gpu, &network, config.vocab_size, arguments.rows)?;
            for parameter in network.parameters() {
                gpu.write_state(&parameter.name, &initial_values(parameter, 1))?;
            }
            (config, generator)
        }
    };
    let copy = stream_bytes_per_second(&mut gpu)?;
    println!("stream of three 64 MiB tensors: {:.1} GB/s", copy / 1e9);
    let mut results = serde_json::Map::new();
    for &position in &arguments.positions {
        let prompt: Vec<u32> = (0..=position as u32).map(|i| i * 7919 % config.vocab_size as u32).collect();
        // The first token waits for the prompt and, at first, for the compiler; the clock starts when it is there.
        let mut arrivals = vec![];
        let mut take = |row, _| {
            if row == 0 {
                arrivals.push(Instant::now());
            }
            Ok(true)
        };
        generator.sample(&mut gpu, &prompt, arguments.tokens + 1, &SamplingParams::GREEDY, 0, &mut take)?;
        let seconds = (arrivals[arrivals.len() - 1] - arrivals[0]).as_secs_f64();
        let per_second = arguments.tokens as f64 / seconds;
        // Every parameter but the position table once, and the filled part of the cache.
        let parameters = config.parameter_count() - (config.context * config.width) as u64;
        let cache = arguments.rows * 2 * config.layers * config.width * (position + arguments.tokens / 2);
        let bytes = 4.0 * (parameters as f64 + cache as f64) * per_second;
        let speed = per_second * arguments.rows as f64;
        // Blocks are smaller than that.
        let share = match arguments.base {
            None => format!(", {:.2} GB/s, {:.0}% of the stream", bytes / 1e9, 100.0 * bytes / copy),
            Some(_) => String::new(),
        };
        println!("position {position:5}: {speed:8.2} tokens/s, {:6.1} ms each{share}", 1e3 / per_second);
        results.insert(position.to_string(), speed.into());
    }
    println!("{}", serde_json::Value::Object(results));
    Ok(())
}

/// Bytes per second of a large addition: two tensors read, one written. The median of five.
fn stream_bytes_per_second(gpu: &mut Gpu) -> Result<f64> {
    let len = 16 << 20;
    let mut g = Graph::new();
    let a = g.input("a", Shape::f32(&[len]));
    let b = g.input("b", Shape::f32(&[len]));
    let y = g.apply_shared(Arc::new(Add), &[a, b]);
    g.output("y", y);
    let plan = Plan::new(&g, gpu.limits())?;
    let program = gpu.load(&g, plan)?;
    let mut seconds = [0.0; 6];
    for time in &mut seconds {
        let start = Instant::now();
        gpu.run(program, 0, &Step::default())?;
        gpu.wait()?;
        *time = start.elapsed().as_secs_f64();
    }
    gpu.unload(program);
    // The first compiles.
    seconds[1..].sort_by(f64::total_cmp);
    Ok(3.0 * 4.0 * len as f64 / seconds[3])
}
