//! What a model learns about a task that it is never shown: while it is pre-trained on the built-in stories, which of four
//! endings does it find most likely after a story's beginning?
//!
//!     cargo bench --bench zero_shot -- --out zero_shot.svg        (or: make zero-shot)
//!
//! Prints validation losses and accuracies in Markdown and draws the accuracies; progress goes to standard error. The
//! learning rate stays at its peak, so that a row does not depend on how far the run goes on; with `--schedule cosine` it
//! decays to the last of `--steps`, as in `wgpt train`.

use clap::Parser;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
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
use wgpt::evaluate::prompt::{Prompter, Shots};
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

/// Measures of the model after some steps.
struct Row {
    step: u64,
    accuracy: Accuracy,
}

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
    println!("| steps | validation loss | accuracy | standard error |");
    println!("|---|---|---|---|");
    let mut rows = vec![];
    for step in steps {
        while trainer.steps_done() < step {
            trainer.step()?;
            if trainer.is_hopeless() {
                fail!(Input, "the loss of --preset {} is no number any more", arguments.preset);
            }
        }
        trainer.finish()?;
        let loss = trainer.evaluate()?.map_or(f64::NAN, |evaluation| evaluation.loss); // nats per token
        let accuracy = accuracy(&mut trainer, &tokenizer, &asked, arguments.batch)?;
        let error = accuracy.error.map_or("".into(), |error| format!("{error:.3}"));
        println!("| {step} | {loss:.3} | {:.3} | {error} |", accuracy.mean);
        eprintln!("step {step}: {:.0} s", start.elapsed().as_secs_f32());
        rows.push(Row { step, accuracy });
    }
    println!("\nChance is {CHANCE:.3}; {} questions.", asked.len());
    let Some(out) = &arguments.out else { return Ok(()) };
    write_bytes(out, render(&arguments.preset, &rows, asked.len()).as_bytes())
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
    let model = ModelChoices { preset: Some(arguments.preset.clone()), ..ModelChoices::default() };
    let config = Config { dropout: settings.dropout(), ..model.config(vocabulary, recipe.init_std)? };
    let context = config.context;
    let objective = Box::new(Pretrain::new(config, context, corpus, None));
    let gpu = Box::new(Gpu::open(&arguments.device)?);
    let blueprint = Blueprint::new(objective.as_ref(), &settings, &gpu.adapter().limits)?;
    let mut trainer = Trainer::new(gpu, blueprint, objective, settings)?;
    trainer.initialise(None)?;
    Ok((trainer, tokenizer))
}

/// Share of questions whose right choice has the highest summed log-likelihood, of the parameters as they are.
fn accuracy(trainer: &mut Trainer, tokenizer: &Tokenizer, asked: &[Example], batch: usize) -> Result<Accuracy> {
    let network = trainer.network().clone();
    let mut prompter = Prompter { tokenizer, context: network.config().context, cut: 0 };
    let mut scorer = Scorer::of_store(trainer.executor(), &network, batch);
    let chosen = choose(&mut scorer, &mut prompter, (asked, "the built-in examples"), &Shots::NONE, &mut |_| ())?;
    Ok(Accuracies::of(&chosen).summed)
}

const INK: RGBColor = RGBColor(45, 52, 64);
const FAINT: RGBColor = RGBColor(226, 230, 236);
const CURVE: RGBColor = RGBColor(38, 98, 178);
const FLOOR: RGBColor = RGBColor(110, 118, 130);

/// Accuracies over steps with their standard errors, and chance, as SVG text.
fn render(preset: &str, rows: &[Row], questions: usize) -> String {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (900, 520)).into_drawing_area();
    draw(&root, preset, rows, questions).expect("drawing into memory cannot fail");
    drop(root);
    svg
}

fn draw(
    root: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    preset: &str,
    rows: &[Row],
    questions: usize,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let last = rows.last().map_or(1, |row| row.step.max(1)) as f64;
    // Room on both sides, so that the first and the last error do not lie on the edge.
    let steps = -0.02 * last..1.02 * last;
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(root)
        .caption(format!("{preset}: which ending fits, without fine-tuning"), font(22, &INK))
        .margin(16)
        .margin_right(28)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(steps.clone(), 0.0..1.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK.mix(0.6))
        .x_desc("steps of pre-training")
        .y_desc(format!("accuracy ± standard error ({questions} questions)"))
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|share| format!("{share:.1}"))
        .label_style(font(14, &INK))
        .axis_desc_style(font(16, &INK))
        .draw()?;
    chart.draw_series(DashedLineSeries::new(
        [(steps.start, CHANCE), (steps.end, CHANCE)],
        7,
        5,
        FLOOR.stroke_width(2),
    ))?;
    // At the right end under the line, where a model that learns is far above.
    let style = font(14, &FLOOR).pos(Pos::new(HPos::Right, VPos::Top));
    chart.draw_series([Text::new(format!("chance {CHANCE}"), (0.99 * last, CHANCE - 0.015), style)])?;
    let points = rows.iter().map(|row| (row.step as f64, row.accuracy.mean));
    chart.draw_series(LineSeries::new(points.clone(), CURVE.stroke_width(2)))?;
    for row in rows {
        let (step, mean, error) = (row.step as f64, row.accuracy.mean, row.accuracy.error.unwrap_or(0.0));
        let ends = vec![(step, (mean - error).max(0.0)), (step, (mean + error).min(1.0))];
        chart.draw_series([PathElement::new(ends, CURVE.stroke_width(2))])?;
    }
    chart.draw_series(points.map(|at| Circle::new(at, 4, CURVE.filled())))?;
    root.present()?;
    Ok(())
}

fn font(pixels: u32, color: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from(("Helvetica, Arial, 'DejaVu Sans', sans-serif", pixels).into_font()).color(color)
}
