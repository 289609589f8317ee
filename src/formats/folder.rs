//! A model folder as Hugging Face lays it out: `config.json`, the weights in one safetensors file or in several with an
//! index, `tokenizer.json`.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use super::adapter::{self, ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use super::generation_config::GenerationConfig;
use super::source::ModelSource;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::executor::check_finite;
use crate::fail;
use crate::files::{one_line, write_bytes};
use crate::models::config::Config;
use crate::models::lora::Lora;

pub use super::safetensors::{NamedTensor, TensorFile, WeightType, write_tensors_to, write_weights};

pub const CONFIG_FILE: &str = "config.json";
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Which of several weight files holds which tensor.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Whether a file belongs to a model, so that a new model in its folder replaces it.
pub fn is_model_file(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        ADAPTER_CONFIG_FILE,
        ADAPTER_FILE,
        CONFIG_FILE,
        WEIGHTS_FILE,
        INDEX_FILE,
        TOKENIZER_FILE,
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "vocab.txt",
        "chat_template.jinja",
        "task.json",
    ];
    NAMES.contains(&name) || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// Whether a folder holds a model, or adapters of one.
pub fn holds_model(folder: &Path) -> bool {
    [CONFIG_FILE, ADAPTER_CONFIG_FILE].iter().any(|file| folder.join(file).exists())
}

/// Reads and checks the `config.json` of a model folder.
pub fn read_config(folder: &Path) -> Result<Config> {
    ModelSource::folder(folder).config()
}

/// Writes a folder that `transformers` loads as it is: `config.json`, `generation_config.json` where there is something to
/// say, the weights, and the tokenizer's files. The weights go last: a folder without them is no model yet. Of a model with adapters
/// those alone are written, as peft does.
pub fn write_folder(
    folder: &Path,
    config: &Config,
    tensors: &[NamedTensor],
    tokenizer: Option<&Tokenizer>,
    weights: WeightType,
) -> Result<()> {
    if config.lora.is_some() {
        return adapter::write_folder(folder, config, tensors, tokenizer);
    }
    std::fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))?;
    write_bytes(&folder.join(CONFIG_FILE), config.to_json_for(weights.name()).as_bytes())?;
    if !tokenizer.is_some_and(Tokenizer::has_generation_config) {
        GenerationConfig::of(config).save(folder)?;
    }
    tokenizer.map_or(Ok(()), |tokenizer| tokenizer.save(folder))?;
    write_weights(&folder.join(WEIGHTS_FILE), &config.stored(tensors), &[], weights)
}

impl Config {
    /// Parameters as the tensors of a checkpoint, under the names that `transformers` has for them.
    pub fn stored<'a>(&self, parameters: &[NamedTensor<'a>]) -> Vec<NamedTensor<'a>> {
        let mut stored = vec![];
        for (name, dims, values) in parameters {
            let mut rest = *values;
            for (part, dims) in self.parts(name, dims) {
                let (values, after) = rest.split_at(dims.iter().product());
                rest = after;
                let family = self.family();
                let name = if family.is_prefixed(&part) { format!("{}{part}", family.prefix()) } else { part };
                stored.push((name, dims, values));
            }
        }
        stored
    }
}

/// The weights of a model: every tensor that the configuration asks for, and nothing else. Tensors are those of the files,
/// by their names without prefix; several may be one parameter ([`Config::parts`]).
#[derive(Debug)]
pub struct Weights {
    files: Vec<TensorFile>,
    /// Tensor name, to the file that holds it and its name there.
    places: HashMap<String, (usize, String)>,
    targets: Targets,
    /// Where the tensors of a task's head are, by their names.
    head: Vec<(&'static str, (usize, String))>,
    /// Lengths of tensors of zeros that no file has.
    zeros: HashMap<String, usize>,
    /// Values that come before a parameter's in its tensor, where there are some.
    before: HashMap<String, usize>,
    /// The adapters that are added to the weights as they are read, and whether those are (inputs, outputs).
    merged: Option<(Lora, bool)>,
}

/// Name, shape and values of a tensor of a task's head.
pub type HeadTensor<'a> = (&'static str, &'a [usize], Cow<'a, [f32]>);

/// Tensor name, to the parameter that it is a part of and where in it it starts.
type Targets = HashMap<String, (String, usize)>;

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl Weights {
    /// Those of a model that is planned and never loaded.
    pub fn none() -> Weights {
        Weights {
            files: vec![],
            places: HashMap::new(),
            targets: HashMap::new(),
            head: vec![],
            zeros: HashMap::new(),
            before: HashMap::new(),
            merged: None,
        }
    }

    /// Opens `model.safetensors`, or else every file that `model.safetensors.index.json` names, and checks names,
    /// shapes, types and (in files from here) checksums.
    ///
    /// Buffers that old checkpoints carry are ignored, and so is a tied model's `lm_head.weight`, which must equal the
    /// embedding table. A task's head is no parameter of the model; see [`Weights::head`].
    pub fn open(source: impl Into<ModelSource>, config: &Config) -> Result<Self> {
        let source = source.into();
        let (origin, files) = if source.has(WEIGHTS_FILE) {
            (WEIGHTS_FILE, vec![source.tensors(WEIGHTS_FILE)?])
        } else {
            (INDEX_FILE, open_shards(&source)?)
        };
        let mut files = files;
        if let ModelSource::Adapter { folder, .. } = &source {
            files.push(TensorFile::open(&folder.join(ADAPTER_FILE))?);
        }
        files.iter().try_for_each(TensorFile::verify)?;
        Self::from_files(files, &source.path(origin), config)
    }

    /// Takes the weights from an open file; everything that [`Weights::open`] checks, except the checksum.
    pub fn from_file(file: TensorFile, config: &Config) -> Result<Self> {
        let path = file.path().to_path_buf();
        Self::from_files(vec![file], &path, config)
    }

    fn from_files(files: Vec<TensorFile>, origin: &Path, config: &Config) -> Result<Self> {
        let origin = origin.display();
        let mut places = places(&files, config)?;
        let head = config.family().task_heads().iter();
        let head: Vec<_> = head.filter_map(|name| Some((*name, places.remove(*name)?))).collect();
        let (embedding, output) = (config.family().embedding(), config.family().output());
        let tied = if config.tied { places.remove(output) } else { None };
        if let Some(tied) = &tied
            && !places.contains_key(embedding)
        {
            // One of two tied tensors may be all that is stored, as safetensors' `save_model` does.
            places.insert(embedding.to_string(), tied.clone());
        }
        if let Some((file, tied)) = tied
            && let Some((other, table)) = places.get(embedding)
            && !files[file].same(&tied, &files[*other], table)?
        {
            let remedy = "set tie_word_embeddings to false in config.json if it is a head of its own";
            fail!(Input, "{origin}: {output} differs from {embedding}, but the model ties them; {remedy}");
        }
        let (expected, targets) = expected(config);
        let is_zero = |name: &String| config.family().is_zero(config, name) && !places.contains_key(name);
        let (zeros, expected): (Vec<_>, Vec<_>) = expected.into_iter().partition(|(name, _)| is_zero(name));
        let zeros = zeros.into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
        let missing: Vec<_> =
            expected.iter().map(|(name, _)| name.as_str()).filter(|name| !places.contains_key(*name)).collect();
        if !missing.is_empty() {
            fail!(Input, "{origin} lacks {}, which config.json asks for", list(&missing));
        }
        let is_asked = |name: &String| targets.contains_key(name);
        places.retain(|name, _| is_asked(name) || !config.family().is_head(name));
        if places.len() > expected.len() {
            let known: HashSet<_> = expected.iter().map(|(name, _)| name).collect();
            let mut extra: Vec<_> = places.keys().filter(|name| !known.contains(name)).map(String::as_str).collect();
            extra.sort_unstable();
            fail!(Input, "{origin} holds {}, which config.json does not ask for", list(&extra));
        }
        let mut before = HashMap::new();
        for (name, mut shape) in expected {
            let (file, raw) = &places[&name];
            let rows = config.family().rows_before(config, &name);
            if rows > 0 {
                before.insert(name, rows * shape[1..].iter().product::<usize>());
                shape[0] += rows;
            }
            files[*file].check(raw, &shape)?;
        }
        Ok(Self { files, places, targets, head, zeros, before, merged: None })
    }

    /// The weights of a model and its adapters as those of one model without: W + scale B A in place of W.
    pub fn merge(self, config: &Config) -> (Config, Weights) {
        let transposed = config.family().is_transposed();
        let merged = config.lora.clone().map(|lora| (lora, transposed));
        (Config { lora: None, ..config.clone() }, Weights { merged, ..self })
    }

    /// The values of a tensor; borrowed from the map where the file has aligned f32. Fails where one is no finite number.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        let own = |name: &str| {
            if let Some(len) = self.zeros.get(name) {
                return Ok(vec![0.0; *len].into());
            }
            let (file, raw) = self.place(name)?;
            let values = read_finite(file, raw)?;
            Ok(match self.before.get(name) {
                Some(before) => values[*before..].to_vec().into(),
                None => values,
            })
        };
        let values = own(name)?;
        let adapter = self.merged.as_ref().and_then(|(lora, transposed)| Some((lora, lora.on(name)?, *transposed)));
        let Some((lora, [a, b], transposed)) = adapter else { return Ok(values) };
        let mut values = values.into_owned();
        lora.merge(&mut values, &own(&a)?, &own(&b)?, transposed);
        Ok(values.into())
    }

    /// As [`Weights::read`], piece by piece: see [`TensorFile::read_pieces`].
    pub fn read_pieces(&self, name: &str, mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        if self.merged.is_some() || self.before.contains_key(name) || self.zeros.contains_key(name) {
            return take(0, &self.read(name)?);
        }
        let (file, raw) = self.place(name)?;
        file.read_pieces(raw, |at, values| {
            check_weights(file, raw, values)?;
            take(at, values)
        })
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        let (file, raw) = self.place(name)?;
        Ok(file.shape(raw).expect("a tensor that has a place"))
    }

    /// Whether there is a task's head.
    pub fn has_head(&self) -> bool {
        !self.head.is_empty()
    }

    /// The tensors of a task's head that the files hold: the weight (outputs, C), and its bias where it has one.
    pub fn head(&self) -> Result<Vec<HeadTensor<'_>>> {
        let tensor = |(name, (file, raw)): &(&'static str, (usize, String))| {
            let file = &self.files[*file];
            let shape = file.shape(raw).expect("a tensor that has a place");
            Ok((*name, shape, read_finite(file, raw)?))
        };
        self.head.iter().map(tensor).collect()
    }

    /// The parameter that a tensor is a part of, and where in it it starts.
    ///
    /// Panics if there is no such tensor.
    pub fn target(&self, name: &str) -> (&str, usize) {
        let (parameter, start) = &self.targets[name];
        (parameter, *start)
    }

    /// Names of all tensors in the order of their bytes on disk, which is the fastest to read.
    pub fn names(&self) -> Vec<&str> {
        let is_hidden = |name: &str| self.merged.is_some() && Lora::is_adapter(name);
        let mut names: Vec<_> = self.places.iter().filter(|(name, _)| !is_hidden(name)).collect();
        names.sort_by_key(|(_, (file, raw))| (*file, self.files[*file].position(raw)));
        names.into_iter().map(|(name, _)| name.as_str()).chain(self.zeros.keys().map(String::as_str)).collect()
    }

    fn place(&self, name: &str) -> Result<(&TensorFile, &str)> {
        match self.places.get(name) {
            Some((file, raw)) => Ok((&self.files[*file], raw)),
            None => fail!(Input, "{} has no tensor {:?}", self.files[0].path().display(), one_line(name)),
        }
    }
}

fn read_finite<'a>(file: &'a TensorFile, name: &str) -> Result<Cow<'a, [f32]>> {
    let values = file.read(name)?;
    check_weights(file, name, &values)?;
    Ok(values)
}

fn check_weights(file: &TensorFile, name: &str, values: &[f32]) -> Result<()> {
    check_finite(values, || format!("the weights {} in {}", one_line(name), file.path().display()))
}

/// Opens every file of a sharded model and checks that each holds the tensors that the index says.
fn open_shards(source: &ModelSource) -> Result<Vec<TensorFile>> {
    let path = source.path(INDEX_FILE);
    let Some(text) = source.text(INDEX_FILE)? else { return Err(source.lacks(WEIGHTS_FILE)) };
    let index: Index = serde_json::from_str(&text).map_err(|error| {
        let problem = one_line(&error.to_string());
        Error::Input(format!("{} is no index with a weight_map ({problem}); copy it again", path.display()))
    })?;
    let path = path.display();
    let shards: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let mut files = HashMap::new();
    for &shard in &shards {
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard);
        if !plain {
            fail!(Input, "{path}: {:?} is not the name of a file beside it", one_line(shard));
        }
        if !source.has(shard) {
            fail!(Input, "{path} names {}, which is not there; copy all files of the model", one_line(shard));
        }
        files.insert(shard, source.tensors(shard)?);
    }
    for (tensor, shard) in &index.weight_map {
        if files[shard.as_str()].shape(tensor).is_none() {
            let (tensor, shard) = (one_line(tensor), one_line(shard));
            fail!(Input, "{path} places {tensor} in {shard}, which does not hold it; copy all files again");
        }
    }
    Ok(shards.into_iter().filter_map(|shard| files.remove(shard)).collect())
}

/// Name and shape of every tensor of a model's files, and the parameters that they make.
fn expected(config: &Config) -> (Vec<(String, Vec<usize>)>, Targets) {
    let (mut tensors, mut targets) = (vec![], Targets::new());
    for (parameter, dims) in config.parameters() {
        let mut start = 0;
        for (name, dims) in config.parts(&parameter, &dims) {
            targets.insert(name.clone(), (parameter.clone(), start));
            start += dims.iter().product::<usize>();
            tensors.push((name, dims));
        }
    }
    (tensors, targets)
}

/// Maps tensor names without prefix to files and names in them, leaving out the buffers.
fn places(files: &[TensorFile], config: &Config) -> Result<HashMap<String, (usize, String)>> {
    let mut places: HashMap<String, (usize, String)> = HashMap::new();
    for (i, file) in files.iter().enumerate() {
        for raw in file.names() {
            let own = raw.strip_prefix(adapter::PREFIX).unwrap_or(&raw);
            let name = config.family().renamed(config, own.strip_prefix(config.family().prefix()).unwrap_or(own));
            let name = &*name;
            if config.family().is_buffer(name) {
                continue;
            }
            // Tables and a head that were trained beside adapters stand for the model's.
            let is_head = config.family().task_heads().contains(&name);
            let is_saved = |lora: &Lora| is_head || lora.saved.iter().any(|saved| saved == name);
            let replaces = own.len() < raw.len() && config.lora.as_ref().is_some_and(is_saved);
            if let Some((other, twin)) = places.get(name).filter(|_| !replaces) {
                let place = |i: &usize| files[*i].path().file_name().unwrap_or_default().display();
                let (twin, raw) = (one_line(twin), one_line(&raw));
                let path = file.path().display();
                fail!(Input, "{path}: both {twin} (in {}) and {raw} (in {}) are there", place(other), place(&i));
            }
            places.insert(name.to_string(), (i, raw.clone()));
        }
    }
    Ok(places)
}

/// "h.0.ln_1.weight and 11 more"
fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing".into(),
        [one] => one_line(one),
        [first, rest @ ..] => format!("{} and {} more", one_line(first), rest.len()),
    }
}
