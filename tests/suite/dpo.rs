//! Preference optimisation against trl: losses, gradients, rewards and three steps of adapters with each loss, and `wgpt align` as a user
//! meets it. tests/fixtures/dpo.py makes the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::fixture;
use crate::llama::{devices, largest, worst};
use serde_json::Value;
use std::fs;
use wgpt::data::dialogues::Encoded;
use wgpt::data::preferences::read_pairs;
use wgpt::formats::adapter;
use wgpt::formats::source::ModelSource;
use wgpt::objectives::dpo::{Dpo, Pairs, RECIPE};
use wgpt::ops::preference_loss::{Form, PreferenceLoss};
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

/// The dump of a model.
struct Dump(Vec<u8>);

impl Dump {
    fn of(model: &str) -> Dump {
        Dump(fs::read(fixture(&format!("dpo/{model}.safetensors"))).unwrap())
    }

    fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> (Vec<T>, Vec<usize>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (bytemuck::pod_collect_to_vec(tensor.data()), tensor.shape().to_vec())
    }

    fn pairs(&self) -> Pairs {
        let (ids, shape) = self.get::<i32>("ids");
        let (learned, _) = self.get::<i32>("learned");
        let answer = |(ids, learned): (&[i32], &[i32])| {
            let len = ids.iter().take_while(|id| **id >= 0).count();
            Encoded {
                ids: ids[..len].iter().map(|id| *id as u32).collect(),
                learned: learned[..len].iter().map(|flag| *flag == 1).collect(),
                parted: false,
            }
        };
        let answers: Vec<Encoded> = ids.chunks(shape[1]).zip(learned.chunks(shape[1])).map(answer).collect();
        Pairs::new(answers.as_chunks::<2>().0.to_vec())
    }
}

/// A run as trl's in the fixture: three steps, linear decay, no clipping.
fn settings(batch: usize, targets: &str) -> (Choices, Settings) {
    let choices = Choices {
        batch: Some(batch),
        accumulate: Some(4 / batch),
        steps: Some(3),
        lr: Some(1e-2),
        clip: Some(0.0),
        lora: Some(2),
        lora_alpha: Some(4.0),
        lora_targets: Some(targets.into()),
        ..Choices::default()
    };
    (choices.clone(), choices.resolve(&RECIPE, |_| 2).unwrap())
}

#[test]
fn three_steps_with_each_loss_are_those_of_trl() {
    let losses = [
        ("sigmoid", Form::Sigmoid, 0.0, 0.0),
        ("hinge", Form::Hinge, 0.0, 0.0),
        ("ipo", Form::Ipo, 0.0, 0.0),
        ("robust", Form::Robust, 0.2, 0.0),
        ("sft", Form::Sigmoid, 0.0, 0.5),
    ];
    let models = [("gpt2", "gpt2_random/inner_50_gelu", "c_attn"), ("llama", "llama_random/llama", "q_proj,v_proj")];
    for (model, folder, targets) in models {
        let dump = Dump::of(model);
        for (i, (name, form, smoothing, sft)) in losses.into_iter().enumerate() {
            let source = ModelSource::folder(fixture(folder));
            let start = source.config().unwrap();
            let (choices, settings) = settings(if sft > 0.0 { 4 } else { 2 }, targets);
            let config = choices.adapted(start.clone(), (&start, source.name())).unwrap();
            // The reference with every loss, kernels with one: those of the loss have cases of their own.
            let kernels = i == 0 && model == "llama";
            for (label, device) in devices().into_iter().take(if kernels { 3 } else { 1 }) {
                let weights = source.weights(&start).unwrap();
                let loss = PreferenceLoss { form, beta: 0.3, smoothing };
                let reference = (start.clone(), source.weights(&start).unwrap());
                let pairs = (dump.pairs(), Pairs::default());
                let objective = Box::new(Dpo::new(config.clone(), &settings, (loss, sft), pairs, reference));
                let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
                let mut trainer = Trainer::new(device, blueprint, objective, settings.clone()).unwrap();
                trainer.initialise(Some(&weights)).unwrap();
                let adapters: Vec<_> = trainer.trained().to_vec();
                let parts = |kind: &str, parameter: &wgpt::graph::Parameter| -> Vec<f32> {
                    let parts = config.parts(&parameter.name, &parameter.dims);
                    let stored = |part: &str| format!("{kind}.{}{}{part}", adapter::PREFIX, config.family().prefix());
                    parts.iter().flat_map(|(part, _)| dump.get::<f32>(&stored(part)).0).collect()
                };
                for parameter in &adapters {
                    trainer.executor().write_state(&parameter.name, &parts("start", parameter)).unwrap();
                }
                let mut records = trainer.step().unwrap();
                records.extend(trainer.finish().unwrap());
                for parameter in &adapters {
                    let want = parts(&format!("{name}.grad"), parameter);
                    let got = trainer.executor().read_state(&format!("{}.exp_avg", parameter.name)).unwrap();
                    let got: Vec<f32> = got.iter().map(|mean| mean / 0.1).collect();
                    let error = worst(&got, &want) / largest(&want).max(1e-6);
                    println!(
                        "{model} {name} with {label}: gradient of {} {error:.1e} of its largest off",
                        parameter.name
                    );
                    // f32 sums over some 60 tokens, through two blocks and back; trl's head is f32, too.
                    assert!(error <= 5e-5, "{model} {name} with {label}: {} {error}", parameter.name);
                }
                while trainer.steps_done() < 3 {
                    records.extend(trainer.step().unwrap());
                }
                records.extend(trainer.finish().unwrap());
                let close = |what: &str, got: &[f32], want: &[f32], scale: f32| {
                    let error = worst(got, want) / scale;
                    println!("{model} {name} with {label}: {what} {got:?}, {error:.1e} off");
                    assert!(error <= 1e-4, "{model} {name} with {label}: {what} {got:?}, not {want:?}");
                };
                let of = |scalar: &str| records.iter().map(|r| r.scalars[scalar]).collect::<Vec<f32>>();
                let losses: Vec<f32> = records.iter().map(|record| record.loss).collect();
                close("loss", &losses, &dump.get(&format!("{name}.loss")).0, losses[0]);
                // Of ipo, rewards here are of the means over tokens that its loss is made of.
                if form != Form::Ipo {
                    close("chosen", &of("rewards_chosen"), &dump.get(&format!("{name}.chosen")).0, 1.0);
                    close("rejected", &of("rewards_rejected"), &dump.get(&format!("{name}.rejected")).0, 1.0);
                }
                close("accuracy", &of("rewards_accuracies"), &dump.get(&format!("{name}.accuracy")).0, 1.0);
                for parameter in &adapters {
                    let want = parts(&format!("{name}.final"), parameter);
                    let error = worst(&trainer.executor().read_state(&parameter.name).unwrap(), &want);
                    // AdamW divides a gradient by its own size: where one is near 1e-5 of the largest, its rounding counts.
                    let most = 2e-4 * largest(&want).max(0.01);
                    assert!(error <= most, "{model} {name} with {label}: {} is {error} off", parameter.name);
                }
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
