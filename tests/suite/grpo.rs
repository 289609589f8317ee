//! Group relative policy optimisation and RLOO against trl: losses, gradients, clip fractions and three steps of adapters on one roll-out,
//! for each normalisation; roll-outs; rewards. tests/fixtures/grpo.py makes the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::fixture;
use crate::llama::devices;
use crate::trl::{Dump, MODELS, Steps, settings};
use serde_json::{Value, json};
use wgpt::data::dialogues::Part;
use wgpt::data::prompts::Prompt;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::formats::source::ModelSource;
use wgpt::generate::SamplingParams;
use wgpt::models::config::Config;
use wgpt::objectives::grpo::{GroupOptions, GroupPolicy, Method, Normalisation, RECIPE, Scaling};
use wgpt::objectives::rewards::{Candidate, Rewards};
use wgpt::objectives::rollouts::{Drawing, Question, RollOuts, Schedule};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

/// Tokens of an answer, at most, and answers to a prompt.
const TOKENS: usize = 6;
const GENERATIONS: usize = 4;

/// The reward of a text is its share of even tokens, which anyone can count.
pub struct Even;

impl Rewards for Even {
    fn of(&mut self, _executor: &mut dyn Executor, answers: &[Candidate]) -> Result<Vec<Option<f32>>> {
        let even = |answer: &Candidate| answer.answer.bytes().filter(|byte| byte.is_multiple_of(2)).count() as f32;
        Ok(answers.iter().map(|answer| Some(even(answer) / answer.tokens.max(1) as f32)).collect())
    }
}

pub fn question(ids: Vec<u32>) -> Question {
    let prompt = Prompt { line: 1, prompt: Part::Text("p".into()), row: serde_json::Map::new() };
    Question { prompt, text: "p".into(), ids }
}

fn drawing() -> Drawing {
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    Drawing { params, tokens: TOKENS, generations: GENERATIONS, learned: GENERATIONS, ends: vec![1] }
}

fn rollouts(prompts: Vec<Vec<u32>>, source: &ModelSource, schedule: Schedule) -> RollOuts {
    let start = source.config().unwrap();
    let reference = (start.clone(), source.weights(&start).unwrap());
    let questions: Vec<Question> = prompts.into_iter().map(question).collect();
    RollOuts::new((questions, vec![]), (drawing(), schedule), Box::new(Even), Tokenizer::bytes().unwrap(), reference)
}

/// Tokens padded with -1.
pub fn unpadded(dump: &Dump, name: &str) -> Vec<Vec<u32>> {
    let (ids, shape) = dump.get::<i32>(name);
    ids.chunks(shape[1]).map(|row| row.iter().filter(|id| **id >= 0).map(|id| *id as u32).collect()).collect()
}

/// The fixture's roll-out as a checkpoint keeps it.
fn kept(dump: &Dump) -> Value {
    let completions = unpadded(dump, "completions");
    let bits = |name: &str| {
        let (values, shape) = dump.get::<f32>(name);
        values.chunks(shape.get(1).copied().unwrap_or(1)).map(|row| row.iter().map(|v| v.to_bits()).collect()).collect()
    };
    let [old, reference, rewards]: [Vec<Vec<u32>>; 3] = ["old", "reference", "rewards"].map(bits);
    let answers = completions.iter().enumerate().map(|(n, ids)| {
        let reward = Some(rewards[n][0]).filter(|bits| !f32::from_bits(*bits).is_nan());
        json!({
            "question": n / GENERATIONS, "ids": ids, "log_probs": old[n][..ids.len()],
            "references": reference[n][..ids.len()], "ended": ids.len() < TOKENS, "reward": reward,
        })
    });
    json!({"rollout": 0, "answers": answers.collect::<Vec<_>>()})
}

fn loss(low: f32, high: f32, beta: f32) -> PolicyLoss {
    PolicyLoss { low, high, beta }
}

#[test]
fn three_steps_on_a_roll_out_are_those_of_trl() {
    let grpo = |normalisation, scaling| Method::Grpo { normalisation, scaling };
    let ways = [
        ("dapo", grpo(Normalisation::Dapo, Scaling::Group), loss(0.2, 0.2, 0.0)),
        ("grpo", grpo(Normalisation::Grpo, Scaling::Group), loss(0.2, 0.2, 0.3)),
        ("dr_grpo", grpo(Normalisation::DrGrpo, Scaling::None), loss(0.2, 0.2, 0.1)),
        ("bnpo", grpo(Normalisation::Bnpo, Scaling::Batch), loss(0.1, 0.28, 0.0)),
        ("rloo", Method::Rloo, loss(0.2, 0.2, 0.0)),
    ];
    for (model, folder, targets) in MODELS {
        let dump = Dump::of("grpo", model);
        for (name, method, loss) in ways {
            let source = ModelSource::folder(fixture(folder));
            let start = source.config().unwrap();
            let (choices, _) = settings(4, targets, &RECIPE);
            let choices = Choices { batch: Some(8), accumulate: Some(1), ..choices };
            let settings = choices.clone().resolve(&RECIPE, |_| 3).unwrap();
            let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
            // Kernels once: those of the loss have cases of their own.
            let kernels = name == "grpo" && model == "llama";
            for (device_name, device) in devices().into_iter().take(if kernels { 3 } else { 1 }) {
                let weights = source.weights(&start).unwrap();
                let beta = if method == Method::Rloo { 0.2 } else { loss.beta };
                let options = GroupOptions { method, loss, beta };
                let rollouts = rollouts(unpadded(&dump, "prompts"), &source, Schedule::new(&settings, 1, 3));
                let mut objective = GroupPolicy::new(config.clone(), &settings, options, rollouts);
                objective.restore(&kept(&dump)).unwrap();
                let label = format!("{model} {name} with {device_name}");
                let steps = Steps { dump: &dump, name, label, config: &config, settings: &settings };
                let records = steps.take(device, Box::new(objective), &weights);
                let clipped: Vec<f32> = records.iter().map(|record| record.scalars["clipped"]).collect();
                steps.close("clipped", &clipped, 1.0);
            }
        }
    }
}

/// A run that draws its answers.
fn run(
    device: Box<dyn Executor>,
    settings: &Settings,
    (options, schedule): (GroupOptions, Schedule),
    config: &Config,
) -> Trainer {
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let start = source.config().unwrap();
    let rollouts = rollouts(vec![vec![5, 6, 7], vec![9, 3], vec![4, 4, 4, 4]], &source, schedule);
    let objective = Box::new(GroupPolicy::new(config.clone(), settings, options, rollouts));
    let blueprint = Blueprint::new(objective.as_ref(), settings, device.limits()).unwrap();
    let mut trainer = Trainer::new(device, blueprint, objective, settings.clone()).unwrap();
    trainer.initialise(Some(&source.weights(&start).unwrap())).unwrap();
    trainer
}

/// What was drawn has the log-probabilities that the training graph gives it, with and without adapters: the first step's ratios are 1.
#[test]
fn what_is_drawn_has_the_training_graphs_log_probabilities() {
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let start = source.config().unwrap();
    for lora in [None, Some(2)] {
        let choices =
            Choices { batch: Some(8), accumulate: Some(1), steps: Some(3), lr: Some(1e-2), lora, ..Choices::default() };
        let settings = choices.clone().resolve(&RECIPE, |_| 3).unwrap();
        let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
        let method = Method::Grpo { normalisation: Normalisation::Dapo, scaling: Scaling::Group };
        let options = GroupOptions { method, loss: loss(0.2, 0.2, 0.0), beta: 0.0 };
        for (name, device) in devices() {
            let mut trainer = run(device, &settings, (options, Schedule::new(&settings, 1, 1)), &config);
            for step in 0..3 {
                let text = trainer.roll_out().unwrap().sample.expect("a roll-out before each step");
                assert!(text.contains("reward"), "{text}");
                let mut records = trainer.step().unwrap();
                records.extend(trainer.finish().unwrap());
                let error = (2.0 * records[0].scalars["approx_kl"]).sqrt();
                println!("{name}, lora {lora:?}, step {step}: {error:.1e} off");
                // f32 through two blocks, by the kernels of decoding and by those of training.
                assert!(error <= 1e-5, "{name}, lora {lora:?}, step {step}: {error}");
                let reference = records[0].scalars["kl"];
                assert!(if step == 0 { reference.abs() < 1e-4 } else { reference != 0.0 }, "step {step}: {reference}");
            }
        }
    }
}

/// Steps that share a roll-out see each answer as often as they should, and a run that is resumed between them has the bits of one that
/// is not.
#[test]
fn a_run_resumed_within_a_roll_out_has_the_same_bits() {
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let config = source.config().unwrap();
    let choices = Choices { batch: Some(4), accumulate: Some(2), steps: Some(6), lr: Some(1e-2), ..Choices::default() };
    let settings = choices.resolve(&RECIPE, |_| 3).unwrap();
    for (method, beta) in
        [(Method::Grpo { normalisation: Normalisation::Grpo, scaling: Scaling::Group }, 0.1), (Method::Rloo, 0.1)]
    {
        let options = GroupOptions { method, loss: loss(0.2, 0.2, 0.0), beta };
        let mut whole = run(Box::new(Cpu::default()), &settings, (options, Schedule::new(&settings, 2, 2)), &config);
        let (mut rolled, mut of_resumed) = (vec![], vec![]);
        for step in 0..6 {
            if whole.roll_out().unwrap().sample.is_some() {
                rolled.push(step);
            }
            whole.step().unwrap();
            if step == 2 {
                whole.finish().unwrap();
                let states: Vec<_> = whole.parameters().iter().map(|p| (p.name.clone(), p.dims.clone())).collect();
                let states = [states, whole.optimizer_states()].concat();
                let saved = whole.read(states).unwrap();
                let state = whole.objective().state();
                let mut resumed =
                    run(Box::new(Cpu::default()), &settings, (options, Schedule::new(&settings, 2, 2)), &config);
                for (name, _, values) in &saved {
                    resumed.executor().write_state(name, values).unwrap();
                }
                // As a checkpoint has it.
                let state: Value = serde_json::from_str(&state.to_string()).unwrap();
                resumed.seek(3, &state).unwrap();
                for _ in 3..6 {
                    resumed.step().unwrap();
                }
                resumed.finish().unwrap();
                of_resumed = resumed.read(saved.into_iter().map(|(name, dims, _)| (name, dims)).collect()).unwrap();
            }
        }
        whole.finish().unwrap();
        assert_eq!(rolled, [0, 4], "{method:?}");
        let names = whole.parameters().iter().map(|p| (p.name.clone(), p.dims.clone())).collect::<Vec<_>>();
        let names = [names, whole.optimizer_states()].concat();
        let end = whole.read(names).unwrap();
        let bits = |tensors: &[(String, Vec<usize>, Vec<f32>)]| {
            tensors.iter().flat_map(|(.., v)| v.iter().map(|v| v.to_bits())).collect::<Vec<_>>()
        };
        assert!(bits(&of_resumed) == bits(&end), "{method:?}");
    }
}

/// Prompts of the demo model's stories.
const PROMPTS: &str = "{\"prompt\": \"Once there was a kind \", \"answer\": \"boy\"}\n{\"prompt\": \"One sunny day, \", \"answer\": \"a\"}\n";
/// A command that rewards short texts, and fails at its answer number `FAILS` where that is set.
const REWARD: &str =
    "n=0\nwhile read -r line; do n=$((n+1)); [ \"$n\" = \"$FAILS\" ] && exit 7; echo $((100 - ${#line})); done\n";

#[cfg(unix)]
#[test]
fn a_reward_command_that_dies_loses_nothing() {
    let place = Place::new();
    place.write("prompts.jsonl", PROMPTS);
    let run = |out: &str, fails: &str| {
        // The command is the same; what it runs is mended in between.
        place.write("reward.sh", format!("FAILS={fails}\n{REWARD}"));
        place.command(&format!(
            "align --method grpo --out {out} --data prompts.jsonl --generations 2 --batch 4 --tokens 6 --steps 4 --lr 1e-3 \
             --steps-per-rollout 1 --beta 0.1 --device cpu"
        ))
        .args(["--reward-command", "sh reward.sh"])
        .output()
        .unwrap()
    };
    let whole = run("whole", "");
    assert!(whole.status.success(), "{}", stderr(&whole));
    has(&stderr(&whole), &["grpo: 2 training, 0 validation prompts", "reward", "ended"]);
    let picture = std::fs::read_to_string(place.path("whole/training/reward.svg")).unwrap();
    has(&picture, &["mean reward", "KL divergence", "<circle"]);
    // The tenth answer is one of the third step.
    let failed = run("failed", "10");
    has(&error(&failed, 1), &["`sh reward.sh`", "ended", "1 rewards for 4 answers"]);
    place.write("reward.sh", format!("FAILS=\n{REWARD}"));
    let resumed = place.wgpt("align --out failed --resume --device cpu");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    has(&stderr(&resumed), &["resuming after step 2"]);
    let bits = |folder: &str| std::fs::read(place.path(folder).join("model.safetensors")).unwrap();
    assert!(bits("whole") == bits("failed"), "nothing is lost");
    let log = std::fs::read_to_string(place.path("failed/training/log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 4, "{log}");
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    for name in ["reward", "kl", "entropy", "clipped", "answer_tokens", "ended", "generation_ms"] {
        assert!(last[name].is_number(), "{name}: {last}");
    }
}

#[test]
fn a_reward_model_moves_a_policy_and_what_does_not_fit_is_refused() {
    let place = Place::new();
    place.write("prompts.jsonl", PROMPTS);
    place.write(
        "pairs.jsonl",
        "{\"prompt\": \"Once there was a kind \", \"chosen\": \"boy\", \"rejected\": \"girl\"}\n",
    );
    let good = |arguments: &str| {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        stderr(&output)
    };
    good("reward --out judge --data pairs.jsonl --batch 1 --steps 2 --lr 1e-3 -q --device cpu");
    let said = good(
        "align --method rloo --out adapted --data prompts.jsonl --val prompts.jsonl --reward-model judge --lora 2 --generations 2 \
         --batch 4 --tokens 5 --steps 2 --lr 1e-3 --device cpu",
    );
    // Without a chat template there is nothing to chat with.
    has(
        &said,
        &["rloo: 2 training, 2 validation prompts", "values are trained", "reward", "wgpt sample --adapter adapted"],
    );
    assert!(place.path("adapted/adapter_model.safetensors").exists());

    let refused = |arguments: &str, code: i32, words: &[&str]| {
        let output = place.wgpt(&format!("align --out new --data prompts.jsonl --device cpu -q {arguments}"));
        has(&error(&output, code), words);
        assert!(!place.path("new/model.safetensors").exists(), "{arguments}");
    };
    let exact = "--reward exact --reward-column answer --tokens 5";
    refused("--method grpo", 2, &["--reward-model", "--reward-command", "--reward RULE"]);
    refused("--method grpo --reward exact", 2, &["--reward-column"]);
    refused(&format!("--method dpo {exact}"), 2, &["--reward", "grpo, rloo or ppo"]);
    refused(&format!("--method grpo {exact} --loss ipo"), 2, &["--loss", "--method dpo"]);
    refused(&format!("--method rloo {exact} --normalisation grpo"), 2, &["--normalisation", "--method grpo"]);
    refused(&format!("--method grpo {exact} --generations 3"), 2, &["--generations 3", "--batch 8"]);
    refused(&format!("--method grpo {exact} --generations 1"), 2, &["--generations 1"]);
    refused(&format!("--method grpo {exact} --temperature 0"), 2, &["--temperature 0"]);
    refused(
        "--method grpo --reward exact --reward-column nothing --tokens 5",
        1,
        &["line ", "of the prompts", "`nothing`"],
    );
    refused(
        "--method grpo --reward exact --reward-column answer --max-length 4",
        1,
        &["prompts.jsonl", "--max-length"],
    );
    refused("--method grpo --reward-model absent --tokens 5", 1, &["absent"]);
    place.write("prompts.jsonl", "{\"question\": \"what\"}\n");
    refused(&format!("--method grpo {exact}"), 1, &["line 1 of prompts.jsonl", "`prompt`"]);
    let answered = r#"{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    place.write("prompts.jsonl", answered);
    refused(&format!("--method grpo {exact} --template lines"), 1, &["ends with an answer already"]);
}
