//! Transformer-XL against transformers 4.57.6, in two segments. tests/fixtures/transfo_xl_random.py makes the folders and the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::{fixture, open, write};
use crate::llama::{devices, largest, worst};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use wgpt::executor::{Executor, Program};
use wgpt::formats::folder::{TensorFile, WeightType};
use wgpt::formats::upload::upload;
use wgpt::generate::{Generator, Request, SamplingParams, Token};
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::train::graph::{Optimizer, TrainingGraph};

const SEGMENT: usize = 10;

fn folders() -> [(&'static str, PathBuf); 2] {
    ["memory", "same_length_half"].map(|name| (name, fixture("transfo_xl_random").join(name)))
}

/// A tensor of what transformers computed.
fn expected(folder: &Path, name: &str) -> Vec<f32> {
    TensorFile::open(&folder.join("expected.safetensors")).unwrap().read(name).unwrap().into_owned()
}

/// Ids and targets of a segment of the text, (2, 10) each.
fn segment(folder: &Path, number: usize) -> [Vec<u32>; 2] {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let text: Vec<u32> = bytemuck::pod_collect_to_vec(tensors.tensor("text").unwrap().data());
    [0, 1].map(|ahead| {
        let row = |row: &[u32]| row[number * SEGMENT + ahead..][..SEGMENT].to_vec();
        text.chunks(2 * SEGMENT + 1).flat_map(row).collect()
    })
}

fn forget(device: &mut dyn Executor, config: &Config, is_training: bool) {
    for (name, dims) in config.memories(2, is_training) {
        device.write_state(&name, &vec![0.0; dims.iter().product()]).unwrap();
    }
}

fn run(device: &mut dyn Executor, program: Program, folder: &Path, number: usize) {
    let [ids, targets] = segment(folder, number);
    device.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
    device.write(program, "targets", bytemuck::cast_slice(&targets)).unwrap();
    device.run(program, 0, &Step { micro_batch: number as u32, ..Step::default() }).unwrap();
}

#[test]
fn log_probabilities_with_and_without_memory_are_those_of_transformers() {
    for (name, folder) in folders() {
        let (config, weights) = open(&folder);
        for (label, mut device) in devices() {
            let network = Network::new(config.clone());
            let mut g = Graph::new();
            let ids = g.input("ids", Shape::u32(&[2, SEGMENT]));
            let targets = g.input("targets", Shape::u32(&[2, SEGMENT]));
            let model = network.inference();
            let x = model.segment(&mut g, ids, 1);
            let logits = model.head(&mut g, x);
            g.output("logits", logits);
            let log_probs = model.token_log_probs(&mut g, x, targets);
            g.output("log_probs", log_probs);
            let plan = Plan::new(&g, device.limits()).unwrap();
            let program = device.load(&g, plan).unwrap();
            upload(device.as_mut(), &network, &weights).unwrap();
            forget(device.as_mut(), &config, false);
            for number in 0..2 {
                run(device.as_mut(), program, &folder, number);
                let logits = device.read(program, "logits").unwrap();
                let log_softmax = |row: &[f32]| {
                    let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                    row.iter().map(|x| (f64::from(*x) - total.ln()) as f32).collect::<Vec<_>>()
                };
                let got: Vec<f32> = logits.chunks(config.vocab_size).flat_map(log_softmax).collect();
                let want = expected(&folder, &format!("log_probs.{number}"));
                let error = worst(&got, &want) / largest(&want);
                println!("{name} with {label}, segment {number}: {error:.1e} of the largest off");
                // f32 sums in another order, through up to three blocks. transformers keeps the frequencies of positions in the file,
                // so that those of a folder in f16 are up to 4e-4 off there.
                let most = if name == "memory" { 1e-5 } else { 4e-4 };
                assert!(error <= most, "{name} with {label}, segment {number}: {error} of the largest off");
                // Those of the targets, which losses are made of.
                let [_, targets] = segment(&folder, number);
                let rows = want.chunks(config.vocab_size).zip(&targets);
                let of_targets: Vec<f32> = rows.map(|(row, target)| row[*target as usize]).collect();
                let error = worst(&device.read(program, "log_probs").unwrap(), &of_targets) / largest(&want);
                assert!(error <= most, "{name} with {label}, targets of segment {number}: {error} of the largest off");
            }
        }
    }
}

#[test]
fn greedy_texts_of_two_rows_are_those_of_transformers() {
    for (name, folder) in folders() {
        let (config, weights) = open(&folder);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ids = |name: &str| bytemuck::pod_collect_to_vec::<u8, u32>(tensors.tensor(name).unwrap().data());
        let (text, want) = (ids("text"), ids("greedy"));
        let (length, count) = (text.len() / 2, want.len() / 2);
        for (label, mut device) in devices() {
            let network = Network::new(config.clone());
            let mut generator = Generator::new(device.as_mut(), &network, &weights, config.vocab_size, 2).unwrap();
            // A row that had another text before.
            let request = |row: usize, tokens, until| Request {
                prompt: text[row * length..][..until].to_vec(),
                tokens,
                seed: 0,
                params: SamplingParams::GREEDY,
                best: 0,
            };
            let requests = [request(1, 3, 9), request(0, count, 20), request(1, count, 5)];
            let mut got = vec![vec![]; 3];
            let mut take = |n: usize, token: Token| {
                got[n].push(token.id);
                Ok(true)
            };
            generator.generate(device.as_mut(), &mut requests.into_iter(), &mut take).unwrap();
            assert_eq!([&got[1][..], &got[2][..]], [&want[..count], &want[count..]], "{name} on {label}");
            generator.free(device.as_mut());
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_transformers_whether_blocks_are_computed_again_or_not() {
    let (_, folder) = &folders()[0];
    let (config, weights) = open(folder);
    let optimizer = Optimizer { accumulate: 2, ..Optimizer::default() };
    let network = Network::new(config.clone());
    let networks = std::slice::from_ref(&network);
    for (label, mut device) in devices() {
        for recompute in [false, true] {
            let training =
                TrainingGraph::new(networks, Compute { recompute, ..Compute::default() }, &optimizer, |g, m| {
                    let loss = m[0].segment_loss(g, (2, SEGMENT), 1);
                    g.output("loss", loss);
                    loss
                });
            let plan = Plan::new(&training.graph, device.limits()).unwrap();
            let program = device.load(&training.graph, plan).unwrap();
            upload(device.as_mut(), &network, &weights).unwrap();
            forget(device.as_mut(), &config, true);
            let gradients = |(name, dims): (String, Vec<usize>)| (format!("{name}.grad"), dims);
            for (name, dims) in config.parameters().into_iter().map(gradients) {
                device.write_state(&name, &vec![0.0; dims.iter().product()]).unwrap();
            }
            let mut loss = 0.0;
            for number in 0..2 {
                run(device.as_mut(), program, folder, number);
                loss += device.read(program, "loss").unwrap()[0] / 2.0;
            }
            let want = expected(folder, "loss")[0];
            assert!((loss - want).abs() <= 1e-5 * want, "{label}: loss {loss}, not {want}");
            for (name, _) in config.parameters() {
                let got = device.read_state(&format!("{name}.grad")).unwrap();
                let prefix = if name.starts_with("crit.") { "" } else { "transformer." };
                let want = expected(folder, &format!("grad.{prefix}{name}"));
                let error = worst(&got, &want) / largest(&want);
                // f32 sums over 40 tokens, through two blocks and back.
                assert!(error <= 2e-5, "{label}: {name} is {error} of its largest gradient off");
            }
            device.unload(program);
        }
    }
}

#[test]
fn folders_are_written_back_and_what_is_not_implemented_is_refused_by_name() {
    for (name, folder) in folders() {
        let (config, weights) = open(&folder);
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F32);
        let (again, read_back) = open(written.path());
        assert_eq!(again, config, "{name}");
        let names = |folder: &Path| {
            let mut names = TensorFile::open(&folder.join("model.safetensors")).unwrap().names();
            // Constants that transformers saves and computes again.
            names.retain(|name| !name.ends_with(".inv_freq"));
            names.sort();
            names
        };
        assert_eq!(names(written.path()), names(&folder), "{name}");
        for tensor in weights.names() {
            assert_eq!(weights.read(tensor).unwrap(), read_back.read(tensor).unwrap(), "{name}: {tensor}");
        }
    }
    let text = std::fs::read_to_string(folders()[0].1.join("config.json")).unwrap();
    for (key, value, words) in [
        ("cutoffs", json!([10, 20]), "the adaptive softmax is not implemented"),
        ("cutoffs", Value::Null, "the adaptive softmax is not implemented"),
        ("div_val", json!(4), "div_val is 4"),
        ("d_embed", json!(16), "d_embed is 16"),
        ("untie_r", json!(false), "untie_r"),
        ("pre_lnorm", json!(true), "pre_lnorm"),
        ("mem_len", json!(-1), "mem_len"),
        ("clamp_len", json!("far"), "clamp_len"),
    ] {
        let mut changed: Value = serde_json::from_str(&text).unwrap();
        changed[key] = value;
        let why = Config::from_json(&changed.to_string(), Path::new("config.json")).unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
    }
    let table = [("transfo-xl-mini", 232_448.0), ("transfo-xl-wt103", 519_997_911.0)];
    for (name, parameters) in table {
        let count = Config::preset(name).unwrap().parameter_count() as f64;
        assert!((count / parameters - 1.0).abs() < 1e-3, "{name} has {count} parameters");
    }
}

#[test]
fn a_run_in_segments_is_evaluated_with_memories_of_any_length() {
    let place = Place::new();
    place.write("a.txt", "the cat sat on the mat and the dog ran. ".repeat(40));
    let train = "train --preset transfo-xl-mini --layers 1 --heads 2 --width 16 --context 8 --batch 2 --accumulate 2 --steps 4 \
                 --sample-every 3 --eval-every 2 --eval-batches 3 --data a.txt --out run --device cpu";
    let output = place.wgpt(train);
    assert!(output.status.success(), "{}", stderr(&output));
    let eval = |more: &str| -> Value {
        let output = place.wgpt(&format!("eval --model run --data a.txt --batch 3 --device cpu {more}"));
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let [none, some, many] = ["--memory 0", "", "--memory 24 --window 5"].map(eval);
    assert_eq!((&none["memory"], &some["memory"], &many["memory"]), (&json!(0), &json!(64), &json!(24)));
    assert_eq!((&none["tokens"], &many["context"]), (&json!(1592), &json!(5)));
    assert_ne!(none["loss"], some["loss"], "a memory makes a difference");
    assert_eq!(many["loss_by_position"].as_array().unwrap().len(), 5);
    // Texts go on beyond the length of a segment; beams have memories, too.
    for (how, count) in [("--count 2 --seed 5", 2), ("--strategy beam --beams 3", 1)] {
        let output = place.wgpt(&format!("sample --model run --prompt cat --tokens 30 --device cpu --json {how}"));
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), count, "{how}");
    }
    for (arguments, words) in [
        ("export --model run --web page", "run in a page"),
        ("eval --model run --data a.txt --stride 4", "--stride"),
        ("eval --data a.txt --memory 4", "--memory"),
        ("finetune --task classify --model run --data a.csv --out tuned", "memory of hidden states"),
        ("train --preset transfo-xl-mini --data a.txt --out other --batch-warmup 3 --accumulate 2", "--batch-warmup"),
    ] {
        place.write("a.csv", "text,label\na,x\nd,y\na,x\nd,y\n");
        has(&error(&place.wgpt(&format!("{arguments} --device cpu -q")), 2), &[words]);
    }
}
