//! What a model family says of itself; everything else is the same for all of them.

use std::fmt::Debug;
use std::path::Path;

use serde_json::Value;

use super::config::Config;
use super::experts::Routed;
use super::keys::{Found, Keys, shown};
use super::model::{Model, Past};
use super::{gpt, gpt2, llama};
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};

/// A model file: parameters, graph, and how Hugging Face writes it down.
pub trait Family: Debug + Sync {
    /// What people call it.
    fn name(&self) -> &'static str;

    /// Values of `model_type` in a `config.json`, that of new models first.
    fn model_types(&self) -> &'static [&'static str];

    /// Reads a `config.json`. Absent optional keys take the values that `transformers` gives them; sizes must be present.
    /// What would change the model's arithmetic and is not implemented is refused by name; keys that are unknown there and
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

    /// See [`Config::parameters`].
    fn parameters(&self, config: &Config) -> Vec<(String, Vec<usize>)>;

    /// The tensors that a parameter has in files where it has not one of its own name and shape; see [`Config::parts`].
    fn parts(&self, _config: &Config, _name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        None
    }

    /// What `transformers` puts before the name of every tensor but the head's.
    fn prefix(&self) -> &'static str;

    /// Name of the token embedding.
    fn embedding(&self) -> &'static str;

    /// Name of the table of learned positions.
    fn positions(&self) -> Option<&'static str> {
        None
    }

    /// Whether a tensor in a file is a constant that old versions of `transformers` saved.
    fn is_buffer(&self, name: &str) -> bool;

    /// Hidden states (B, T, C) of ids (B, T) after the last norm. What routers decide on the way is added to `routed`.
    fn hidden(&self, model: &Model, g: &mut Graph, ids: Tensor, past: Past, routed: &mut Vec<Routed>) -> Tensor;
}

impl PartialEq for dyn Family {
    fn eq(&self, other: &dyn Family) -> bool {
        self.name() == other.name()
    }
}

/// All families; the first is meant where a `config.json` does not say.
const FAMILIES: [&dyn Family; 3] = [&gpt2::Gpt2, &gpt::Gpt, &llama::Llama];

impl Config {
    /// Reads a Hugging Face `config.json`; `origin` is the file that errors name. See [`Family::read`].
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        let at = |problem: String| Error::Input(format!("{}: {problem}", origin.display()));
        let config = parse(text).map_err(at)?;
        config.problem().map_or(Ok(config), |problem| Err(at(problem)))
    }

    /// The `config.json` that `transformers` loads, for weights in f32.
    pub fn to_json(&self) -> String {
        self.to_json_for("float32")
    }

    /// As [`Config::to_json`], for weights of type `dtype`, as PyTorch calls it.
    pub fn to_json_for(&self, dtype: &'static str) -> String {
        self.family.write(self, dtype)
    }
}

fn parse(text: &str) -> Found<Config> {
    let keys = Keys::parse(text, "config.json")?;
    if let Some(value) = keys.get("quantization_config") {
        return Err(format!("quantization_config is {}, but quantised weights are not supported", shown(value)));
    }
    let Some(model_type) = keys.get("model_type") else { return FAMILIES[0].read(&keys) };
    let known = |family: &&&dyn Family| family.model_types().iter().any(|name| model_type == name);
    match FAMILIES.iter().find(known) {
        Some(family) => family.read(&keys),
        None => {
            let names: Vec<_> = FAMILIES.iter().flat_map(|family| family.model_types()).copied().collect();
            Err(format!("model_type is {}, but only {} are supported here", shown(model_type), names.join(", ")))
        }
    }
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

/// What `transformers` calls the classifier over the body of a language model.
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
