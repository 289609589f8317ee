//! GPT-Neo against transformers, and the models of GPT-3's table. tests/fixtures/gpt_neo_random.py makes the folders and the numbers.

use crate::hugging_face::{fixture, open, write};
use crate::llama::{gradients_agree, greedy_agrees, logits_agree};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use wgpt::formats::folder::{TensorFile, WeightType};
use wgpt::models::config::Config;

const CASES: [&str; 2] = ["alternating", "global_half"];

fn folders() -> [(&'static str, PathBuf); 2] {
    CASES.map(|name| (name, fixture("gpt_neo_random").join(name)))
}

#[test]
fn logits_gradients_and_greedy_text_are_those_of_transformers() {
    let (alternating, _) = open(&folders()[0].1);
    assert_eq!((alternating.window, &alternating.full_layers[..]), (Some(6), &[1][..]));
    logits_agree(&folders());
    gradients_agree(&folders()[..1]);
    greedy_agrees(&folders());
}

#[test]
fn tensors_are_written_back_under_their_names() {
    for (name, folder) in folders() {
        let (config, weights) = open(&folder);
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F32);
        let (again, read_back) = open(written.path());
        assert_eq!(again, config, "{name}");
        for tensor in weights.names() {
            assert_eq!(weights.read(tensor).unwrap(), read_back.read(tensor).unwrap(), "{name}: {tensor}");
        }
        let names = |folder: &Path| {
            let mut names = TensorFile::open(&folder.join("model.safetensors")).unwrap().names();
            names.sort();
            names
        };
        assert_eq!(names(written.path()), names(&folder), "{name}");
    }
}

/// Table 2.1 of Brown et al. 2020, and the parameters as they are counted here, with the embeddings.
#[test]
fn the_models_of_gpt3s_table_have_its_sizes() {
    let table = [
        ("gpt3-125m", 125.2e6, 12, 768),
        ("gpt3-350m", 355.8e6, 24, 1024),
        ("gpt3-760m", 760.3e6, 24, 1536),
        ("gpt3-1.3b", 1.3156e9, 24, 2048),
        ("gpt3-2.7b", 2.6513e9, 32, 2560),
        ("gpt3-6.7b", 6.6580e9, 32, 4096),
        ("gpt3-13b", 12.852e9, 40, 5120),
        ("gpt3-175b", 174.60e9, 96, 12_288),
    ];
    for (name, parameters, layers, width) in table {
        let config = Config::preset(name).unwrap();
        assert_eq!((config.layers, config.width, config.context), (layers, width, 2048), "{name}");
        let count = config.parameter_count() as f64;
        assert!((count / parameters - 1.0).abs() < 1e-3, "{name} has {count} parameters");
        assert_eq!(config.full_layers.len(), layers.div_ceil(2), "{name}: dense layers and windows in turn");
    }
}

#[test]
fn kinds_of_layers_that_do_not_fit_are_refused() {
    let read = |types: serde_json::Value| {
        let text = json!({"model_type": "gpt_neo", "vocab_size": 9, "hidden_size": 16, "num_layers": 4, "num_heads": 2,
            "max_position_embeddings": 32, "attention_types": types});
        Config::from_json(&text.to_string(), Path::new("config.json"))
    };
    let config = read(json!([[["global", "local"], 2]])).unwrap();
    assert_eq!((config.window, &config.full_layers[..]), (Some(256), &[0, 2][..]));
    for (types, word) in [
        (json!([[["global", "local"], 3]]), "6 layers"),
        (json!([[["sideways"], 4]]), "sideways"),
        (json!([[["global"], -4]]), "number"),
        (json!("global"), "not a list"),
    ] {
        let message = read(types.clone()).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("attention_types"), "{types}: {message}");
    }
}
