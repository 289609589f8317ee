//! A text-to-text model's folder: the model's own, which `transformers` loads, and `task.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Item, NAME};
use crate::data::labelled;
use crate::data::labelled::{Column, Form};
use crate::data::lines::place;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;
use crate::formats::folder::{NamedTensor, WeightType, Weights};
use crate::formats::source::ModelSource;
use crate::models::config::Config;
use crate::objectives::labelled::folder::{TASK_FILE, write};

/// `task.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFile {
    /// [`NAME`].
    pub task: String,
    /// Stands before every input.
    pub prefix: String,
    /// Tokens of an input, and of a target, at most.
    pub longest: usize,
    /// Columns of its data that are not called as their options: option to name.
    pub columns: BTreeMap<String, String>,
}

/// A text-to-text model, read but not on a device yet.
pub struct TextModel {
    pub config: Config,
    pub weights: Weights,
    pub task: TextFile,
    pub tokenizer: Tokenizer,
}

impl TextFile {
    pub fn new(prefix: String, longest: usize, columns: BTreeMap<String, String>) -> TextFile {
        TextFile { task: NAME.into(), prefix, longest, columns }
    }

    /// The columns of its files.
    pub fn form(&self) -> Result<Form> {
        let mut form = Form { texts: vec![Column::new("input")], choices: None, label: Column::new("target") };
        for (option, name) in &self.columns {
            match option.as_str() {
                "input" => form.texts[0].name.clone_from(name),
                "target" => form.label.name.clone_from(name),
                _ => fail!(Usage, "--task text has no column --{option}: its columns are --input and --target"),
            }
        }
        Ok(form)
    }

    /// The rows of a file, ready to be fed; with `targets` each must have one.
    pub fn items(&self, tokenizer: &Tokenizer, path: &Path, targets: bool) -> Result<Vec<Item>> {
        self.encoded(labelled::read(path, &self.form()?, targets)?, tokenizer, path)
    }

    /// Rows, ready to be fed; `path` names their file in errors.
    pub fn encoded(&self, rows: Vec<labelled::Example>, tokenizer: &Tokenizer, path: &Path) -> Result<Vec<Item>> {
        let item = |row: labelled::Example| {
            let place = place(path, row.line);
            let input = format!("{}{}", self.prefix, row.texts[0]);
            let (source, cut) = tokenizer.encode_within(&input, self.longest).map_err(|e| e.in_place(&place))?;
            let target = match &row.label {
                None => vec![],
                Some(text) => tokenizer.encode_prompt(text).map_err(|e| e.in_place(&place))?,
            };
            if target.len() > self.longest {
                let (has, longest) = (target.len(), self.longest);
                fail!(
                    Input,
                    "the target in {place} has {has} tokens, and the decoder writes at most {longest}: shorten it, or give --max-length"
                );
            }
            if source.is_empty() || (row.label.is_some() && target.is_empty()) {
                fail!(Input, "{place} has an empty input or target: fill it in or remove it");
            }
            Ok(Item { line: row.line, source, target, text: row.label, cut })
        };
        rows.into_iter().map(item).collect()
    }
}

/// Writes the folder.
pub fn save(
    folder: &Path,
    config: &Config,
    task: &TextFile,
    tokenizer: &Tokenizer,
    parameters: &[NamedTensor],
) -> Result<()> {
    let text = serde_json::to_string_pretty(task).expect("strings and numbers always serialise") + "\n";
    write(folder, config, (&text, &config.to_json_for(WeightType::F32.name())), tokenizer, parameters)
}

/// Opens a text-to-text model: one that was fine-tuned, or any encoder and decoder.
pub fn open(source: &ModelSource) -> Result<TextModel> {
    let (config, weights) = source.model()?;
    config.must_read_and_write("answer texts with texts")?;
    let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
    let task = match source.text(TASK_FILE)? {
        Some(text) => serde_json::from_str(&text).map_err(|error| {
            let (path, problem) = (source.path(TASK_FILE), one_line(&error.to_string()));
            Error::Input(format!(
                "{} is not a text-to-text model's task.json ({problem}); copy it again",
                path.display()
            ))
        })?,
        None => TextFile::new(String::new(), config.context, BTreeMap::new()),
    };
    Ok(TextModel { config, weights, task, tokenizer })
}
