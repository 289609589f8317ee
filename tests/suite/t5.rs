//! T5 against transformers: logits, losses, gradients, greedy texts and beams, folders both ways. tests/fixtures/t5_random.py makes the
//! folders and the numbers.

use std::path::PathBuf;

use tempfile::tempdir;
use wgpt::checks::check_close;
use wgpt::data::source::Source;
use wgpt::data::span_corruption::Sentinels;
use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes};
use wgpt::evaluate::texts::TextScores;
use wgpt::executor::Executor;
use wgpt::formats::folder::{TensorFile, WeightType, Weights};
use wgpt::formats::upload::upload;
use wgpt::generate::beam::{BeamOptions, EarlyStopping};
use wgpt::generate::{Generator, Request, SamplingParams};
use wgpt::graph::{Graph, Plan, Shape, Step, Tensor};
use wgpt::models::blocks::{Compute, Model};
use wgpt::models::config::{Config, Dropout};
use wgpt::models::network::Network;
use wgpt::train::graph::{Optimizer, TrainingGraph};

use crate::cli::{Place, error, has};
use crate::hugging_face::{dump, fixture, open, write};
use crate::llama::devices;

const BATCH: usize = 3;
const INPUT: usize = 14;
const OUTPUT: usize = 9;

fn folder(name: &str) -> PathBuf {
    fixture("t5_random").join(name)
}

fn case(name: &str) -> (Config, Weights) {
    let (config, weights) = open(&folder(name));
    (Config { dropout: Dropout::default(), ..config }, weights)
}

fn words(name: &str, tensor: &str) -> Vec<u32> {
    dump::<i32>(&folder(name), tensor).0.into_iter().map(|id| id as u32).collect()
}

/// Hidden states of the decoder.
fn states(g: &mut Graph, model: &Model) -> Tensor {
    let ids = g.input("ids", Shape::u32(&[BATCH, INPUT]));
    let lengths = g.input("lengths", Shape::u32(&[BATCH]));
    let encoded = model.source(g, ids, Some(lengths));
    let outputs = g.input("outputs", Shape::u32(&[BATCH, OUTPUT]));
    model.hidden_after(g, outputs, encoded, Some(lengths))
}

/// Runs a program on the inputs that transformers had.
fn run(device: &mut dyn Executor, program: wgpt::executor::Program, name: &str) {
    for input in ["ids", "lengths", "outputs"] {
        device.write(program, input, bytemuck::cast_slice(&words(name, input))).unwrap();
    }
    device.run(program, 0, &Step::default()).unwrap();
}

/// Sums of 12 to 24 products of numbers around 1 in f32, through up to four blocks.
const ATOL: f32 = 1e-4;

#[test]
fn logits_of_padded_rows_are_those_of_transformers() {
    for name in ["plain", "gated", "unscaled", "half", "sharded"] {
        let (config, weights) = case(name);
        assert_eq!(config.tied, name != "gated", "{name}");
        for (label, mut device) in devices() {
            let network = Network::new(config.clone());
            let mut g = Graph::new();
            network.declare(&mut g);
            let model = network.inference();
            let x = states(&mut g, &model);
            let logits = model.head(&mut g, x);
            g.output("logits", logits);
            let program = device.load(&g, Plan::new(&g, device.limits()).unwrap()).unwrap();
            upload(device.as_mut(), &network, &weights).unwrap();
            run(device.as_mut(), program, name);
            let got = device.read(program, "logits").unwrap();
            let want = dump::<f32>(&folder(name), "logits").0;
            check_close(&format!("{name}, {label}"), &got, &want, ATOL, 1e-5).unwrap();
        }
    }
}

#[test]
fn losses_and_their_gradients_are_those_of_transformers() {
    let optimizer = Optimizer { max_norm: 0.0, ..Optimizer::default() };
    for name in ["plain", "gated"] {
        let (config, weights) = case(name);
        let networks = [Network::new(config.clone())];
        for (label, mut device) in devices() {
            let build = |g: &mut Graph, models: &[Model]| {
                let x = states(g, &models[0]);
                let targets = g.input("targets", Shape::u32(&[BATCH, OUTPUT]));
                wgpt::train::graph::Loss::from(models[0].token_loss(g, x, targets, 1.0))
            };
            let t = TrainingGraph::new(&networks, Compute::default(), &optimizer, build);
            let program = device.load(&t.graph, Plan::new(&t.graph, device.limits()).unwrap()).unwrap();
            upload(device.as_mut(), &networks[0], &weights).unwrap();
            let counted = |id: u32| if id == -100i32 as u32 { wgpt::ops::IGNORED } else { id };
            let ignored: Vec<u32> = words(name, "targets").into_iter().map(counted).collect();
            device.write(program, "targets", bytemuck::cast_slice(&ignored)).unwrap();
            run(device.as_mut(), program, name);
            let got = device.read_state("step.loss_sum").unwrap();
            let loss = dump::<f32>(&folder(name), "loss").0;
            check_close(&format!("{name}, {label}: loss"), &got, &loss, 0.0, 1e-5).unwrap();
            for (parameter, dims) in config.parameters() {
                let got = device.read_state(&format!("{parameter}.grad")).unwrap();
                let parts = config.parts(&parameter, &dims);
                let want: Vec<f32> =
                    parts.iter().flat_map(|(part, _)| dump::<f32>(&folder(name), &format!("grad.{part}")).0).collect();
                let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                // Roundings of the largest terms.
                let what = format!("{name}, {label}: gradient of {parameter}");
                check_close(&what, &got, &want, 1e-4 * largest + 1e-7, 1e-4).unwrap();
            }
        }
    }
}

#[test]
fn greedy_texts_and_beams_are_those_of_transformers_also_in_one_batch() {
    for name in ["plain", "gated"] {
        let (config, weights) = case(name);
        let network = Network::new(config.clone());
        let (ids, lengths) = (words(name, "ids"), words(name, "lengths"));
        let prompt = |row: usize| ids[row * INPUT..][..lengths[row] as usize].to_vec();
        for (label, mut device) in devices() {
            let mut generator = Generator::new(device.as_mut(), &network, &weights, config.vocab_size, BATCH).unwrap();
            let mut texts = vec![vec![]; BATCH];
            let params = SamplingParams::GREEDY;
            let request = |row| Request { prompt: prompt(row), tokens: 12, seed: 0, params, best: 0 };
            let mut take = |row: usize, token: wgpt::generate::Token| {
                texts[row].push(token.id);
                Ok(!config.eos_token_id.contains(&token.id))
            };
            let mut requests = (0..BATCH).map(request);
            generator.generate(device.as_mut(), &mut requests, &mut take).unwrap();
            let options = BeamOptions {
                beams: BATCH,
                length_penalty: 1.0,
                early_stopping: EarlyStopping::No,
                repetition_penalty: 1.0,
                stop_tokens: &config.eos_token_id,
                stops: None,
                num_return: 1,
            };
            for (row, text) in texts.iter().enumerate() {
                assert_eq!(*text, words(name, &format!("greedy.{row}")), "{name}, {label}, row {row}");
                let best = generator.beams(device.as_mut(), &prompt(row), 12, &options).unwrap();
                assert_eq!(best[0].ids, words(name, &format!("beams.{row}")), "{name}, {label}, beams of row {row}");
            }
        }
    }
}

#[test]
fn folders_are_written_back_with_every_bit_and_their_own_names() {
    for name in ["plain", "gated", "unscaled"] {
        let (config, weights) = open(&folder(name));
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F32);
        let (again, read_back) = open(written.path());
        assert_eq!(again, config, "{name}");
        for tensor in weights.names() {
            assert_eq!(weights.read(tensor).unwrap(), read_back.read(tensor).unwrap(), "{name}: {tensor}");
        }
        let names = |folder: PathBuf| {
            let mut names = TensorFile::open(&folder.join("model.safetensors")).unwrap().names();
            names.sort();
            names
        };
        assert_eq!(names(written.path().into()), names(folder(name)), "{name}");
    }
}

/// The sizes that the paper gives, section 3.7 and 3.1.2: 60 and 220 million parameters.
#[test]
fn the_presets_have_the_papers_sizes() {
    for (name, parameters) in [("t5-small", 60.5e6), ("t5-base", 222.9e6)] {
        let counted = Config::preset(name).unwrap().parameter_count() as f64;
        assert!((counted / parameters - 1.0).abs() < 2e-3, "{name}: {counted}");
    }
}

#[test]
fn a_tokenizer_without_an_end_of_texts_is_refused() {
    let place = Place::new();
    let source = folder("plain");
    for file in ["config.json", "model.safetensors"] {
        place.write(&format!("t5/{file}"), std::fs::read(source.join(file)).unwrap());
    }
    let words = serde_json::json!({"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"});
    let none: [u8; 0] = [];
    let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": none, "model": words});
    place.write("t5/tokenizer.json", tokenizer.to_string());
    place.write("rows.jsonl", "{\"input\": \"a\", \"target\": \"b\"}\n");
    let output = place.wgpt("finetune --task text --model t5 --data rows.jsonl --out x --device cpu");
    has(&error(&output, 2), &["</s>", "--task text"]);
}

/// The packages' own figures; tests/fixtures/texts.py makes them.
#[test]
fn figures_of_texts_are_those_of_sacrebleu_and_rouge_score() {
    let groups: serde_json::Value = serde_json::from_slice(&std::fs::read(fixture("texts.json")).unwrap()).unwrap();
    for group in groups.as_array().unwrap() {
        let pairs: Vec<[String; 2]> = serde_json::from_value(group["pairs"].clone()).unwrap();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|[got, want]| (got.as_str(), want.as_str())).collect();
        let scores = TextScores::of(&pairs).unwrap();
        for (name, got) in [("rouge_l", scores.rouge_l), ("bleu", scores.bleu), ("chrf", scores.chrf)] {
            let want = group[name].as_f64().unwrap();
            // f64, summed in another order.
            assert!((got - want).abs() < 1e-9, "{name} of {}: {got}, not {want}", group["name"]);
        }
    }
    assert_eq!(TextScores::of(&[(" yes", "yes"), ("no", "yes")]).unwrap().exact, 50.0);
    assert_eq!(TextScores::of(&[]), None);
}

#[test]
fn a_unigram_tokenizer_has_t5s_tokens_and_is_the_same_however_often_it_is_made() {
    let text = "The fox sees the dog. The dog sees the cat, and the cat sees the fox in the box.\n".repeat(20);
    let recipe =
        Recipe { kind: Kind::Unigram { sentinels: 8 }, vocabulary_size: 60, min_frequency: 2, special: vec![] };
    let made = || {
        let source = Source::from_text("a text", text.clone());
        recipe.train(&source, Sizes::default(), &mut |_| ()).unwrap().tokenizer
    };
    let tokenizer = made();
    assert_eq!(made().json(), tokenizer.json());
    let (size, id) = (tokenizer.vocabulary_size() as u32, |token: &str| tokenizer.token_id(token));
    assert!(size <= 60, "{size}");
    assert_eq!(["<pad>", "</s>", "<unk>"].map(id), [Some(0), Some(1), Some(2)]);
    assert_eq!([id("<extra_id_0>"), id("<extra_id_7>")], [Some(size - 1), Some(size - 8)]);
    // Words that begin no other word are whole pieces.
    assert!(["\u{2581}dog", "\u{2581}sees", "\u{2581}box."].map(id).iter().all(Option::is_some), "{size}");
    let ids = tokenizer.encode_prompt("the fox <extra_id_0> the cat").unwrap();
    assert_eq!(ids.last(), Some(&1));
    assert!(ids.contains(&(size - 1)), "{ids:?}");
    assert_eq!(tokenizer.decode(&tokenizer.encode("the dog sees the fox").unwrap()).unwrap(), "the dog sees the fox");
    assert_eq!(Sentinels::needed(&tokenizer, "it", 8).unwrap().ids, (0..8).map(|n| size - 1 - n).collect::<Vec<_>>());
    assert!(Sentinels::needed(&tokenizer, "it", 9).is_err());
}
