//! Numbers that are not finite are no result: every command that would hand one out ends with an error that says what is not
//! finite, and exit code 1.

use crate::cli::{Place, error};
use crate::export::tiny_model;
use std::fs;
use wgpt::executor::{Executor, check_finite};
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::ops::add::Add;
use wgpt::reference::Cpu;

/// Overwrites one weight of a model with a value. The checksum of the file is taken out.
fn damage(place: &Place, model: &str, value: f32) {
    let path = place.path(model).join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    if let Some(checksum) = bytes.windows(11).position(|w| w == b"wgpt_sha256") {
        bytes[checksum..checksum + 4].copy_from_slice(b"none");
    }
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Commands that make a result of the model in `model`.
const COMMANDS: [&str; 8] = [
    "sample --model model --prompt ab --tokens 3",
    "sample --model model --prompt ab --tokens 3 --json",
    "sample --model model --prompt ab --tokens 3 --strategy beam --beams 2",
    "eval --model model --data a.txt",
    "eval --model model --data a.txt --stride 4",
    "eval --model model --task cloze --data a.jsonl",
    "eval --model model --task choose --data choices.jsonl",
    "eval --model model --ids ids.json --logits logits.safetensors",
];

fn place(scale: f32) -> Place {
    let place = Place::new();
    tiny_model(&place.path("model"), scale);
    place.write("a.txt", "some words to read\n".repeat(8));
    place.write("a.jsonl", "{\"text\": \"a b\"}\n");
    place.write("choices.jsonl", "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"label\": 0}\n");
    place.write("ids.json", "[[1, 2, 3]]");
    place.write("train.csv", "text,label\na,x\nb,y\na,x\nb,y\n");
    place
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let place = place(0.1);
    for value in [f32::NAN, f32::NEG_INFINITY] {
        damage(&place, "model", value);
        let others = [
            "export --model model --out exported",
            "export --model model --out exported --dtype f16",
            "train --init model --data a.txt --out run --steps 1 --batch 1",
            "finetune --model model --task classify --data train.csv --out classifier --max-length 8 --batch 2",
        ];
        for arguments in COMMANDS.iter().chain(&others) {
            let text = error(&place.wgpt(&format!("{arguments} --device cpu")), 1);
            assert!(text.contains("model.safetensors") && text.contains("no finite number"), "{arguments}: {text}");
        }
        assert!(!place.path("exported").exists() && !place.path("logits.safetensors").exists());
    }
}

#[test]
fn results_that_are_not_finite_are_refused_on_every_device() {
    // Finite weights whose products overflow.
    let place = place(1e37);
    for device in ["cpu", "auto"] {
        for arguments in COMMANDS {
            let output = place.wgpt(&format!("{arguments} --device {device}"));
            let text = error(&output, 1);
            assert!(text.contains("no finite number"), "{arguments}: {text}");
            assert!(!String::from_utf8_lossy(&output.stdout).contains("null"), "{arguments}");
        }
        assert!(!place.path("logits.safetensors").exists());
    }
}

#[test]
fn an_output_that_is_not_finite_is_an_error_that_names_it() {
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[4]));
    let y = g.apply(Add, &[x, x]);
    g.output("sum", y);
    let mut cpu = Cpu::default();
    let plan = Plan::new(&g, cpu.limits()).unwrap();
    let program = cpu.load(&g, plan).unwrap();
    cpu.write(program, "x", bytemuck::cast_slice(&[1.0f32, f32::MAX, 0.0, 1.0])).unwrap();
    cpu.run(program, 0, &Step::default()).unwrap();
    let text = cpu.read(program, "sum").unwrap_err().to_string();
    assert!(text.contains("sum") && text.contains("inf (number 1 of 4)"), "{text}");
    assert_eq!(cpu.read_any(program, "sum").unwrap()[1], f32::INFINITY);
    assert!(check_finite(&[f32::MAX, -0.0, f32::MIN_POSITIVE / 2.0], || unreachable!()).is_ok());
}

#[test]
fn training_that_diverges_fails_and_saves_no_model() {
    let place = place(0.1);
    let tiny =
        "--layers 1 --heads 2 --width 16 --context 16 --batch 2 --tokenizer bytes --eval-batches 1 --device cpu -q";
    for steps in [2, 4, 12] {
        let train = format!(
            "train {tiny} --data a.txt --val a.txt --steps {steps} --lr 1e30 --warmup 0 --eval-every 0 --out run{steps}"
        );
        let text = error(&place.wgpt(&train), 1);
        assert!(text.contains("finite") || text.contains("--lr"), "{steps}: {text}");
        assert!(!place.path(&format!("run{steps}/model.safetensors")).exists(), "{steps}");
        // What was recorded until then is in the log.
        let log = fs::read_to_string(place.path(&format!("run{steps}/log.jsonl"))).unwrap();
        assert!(log.lines().count() > 0, "{steps}");
    }
    let tune = "finetune --model model --task classify --data train.csv --val train.csv --max-length 8 --batch 2 --device cpu -q";
    let text = error(&place.wgpt(&format!("{tune} --epochs 2 --lr 1e30 --out classifier")), 1);
    assert!(text.contains("finite") || text.contains("--lr"), "{text}");
    assert!(!place.path("classifier/model.safetensors").exists());
}
