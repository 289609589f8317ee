//! All families, by name and by `model_type`.

use std::path::Path;

use super::config::{Config, Kept};
use super::family::Family;
use super::keys::{Found, Keys, shown};
use super::{bert, gpt, gpt_neo, gpt2, llama, t5, transfo_xl};
use crate::error::{Error, Result};

/// All families; the first is meant where a `config.json` does not say.
const FAMILIES: [&dyn Family; 7] =
    [&gpt2::Gpt2, &gpt::Gpt, &llama::Llama, &bert::Bert, &gpt_neo::GptNeo, &t5::T5, &transfo_xl::TransfoXl];

impl Config {
    /// The family that builds this model.
    pub fn family(&self) -> &'static dyn Family {
        let found = FAMILIES.iter().find(|family| family.name() == self.family);
        *found.unwrap_or_else(|| panic!("there is no family called {}", self.family))
    }

    /// Refuses sizes that make no model or that the kernels do not cover, as a usage error with the remedy.
    pub fn validate(&self) -> Result<()> {
        self.family_problem().map_or(Ok(()), |problem| Err(Error::Usage(problem)))
    }

    fn family_problem(&self) -> Option<String> {
        self.problem().or_else(|| {
            (self.kv_heads != self.heads && !self.family().shares_heads()).then(|| {
                format!(
                    "every head of {} has its own keys and values: leave out --kv-heads, which is for llama presets",
                    self.family
                )
            })
        })
    }

    /// Reads a Hugging Face `config.json`; `origin` is the file that errors name. See [`Family::read`].
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        let at = |problem: String| Error::Input(format!("{}: {problem}", origin.display()));
        let config = parse(text).map_err(at)?;
        config.family_problem().map_or(Ok(config), |problem| Err(at(problem)))
    }

    /// The `config.json` that `transformers` loads, for weights in f32.
    pub fn to_json(&self) -> String {
        self.to_json_for("float32")
    }

    /// As [`Config::to_json`], for weights of type `dtype`, as PyTorch calls it.
    pub fn to_json_for(&self, dtype: &'static str) -> String {
        let written = self.family().write(self, dtype);
        if self.kept.0.is_empty() {
            return written;
        }
        let mut all = self.kept.0.clone();
        all.append(&mut serde_json::from_str(&written).expect("our own JSON"));
        serde_json::to_string_pretty(&all).expect("JSON always serialises") + "\n"
    }
}

/// Keys that are not kept: of the program that wrote the file, and of a classifier's head, which has its own folder.
const NOT_KEPT: [&str; 8] = [
    "_name_or_path",
    "architectures",
    "auto_map",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "transformers_version",
];

fn parse(text: &str) -> Found<Config> {
    let keys = Keys::parse(text, "config.json")?;
    let config = read(&keys)?;
    let kept = keys.entries().filter(|(key, _)| !NOT_KEPT.contains(&key.as_str()));
    let kept = Kept(kept.map(|(key, value)| (key.clone(), value.clone())).collect());
    Ok(if config.family().keeps_keys(&config) { Config { kept, ..config } } else { config })
}

fn read(keys: &Keys) -> Found<Config> {
    if let Some(value) = keys.get("quantization_config") {
        return Err(format!("quantization_config is {}, but quantised weights are not supported", shown(value)));
    }
    let Some(model_type) = keys.get("model_type") else { return FAMILIES[0].read(keys) };
    let known = |family: &&&dyn Family| family.model_types().iter().any(|name| model_type == name);
    match FAMILIES.iter().find(known) {
        Some(family) => family.read(keys),
        None => {
            let names: Vec<_> = FAMILIES.iter().flat_map(|family| family.model_types()).copied().collect();
            Err(format!("model_type is {}, but only {} are supported here", shown(model_type), names.join(", ")))
        }
    }
}
