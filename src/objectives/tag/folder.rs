//! A tagger's folder: an encoder's with the head's weights beside the model's, which `transformers` loads as
//! `BertForTokenClassification`, and `task.json`. Folders of `transformers` are read as well: their labels are in `config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NAME;
use crate::data::tagged::tags::Labels;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;
use crate::formats::folder::{CONFIG_FILE, NamedTensor, WeightType, Weights};
use crate::formats::source::ModelSource;
use crate::models::config::Config;
use crate::objectives::labelled::folder::{HeadTensor, TASK_FILE, head_of, write};

/// `task.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagFile {
    /// [`NAME`].
    pub task: String,
    pub labels: Labels,
    /// Tokens of a sequence, at most.
    pub longest: usize,
    /// Columns of its data that are not called as their options: option to name.
    pub columns: BTreeMap<String, String>,
}

impl TagFile {
    pub fn new(labels: Labels, longest: usize, columns: BTreeMap<String, String>) -> TagFile {
        TagFile { task: NAME.into(), labels, longest, columns }
    }
}

/// An encoder with a head on tokens, read but not on a device yet.
pub struct Tagger {
    pub config: Config,
    pub weights: Weights,
    pub head: Vec<HeadTensor>,
    pub task: TagFile,
    pub tokenizer: Tokenizer,
}

/// Writes the folder; `parameters` are the model's and the head's.
pub fn save(
    folder: &Path,
    config: &Config,
    task: &TagFile,
    tokenizer: &Tokenizer,
    parameters: &[NamedTensor],
) -> Result<()> {
    let text = serde_json::to_string_pretty(task).expect("strings and numbers always serialise") + "\n";
    write(folder, config, (&text, &config_json(config, task)), tokenizer, parameters)
}

/// The `config.json` of a tagger of `transformers`.
fn config_json(config: &Config, task: &TagFile) -> String {
    let text = config.to_json_for(WeightType::F32.name());
    let mut object: Value = serde_json::from_str(&text).expect("our own JSON");
    let [.., Some(class), _] = config.family().classes_with_heads("") else { return text };
    let names = || task.labels.names().iter().enumerate();
    object["architectures"] = json!([class]);
    object["id2label"] = names().map(|(id, name)| (id.to_string(), json!(name))).collect();
    object["label2id"] = names().map(|(id, name)| (name.clone(), json!(id))).collect();
    serde_json::to_string_pretty(&object).expect("our own JSON") + "\n"
}

/// Opens a tagger of this program's or of `transformers`.
pub fn open(source: &ModelSource) -> Result<Tagger> {
    let (config, weights) = source.model()?;
    let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
    let task = match source.text(TASK_FILE)? {
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            let (path, problem) = (source.path(TASK_FILE), one_line(&error.to_string()));
            Error::Input(format!("{} is not a tagger's task.json ({problem}); copy it again", path.display()))
        })?,
        None => foreign(source, &config)?,
    };
    let labels = task.labels.names().len();
    let head = head_of(source, &config, &weights, &[vec![labels, config.width], vec![labels]])?;
    Ok(Tagger { config, weights, head, task, tokenizer })
}

/// The labels of a tagger of `transformers`.
fn foreign(source: &ModelSource, config: &Config) -> Result<TagFile> {
    let object: Value = serde_json::from_str(&source.text(CONFIG_FILE)?.unwrap_or_default()).unwrap_or_default();
    let names = object["id2label"].as_object();
    let count = names.map_or(0, |names| names.len());
    let name = |id: usize| names?.get(&id.to_string())?.as_str().map(str::to_string);
    let Some(names) = (0..count).map(name).collect::<Option<Vec<String>>>().filter(|names| !names.is_empty()) else {
        fail!(
            Input,
            "{} has no id2label, which names a tagger's labels: copy it again",
            source.path(CONFIG_FILE).display()
        );
    };
    Ok(TagFile::new(Labels::named(names)?, config.context, BTreeMap::new()))
}
