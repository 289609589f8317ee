//! Where a model's files come from: a folder as Hugging Face lays it out, a GGUF file, or files compiled into the program.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapter::{self, ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use super::folder::{CONFIG_FILE, WEIGHTS_FILE, Weights};
use super::generation_config::GenerationConfig;
use super::gguf::Gguf;
use super::safetensors::TensorFile;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::models::config::Config;
use crate::models::known_keys::unheeded_of;
use crate::models::lora::Lora;

/// A model's files by name: `config.json`, `model.safetensors`, `tokenizer.json` and others.
#[derive(Debug, Clone)]
pub enum ModelSource {
    Folder(PathBuf),
    /// A name for messages, and the files: (name, bytes).
    Embedded(&'static str, &'static [(&'static str, &'static [u8])]),
    /// A GGUF file, which stands for a folder.
    Gguf(Arc<Gguf>),
    /// A folder of adapters, whose files stand before those of the model that they are on.
    Adapter {
        folder: PathBuf,
        base: Box<ModelSource>,
    },
}

impl<P: AsRef<Path> + ?Sized> From<&P> for ModelSource {
    fn from(folder: &P) -> Self {
        ModelSource::folder(folder.as_ref())
    }
}

impl ModelSource {
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        ModelSource::Folder(path.into())
    }

    /// The model in a folder, or in a GGUF file: where a folder holds adapters, the model that they are on with them.
    pub fn open(folder: &Path) -> Result<Self> {
        if folder.is_file() {
            return Ok(ModelSource::Gguf(Arc::new(Gguf::open(folder)?)));
        }
        match adapter::is_adapter(folder) {
            true => Ok(adapter::base(folder)?.adapted(folder)),
            false => Ok(ModelSource::folder(folder)),
        }
    }

    /// This model with the adapters in a folder.
    pub fn adapted(self, folder: &Path) -> Self {
        ModelSource::Adapter { folder: folder.into(), base: Box::new(self) }
    }

    /// The path to name the model by in files of others; nothing for one that is compiled in.
    pub fn name(&self) -> Option<String> {
        let absolute = |path: &Path| {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
            Some(absolute.to_string_lossy().into_owned())
        };
        match self {
            ModelSource::Folder(folder) => absolute(folder),
            ModelSource::Gguf(file) => absolute(file.path()),
            ModelSource::Embedded(..) => None,
            ModelSource::Adapter { base, .. } => base.name(),
        }
    }

    /// A model that is compiled in: `files` as `&[("config.json", include_bytes!(..)), ..]`.
    pub fn embedded(name: &'static str, files: &'static [(&'static str, &'static [u8])]) -> Self {
        ModelSource::Embedded(name, files)
    }

    /// The shape of the model; everything unsupported is refused here, before any weights are opened.
    pub fn config(&self) -> Result<Config> {
        if let ModelSource::Adapter { folder, base } = self {
            let path = folder.join(ADAPTER_CONFIG_FILE);
            let Some(text) = self.text(ADAPTER_CONFIG_FILE)? else {
                let folder = folder.display();
                fail!(
                    Input,
                    "{folder} holds no adapter: it has no {ADAPTER_CONFIG_FILE}; give a folder that peft or wgpt wrote"
                );
            };
            let tensors = TensorFile::open(&folder.join(ADAPTER_FILE))?;
            let config = base.config()?;
            if config.lora.is_some() {
                fail!(Input, "{} is an adapter itself: merge it with wgpt merge first", base.path("").display());
            }
            let lora = adapter::read(&text, &path, &tensors.names(), &config)?;
            let lora = Lora { base: base.name(), ..lora }.check(&config).map_err(|error| {
                let adapter = folder.display();
                Error::Input(format!("the adapter {adapter} is not of this model: {error}"))
            })?;
            // The embedding table may have rows for more tokens where it is saved beside the adapters.
            let family = config.family();
            let table = format!("{}{}{}", adapter::PREFIX, family.prefix(), family.embedding());
            let rows = tensors.shape(&table).map(|shape| shape[0]);
            let config = Config { vocab_size: rows.unwrap_or(config.vocab_size), lora: Some(lora), ..config };
            config.validate()?;
            return Ok(config);
        }
        let Some(text) = self.text(CONFIG_FILE)? else { return Err(self.lacks(CONFIG_FILE)) };
        Config::from_json(&text, &self.path(CONFIG_FILE))
    }

    /// The model's parameters, checked against its configuration.
    pub fn weights(&self, config: &Config) -> Result<Weights> {
        Weights::open(self.clone(), config)
    }

    /// The shape of the model and its parameters, also of a classifier, which has no output projection whatever its
    /// configuration says of tied ones.
    pub fn model(&self) -> Result<(Config, Weights)> {
        let config = self.config()?;
        match self.weights(&config) {
            Ok(weights) => Ok((config, weights)),
            Err(error) => {
                let tied = Config { tied: true, ..config };
                let weights = self.weights(&tied).ok().filter(Weights::has_head).ok_or(error)?;
                Ok((tied, weights))
            }
        }
    }

    /// Keys of its `config.json` that are passed over although they ask for something, one sentence each, to tell the user.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let unheeded = self.text(CONFIG_FILE)?.and_then(|text| unheeded_of(&text).ok()).unwrap_or_default();
        let of_adapter = self.text(ADAPTER_CONFIG_FILE)?.map(|text| adapter::unheeded_keys(&text)).unwrap_or_default();
        let model =
            unheeded.into_iter().map(|key| format!("the model's {CONFIG_FILE} has {key}, which is not known here"));
        let adapter = of_adapter
            .into_iter()
            .map(|key| format!("the adapter's {ADAPTER_CONFIG_FILE} has {key}, which is not implemented"));
        Ok(model.chain(adapter).collect())
    }

    /// `tokenizer.json`, or else `vocab.json` and `merges.txt`, or else `vocab.txt`.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_model(&|file| self.bytes(file), &self.path(""))
    }

    /// How the model's makers would have it sampled; all absent where they do not say.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        GenerationConfig::open(self)
    }

    /// A file's name in messages.
    pub fn path(&self, file: &str) -> PathBuf {
        match self {
            ModelSource::Folder(folder) => folder.join(file),
            ModelSource::Embedded(name, _) => Path::new(name).join(file),
            ModelSource::Gguf(gguf) => gguf.path().into(),
            ModelSource::Adapter { folder, base } => match file.is_empty() || folder.join(file).exists() {
                true => folder.join(file),
                false => base.path(file),
            },
        }
    }

    pub fn has(&self, file: &str) -> bool {
        match self {
            ModelSource::Folder(folder) => folder.join(file).exists(),
            ModelSource::Embedded(..) => self.embedded_file(file).is_some(),
            ModelSource::Gguf(gguf) => file == WEIGHTS_FILE || gguf.file(file).is_some(),
            ModelSource::Adapter { folder, base } => folder.join(file).exists() || base.has(file),
        }
    }

    /// A file's bytes, or nothing where there is no such file.
    pub fn bytes(&self, file: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            ModelSource::Folder(folder) => read(&folder.join(file)),
            ModelSource::Embedded(..) => Ok(self.embedded_file(file).map(Cow::Borrowed)),
            ModelSource::Gguf(gguf) => Ok(gguf.file(file)),
            ModelSource::Adapter { folder, base } => match read(&folder.join(file))? {
                Some(bytes) => Ok(Some(bytes)),
                None => base.bytes(file),
            },
        }
    }

    /// A file's text, or nothing where there is no such file.
    pub fn text(&self, file: &str) -> Result<Option<String>> {
        let Some(bytes) = self.bytes(file)? else { return Ok(None) };
        match String::from_utf8(bytes.into_owned()) {
            Ok(text) => Ok(Some(text)),
            Err(_) => fail!(Input, "{} is not UTF-8 text", self.path(file).display()),
        }
    }

    /// Opens a file of tensors, which must be there.
    pub fn tensors(&self, file: &str) -> Result<TensorFile> {
        match self {
            ModelSource::Folder(folder) => TensorFile::open(&folder.join(file)),
            ModelSource::Embedded(..) => match self.embedded_file(file) {
                Some(bytes) => TensorFile::embedded(&self.path(file), bytes),
                None => Err(self.lacks(file)),
            },
            ModelSource::Gguf(gguf) => gguf.tensors(),
            ModelSource::Adapter { base, .. } => base.tensors(file),
        }
    }

    /// That a file which makes a folder a model folder is not there.
    pub(super) fn lacks(&self, file: &str) -> Error {
        let place = self.path("");
        let place = place.display();
        if self.has("pytorch_model.bin") && file != CONFIG_FILE {
            let remedy = "load it in transformers and save it with save_pretrained";
            return Error::Input(format!("{place} holds pytorch_model.bin but no {file}: {remedy}"));
        }
        Error::Input(format!("{place} is not a model folder: it has no {file}; give a folder in Hugging Face's layout"))
    }

    fn embedded_file(&self, file: &str) -> Option<&'static [u8]> {
        match self {
            ModelSource::Folder(_) | ModelSource::Gguf(_) | ModelSource::Adapter { .. } => None,
            ModelSource::Embedded(_, files) => files.iter().find(|(name, _)| *name == file).map(|(_, bytes)| *bytes),
        }
    }
}

/// A file's bytes, or nothing where there is no such file.
fn read(path: &Path) -> Result<Option<Cow<'static, [u8]>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes.into())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
