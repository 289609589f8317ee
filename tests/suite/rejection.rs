//! Rejection sampling: a round's loss and step are those of supervised fine-tuning on its best answers; the memory of policies is planned;
//! the command's table and refusals.

use crate::cli::{Place, error, has, stderr};
use crate::grpo::{Even, question};
use crate::hugging_face::fixture;
use serde_json::Value;
use wgpt::data::dialogues::Encoded;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::executor::Executor;
use wgpt::formats::source::ModelSource;
use wgpt::generate::SamplingParams;
use wgpt::models::config::Config;
use wgpt::objectives::rejection::{RECIPE, Rejection};
use wgpt::objectives::rollouts::{Drawing, Question, RollOuts, Schedule};
use wgpt::objectives::sft::{Rows, Sft};
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::objective::Objective;
use wgpt::train::record::Record;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

const TOKENS: usize = 6;

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 6, 7], vec![9, 3], vec![4, 4, 4, 4], vec![8, 1]]
}

fn source() -> ModelSource {
    ModelSource::folder(fixture("llama_random/llama"))
}

fn settings(choices: Choices) -> (Settings, Config) {
    let start = source().config().unwrap();
    let choices = Choices { accumulate: Some(2), steps: Some(3), lr: Some(1e-2), ..choices };
    let settings = choices.clone().resolve(&RECIPE, |_| 3).unwrap();
    (settings, choices.adapted(start.clone(), (&start, None)).unwrap())
}

fn rejection(settings: &Settings, config: &Config, temperatures: Vec<f32>) -> Rejection {
    let source = source();
    let start = source.config().unwrap();
    let reference = (start.clone(), source.weights(&start).unwrap());
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    let drawing = Drawing { params, tokens: TOKENS, generations: 4, learned: 1, ends: vec![1] };
    let questions = || prompts().into_iter().map(question).collect::<Vec<Question>>();
    let schedule = Schedule::new(settings, 1, 1);
    let rollouts = RollOuts::new(
        (questions(), questions()),
        (drawing, schedule),
        Box::new(Even),
        Tokenizer::bytes().unwrap(),
        reference,
    );
    Rejection::new(config.clone(), settings, rollouts, temperatures)
}

fn trainer(objective: Box<dyn Objective>, settings: &Settings) -> Trainer {
    let device: Box<dyn Executor> = Box::new(Cpu::default());
    let blueprint = Blueprint::new(objective.as_ref(), settings, device.limits()).unwrap();
    let mut trainer = Trainer::new(device, blueprint, objective, settings.clone()).unwrap();
    let source = source();
    trainer.initialise(Some(&source.weights(&source.config().unwrap()).unwrap())).unwrap();
    trainer
}

fn first_step(trainer: &mut Trainer) -> Record {
    let mut records = trainer.step().unwrap();
    records.extend(trainer.finish().unwrap());
    records.remove(0)
}

fn parameters(trainer: &mut Trainer) -> Vec<f32> {
    let states = trainer.parameters().iter().map(|p| (p.name.clone(), p.dims.clone())).collect();
    trainer.read(states).unwrap().into_iter().flat_map(|(.., values)| values).collect()
}

#[test]
fn a_step_is_that_of_supervised_fine_tuning_on_the_best_answers() {
    let (settings, config) = settings(Choices { batch: Some(2), ..Choices::default() });
    let mut round = trainer(Box::new(rejection(&settings, &config, vec![0.7, 1.2])), &settings);
    let rolled = round.roll_out().unwrap();
    has(&rolled.note.unwrap(), &["round 1:", "best of 4", "0.7", "1.2", ", chosen"]);
    let kept = round.objective().state();
    let answers = kept["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 4, "one of each prompt's");
    let record = first_step(&mut round);
    let best: f32 = answers.iter().map(|a| f32::from_bits(a["reward"].as_u64().unwrap() as u32)).sum::<f32>() / 4.0;
    assert!((record.scalars["best_reward"] - best).abs() < 1e-6, "{record:?}");
    assert!(record.scalars["best_reward"] >= record.scalars["reward"], "{record:?}");

    // All of them in one micro-batch, whatever their order.
    let encoded = |answer: &Value| {
        let prompt = &prompts()[answer["question"].as_u64().unwrap() as usize];
        let ids = answer["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
        let ids: Vec<u32> = prompt.iter().copied().chain(ids).collect();
        Encoded { learned: (0..ids.len()).map(|at| at >= prompt.len()).collect(), ids, parted: false }
    };
    let rows = Rows::new(answers.iter().map(encoded).collect(), None);
    let whole = Settings { batch: 4, accumulate: 1, ..settings };
    let sft = Sft::new(config, &whole, (rows, Rows::new(vec![], None)));
    let mut plain = trainer(Box::new(sft), &whole);
    let wanted = first_step(&mut plain);
    assert!((record.loss - wanted.loss).abs() <= 1e-5 * wanted.loss, "{} {}", record.loss, wanted.loss);
    // AdamW's first step is the rate by the sign of a gradient: where that is nearly zero rounding may turn it.
    let (own, other) = (parameters(&mut round), parameters(&mut plain));
    let apart = own.iter().zip(&other).filter(|(a, b)| (**a - **b).abs() > 1e-5).count();
    assert!(apart * 1000 < own.len(), "{apart} of {} values differ", own.len());
}

/// With adapters the reference is the policy's base, which is there once; what a run has on the device is what was planned.
#[test]
fn the_memory_of_a_policy_is_planned_and_a_base_is_there_once() {
    let mut planned = vec![];
    for lora in [None, Some(2)] {
        let (settings, config) = settings(Choices { batch: Some(2), lora, ..Choices::default() });
        let objective = rejection(&settings, &config, vec![]);
        let device = Cpu::default();
        let blueprint = Blueprint::new(&objective, &settings, device.limits()).unwrap();
        let bytes = blueprint.memory_bytes();
        let mut trainer = trainer(Box::new(objective), &settings);
        for _ in 0..3 {
            trainer.step().unwrap();
        }
        trainer.finish().unwrap();
        let allocated = trainer.executor().allocated_bytes();
        println!("lora {lora:?}: {bytes} bytes planned, {allocated} allocated");
        assert!(
            allocated <= bytes && bytes - allocated < bytes / 5,
            "lora {lora:?}: {bytes} planned, {allocated} there"
        );
        planned.push(bytes);
    }
    let model = source().config().unwrap();
    let values: usize = wgpt::models::network::Network::new(model).parameters().iter().map(|p| p.len()).sum();
    // A copy of the model less, its gradients and two moments.
    assert!(planned[0] - planned[1] > 4 * 4 * values as u64 * 9 / 10, "{planned:?}, {values} values");
}

#[test]
fn rounds_tell_their_temperatures_and_what_does_not_fit_is_refused() {
    let place = Place::new();
    place.write(
        "prompts.jsonl",
        "{\"prompt\": \"Once there was a kind \", \"n\": 3}\n{\"prompt\": \"One sunny day, \", \"n\": 3}\n",
    );
    let reward = "--reward length --reward-column n --tokens 5";
    let output = place.wgpt(&format!(
        "align --method rejection --out new --data prompts.jsonl --val prompts.jsonl {reward} --temperatures 0.5,1.5 --generations 2 \
         --batch 1 --epochs 2 --lr 1e-3 --lora 2 --device cpu"
    ));
    assert!(output.status.success(), "{}", stderr(&output));
    has(
        &stderr(&output),
        &[
            "rejection: 2 training, 2 validation prompts",
            "round 1:",
            "round 2:",
            "temperature",
            "best of 2",
            ", chosen",
            "memory: ",
        ],
    );
    let log = std::fs::read_to_string(place.path("new/training/log.jsonl")).unwrap();
    let records: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Two prompts are two steps of a round: a roll-out is a pass over the prompts.
    let rounds: Vec<bool> = records.iter().map(|record| record["best_reward"].is_number()).collect();
    assert_eq!(rounds, [true, false, true, false], "{log}");
    let refused = |arguments: &str, words: &[&str]| {
        let output = place
            .wgpt(&format!("align --method rejection --out other --data prompts.jsonl --device cpu -q {arguments}"));
        has(&error(&output, 2), words);
    };
    refused(&format!("{reward} --beta 0.1"), &["--beta", "rejection"]);
    refused(&format!("{reward} --epsilon 0.1"), &["--epsilon", "grpo, rloo or ppo"]);
    refused(&format!("{reward} --temperatures 0.5,1"), &["--temperatures", "--val"]);
    refused(&format!("{reward} --val prompts.jsonl --temperatures 0.5,0"), &["--temperatures 0"]);
    let other = place.wgpt(&format!(
        "align --method grpo --out other --data prompts.jsonl {reward} --temperatures 1 --val prompts.jsonl"
    ));
    has(&error(&other, 2), &["--temperatures", "--method rejection"]);
}
