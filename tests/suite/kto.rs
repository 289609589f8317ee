//! Kahneman-Tversky optimisation against trl: losses, gradients, rewards, the estimate of the divergence and three steps of adapters, for
//! even weights and others; the reference's log-probabilities; and files of judged completions. tests/fixtures/kto.py makes the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::fixture;
use crate::llama::{devices, largest, worst};
use crate::trl::{Dump, MODELS, Steps, settings};
use serde_json::Value;
use std::fs;
use wgpt::data::buckets::Buckets;
use wgpt::data::dialogues::{Encoded, Form};
use wgpt::data::judged;
use wgpt::executor::Executor;
use wgpt::formats::source::ModelSource;
use wgpt::objectives::kto::{Examples, Kto, RECIPE};
use wgpt::objectives::reference::{REFERENCE, Reference};
use wgpt::objectives::sft::Rows;
use wgpt::ops::kto_loss::KtoLoss;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::Settings;
use wgpt::train::trainer::Trainer;

/// Tokens of a prompt with its completion, at most: of the fixture's, some own and some mismatched ones are longer.
const LONGEST: usize = 12;

fn examples(dump: &Dump) -> Examples {
    let (labels, _) = dump.get::<i32>("labels");
    dump.answers().into_iter().zip(labels.iter().map(|label| *label == 1)).collect()
}

#[test]
fn three_steps_with_even_weights_and_others_are_those_of_trl() {
    for (model, folder, targets) in MODELS {
        let dump = Dump::of("kto", model);
        for (name, desirable, undesirable) in [("even", 1.0, 1.0), ("weighted", 1.5, 0.75)] {
            let source = ModelSource::folder(fixture(folder));
            let start = source.config().unwrap();
            let (choices, settings) = settings(2, targets, &RECIPE);
            let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
            // Kernels once: those of the loss have cases of their own.
            let kernels = name == "weighted" && model == "llama";
            for (device_name, device) in devices().into_iter().take(if kernels { 3 } else { 1 }) {
                let weights = source.weights(&start).unwrap();
                let loss = KtoLoss { beta: 0.3, desirable, undesirable };
                let reference = (start.clone(), source.weights(&start).unwrap());
                let sets = (examples(&dump), vec![]);
                let objective = Kto::new(config.clone(), &settings, loss, sets, LONGEST, reference).unwrap();
                let label = format!("{model} {name} with {device_name}");
                let steps = Steps { dump: &dump, name, label, config: &config, settings: &settings };
                let records = steps.take(device, Box::new(objective), &weights);
                for (what, scalar) in [
                    ("chosen", "rewards_chosen"),
                    ("rejected", "rewards_rejected"),
                    ("margins", "rewards_margins"),
                    ("kl", "kl"),
                ] {
                    let got: Vec<f32> = records.iter().map(|record| record.scalars[scalar]).collect();
                    steps.close(what, &got, 1.0);
                }
            }
        }
    }
}

/// The fixture's steps have all that makes KTO itself: estimates above 0 and at 0, micro-batches of one label, cut completions.
#[test]
fn the_fixture_has_every_kind_of_micro_batch() {
    for (model, ..) in MODELS {
        let dump = Dump::of("kto", model);
        let (kl, _) = dump.get::<f32>("even.kl");
        assert!(kl[0].abs() < 1e-6 && kl[1..].iter().any(|kl| *kl > 1e-3), "{model}: {kl:?}");
        let labels: Vec<bool> = examples(&dump).iter().map(|(_, label)| *label).collect();
        assert_eq!(
            labels.chunks(2).map(|batch| batch.iter().filter(|is| **is).count()).collect::<Vec<_>>(),
            [1, 2, 0, 1]
        );
        assert!(dump.answers().iter().any(|row| row.ids.len() > LONGEST));
        let (margins, _) = dump.get::<f32>("even.margins");
        assert!(margins[1].is_nan() && !margins[0].is_nan(), "{model}: {margins:?}");
    }
}

#[test]
fn a_references_log_probabilities_are_those_of_trl_and_it_is_freed() {
    for (model, folder, _) in MODELS {
        let dump = Dump::of("kto", model);
        let (want, shape) = dump.get::<f32>("reference");
        assert_eq!(shape, [2, 7]);
        let mut answers = dump.answers();
        answers.iter_mut().for_each(|answer| _ = answer.cut(LONGEST));
        let rows = Rows::new(answers.clone(), None);
        let lengths: Vec<usize> = answers.iter().map(|answer| answer.ids.len() - 1).collect();
        let buckets = Buckets(vec![8, LONGEST]);
        let padded = (&buckets, &lengths[..]);
        let source = ModelSource::folder(fixture(folder));
        let start = source.config().unwrap();
        // Kernels once.
        for (label, mut device) in devices().into_iter().take(if model == "llama" { 3 } else { 1 }) {
            let mut reference = Reference::new((start.clone(), source.weights(&start).unwrap()), REFERENCE, 3);
            let before = device.allocated_bytes();
            let sums = reference.sums(device.as_mut(), &rows, padded, &|_| 1.0).unwrap();
            let error = worst(&sums, &want[..7]) / largest(&want);
            println!("{model} with {label}: sums {error:.1e} of the largest off");
            // f32 sums of up to 10 log-probabilities near -6, through two blocks.
            assert!(error <= 1e-5, "{model} with {label}: {sums:?}, not {:?}", &want[..7]);
            let weighted = |answer: &Encoded| 1.0 / answer.targets() as f32;
            let means = reference.sums(device.as_mut(), &rows, padded, &weighted).unwrap();
            let of_tokens = reference.of_tokens(device.as_mut(), &rows, padded).unwrap();
            for (row, answer) in answers.iter().enumerate() {
                let is_learned = |at: usize| answer.learned[at + 1];
                assert_eq!(of_tokens[row].len(), answer.ids.len() - 1);
                assert!(of_tokens[row].iter().enumerate().all(|(at, value)| is_learned(at) == (*value < 0.0)));
                let sum: f32 = of_tokens[row].iter().sum();
                // The same numbers, summed in another order.
                for got in [sums[row], means[row] * answer.targets() as f32] {
                    assert!((got - sum).abs() <= 1e-5 * sum.abs(), "{model} with {label}: {got}, not {sum}");
                }
            }
            assert!(device.allocated_bytes() > before, "{label}");
            reference.free(device.as_mut());
            assert_eq!(device.allocated_bytes(), before, "{label}: all is given back");
        }
    }
}

/// A trainer of all completions in one micro-batch, which are those of validation as well.
fn of_one_batch(dump: &Dump) -> Trainer {
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let start = source.config().unwrap();
    let (_, settings) = settings(4, "q_proj", &RECIPE);
    let settings = Settings { batch: 7, ..settings };
    let loss = KtoLoss { beta: 0.3, desirable: 1.5, undesirable: 0.75 };
    let weights = source.weights(&start).unwrap();
    let reference = (start.clone(), source.weights(&start).unwrap());
    let sets = (examples(dump), examples(dump));
    let objective = Box::new(Kto::new(start, &settings, loss, sets, LONGEST, reference).unwrap());
    let device = Cpu::default();
    let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
    let mut trainer = Trainer::new(Box::new(device), blueprint, objective, settings).unwrap();
    trainer.initialise(Some(&weights)).unwrap();
    trainer
}

#[test]
fn measures_of_validation_are_those_of_the_next_step_on_the_same_completions() {
    let mut trainer = of_one_batch(&Dump::of("kto", "llama"));
    let first = trainer.evaluate().unwrap().unwrap();
    // The model that the run starts from is the reference: every loss is half its weight.
    assert!((first.loss - (4.0 * 1.5 + 3.0 * 0.75) / 14.0).abs() < 1e-5, "{first:?}");
    let mut records = trainer.step().unwrap();
    records.extend(trainer.finish().unwrap());
    let evaluation = trainer.evaluate().unwrap().unwrap();
    records.extend(trainer.step().unwrap());
    records.extend(trainer.finish().unwrap());
    assert!(evaluation.loss < first.loss && evaluation.value == Some(-evaluation.loss), "{evaluation:?}");
    let next = &records[1];
    let scalar = |name: &str| evaluation.scalars.iter().find(|(known, _)| *known == name).unwrap().1;
    let pairs = [
        (evaluation.loss, next.loss),
        (scalar("val_kl"), next.scalars["kl"]),
        (scalar("val_rewards_chosen"), next.scalars["rewards_chosen"]),
        (scalar("val_rewards_rejected"), next.scalars["rewards_rejected"]),
    ];
    for (got, want) in pairs {
        // The same numbers in f32, of another plan.
        assert!((got - f64::from(want)).abs() < 1e-5, "{evaluation:?}, not {next:?}");
    }
    assert!(next.scalars["kl"] > 0.0, "{next:?}");
}

#[test]
fn one_completion_in_a_micro_batch_is_refused() {
    let dump = Dump::of("kto", "llama");
    let source = ModelSource::folder(fixture("llama_random/llama"));
    let start = source.config().unwrap();
    let (_, settings) = settings(1, "q_proj", &RECIPE);
    let loss = KtoLoss { beta: 0.1, desirable: 1.0, undesirable: 1.0 };
    let reference = (start.clone(), source.weights(&start).unwrap());
    let refused = Kto::new(start, &settings, loss, (examples(&dump), vec![]), LONGEST, reference).err().unwrap();
    assert_eq!(refused.exit_code(), 2);
    has(&refused.to_string(), &["--batch 2"]);
}

#[test]
fn judged_completions_are_texts_or_messages_and_others_are_refused() {
    let place = Place::new();
    place.write(
        "good.jsonl",
        r#"{"prompt": "who found it. ", "completion": "the fox.", "label": true}

{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}], "label": false}
"#,
    );
    let read = judged::read(&place.path("good.jsonl")).unwrap();
    assert_eq!(read.iter().map(|row| (row.line, row.is_desirable)).collect::<Vec<_>>(), [(1, true), (3, false)]);
    assert!(matches!(&read[0].form, Form::Completion { prompt, .. } if prompt == "who found it. "));
    assert!(matches!(&read[1].form, Form::Dialogue { messages, learned: 2 } if messages.len() == 3));

    let refused = |row: &str, words: &[&str]| {
        place.write("bad.jsonl", format!("\n{row}\n"));
        let message = judged::read(&place.path("bad.jsonl")).unwrap_err().to_string();
        has(&message, &["line 2 of ", "bad.jsonl"]);
        has(&message, words);
    };
    refused(r#"{"prompt": "a", "completion": "b"}"#, &["missing field `label`", "true or false"]);
    refused(r#"{"prompt": "a", "completion": "b", "label": "good"}"#, &["boolean", "true or false"]);
    refused(r#"{"completion": "b", "label": true}"#, &["prompt"]);
    refused(r#"{"prompt": "a", "completion": " ", "label": true}"#, &["the completion is empty"]);
    let messages = |role: &str, content: &str| format!("[{{\"role\": \"{role}\", \"content\": \"{content}\"}}]");
    let row = |prompt: &str, completion: &str| {
        format!("{{\"prompt\": {prompt}, \"completion\": {completion}, \"label\": true}}")
    };
    refused(&row("\"a\"", &messages("assistant", "b")), &["write both alike"]);
    refused(&row(&messages("user", "a"), &messages("assistant", "")), &["an answer of the assistant is empty"]);
    refused(&row(&messages("user", "a"), &messages("user", "b")), &["no message of the assistant"]);
    refused(&row(&messages("assistant", "a"), &messages("assistant", "b")), &["roles are out of order"]);
    refused(&row(&messages("user", "a"), &messages("system", "b")), &["no message of the assistant"]);
}

/// Three desirable completions, and three others.
fn judged_rows() -> String {
    let row = |subject: &str, completion: &str, label: bool| {
        format!("{{\"prompt\": \"who {subject}. \", \"completion\": \"{completion}\", \"label\": {label}}}\n")
    };
    [
        row("found it", "the fox found it.", true),
        row("found it", "the sun.", false),
        row("is sad", "the cat is sad.", true),
        row("is sad", "the sun.", false),
        row("ran", "the dog ran.", true),
        row("ran", "it was the sun.", false),
    ]
    .concat()
}

#[test]
fn a_model_comes_to_prefer_what_was_judged_desirable() {
    let place = Place::new();
    place.write("train.jsonl", judged_rows());
    let run = "align --method kto --out run --data train.jsonl --val train.jsonl --batch 3 --steps 6 --lr 1e-3 --eval-every 3 \
               --save-every 3 --undesirable-weight 1.2 --device cpu";
    let output = place.wgpt(run);
    assert!(output.status.success(), "{}", stderr(&output));
    has(&stderr(&output), &["kto: 6 training (3 of them desirable), 6 validation completions", "rewards_chosen"]);
    let log = fs::read_to_string(place.path("run/training/log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
    // The model that the run starts from is the reference: two of the first three completions are desirable.
    assert!((of(&lines[0], "loss") - (2.0 + 1.2) / 6.0).abs() < 1e-5 && of(&lines[0], "kl") < 1e-5, "{}", lines[0]);
    assert!(of(&lines[5], "rewards_margins") > 0.1, "{}", lines[5]);
    assert!(of(&lines[5], "val_loss") < of(&lines[2], "val_loss"), "{} {}", lines[2], lines[5]);

    // Resumed in the middle, it ends in the same bits.
    let weights =
        |folder: &str| fs::read(place.path(folder).join("training/checkpoints/step-000006/model.safetensors")).unwrap();
    let whole = weights("run");
    fs::remove_dir_all(place.path("run/training/checkpoints/step-000006")).unwrap();
    let resumed = place.wgpt("align --out run --resume -q --device cpu");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert!(weights("run") == whole, "resuming changes no bit");

    // Completions that are too long are cut, and prompts that are too long dropped.
    let long = judged_rows() + &judged_rows().replace("who", "who was it of all the many animals that");
    place.write("long.jsonl", long);
    let cut =
        place.wgpt("align --method kto --out cut --data long.jsonl --max-length 30 --batch 2 --steps 1 --device cpu");
    assert!(cut.status.success(), "{}", stderr(&cut));
    has(&stderr(&cut), &["6 of 12 completions", "do not begin within 30 tokens", "end beyond 30 tokens and were cut"]);
}

#[test]
fn flags_that_do_not_fit_kto_are_refused() {
    let place = Place::new();
    place.write("train.jsonl", judged_rows());
    let refused = |arguments: &str, code: i32, words: &[&str]| {
        has(&error(&place.wgpt(&format!("align --out new --data train.jsonl {arguments}")), code), words);
    };
    refused("--method kto --beta 0", 2, &["--beta 0"]);
    refused("--method kto --batch 1", 2, &["--batch 2"]);
    refused("--method kto --desirable-weight nan", 2, &["--desirable-weight"]);
    refused("--method kto --undesirable-weight=-1", 2, &["--undesirable-weight -1"]);
    refused("--method kto --loss hinge", 2, &["--loss", "--method dpo"]);
    refused("--desirable-weight 2", 2, &["--desirable-weight", "--method kto"]);
    refused("--method kto --max-length 4", 1, &["--max-length"]);
    assert!(!place.path("new").exists());
}
