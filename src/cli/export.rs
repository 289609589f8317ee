//! `wgpt export`: writes a model as a Hugging Face folder, a GGUF file, or a page that runs it in a browser.

mod web;

use super::Global;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use wgpt::data::tokenizer::BESIDE_FILES;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::replacement::Replacement;
use wgpt::files::write_bytes;
use wgpt::formats::folder::{CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Weights, is_model_file};
use wgpt::formats::gguf::{self, Precision};
use wgpt::formats::safetensors::{WeightType, write_weights};
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::labelled::folder::{TASK_FILE, TaskFile, config_json};
use wgpt::train::checkpoint::CHECKPOINTS;

#[derive(clap::Args)]
pub struct Export {
    /// Model folder, GGUF file, or ORG/NAME on the Hugging Face hub
    #[arg(long)]
    pub model: PathBuf,
    /// Folder of adapters on the model, which are added to its weights
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// The folder (hugging-face) or file (gguf) to write
    #[arg(long, required_unless_present = "web")]
    pub out: Option<PathBuf>,
    /// Write a page that runs the model in a browser: a folder for a server, or one file where this ends in .html
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "format"])]
    pub web: Option<PathBuf>,
    /// Output format [default: gguf where --out ends in .gguf, otherwise hugging-face]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// How matrices are stored; q8_0 and q4_0 are for gguf and pages
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// Replace the model in --out
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    HuggingFace,
    Gguf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
}

impl Dtype {
    /// Its name, where only GGUF files have it.
    pub fn of_gguf(self) -> Option<&'static str> {
        match self {
            Dtype::F32 | Dtype::F16 => None,
            Dtype::Q8_0 => Some("q8_0"),
            Dtype::Q4_0 => Some("q4_0"),
        }
    }
}

const SETTINGS_FILE: &str = "tokenizer_config.json";
/// Files that a folder may have beside its weights, copied as they are.
const BESIDE: [&str; 5] = [TOKENIZER_FILE, SETTINGS_FILE, "vocab.json", "merges.txt", "vocab.txt"];

impl Export {
    pub fn run(&self, global: &Global) -> Result<()> {
        if let Some(out) = &self.web {
            return self.page(global, out);
        }
        let is_gguf = self.out().extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        let format = self.format.unwrap_or(if is_gguf { Format::Gguf } else { Format::HuggingFace });
        if let (Format::HuggingFace, Some(name)) = (format, self.dtype.of_gguf()) {
            fail!(Usage, "--dtype {name} is a GGUF type: add --format gguf, or take f32 or f16");
        }
        self.check_target(format)?;
        let source = global.adapted_model(Some(&self.model), self.adapter.as_deref())?;
        self.write(global, &source, format)
    }

    /// Where the model goes.
    fn out(&self) -> &Path {
        self.out.as_deref().unwrap_or(Path::new(""))
    }

    /// Writes a model; adapters on it are added to its weights.
    pub fn write(&self, global: &Global, source: &ModelSource, format: Format) -> Result<()> {
        if same(&source.path(""), self.out()) {
            fail!(Usage, "--out {} is the model itself: give another place", self.out().display());
        }
        let (config, weights) = source.model()?;
        let (config, weights) = weights.merge(&config);
        if let Some(why) = config.family().foreign(&config) {
            fail!(Input, "{} has no other format: {why}", source.path(CONFIG_FILE).display());
        }
        let bytes = match format {
            Format::HuggingFace => self.folder(source, &config, &weights)?,
            Format::Gguf if weights.has_head() => {
                fail!(
                    Input,
                    "{} has a classifier's head, which GGUF has no place for: export a folder",
                    source.path("").display()
                )
            }
            Format::Gguf => self.gguf(global, source, &config, &weights)?,
        };
        let (out, size) = (self.out().display(), indicatif::HumanBytes(bytes));
        global.say(&format!("wrote {out}: {} parameters, {size}", config.parameter_count()));
        Ok(())
    }

    /// Refuses a target that holds something, before any work.
    pub fn check_target(&self, format: Format) -> Result<()> {
        let out = self.out().display();
        let is_folder = self.out().is_dir();
        match format {
            Format::Gguf if is_folder => fail!(Usage, "--out {out} is a folder: give a file, such as model.gguf"),
            Format::Gguf if self.out().exists() && !self.overwrite => {
                fail!(Usage, "{out} exists: give another --out, or --overwrite to replace it")
            }
            Format::HuggingFace if self.out().exists() && !is_folder => {
                fail!(Usage, "--out {out} is a file, and --format hugging-face writes a folder: give another --out")
            }
            Format::HuggingFace if is_folder && !is_empty(self.out())? => {
                if !self.overwrite {
                    fail!(Usage, "{out} is not empty: give another --out, or --overwrite to replace the model in it");
                }
                if !self.out().join(CONFIG_FILE).exists() {
                    fail!(Usage, "{out} is no model folder (it has no {CONFIG_FILE}): give another --out");
                }
                if self.out().join(CHECKPOINTS).exists() {
                    fail!(Usage, "{out} holds a training run, which would no longer fit its model: give another --out");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn gguf(&self, global: &Global, source: &ModelSource, config: &Config, weights: &Weights) -> Result<u64> {
        let precision = match self.dtype {
            Dtype::F32 => Precision::F32,
            Dtype::F16 => Precision::F16,
            Dtype::Q8_0 => Precision::Q8_0,
            Dtype::Q4_0 => Precision::Q4_0,
        };
        let notes = gguf::write(self.out(), config, weights, &source.tokenizer()?, precision)?;
        notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        Ok(fs::metadata(self.out()).map_err(Error::io("read", self.out()))?.len())
    }

    fn folder(&self, source: &ModelSource, config: &Config, weights: &Weights) -> Result<u64> {
        let folder = Replacement::begin(self.out())?;
        self.write_files(folder.path(), source, config, weights)?;
        let mut bytes = 0;
        for entry in list(folder.path())? {
            bytes += entry.metadata().map_err(Error::io("read", &entry.path()))?.len();
        }
        folder.commit(&|path| !path.to_str().is_some_and(is_model_file))?;
        Ok(bytes)
    }

    fn write_files(&self, folder: &Path, source: &ModelSource, config: &Config, weights: &Weights) -> Result<()> {
        let weight_type = if self.dtype == Dtype::F16 { WeightType::F16 } else { WeightType::F32 };
        let parameters = config.parameters();
        let parts: Vec<_> = parameters.iter().flat_map(|(name, dims)| config.parts(name, dims)).collect();
        let values: Vec<Cow<[f32]>> = parts.iter().map(|(name, _)| weights.read(name)).collect::<Result<_>>()?;
        let mut tensors: Vec<_> =
            parts.into_iter().zip(&values).map(|((name, shape), values)| (name, shape, &**values)).collect();
        let head = weights.head()?;
        tensors.extend(head.iter().map(|(name, shape, values)| (name.to_string(), shape.to_vec(), &**values)));
        write_weights(&folder.join(WEIGHTS_FILE), &config.stored(&tensors), &[], weight_type)?;
        let task = TaskFile::read(source)?;
        let written = match (head.is_empty(), &task) {
            (true, _) => config.to_json_for(weight_type.name()),
            (false, Some(task)) => config_json(config, task, weight_type),
            (false, None) => classifier_json(source, config, weight_type)?,
        };
        write_bytes(&folder.join(CONFIG_FILE), written.as_bytes())?;
        let beside = BESIDE.into_iter().chain(BESIDE_FILES).chain((!head.is_empty()).then_some(TASK_FILE));
        for name in beside {
            // Models trained on token ids have an empty tokenizer.json.
            if let Some(bytes) = source.bytes(name)?.filter(|bytes| !bytes.is_empty()) {
                write_bytes(&folder.join(name), &bytes)?;
            }
        }
        // A training run's folder has no settings for its tokenizer.
        if folder.join(TOKENIZER_FILE).exists() && !source.has(SETTINGS_FILE) {
            source.tokenizer()?.save(folder)?;
        }
        Ok(())
    }
}

/// The `config.json` of a classifier of `transformers`, with its own keys of the head.
fn classifier_json(source: &ModelSource, config: &Config, weights: WeightType) -> Result<String> {
    const OF_HEAD: [&str; 7] =
        ["architectures", "id2label", "label2id", "num_labels", "pad_token_id", "problem_type", "tie_word_embeddings"];
    let own: Map<String, Value> =
        serde_json::from_str(&source.text(CONFIG_FILE)?.unwrap_or_default()).unwrap_or_default();
    let mut all: Map<String, Value> = serde_json::from_str(&config.to_json_for(weights.name())).expect("our own JSON");
    all.extend(own.into_iter().filter(|(key, _)| OF_HEAD.contains(&key.as_str())));
    Ok(serde_json::to_string_pretty(&all).expect("JSON always serialises") + "\n")
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect());
    entries.map_err(Error::io("list", folder))
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(list(folder)?.is_empty())
}

fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
