//! The families side by side: BERT, GPT-2, T5 and Transformer-XL of demo size, pretrained on the built-in stories, then fine-tuned on
//! tasks whose answers the grammar knows, from these weights and from random ones; and what Transformer-XL's memory is worth.
//!
//!     cargo bench --bench encoders        (or: make encoder-demo)
//!
//! Runs `wgpt train`, `finetune`, `predict` and `eval` in a folder of its own and prints tables in Markdown; progress goes to standard
//! error.

#[path = "shared/runs.rs"]
mod runs;
#[path = "shared/spread.rs"]
mod spread;
#[path = "shared/text_tasks.rs"]
mod text_tasks;

use clap::Parser;
use runs::Runs;
use serde_json::Value;
use spread::mean_and_spread;
use std::path::PathBuf;
use std::time::Instant;
use wgpt::data::corpora::story;
use wgpt::data::corpora::tasks::Split;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::write_bytes;

#[derive(Parser)]
struct Arguments {
    /// auto, or part of an adapter's name
    #[arg(long, default_value = "auto")]
    device: String,
    /// Stories and examples that figures are of: settings are chosen on validation, and reported on test
    #[arg(long, default_value = "test")]
    split: String,
    /// Examples of each task that figures are of
    #[arg(long, default_value_t = 120)]
    tests: usize,
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Only these tasks
    #[arg(long, value_delimiter = ',', default_value = "classify,entail,similar,choose,tag,answer")]
    tasks: Vec<String>,
    /// Only these families
    #[arg(long, value_delimiter = ',', default_value = "bert,gpt,t5,xl")]
    families: Vec<String>,
    /// Steps of further pretraining of BERT, of 32 sequences of 32 tokens, half of which are masked
    #[arg(long, default_value_t = 0)]
    more_steps: usize,
    /// Folder of the runs, whose pretrained models are used again [default: a temporary one]
    #[arg(long)]
    runs: Option<PathBuf>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// A pretrained model: folder, name, flags of `wgpt train` for each stage, and what its loss is of.
struct Family {
    folder: &'static str,
    name: &'static str,
    stages: &'static [&'static str],
    loss: &'static str,
}

/// All but T5, whose tokenizer has sentinels, see the stories through one tokenizer of words. The first stage of BERT and T5 is one
/// step, which makes a model with positions for the tasks; the second is of short sequences, from which they learn much sooner to
/// look at neighbours.
const FAMILIES: [Family; 4] = [
    Family {
        folder: "bert",
        name: "BERT",
        stages: &[
            "--preset bert-mini --tokenizer words.json --layers 3 --heads 4 --init-std 0.08 --context 32 --batch 8 --steps 1",
            "--context 18 --batch 48 --mask-share 0.3 --lr 3e-3 --schedule wsd --steps 300",
            "--context 32 --batch 32 --mask-share 0.3 --lr 3e-3 --schedule wsd --steps 400",
        ],
        loss: "a masked token",
    },
    Family {
        folder: "gpt",
        name: "GPT-2",
        stages: &["--preset demo --tokenizer words.json --layers 3 --context 32 --batch 16 --steps 400"],
        loss: "a token",
    },
    Family {
        folder: "t5",
        name: "T5",
        stages: &[
            "--preset t5-mini --tokenizer pieces.json --context 96 --batch 4 --steps 1",
            "--context 24 --batch 32 --lr 3e-3 --schedule wsd --steps 400",
        ],
        loss: "a token of a span",
    },
    Family {
        folder: "xl",
        name: "Transformer-XL",
        stages: &["--preset transfo-xl-mini --tokenizer words.json --layers 3 --context 32 --batch 16 --steps 250"],
        loss: "a token",
    },
];

/// Flags of BERT's further pretraining.
const MORE: &str = "--context 32 --batch 32 --mask-share 0.5 --lr 3e-3 --schedule wsd";

/// A task: training examples, and flags of `wgpt finetune` for BERT and for GPT, tried on validation examples.
struct Budget {
    task: &'static str,
    /// What is measured, and its value without any learning, in percent.
    measure: (&'static str, f64),
    examples: usize,
    flags: &'static str,
}

const BUDGETS: [Budget; 6] = [
    Budget { task: "classify", measure: ("accuracy", 50.0), examples: 400, flags: "--batch 16 --epochs 2 --lr 1e-3" },
    Budget { task: "entail", measure: ("accuracy", 50.0), examples: 400, flags: "--batch 16 --epochs 2 --lr 1e-3" },
    Budget { task: "similar", measure: ("accuracy", 50.0), examples: 1200, flags: "--batch 32 --epochs 2 --lr 1e-3" },
    Budget { task: "choose", measure: ("accuracy", 25.0), examples: 160, flags: "--batch 4 --epochs 2 --lr 1e-3" },
    Budget { task: "tag", measure: ("F1", 0.0), examples: 100, flags: "--batch 8 --epochs 2 --lr 1e-3" },
    Budget { task: "answer", measure: ("F1", 33.3), examples: 120, flags: "--batch 16 --epochs 2 --lr 1e-3" },
];

/// Of T5, which learns all tasks at once: examples of each task, and flags.
const TEXT: (usize, &str) = (280, "--batch 8 --epochs 2 --lr 3e-3");
/// Segments of Transformer-XL's memory.
const MEMORIES: [usize; 3] = [0, 1, 3];
/// Bytes of training text, as `wgpt train` has them, and of the stories that losses are of.
const STORY_BYTES: (usize, usize) = (2 << 20, 64 << 10);
/// Seeds of stories: training and validation, and test.
const SEEDS: (u64, u64) = (1337, 7);

fn main() {
    if let Err(error) = run(&Arguments::parse()) {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let runs = Runs::new(arguments.runs.as_deref(), &arguments.device)?;
    let split = Split::named(&arguments.split)?;
    if arguments.seeds == 0 || arguments.tests == 0 {
        fail!(Usage, "--seeds 0 and --tests 0 do nothing: give 1 or more");
    }
    let bench = Bench { arguments, runs, split, start };
    bench.write_texts()?;
    bench.pretrain()?;
    bench.fine_tune()?;
    bench.memory()?;
    eprintln!("{:.0} s in all", start.elapsed().as_secs_f32());
    Ok(())
}

struct Bench<'a> {
    arguments: &'a Arguments,
    runs: Runs,
    split: Split,
    start: Instant,
}

impl Bench<'_> {
    fn has(&self, family: &str) -> bool {
        self.arguments.families.iter().any(|wanted| wanted == family)
    }

    fn tasks(&self) -> impl Iterator<Item = &'static Budget> {
        BUDGETS.iter().filter(|budget| self.arguments.tasks.iter().any(|wanted| wanted == budget.task))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write_bytes(&self.runs.path(name), text.as_bytes())
    }

    fn progress(&self, what: &str) {
        eprintln!("{:4.0} s  {what}", self.start.elapsed().as_secs_f32());
    }

    /// The stories, the examples of all tasks, and tokenizers: of the stories, and of T5's the tasks' words as well.
    fn write_texts(&self) -> Result<()> {
        let stories = story::training_text(SEEDS.0, STORY_BYTES.0);
        self.write("train.txt", &stories)?;
        let held_out = if self.split == Split::Test { SEEDS.1 } else { SEEDS.0 };
        self.write(&format!("{}.txt", self.split.name()), &story::validation_text(held_out, STORY_BYTES.1))?;
        for Budget { task, examples, .. } in &BUDGETS {
            for (split, count) in [(Split::Train, *examples), (self.split, self.arguments.tests)] {
                let (split, file) = (split.name(), self.runs.path(&format!("{task}-{}.jsonl", split.name())));
                let _ = std::fs::remove_file(&file); // the command replaces nothing
                self.runs.wgpt(&format!(
                    "data task {task} --split {split} --seed 1 --count {count} --out {task}-{split}.jsonl"
                ))?;
            }
        }
        let names: Vec<&str> = BUDGETS.iter().map(|budget| budget.task).collect();
        self.write("text-train.jsonl", &text_tasks::lines(&names, Split::Train, TEXT.0)?)?;
        self.write(
            &format!("text-{}.jsonl", self.split.name()),
            &text_tasks::lines(&names, self.split, self.arguments.tests)?,
        )?;
        let words = text_tasks::words(&names, TEXT.0)?;
        self.write("words.txt", &format!("{}{words}", &stories[..STORY_BYTES.0 / 8]))?;
        for (kind, data, out) in [("wordpiece", "train.txt", "words.json"), ("unigram", "words.txt", "pieces.json")] {
            if !self.runs.path(out).exists() {
                self.runs.wgpt(&format!("tokenizer train --kind {kind} --data {data} --vocab 512 --out {out}"))?;
            }
        }
        Ok(())
    }

    /// Trains the models that are not there, and prints the table of the families.
    fn pretrain(&self) -> Result<()> {
        println!("| model | parameters | tokens seen | loss, nats | of | bits per byte | tokens/s | memory, MiB |");
        println!("|---|---|---|---|---|---|---|---|");
        let split = self.split.name();
        for family in FAMILIES.iter().filter(|family| self.has(family.folder)) {
            let Family { folder, name, stages, loss } = family;
            let stages = &self.stages(stages, folder);
            if !self.runs.path(folder).join("config.json").exists() {
                self.train(folder, stages)?;
            }
            let said = std::fs::read_to_string(self.runs.path(&format!("{folder}.said"))).unwrap_or_default();
            let parameters = said.split_once("model: ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or("-");
            let log = self.log(&format!("{folder}/log.jsonl"))?;
            let value = |record: &Value, key: &str| record[key].as_f64().unwrap_or(f64::NAN);
            let mut speeds: Vec<f64> = log.iter().map(|record| value(record, "tokens_per_second")).collect();
            speeds.sort_by(f64::total_cmp);
            let last = &log[log.len() - 1];
            let bits = match *folder {
                "gpt" | "xl" => {
                    let (out, _) = self.runs.wgpt(&format!("eval --model {folder} --data {split}.txt --batch 32"))?;
                    format!("{:.3}", value(&parsed(&out)?, "bits_per_byte"))
                }
                _ => "-".into(),
            };
            let memory = value(last, "memory_bytes") / f64::from(1 << 20);
            let tokens: f64 = stages.iter().map(|flags| tokens(flags)).sum();
            println!(
                "| {name} | {parameters} | {tokens:.0} | {:.3} | {loss} | {bits} | {:.0} | {memory:.0} |",
                value(last, "val_loss"),
                speeds[speeds.len() / 2]
            );
            self.progress(&format!("{name} is pretrained"));
        }
        println!();
        Ok(())
    }

    /// The stages of a family's pretraining, with what BERT is trained further.
    fn stages(&self, stages: &[&str], folder: &str) -> Vec<String> {
        let more = format!("{MORE} --steps {}", self.arguments.more_steps);
        let more = (folder == "bert" && self.arguments.more_steps > 0).then_some(more);
        stages.iter().map(|stage| stage.to_string()).chain(more).collect()
    }

    /// Stages, each from the model of the one before. The last one's model gets the family's name.
    fn train(&self, folder: &str, stages: &[String]) -> Result<()> {
        let split = self.split.name();
        let name =
            |stage: usize| if stage + 1 == stages.len() { folder.to_string() } else { format!("{folder}-{stage}") };
        for (stage, flags) in stages.iter().enumerate() {
            let from = if stage > 0 { format!("--init {}", name(stage - 1)) } else { String::new() };
            let (_, said) = self.runs.wgpt(&format!(
                "train {from} {flags} --data train.txt --val {split}.txt --eval-every 0 --save-every 0 --out {} --overwrite",
                name(stage)
            ))?;
            self.write(&format!("{folder}.said"), &said)?;
        }
        Ok(())
    }

    /// The records of a run's log.
    fn log(&self, name: &str) -> Result<Vec<Value>> {
        let path = self.runs.path(name);
        let text = std::fs::read_to_string(&path).map_err(|why| Error::Input(format!("{}: {why}", path.display())))?;
        let records = text.lines().map(parsed).collect::<Result<Vec<Value>>>()?;
        if records.is_empty() {
            fail!(Input, "{} has no records", path.display());
        }
        Ok(records)
    }

    /// Fine-tunes all models from their weights and from random ones, and prints the table of the tasks.
    fn fine_tune(&self) -> Result<()> {
        println!(
            "| task | examples | measure, % | nothing learned | BERT | random weights | GPT-2 | random weights | T5, as text | random weights |\n\
             |---|---|---|---|---|---|---|---|---|---|"
        );
        let texts = if self.has("t5") { Some((self.texts(false)?, self.texts(true)?)) } else { None };
        for budget in self.tasks() {
            let Budget { task, measure: (measure, chance), examples, flags } = budget;
            let mut cells = vec![];
            for (family, is_random) in [("bert", false), ("bert", true), ("gpt", false), ("gpt", true)] {
                let is_there = self.has(family) && (family == "bert" || !["tag", "answer"].contains(task));
                let one = |seed| self.head(family, budget, seed, is_random);
                let values = if is_there { (0..self.arguments.seeds).map(one).collect::<Result<_>>()? } else { vec![] };
                cells.push(cell(&values));
            }
            for texts in texts.iter().flat_map(|(pretrained, random)| [pretrained, random]) {
                cells.push(cell(&texts.iter().filter_map(|run| run.get(*task).copied()).collect::<Vec<_>>()));
            }
            println!("| {task} | {examples} | {measure} | {chance:.1} | {} |", cells.join(" | "));
            self.progress(&format!("{task}: {flags}"));
        }
        println!("\nT5 learns {} examples of each task, of all at once: {}.\n", TEXT.0, TEXT.1);
        Ok(())
    }

    /// The figure of one run of a head, in percent.
    fn head(&self, family: &str, budget: &Budget, seed: u64, is_random: bool) -> Result<f64> {
        let Budget { task, flags, .. } = budget;
        let (split, from) = (self.split.name(), if is_random { "--from-scratch" } else { "" });
        let stride = if *task == "answer" { "--stride 10" } else { "" };
        self.runs.wgpt(&format!(
            "finetune --model {family} --task {task} --data {task}-train.jsonl --val {task}-{split}.jsonl {flags} {stride} {from} \
             --dropout 0 --eval-every 0 --save-every 0 --seed {seed} --out tuned --overwrite"
        ))?;
        let log = self.log("tuned/training/log.jsonl")?;
        let last = &log[log.len() - 1];
        let found = match *task {
            // At the threshold of no answer that is the best for these very questions, as the official script reports it.
            "answer" => last["best_f1"].as_f64(),
            "tag" => last["f1"].as_f64().map(|share| 100.0 * share),
            _ => last["accuracy"].as_f64().map(|share| 100.0 * share),
        };
        let found = found.unwrap_or(f64::NAN);
        self.progress(&format!("{task}, {family}{}, seed {seed}: {found:.1}", if is_random { ", random" } else { "" }));
        Ok(found)
    }

    /// The share of texts that are the right ones, in percent, by task, of T5 trained on all tasks at once: a map for each seed.
    fn texts(&self, is_random: bool) -> Result<Vec<text_tasks::Shares>> {
        let (split, from) = (self.split.name(), if is_random { "--from-scratch" } else { "" });
        let one = |seed: u64| {
            self.runs.wgpt(&format!(
                "finetune --model t5 --task text --data text-train.jsonl --val text-{split}.jsonl {} {from} --dropout 0 \
                 --eval-every 0 --save-every 0 --seed {seed} --out tuned --overwrite",
                TEXT.1
            ))?;
            let (out, _) = self
                .runs
                .wgpt(&format!("predict --model tuned --data text-{split}.jsonl --batch 60 --max-new-tokens 24"))?;
            let written = std::fs::read_to_string(self.runs.path(&format!("text-{split}.jsonl"))).unwrap_or_default();
            let shares = text_tasks::shares(&written, &out)?;
            self.progress(&format!("text, t5{}, seed {seed}: {shares:.1?}", if is_random { ", random" } else { "" }));
            Ok(shares)
        };
        (0..self.arguments.seeds).map(one).collect()
    }

    /// Prints losses by position of Transformer-XL with memories of several lengths.
    fn memory(&self) -> Result<()> {
        if !self.has("xl") {
            return Ok(());
        }
        println!(
            "| memory, segments | all positions | first eighth | second | third | fourth | last |\n|---|---|---|---|---|---|---|"
        );
        let context = 32;
        for segments in MEMORIES {
            let (out, _) = self.runs.wgpt(&format!(
                "eval --model xl --data {}.txt --batch 8 --memory {}",
                self.split.name(),
                segments * context
            ))?;
            let found = parsed(&out)?;
            let part = |n: usize| format!("{:.3}", found["loss_by_position"][n]["loss"].as_f64().unwrap_or(f64::NAN));
            let parts = [0, 1, 2, 3, 7].map(part).join(" | ");
            println!("| {segments} | {:.3} | {parts} |", found["loss"].as_f64().unwrap_or(f64::NAN));
        }
        self.progress("memory");
        Ok(())
    }
}

/// Tokens that a run with these flags sees.
fn tokens(flags: &str) -> f64 {
    let number = |flag: &str| -> f64 {
        let found = flags.split(' ').skip_while(|word| *word != flag).nth(1);
        found.and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
    };
    number("--context") * number("--batch") * number("--steps")
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|why| Error::Input(format!("{text:?} is not JSON: {why}")))
}

fn cell(values: &[f64]) -> String {
    match values {
        [] => "-".into(),
        [one] => format!("{one:.1}"),
        _ => {
            let (mean, spread) = mean_and_spread(values);
            format!("{mean:.1} ± {spread:.1}")
        }
    }
}
