//! The gain of pre-training: the demo model and the same network from random weights, fine-tuned on the four built-in tasks
//! with the same examples and steps, with and without the language model's loss, three seeds each.
//!
//!     cargo bench --bench finetune        (or: make finetune-demo)
//!
//! Prints a table of accuracies on test examples, in Markdown; progress goes to standard error.

#[path = "shared/spread.rs"]
mod spread;

use clap::Parser;
use spread::mean_and_spread;
use std::path::Path;
use std::time::Instant;
use wgpt::data::buckets::epoch_len;
use wgpt::data::corpora::tasks::{Split, examples};
use wgpt::data::labelled::Task;
use wgpt::data::labelled::sequences::{Encoder, Special};
use wgpt::data::labelled::target::Target;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::demo;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::gpu::Gpu;
use wgpt::models::config::Config;
use wgpt::objectives::labelled::folder::TaskFile;
use wgpt::objectives::labelled::prepare::prepare;
use wgpt::objectives::labelled::{Labelled, Options, RECIPE};
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Model folder [default: the demo model]
    #[arg(long)]
    model: Option<std::path::PathBuf>,
    /// Only these tasks
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Test sequences: an example of a pair has two, one of choices as many as there are
    #[arg(long, default_value_t = 240)]
    tests: usize,
    /// Examples that accuracies are of: settings are chosen on validation, and reported on test
    #[arg(long, default_value = "test")]
    split: String,
    /// Training sequences, in place of each task's own number
    #[arg(long)]
    examples: Option<usize>,
    #[arg(long)]
    epochs: Option<u64>,
    #[arg(long)]
    lr: Option<f32>,
    /// Sequences of a batch
    #[arg(long, default_value_t = 16)]
    batch: usize,
    #[arg(long, default_value_t = 0.0)]
    dropout: f32,
    /// Also without the language model's loss
    #[arg(long)]
    without_lambda: bool,
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Where a run starts, and the weight of the language model's loss.
type Kind = (&'static str, bool, f32);
const KINDS: [Kind; 3] =
    [("pre-trained", true, 0.5), ("random weights", false, 0.5), ("pre-trained, lambda 0", true, 0.0)];

/// Training sequences, epochs and learning rate of a task, chosen on validation examples.
fn budget(task: Task) -> (usize, u64, f32) {
    match task {
        Task::Classify => (400, 2, 1e-3),
        Task::Choose => (1600, 2, 1e-3),
        Task::Entail | Task::Similar => (2000, 3, 1e-3),
    }
}

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let source = arguments.model.as_ref().map_or_else(demo::model, ModelSource::folder);
    let mut rows = vec![];
    let names = arguments.tasks.iter().map(|name| Task::named(name)).collect::<Result<Vec<_>>>()?;
    let tasks = if names.is_empty() { Task::ALL.to_vec() } else { names };
    for task in tasks {
        rows.push(row(arguments, &source, task)?);
    }
    let kinds = kinds(arguments).iter().map(|(name, ..)| *name).collect::<Vec<_>>();
    println!("| task | sequences x epochs | chance | {} | gain |", kinds.join(" | "));
    println!("|---|---|---|{}---|", "---|".repeat(kinds.len()));
    rows.iter().for_each(|row| println!("{row}"));
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f32());
    Ok(())
}

fn kinds(arguments: &Arguments) -> &'static [Kind] {
    if arguments.without_lambda { &KINDS } else { &KINDS[..2] }
}

/// A task's line of the table: mean and spread (standard deviation) of the accuracies.
fn row(arguments: &Arguments, source: &ModelSource, task: Task) -> Result<String> {
    let pretrained = source.config()?;
    let (weights, tokenizer) = (source.weights(&pretrained)?, source.tokenizer()?);
    let config = Config { vocab_size: pretrained.vocab_size + Special::COUNT, ..pretrained.clone() };
    let special = Some(Special::after(pretrained.vocab_size));
    let encoder =
        Encoder { tokenizer: &tokenizer, task, special, longest: config.context, pad: None, is_encoder: false };
    let sequences = match task {
        Task::Classify | Task::Entail => 1,
        Task::Similar => 2,
        Task::Choose => 4,
    };
    let (sequences_in_all, epochs, lr) = budget(task);
    let (sequences_in_all, epochs) =
        (arguments.examples.unwrap_or(sequences_in_all), arguments.epochs.unwrap_or(epochs));
    let (lr, split) = (arguments.lr.unwrap_or(lr), Split::named(&arguments.split)?);
    let training = examples(task, Split::Train, 1, sequences_in_all / sequences);
    let target = Target::of(task, false, &training, Path::new("the examples"))?;
    let items =
        |examples| Ok::<_, wgpt::error::Error>(prepare(&encoder, &target, examples, Path::new("the examples"))?.items);
    let (training, tests) = (items(&training)?, items(&examples(task, split, 1, arguments.tests / sequences))?);
    let chance = 1.0 / target.classes().unwrap_or(1) as f64;
    let file = TaskFile {
        task,
        target: target.clone(),
        special,
        longest: config.context,
        columns: Default::default(),
        pad: None,
        separator: None,
    };
    let batch = (arguments.batch / sequences).max(1);
    let mut device: Box<dyn Executor> = Box::new(Gpu::open(&arguments.device)?);
    let mut cells = vec![];
    for &(name, is_pretrained, lambda) in kinds(arguments) {
        let mut accuracies = vec![];
        for seed in 0..arguments.seeds {
            let choices = Choices {
                epochs: Some(epochs),
                lr: Some(lr),
                batch: Some(batch),
                dropout: Some(arguments.dropout),
                seed: Some(seed),
                ..Choices::default()
            };
            let settings = choices.resolve(&RECIPE, |batch| epoch_len(training.len(), batch))?;
            let options = Options { lambda, buckets: 2, measure: None };
            let items = (training.clone(), tests.clone());
            let objective = Labelled::new(config.clone(), file.clone(), &options, &settings, items);
            let start = Instant::now();
            let from = is_pretrained.then_some(&weights);
            let accuracy;
            (device, accuracy) = accuracy_of(device, objective, settings, from)?;
            eprintln!(
                "{}, {name}, seed {seed}: {accuracy:.3} after {:.1} s",
                task.name(),
                start.elapsed().as_secs_f32()
            );
            accuracies.push(accuracy);
        }
        cells.push(mean_and_spread(&accuracies));
    }
    let shown: Vec<String> = cells.iter().map(|(mean, spread)| format!("{mean:.3} ± {spread:.3}")).collect();
    let gain = cells[0].0 - cells[1].0;
    let (name, cells) = (task.name(), shown.join(" | "));
    Ok(format!("| {name} | {sequences_in_all} x {epochs} | {chance:.2} | {cells} | {gain:+.3} |"))
}

/// One run; the device comes back.
fn accuracy_of(
    mut device: Box<dyn Executor>,
    objective: Labelled,
    settings: Settings,
    weights: Option<&Weights>,
) -> Result<(Box<dyn Executor>, f64)> {
    let blueprint = Blueprint::new(&objective, &settings, device.limits())?.tuned(device.as_mut())?;
    let steps = settings.steps;
    let mut trainer = Trainer::new(device, blueprint, Box::new(objective), settings)?;
    trainer.initialise(weights)?;
    for _ in 0..steps {
        trainer.step()?;
    }
    trainer.finish()?;
    let accuracy = trainer.evaluate()?.and_then(|evaluation| evaluation.value).unwrap_or(f64::NAN);
    let (mut device, _) = trainer.into_parts();
    // The next run is of another network, in the same store.
    device.free_states("");
    Ok((device, accuracy))
}
