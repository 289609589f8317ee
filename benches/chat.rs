//! What fine-tuning on dialogues is worth: the demo model's share of true answers to questions about passages that it has not seen,
//! before and after supervised fine-tuning of all parameters and of adapters alone, three seeds each.
//!
//!     cargo bench --bench chat        (or: make chat-demo)
//!
//! Prints a table in Markdown, and a conversation with the last model; progress goes to standard error.

#[path = "shared/spread.rs"]
mod spread;

use clap::Parser;
use spread::mean_and_spread;
use std::time::Instant;
use wgpt::data::chat_template::{ChatTemplate, Message, built_in};
use wgpt::data::corpora::dialogues::dialogues;
use wgpt::data::corpora::tasks::Split;
use wgpt::data::dialogues::{Encoder, Form};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::demo;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::generate::{Generator, Request, SamplingParams};
use wgpt::gpu::Gpu;
use wgpt::models::config::Config;
use wgpt::objectives::sft::{RECIPE, Rows, Sft};
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
    /// Questions that shares are of: settings are chosen on validation, and reported on test
    #[arg(long, default_value = "test")]
    split: String,
    /// Questions
    #[arg(long, default_value_t = 100)]
    tests: usize,
    /// Dialogues to train on
    #[arg(long, default_value_t = 400)]
    examples: usize,
    #[arg(long, default_value_t = 1)]
    epochs: u64,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Learning rate of all parameters
    #[arg(long, default_value_t = 2e-3)]
    lr: f32,
    /// Learning rate of adapters
    #[arg(long, default_value_t = 3e-2)]
    lora_lr: f32,
    /// Rank of adapters, which are on all linear layers
    #[arg(long, default_value_t = 8)]
    rank: usize,
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Only these: all, adapters
    #[arg(long, value_delimiter = ',', default_value = "all,adapters")]
    kinds: Vec<String>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Rows of the decoder.
const ROWS: usize = 32;
/// Tokens of an answer, at most.
const LONGEST_ANSWER: usize = 32;
/// Questions of the conversation.
const CONVERSATION: usize = 4;

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

/// A model and its questions.
struct Bench<'a> {
    arguments: &'a Arguments,
    config: Config,
    weights: Weights,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    /// Prompts and true answers.
    questions: Vec<(Vec<u32>, String)>,
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let source = match &arguments.model {
        Some(folder) => ModelSource::open(folder)?,
        None => demo::model(),
    };
    let config = source.config()?;
    let (weights, tokenizer) = (source.weights(&config)?, source.tokenizer()?);
    let template = ChatTemplate::new(built_in("lines").expect("a built-in template"), "", "")?;
    let first = |messages: Vec<Message>| {
        let prompt = tokenizer.encode(&template.render(&messages[..1], true)?)?;
        Ok((prompt, messages[1].content.clone()))
    };
    let split = Split::named(&arguments.split)?;
    let questions = dialogues(split, 1, arguments.tests).into_iter().map(first).collect::<Result<_>>()?;
    let bench = Bench { arguments, config, weights, tokenizer, template, questions };
    let mut device: Box<dyn Executor> = Box::new(Gpu::open(&arguments.device)?);
    let (before, mut said);
    (device, before) = bench.untrained(device)?;
    said = vec![];
    println!("| trained | values | share of true answers | seconds of a run |\n|---|---|---|---|");
    println!("| nothing | 0 | {before:.3} | - |");
    for kind in &arguments.kinds {
        let (mut shares, mut seconds, mut trained) = (vec![], vec![], 0);
        for seed in 0..arguments.seeds {
            let start = Instant::now();
            let share;
            (device, (share, said), trained) = bench.trained(device, kind == "adapters", seed)?;
            seconds.push(start.elapsed().as_secs_f64());
            eprintln!("{kind}, seed {seed}: {share:.3} after {:.1} s", start.elapsed().as_secs_f64());
            shares.push(share);
        }
        let (mean, spread) = mean_and_spread(&shares);
        println!("| {kind} | {trained} | {mean:.3} ± {spread:.3} | {:.0} |", mean_and_spread(&seconds).0);
    }
    if !said.is_empty() {
        println!("\nThe last of these models on passages that it has not seen:\n");
    }
    for ((prompt, wanted), answer) in bench.questions.iter().zip(&said).take(CONVERSATION) {
        let mark = if answer == wanted { "right" } else { wanted };
        println!("> {}\n> {answer}   [{mark}]\n", bench.tokenizer.decode(prompt)?.trim());
    }
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f32());
    Ok(())
}

/// The share of true answers, and all answers.
type Answered = (f64, Vec<String>);

impl Bench<'_> {
    /// The share of true answers of the model as it is.
    fn untrained(&self, mut device: Box<dyn Executor>) -> Result<(Box<dyn Executor>, f64)> {
        let network = wgpt::models::network::Network::new(self.config.clone());
        let vocabulary = self.config.vocab_size;
        let mut generator = Generator::new(device.as_mut(), &network, &self.weights, vocabulary, ROWS)?;
        let (share, _) = self.share(device.as_mut(), &mut generator)?;
        generator.free(device.as_mut());
        device.free_states("");
        Ok((device, share))
    }

    /// The share after a run, and the number of trained values.
    fn trained(
        &self,
        mut device: Box<dyn Executor>,
        adapters: bool,
        seed: u64,
    ) -> Result<(Box<dyn Executor>, Answered, usize)> {
        let Arguments { examples, epochs, batch, lr, lora_lr, rank, .. } = *self.arguments;
        let encoder = Encoder { tokenizer: &self.tokenizer, template: Some(&self.template), end: None };
        let encode = |messages| encoder.encode(&Form::Dialogue { messages, learned: 0 });
        let rows = dialogues(Split::Train, 1, examples).into_iter().map(encode).collect::<Result<Vec<_>>>()?;
        let choices = Choices {
            epochs: Some(epochs),
            batch: Some(batch),
            lr: Some(if adapters { lora_lr } else { lr }),
            lora: adapters.then_some(rank),
            lora_targets: adapters.then(|| "all-linear".into()),
            seed: Some(seed),
            ..Choices::default()
        };
        let config = choices.adapted(self.config.clone(), (&self.config, None))?;
        let rows = Rows::new(rows, None);
        let settings: Settings = choices.resolve(&RECIPE, |batch| rows.len().div_ceil(batch) as u64)?;
        let objective = Box::new(Sft::new(config, &settings, (rows, Rows::new(vec![], None))));
        let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits())?.tuned(device.as_mut())?;
        let steps = settings.steps;
        let mut trainer = Trainer::new(device, blueprint, objective, settings)?;
        trainer.initialise(Some(&self.weights))?;
        for _ in 0..steps {
            trainer.step()?;
        }
        trainer.finish()?;
        let trained = trainer.trained().iter().map(|p| p.len()).sum();
        let network = trainer.network().clone();
        (device, _) = trainer.into_parts();
        let mut generator = Generator::of_store(device.as_mut(), &network, self.config.vocab_size, ROWS)?;
        let answered = self.share(device.as_mut(), &mut generator)?;
        generator.free(device.as_mut());
        // The next run is of another network, in the same store.
        device.free_states("");
        Ok((device, answered, trained))
    }

    /// The share of questions whose greedy answer, to the end of its line, is the true one.
    fn share(&self, device: &mut dyn Executor, generator: &mut Generator) -> Result<Answered> {
        let end = self.tokenizer.encode("\n")?[0];
        let mut answers: Vec<Vec<u32>> = vec![vec![]; self.questions.len()];
        let request = |(prompt, _): &(Vec<u32>, String)| Request {
            prompt: prompt.clone(),
            tokens: LONGEST_ANSWER,
            seed: 0,
            params: SamplingParams::GREEDY,
            best: 0,
        };
        generator.generate(device, &mut self.questions.iter().map(request), &mut |question, token| {
            if token.id != end {
                answers[question].push(token.id);
            }
            Ok(token.id != end)
        })?;
        let said = answers.iter().map(|ids| self.tokenizer.decode(ids)).collect::<Result<Vec<String>>>()?;
        let right = said.iter().zip(&self.questions).filter(|(said, (_, wanted))| *said == wanted).count();
        Ok((right as f64 / self.questions.len() as f64, said))
    }
}
