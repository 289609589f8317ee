//! The demo model that is built in: it speaks, and it is as good as weights/demo/trained.json says.

use crate::cli::{Place, stderr};
use std::path::Path;
use wgpt::data::corpora::story;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/demo")
}

fn trained() -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(folder().join("trained.json")).unwrap()).unwrap()
}

#[test]
fn its_loss_on_held_out_stories_equals_the_documented_one() {
    let output = Place::new().wgpt("eval");
    assert!(output.status.success(), "{}", stderr(&output));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let (got, want) = (result["loss"].as_f64().unwrap(), trained()["held_out_loss"].as_f64().unwrap());
    // Another adapter sums in another order: logits move by 1e-6, a mean over 65,535 of them by less.
    assert!((got - want).abs() < 1e-5, "{got} instead of {want}");
}

#[test]
fn it_writes_sentences_without_any_training() {
    let place = Place::new();
    place.write("prompt", "\n");
    let output = place.wgpt("sample --prompt-file prompt --count 8 --tokens 120");
    assert!(output.status.success(), "{}", stderr(&output));
    let out = String::from_utf8(output.stdout).unwrap();
    let complete = |line: &str| line.contains(". ").then(|| line[..=line.rfind('.').unwrap()].to_string());
    let sentences: Vec<String> = out
        .lines()
        .filter_map(complete)
        .flat_map(|line| line.split_inclusive(". ").map(|s| s.trim().to_string()).collect::<Vec<_>>())
        .collect();
    let good = sentences.iter().filter(|sentence| story::grammatical(sentence)).count();
    // About one in twenty has a slip; a model that has learned less has hardly any right.
    assert!(sentences.len() >= 8 && good * 10 >= sentences.len() * 8, "{good} of {}: {out}", sentences.len());
}

#[test]
fn its_files_are_small_and_complete() {
    let size: u64 = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(size < 4 << 20, "{size} bytes");
    for key in ["command", "commit", "seed", "steps", "training_loss", "validation_loss", "held_out_loss", "device"] {
        assert!(!trained()[key].is_null(), "trained.json lacks {key}");
    }
}
