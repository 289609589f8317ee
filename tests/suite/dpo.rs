//! Preference optimisation against trl: losses, gradients, rewards and three steps of adapters with each loss, and `wgpt align` as a user
//! meets it. tests/fixtures/dpo.py makes the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::fixture;
use crate::llama::devices;
use crate::trl::{Dump, MODELS, Steps, settings};
use serde_json::Value;
use std::fs;
use wgpt::data::preferences::read_pairs;
use wgpt::formats::source::ModelSource;
use wgpt::objectives::dpo::{Dpo, Pairs, RECIPE};
use wgpt::ops::preference_loss::{Form, PreferenceLoss};

#[test]
fn three_steps_with_each_loss_are_those_of_trl() {
    let losses = [
        ("sigmoid", Form::Sigmoid, 0.0, 0.0),
        ("hinge", Form::Hinge, 0.0, 0.0),
        ("ipo", Form::Ipo, 0.0, 0.0),
        ("robust", Form::Robust, 0.2, 0.0),
        ("sft", Form::Sigmoid, 0.0, 0.5),
    ];
    for (model, folder, targets) in MODELS {
        let dump = Dump::of("dpo", model);
        for (i, (name, form, smoothing, sft)) in losses.into_iter().enumerate() {
            let source = ModelSource::folder(fixture(folder));
            let start = source.config().unwrap();
            let (choices, settings) = settings(if sft > 0.0 { 4 } else { 2 }, targets, &RECIPE);
            let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
            // The reference with every loss, kernels with one: those of the loss have cases of their own.
            let kernels = i == 0 && model == "llama";
            for (device_name, device) in devices().into_iter().take(if kernels { 3 } else { 1 }) {
                let weights = source.weights(&start).unwrap();
                let loss = PreferenceLoss { form, beta: 0.3, smoothing };
                let reference = (start.clone(), source.weights(&start).unwrap());
                let pairs = (Pairs::new(dump.answers().as_chunks::<2>().0.to_vec()), Pairs::default());
                let objective = Box::new(Dpo::new(config.clone(), &settings, (loss, sft), pairs, reference));
                let label = format!("{model} {name} with {device_name}");
                let steps = Steps { dump: &dump, name, label, config: &config, settings: &settings };
                let records = steps.take(device, objective, &weights);
                let of = |scalar: &str| records.iter().map(|r| r.scalars[scalar]).collect::<Vec<f32>>();
                // Of ipo, rewards here are of the means over tokens that its loss is made of.
                if form != Form::Ipo {
                    steps.close("chosen", &of("rewards_chosen"), 1.0);
                    steps.close("rejected", &of("rewards_rejected"), 1.0);
                }
                steps.close("accuracy", &of("rewards_accuracies"), 1.0);
            }
        }
    }
}

const ROW: &str = "{\"prompt\": \"who found it. \", \"chosen\": \"the fox found it.\", \"rejected\": \"the sun.\"}\n";

#[test]
fn a_model_comes_to_prefer_what_was_chosen() {
    let place = Place::new();
    let other = ROW.replace("who found it", "who is sad").replace("the fox found it", "the cat is sad");
    place.write("train.jsonl", format!("{ROW}{other}").repeat(4));
    let run = "align --out run --data train.jsonl --val train.jsonl --batch 2 --steps 6 --lr 1e-3 --eval-every 3 --save-every 3 --device cpu";
    let output = place.wgpt(run);
    assert!(output.status.success(), "{}", stderr(&output));
    has(&stderr(&output), &["dpo: 8 training, 8 validation pairs", "accuracy 1.000"]);
    let log = fs::read_to_string(place.path("run/training/log.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"));
    // The model that the run starts from is the reference.
    assert!(
        (of(&lines[0], "loss") - 2f64.ln()).abs() < 1e-5 && of(&lines[0], "rewards_chosen").abs() < 1e-4,
        "{}",
        lines[0]
    );
    assert!(of(&lines[5], "rewards_margins") > 0.1 && of(&lines[5], "rewards_accuracies") == 1.0, "{}", lines[5]);

    // Resumed in the middle, it ends in the same bits; the reference is the same.
    let weights =
        |folder: &str| fs::read(place.path(folder).join("training/checkpoints/step-000006/model.safetensors")).unwrap();
    let whole = weights("run");
    fs::remove_dir_all(place.path("run/training/checkpoints/step-000006")).unwrap();
    let resumed = place.wgpt("align --out run --resume -q --device cpu");
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    assert!(weights("run") == whole, "resuming changes no bit");

    // With adapters, and dialogues for pairs.
    let messages = |role: &str, content: &str| format!("[{{\"role\": \"{role}\", \"content\": \"{content}\"}}]");
    let row = format!(
        "{{\"prompt\": {}, \"chosen\": {}, \"rejected\": {}}}\n",
        messages("user", "who found it"),
        messages("assistant", "the fox"),
        messages("assistant", "the sun")
    );
    place.write("chats.jsonl", row.repeat(4));
    let adapted = place.wgpt(
        "align --out adapted --data chats.jsonl --template lines --loss ipo --sft-weight 0.1 --lora 2 --batch 2 --steps 2 -q --device cpu",
    );
    assert!(adapted.status.success(), "{}", stderr(&adapted));
    assert!(place.path("adapted/adapter_model.safetensors").exists());
}

#[test]
fn pairs_that_are_none_and_flags_that_do_not_fit_are_refused() {
    let place = Place::new();
    let refused_row = |row: &str, words: &[&str]| {
        place.write("bad.jsonl", format!("\n{row}\n"));
        let message = read_pairs(&place.path("bad.jsonl")).unwrap_err().to_string();
        has(&message, &["line 2 of ", "bad.jsonl"]);
        has(&message, words);
    };
    refused_row(r#"{"chosen": "a", "rejected": "a"}"#, &["the same"]);
    refused_row(r#"{"chosen": "a"}"#, &["rejected"]);
    refused_row(r#"{"chosen": "a", "rejected": " "}"#, &["empty"]);
    refused_row(r#"{"chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}"#, &["write all alike"]);
    refused_row(
        r#"{"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]}"#,
        &["no message of the assistant"],
    );
    // Without a prompt, the messages that both begin with are it.
    let say = |answer: &str| {
        format!(r#"[{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": "{answer}"}}]"#)
    };
    place.write("good.jsonl", format!(r#"{{"chosen": {}, "rejected": {}}}"#, say("a"), say("b")));
    let pair = &read_pairs(&place.path("good.jsonl")).unwrap()[0];
    assert!(matches!(&pair.chosen, wgpt::data::dialogues::Form::Dialogue { learned: 1, .. }), "{pair:?}");

    place.write("train.jsonl", ROW.repeat(2));
    let refused = |arguments: &str, code: i32, words: &[&str]| {
        has(&error(&place.wgpt(&format!("align --out new --data train.jsonl {arguments}")), code), words);
    };
    refused("--beta 0", 2, &["--beta 0"]);
    refused("--label-smoothing 0.1", 2, &["--label-smoothing", "--loss robust"]);
    refused("--loss robust --label-smoothing 0.5", 2, &["--label-smoothing 0.5"]);
    refused("--sft-weight nan", 2, &["--sft-weight"]);
    refused("--max-length 4", 1, &["--max-length"]);
    assert!(!place.path("new").exists());
}
