//! Low-rank adapters against peft and trl: what is computed from peft's folders, merged and written back, and three steps of
//! training. tests/fixtures/lora.py makes the folders and the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::{dump, fixture, logits, open};
use crate::llama::{devices, largest, worst};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use wgpt::data::dialogues::Encoded;
use wgpt::executor::Executor;
use wgpt::formats::adapter::{self, KEYS};
use wgpt::formats::folder::{TensorFile, Weights};
use wgpt::formats::source::ModelSource;
use wgpt::graph::{Command, Graph, Plan, Shape};
use wgpt::models::config::Config;
use wgpt::models::lora::Lora;
use wgpt::models::network::Network;
use wgpt::objectives::sft::{RECIPE, Rows, Sft};
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::Trainer;

const CASES: [&str; 7] = ["gpt2", "gpt2_all", "llama", "mistral", "qwen2", "qwen3", "mixtral"];

fn case(name: &str) -> PathBuf {
    fixture("lora").join(name)
}

/// The model of a case with its adapters.
fn adapted(name: &str) -> ModelSource {
    let settings = fs::read_to_string(case(name).join("adapter_config.json")).unwrap();
    let base = adapter::base_name(&settings).unwrap();
    ModelSource::folder(fixture(&base)).adapted(&case(name))
}

fn ids(name: &str) -> (Vec<u32>, [usize; 2]) {
    let ModelSource::Adapter { base, .. } = adapted(name) else { unreachable!("an adapter") };
    let (ids, shape) = dump::<u32>(&base.path(""), "ids");
    (ids, [shape[0], shape[1]])
}

#[test]
fn logits_of_pefts_adapters_are_those_of_peft_merged_or_not() {
    for name in CASES {
        let config = adapted(name).config().unwrap();
        let weights = adapted(name).weights(&config).unwrap();
        let (ids, shape) = ids(name);
        let (want, _) = dump::<f32>(&case(name), "logits");
        let check = |label: &str, got: Vec<f32>| {
            let error = worst(&got, &want) / largest(&want);
            println!("{name} {label}: logits {error:.1e} of the largest off");
            // f32 sums in another order, through two blocks.
            assert!(error <= 5e-6, "{name} {label}: {error} of the largest logit off");
        };
        // Every kernel that adapters add has cases of its own.
        let all = ["gpt2_all", "llama"].contains(&name);
        for (label, mut device) in devices().into_iter().take(if all { 3 } else { 1 }) {
            check(label, logits(device.as_mut(), &config, &weights, &ids, shape));
        }
        let (config, weights) = weights.merge(&config);
        check("merged", logits(&mut Cpu::default(), &config, &weights, &ids, shape));
    }
}

#[test]
fn adapters_are_written_as_peft_has_them() {
    for name in CASES {
        let source = adapted(name);
        let config = source.config().unwrap();
        let weights = source.weights(&config).unwrap();
        let folder = tempdir().unwrap();
        let mut parameters = vec![];
        for parameter in Network::new(config.clone()).parameters().iter().filter(|p| p.adapter) {
            let mut values = vec![];
            for (part, _) in config.parts(&parameter.name, &parameter.dims) {
                values.extend_from_slice(&weights.read(&part).unwrap());
            }
            parameters.push((parameter.name.clone(), parameter.dims.clone(), values));
        }
        let borrowed: Vec<_> = parameters.iter().map(|(n, d, v)| (n.clone(), d.clone(), v.as_slice())).collect();
        adapter::write_folder(folder.path(), &config, &borrowed, None).unwrap();
        let tensors = |folder: &Path| {
            let file = TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
            let mut all: Vec<_> = file
                .names()
                .into_iter()
                .map(|n| (n.clone(), file.shape(&n).unwrap().to_vec(), file.read(&n).unwrap().into_owned()))
                .collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        };
        assert_eq!(tensors(folder.path()), tensors(&case(name)), "{name}");
        let settings = |folder: &Path| -> Value {
            serde_json::from_slice(&fs::read(folder.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (settings(folder.path()), settings(&case(name)));
        for key in
            ["peft_type", "r", "lora_alpha", "lora_dropout", "bias", "fan_in_fan_out", "use_rslora", "modules_to_save"]
        {
            let number = |value: &Value| value.as_f64();
            let same = ours[key] == theirs[key]
                || (number(&ours[key]).is_some() && number(&ours[key]) == number(&theirs[key]));
            assert!(same, "{name}: {key} is {}, not {}", ours[key], theirs[key]);
        }
        let known: BTreeSet<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        for key in theirs.as_object().unwrap().keys().chain(ours.as_object().unwrap().keys()) {
            assert!(known.contains(key.as_str()), "peft's key {key} is in no table");
        }
        // Ours are read back as the same adapters, but for the place of the base model.
        let again = adapter::read(&ours.to_string(), Path::new("x"), &[], &config).unwrap();
        assert_eq!(again, config.lora.clone().unwrap(), "{name}");
    }
}

/// The examples of a case.
fn examples(name: &str) -> Vec<Encoded> {
    let (ids, shape) = dump::<i32>(&case(name), "examples.ids");
    let (learned, _) = dump::<i32>(&case(name), "examples.learned");
    let row = |(ids, learned): (&[i32], &[i32])| {
        let len = ids.iter().take_while(|id| **id >= 0).count();
        Encoded {
            ids: ids[..len].iter().map(|id| *id as u32).collect(),
            learned: learned[..len].iter().map(|flag| *flag == 1).collect(),
            parted: false,
        }
    };
    ids.chunks(shape[1]).zip(learned.chunks(shape[1])).map(row).collect()
}

/// A run as trl's in the fixture: three steps of two micro-batches of two, linear decay, no clipping.
fn settings() -> Settings {
    settings_of(2)
}

/// The same with so many rows in a micro-batch.
fn settings_of(batch: usize) -> Settings {
    let choices = Choices {
        batch: Some(batch),
        accumulate: Some(2),
        steps: Some(3),
        lr: Some(1e-2),
        clip: Some(0.0),
        ..Choices::default()
    };
    choices.resolve(&RECIPE, |_| 2).unwrap()
}

#[test]
fn three_steps_on_adapters_are_those_of_trl_and_peft() {
    // Two examples in a micro-batch, or one row of 21 tokens that holds two.
    for (name, batch, packed) in
        [("gpt2", 2, None), ("llama", 2, None), ("gpt2_packed", 1, Some(21)), ("llama_packed", 1, Some(21))]
    {
        let source = adapted(name);
        let config = source.config().unwrap();
        let weights = source.weights(&config).unwrap();
        // The reference, and the kernels of one kind of adapter with each.
        let kinds =
            devices().into_iter().enumerate().filter(|(i, _)| *i != if name.starts_with("gpt2") { 1 } else { 2 });
        for (_, (label, device)) in kinds {
            let settings = settings_of(batch);
            let objective = Box::new(Sft::new(
                config.clone(),
                &settings,
                (Rows::new(examples(name), packed), Rows::new(vec![], packed)),
            ));
            let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
            let mut trainer = Trainer::new(device, blueprint, objective, settings).unwrap();
            trainer.initialise(Some(&weights)).unwrap();
            let adapters: Vec<_> = trainer.trained().to_vec();
            assert!(adapters.iter().all(|p| p.adapter));
            let parts = |kind: &str, parameter: &wgpt::graph::Parameter| -> Vec<f32> {
                let parts = config.parts(&parameter.name, &parameter.dims);
                let stored = |part: &str| format!("{kind}.{}{}{part}", adapter::PREFIX, config.family().prefix());
                parts.iter().flat_map(|(part, _)| dump::<f32>(&case(name), &stored(part)).0).collect()
            };
            for parameter in &adapters {
                let start = parts("start", parameter);
                trainer.executor().write_state(&parameter.name, &start).unwrap();
            }
            let mut losses = vec![];
            let mut records = vec![];
            while trainer.steps_done() < 3 {
                records.extend(trainer.step().unwrap());
                if trainer.steps_done() == 1 {
                    records.extend(trainer.finish().unwrap());
                    // B is zero: AdamW's first step has moved B by its rate, and A by nothing.
                    for parameter in &adapters {
                        let (want, start) = (parts("grad", parameter), parts("start", parameter));
                        let got = trainer.executor().read_state(&format!("{}.exp_avg", parameter.name)).unwrap();
                        let got: Vec<f32> = got.iter().map(|mean| mean / 0.1).collect();
                        let error = worst(&got, &want) / largest(&want).max(1e-6);
                        println!("{name} with {label}: gradient of {} {error:.1e} of its largest off", parameter.name);
                        // f32 sums over 38 tokens, through two blocks and back.
                        assert!(
                            error <= 2e-5,
                            "{name} with {label}: {} is {error} of its largest gradient off",
                            parameter.name
                        );
                        assert_eq!(start.len(), parameter.len());
                    }
                }
            }
            records.extend(trainer.finish().unwrap());
            losses.extend(records.iter().map(|record| record.loss));
            let want = dump::<f32>(&case(name), "loss").0;
            let error = losses.iter().zip(&want).map(|(got, want)| ((got - want) / want).abs()).fold(0.0, f32::max);
            println!("{name} with {label}: losses {losses:?}, {error:.1e} off");
            assert!(error <= 1e-5, "{name} with {label}: losses {losses:?}, not {want:?}");
            for parameter in &adapters {
                let got = trainer.executor().read_state(&parameter.name).unwrap();
                let want = parts("final", parameter);
                let error = worst(&got, &want);
                println!("{name} with {label}: {} {error:.1e} off after three steps", parameter.name);
                // AdamW divides a gradient by its own size: where one is near 1e-5 of the largest, its rounding counts.
                assert!(
                    error <= 1e-4 * largest(&want).max(0.01),
                    "{name} with {label}: {} is {error} off",
                    parameter.name
                );
            }
        }
    }
}

/// The model of a case with adapters on these layers.
fn with_targets(config: &Config, targets: &[&str]) -> Config {
    let targets = targets.iter().map(|name| name.to_string()).collect();
    let lora = Lora { rank: 4, alpha: 8.0, dropout: 0.0, targets, rank_stabilised: false, saved: vec![], base: None };
    let config = Config { lora: None, ..config.clone() };
    Config { lora: Some(lora.check(&config).unwrap()), ..config }
}

#[test]
fn nothing_is_computed_or_kept_for_parameters_of_a_frozen_base() {
    let (plain, _) = open(&fixture("llama_random/llama"));
    let config = with_targets(&plain, &["q_proj", "v_proj"]);
    let settings = settings();
    let limits = Cpu::default().limits().clone();
    let blueprint = |config: &Config| {
        let objective =
            Sft::new(config.clone(), &settings, (Rows::new(examples("llama"), None), Rows::new(vec![], None)));
        Blueprint::new(&objective, &settings, &limits).unwrap()
    };
    let adapted = blueprint(&config);
    let adapters: Vec<String> = adapted.training_graph().trained().iter().map(|p| p.name.clone()).collect();
    assert_eq!(adapters.len(), 4, "A and B of q and v together, in two layers: {adapters:?}");
    let states: Vec<&str> = adapted.training_plan().states.iter().map(|state| state.name.as_str()).collect();
    for suffix in [".grad", ".exp_avg", ".exp_avg_sq"] {
        let kept: BTreeSet<&str> = states
            .iter()
            .filter_map(|name| name.strip_suffix(suffix))
            .filter(|name| !name.starts_with("parameters.")) // the buffers of groups
            .collect();
        assert_eq!(kept, adapters.iter().map(String::as_str).collect(), "states {suffix}");
    }
    // Products of a step by hand. Forward: four of a layer, two of an adapter, the head. Backward: of the head and of all but the
    // first layer's q, k and v one for the input; of an adapter's two products one for each matrix, and for the input of B's, and
    // of A's but in the first layer.
    let kernels = |blueprint: &Blueprint, stem: &str| {
        let plan = blueprint.training_plan();
        let is = |command: &&Command| matches!(command, Command::Dispatch(k) if k.shader.stem.contains(stem));
        plan.segments.iter().flat_map(|segment| &segment.commands).filter(is).count()
    };
    let (forward, backward) = (2 * 4 + 2 * 2 + 1, (2 * 4 - 1 + 1) + (2 * 2) + (2 + 1));
    assert_eq!(kernels(&adapted, "matmul"), forward + backward);
    assert_eq!(kernels(&adapted, "rmsnorm_backward_parameters"), 0, "no gradients of norms");
    assert_eq!(kernels(&adapted, "embedding_backward"), 0, "none of embeddings");
    assert!(kernels(&blueprint(&plain), "rmsnorm_backward_parameters") > 0);
    assert!(adapted.memory_bytes() < blueprint(&plain).memory_bytes());
}

#[test]
fn adapters_that_are_not_of_the_model_are_refused_by_name() {
    let place = Place::new();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::create_dir_all(place.path("adapter")).unwrap();
        fs::copy(case("llama").join(file), place.path("adapter").join(file)).unwrap();
    }
    let evaluate = |model: &Path| {
        place
            .command("eval --adapter adapter --ids ids.json --logits out.safetensors --device cpu")
            .arg("--model")
            .arg(model)
            .output()
            .unwrap()
    };
    place.write("ids.json", "[[1, 2, 3]]");
    assert!(evaluate(&fixture("llama_random/llama")).status.success());
    has(&error(&evaluate(&fixture("gpt2_random/untied")), 1), &["adapter", "not of this model", "down_proj", "c_attn"]);
    has(&error(&evaluate(&fixture("llama_random/qwen3")), 1), &["lora_A.weight", "shape"]);
    let out = place.wgpt("eval --adapter adapter --ids ids.json --logits out.safetensors --device cpu");
    has(&error(&out, 1), &["adapter of llama_random/llama", "--model"]);
    has(&error(&place.wgpt("eval --adapter nothing --device cpu"), 1), &["nothing", "holds no adapters"]);
    let settings = fs::read_to_string(place.path("adapter/adapter_config.json")).unwrap();
    let changes = [
        ("\"LORA\"", "\"IA3\"", "peft_type"),
        ("\"use_dora\": false", "\"use_dora\": true", "use_dora"),
        ("\"bias\": \"none\"", "\"bias\": \"all\"", "bias"),
        ("\"rank_pattern\": {}", "\"rank_pattern\": {\"q_proj\": 2}", "rank_pattern"),
        ("\"init_lora_weights\": true", "\"init_lora_weights\": \"pissa\"", "init_lora_weights"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"norm\"]", "modules_to_save"),
        ("\"r\": 4", "\"r\": 0", "r is 0"),
        ("{", "", "not a JSON object"),
    ];
    for (from, to, word) in changes {
        place.write("adapter/adapter_config.json", settings.replacen(from, to, 1));
        let message = error(&evaluate(&fixture("llama_random/llama")), 1);
        has(&message, &["adapter_config.json", word]);
    }
    // What is not implemented is told.
    place.write("adapter/adapter_config.json", settings.replace("\"use_qalora\": false", "\"use_qalora\": true"));
    has(&stderr(&evaluate(&fixture("llama_random/llama"))), &["warning", "use_qalora"]);
}

/// A model of bytes to adapt, its folder, and examples with answers of one letter.
fn small(place: &Place) {
    place.write("text.txt", "abcabcabc abc\n".repeat(200));
    let train = "train --data text.txt --tokenizer bytes --layers 1 --heads 2 --width 16 --context 32 --steps 2 --batch 2 --device cpu --out base";
    assert!(place.wgpt(train).status.success());
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"completion\": \"x\"}}\n", "ab".repeat(1 + i % 4));
    place.write("examples.jsonl", (0..12).map(line).collect::<String>());
}

#[test]
fn adapters_are_trained_resumed_used_and_merged_from_the_command_line() {
    let place = Place::new();
    small(&place);
    let sft = "sft --model base --data examples.jsonl --batch 2 --lora 2 --lora-targets all-linear --lora-alpha 4 --lr 1e-2 --device cpu --seed 3";
    let out = place.wgpt(&format!("{sft} --steps 6 --out adapter"));
    assert!(out.status.success(), "{}", stderr(&out));
    has(&stderr(&out), &["values are trained", "--adapter"]);
    let names = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(place.path(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let folder = names("adapter");
    assert!(folder.contains("adapter_model.safetensors") && folder.contains("tokenizer.json"), "{folder:?}");
    assert!(!folder.contains("model.safetensors") && !folder.contains("config.json"), "{folder:?}");

    // Stopped and resumed: the same bytes.
    assert!(place.wgpt(&format!("{sft} --steps 3 --out halves --schedule constant")).status.success());
    assert!(place.wgpt("sft --out halves --resume --steps 6 --device cpu").status.success());
    assert!(place.wgpt(&format!("{sft} --steps 6 --out whole --schedule constant")).status.success());
    let weights = |folder: &str| fs::read(place.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(weights("halves") == weights("whole"), "a resumed run has the same adapters");

    // By its own folder, on a model that is named, and merged: the same text; the base alone says something else.
    let sample = |what: &str| {
        let out = place.wgpt(&format!("sample {what} --prompt abab --tokens 8 --temperature 0 --device cpu"));
        assert!(out.status.success(), "{what}: {}", stderr(&out));
        out.stdout
    };
    let merged = place.wgpt("merge --adapter adapter --out merged");
    assert!(merged.status.success(), "{}", stderr(&merged));
    let want = sample("--adapter adapter");
    for what in ["--model adapter", "--model base --adapter adapter", "--model merged"] {
        assert_eq!(sample(what), want, "{what}");
    }
    let loss = |what: &str| {
        let out = place.wgpt(&format!("eval {what} --data text.txt --device cpu"));
        let value: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", stderr(&out)));
        value["loss"].as_f64().unwrap()
    };
    let (own, whole, base) = (loss("--adapter adapter"), loss("--model merged"), loss("--model base"));
    assert!((own - whole).abs() < 1e-5 && (own - base).abs() > 1e-4, "{own}, merged {whole}, base {base}");
    assert!(merged_weights_are_plain(&place.path("merged")));

    // Trained on, without --lora; and what cannot be.
    assert!(place.wgpt("sft --model adapter --data examples.jsonl --steps 1 --out more --device cpu").status.success());
    assert!(names("more").contains("adapter_model.safetensors"));
    let refused = |arguments: &str, words: &[&str]| has(&error(&place.wgpt(arguments), 2), words);
    let data = "--data examples.jsonl --out none --device cpu";
    refused(&format!("sft --model adapter --lora 2 {data}"), &["has adapters", "leave it out"]);
    refused(&format!("sft --model base --lora 0 {data}"), &["--lora 0", "1024"]);
    refused(&format!("sft --model base --lora 2 --freeze 1 {data}"), &["--freeze", "--lora"]);
    refused(&format!("sft --model base --lora 2 --lora-targets q_proj {data}"), &["q_proj", "c_attn", "all-linear"]);
    refused(&format!("sft --model base --lora 2 --lora-alpha 0 {data}"), &["--lora-alpha 0"]);
    refused(&format!("sft --model base --lora 2 --lora-dropout 1 {data}"), &["--lora-dropout 1"]);
    refused(&format!("sft --model base --lora 2 --head-lr 1 {data}"), &["--head-lr"]);
    refused("train --data text.txt --lora 2 --out none --device cpu", &["--lora", "--init"]);
    has(&error(&place.wgpt("merge --model base --adapter base --out none"), 1), &["base", "holds no adapters"]);
    assert!(!place.path("none").exists());
}

/// Whether a folder is of a model without adapters.
fn merged_weights_are_plain(folder: &Path) -> bool {
    let config = ModelSource::folder(folder).config().unwrap();
    config.lora.is_none() && Weights::open(folder, &config).is_ok()
}

#[test]
fn adapters_of_classifiers_and_rewards_bring_their_heads_and_tokens() {
    let place = Place::new();
    small(&place);
    let rows =
        |i: usize| format!("{{\"text\": \"{}\", \"label\": \"{}\"}}\n", "ab".repeat(1 + i % 3), ["x", "y"][i % 2]);
    place.write("labels.jsonl", (0..12).map(rows).collect::<String>());
    let finetune = "finetune --model base --task classify --data labels.jsonl --lora 2 --steps 3 --batch 2 --device cpu --out classifier";
    let out = place.wgpt(finetune);
    assert!(out.status.success(), "{}", stderr(&out));
    let settings: Value =
        serde_json::from_slice(&fs::read(place.path("classifier/adapter_config.json")).unwrap()).unwrap();
    assert_eq!(settings["modules_to_save"], serde_json::json!(["wte", "score"]), "tokens were added");
    let predict = |model: &str| {
        let out = place.wgpt(&format!("predict --model {model} --data labels.jsonl --device cpu"));
        assert!(out.status.success(), "{}", stderr(&out));
        let line = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        String::from_utf8(out.stdout).unwrap().lines().map(line).collect::<Vec<_>>()
    };
    let want = predict("classifier");
    assert_eq!(want.len(), 12);
    assert!(place.wgpt("merge --adapter classifier --out merged-classifier").status.success());
    for (got, want) in predict("merged-classifier").iter().zip(&want) {
        assert_eq!(got["label"], want["label"]);
    }
    let pairs =
        |i: usize| format!("{{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"{}\"}}\n", "c".repeat(1 + i % 3));
    place.write("pairs.jsonl", (0..8).map(pairs).collect::<String>());
    let out =
        place.wgpt("reward --model base --data pairs.jsonl --lora 2 --steps 3 --batch 2 --device cpu --out reward");
    assert!(out.status.success(), "{}", stderr(&out));
    place.write("texts.jsonl", "{\"text\": \"ab\"}\n");
    let out = place.wgpt("predict --model reward --data texts.jsonl --device cpu");
    assert!(out.status.success(), "{}", stderr(&out));
}

/// Dropout of an adapter's input is on in training alone, and differs from layer to layer.
#[test]
fn dropout_of_adapters_is_for_training_alone() {
    let (plain, _) = open(&fixture("llama_random/llama"));
    let mut config = with_targets(&plain, &["q_proj", "o_proj"]);
    config.lora.as_mut().unwrap().dropout = 0.5;
    let network = Network::new(config);
    let dropouts = |training: bool| {
        let mut g = Graph::new();
        let ids = g.input("ids", Shape::u32(&[1, 4]));
        let model = if training { network.training(Default::default()) } else { network.inference() };
        model.logits(&mut g, ids);
        let ops = g.nodes().iter().filter(|node| node.label.ends_with("dropout"));
        ops.map(|node| format!("{:?}", node.source)).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((dropouts(true), dropouts(false)), (4, 0), "one for each matrix of two layers");
    let limits = Cpu::default().limits().clone();
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, 4]));
    let logits = network.inference().logits(&mut g, ids);
    g.output("logits", logits);
    assert!(Plan::new(&g, &limits).is_ok());
}
