//! The folder of an encoder that answers questions: the head's weights beside the model's, which `transformers` loads as
//! `BertForQuestionAnswering`, and `task.json`. Folders of `transformers` are read as well.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NAME;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::files::one_line;
use crate::formats::folder::{NamedTensor, WeightType, Weights};
use crate::formats::source::ModelSource;
use crate::models::config::Config;
use crate::objectives::labelled::folder::{HeadTensor, TASK_FILE, head_of, write};

/// Tokens of the context that neighbouring windows share, at most: BERT's.
const STRIDE: usize = 128;

/// `task.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFile {
    /// [`NAME`].
    pub task: String,
    /// Tokens of a window, at most.
    pub longest: usize,
    /// Tokens of the context that neighbouring windows share.
    pub stride: usize,
    /// Columns of its data that are not called as their options: option to name.
    pub columns: BTreeMap<String, String>,
}

impl AnswerFile {
    /// Without a stride, BERT's, or a quarter of the window where that is less.
    pub fn new(longest: usize, stride: Option<usize>, columns: BTreeMap<String, String>) -> AnswerFile {
        AnswerFile { task: NAME.into(), longest, stride: stride.unwrap_or(STRIDE.min(longest / 4)), columns }
    }
}

/// An encoder with a head on spans, read but not on a device yet.
pub struct Answerer {
    pub config: Config,
    pub weights: Weights,
    pub head: Vec<HeadTensor>,
    pub task: AnswerFile,
    pub tokenizer: Tokenizer,
}

/// Writes the folder; `parameters` are the model's and the head's.
pub fn save(
    folder: &Path,
    config: &Config,
    task: &AnswerFile,
    tokenizer: &Tokenizer,
    parameters: &[NamedTensor],
) -> Result<()> {
    let text = serde_json::to_string_pretty(task).expect("strings and numbers always serialise") + "\n";
    let mut object: Value = serde_json::from_str(&config.to_json_for(WeightType::F32.name())).expect("our own JSON");
    if let [.., Some(class)] = config.family().classes_with_heads("") {
        object["architectures"] = json!([class]);
    }
    let config_json = serde_json::to_string_pretty(&object).expect("our own JSON") + "\n";
    write(folder, config, (&text, &config_json), tokenizer, parameters)
}

/// Opens a model of this program's or of `transformers`.
pub fn open(source: &ModelSource) -> Result<Answerer> {
    let (config, weights) = source.model()?;
    let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
    let task = match source.text(TASK_FILE)? {
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            let (path, problem) = (source.path(TASK_FILE), one_line(&error.to_string()));
            Error::Input(format!("{} is no task.json of span answers ({problem}); copy it again", path.display()))
        })?,
        None => AnswerFile::new(config.context, None, BTreeMap::new()),
    };
    let head = head_of(source, &config, &weights, &[vec![2, config.width], vec![2]])?;
    Ok(Answerer { config, weights, head, task, tokenizer })
}
