//! Folders of low-rank adapters as peft lays them out: `adapter_config.json`, and `adapter_model.safetensors` with the matrices of
//! each adapted layer under its path in the base model, and heads that were trained beside them. The base model is another folder.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::{CONFIG_FILE, NamedTensor};
use super::generation_config::GenerationConfig;
use super::safetensors::{WeightType, write_weights};
use super::source::ModelSource;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{one_line, write_bytes};
use crate::models::config::{Config, HEAD};
use crate::models::keys::{Found, Keys, Use, unheeded};
use crate::models::lora::Lora;

pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
pub const ADAPTER_FILE: &str = "adapter_model.safetensors";
/// Stands before the path of every layer.
pub const PREFIX: &str = "base_model.model.";

use Use::{Elsewhere, Harmless, Obeyed, Warned};

/// The keys of peft's `LoraConfig`.
pub const KEYS: &[(&str, Use)] = &[
    ("peft_type", Obeyed),
    ("base_model_name_or_path", Obeyed),
    ("r", Obeyed),
    ("lora_alpha", Obeyed),
    ("lora_dropout", Obeyed),
    ("target_modules", Obeyed),
    ("use_rslora", Obeyed),
    ("bias", Obeyed),
    ("use_dora", Obeyed),
    ("rank_pattern", Obeyed),
    ("alpha_pattern", Obeyed),
    ("modules_to_save", Obeyed),
    ("init_lora_weights", Obeyed),
    ("lora_bias", Obeyed),
    ("layers_to_transform", Obeyed),
    ("target_parameters", Obeyed),
    ("trainable_token_indices", Obeyed),
    ("layer_replication", Obeyed),
    ("fan_in_fan_out", Elsewhere),
    ("task_type", Harmless),
    ("auto_mapping", Harmless),
    ("peft_version", Harmless),
    ("revision", Harmless),
    ("inference_mode", Harmless),
    ("layers_pattern", Harmless),
    ("exclude_modules", Harmless),
    ("loftq_config", Harmless),
    ("eva_config", Harmless),
    ("lora_ga_config", Harmless),
    ("corda_config", Harmless),
    ("megatron_config", Harmless),
    ("megatron_core", Harmless),
    ("qalora_group_size", Harmless),
    ("ensure_weight_tying", Harmless),
    ("use_qalora", Warned(&[])),
    ("use_bdlora", Warned(&[])),
    ("alora_invocation_tokens", Warned(&[])),
    ("arrow_config", Warned(&[])),
    ("kasa_config", Warned(&[])),
    ("velora_config", Warned(&[])),
    ("monteclora_config", Warned(&[])),
];

/// Whether a folder holds adapters and no model.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(ADAPTER_CONFIG_FILE).exists() && !folder.join(CONFIG_FILE).exists()
}

/// Reads the settings of an adapter; `tensors` are the names in its file, which say the layers where the settings do not.
pub fn read(text: &str, origin: &Path, tensors: &[String], base: &Config) -> Result<Lora> {
    let lora = Keys::parse(text, ADAPTER_CONFIG_FILE).and_then(|keys| parse(&keys, tensors, base));
    lora.map_err(|problem| Error::Input(format!("{}: {problem}", origin.display())))
}

/// The base model that an adapter's settings name: a folder, or nothing.
pub fn base_name(text: &str) -> Option<String> {
    let keys: Value = serde_json::from_str(text).ok()?;
    keys["base_model_name_or_path"].as_str().filter(|name| !name.is_empty()).map(str::to_string)
}

/// Keys that ask for something that is not implemented, one sentence each.
pub fn unheeded_keys(text: &str) -> Vec<String> {
    Keys::parse(text, ADAPTER_CONFIG_FILE).map(|keys| unheeded(&keys, &[KEYS])).unwrap_or_default()
}

fn parse(keys: &Keys, tensors: &[String], base: &Config) -> Found<Lora> {
    let kind = keys.get("peft_type").and_then(Value::as_str).unwrap_or_default();
    if kind != "LORA" {
        return Err(format!("peft_type is {:?}, but only LORA is supported", one_line(kind)));
    }
    let is_asked = |value: &&Value| match value {
        Value::Bool(flag) => *flag,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Null => false,
        _ => true,
    };
    let refused = [
        "use_dora",
        "rank_pattern",
        "alpha_pattern",
        "lora_bias",
        "target_parameters",
        "trainable_token_indices",
        "layer_replication",
    ];
    if let Some(key) = refused.into_iter().find(|key| keys.get(key).as_ref().is_some_and(is_asked)) {
        return Err(format!("{key} is not supported: train the adapter without it"));
    }
    if let Some(bias) = keys.get("bias").and_then(Value::as_str).filter(|bias| *bias != "none") {
        return Err(format!("bias is {:?}, but only none is supported", one_line(bias)));
    }
    let own = |name: &str| ["pissa", "olora", "loftq", "corda"].iter().any(|kind| name.starts_with(kind));
    if let Some(name) = keys.get("init_lora_weights").and_then(Value::as_str).filter(|name| own(name)) {
        let name = one_line(name);
        return Err(format!("init_lora_weights is {name:?}, which changes the base model: convert it with peft first"));
    }
    let mut saved = vec![];
    for module in keys.get("modules_to_save").and_then(Value::as_array).into_iter().flatten() {
        let name = format!("{}.weight", module.as_str().unwrap_or_default());
        match [base.family().embedding(), HEAD].into_iter().find(|table| *table == name) {
            Some(table) => saved.push(table.to_string()),
            None if base.family().task_heads().contains(&&*name) => {}
            None => return Err(format!("modules_to_save has {module}, but only heads and embeddings are supported")),
        }
    }
    let listed = keys.get("target_modules").and_then(Value::as_array).filter(|_| {
        // Only some layers of a name may have adapters.
        keys.get("layers_to_transform").is_none_or(Value::is_null)
            && keys.get("exclude_modules").is_none_or(Value::is_null)
    });
    let targets: Vec<String> = match listed {
        Some(names) => names.iter().filter_map(|name| name.as_str().map(str::to_string)).collect(),
        None => {
            let path = |name: &String| Some(name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?.to_string());
            tensors.iter().filter_map(path).collect::<Vec<_>>()
        }
    };
    // Whole paths begin with the family's prefix there.
    let prefix = base.family().prefix();
    let targets = targets.iter().map(|name| name.strip_prefix(prefix).unwrap_or(name).to_string()).collect();
    let number = |key: &str, default: f64| match keys.get(key) {
        None => Ok(default),
        Some(value) => value.as_f64().ok_or_else(|| format!("{key} is {value}, not a number")),
    };
    let rank = number("r", 8.0)?;
    if rank < 1.0 || rank.fract() != 0.0 {
        return Err(format!("r is {rank}, not a rank from 1 up"));
    }
    Ok(Lora {
        rank: rank as usize,
        alpha: number("lora_alpha", 8.0)? as f32,
        dropout: number("lora_dropout", 0.0)? as f32,
        targets,
        rank_stabilised: keys.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        saved,
        base: keys.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_string),
    })
}

/// `adapter_config.json` of a model's adapters; `head` where a classifier's head was trained beside them.
pub fn config_json(config: &Config, lora: &Lora, head: bool) -> String {
    let module = |name: &str| name.strip_suffix(".weight").unwrap_or(name).to_string();
    let own = config.family().task_heads()[0];
    let saved: Vec<String> = lora.saved.iter().map(String::as_str).chain(head.then_some(own)).map(module).collect();
    let object = json!({
        "peft_type": "LORA",
        "task_type": if head { "SEQ_CLS" } else { "CAUSAL_LM" },
        "base_model_name_or_path": lora.base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": lora.targets,
        "bias": "none",
        "fan_in_fan_out": config.family().is_transposed(),
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": if saved.is_empty() { Value::Null } else { json!(saved) },
        "use_rslora": lora.rank_stabilised,
        "use_dora": false,
        "rank_pattern": Map::new(),
        "alpha_pattern": Map::new(),
    });
    serde_json::to_string_pretty(&object).expect("our own JSON") + "\n"
}

/// The tensors of an adapter's file: the adapters and heads among `parameters`, which have names without prefix.
pub fn stored<'a>(config: &Config, parameters: &[NamedTensor<'a>]) -> Vec<NamedTensor<'a>> {
    let stored = config.stored(parameters).into_iter();
    stored.map(|(name, dims, values)| (format!("{PREFIX}{name}"), dims, values)).collect()
}

/// Writes the adapter's two files and the tokenizer's; `parameters` are the adapters' and those of heads. The weights go last.
pub fn write_folder(
    folder: &Path,
    config: &Config,
    parameters: &[NamedTensor],
    tokenizer: Option<&Tokenizer>,
) -> Result<()> {
    let lora = config.lora.as_ref().expect("a model with adapters");
    std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    let head = parameters.iter().any(|(name, ..)| config.family().task_heads().contains(&name.as_str()));
    write_bytes(&folder.join(ADAPTER_CONFIG_FILE), config_json(config, lora, head).as_bytes())?;
    if !tokenizer.is_some_and(Tokenizer::has_generation_config) {
        GenerationConfig::of(config).save(folder)?;
    }
    tokenizer.map_or(Ok(()), |tokenizer| tokenizer.save(folder))?;
    write_weights(&folder.join(ADAPTER_FILE), &stored(config, parameters), &[], WeightType::F32)
}

/// The model that an adapter is on, as its settings name it: a folder or a GGUF file, or the built-in model where they name none.
pub fn base(folder: &Path) -> Result<ModelSource> {
    let path = folder.join(ADAPTER_CONFIG_FILE);
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let Some(name) = base_name(&text) else { return Ok(super::demo::model()) };
    let place = Path::new(&name);
    if !place.exists() {
        let (folder, name) = (folder.display(), one_line(&name));
        fail!(Input, "{folder} is an adapter of {name}, and nothing is there: say with --model where its model is");
    }
    // A folder of adapters is refused where its configuration is read.
    if place.is_file() { ModelSource::open(place) } else { Ok(ModelSource::folder(place)) }
}
