//! Model folders as `transformers` writes them: values computed from them, files written back, and folders that are refused.
//! tests/fixtures/gpt2_random.py and gpt2_tokenizer.py make the folders and the numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;
use wgpt::checks::check_close;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Error;
use wgpt::executor::Executor;
use wgpt::formats::folder::{NamedTensor, TensorFile, WeightType, Weights, read_config, write_folder, write_weights};
use wgpt::formats::generation_config::{EarlyStopping, GenerationConfig};
use wgpt::formats::source::ModelSource;
use wgpt::formats::upload::upload;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::config::{Config, FeedForward};
use wgpt::models::network::Network;
use wgpt::ops::gelu::Form;
use wgpt::reference::Cpu;
use wgpt::train::graph::{Optimizer, TrainingGraph};

const CASES: [&str; 8] = [
    "head_size_4",
    "no_prefix",
    "untied",
    "inner_50_gelu",
    "half",
    "bfloat16_untied",
    "sharded",
    "sharded_half_untied",
];

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn case(name: &str) -> PathBuf {
    fixture("gpt2_random").join(name)
}

pub fn open(folder: &Path) -> (Config, Weights) {
    let config = read_config(folder).unwrap();
    let weights = Weights::open(folder, &config).unwrap();
    (config, weights)
}

/// Logits (B, T, V) of ids (B, T).
pub fn logits(
    device: &mut dyn Executor,
    config: &Config,
    weights: &Weights,
    ids: &[u32],
    shape: [usize; 2],
) -> Vec<f32> {
    let mut g = Graph::new();
    let input = g.input("ids", Shape::u32(&shape));
    let network = Network::new(config.clone());
    let logits = network.inference().logits(&mut g, input);
    g.output("logits", logits);
    let plan = Plan::new(&g, device.limits()).unwrap();
    let program = device.load(&g, plan).unwrap();
    upload(device, &network, weights).unwrap();
    device.write(program, "ids", bytemuck::cast_slice(ids)).unwrap();
    device.run(program, 0, &Step::default()).unwrap();
    device.read(program, "logits").unwrap()
}

/// A tensor of a dump as f32 or as i32, with its shape.
pub fn dump<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(folder: &Path, name: &str) -> (Vec<T>, Vec<usize>) {
    let bytes = fs::read(folder.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    (bytemuck::pod_collect_to_vec(tensor.data()), tensor.shape().to_vec())
}

#[test]
fn logits_of_every_folder_are_those_of_pytorch() {
    let open_device = |family: Option<AdapterKind>| -> Box<dyn Executor> {
        match family {
            None => Box::new(Cpu::default()),
            Some(family) => Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()),
        }
    };
    for name in CASES {
        let folder = case(name);
        let (config, weights) = open(&folder);
        let (ids, shape) = dump::<u32>(&folder, "ids");
        let (want, _) = dump::<f32>(&folder, "logits");
        let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for family in [None, Some(AdapterKind::Software), Some(AdapterKind::Gpu)] {
            let got = logits(open_device(family).as_mut(), &config, &weights, &ids, [shape[0], shape[1]]);
            assert_eq!(got.len(), want.len());
            let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
            // The worst seen is 9e-7: f32 sums in another order, through three blocks at most.
            assert!(
                worst <= 5e-6 * largest,
                "{name} with {family:?}: {worst} off, where the largest logit is {largest}"
            );
        }
    }
}

#[test]
fn a_tied_tables_gradient_is_the_sum_of_an_untied_models_two() {
    let (untied, weights) = open(&case("inner_50_gelu"));
    let (tied, untied) = (untied.clone(), Config { tied: false, ..untied });
    let optimizer = Optimizer { beta1: 0.9, beta2: 0.95, weight_decay: 0.1, max_norm: 0.0, ..Optimizer::default() };
    let ids: Vec<u32> = (0..24).map(|i| i * 37 % 257).collect();
    let gradients = |config: &Config, names: &[&str]| -> Vec<Vec<f32>> {
        let mut device = Gpu::open("auto").unwrap();
        let network = Network::new(config.clone());
        let networks = std::slice::from_ref(&network);
        let t = TrainingGraph::new(networks, Compute::default(), &optimizer, |g, m| m[0].loss(g, 2, 12));
        let plan = Plan::new(&t.graph, device.limits()).unwrap();
        let program = device.load(&t.graph, plan).unwrap();
        upload(&mut device, &network, &weights).unwrap();
        if !config.tied {
            device.write_state("lm_head.weight", &weights.read("wte.weight").unwrap()).unwrap();
        }
        device.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
        device.write(program, "targets", bytemuck::cast_slice(&[&ids[1..], &[3]].concat())).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        names.iter().map(|name| device.read_state(&format!("{name}.grad")).unwrap()).collect()
    };
    let both = &gradients(&tied, &["wte.weight"])[0];
    let parts = gradients(&untied, &["wte.weight", "lm_head.weight"]);
    assert!(parts.iter().all(|part| part.iter().any(|v| *v != 0.0)));
    let sum: Vec<f32> = parts[0].iter().zip(&parts[1]).map(|(a, b)| a + b).collect();
    // The same numbers, but for the order of the last addition.
    check_close("wte.weight.grad", both, &sum, 1e-6, 1e-5).unwrap();
}

/// Without the keys that are only handed on.
fn known(generation: GenerationConfig) -> GenerationConfig {
    GenerationConfig { others: Default::default(), ..generation }
}

#[test]
fn tensors_are_written_back_with_every_bit() {
    for name in CASES {
        let (config, weights) = open(&case(name));
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F32);
        let (again, read_back) = open(written.path());
        assert_eq!(again, config, "{name}");
        assert_eq!(known(GenerationConfig::read(written.path()).unwrap()), GenerationConfig::of(&config), "{name}");
        for (parameter, _) in config.parameters() {
            let (a, b) = (weights.read(&parameter).unwrap(), read_back.read(&parameter).unwrap());
            assert!(a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())), "{name}: {parameter}");
        }
        let names = TensorFile::open(&written.path().join("model.safetensors")).unwrap().names();
        assert_eq!(names.contains(&"lm_head.weight".to_string()), !config.tied, "{name}");
        assert!(names.iter().all(|n| n.starts_with("transformer.") || n == "lm_head.weight"), "{name}: {names:?}");
    }
}

#[test]
fn halves_are_rounded_to_the_nearest_and_values_beyond_f16_are_refused() {
    // A half has 10 bits of fraction; 2^-24 is its smallest number.
    let rounded = [
        (1.0 + 1.0 / 2048.0, 1.0),                        // a tie goes to the even neighbour below
        (1.0 + 3.0 / 2048.0, 1.0 + 2.0 / 1024.0),         // and above
        (1.0 + 1.001 / 2048.0, 1.0 + 1.0 / 1024.0),       // more than a tie
        (65519.0, 65504.0),                               // the largest number
        (f32::powi(2.0, -24) * 1.5, f32::powi(2.0, -23)), // subnormal tie, to the even one
        (f32::powi(2.0, -25), 0.0),                       // half of the smallest
        (-f32::powi(2.0, -26), -0.0),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
    ];
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let values: Vec<f32> = rounded.iter().map(|(value, _)| *value).collect();
    let tensors: [NamedTensor; 1] = [("a".into(), vec![values.len()], &values)];
    write_weights(&path, &tensors, &[], WeightType::F16).unwrap();
    let file = TensorFile::open(&path).unwrap();
    file.verify().unwrap();
    let read = file.read("a").unwrap();
    for ((value, expected), found) in rounded.iter().zip(read.iter()) {
        assert_eq!(found.to_bits(), expected.to_bits(), "{value} became {found}");
    }
    drop(file);
    let tensors: [NamedTensor; 1] = [("h.0.b".into(), vec![1], &[65520.0])];
    let message = one_line(write_weights(&path, &tensors, &[], WeightType::F16).unwrap_err());
    assert!(message.contains("h.0.b") && message.contains("65520") && message.contains("f32"), "{message}");
}

#[test]
fn a_half_folder_written_back_in_half_keeps_every_bit() {
    for name in ["half", "sharded_half_untied"] {
        let (config, weights) = open(&case(name));
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F16);
        let text = fs::read_to_string(written.path().join("config.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["dtype"], json!("float16"));
        let (_, read_back) = open(written.path());
        for (parameter, _) in config.parameters() {
            assert_eq!(weights.read(&parameter).unwrap(), read_back.read(&parameter).unwrap(), "{name}: {parameter}");
        }
    }
}

#[test]
fn pieces_make_up_the_tensor() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let values: Vec<f32> = (0..(1 << 20) + 5).map(|i| (i % 2039) as f32 - 1000.0).collect();
    for weights in [WeightType::F32, WeightType::F16] {
        let tensors: [NamedTensor; 2] =
            [("a".into(), vec![3], &values[..3]), ("b".into(), vec![values.len()], &values)];
        write_weights(&path, &tensors, &[], weights).unwrap();
        let file = TensorFile::open(&path).unwrap();
        for _ in 0..2 {
            // Twice: pages that were let go come back.
            let mut found = vec![f32::NAN; values.len()];
            let mut pieces = 0;
            file.read_pieces("b", |at, piece| {
                found[at..at + piece.len()].copy_from_slice(piece);
                pieces += 1;
                Ok(())
            })
            .unwrap();
            assert_eq!((pieces, &found), (2, &values), "{weights:?}");
        }
        assert_eq!(file.read("b").unwrap(), values);
    }
}

// --- config.json ----------------------------------------------------------------------------------------------------

#[test]
fn configs_from_the_wild_are_read() {
    let base =
        json!({"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 8, "vocab_size": 9});
    let parse = |extra: Value| {
        let mut object = base.clone();
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        Config::from_json(&object.to_string(), Path::new("config.json"))
    };
    let plain = parse(json!({})).unwrap();
    assert_eq!((plain.inner, plain.tied, plain.eos_token_id.len()), (64, true, 0));
    let one =
        parse(json!({"eos_token_id": 3, "n_ctx": 4, "unheard_of": {"a": [1]}, "torch_dtype": "bfloat16"})).unwrap();
    assert_eq!(one, Config { eos_token_id: vec![3], ..plain.clone() });
    let several = parse(json!({"eos_token_id": [3, 8], "bos_token_id": 1, "dtype": "float16"})).unwrap();
    assert_eq!(several, Config { eos_token_id: vec![3, 8], bos_token_id: Some(1), ..plain.clone() });
    let other = parse(json!({"n_inner": 50, "tie_word_embeddings": false, "reorder_and_upcast_attn": true})).unwrap();
    assert_eq!(other, Config { inner: 50, tied: false, ..plain.clone() });
    for (name, activation) in [
        ("gelu_new", FeedForward::Gelu(Form::Tanh)),
        ("gelu_fast", FeedForward::Gelu(Form::Tanh)),
        ("gelu_pytorch_tanh", FeedForward::Gelu(Form::Tanh)),
        ("gelu", FeedForward::Gelu(Form::Erf)),
    ] {
        assert_eq!(parse(json!({"activation_function": name})).unwrap().feed_forward, activation, "{name}");
    }
    let shared = json!({"model_type": "gpt2", "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16,
        "max_position_embeddings": 8, "vocab_size": 9});
    assert_eq!(Config::from_json(&shared.to_string(), Path::new("config.json")).unwrap(), plain);
    for (key, value) in [
        ("activation_function", json!("gelu_10")),
        ("activation_function", json!("quick_gelu")),
        ("architectures", json!(["GPT2LMHeadCustomModel"])),
        ("pruned_heads", json!({"0": [1]})),
        ("quantization_config", json!({"bits": 4})),
        ("is_encoder_decoder", json!(true)),
        ("n_inner", json!(0)),
        ("n_inner", json!("50")),
        ("tie_word_embeddings", json!("no")),
        ("initializer_range", json!(-1)),
    ] {
        let message = one_line(parse(json!({key: value})).unwrap_err());
        assert!(message.contains(key), "{key}: {message}");
    }
}

#[test]
fn an_untied_config_of_another_inner_width_survives_a_round_trip() {
    let mut config = Config::new(65, 32, 3, 4, 64);
    (config.tied, config.inner, config.initializer_range) = (false, 100, 0.07);
    (config.bos_token_id, config.eos_token_id) = (Some(1), vec![4, 5]);
    let text = config.to_json();
    assert_eq!(Config::from_json(&text, Path::new("config.json")).unwrap(), config);
    let listed: u64 = config.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
    assert_eq!(listed, config.parameter_count());
    assert_eq!(config.parameters().last().unwrap(), &("lm_head.weight".into(), vec![65, 64]));
}

// --- weights --------------------------------------------------------------------------------------------------------

#[test]
fn a_head_that_differs_is_refused_in_a_tied_model_and_missed_in_an_untied_one() {
    let folder = tempdir().unwrap();
    let (config, weights) = open(&case("untied"));
    write(folder.path(), &config, &weights, WeightType::F32);
    let tied = Config { tied: true, ..config.clone() };
    let message = one_line(Weights::open(folder.path(), &tied).unwrap_err());
    assert!(message.contains("lm_head.weight differs") && message.contains("tie_word_embeddings"), "{message}");
    let (config, weights) = open(&case("head_size_4"));
    write(folder.path(), &config, &weights, WeightType::F32);
    let untied = Config { tied: false, ..config };
    let message = one_line(Weights::open(folder.path(), &untied).unwrap_err());
    assert!(message.contains("lacks lm_head.weight"), "{message}");
}

#[test]
fn broken_shards_are_refused_by_name() {
    let folder = tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let index = "model.safetensors.index.json";
    let fresh = || {
        for entry in fs::read_dir(case("sharded")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), path(entry.file_name().to_str().unwrap())).unwrap();
        }
    };
    let config = read_config(&case("sharded")).unwrap();
    let refused = |parts: &[&str]| {
        let message = one_line(Weights::open(folder.path(), &config).unwrap_err());
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
    };
    let edit = |change: &dyn Fn(&mut Value)| {
        fresh();
        let mut object: Value = serde_json::from_str(&fs::read_to_string(path(index)).unwrap()).unwrap();
        change(&mut object);
        fs::write(path(index), object.to_string()).unwrap();
    };
    let (second, third) = ("model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors");
    fresh();
    Weights::open(folder.path(), &config).unwrap();
    fs::remove_file(path(second)).unwrap();
    refused(&[index, second, "not there"]);
    fresh();
    let half = fs::read(path(second)).unwrap();
    fs::write(path(second), &half[..half.len() / 2]).unwrap();
    refused(&[second, "damaged"]);
    edit(&|index| index["weight_map"]["transformer.ln_f.bias"] = json!(second));
    refused(&[index, "transformer.ln_f.bias", second]);
    edit(&|index| index["weight_map"]["transformer.wte.weight"] = json!("../model.safetensors"));
    refused(&[index, "../model.safetensors"]);
    edit(&|index| index["weight_map"]["more"] = json!("/etc/passwd"));
    refused(&[index, "/etc/passwd"]);
    edit(&|index| {
        let map = index["weight_map"].as_object_mut().unwrap();
        map.retain(|_, file| file != third);
    });
    refused(&[index, "lacks"]);
    edit(&|index| index["weight_map"] = json!([]));
    refused(&[index, "weight_map"]);
    edit(&|index| index["weight_map"] = json!({}));
    refused(&[index, "lacks"]);
    fresh();
    fs::copy(path(third), path("model-00004.safetensors")).unwrap();
    edit(&|index| index["weight_map"]["transformer.ln_f.bias"] = json!("model-00004.safetensors"));
    refused(&["both", third, "model-00004.safetensors"]);
    fs::remove_file(path(index)).unwrap();
    refused(&["no model.safetensors"]);
    fs::write(path("pytorch_model.bin"), b"").unwrap();
    refused(&["pytorch_model.bin", "save_pretrained"]);
}

// --- sources --------------------------------------------------------------------------------------------------------

static EMBEDDED: [(&str, &[u8]); 5] = [
    ("config.json", include_bytes!("../fixtures/gpt2_random/untied/config.json")),
    ("model.safetensors", include_bytes!("../fixtures/gpt2_random/untied/model.safetensors")),
    ("vocab.json", include_bytes!("../fixtures/gpt2_tokenizer/vocab.json")),
    ("merges.txt", include_bytes!("../fixtures/gpt2_tokenizer/merges.txt")),
    ("generation_config.json", br#"{"top_k": 5}"#),
];

#[test]
fn an_embedded_model_is_the_same_as_its_folder() {
    let source = ModelSource::embedded("(built in)", &EMBEDDED);
    let (config, weights) = open(&case("untied"));
    assert_eq!(source.config().unwrap(), config);
    let embedded = source.weights(&config).unwrap();
    for (name, _) in config.parameters() {
        assert_eq!(embedded.read(&name).unwrap(), weights.read(&name).unwrap());
        let mut read = 0;
        let count = |_, values: &[f32]| {
            read += values.len();
            Ok(())
        };
        embedded.read_pieces(&name, count).unwrap();
        assert_eq!(read, weights.read(&name).unwrap().len());
    }
    assert_eq!(source.tokenizer().unwrap().vocabulary_size(), 501);
    assert_eq!(source.generation_config().unwrap().top_k, Some(5));
    let nothing = ModelSource::embedded("(built in)", &[]);
    for error in [nothing.config().unwrap_err(), nothing.weights(&config).unwrap_err()] {
        let message = one_line(error);
        assert!(message.contains("(built in)"), "{message}");
    }
    assert_eq!(nothing.generation_config().unwrap(), GenerationConfig::default());
    assert!(nothing.tokenizer().is_err());
}

// --- tokenizer ------------------------------------------------------------------------------------------------------

#[test]
fn vocabulary_and_merges_give_the_ids_of_transformers() {
    let folder = tempdir().unwrap();
    for file in ["vocab.json", "merges.txt"] {
        fs::copy(fixture("gpt2_tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    let expected = fs::read_to_string(fixture("gpt2_tokenizer/expected.json")).unwrap();
    let expected: Vec<Value> = serde_json::from_str(&expected).unwrap();
    for (settings, key) in [(None, "ids"), (Some(r#"{"add_prefix_space": true}"#), "ids_with_prefix_space")] {
        if let Some(settings) = settings {
            fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        }
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        assert_eq!((tokenizer.vocabulary_size(), tokenizer.end_of_text()), (501, Some(500)));
        assert!(tokenizer.token_bytes().is_some());
        for entry in &expected {
            let text = entry["text"].as_str().unwrap();
            let ids = tokenizer.encode(text).unwrap();
            assert_eq!(json!(ids), entry[key], "{text:?}");
            if key == "ids" {
                assert_eq!(tokenizer.decode(&ids).unwrap(), entry["decoded"], "{text:?}");
            }
        }
        // Saved, it is a tokenizer.json, which wins over the other files and gives the same.
        let saved = tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let again = Tokenizer::load(saved.path()).unwrap();
        for entry in &expected {
            assert_eq!(json!(again.encode(entry["text"].as_str().unwrap()).unwrap()), entry[key]);
        }
    }
    fs::write(folder.path().join("added_tokens.json"), r#"{"<a>": 501, "<b>": 502, "<|endoftext|>": 500}"#).unwrap();
    let tokenizer = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("<b><a>").unwrap(), [502, 501]);
    fs::write(folder.path().join("added_tokens.json"), r#"{"<a>": 600}"#).unwrap();
    let message = one_line(Tokenizer::load(folder.path()).err().unwrap());
    assert!(message.contains("added_tokens.json") && message.contains("600"), "{message}");
    fs::remove_file(folder.path().join("added_tokens.json")).unwrap();
    for (file, text, part) in [
        ("merges.txt", "#version: 0.2\na b c\n", "line 2 of merges.txt"),
        ("merges.txt", "a zz\n", "zz"),
        ("vocab.json", "[1]", "vocab.json"),
        ("vocab.json", "{}", "no usable tokenizer"),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
        let message = one_line(Tokenizer::load(folder.path()).err().unwrap());
        assert!(message.contains(part), "{file}: {message}");
        fs::copy(fixture("gpt2_tokenizer").join(file), folder.path().join(file)).unwrap();
    }
    fs::remove_file(folder.path().join("merges.txt")).unwrap();
    let message = one_line(Tokenizer::load(folder.path()).err().unwrap());
    assert!(message.contains("tokenizer.json") && message.contains("merges.txt"), "{message}");
}

// --- generation_config.json -----------------------------------------------------------------------------------------

fn generation(text: &str) -> Result<GenerationConfig, Error> {
    GenerationConfig::from_json(text, Path::new("generation_config.json"))
}

#[test]
fn generation_configs_are_read_and_written() {
    let text = r#"{"_from_model_config": true, "bos_token_id": 50256, "eos_token_id": [50256, 7], "do_sample": true,
        "temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2, "num_beams": 4,
        "length_penalty": -0.5, "early_stopping": "never", "max_new_tokens": 100, "max_length": 20,
        "no_repeat_ngram_size": 3, "typical_p": 1.0, "num_beam_groups": 1, "suppress_tokens": [], "use_cache": true,
        "bad_words_ids": null, "stop_strings": "END", "transformers_version": "4.40.0"}"#;
    let read = generation(text).unwrap();
    let expected = GenerationConfig {
        bos_token_id: Some(50256),
        do_sample: Some(true),
        early_stopping: Some(EarlyStopping::Never),
        eos_token_id: vec![50256, 7],
        length_penalty: Some(-0.5),
        max_length: Some(20),
        max_new_tokens: Some(100),
        min_p: Some(0.05),
        num_beams: Some(4),
        repetition_penalty: Some(1.2),
        temperature: Some(0.7),
        top_k: Some(50),
        top_p: Some(0.9),
        stop_strings: vec!["END".into()],
        unsupported: vec!["no_repeat_ngram_size".into()],
        others: read.others.clone(),
    };
    assert_eq!(read, expected);
    assert_eq!(read.others["no_repeat_ngram_size"], 3, "what is not read is written again");
    assert!(!read.others.contains_key("top_k") && !read.others.contains_key("transformers_version"));
    assert_eq!(generation(&read.to_json()).unwrap(), read);
    let supported = read;
    for (text, early) in [("false", EarlyStopping::No), ("true", EarlyStopping::Yes)] {
        let read = generation(&format!(r#"{{"early_stopping": {text}}}"#)).unwrap();
        assert_eq!(read.early_stopping, Some(early));
        assert_eq!(generation(&read.to_json()).unwrap(), read);
    }
    for name in CASES {
        let read = GenerationConfig::read(&case(name)).unwrap();
        assert_eq!(known(read), GenerationConfig::of(&read_config(&case(name)).unwrap()), "{name}");
    }
    let folder = tempdir().unwrap();
    GenerationConfig::default().save(folder.path()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    supported.save(folder.path()).unwrap();
    assert_eq!(GenerationConfig::read(folder.path()).unwrap(), supported);
    GenerationConfig::default().save(folder.path()).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "what another model said must not stay");
}

#[test]
fn generation_values_that_mean_nothing_are_refused_by_name() {
    for (key, value) in [
        ("temperature", json!(-1)),
        ("temperature", json!("hot")),
        ("top_k", json!(-1)),
        ("top_k", json!(1.5)),
        ("top_p", json!(1.1)),
        ("min_p", json!(-0.1)),
        ("repetition_penalty", json!(0)),
        ("num_beams", json!(0)),
        ("length_penalty", json!(true)),
        ("early_stopping", json!("soon")),
        ("do_sample", json!(1)),
        ("max_new_tokens", json!(-5)),
        ("stop_strings", json!(["a", 5])),
        ("stop_strings", json!("")),
    ] {
        let message = one_line(generation(&json!({key: value}).to_string()).unwrap_err());
        assert!(message.contains(key) && message.contains("generation_config.json"), "{key}: {message}");
    }
    for text in ["", "[]", "nul", "{\"top_k\": 1e999}"] {
        one_line(generation(text).unwrap_err());
    }
}

// --- helpers --------------------------------------------------------------------------------------------------------

pub fn write(folder: &Path, config: &Config, weights: &Weights, dtype: WeightType) {
    let read = |(name, dims): (String, Vec<usize>)| {
        let values = weights.read(&name).unwrap();
        (name, dims, values)
    };
    let parts = config.parameters().into_iter().flat_map(|(name, dims)| config.parts(&name, &dims));
    let values: Vec<_> = parts.map(read).collect();
    let tensors: Vec<NamedTensor> = values.iter().map(|(name, dims, v)| (name.clone(), dims.clone(), &v[..])).collect();
    write_folder(folder, config, &tensors, None, dtype).unwrap();
}

/// The message of an error, which must be one line that can be read at a glance.
fn one_line(error: Error) -> String {
    let message = error.to_string();
    assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
    assert!(message.chars().count() < 500, "{message}");
    message
}
