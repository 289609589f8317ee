//! Proximal policy optimisation against trl: losses, gradients and three steps of adapters and of the critic's head on one roll-out; the
//! adaptive factor of the divergence, resuming, and `wgpt align --method ppo`. tests/fixtures/ppo.py makes the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::grpo::{Even, question, unpadded};
use crate::hugging_face::fixture;
use crate::llama::{devices, largest, worst};
use crate::trl::{Dump, MODELS, Steps, settings};
use serde_json::{Value, json};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::formats::source::ModelSource;
use wgpt::generate::SamplingParams;
use wgpt::objectives::ppo::{Critic, Ppo, PpoOptions, RECIPE};
use wgpt::objectives::rollouts::{Drawing, RollOuts, Schedule};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::ops::value_loss::ValueLoss;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::objective::Objective;
use wgpt::train::schedule::ScheduleKind;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

/// Tokens of an answer, at most.
const TOKENS: usize = 6;

fn options() -> PpoOptions {
    PpoOptions {
        loss: PolicyLoss { low: 0.2, high: 0.2, beta: 0.0 },
        value: ValueLoss { clip: 0.2 },
        value_weight: 0.1,
        beta: 0.1,
        target_kl: None,
        gamma: 1.0,
        lambda: 0.9,
        missing_end: 0.5,
    }
}

fn rollouts(prompts: Vec<Vec<u32>>, source: &ModelSource, schedule: Schedule) -> RollOuts {
    let start = source.config().unwrap();
    let reference = (start.clone(), source.weights(&start).unwrap());
    let params = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    let drawing = Drawing { params, tokens: TOKENS, generations: 1, learned: 1, ends: vec![1] };
    let questions = prompts.into_iter().map(question).collect();
    RollOuts::new((questions, vec![]), (drawing, schedule), Box::new(Even), Tokenizer::bytes().unwrap(), reference)
}

fn critic(source: &ModelSource, score: Option<Vec<f32>>) -> Critic {
    let config = source.config().unwrap();
    let weights = source.weights(&config).unwrap();
    Critic { config, weights, score }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The fixture's roll-out as a checkpoint keeps it.
fn kept(dump: &Dump) -> Value {
    let of = |name: &str| {
        let (numbers, shape) = dump.get::<f32>(name);
        let width = shape.get(1).copied().unwrap_or(1);
        numbers.chunks(width).map(bits).collect::<Vec<_>>()
    };
    let (old, reference, rewards) = (of("old"), of("reference"), of("rewards"));
    let answer = |(n, ids): (usize, &Vec<u32>)| {
        json!({
            "question": n, "ids": ids, "log_probs": old[n][..ids.len()], "references": reference[n][..ids.len()],
            "ended": ids.len() < TOKENS, "reward": rewards[n][0],
        })
    };
    let completions = unpadded(dump, "completions");
    let answers: Vec<Value> = completions.iter().enumerate().map(answer).collect();
    // The state behind the end of an answer that ended has a value, too.
    let states = |ids: &Vec<u32>| (ids.len() + 1).min(TOKENS);
    let all_values = of("values");
    let values: Vec<&[u32]> = completions.iter().zip(&all_values).map(|(ids, row)| &row[..states(ids)]).collect();
    let beta = 0.1f32.to_bits();
    json!({"rollout": 0, "answers": answers, "values": values, "beta": beta, "next_beta": beta})
}

#[test]
fn three_steps_on_a_roll_out_are_those_of_trl() {
    for (model, folder, targets) in MODELS {
        let dump = Dump::of("ppo", model);
        let source = ModelSource::folder(fixture(folder));
        let start = source.config().unwrap();
        let (choices, _) = settings(4, targets, &RECIPE);
        let choices =
            Choices { batch: Some(8), accumulate: Some(1), schedule: Some(ScheduleKind::Constant), ..choices };
        let settings = choices.clone().resolve(&RECIPE, |_| 3).unwrap();
        let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
        let (score, _) = dump.get::<f32>("score");
        // Kernels once: those of the losses have cases of their own.
        for (device_name, device) in devices().into_iter().take(if model == "llama" { 3 } else { 1 }) {
            let rollouts = rollouts(unpadded(&dump, "prompts"), &source, Schedule::new(&settings, 1, 3));
            let critic = critic(&source, Some(score.clone()));
            let mut objective = Ppo::new(config.clone(), &settings, options(), rollouts, critic);
            objective.restore(&kept(&dump)).unwrap();
            let label = format!("{model} ppo with {device_name}");
            let steps = Steps { dump: &dump, name: "ppo", label, config: &config, settings: &settings };
            let weights = source.weights(&start).unwrap();
            let (_, mut trainer) = steps.taken(device, Box::new(objective), &weights);
            let (want, _) = dump.get::<f32>("value.final");
            let error = worst(&trainer.executor().read_state("value.score.weight").unwrap(), &want);
            // AdamW's steps of 1e-2 by gradients that f32 rounds.
            assert!(error <= 2e-4 * largest(&want), "{model}: the critic's head is {error} off");
        }
    }
}

fn run(settings: &Settings, options: PpoOptions) -> Trainer {
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let start = source.config().unwrap();
    let rollouts = rollouts(vec![vec![5, 6, 7], vec![9, 3], vec![4, 4, 4, 4]], &source, Schedule::new(settings, 2, 2));
    let objective = Box::new(Ppo::new(start.clone(), settings, options, rollouts, critic(&source, None)));
    let device = Cpu::default();
    let blueprint = Blueprint::new(objective.as_ref(), settings, wgpt::executor::Executor::limits(&device)).unwrap();
    let mut trainer = Trainer::new(Box::new(device), blueprint, objective, settings.clone()).unwrap();
    trainer.initialise(Some(&source.weights(&start).unwrap())).unwrap();
    trainer
}

/// A run that is resumed within a roll-out has the bits of one that is not, and the factor of the divergence follows its target.
#[test]
fn a_run_resumed_within_a_roll_out_has_the_same_bits() {
    let choices = Choices { batch: Some(4), accumulate: Some(2), steps: Some(6), lr: Some(1e-2), ..Choices::default() };
    let settings = choices.resolve(&RECIPE, |_| 3).unwrap();
    let options = PpoOptions { target_kl: Some(1.0), ..options() };
    let states = |trainer: &Trainer| {
        let parameters = trainer.parameters().iter().map(|p| (p.name.clone(), p.dims.clone()));
        parameters.chain(trainer.optimizer_states()).collect::<Vec<_>>()
    };
    let mut whole = run(&settings, options);
    let mut records = vec![];
    for _ in 0..3 {
        records.extend(whole.step().unwrap());
    }
    records.extend(whole.finish().unwrap());
    let saved = whole.read(states(&whole)).unwrap();
    let state: Value = serde_json::from_str(&whole.objective().state().to_string()).unwrap();
    let mut resumed = run(&settings, options);
    for (name, _, values) in &saved {
        resumed.executor().write_state(name, values).unwrap();
    }
    resumed.seek(3, &state).unwrap();
    for trainer in [&mut whole, &mut resumed] {
        for _ in 3..6 {
            records.extend(trainer.step().unwrap());
        }
        records.extend(trainer.finish().unwrap());
    }
    let end = |trainer: &mut Trainer| {
        let states = states(trainer);
        trainer.read(states).unwrap().into_iter().flat_map(|(.., values)| bits(&values)).collect::<Vec<_>>()
    };
    assert!(end(&mut whole) == end(&mut resumed));
    let betas: Vec<f32> = records.iter().filter_map(|record| record.scalars.get("beta").copied()).collect();
    // Far below its target, the divergence asks for the smallest factor that a roll-out may.
    assert_eq!(betas.len(), 3, "{betas:?}");
    assert!((betas[0] - 0.1).abs() < 1e-7 && (betas[1] - 0.098).abs() < 1e-6 && betas[1] == betas[2], "{betas:?}");
    assert!(records.iter().all(|record| record.scalars["value_loss"] > 0.0), "the critic learns");
}

#[test]
fn a_policy_is_saved_without_its_critic_and_flags_that_do_not_fit_are_refused() {
    let place = Place::new();
    place.write("prompts.jsonl", "{\"prompt\": \"Once there was a kind \", \"answer\": \"boy\"}\n".repeat(6));
    let exact = "--data prompts.jsonl --reward exact --reward-column answer --tokens 4 --batch 2 --device cpu -q";
    let run = format!("align --method ppo --out policy {exact} --steps 3 --lr 1e-3 --save-every 3");
    let output = place.wgpt(&run);
    assert!(output.status.success(), "{}", stderr(&output));
    let names = |folder: &str| {
        let bytes = std::fs::read(place.path(folder)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.names().into_iter().map(str::to_string).collect::<Vec<_>>()
    };
    assert!(names("policy/model.safetensors").iter().all(|name| !name.contains("value.") && !name.contains("score")));
    assert!(
        names("policy/training/checkpoints/step-000003/optimizer.safetensors")
            .iter()
            .any(|n| n == "value.score.weight")
    );
    let resumed = place.wgpt("align --out policy --resume --steps 6 --device cpu -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let log = std::fs::read_to_string(place.path("policy/training/log.jsonl")).unwrap();
    let rolled: Vec<bool> = log.lines().map(|line| line.contains("\"rollout_ms\"")).collect();
    assert_eq!(rolled, [true, false, false, false, true, false], "four passes over each roll-out: {log}");
    let refused = |flags: &str, words: &[&str]| {
        has(&error(&place.wgpt(&format!("align --out new {exact} {flags}")), 2), words);
    };
    refused("--method grpo --lambda 0.9", &["--lambda", "--method ppo"]);
    refused("--method ppo --lambda 1.5", &["--lambda 1.5"]);
    refused("--method ppo --target-kl 0", &["--target-kl 0"]);
    refused("--method ppo --value-weight nan", &["--value-weight"]);
    refused("--method ppo --scale-rewards none", &["--scale-rewards", "--method grpo"]);
    assert!(!place.path("new").exists());
}

/// A critic with adapters has its base again after a resume, which no checkpoint holds.
#[test]
fn a_critic_with_adapters_resumes_bit_for_bit() {
    let place = Place::new();
    place.write("prompts.jsonl", "{\"prompt\": \"Once there was a kind \", \"answer\": \"boy\"}\n".repeat(2));
    let run = |out: &str, steps: u64| {
        let output = place.wgpt(&format!(
            "align --method ppo --out {out} --data prompts.jsonl --reward exact --reward-column answer --tokens 4 --batch 2 --lora 2 \
             --iterations 2 --schedule constant --lr 1e-2 --steps {steps} --device cpu"
        ));
        assert!(output.status.success(), "{}", stderr(&output));
        stderr(&output)
    };
    // Adapters of rank 2 on q and v of four layers, twice, and the critic's head.
    has(&run("whole", 5), &["4160 of"]);
    run("halved", 3);
    let resumed = place.wgpt("align --out halved --resume --steps 5 --device cpu -q");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    for file in ["adapter_model.safetensors", "training/optimizer.safetensors"] {
        let [whole, halved] = ["whole", "halved"].map(|run| std::fs::read(place.path(run).join(file)).unwrap());
        assert!(whole == halved, "{file}");
    }
}
