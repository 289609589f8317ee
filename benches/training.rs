//! Whole training steps: tokens per second of a model's forward, backward and update on the best adapter.
//!
//! `cargo bench --bench training` measures the shapes below. With `-- --serve` and model options it warms up, prints
//! `ready`, and measures one block of steps per line on standard input, so that blocks can alternate with another
//! program's in one run.

use clap::Parser;
use std::sync::Arc;
use std::time::Instant;
use wgpt::data::corpus::Corpus;
use wgpt::data::tokens::Tokens;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::gpu::Gpu;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::memory::mib;
use wgpt::train::settings::Choices;
use wgpt::train::trainer::Trainer;

#[derive(Clone, Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Token ids of the random data
    #[arg(long, default_value_t = 256)]
    vocab: usize,
    /// Steps per block
    #[arg(long, default_value_t = 10)]
    block: u64,
    /// Measure one block per input line
    #[arg(long)]
    serve: bool,
    /// Measure this preset instead, with the model options that are given
    #[arg(long, value_name = "PRESET")]
    steps_of: Option<String>,
    /// Measure contexts of 256, 1024 and 4096 instead, with as many tokens per batch in each
    #[arg(long)]
    contexts: bool,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
    #[command(flatten)]
    model: ModelChoices,
    #[command(flatten)]
    choices: Choices,
}

/// Model options of the shapes that are measured without `--serve`.
const SHAPES: &[&[&str]] = &[
    &["--layers=3", "--heads=4", "--width=64", "--context=64", "--batch=8", "--vocab=39"],
    &["--layers=4", "--heads=4", "--width=128", "--context=64", "--batch=8", "--vocab=256"],
    &["--layers=6", "--heads=6", "--width=384", "--context=256", "--batch=1", "--vocab=65", "--block=2"],
];

/// Batches of 4096 tokens.
const CONTEXTS: &[&[&str]] = &[
    &["--layers=2", "--heads=4", "--width=64", "--context=256", "--batch=16", "--vocab=39", "--block=2"],
    &["--layers=2", "--heads=4", "--width=64", "--context=1024", "--batch=4", "--vocab=39", "--block=2"],
    &["--layers=2", "--heads=4", "--width=64", "--context=4096", "--batch=1", "--vocab=39", "--block=2"],
];

fn main() {
    let arguments = Arguments::parse();
    let shapes = if arguments.contexts { CONTEXTS } else { SHAPES };
    let outcome = match &arguments.steps_of {
        Some(preset) => of_preset(preset, arguments.clone()),
        None if arguments.serve => serve(&arguments),
        None => {
            shapes.iter().try_for_each(|s| measure(&s.join(" "), Arguments::parse_from(["training"].iter().chain(*s))))
        }
    };
    if let Err(error) = outcome {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

/// Whole steps of a preset, with its own vocabulary.
fn of_preset(preset: &str, mut arguments: Arguments) -> Result<()> {
    arguments.model.preset = Some(preset.into());
    arguments.vocab = Config::preset(preset)?.vocab_size;
    measure(preset, arguments)
}

/// Three blocks of one shape after a warm-up: the median.
fn measure(what: &str, arguments: Arguments) -> Result<()> {
    let mut trainer = trainer(&arguments)?;
    block(&mut trainer, 2)?;
    let mut speeds = [0.0; 3];
    for speed in &mut speeds {
        *speed = block(&mut trainer, arguments.block)?;
    }
    speeds.sort_by(f64::total_cmp);
    let memory = mib(trainer.executor().allocated_bytes());
    let [least, median, most] = speeds;
    println!("{what:78} {median:8.0} tokens/s ({least:.0} to {most:.0})  {memory}");
    Ok(())
}

fn serve(arguments: &Arguments) -> Result<()> {
    let mut trainer = trainer(arguments)?;
    block(&mut trainer, 3)?;
    println!("ready");
    for _ in std::io::stdin().lines() {
        println!("tokens_per_second {:.1}", block(&mut trainer, arguments.block)?);
    }
    Ok(())
}

fn trainer(arguments: &Arguments) -> Result<Trainer> {
    let choices = Choices { steps: Some(1_000_000), dropout: Some(0.0), ..arguments.choices.clone() };
    let recipe = PresetRecipe::of(arguments.model.recipe());
    let settings = choices.resolve(&recipe.run, |_| 1)?;
    let config = arguments.model.config(arguments.vocab, recipe.init_std)?;
    // A fixed permutation of ids, repeated: no data to load, and nothing to learn by heart in a few steps.
    let ids = (0..1 << 16).map(|i: u64| (i.wrapping_mul(2_654_435_761) >> 7) as u32 % arguments.vocab as u32).collect();
    let tokens = Arc::new(Tokens::from_ids(ids));
    let corpus = Corpus {
        training: tokens.clone(),
        validation: tokens,
        vocabulary_size: arguments.vocab,
        notes: vec![],
        warnings: vec![],
    };
    let objective = Box::new(Pretrain::new(config.clone(), config.context, corpus, None));
    let mut gpu = Box::new(Gpu::open(&arguments.device)?);
    gpu.enable_tuning(&std::env::temp_dir().join("wgpt-bench"), false, Box::new(|_| ()));
    let blueprint = Blueprint::new(objective.as_ref(), &settings, gpu.limits())?.tuned(gpu.as_mut())?;
    let mut trainer = Trainer::new(gpu, blueprint, objective, settings)?;
    trainer.initialise(None)?;
    Ok(trainer)
}

/// Tokens per second of `steps` steps, the last one waited for.
fn block(trainer: &mut Trainer, steps: u64) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..steps {
        trainer.step()?;
    }
    trainer.finish()?;
    let shape = trainer.shapes()[0];
    let tokens = shape.batch * shape.length * trainer.settings().accumulate;
    Ok((steps * tokens as u64) as f64 / start.elapsed().as_secs_f64())
}
