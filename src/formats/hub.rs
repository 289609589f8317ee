//! Models of the Hugging Face hub, kept where the Python tools keep them: `models--ORG--NAME/{blobs,snapshots,refs}`.
//!
//! The `hf-hub` crate speaks with the hub and lays out the cache. This file adds the checks it lacks: a model is used
//! only when all its files are there and each has the checksum that the hub names; `refs/main` is written last, so a
//! download that was broken off never looks complete.
//!
//! Environment, as in `huggingface_hub`: `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.

mod checksum;
mod client;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Result;
use crate::fail;
use client::Client;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZERS: [&str; 3] = ["tokenizer.json", "vocab.json", "vocab.txt"];
/// Fetched where the model has them.
const OPTIONAL: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// Told of every file that is downloaded.
pub trait Download {
    /// A file of `bytes` bytes begins, or begins anew.
    fn start(&mut self, file: &str, bytes: u64);
    /// More bytes are there, or were there before.
    fn advance(&mut self, bytes: u64);
    /// The file is complete.
    fn finish(&mut self);
}

/// Where models come from and are kept.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The folder that holds `models--ORG--NAME`.
    pub cache: PathBuf,
    pub endpoint: String,
    /// Sent with every request, for private and gated models.
    pub token: Option<String>,
    /// Use the cache alone.
    pub offline: bool,
}

/// Whether a name has the form ORG/NAME of a model on the hub.
pub fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        plain && part.starts_with(|c: char| c.is_ascii_alphanumeric()) && !part.contains("..") && !part.contains("--")
    };
    name.split_once('/').is_some_and(|(organisation, name)| part(organisation) && part(name))
}

impl Hub {
    /// As the environment says.
    pub fn from_env() -> Result<Self> {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name: &str| std::env::var(name).ok().map(|text| text.trim().to_string()).filter(|t| !t.is_empty());
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| directories::BaseDirs::new().map(|dirs| dirs.home_dir().join(".cache/huggingface")));
        let Some(home) = home else {
            fail!(Usage, "there is no home folder to keep models of the hub in: set HF_HOME to a folder");
        };
        let token = text("HF_TOKEN").or_else(|| {
            let saved = std::fs::read_to_string(path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"))).ok()?;
            Some(saved.trim().to_string()).filter(|token| !token.is_empty())
        });
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = text("HF_HUB_OFFLINE")
            .is_some_and(|value| ["1", "on", "yes", "true"].iter().any(|on| value.eq_ignore_ascii_case(on)));
        Ok(Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').into(),
            token,
            offline,
        })
    }

    /// The folder of a model ORG/NAME: from the cache without asking the hub, or downloaded. A download that broke off is
    /// taken up where it stopped.
    pub fn model(&self, name: &str, download: &mut dyn Download) -> Result<PathBuf> {
        if !is_name(name) {
            fail!(Usage, "{name:?} is not the name of a model on the hub, which has the form ORG/NAME");
        }
        let client = Client::new(self, name)?;
        let cached = client.cached();
        let usable = cached.as_deref().is_some_and(has_model);
        match cached {
            Some(folder) if usable && (self.offline || has_tokenizer(&folder)) => return Ok(folder),
            _ if self.offline => fail!(
                Input,
                "{name} is not a folder here, nor among the models in {}, and HF_HUB_OFFLINE forbids to ask the hub: \
                 unset it, or give a folder",
                self.cache.display()
            ),
            _ => {}
        }
        let listing = client.listing()?;
        let folder = client.snapshot(&listing.sha);
        if !listing.has(CONFIG) {
            fail!(Input, "{name} has no {CONFIG}: it is not a model in Hugging Face's layout");
        }
        let mut fetch = |file: &str| client.fetch(&listing, file, download);
        fetch(CONFIG)?;
        OPTIONAL.iter().filter(|file| listing.has(file)).try_for_each(|file| fetch(file))?;
        if listing.has(WEIGHTS) {
            fetch(WEIGHTS)?;
        } else if listing.has(INDEX) {
            fetch(INDEX)?;
            let Some(shards) = shards(&folder) else {
                fail!(Input, "{name}: its {INDEX} is not an index of safetensors files beside it");
            };
            shards.iter().try_for_each(|shard| fetch(shard))?;
        } else {
            fail!(
                Input,
                "{name} has no {WEIGHTS}: only safetensors are read; convert it with `save_pretrained` of transformers"
            );
        }
        client.complete(&listing.sha)?;
        Ok(folder)
    }
}

fn has_model(folder: &Path) -> bool {
    let whole = || shards(folder).is_some_and(|shards| shards.iter().all(|shard| folder.join(shard).exists()));
    folder.join(CONFIG).exists() && (folder.join(WEIGHTS).exists() || whole())
}

fn has_tokenizer(folder: &Path) -> bool {
    TOKENIZERS.iter().any(|file| folder.join(file).exists())
}

/// The files that the folder's index names, each once; none where it has no sound index.
fn shards(folder: &Path) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(&std::fs::read(folder.join(INDEX)).ok()?).ok()?;
    let mut files: Vec<String> = index.weight_map.into_values().collect();
    files.sort_unstable();
    files.dedup();
    // A name with a folder in it could lead out of the cache.
    let plain = |file: &String| file.ends_with(".safetensors") && !file.contains(['/', '\\', ':']);
    files.iter().all(plain).then_some(files)
}
