//! `wgpt eval` without fine-tuning: choices, last words and strided perplexity, against lm-evaluation-harness and
//! transformers, and as a user meets them.

use crate::cli::{Place, error, has, stderr};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;
use wgpt::evaluate::scorer::{Request, Scorer, graph};
use wgpt::executor::Executor;
use wgpt::formats::demo;
use wgpt::gpu::Gpu;
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::reference::Cpu;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/harness").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

/// Runs `wgpt eval` on the fixtures' model.
fn eval(place: &Place, arguments: &str) -> Output {
    place.wgpt(&format!("eval --model {} {arguments}", fixture("model").display()))
}

/// Its output as JSON.
#[track_caller]
fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The objects of a file of lines.
fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Logits of the GPU are f32: about 1e-6 of numbers near 10 each, and up to a hundred tokens are added up.
#[track_caller]
fn near(got: &Value, want: &Value) {
    let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
    assert!((got - want).abs() <= 2e-4 + 2e-6 * want.abs(), "{got} should be {want}");
}

/// Compares accuracies and every log-likelihood with the harness.
#[track_caller]
fn agrees(place: &Place, output: &Output, want: &Value) {
    let got = json(output);
    for (key, metric) in [("accuracy", "acc"), ("per_character", "acc_norm"), ("per_byte", "acc_bytes")] {
        near(&got[key]["mean"], &want[metric]);
        near(&got[key]["standard_error"], &want[format!("{metric}_stderr")]);
    }
    let (items, want) = (lines(&place.path("items.jsonl")), want["items"].as_array().unwrap());
    assert_eq!(items.len(), want.len());
    for (item, want) in items.iter().zip(want) {
        let (got, want) = (item["log_likelihoods"].as_array().unwrap(), want.as_array().unwrap());
        assert_eq!(got.len(), want.len());
        got.iter().zip(want).for_each(|(got, want)| near(got, want));
    }
}

#[test]
fn choices_agree_with_the_harness() {
    let (place, want) = (Place::new(), expected());
    let choose = fixture("choose.jsonl");
    let choose = format!("--task choose --json --items items.jsonl --data {}", choose.display());
    // The two ways of taking means must not be one by accident.
    assert_ne!(want["choose"]["acc_norm"], want["choose"]["acc_bytes"]);
    for device in ["auto", "cpu"] {
        let output = eval(&place, &format!("{choose} --device {device}"));
        agrees(&place, &output, &want["choose"]);
        // The long item.
        has(&stderr(&output), &["2 of 32 texts were cut", "96"]);
    }
    // Padding and other rows change nothing.
    agrees(&place, &eval(&place, &format!("{choose} --batch 1")), &want["choose"]);
    let shot = format!("--shots 1 --train {}", fixture("shot.jsonl").display());
    agrees(&place, &eval(&place, &format!("{choose} {shot}")), &want["one_shot"]);
    let stories = fixture("stories.jsonl");
    let stories = format!("eval --task choose --json --items items.jsonl --data {}", stories.display());
    agrees(&place, &place.wgpt(&stories), &want["stories"]);
}

#[test]
fn last_words_agree_with_the_harness() {
    let (place, want) = (Place::new(), expected());
    for (key, model) in [("cloze", format!("--model {}", fixture("model").display())), ("stories_cloze", String::new())]
    {
        let (want, data) = (&want[key], fixture(&format!("{key}.jsonl")));
        let arguments = format!("eval --task cloze --json --items items.jsonl {model} --data {}", data.display());
        let got = json(&place.wgpt(&arguments));
        near(&got["accuracy"]["mean"], &want["acc"]);
        let (got, perplexity) = (got["perplexity"].as_f64().unwrap(), want["perplexity"].as_f64().unwrap());
        assert!((got / perplexity - 1.0).abs() < 1e-4, "{got} should be {perplexity}");
        let (items, want) = (lines(&place.path("items.jsonl")), want["items"].as_array().unwrap());
        assert_eq!(items.len(), want.len());
        for (item, want) in items.iter().zip(want) {
            near(&item["log_likelihood"], &want["log_likelihood"]);
            assert_eq!(item["right"], want["right"], "{item}");
        }
    }
}

#[test]
fn strided_perplexity_agrees_with_transformers() {
    let (place, want) = (Place::new(), &expected()["strided"]);
    std::fs::copy(fixture("cloze.jsonl"), place.path("text.txt")).unwrap();
    for (stride, want) in want.as_object().unwrap() {
        let got = json(&eval(&place, &format!("--data text.txt --stride {stride}")));
        near(&got["loss"], &want["loss"]);
        assert_eq!((&got["tokens"], got["stride"].to_string()), (&want["tokens"], stride.clone()));
        let bits = got["loss"].as_f64().unwrap() / std::f64::consts::LN_2;
        assert!(got["bits_per_byte"].as_f64().unwrap() < bits, "a token is more than a byte: {got}");
    }
    // With each token's whole past in sight, a text that fits gives what the windows without a stride give.
    place.write("short.txt", "def evaluate(model): return model");
    let (whole, strided) =
        (json(&eval(&place, "--data short.txt")), json(&eval(&place, "--data short.txt --stride 9")));
    near(&strided["loss"], &whole["loss"]);
    assert!(whole.get("stride").is_none());
}

#[test]
fn scores_do_not_depend_on_other_rows_or_padding() {
    let model = demo::model();
    let config = model.config().unwrap();
    let network = Network::new(config.clone());
    let weights = model.weights(&config).unwrap();
    let ids = model.tokenizer().unwrap().encode("There he met a hungry fox. So he gave it his bread.").unwrap();
    let requests: Vec<Request> = [(51, 50), (51, 3), (20, 7), (2, 1), (33, 1)]
        .map(|(n, scored)| Request { ids: ids[..n].to_vec(), scored })
        .into();
    let mut cpu = Cpu::default();
    let mut told = 0;
    let together = Scorer::new(&mut cpu, &network, &weights, 4).score(&requests, &mut |more| told += more).unwrap();
    assert_eq!(told, requests.len());
    for (request, together) in requests.iter().zip(&together) {
        let alone =
            Scorer::new(&mut cpu, &network, &weights, 1).score(std::slice::from_ref(request), &mut |_| ()).unwrap()[0];
        assert!((alone.log_probability - together.log_probability).abs() < 1e-5, "{alone:?} {together:?}");
        assert_eq!(alone.greedy, together.greedy);
    }
    // The sum of all is the sum of its parts.
    let split: f64 = [Request { ids: ids[..48].to_vec(), scored: 47 }, Request { ids, scored: 3 }]
        .map(|request| {
            Scorer::new(&mut cpu, &network, &weights, 1).score(&[request], &mut |_| ()).unwrap()[0].log_probability
        })
        .iter()
        .sum();
    assert!((split - together[0].log_probability).abs() < 1e-4, "{split} {together:?}");
}

#[test]
fn a_scorer_sees_the_store_and_leaves_nothing_behind() {
    let model = demo::model();
    let config = model.config().unwrap();
    let network = Network::new(config.clone());
    let ids = model.tokenizer().unwrap().encode("There he met a hungry fox.").unwrap();
    let requests = [Request { ids, scored: 9 }];
    let mut gpu = Gpu::open("auto").unwrap();
    let weights = model.weights(&config).unwrap();
    let own = Scorer::new(&mut gpu, &network, &weights, 2).score(&requests, &mut |_| ()).unwrap();
    let bytes = gpu.allocated_bytes();
    let stored = Scorer::of_store(&mut gpu, &network, 2).score(&requests, &mut |_| ()).unwrap();
    assert_eq!(stored, own);
    assert_eq!(gpu.allocated_bytes(), bytes);
    // What training changes, the next scorer sees.
    let bias = vec![1.0; config.width];
    gpu.write_state("ln_f.bias", &bias).unwrap();
    let changed = Scorer::of_store(&mut gpu, &network, 2).score(&requests, &mut |_| ()).unwrap();
    assert!((changed[0].log_probability - own[0].log_probability).abs() > 0.1, "{changed:?} {own:?}");
}

#[test]
fn only_scored_positions_reach_the_vocabulary() {
    let g = graph(&Network::new(Config::new(5000, 64, 2, 2, 16)), (8, 64), 24);
    let logits: Vec<usize> = (0..g.nodes().len())
        .filter(|node| g.op(*node).is_some() && g.nodes()[*node].outputs[0].columns() == 5000)
        .map(|node| g.nodes()[node].outputs[0].rows())
        .collect();
    assert_eq!(logits, [24]);
}

#[test]
fn the_built_in_examples_are_evaluated_where_none_are_named() {
    let place = Place::new();
    let chosen = json(&place.wgpt("eval --task choose --limit 40 --json --quiet"));
    // A pre-trained model knows its stories without having seen the task: 0.25 is chance.
    assert!(chosen["accuracy"]["mean"].as_f64().unwrap() > 0.5, "{chosen}");
    assert_eq!((&chosen["examples"], &chosen["shots"]), (&40.into(), &0.into()));
    let output = place.wgpt("eval --task cloze --limit 30");
    assert!(output.status.success(), "{}", stderr(&output));
    has(&String::from_utf8(output.stdout).unwrap(), &["accuracy: 0.", " ± ", "perplexity: 1.", "examples: "]);
}

#[test]
fn shots_are_drawn_with_the_seed() {
    let place = Place::new();
    for (name, split) in [("train.csv", "train"), ("test.csv", "test")] {
        assert!(place.wgpt(&format!("data task choose --out {name} --count 16 --split {split}")).status.success());
    }
    let items = |more: &str| {
        let output = place.wgpt(&format!("eval --task choose --data test.csv --items items.jsonl {more}"));
        assert!(output.status.success(), "{}", stderr(&output));
        lines(&place.path("items.jsonl"))
    };
    let shots = "--shots 2 --train train.csv --separator .";
    let first = items(&format!("{shots} --seed 1"));
    assert_eq!(first, items(&format!("{shots} --seed 1")));
    assert_ne!(first, items(&format!("{shots} --seed 2")));
    assert_ne!(first, items(""));
}

#[test]
fn columns_have_other_names_where_they_are_given() {
    let place = Place::new();
    place.write("a.csv", "ctx,q,end1,end2,gold\nHe met a fox.,She was,sad.,a fox.,1\n");
    place.write("b.jsonl", r#"{"context": "He met a fox. She was", "choices": ["sad.", "a fox."], "label": 0}"#);
    let run = |arguments: &str| {
        let output = place.wgpt(&format!("eval --task choose --items items.jsonl {arguments}"));
        assert!(output.status.success(), "{}", stderr(&output));
        lines(&place.path("items.jsonl"))[0]["log_likelihoods"].clone()
    };
    let named = run("--data a.csv --context ctx --question q --choices end --label gold");
    assert_eq!(named, run("--data b.jsonl"));
}

#[test]
fn bad_choices_and_bad_items_are_named() {
    let place = Place::new();
    for (arguments, words) in [
        ("--stride 0", ["--stride 0", "1 to 127"]),
        ("--stride 128", ["--stride 128", "1 to 127"]),
        ("--batch 0", ["--batch 0", "1 or more"]),
        ("--task choose --stride 5", ["--stride", "--task perplexity"]),
        ("--question q", ["--question", "--task choose"]),
        ("--task cloze --label q", ["--label", "--task choose"]),
        ("--task choose --text q", ["--text", "--task cloze"]),
        ("--items f", ["--items", "choose and cloze"]),
        ("--task choose --shots 1", ["--shots", "--train"]),
        ("--task choose --train f.csv", ["--train", "--shots"]),
        ("--task nonsense", ["nonsense", "--task"]),
        ("--task choose --data f.txt", ["f.txt", ".jsonl"]),
    ] {
        has(&error(&place.wgpt(&format!("eval {arguments}")), 2), &words);
    }
    let long = "a very long one ".repeat(20);
    let row = |context: &str, choice: &str, label: &str| {
        format!("{{\"context\": \"{context}\", \"choices\": [\"{choice}\", \"b\"], \"label\": {label}}}\n")
    };
    let fine = row("He met", "a fox.", "0");
    for (text, words) in [
        (row("", "a", "0"), ["line 2", "`context`"]),
        (row("a", "", "0"), ["line 2", "`choices`"]),
        (row("a", "a", "2"), ["line 2", "`2`"]),
        (row("a", "a", "null"), ["line 2", "`label`"]),
        (row("a", &long, "0"), ["choice 1 in line 2", "more than the 128"]),
        (row("a", "é", "0"), ["choice 1 in line 2", "'é'"]),
        ("{\"choices\": [\"a\", \"b\"], \"label\": 0}".into(), ["line 2", "--context"]),
        ("nonsense".into(), ["line 2", "JSON"]),
    ] {
        place.write("bad.jsonl", fine.clone() + &text);
        let message = error(&place.wgpt("eval --task choose --data bad.jsonl --device cpu"), 1);
        has(&message, &words);
        has(&message, &["bad.jsonl"]);
    }
    for (text, words) in [("one", ["line 2", "one word"]), ("a Q", ["line 2", "'Q'"])] {
        place.write("bad.csv", format!("text\n{text}\n"));
        has(&error(&place.wgpt("eval --task cloze --data bad.csv --device cpu"), 1), &words);
    }
    place.write("fine.jsonl", &fine);
    let few = "eval --task choose --data fine.jsonl --train fine.jsonl --shots 2 --device cpu";
    has(&error(&place.wgpt(few), 1), &["fine.jsonl", "--shots", "2"]);
    has(&error(&place.wgpt("eval --task choose --data gone.csv"), 1), &["gone.csv"]);
}
