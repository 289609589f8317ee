//! No setting is passed over silently: every flag of every command, and every key of the files of `transformers`, is in a table
//! that says how it is treated.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};
use wgpt::data::tokenizer::{SETTINGS_KEYS, Tokenizer};
use wgpt::error::Result;
use wgpt::formats::generation_config::{self, GenerationConfig};
use wgpt::models::config::Config;
use wgpt::models::keys::Use;
use wgpt::models::known_keys::{tables, unheeded_of};

/// What `transformers` 4.57 and 5 know: tests/fixtures/transformers_keys.py.
fn transformers() -> Value {
    serde_json::from_str(include_str!("../fixtures/transformers_keys.json")).unwrap()
}

/// A small model of each type.
fn small(model_type: &str) -> Map<String, Value> {
    let sizes = match model_type {
        "distilbert" => {
            json!({"dim": 16, "n_heads": 2, "n_layers": 2, "max_position_embeddings": 32, "hidden_dim": 24})
        }
        "bert" | "roberta" => json!({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
            "max_position_embeddings": 32, "intermediate_size": 24}),
        "gpt_neo" => json!({"hidden_size": 16, "num_heads": 2, "num_layers": 2, "max_position_embeddings": 32,
            "attention_types": [[["global", "local"], 1]]}),
        "t5" => json!({"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2, "d_ff": 24}),
        "transfo-xl" => {
            json!({"d_model": 16, "d_embed": 16, "n_head": 2, "d_head": 8, "n_layer": 2, "d_inner": 24, "cutoffs": [],
            "div_val": 1})
        }
        "gpt2" | "openai-gpt" => json!({"n_embd": 16, "n_head": 2, "n_layer": 2, "n_positions": 32}),
        _ => json!({"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 32,
            "intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}),
    };
    let mut config = sizes.as_object().unwrap().clone();
    config.insert("model_type".into(), model_type.into());
    config.insert("vocab_size".into(), 50.into());
    config
}

fn read(config: &Map<String, Value>) -> Result<Config> {
    Config::from_json(&Value::from(config.clone()).to_string(), Path::new("config.json"))
}

/// Another value than this one, of the same kind.
fn changed(key: &str, value: &Value) -> Value {
    match (key, value) {
        ("architectures", _) => json!(["BertLMHeadModel"]),
        ("hidden_act" | "activation_function" | "activation" | "afn", _) => json!("relu"),
        ("model_type", _) => json!("albert"),
        ("pruned_heads", _) => json!({"0": [1]}),
        ("quantization_config", _) => json!({"quant_method": "fp8"}),
        ("rope_parameters", _) => json!({"rope_theta": 20_000.0, "rope_type": "default"}),
        ("layer_types", _) => json!(["linear_attention", "linear_attention"]),
        ("num_key_value_heads", _) => json!(2),
        ("num_attention_heads" | "n_head" | "n_heads" | "num_heads", _) => json!(4),
        ("attention_types", _) => json!([[["global"], 2]]),
        ("dim", _) => json!(24),
        ("head_dim", _) => json!(4),
        ("sliding_window", _) => json!(7),
        ("n_inner", _) => json!(20),
        ("partial_rotary_factor", _) => json!(0.5),
        ("initializer_range" | "init_std", _) => json!(0.05),
        (_, Value::Bool(flag)) => json!(!flag),
        (_, Value::Number(number)) if number.is_u64() => json!(number.as_u64().unwrap() + 4),
        (_, Value::Number(number)) => json!(number.as_f64().unwrap() / 2.0 + 0.01),
        (_, Value::String(text)) => json!(format!("{text}x")),
        (_, Value::Array(_)) => json!([1]),
        (_, Value::Object(_)) => json!({"a": 1}),
        (key, Value::Null) if key.ends_with("_id") => json!(3),
        (_, Value::Null) => json!(5),
    }
}

#[test]
fn every_key_of_config_json_is_obeyed_refused_harmless_or_told() {
    for (model_type, keys) in transformers()["config"].as_object().unwrap() {
        let plain = small(model_type);
        let model = read(&plain).unwrap();
        assert_eq!(unheeded_of(&Value::from(plain.clone()).to_string()).unwrap(), [""; 0], "{model_type}");
        for (key, default) in keys.as_object().unwrap() {
            let tables = tables(model_type);
            let found: Vec<Use> = tables.iter().flat_map(|t| t.iter()).filter(|(k, _)| k == key).map(|k| k.1).collect();
            let [what] = found[..] else { panic!("{key} of {model_type} is {} times in the tables", found.len()) };
            let own = plain.get(key).unwrap_or(default);
            let mut other = plain.clone();
            other.insert(key.clone(), changed(key, own));
            let told = unheeded_of(&Value::from(other.clone()).to_string()).unwrap();
            match what {
                Use::Obeyed => match read(&other) {
                    Ok(read) => assert_ne!(read, model, "{key} of {model_type} changes nothing"),
                    Err(error) => {
                        let (message, stem) = (error.to_string(), key.trim_end_matches('s'));
                        let is_named = message.contains(stem) || message.contains("config.json");
                        assert!(is_named, "{key} of {model_type}: {message}");
                    }
                },
                Use::Harmless | Use::Elsewhere => assert!(told.is_empty(), "{key} of {model_type}: {told:?}"),
                Use::Warned(_) => assert_eq!(told, [key.as_str()], "{model_type}"),
            }
            if what == Use::Harmless {
                assert_eq!(read(&other).unwrap(), model, "{key} of {model_type} is not harmless");
            }
        }
        let mut unknown = plain.clone();
        unknown.insert("attention_is_upside_down".into(), true.into());
        assert_eq!(unheeded_of(&Value::from(unknown).to_string()).unwrap(), ["attention_is_upside_down"]);
    }
}

#[test]
fn every_key_of_generation_config_json_is_obeyed_harmless_or_told() {
    let read = |key: &str, value: &Value| {
        let text = json!({key: value}).to_string();
        GenerationConfig::from_json(&text, Path::new("generation_config.json"))
    };
    let obeyed = json!({"bos_token_id": 1, "do_sample": true, "early_stopping": "never", "eos_token_id": [1, 2],
        "length_penalty": 0.5, "max_length": 9, "max_new_tokens": 9, "min_p": 0.5, "num_beams": 3,
        "repetition_penalty": 1.5, "stop_strings": ["a"], "temperature": 0.5, "top_k": 5, "top_p": 0.5});
    for (key, default) in transformers()["generation"].as_object().unwrap() {
        let found = generation_config::KEYS.iter().find(|(known, _)| known == key);
        let (_, what) = found.unwrap_or_else(|| panic!("{key} is not in the table"));
        match what {
            Use::Obeyed => {
                let without_others = GenerationConfig { others: Map::new(), ..read(key, &obeyed[key]).unwrap() };
                assert_ne!(without_others, GenerationConfig::default(), "{key}");
                assert!(without_others.unsupported.is_empty(), "{key}");
            }
            Use::Warned(_) => {
                assert_eq!(read(key, &changed(key, default)).unwrap().unsupported, [key.as_str()]);
                assert!(read(key, default).unwrap().unsupported.is_empty(), "{key} as it is by default");
            }
            _ => assert!(read(key, &changed(key, default)).unwrap().unsupported.is_empty(), "{key}"),
        }
    }
    let asked = generation_config::KEYS.iter().filter(|(_, what)| *what == Use::Obeyed).count();
    assert_eq!(asked, obeyed.as_object().unwrap().len());
    assert_eq!(read("think_twice", &json!(2)).unwrap().unsupported, ["think_twice"]);
}

/// A folder with a byte-level tokenizer that puts `<s>` in front, and these settings.
fn warnings(settings: Value) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let special = json!({"id": "<s>", "ids": [0], "tokens": ["<s>"]});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": true, "lowercase": true},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"<s>": special}},
        "decoder": null,
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1}, "merges": []},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    Tokenizer::load(folder.path()).unwrap().warnings()
}

#[test]
fn every_key_of_tokenizer_config_json_is_harmless_or_told() {
    for key in transformers()["tokenizer"].as_array().unwrap() {
        let key = key.as_str().unwrap();
        let found = SETTINGS_KEYS.iter().find(|(known, _)| *known == key);
        let (_, what) = found.unwrap_or_else(|| panic!("{key} is not in the table"));
        match what {
            Use::Harmless => assert!(warnings(json!({key: "other"})).is_empty(), "{key}"),
            Use::Warned(_) => assert!(warnings(json!({key: true}))[0].contains(key), "{key}"),
            _ => {}
        }
    }
    assert!(warnings(json!({"speaks": "softly"}))[0].contains("speaks"));
    let same = json!({"bos_token": "<s>", "add_bos_token": true, "add_eos_token": false, "eos_token": "</s>",
        "add_prefix_space": false, "do_lower_case": true, "strip_accents": true, "tokenize_chinese_chars": true,
        "clean_up_tokenization_spaces": false});
    assert_eq!(warnings(same.clone()), [""; 0]);
    let other = json!({"bos_token": {"content": "<s>"}, "add_bos_token": false, "add_prefix_space": true,
        "do_lower_case": false, "strip_accents": false, "tokenize_chinese_chars": false,
        "clean_up_tokenization_spaces": true});
    for (key, value) in other.as_object().unwrap() {
        let mut settings = same.clone();
        settings[key] = value.clone();
        let told = warnings(settings);
        let is_other = key != "bos_token";
        assert_eq!(told.len(), usize::from(is_other), "{key}: {told:?}");
        assert!(told.iter().all(|warning| warning.contains(key)), "{told:?}");
    }
}

/// Flags of every command.
const GLOBAL: &str = "device help quiet retune verbose";
/// Flags of every command that trains.
const TRAINING: &str = "accept-changed-data accumulate base batch batch-warmup beta1 beta2 classifier-rows clip data decay-steps dropout epochs eval-batches \
    eval-every freeze head-lr layer-decay lora lora-alpha lora-dropout lora-targets lr min-lr out overwrite patience precision recompute resume rslora sample-every \
    save-every schedule seed steps sync-every tensorboard val warmup weight-decay wire";
/// Names of columns.
const COLUMNS: &str =
    "answers choices context first hypothesis input label premise question second tags target text tokens";

/// Every flag of every command. What is added here is done, or refused by name where it has no use, and a test says so.
const FLAGS: &[(&str, &[&str])] = &[
    ("", &["version"]),
    (
        "train",
        &[
            TRAINING,
            "attention-window config context experts experts-per-token ext feed-forward heads init init-std kv-heads layers mask-share next-sentence norm \
           position preset residual-init router-balance router-z seeds sweep tokenizer whole-words width window-every",
        ],
    ),
    (
        "finetune",
        &[
            TRAINING,
            COLUMNS,
            "buckets class-weights from-scratch grades lambda max-length metric model prefix stride task",
        ],
    ),
    ("sft", &[TRAINING, "max-length mix model packing template"]),
    (
        "prefer",
        &[
            "adapter base batch context count criterion min-p model out prompts repetition-penalty seed stop stop-token temperature \
           template tokens top-k top-p",
        ],
    ),
    ("reward", &[TRAINING, "center max-length mix model template"]),
    (
        "align",
        &[
            TRAINING,
            "beta desirable-weight label-smoothing loss max-length method model sft-weight template undesirable-weight",
            "epsilon epsilon-high generations iterations normalisation scale-rewards steps-per-rollout temperature temperatures tokens",
            "reward reward-column reward-command reward-model reward-timeout",
            "gamma lambda missing-end target-kl value-clip value-model value-weight",
        ],
    ),
    ("predict", &[COLUMNS, "batch beams data max-new-tokens model no-answer template top"]),
    ("embed", &["batch data model out pairs pooling text"]),
    (
        "sample",
        &[
            "adapter base batch beams context count early-stopping json length-penalty min-p model prompt prompt-file prompts repetition-penalty seed stop \
           stop-token strategy temperature tokens top-k top-p",
        ],
    ),
    (
        "chat",
        &[
            "adapter base batch beams context count early-stopping json length-penalty min-p model repetition-penalty seed stop stop-token \
           strategy system temperature template tokens top-k top-p",
        ],
    ),
    #[cfg(feature = "serve")]
    ("serve", &["adapter api-key base batch context host max-body max-tokens model name port queue template web"]),
    (
        "eval",
        &[
            "adapter base batch choices context data ext ids items json label limit logits memory model plot question seed separator shots stride task text \
           train window",
        ],
    ),
    ("compare", &["out overwrite"]),
    ("export", &["adapter dtype format model out overwrite web"]),
    ("inspect", &["adapter base best model out overwrite prompt prompt-file"]),
    ("merge", &["adapter dtype model out overwrite"]),
    ("tokenizer train", &["cased column data ext kind min-frequency out overwrite special vocab"]),
    ("tokenizer encode", &["format lines tokenizer"]),
    ("tokenizer decode", &["format lines tokenizer"]),
    ("data render", &["count data model template"]),
    (
        "data prepare",
        &[
            "column data ext out overwrite shard-tokens tokenizer val val-fraction",
            "block decontaminate decontaminate-words dedup filter mentions mix redact report resume",
        ],
    ),
    ("data task", &["count out seed split"]),
    (
        "profile",
        &[
            "assembly batch classifier-rows compare compiled context decode host-clock json kernel model ops precision preset repeat shaders \
           spirv svg trace train variants",
        ],
    ),
    ("plan", &["accumulate batch context gbytes gflops latency machines network precision preset run"]),
    ("doctor", &["family json list ops"]),
];

#[test]
fn every_flag_of_every_command_is_in_the_table() {
    let mut commands = vec![];
    for (command, lists) in FLAGS {
        let words: Vec<&str> = command.split_whitespace().collect();
        let known: BTreeSet<String> =
            lists.iter().chain([&GLOBAL]).flat_map(|list| list.split_whitespace()).map(str::to_string).collect();
        assert_eq!(flags(&words), known, "flags of wgpt {command}");
        commands.push(words);
    }
    // No command is left out.
    for parent in [&[][..], &["tokenizer"], &["data"]] {
        for name in subcommands(parent) {
            let path = [parent, &[name.as_str()]].concat();
            let is_known = commands.iter().any(|words| words.starts_with(&path));
            assert!(is_known, "wgpt {path:?} is not in the table");
        }
    }
}

/// The commands that a command's help shows.
fn subcommands(command: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_wgpt")).args(command).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap_or_default().split("\n\n").next().unwrap_or_default();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").map(str::to_string).collect()
}

/// The long flags that a command's help shows.
fn flags(command: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_wgpt")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    let help = String::from_utf8(output.stdout).unwrap();
    let shown = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let long = shown.filter_map(|line| line.split_once("--")).map(|(_, rest)| rest);
    long.map(|flag| flag.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()).collect()
}
