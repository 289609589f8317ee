//! The trait of a model family; everything else is the same for all of them.

use std::fmt::Debug;

use serde_json::Value;

use super::blocks::{CacheMode, Model};
use super::config::Config;
use super::keys::{Found, Keys, shown};
use crate::graph::{Graph, Tensor};

/// A model file: parameters, graph, and how Hugging Face writes it down.
pub trait Family: Debug + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Values of `model_type` in a `config.json`, that of new models first.
    fn model_types(&self) -> &'static [&'static str];

    /// Reads a `config.json`. Absent optional keys take the values that `transformers` gives them; sizes must be present.
    /// A key that asks for arithmetic that is not implemented is refused by name; keys that are unknown there and
    /// here are ignored.
    fn read(&self, keys: &Keys) -> Found<Config>;

    /// The `config.json` that `transformers` loads, for weights of type `dtype`, as PyTorch calls it.
    fn write(&self, config: &Config, dtype: &'static str) -> String;

    /// Why `transformers` has no such model, where it has none.
    fn foreign(&self, _config: &Config) -> Option<&'static str> {
        None
    }

    /// Whether its norm, positions and feed-forward part can be exchanged, one at a time.
    fn is_exchangeable(&self) -> bool {
        false
    }

    /// Whether several heads may share keys and values.
    fn shares_heads(&self) -> bool {
        false
    }

    /// The tensors that a parameter has in files where it has not one of its own name and shape; see [`Config::parts`].
    fn parts(&self, _config: &Config, _name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        None
    }

    /// The layers that have adapters unless others are named, as in peft.
    fn lora_targets(&self) -> &'static [&'static str];

    /// Whether the weights of its linear layers are stored as (inputs, outputs): GPT-2's `Conv1D`.
    fn is_transposed(&self) -> bool {
        false
    }

    /// The prefix that `transformers` gives every tensor but the head's.
    fn prefix(&self) -> &'static str;

    /// Name of the token embedding.
    fn embedding(&self) -> &'static str;

    /// Whether a tensor in a file is a constant that old versions of `transformers` saved.
    fn is_buffer(&self, name: &str) -> bool;

    /// Hidden states (B, T, C) of ids (B, T) after the last norm. Declares every parameter but that of an untied head, in the
    /// order of their use.
    fn hidden(&self, model: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor;
}

/// Refuses a `config.json` for another head over the body than a language model's or a classifier's; `bodies` are the names
/// of the others whose tensors are the same.
pub(super) fn architectures(keys: &Keys, model: &str, bodies: &[&str]) -> Found<()> {
    let classifier = classifier(model).unwrap_or_default();
    let known = |name: &Value| name == model || *name == classifier || bodies.iter().any(|body| name == body);
    match keys.get("architectures") {
        Some(value @ Value::Array(names)) if !names.is_empty() && !names.iter().any(known) => {
            Err(format!("architectures is {}, but only {model} is supported here", shown(value)))
        }
        _ => Ok(()),
    }
}

/// The class of `transformers` for the classifier over the body of a language model.
pub fn classifier(language_model: &str) -> Option<String> {
    let stem = language_model.strip_suffix("LMHeadModel").or_else(|| language_model.strip_suffix("ForCausalLM"))?;
    Some(format!("{stem}ForSequenceClassification"))
}

/// Token ids as Hugging Face writes them: nothing, one, or a list.
pub fn one_or_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => Value::from(*id),
        ids => Value::from(ids),
    }
}
