//! Quantised base models: products that expand f16, q8_0 and q4_0 as they read, against the same model with the expanded weights.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::{logits, open};
use crate::llama::{devices, largest, worst};
use std::path::Path;
use tempfile::{TempDir, tempdir};
use wgpt::data::dialogues::Encoded;
use wgpt::executor::Executor;
use wgpt::formats::folder::{WeightType, Weights, write_folder};
use wgpt::generate::{Generator, SamplingParams};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::quantisation::{Quantisation, Quantised, QuantisedAs};
use wgpt::graph::{AdapterKind, Parameter};
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::lora::Lora;
use wgpt::models::network::Network;
use wgpt::models::presets::PRESETS;
use wgpt::objectives::sft::{RECIPE, Rows, Sft};
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::{Choices, Precision, Settings};
use wgpt::train::trainer::Trainer;

const QUANTISATIONS: [Quantisation; 3] = [Quantisation::F16, Quantisation::Q8_0, Quantisation::Q4_0];

/// A model whose matrices have whole blocks.
fn config(preset: &str) -> Config {
    let preset = PRESETS.iter().find(|known| known.name == preset).unwrap();
    Config { vocab_size: 61, context: 32, inner: 96, initializer_range: 0.1, ..(preset.config)().resized(2, 4, 64) }
}

fn with_quantisation(config: &Config, quantisation: Quantisation) -> Config {
    Config { quantisation: Some(quantisation), ..config.clone() }
}

/// The values of a matrix once they were quantised.
fn expanded(quantised: QuantisedAs, values: &[f32], dims: &[usize]) -> Vec<f32> {
    let Quantised { words, scales } = quantised.quantise(values, dims);
    let expanded = quantised.quantisation.dequantise(&words, &scales);
    let (rows, columns) = quantised.sizes(dims);
    if !quantised.transposed {
        return expanded;
    }
    (0..rows * columns).map(|i| expanded[i % rows * columns + i / rows]).collect()
}

/// A folder with the model's initial values, expanded where `quantisation` quantises them.
fn folder(config: &Config, quantisation: Option<Quantisation>) -> TempDir {
    let folder = tempdir().unwrap();
    let network = Network::new(Config { quantisation, ..config.clone() });
    let value = |p: &Parameter| {
        let values = initial_values(&Parameter { quantised: None, ..p.clone() }, 7);
        p.quantised.map_or(values.clone(), |quantised| expanded(quantised, &values, &p.dims))
    };
    let values: Vec<_> = network.parameters().iter().map(|p| (p, value(p))).collect();
    let tensors: Vec<_> = values.iter().map(|(p, v)| (p.name.clone(), p.dims.clone(), v.as_slice())).collect();
    write_folder(folder.path(), config, &tensors, None, WeightType::F32).unwrap();
    folder
}

#[test]
fn logits_and_texts_of_a_quantised_model_are_those_of_its_expanded_weights() {
    for preset in ["llama-mini", "demo"] {
        let config = config(preset);
        let (_, weights) = open_folder(folder(&config, None));
        let ids: Vec<u32> = (0..36).map(|i| (i * 7 + i * i) % 61).collect();
        let plain = logits(&mut Cpu::default(), &config, &weights, &ids, [2, 18]);
        // Kernels have cases of their own; here the graphs of both ways to store a matrix count.
        let quantisations = if preset == "demo" { &QUANTISATIONS[2..] } else { &QUANTISATIONS[..] };
        for &quantisation in quantisations {
            let quantised = with_quantisation(&config, quantisation);
            let matrices =
                Network::new(quantised.clone()).parameters().iter().filter(|p| p.quantised.is_some()).count();
            assert_eq!(matrices, 8, "all of two layers");
            let (_, expanded) = open_folder(folder(&config, Some(quantisation)));
            let want = logits(&mut Cpu::default(), &config, &expanded, &ids, [2, 18]);
            assert!(worst(&want, &plain) > 1e-5 * largest(&plain), "{quantisation:?} rounds");
            for (label, mut device) in
                devices().into_iter().take(if quantisation == Quantisation::Q4_0 { 3 } else { 1 })
            {
                let got = logits(device.as_mut(), &quantised, &weights, &ids, [2, 18]);
                let error = worst(&got, &want) / largest(&want);
                println!("{preset} {quantisation:?} with {label}: {error:.1e} of the largest logit off");
                // f32 sums in another order, through two blocks.
                assert!(error <= 5e-6, "{preset} {quantisation:?} with {label}: {error} of the largest logit off");
            }
            // Token by token, through the kernels of few rows.
            let text = |kind, config: &Config, weights: &Weights| {
                let mut device = Gpu::with(choose("auto").unwrap(), Some(kind), true).unwrap();
                let mut generator = Generator::new(&mut device, &Network::new(config.clone()), weights, 61, 1).unwrap();
                let mut ids = vec![];
                generator
                    .sample(&mut device, &[1, 2, 3], 12, &SamplingParams::GREEDY, 0, &mut |_, token| {
                        ids.push(token.id);
                        Ok(true)
                    })
                    .unwrap();
                ids
            };
            let kind = if preset == "demo" { AdapterKind::Software } else { AdapterKind::Gpu };
            assert_eq!(text(kind, &quantised, &weights), text(kind, &config, &expanded), "{preset} {quantisation:?}");
        }
    }
}

/// Opens a folder, which may go: files are mapped.
fn open_folder(folder: TempDir) -> (Config, Weights) {
    open(folder.path())
}

fn examples() -> Vec<Encoded> {
    let row = |i: u32| Encoded {
        ids: (0..6 + i).map(|n| (n * n + 5 * i) % 61).collect(),
        learned: (0..6 + i).map(|n| n > 2).collect(),
        parted: false,
    };
    (0..4).map(row).collect()
}

fn settings(precision: Precision) -> Settings {
    let choices = Choices {
        batch: Some(2),
        accumulate: Some(2),
        steps: Some(3),
        lr: Some(1e-2),
        precision: Some(precision),
        ..Choices::default()
    };
    choices.resolve(&RECIPE, |_| 2).unwrap()
}

fn adapted(config: &Config, quantisation: Option<Quantisation>) -> Config {
    let targets = vec!["all-linear".to_string()];
    let lora = Lora { rank: 2, alpha: 4.0, dropout: 0.0, targets, rank_stabilised: false, saved: vec![], base: None };
    Config { lora: Some(lora.check(config).unwrap()), quantisation, ..config.clone() }
}

/// Losses of three steps, and the adapters after them.
fn trained(
    device: Box<dyn Executor>,
    config: Config,
    weights: &Weights,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>, u64) {
    let settings = settings(precision);
    let objective = Box::new(Sft::new(config, &settings, (Rows::new(examples(), None), Rows::new(vec![], None))));
    let blueprint = Blueprint::new(objective.as_ref(), &settings, device.limits()).unwrap();
    let memory = blueprint.memory_bytes();
    let mut trainer = Trainer::new(device, blueprint, objective, settings).unwrap();
    trainer.initialise(Some(weights)).unwrap();
    let mut records = vec![];
    while trainer.steps_done() < 3 {
        records.extend(trainer.step().unwrap());
    }
    records.extend(trainer.finish().unwrap());
    let states = trainer.saved_states();
    let adapters = trainer.read(states).unwrap().into_iter().flat_map(|(_, _, values)| values).collect();
    (records.iter().map(|r| r.loss).collect(), adapters, memory)
}

#[test]
fn adapters_train_on_a_quantised_base_as_on_its_expanded_weights() {
    for preset in ["llama-mini", "demo"] {
        let config = config(preset);
        let (_, weights) = open_folder(folder(&config, None));
        for quantisation in QUANTISATIONS {
            let (_, expanded) = open_folder(folder(&config, Some(quantisation)));
            let cpu = || Box::new(Cpu::default()) as Box<dyn Executor>;
            let (want, adapters, whole) = trained(cpu(), adapted(&config, None), &expanded, Precision::F32);
            assert!(want[2] < want[0], "{want:?}");
            let on_all = preset == "llama-mini" && quantisation == Quantisation::Q8_0;
            for (label, device) in devices().into_iter().take(if on_all { 3 } else { 1 }) {
                let (got, of_quantised, memory) =
                    trained(device, adapted(&config, Some(quantisation)), &weights, Precision::F32);
                println!(
                    "{preset} {quantisation:?} with {label}: losses {got:?} and {want:?}; {memory} of {whole} bytes"
                );
                assert!(
                    got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * w),
                    "{label}: {got:?}, not {want:?}"
                );
                // AdamW divides a gradient by its own size: the smallest are rounding.
                assert!(
                    worst(&of_quantised, &adapters) <= 2e-3 * largest(&adapters),
                    "{preset} {quantisation:?} with {label}"
                );
                assert!(memory < whole, "{memory} bytes, not less than {whole}");
            }
            let (got, ..) = trained(cpu(), adapted(&config, Some(quantisation)), &weights, Precision::Mixed);
            // f16 keeps eleven bits of each activation.
            assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 2e-2 * w), "mixed: {got:?}, not {want:?}");
        }
    }
}

#[test]
fn a_quantised_base_from_the_command_line() {
    let place = Place::new();
    place.write("text.txt", "abcabcabc abc\n".repeat(200));
    let train = "train --data text.txt --tokenizer bytes --layers 1 --heads 2 --width 32 --context 32 --steps 2 --batch 2 --device cpu --out base";
    assert!(place.wgpt(train).status.success());
    let line = |i: usize| format!("{{\"prompt\": \"{}\", \"completion\": \"x\"}}\n", "ab".repeat(1 + i % 4));
    place.write("examples.jsonl", (0..12).map(line).collect::<String>());
    let run = |more: &str| {
        let out = place.wgpt(&format!(
            "sft --model base --data examples.jsonl --batch 2 --lora 2 --schedule constant --device cpu {more}"
        ));
        assert!(out.status.success(), "{more}: {}", stderr(&out));
    };
    run("--base q4_0 --steps 4 --out whole");
    run("--base q4_0 --steps 2 --out halves");
    assert!(place.wgpt("sft --out halves --resume --steps 4 --device cpu").status.success());
    run("--steps 4 --out plain");
    let adapters = |folder: &str| std::fs::read(place.path(folder).join("adapter_model.safetensors")).unwrap();
    assert!(adapters("whole") == adapters("halves"), "resumed on the same quantised base");
    assert!(adapters("whole") != adapters("plain"), "q4_0 rounds");
    let loss = |more: &str| {
        let out = place.wgpt(&format!("eval --adapter whole --data text.txt --device cpu {more}"));
        let value: serde_json::Value =
            serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", stderr(&out)));
        value["loss"].as_f64().unwrap()
    };
    let (plain, quantised) = (loss(""), loss("--base q4_0"));
    assert!(plain != quantised && (plain - quantised).abs() < 0.1, "{plain} and {quantised}");
    let out = place.wgpt("sample --model base --base q8_0 --prompt ab --tokens 3 --device cpu");
    assert!(out.status.success(), "{}", stderr(&out));
    let refused = place.wgpt("sft --model base --data examples.jsonl --base q8_0 --out none --device cpu");
    has(&error(&refused, 2), &["--base", "--lora"]);
    assert!(!Path::new(&place.path("none")).exists());
}
