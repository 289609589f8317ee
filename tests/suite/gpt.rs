//! GPT (2018) against transformers: logits, loss, gradients, folders, and text from its cache. tests/fixtures/finetune.py
//! makes the folder and the numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::formats::folder::{NamedTensor, TensorFile, WeightType, Weights, read_config, write_folder};
use wgpt::formats::upload::upload;
use wgpt::generate::{Generator, SamplingParams};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::ops::IGNORED;
use wgpt::reference::Cpu;
use wgpt::train::graph::{Optimizer, TrainingGraph};

fn optimizer() -> Optimizer {
    Optimizer { beta2: 0.95, max_norm: 0.0, ..Optimizer::default() }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt_random")
}

/// The model without dropout, which its config.json asks for.
fn model() -> (Config, Weights) {
    let mut config = read_config(&folder()).unwrap();
    assert_eq!((config.family, config.dropout.residual), ("GPT", 0.1));
    let weights = Weights::open(&folder(), &config).unwrap();
    config.dropout = Default::default();
    (config, weights)
}

fn dump<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(name: &str) -> Vec<T> {
    let bytes = fs::read(folder().join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
}

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

#[test]
fn logits_loss_and_gradients_are_those_of_transformers() {
    let (config, weights) = model();
    let network = Network::new(config.clone());
    let ids: Vec<u32> = dump("ids");
    let targets: Vec<i32> = dump("targets");
    let targets: Vec<u32> = targets.into_iter().map(|id| if id < 0 { IGNORED } else { id as u32 }).collect();
    assert_eq!(targets.iter().filter(|id| **id == IGNORED).count(), 2);
    for (label, mut device) in devices() {
        let mut g = Graph::new();
        let input = g.input("ids", Shape::u32(&[3, 16]));
        let logits = network.inference().logits(&mut g, input);
        g.output("logits", logits);
        let networks = std::slice::from_ref(&network);
        let t = TrainingGraph::new(networks, Compute::default(), &optimizer(), |g, m| m[0].loss(g, 3, 16));
        let plan = Plan::new(&t.graph, device.limits()).unwrap();
        let train = device.load(&t.graph, plan).unwrap();
        let plan = Plan::new(&g, device.limits()).unwrap();
        let evaluate = device.load(&g, plan).unwrap();
        upload(device.as_mut(), &network, &weights).unwrap();
        for program in [evaluate, train] {
            device.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
        }
        device.write(train, "targets", bytemuck::cast_slice(&targets)).unwrap();
        device.run(evaluate, 0, &Step::default()).unwrap();
        device.run(train, 0, &Step::default()).unwrap();
        let (got, want) = (device.read(evaluate, "logits").unwrap(), dump::<f32>("logits"));
        // Sums of 32 to 128 f32 products in another order than f64's, through two blocks.
        check_close(&format!("{label}: logits"), &got, &want, 2e-5, 1e-5).unwrap();
        let got = device.read_state("step.loss_sum").unwrap();
        check_close(&format!("{label}: loss"), &got, &dump::<f32>("loss"), 0.0, 2e-6).unwrap();
        for (name, _) in config.parameters() {
            let got = device.read_state(&format!("{name}.grad")).unwrap();
            let want: Vec<f32> = dump(&format!("grad.{name}"));
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest > 1e-4, "{name} has a gradient");
            // Roundings of the largest terms; the keys' biases have none but those.
            check_close(&format!("{label}: gradient of {name}"), &got, &want, 1e-5 * largest, 2e-5).unwrap();
        }
    }
}

#[test]
fn a_folder_is_written_back_with_every_bit_and_its_own_names() {
    let config = read_config(&folder()).unwrap();
    let weights = Weights::open(&folder(), &config).unwrap();
    let values: Vec<_> =
        config.parameters().into_iter().map(|(n, d)| (n.clone(), d, weights.read(&n).unwrap())).collect();
    let tensors: Vec<NamedTensor> = values.iter().map(|(name, dims, v)| (name.clone(), dims.clone(), &v[..])).collect();
    let written = tempdir().unwrap();
    write_folder(written.path(), &config, &tensors, None, WeightType::F32).unwrap();
    let again = read_config(written.path()).unwrap();
    assert_eq!(again, config);
    let read_back = Weights::open(written.path(), &again).unwrap();
    for (name, _, values) in &values {
        assert_eq!(&read_back.read(name).unwrap(), values, "{name}");
    }
    let theirs = TensorFile::open(&folder().join("model.safetensors")).unwrap();
    let ours = TensorFile::open(&written.path().join("model.safetensors")).unwrap();
    let sorted = |file: &TensorFile| {
        let mut names = file.names();
        names.sort();
        names
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    let text = fs::read_to_string(written.path().join("config.json")).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&object["afn"], &object["model_type"]), (&json!("gelu"), &json!("openai-gpt")));
    assert_eq!(object["architectures"], json!(["OpenAIGPTLMHeadModel"]));
}

#[test]
fn the_preset_is_the_published_model() {
    let config = Config::preset("gpt").unwrap();
    // openai-gpt on the hub.
    assert_eq!(config.parameter_count(), 116_534_784);
    assert_eq!((config.context, config.dropout.attention), (512, 0.1));
    let bad = |text: &str| Config::from_json(text, Path::new("config.json")).unwrap_err().to_string();
    let sizes = r#""n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 8, "vocab_size": 9"#;
    assert!(bad(&format!(r#"{{"model_type": "openai-gpt", "afn": "relu", {sizes}}}"#)).contains("afn"));
    assert!(bad(r#"{"model_type": "openai-gpt"}"#).contains("n_embd"));
}

#[test]
fn text_from_the_cache_is_that_of_whole_passes() {
    let (config, weights) = model();
    let network = Network::new(config.clone());
    let prompt = [3u32, 17, 44, 8];
    for (label, mut device) in devices() {
        let mut generator = Generator::new(device.as_mut(), &network, &weights, config.vocab_size, 1).unwrap();
        let mut drawn = vec![];
        let mut take = |_: usize, token: wgpt::generate::Token| {
            drawn.push(token.id);
            Ok(true)
        };
        generator.sample(device.as_mut(), &prompt, 8, &SamplingParams::GREEDY, 0, &mut take).unwrap();
        let mut text = prompt.to_vec();
        for _ in 0..8 {
            let mut g = Graph::new();
            let input = g.input("ids", Shape::u32(&[1, text.len()]));
            let logits = network.inference().logits(&mut g, input);
            g.output("logits", logits);
            let mut cpu = Cpu::default();
            let plan = Plan::new(&g, cpu.limits()).unwrap();
            let program = cpu.load(&g, plan).unwrap();
            upload(&mut cpu, &network, &weights).unwrap();
            cpu.write(program, "ids", bytemuck::cast_slice(&text)).unwrap();
            cpu.run(program, 0, &Step::default()).unwrap();
            let all = cpu.read(program, "logits").unwrap();
            let last = &all[all.len() - config.vocab_size..];
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            text.push(best as u32);
        }
        assert_eq!(drawn, text[prompt.len()..], "{label}");
    }
}
