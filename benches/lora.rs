//! Training adapters: memory and tokens per second of a preset, LoRA of rank 8 on all linear layers, by how the base model is kept.
//!
//!     cargo bench --bench lora -- --preset smollm2-135m --steps 2
//!     cargo bench --bench lora -- --preset tinyllama-1.1b --steps 0        (planned memory alone)
//!
//! Weights are random, or zero where they are quantised: neither changes the time. Prints a table in Markdown.

use clap::Parser;
use std::time::Instant;
use wgpt::data::dialogues::Encoded;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::gpu::Gpu;
use wgpt::graph::Quantisation;
use wgpt::models::config::Config;
use wgpt::models::lora::{ALL_LINEAR, Lora};
use wgpt::objectives::sft::{RECIPE, Rows, Sft};
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::Choices;
use wgpt::train::trainer::Trainer;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    #[arg(long, default_value = "smollm2-135m")]
    preset: String,
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Tokens of a step, one example
    #[arg(long, default_value_t = 512)]
    tokens: usize,
    /// Steps that are timed; 0 for memory alone
    #[arg(long, default_value_t = 2)]
    steps: u64,
    /// Steps before them that are not timed
    #[arg(long, default_value_t = 1)]
    warm_up: u64,
    /// Only these: f32, f16, q8_0, q4_0, full (all of the model is trained)
    #[arg(long, value_delimiter = ',', default_value = "full,f32,f16,q8_0,q4_0")]
    bases: Vec<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let preset = Config::preset(&arguments.preset)?;
    println!("| base | values trained | memory, MiB | tokens/s |\n|---|---|---|---|");
    for base in &arguments.bases {
        let plain = preset.clone();
        let quantisation = match base.as_str() {
            "f16" => Some(Quantisation::F16),
            "q8_0" => Some(Quantisation::Q8_0),
            "q4_0" => Some(Quantisation::Q4_0),
            "f32" | "full" => None,
            _ => fail!(Usage, "--bases knows full, f32, f16, q8_0 and q4_0, not {base}"),
        };
        let lora = Lora {
            rank: arguments.rank,
            alpha: 8.0,
            dropout: 0.0,
            targets: vec![ALL_LINEAR.into()],
            rank_stabilised: false,
            saved: vec![],
            base: None,
        };
        let lora = if base == "full" { None } else { Some(lora.check(&plain)?) };
        let config = Config { lora, quantisation, ..plain };
        let (trained, bytes, speed) = measure(arguments, config)?;
        println!("| {base} | {trained} | {} | {speed} |", bytes.div_ceil(1 << 20));
    }
    Ok(())
}

/// Trained values, bytes, and tokens per second as text.
fn measure(arguments: &Arguments, config: Config) -> Result<(usize, u64, String)> {
    let choices = Choices {
        batch: Some(1),
        steps: Some(arguments.warm_up + arguments.steps),
        classifier_rows: Some(128),
        ..Choices::default()
    };
    let settings = choices.resolve(&RECIPE, |_| 1)?;
    let vocabulary = config.vocab_size as u32;
    let ids: Vec<u32> = (0..=arguments.tokens as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocabulary).collect();
    let example = Encoded { learned: vec![true; ids.len()], ids, parted: false };
    let objective = Box::new(Sft::new(config, &settings, (Rows::new(vec![example], None), Rows::new(vec![], None))));
    let device = Gpu::open(&arguments.device)?;
    let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits())?;
    let trained = blueprint.training_graph().trained().iter().map(|p| p.len()).sum();
    let bytes = blueprint.memory_bytes();
    if arguments.steps == 0 {
        return Ok((trained, bytes, "-".into()));
    }
    let mut trainer = Trainer::new(Box::new(device), blueprint, objective, settings)?;
    trainer.initialise(None)?;
    for _ in 0..arguments.warm_up {
        trainer.step()?;
    }
    trainer.finish()?;
    let start = Instant::now();
    for _ in 0..arguments.steps {
        trainer.step()?;
    }
    trainer.finish()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok((trained, bytes, format!("{:.2}", (arguments.steps as usize * arguments.tokens) as f64 / seconds)))
}
