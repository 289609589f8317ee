//! A fine-tuned model's folder: a model folder with the head's weights beside the model's, and `task.json`: the head's
//! task, labels and input form. `transformers` loads a classifier as `...ForSequenceClassification`, and its own folders are
//! read as well: they have no `task.json`, and their texts only
//! the tokens of the tokenizer's template.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::head::{Head, OfEncoder};
use crate::data::labelled::Task;
use crate::data::labelled::sequences::Special;
use crate::data::labelled::target::{ANY, Target};
use crate::data::masking::EncoderTokens;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{one_line, write_bytes};
use crate::formats::adapter;
use crate::formats::folder::{CONFIG_FILE, NamedTensor, WEIGHTS_FILE, WeightType, Weights, write_weights};
use crate::formats::source::ModelSource;
use crate::models::config::Config;

/// `task.json`: the task of the head, its labels and its input form.
pub const TASK_FILE: &str = "task.json";

/// How the classes of `transformers` end whose heads give each choice a score.
const CHOOSER: &str = "ForMultipleChoice";

/// `task.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFile {
    #[serde(serialize_with = "task_name", deserialize_with = "task_named")]
    pub task: Task,
    pub target: Target,
    /// None: texts have around them what the tokenizer puts there.
    pub special: Option<Special>,
    /// Tokens of a sequence, at most.
    pub longest: usize,
    /// Columns of its data that are not called as their options: option to name.
    pub columns: BTreeMap<String, String>,
    /// A token that does not count at the end of a text, where the model names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<u32>,
    /// Of an encoder: the token behind each text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<u32>,
}

/// A model with a head, read but not on a device yet.
pub struct Finetuned {
    pub config: Config,
    pub weights: Weights,
    /// Names, shapes and values of the head's tensors: the weight (outputs, C), and its bias where it has one.
    pub head: Vec<HeadTensor>,
    pub task: TaskFile,
    pub tokenizer: Tokenizer,
}

impl TaskFile {
    /// The head for batches of one size, without dropout.
    pub fn head(&self, config: &Config, batch: usize) -> Head {
        let of = |separator| config.encoder.map(|encoder| OfEncoder { separator, types: encoder.token_types > 1 });
        let encoder = self.separator.and_then(of);
        Head { task: self.task, target: self.target.clone(), width: config.width, batch, dropout: 0.0, encoder }
    }

    /// Reads it, where a model has one.
    pub fn read(source: &ModelSource) -> Result<Option<TaskFile>> {
        let Some(text) = source.text(TASK_FILE)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            let (path, problem) = (source.path(TASK_FILE), one_line(&error.to_string()));
            Error::Input(format!("{} is not a task.json of wgpt finetune ({problem}); copy it again", path.display()))
        })
    }
}

/// Writes the folder; `parameters` are the model's and the head's. The weights go last.
pub fn save(
    folder: &Path,
    config: &Config,
    task: &TaskFile,
    tokenizer: &Tokenizer,
    parameters: &[NamedTensor],
) -> Result<()> {
    let text = serde_json::to_string_pretty(task).expect("strings and numbers always serialise") + "\n";
    write(folder, config, (&text, &config_json(config, task, WeightType::F32)), tokenizer, parameters)
}

/// Writes the folder of a model with a head, with its `task.json` and its `config.json`. The weights go last.
pub fn write(
    folder: &Path,
    config: &Config,
    (task, config_json): (&str, &str),
    tokenizer: &Tokenizer,
    parameters: &[NamedTensor],
) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    write_bytes(&folder.join(TASK_FILE), task.as_bytes())?;
    if config.lora.is_some() {
        return adapter::write_folder(folder, config, parameters, Some(tokenizer));
    }
    write_bytes(&folder.join(CONFIG_FILE), config_json.as_bytes())?;
    tokenizer.save(folder)?;
    write_weights(&folder.join(WEIGHTS_FILE), &config.stored(parameters), &[], WeightType::F32)
}

/// Name, shape and values of a tensor of a head.
pub type HeadTensor = (&'static str, Vec<usize>, Vec<f32>);

/// The tensors of a head in a model's files, which have the shapes that its task asks for: the weight, and its bias where it has one.
pub fn head_of(
    source: &ModelSource,
    config: &Config,
    weights: &Weights,
    wanted: &[Vec<usize>],
) -> Result<Vec<HeadTensor>> {
    let owned = |(name, shape, values): crate::formats::folder::HeadTensor| (name, shape.to_vec(), values.into_owned());
    let head: Vec<HeadTensor> = weights.head()?.into_iter().map(owned).collect();
    if head.is_empty() {
        let (place, name) = (source.path(""), config.family().task_heads()[0]);
        fail!(Input, "{} has no head ({name}): fine-tune it first, with wgpt finetune", place.display());
    }
    let found: Vec<&Vec<usize>> = head.iter().map(|(_, shape, _)| shape).collect();
    if !found.iter().copied().eq(wanted) {
        fail!(
            Input,
            "{}: the head has shape {found:?}, and its labels ask for {wanted:?}: the files do not belong together",
            source.path(WEIGHTS_FILE).display()
        );
    }
    Ok(head)
}

/// The name of the task of a model's head: from `task.json`, or of a folder of `transformers` from its class.
pub fn task_name_of(source: &ModelSource) -> Result<String> {
    let read = |file: &str| -> Result<Value> {
        Ok(source.text(file)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    };
    if let Some(name) = read(TASK_FILE)?["task"].as_str() {
        return Ok(name.into());
    }
    let class = read(CONFIG_FILE)?["architectures"][0].as_str().unwrap_or_default().to_string();
    Ok(match () {
        () if class.ends_with("ForTokenClassification") => "tag".into(),
        () if class.ends_with("ForQuestionAnswering") => "answer".into(),
        () if class.ends_with("ForConditionalGeneration") => "text".into(),
        () if class.ends_with(CHOOSER) => Task::Choose.name().into(),
        () => Task::Classify.name().into(),
    })
}

/// The model's `config.json`; where the head is one of `transformers`, as a classifier's.
pub fn config_json(config: &Config, task: &TaskFile, weights: WeightType) -> String {
    let text = config.to_json_for(weights.name());
    let mut object: Value = serde_json::from_str(&text).expect("our own JSON");
    let [classifier, chooser, ..] = match object["architectures"][0].as_str() {
        Some(class) => config.family().classes_with_heads(class),
        None => Default::default(),
    };
    // A decoder's head on both orders of a pair is none of transformers'.
    let one_sequence = task.separator.is_some() || matches!(task.task, Task::Classify | Task::Entail);
    let class = if task.task == Task::Choose { chooser } else { classifier.filter(|_| one_sequence) };
    let Some(classifier) = class else { return text };
    match (&task.target, task.special) {
        (Target::Labels(labels), Some(special)) => {
            object["id2label"] = labels.iter().enumerate().map(|(id, label)| (id.to_string(), json!(label))).collect();
            object["label2id"] = labels.iter().enumerate().map(|(id, label)| (label.clone(), json!(id))).collect();
            object["problem_type"] = "single_label_classification".into();
            // The head looks at the last token that is not padding: any but the one that comes last will do.
            object["pad_token_id"] = task.pad.unwrap_or(special.start).into();
        }
        (Target::Choices(_), _) => object["pad_token_id"] = task.pad.into(),
        (Target::Grade, _) => {
            (object["id2label"], object["label2id"]) = (json!({"0": "LABEL_0"}), json!({"LABEL_0": 0}));
            object["problem_type"] = "regression".into();
            object["pad_token_id"] = task.pad.into();
        }
        _ => return text,
    }
    object["architectures"] = json!([classifier]);
    serde_json::to_string_pretty(&object).expect("our own JSON") + "\n"
}

/// Opens a fine-tuned model, or a classifier of `transformers`.
pub fn open(source: &ModelSource) -> Result<Finetuned> {
    let (config, weights) = source.model()?;
    let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
    let outputs = weights.head()?.first().map_or(0, |(_, shape, _)| shape[0]);
    let task = match TaskFile::read(source)? {
        Some(task) => task,
        None => foreign(source, &config, &tokenizer, outputs)?,
    };
    let wanted: Vec<_> = task.head(&config, 1).parameters().into_iter().map(|(_, dims)| dims).collect();
    let head = head_of(source, &config, &weights, &wanted)?;
    Ok(Finetuned { config, weights, head, task, tokenizer })
}

/// The target of a classifier of `transformers`, from its `config.json`.
fn foreign(source: &ModelSource, config: &Config, tokenizer: &Tokenizer, outputs: usize) -> Result<TaskFile> {
    let text = source.text(CONFIG_FILE)?.unwrap_or_default();
    let object: Value = serde_json::from_str(&text).unwrap_or_default();
    let is_chooser = object["architectures"][0].as_str().is_some_and(|class| class.ends_with(CHOOSER));
    let name = |id: usize| object["id2label"][id.to_string()].as_str().map_or(format!("LABEL_{id}"), str::to_string);
    let named = object["id2label"].as_object().map_or(outputs, |names| names.len());
    let grades = outputs == 1 && object["problem_type"] != "single_label_classification";
    if object["problem_type"] == "multi_label_classification" {
        fail!(Input, "{}: several labels at once are not supported", source.path(CONFIG_FILE).display());
    }
    if named != outputs && !grades && !is_chooser {
        let path = source.path(CONFIG_FILE);
        fail!(
            Input,
            "{} names {named} labels and the head has {outputs} outputs: copy both files again",
            path.display()
        );
    }
    Ok(TaskFile {
        task: if is_chooser { Task::Choose } else { Task::Classify },
        target: if is_chooser {
            Target::Choices(ANY)
        } else if grades {
            Target::Grade
        } else {
            Target::Labels((0..outputs).map(name).collect())
        },
        special: None,
        longest: config.context,
        separator: config.encoder.and(EncoderTokens::of(tokenizer)).map(|tokens| tokens.separator),
        columns: BTreeMap::new(),
        pad: object["pad_token_id"].as_u64().and_then(|id| u32::try_from(id).ok()),
    })
}

fn task_name<S: Serializer>(task: &Task, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(task.name())
}

fn task_named<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Task, D::Error> {
    let name = String::deserialize(deserializer)?;
    Task::named(&name).map_err(serde::de::Error::custom)
}
