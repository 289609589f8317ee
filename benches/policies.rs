//! Planned memory of PPO: policy, reference, reward model and critic of a preset's shape, in full, with adapters, and with adapters on
//! quantised bases.
//!
//!     cargo bench --bench policies -- --preset tinyllama-1.1b
//!
//! Nothing is allocated. Prints a table in Markdown.

use clap::Parser;
use std::collections::BTreeMap;
use wgpt::data::dialogues::Part;
use wgpt::data::labelled::Task;
use wgpt::data::labelled::target::Target;
use wgpt::data::prompts::Prompt;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::folder::Weights;
use wgpt::generate::SamplingParams;
use wgpt::gpu::Gpu;
use wgpt::graph::Quantisation;
use wgpt::models::config::{Config, SCORE};
use wgpt::objectives::labelled::folder::{Finetuned, TaskFile};
use wgpt::objectives::ppo::{Critic, Ppo, PpoOptions, RECIPE};
use wgpt::objectives::rewards::model::ByModel;
use wgpt::objectives::rollouts::{Drawing, Question, RollOuts, Schedule};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::ops::value_loss::ValueLoss;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::Choices;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name, whose limits are planned for
    #[arg(long, default_value = "auto")]
    device: String,
    #[arg(long, default_value = "tinyllama-1.1b")]
    preset: String,
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Answers of a micro-batch
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Micro-batches of a step
    #[arg(long, default_value_t = 8)]
    accumulate: usize,
    /// Tokens of prompts, and of answers
    #[arg(long, default_value_t = 256)]
    tokens: usize,
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
    let device = Gpu::open(&arguments.device)?;
    println!("| policy and critic | memory, MiB | values trained |\n|---|---|---|");
    for (name, lora, base) in [
        ("in full", None, None),
        ("adapters", Some(arguments.rank), None),
        ("adapters on f16", Some(arguments.rank), Some(Quantisation::F16)),
        ("adapters on q4_0", Some(arguments.rank), Some(Quantisation::Q4_0)),
    ] {
        let choices = Choices {
            batch: Some(arguments.batch),
            accumulate: Some(arguments.accumulate),
            steps: Some(1),
            lora,
            lora_targets: lora.map(|_| "all-linear".into()),
            base,
            classifier_rows: Some(128),
            ..Choices::default()
        };
        let (bytes, trained) = planned(arguments, preset.clone(), choices, &device)?;
        println!("| {name} | {} | {trained} |", bytes.div_ceil(1 << 20));
    }
    Ok(())
}

/// Bytes of a run, and trained values.
fn planned(arguments: &Arguments, plain: Config, choices: Choices, device: &Gpu) -> Result<(u64, usize)> {
    let settings = choices.clone().resolve(&RECIPE, |_| 1)?;
    let config = settings.quantised(choices.adapted(plain.clone(), (&plain, None))?);
    let task = TaskFile {
        task: Task::Classify,
        target: Target::Grade,
        special: None,
        longest: 2 * arguments.tokens,
        columns: BTreeMap::new(),
        pad: None,
        separator: None,
    };
    let reward = Finetuned {
        head: vec![(SCORE, vec![1, plain.width], vec![0.0; plain.width])],
        config: plain.clone(),
        weights: Weights::none(),
        task,
        tokenizer: Tokenizer::bytes()?,
    };
    let question = Question {
        prompt: Prompt { line: 1, prompt: Part::Text("p".into()), row: serde_json::Map::new() },
        text: "p".into(),
        ids: vec![0; arguments.tokens],
    };
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    let drawing = Drawing { params, tokens: arguments.tokens, generations: 1, learned: 1, ends: vec![] };
    let rollouts = RollOuts::new(
        (vec![question], vec![]),
        (drawing, Schedule::new(&settings, 1, 1)),
        Box::new(ByModel::new(reward)?),
        Tokenizer::bytes()?,
        (plain, Weights::none()),
    );
    let critic = Critic { config: config.clone(), weights: Weights::none(), score: None };
    let options = PpoOptions {
        loss: PolicyLoss { low: 0.2, high: 0.2, beta: 0.0 },
        value: ValueLoss { clip: 0.2 },
        value_weight: 0.1,
        beta: 0.05,
        target_kl: None,
        gamma: 1.0,
        lambda: 0.95,
        missing_end: 0.0,
    };
    let objective = Ppo::new(config, &settings, options, rollouts, critic);
    let blueprint = Blueprint::new(&objective, &settings, device.limits())?;
    let trained = blueprint.training_graph().trained().iter().map(|p| p.len()).sum();
    Ok((blueprint.memory_bytes(), trained))
}
