//! What preferences are worth: the demo model answers questions about passages that it has not seen, after fine-tuning on common answers,
//! and after each method that learns from preferences. The grammar knows the grade of every answer, from 0 to 4, so that the score of the
//! reward model, which the methods are trained on, stands beside the true reward.
//!
//!     cargo bench --bench align        (or: make align-demo)
//!
//! Runs `wgpt data task`, `sft`, `reward` and `align` in a folder of its own, prints tables in Markdown, and draws reward against KL
//! divergence; progress goes to standard error.

#[path = "shared/runs.rs"]
mod runs;
#[path = "shared/spread.rs"]
mod spread;

use clap::Parser;
use plotters::prelude::*;
use runs::Runs;
use spread::mean_and_spread;
use std::path::PathBuf;
use std::time::Instant;
use wgpt::data::chat_template::{Message, USER};
use wgpt::data::corpora::preferences::{Grade, Question as Asked, questions};
use wgpt::data::corpora::tasks::Split;
use wgpt::data::dialogues::Part;
use wgpt::data::prompts::Prompt;
use wgpt::error::Result;
use wgpt::files::write_bytes;
use wgpt::formats::source::ModelSource;
use wgpt::generate::{Generator, MOST_ROWS, SamplingParams};
use wgpt::gpu::Gpu;
use wgpt::models::network::Network;
use wgpt::objectives::labelled::folder::open;
use wgpt::objectives::rewards::model::ByModel;
use wgpt::objectives::rollouts::{Answer, Drawing, Question, RollOuts, Schedule};

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Questions that rewards are of: settings are chosen on validation, and reported on test
    #[arg(long, default_value = "test")]
    split: String,
    /// Questions
    #[arg(long, default_value_t = 200)]
    tests: usize,
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Only these: rejection, dpo, grpo, ppo
    #[arg(long, value_delimiter = ',', default_value = "rejection,dpo,grpo,ppo")]
    methods: Vec<String>,
    /// Folder of the runs, whose models of `sft` and `reward` are used again [default: a temporary one]
    #[arg(long)]
    runs: Option<PathBuf>,
    /// Picture of reward against KL divergence
    #[arg(long)]
    out: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Tokens of an answer, at most: the longest answers of the task are a little shorter.
const LONGEST_ANSWER: usize = 36;
/// Answers to a question of which the reward model takes the best.
const BEST_OF: usize = 4;

/// Flags of the runs: learning rates and betas were chosen on validation questions with more examples and steps, which were then cut to
/// some fifteen minutes on a software adapter.
const SFT: &str = "--epochs 1 --batch 4 --lr 2e-3";
const REWARD: &str = "--epochs 1 --batch 8 --lr 1e-3";
const METHODS: [(&str, &str); 4] = [
    (
        "rejection",
        "--data train.jsonl --val few.jsonl --generations 4 --batch 16 --steps-per-rollout 2 --steps 4 --lr 8e-4 --temperatures 0.7,1.1",
    ),
    ("dpo", "--data pairs.jsonl --epochs 1 --batch 8 --lr 3e-4"),
    ("grpo", "--data train.jsonl --generations 8 --batch 32 --steps 5 --lr 8e-4 --beta 0.05"),
    (
        "ppo",
        "--data train.jsonl --batch 32 --iterations 1 --lambda 1 --steps 4 --lr 8e-4 --beta 0.05 --value-weight 0.5",
    ),
];

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

/// Measures of a model's answers to all questions.
#[derive(Clone, Copy)]
struct Measured {
    grade: f64,
    score: f64,
    kl: f64,
    is_true: f64,
    is_sentence: f64,
    is_polite: f64,
}

/// Where the runs are, and the questions.
struct Bench<'a> {
    arguments: &'a Arguments,
    runs: Runs,
    asked: Vec<Asked>,
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let runs = Runs::new(arguments.runs.as_deref(), &arguments.device)?;
    let split = Split::named(&arguments.split)?;
    let asked = questions(split, 1, arguments.tests).into_iter().map(|(question, _)| question).collect();
    let bench = Bench { arguments, runs, asked };
    for (name, split, seed, count) in [
        ("common", "train", 1, 1600),
        ("train", "train", 2, 400),
        ("pairs", "train", 5, 128),
        ("held-out", "validation", 3, 200),
        ("few", "validation", 4, 8),
    ] {
        bench
            .wgpt(&format!("data task preference --split {split} --seed {seed} --count {count} --out {name}.jsonl"))?;
    }
    if !bench.runs.path("sft/config.json").exists() {
        bench.wgpt(&format!("sft --data common.jsonl --template lines --out sft --overwrite {SFT}"))?;
    }
    if !bench.runs.path("reward/config.json").exists() {
        bench.wgpt(&format!(
            "reward --model sft --data train.jsonl --val held-out.jsonl --out reward --overwrite {REWARD}"
        ))?;
    }
    let log = std::fs::read_to_string(bench.runs.path("reward.log")).unwrap_or_default();
    if let Some(line) = log.lines().rev().find(|line| line.contains("accuracy")) {
        println!("Reward model, 200 held-out pairs: {}\n", line.trim());
    }
    println!("| | true reward | reward model | KL, nats | true | sentences | polite |\n|---|---|---|---|---|---|---|");
    let mut points = vec![];
    let mut tell = |name: &str, all: Vec<Measured>| {
        let of = |get: fn(&Measured) -> f64| mean_and_spread(&all.iter().map(get).collect::<Vec<_>>());
        let text = |get| match of(get) {
            (mean, _) if mean.is_nan() => "-".to_string(),
            (mean, _) if all.len() == 1 => format!("{mean:.3}"),
            (mean, spread) => format!("{mean:.3} ± {spread:.3}"),
        };
        let columns = [text(|m| m.grade), text(|m| m.score), text(|m| m.kl), text(|m| m.is_true)];
        println!("| {name} | {} | {} | {} |", columns.join(" | "), text(|m| m.is_sentence), text(|m| m.is_polite));
        points.push((name.to_string(), all));
    };
    let seeds = || 0..arguments.seeds;
    tell("base", vec![bench.measured(None, 0)?]);
    let (first, best) = seeds().map(|seed| bench.first_and_best(seed)).collect::<Result<_>>()?;
    tell("SFT", first);
    tell(&format!("SFT, best of {BEST_OF}"), best);
    for (method, flags) in METHODS.iter().filter(|(name, _)| arguments.methods.iter().any(|wanted| wanted == name)) {
        let one = |seed: u64| {
            let start = Instant::now();
            let rewards = if *method == "dpo" { "" } else { "--reward-model reward" };
            let tokens = if *method == "dpo" { String::new() } else { format!("--tokens {LONGEST_ANSWER}") };
            bench.wgpt(&format!(
                "align --method {method} --model sft {rewards} {tokens} --out {method} --overwrite --seed {seed} {flags}"
            ))?;
            eprintln!("{method}, seed {seed}: {:.0} s", start.elapsed().as_secs_f32());
            bench.measured(Some(method), seed)
        };
        tell(method, seeds().map(one).collect::<Result<_>>()?);
    }
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f32());
    let Some(out) = &arguments.out else { return Ok(()) };
    write_bytes(out, picture(&points).as_bytes())
}

impl Bench<'_> {
    /// Runs the program in the folder of the runs; what it says goes to a log by the command's name.
    fn wgpt(&self, arguments: &str) -> Result<()> {
        let name = arguments.split(' ').next().unwrap_or_default();
        let (_, said) = self.runs.wgpt(arguments)?;
        write_bytes(&self.runs.path(&format!("{name}.log")), said.as_bytes())
    }

    /// What draws answers to all questions, with the reward model's scores and the SFT model as the reference.
    fn rollouts(&self, generations: usize) -> Result<RollOuts> {
        let sft = ModelSource::open(&self.runs.path("sft"))?;
        let (config, tokenizer) = (sft.config()?, sft.tokenizer()?);
        let question = |asked: &Asked| {
            let message = Message { role: USER.into(), content: asked.text.clone() };
            let prompt = Prompt { line: 0, prompt: Part::Messages(vec![message]), row: serde_json::Map::new() };
            let (text, ids) = prompt.opened(&tokenizer)?;
            Ok(Question { prompt, text, ids })
        };
        let questions = self.asked.iter().map(question).collect::<Result<Vec<_>>>()?;
        let ends = config.eos_token_id.iter().copied().chain(tokenizer.end_of_text()).collect();
        let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
        let drawing = Drawing { params, tokens: LONGEST_ANSWER, generations, learned: generations, ends };
        let schedule = Schedule { steps_per_rollout: 1, iterations: 1, batch: MOST_ROWS, accumulate: 1, seed: 0 };
        let rewards = ByModel::new(open(&ModelSource::open(&self.runs.path("reward"))?)?)?;
        let start = (config.clone(), sft.weights(&config)?);
        Ok(RollOuts::new((vec![], questions), (drawing, schedule), Box::new(rewards), tokenizer, start))
    }

    /// A device with a model's weights in its store, and the model.
    fn loaded(&self, model: Option<&str>) -> Result<(Gpu, Network)> {
        let mut device = Gpu::open(&self.arguments.device)?;
        let source = match model {
            Some(folder) => ModelSource::open(&self.runs.path(folder))?,
            None => wgpt::formats::demo::model(),
        };
        let config = source.config()?;
        let network = Network::new(config.clone());
        Generator::new(&mut device, &network, &source.weights(&config)?, config.vocab_size, 1)?;
        Ok((device, network))
    }

    /// The measures of a model that draws one answer to each question; of the demo model where there is none.
    fn measured(&self, model: Option<&str>, seed: u64) -> Result<Measured> {
        let (mut device, network) = self.loaded(model)?;
        let mut rollouts = self.rollouts(1)?;
        let answers = rollouts.validate(&mut device, &network, seed as u32 * 1000)?;
        let kl = answers.iter().map(Answer::log_ratio).sum::<f64>() / answers.len() as f64;
        self.measures(&rollouts, &answers.iter().collect::<Vec<_>>(), kl)
    }

    /// Those of the SFT model's first answer to each question, and of the best of several by the reward model, whose KL divergence has a
    /// bound in closed form.
    fn first_and_best(&self, seed: u64) -> Result<(Measured, Measured)> {
        let (mut device, network) = self.loaded(Some("sft"))?;
        let mut rollouts = self.rollouts(BEST_OF)?;
        let answers = rollouts.try_out(&mut device, &network, usize::MAX, (1.0, seed as u32 * 10_000))?;
        let score = |answer: &Answer| answer.reward().unwrap_or(f32::NEG_INFINITY);
        let first = answers.iter().step_by(BEST_OF).collect::<Vec<_>>();
        let best =
            answers.chunks(BEST_OF).filter_map(|group| group.iter().max_by(|a, b| score(a).total_cmp(&score(b))));
        let count = BEST_OF as f64;
        let bound = count.ln() - (count - 1.0) / count;
        Ok((self.measures(&rollouts, &first, 0.0)?, self.measures(&rollouts, &best.collect::<Vec<_>>(), bound)?))
    }

    fn measures(&self, rollouts: &RollOuts, answers: &[&Answer], kl: f64) -> Result<Measured> {
        let grade = |answer: &&Answer| Ok(self.asked[answer.question].grade(&rollouts.text(answer)?));
        let grades = answers.iter().map(grade).collect::<Result<Vec<Grade>>>()?;
        let count = answers.len() as f64;
        let share = |of: fn(&Grade) -> f64| grades.iter().map(of).sum::<f64>() / count;
        Ok(Measured {
            grade: share(|grade| f64::from(grade.value())),
            score: answers.iter().filter_map(|answer| answer.reward()).map(f64::from).sum::<f64>() / count,
            kl,
            is_true: share(|grade| f64::from(u8::from(grade.is_true))),
            is_sentence: share(|grade| f64::from(u8::from(grade.is_sentence))),
            is_polite: share(|grade| f64::from(u8::from(grade.is_polite))),
        })
    }
}

const INK: RGBColor = RGBColor(45, 52, 64);
const FAINT: RGBColor = RGBColor(226, 230, 236);
/// Okabe and Ito's colours, which stay apart for the colour-blind.
const COLORS: [RGBColor; 6] = [
    RGBColor(110, 118, 130),
    RGBColor(0, 0, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// The true reward and the reward model's score against the KL divergence from the SFT model, as SVG text. The base, which has not seen the
/// task, is left out.
fn picture(points: &[(String, Vec<Measured>)]) -> String {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (1100, 520)).into_drawing_area();
    draw(&root, &points[1..]).expect("drawing into memory cannot fail");
    drop(root);
    svg
}

/// A title, and what is drawn.
type Panel = (&'static str, fn(&Measured) -> f64);

fn draw(
    root: &DrawingArea<SVGBackend, plotters::coord::Shift>,
    points: &[(String, Vec<Measured>)],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let all = || points.iter().flat_map(|(_, all)| all);
    let range = |get: fn(&Measured) -> f64| {
        let (low, high) = (all().map(get).fold(f64::MAX, f64::min), all().map(get).fold(f64::MIN, f64::max));
        let room = 0.08 * (high - low).max(1e-3);
        low - room..high + room
    };
    let panels: [Panel; 2] =
        [("true reward, by the grammar (0 to 4)", |m| m.grade), ("score of the reward model", |m| m.score)];
    for ((title, get), area) in panels.into_iter().zip(root.split_evenly((1, 2))) {
        let mut chart = ChartBuilder::on(&area)
            .caption(title, font(20))
            .margin(16)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(56)
            .build_cartesian_2d(range(|m| m.kl), range(get))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK.mix(0.6))
            .x_desc("KL divergence from the SFT model, nats per answer")
            .x_label_formatter(&|kl| format!("{kl:.1}"))
            .y_label_formatter(&|reward| format!("{reward:.1}"))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .draw()?;
        for ((name, all), color) in points.iter().zip(COLORS.iter().cycle().skip(1)) {
            let dots = all.iter().map(|m| Circle::new((m.kl, get(m)), 5, color.filled()));
            chart.draw_series(dots)?.label(name).legend(|(x, y)| Circle::new((x + 8, y), 5, color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(FAINT)
            .label_font(font(14))
            .draw()?;
    }
    root.present()?;
    Ok(())
}

fn font(pixels: u32) -> TextStyle<'static> {
    TextStyle::from(("Helvetica, Arial, 'DejaVu Sans', sans-serif", pixels).into_font()).color(&INK)
}
