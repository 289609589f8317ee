//! A GGUF file as a model: its metadata as the files of a model folder, its tensors under the names that they have there.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::container::{Head, Listed, Metadatum, read_head};
use super::names::{ROPE_FACTORS, ROPE_KEYS, Tensor, rope_factors, tensors};
use super::tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;
use crate::formats::tensor_file::{Bytes, Entry, Table, TensorFile, ValueType};
use crate::models::config::Config;
use crate::models::keys::Found;

/// The metadata of a file. Errors are what is wrong with it, to follow its name.
#[derive(Debug)]
pub struct Keys(HashMap<String, Metadatum>);

impl Keys {
    pub fn get(&self, key: &str) -> Option<&Metadatum> {
        self.0.get(key)
    }

    pub fn text(&self, key: &str) -> Found<Option<&str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Metadatum::Text(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{key} is no text")),
        }
    }

    pub fn flag(&self, key: &str) -> Found<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Metadatum::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(format!("{key} is neither true nor false")),
        }
    }

    pub fn whole(&self, key: &str) -> Found<Option<usize>> {
        match self.get(key) {
            None => Ok(None),
            Some(Metadatum::Integer(value)) => usize::try_from(*value)
                .map(Some)
                .map_err(|_| format!("{key} is {value}, and must be a number from 0 up")),
            Some(_) => Err(format!("{key} is no whole number")),
        }
    }

    fn number(&self, key: &str) -> Found<Option<f32>> {
        match self.get(key) {
            None => Ok(None),
            Some(Metadatum::Number(value)) => Ok(Some(*value as f32)),
            Some(Metadatum::Integer(value)) => Ok(Some(*value as f32)),
            Some(_) => Err(format!("{key} is no number")),
        }
    }
}

/// A GGUF file whose header is read.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    /// The files of a model folder that it stands for.
    files: [(&'static str, Vec<u8>); 3],
    table: Table,
}

impl Gguf {
    /// Reads and checks a file's header; the tensors' values are read later, through a map.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::map(path)?;
        let place = path.display();
        let damaged = |problem: String| {
            Error::Input(format!("{place} is damaged or not a GGUF file ({problem}); download or export it again"))
        };
        let head = read_head(bytes.all()).map_err(damaged)?;
        let unusable = |problem: String| Error::Input(format!("{place} cannot be used: {problem}"));
        let Head { metadata, tensors } = head;
        let keys = Keys(metadata);
        let config_json = config_json(&keys, &tensors, bytes.all()).map_err(unusable)?;
        let config = Config::from_json(&config_json, path)?;
        check_size(&config, &tensors).map_err(unusable)?;
        let entries = entries(&config, &tensors).map_err(unusable)?;
        check_rope_factors(&config, tensors.get(ROPE_FACTORS), bytes.all()).map_err(unusable)?;
        let (tokenizer, settings) = tokenizer::files(&keys).map_err(unusable)?;
        let files = [
            ("config.json", config_json.into_bytes()),
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", settings),
        ];
        Ok(Self { path: path.into(), files, table: Table { tensors: entries, ..Table::default() } })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file of a model folder, where this one stands for it.
    pub fn file(&self, name: &str) -> Option<Cow<'static, [u8]>> {
        self.files.iter().find(|(file, _)| *file == name).map(|(_, bytes)| bytes.clone().into())
    }

    /// The tensors under the names that they have in a model folder.
    pub fn tensors(&self) -> Result<TensorFile> {
        let bytes = Bytes::map(&self.path)?;
        let end = self.table.tensors.values().map(|entry| entry.range.end).max().unwrap_or(0);
        if bytes.all().len() < end {
            fail!(Input, "{} became shorter while it was read; export or download it again", self.path.display());
        }
        Ok(TensorFile::new(&self.path, bytes, self.table.clone()))
    }
}

/// The `config.json` of the model.
fn config_json(keys: &Keys, tensors: &HashMap<String, Listed>, bytes: &[u8]) -> Found<String> {
    let Some(architecture) = keys.text("general.architecture")? else { return Err("it names no architecture".into()) };
    let own = |name: &str| format!("{architecture}.{name}");
    let whole =
        |name: &str| -> Found<usize> { keys.whole(&own(name))?.ok_or_else(|| format!("it has no {}", own(name))) };
    let vocabulary = tensors.get("token_embd.weight").and_then(|table| table.shape.first().copied());
    let has = |name: &str| tensors.contains_key(name);
    let mut json = match architecture {
        "gpt2" => json!({
            "model_type": "gpt2", "n_embd": whole("embedding_length")?, "n_head": whole("attention.head_count")?,
            "n_layer": whole("block_count")?, "n_positions": whole("context_length")?,
            "n_inner": whole("feed_forward_length")?, "activation_function": "gelu_new",
            "layer_norm_epsilon": number_json(keys.number(&own("attention.layer_norm_epsilon"))?),
            "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
        }),
        "llama" | "qwen2" | "qwen3" => llama_json(keys, architecture, &has)?,
        other => {
            let other = one_line(other);
            return Err(format!("its architecture is {other}, and gpt2, llama, qwen2 and qwen3 can be read"));
        }
    };
    let all = json.as_object_mut().expect("an object");
    all.insert("vocab_size".into(), vocabulary.ok_or("it has no token_embd.weight")?.into());
    all.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
    all.insert("bos_token_id".into(), keys.whole("tokenizer.ggml.bos_token_id")?.into());
    let ends = ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"].map(|key| keys.whole(key));
    let mut ends = ends.into_iter().filter_map(Found::transpose).collect::<Found<Vec<_>>>()?;
    ends.dedup();
    all.insert("eos_token_id".into(), if ends.len() == 1 { ends[0].into() } else { json!(ends) });
    if let Some(scaling) = scaling(keys, architecture, tensors.get(ROPE_FACTORS), bytes)? {
        all.insert("rope_scaling".into(), scaling.into());
    }
    serde_json::to_string(&json).map_err(|error| error.to_string())
}

fn number_json(number: Option<f32>) -> Value {
    // The shortest decimal number that is this one in f32.
    number.map_or(Value::Null, |number| number.to_string().parse::<f64>().map_or(Value::Null, Value::from))
}

fn llama_json(keys: &Keys, architecture: &str, has: &dyn Fn(&str) -> bool) -> Found<Value> {
    let own = |name: &str| format!("{architecture}.{name}");
    let whole =
        |name: &str| -> Found<usize> { keys.whole(&own(name))?.ok_or_else(|| format!("it has no {}", own(name))) };
    let experts = keys.whole(&own("expert_count"))?.filter(|count| *count > 0);
    let (of_q, of_output) = (has("blk.0.attn_q.bias"), has("blk.0.attn_output.bias"));
    let model_type = match architecture {
        _ if experts.is_some() && architecture != "llama" => {
            return Err(format!("it has experts, and those of {architecture} are not known here"));
        }
        "llama" if experts.is_some() => "mixtral",
        "llama" if of_q && !of_output => "qwen2",
        name => name,
    };
    let heads = whole("attention.head_count")?;
    let mut json = json!({
        "model_type": model_type, "hidden_size": whole("embedding_length")?, "num_attention_heads": heads,
        "num_key_value_heads": keys.whole(&own("attention.head_count_kv"))?.unwrap_or(heads),
        "num_hidden_layers": whole("block_count")?, "max_position_embeddings": whole("context_length")?,
        "intermediate_size": whole("feed_forward_length")?, "hidden_act": "silu", "attention_bias": of_output,
        "rms_norm_eps": number_json(keys.number(&own("attention.layer_norm_rms_epsilon"))?),
        "rope_theta": number_json(keys.number(&own("rope.freq_base"))?.or(Some(10_000.0))),
        // llama.cpp has no window in these architectures, and transformers takes its own where none is said.
        "sliding_window": null, "use_sliding_window": false,
    });
    let all = json.as_object_mut().expect("an object");
    let length = keys.whole(&own("attention.key_length"))?;
    if keys.whole(&own("attention.value_length"))? != length {
        return Err(format!("{} and {} differ", own("attention.key_length"), own("attention.value_length")));
    }
    let length = length.or_else(|| whole("embedding_length").ok()?.checked_div(heads));
    all.extend(length.map(|length| ("head_dim".to_string(), Value::from(length))));
    if let (Some(turned), Some(length)) = (keys.whole(&own("rope.dimension_count"))?, length)
        && turned != length
    {
        return Err(format!(
            "it turns {turned} of {length} channels of a head (rope.dimension_count), and all must be"
        ));
    }
    if let Some(experts) = experts {
        all.insert("num_local_experts".into(), experts.into());
        all.insert("num_experts_per_tok".into(), whole("expert_used_count")?.into());
    }
    Ok(json)
}

/// `rope_scaling`, where there is one.
fn scaling(
    keys: &Keys,
    architecture: &str,
    factors: Option<&Listed>,
    bytes: &[u8],
) -> Found<Option<Map<String, Value>>> {
    let own = |name: &str| format!("{architecture}.rope.{name}");
    let object = |value: Value| value.as_object().cloned();
    if let Some(listed) = factors {
        // llama.cpp's files have the factors alone: those of Llama 3.1, 3.2 and 3.3 come of these numbers.
        let most = rope_values(listed, bytes)?.iter().fold(0.0f32, |most, value| most.max(*value));
        let [factor, low, high, original] = ROPE_KEYS.map(|key| format!("{architecture}.{key}"));
        let number = |key: &str, other: f32| Found::Ok(number_json(keys.number(key)?.or(Some(other))));
        return Ok(object(json!({
            "rope_type": "llama3", "factor": number(&factor, most)?, "low_freq_factor": number(&low, 1.0)?,
            "high_freq_factor": number(&high, 4.0)?,
            "original_max_position_embeddings": keys.whole(&original)?.unwrap_or(8192),
        })));
    }
    let factor = keys.number(&own("scaling.factor"))?;
    match keys.text(&own("scaling.type"))? {
        None | Some("none") => Ok(None),
        Some("linear") => Ok(object(json!({"rope_type": "linear", "factor": number_json(factor)}))),
        Some(other) => Err(format!("its RoPE is scaled by {}, and none and linear can be read", one_line(other))),
    }
}

fn rope_values(listed: &Listed, bytes: &[u8]) -> Found<Vec<f32>> {
    if listed.value_type != ValueType::F32 {
        return Err(format!("{ROPE_FACTORS} is not F32"));
    }
    Ok(bytes[listed.range.clone()].as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
}

/// Fails unless the file's factors are those of the model that was made of the largest.
fn check_rope_factors(config: &Config, listed: Option<&Listed>, bytes: &[u8]) -> Found<()> {
    let Some(listed) = listed else { return Ok(()) };
    let (found, expected) = (rope_values(listed, bytes)?, rope_factors(config).unwrap_or_default());
    // Both are quotients of f32 that were rounded a few times.
    let near = |(found, expected): (&f32, &f32)| (found - expected).abs() <= 1e-4 * expected.abs();
    if found.len() != expected.len() || !found.iter().zip(&expected).all(near) {
        return Err(format!("{ROPE_FACTORS} is not of Llama 3.1's kind, which alone is known here"));
    }
    Ok(())
}

/// Fails where the metadata describes a model far larger than the file, before its tensors are listed one by one.
fn check_size(config: &Config, listed: &HashMap<String, Listed>) -> Found<()> {
    let values = listed.values().map(|tensor| tensor.shape.iter().product::<usize>() as u64);
    let (described, found) = (config.parameter_count(), values.fold(0u64, u64::saturating_add));
    if described / 2 > found {
        return Err(format!("its metadata describes {described} parameters, and its tensors have {found}"));
    }
    Ok(())
}

/// The file's tensors under the names that they have in a model folder.
fn entries(config: &Config, listed: &HashMap<String, Listed>) -> Found<HashMap<String, Entry>> {
    let tensors = tensors(config).map_err(|name| format!("llama.cpp has no tensor for {name}"))?;
    let mut entries = HashMap::new();
    for tensor in &tensors {
        let Some(found) = listed.get(&tensor.name) else {
            return Err(format!("it lacks {}, which its metadata asks for", tensor.name));
        };
        entries.extend(parts(tensor, found)?);
    }
    let known = |name: &&String| *name == ROPE_FACTORS || tensors.iter().any(|tensor| tensor.name == **name);
    match listed.keys().filter(|name| !known(name)).min() {
        Some(extra) => Err(format!("it holds {}, which its metadata does not ask for", one_line(extra))),
        None => Ok(entries),
    }
}

fn parts(tensor: &Tensor, found: &Listed) -> Found<Vec<(String, Entry)>> {
    let Tensor { name, parts, part_shape, layout } = tensor;
    if let ValueType::Other(other) = &found.value_type {
        let known = "F32, F16, BF16, Q8_0, Q4_0 and Q6_K can";
        return Err(format!("{name} has type {other}, which cannot be read; {known}"));
    }
    let shape = tensor.shape();
    if found.shape != shape {
        return Err(format!("{name} has shape {:?}, and its metadata asks for {shape:?}", found.shape));
    }
    let size = found.range.len() / parts.len();
    let whole = found.value_type.size_bytes(part_shape.iter().product()) == Some(size);
    if !whole {
        return Err(format!("{name} cannot be cut into {} parts", parts.len()));
    }
    let part = |(i, part): (usize, &String)| {
        let start = found.range.start + i * size;
        let value_type = found.value_type.clone();
        let name = part.clone();
        (name, Entry { value_type, shape: part_shape.clone(), range: start..start + size, layout: *layout })
    };
    Ok(parts.iter().enumerate().map(part).collect())
}
