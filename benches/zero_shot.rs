//! What a model learns about a task that it is never shown: while it is pre-trained on the built-in stories, which of four
//! endings does it find most likely after a story's beginning? And does it help to show it solved examples (`--shots`), for which the
//! context has to be long enough (`--context`)?
//!
//!     cargo bench --bench zero_shot -- --out zero_shot.svg        (or: make zero-shot)
//!
//! Prints validation losses and accuracies in Markdown and draws the accuracies; progress goes to standard error. The
//! learning rate stays at its peak, so that a row does not depend on how far the run goes on; with `--schedule cosine` it
//! decays to the last of `--steps`, as in `wgpt train`.

use clap::Parser;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use wgpt::data::corpora::story;
use wgpt::data::corpora::tasks::{Split, examples};
use wgpt::data::corpus::{Corpus, tokens};
use wgpt::data::labelled::{Example, Task};
use wgpt::data::source::Source;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::evaluate::Accuracy;
use wgpt::evaluate::choose::{Accuracies, choose};
use wgpt::evaluate::plot::AccuracyPlot;
use wgpt::evaluate::prompt::{Prompter, SEPARATOR, Shots};
use wgpt::evaluate::scorer::Scorer;
use wgpt::fail;
use wgpt::files::write_bytes;
use wgpt::gpu::Gpu;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::schedule::ScheduleKind;
use wgpt::train::settings::Choices;
use wgpt::train::trainer::Trainer;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Named model, with the training that goes with it
    #[arg(long, default_value = "gpt-mini")]
    preset: String,
    /// Steps after which the model is asked
    #[arg(long, value_delimiter = ',', default_values_t = [0, 100, 200, 400, 700, 1000, 1400])]
    steps: Vec<u64>,
    /// Learning rate after the warmup
    #[arg(long, value_enum, default_value_t = ScheduleKind::Constant)]
    schedule: ScheduleKind,
    /// Questions, of which four each have the same choices
    #[arg(long, default_value_t = 200)]
    examples: usize,
    /// Seed of the questions; 0 are those of `wgpt eval --task choose`
    #[arg(long, default_value_t = 0)]
    task_seed: u64,
    /// Seed of stories, initialisation and batches
    #[arg(long, default_value_t = 1337)]
    seed: u64,
    /// Solved examples before each question: a column and a curve for each number
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    shots: Vec<usize>,
    /// Tokens of a sequence, in training and where the model is asked [default: the preset's]
    #[arg(long)]
    context: Option<usize>,
    /// Sequences scored at once
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Where to draw the accuracies, an .svg file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes of the built-in corpus as `wgpt train` has them: training, and held out.
const STORY_BYTES: (usize, usize) = (2 << 20, 200 << 10);
/// Of four choices.
const CHANCE: f64 = 0.25;

/// Examples that solved ones are drawn from.
const SOLVED: usize = 400;

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    if arguments.examples == 0 || arguments.batch == 0 {
        fail!(Usage, "--examples 0 and --batch 0 do nothing: give 1 or more");
    }
    let mut steps = arguments.steps.clone();
    steps.sort_unstable();
    steps.dedup();
    let (mut trainer, tokenizer) = trainer(arguments, steps.last().copied().unwrap_or(0))?;
    let asked = examples(Task::Choose, Split::Test, arguments.task_seed, arguments.examples);
    let solved = examples(Task::Choose, Split::Train, arguments.task_seed, SOLVED);
    if let Some(most) = arguments.shots.iter().find(|shots| **shots > SOLVED) {
        fail!(Usage, "--shots {most} is more than the {SOLVED} examples that are drawn from");
    }
    let columns: String = arguments.shots.iter().map(|shots| format!(" accuracy, {shots} shots | cut |")).collect();
    println!("| steps | validation loss |{columns}");
    println!("|---|---|{}", "---|---|".repeat(arguments.shots.len()));
    let mut curves: Vec<_> = arguments.shots.iter().map(|shots| (format!("{shots} shots"), vec![])).collect();
    for step in steps {
        while trainer.steps_done() < step {
            trainer.step()?;
            if trainer.is_hopeless() {
                fail!(Input, "the loss of --preset {} is no number any more", arguments.preset);
            }
        }
        trainer.finish()?;
        let loss = trainer.evaluate()?.map_or(f64::NAN, |evaluation| evaluation.loss); // nats per token
        print!("| {step} | {loss:.3} |");
        for (&count, (_, curve)) in arguments.shots.iter().zip(&mut curves) {
            let shots = Shots { count, examples: &solved, seed: arguments.seed, separator: SEPARATOR };
            let (accuracy, cut) = accuracy(&mut trainer, &tokenizer, &asked, &shots, arguments.batch)?;
            let error = accuracy.error.map_or("".into(), |error| format!(" ± {error:.3}"));
            print!(" {:.3}{error} | {:.0}% |", accuracy.mean, 100.0 * cut);
            curve.push((step as f64, accuracy));
        }
        println!();
        eprintln!("step {step}: {:.0} s", start.elapsed().as_secs_f32());
    }
    println!(
        "\nChance is {CHANCE:.3}; {} questions; cut: texts that lost their beginning to the context.",
        asked.len()
    );
    let Some(out) = &arguments.out else { return Ok(()) };
    let title = format!("{}: which ending fits, without fine-tuning", arguments.preset);
    let (over, things) = ("steps of pre-training", asked.len());
    let plot = AccuracyPlot { title: &title, over, things, chance: CHANCE, curves: &curves };
    write_bytes(out, plot.render().as_bytes())
}

/// A model with its initial values, to be trained as `wgpt train` does but for the schedule.
fn trainer(arguments: &Arguments, last: u64) -> Result<(Trainer, Tokenizer)> {
    let recipe = PresetRecipe::of(Some(&arguments.preset));
    let choices = Choices { seed: Some(arguments.seed), ..Choices::default() };
    // Without a number of steps, which may shorten the warmup.
    let warmup = choices.clone().resolve(&recipe.run, |_| 1)?.warmup;
    let schedule = Some(arguments.schedule);
    let choices = Choices { steps: Some(last.max(1)), warmup: Some(warmup), schedule, ..choices };
    let settings = choices.resolve(&recipe.run, |_| 1)?;
    let stories = Source::from_text("the built-in stories", story::training_text(settings.seed, STORY_BYTES.0));
    let held_out = Source::from_text("held-out stories", story::validation_text(settings.seed, STORY_BYTES.1));
    let tokenizer = Tokenizer::choose(recipe.tokenizer, &stories)?;
    let vocabulary = tokenizer.vocabulary_size();
    // Text in memory is not cached.
    let open = |source| tokens(source, Some(&tokenizer), vocabulary, &std::env::temp_dir()).map(Arc::new);
    let (training, validation) = (open(&stories)?, open(&held_out)?);
    let corpus = Corpus { training, validation, vocabulary_size: vocabulary, notes: vec![], warnings: vec![] };
    let (preset, context) = (Some(arguments.preset.clone()), arguments.context);
    let model = ModelChoices { preset, context, ..ModelChoices::default() };
    let config = Config { dropout: settings.dropout(), ..model.config(vocabulary, recipe.init_std)? };
    let context = config.context;
    let objective = Box::new(Pretrain::new(config, context, corpus, None));
    let gpu = Box::new(Gpu::open(&arguments.device)?);
    let blueprint = Blueprint::new(objective.as_ref(), &settings, &gpu.adapter().limits)?;
    let mut trainer = Trainer::new(gpu, blueprint, objective, settings)?;
    trainer.initialise(None)?;
    Ok((trainer, tokenizer))
}

/// Share of questions whose right choice has the highest summed log-likelihood, of the parameters as they are, and of texts that were
/// too long for the context.
fn accuracy(
    trainer: &mut Trainer,
    tokenizer: &Tokenizer,
    asked: &[Example],
    shots: &Shots,
    batch: usize,
) -> Result<(Accuracy, f64)> {
    let network = trainer.network().clone();
    let mut prompter = Prompter { tokenizer, context: network.config().context, cut: 0 };
    let mut scorer = Scorer::of_store(trainer.executor(), &network, batch);
    let chosen = choose(&mut scorer, &mut prompter, (asked, "the built-in examples"), shots, &mut |_| ())?;
    let texts: usize = asked.iter().map(|example| example.choices.len()).sum();
    Ok((Accuracies::of(&chosen).summed, prompter.cut as f64 / texts as f64))
}
