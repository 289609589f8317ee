//! Hugging Face's `generation_config.json`: how the makers of a model would have it sampled.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::source::ModelSource;
use crate::error::{Error, Result};
use crate::files::{one_line, write_bytes};
use crate::models::config::Config;
use crate::models::family::one_or_list;
use crate::models::keys::{Found, Keys, shown};

pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// What `generation_config.json` says; absent is what it leaves open.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct GenerationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Drawn at random, rather than the most likely.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub do_sample: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Tokens that end a text: none, one, or several.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "one_or_many")]
    pub eos_token_id: Vec<u32>,
    /// Exponent of the length by which a beam's score is divided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f32>,
    /// Tokens of prompt and continuation together; `max_new_tokens` wins over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_beams: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// 0 for all tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Keys that ask for something which is not implemented: worth a warning, as texts will differ.
    #[serde(skip)]
    pub unsupported: Vec<String>,
}

/// When a beam search ends: `early_stopping` in `transformers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// `false`: once the best unfinished beam, at its present length, cannot beat the worst finished one.
    No,
    /// `true`: as soon as there are as many finished texts as beams.
    Yes,
    /// `"never"`: only when no unfinished beam could beat the worst finished one at any length.
    Never,
}

/// Keys that are not implemented, each with the values that ask for nothing.
const UNSUPPORTED: [(&str, &[f64]); 24] = [
    ("bad_words_ids", &[]),
    ("begin_suppress_tokens", &[]),
    ("constraints", &[]),
    ("diversity_penalty", &[0.0]),
    ("dola_layers", &[]),
    ("encoder_no_repeat_ngram_size", &[0.0]),
    ("encoder_repetition_penalty", &[1.0]),
    ("epsilon_cutoff", &[0.0]),
    ("eta_cutoff", &[0.0]),
    ("exponential_decay_length_penalty", &[]),
    ("force_words_ids", &[]),
    ("forced_bos_token_id", &[]),
    ("forced_eos_token_id", &[]),
    ("guidance_scale", &[1.0]),
    ("min_length", &[0.0]),
    ("min_new_tokens", &[0.0]),
    ("no_repeat_ngram_size", &[0.0]),
    ("num_beam_groups", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("sequence_bias", &[]),
    ("suppress_tokens", &[]),
    ("top_h", &[]),
    ("typical_p", &[1.0]),
    ("watermarking_config", &[]),
];

impl GenerationConfig {
    /// Reads the `generation_config.json` of a model folder; all absent where there is none.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::open(&ModelSource::folder(folder))
    }

    pub(super) fn open(source: &ModelSource) -> Result<Self> {
        let Some(text) = source.text(GENERATION_CONFIG_FILE)? else { return Ok(Self::default()) };
        Self::from_json(&text, &source.path(GENERATION_CONFIG_FILE))
    }

    /// Parses the file's text; `origin` is the file that errors name. Values that mean nothing are refused by name.
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        Self::parse(text).map_err(|problem| Error::Input(format!("{}: {problem}", origin.display())))
    }

    /// What a model's own configuration says about its texts.
    pub fn of(config: &Config) -> Self {
        Self { bos_token_id: config.bos_token_id, eos_token_id: config.eos_token_id.clone(), ..Self::default() }
    }

    /// The file's text, as `transformers` reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and flags always serialise") + "\n"
    }

    /// Writes `generation_config.json` into a folder; where there is nothing to say, one from before is removed.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(GENERATION_CONFIG_FILE);
        if *self != Self::default() {
            return write_bytes(&path, self.to_json().as_bytes());
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    fn parse(text: &str) -> Found<Self> {
        let keys = Keys::parse(text, GENERATION_CONFIG_FILE)?;
        Ok(Self {
            bos_token_id: keys.tokens("bos_token_id").first().copied(),
            do_sample: keys.flag("do_sample")?,
            early_stopping: early_stopping(&keys)?,
            eos_token_id: keys.tokens("eos_token_id"),
            length_penalty: number(&keys, "length_penalty", f32::is_finite, "a number")?,
            max_length: keys.whole("max_length", 0..=usize::MAX)?,
            max_new_tokens: keys.whole("max_new_tokens", 0..=usize::MAX)?,
            min_p: number(&keys, "min_p", |p| (0.0..=1.0).contains(&p), "from 0 to 1")?,
            num_beams: keys.whole("num_beams", 1..=MOST_BEAMS)?,
            repetition_penalty: number(&keys, "repetition_penalty", |p| p.is_finite() && p > 0.0, "more than 0")?,
            temperature: number(&keys, "temperature", |t| t.is_finite() && t >= 0.0, "at least 0")?,
            top_k: keys.whole("top_k", 0..=usize::MAX)?,
            top_p: number(&keys, "top_p", |p| (0.0..=1.0).contains(&p), "from 0 to 1")?,
            unsupported: unsupported(&keys),
        })
    }
}

/// Beams beyond any use.
const MOST_BEAMS: usize = 1 << 16;

impl Serialize for EarlyStopping {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            EarlyStopping::No => serializer.serialize_bool(false),
            EarlyStopping::Yes => serializer.serialize_bool(true),
            EarlyStopping::Never => serializer.serialize_str("never"),
        }
    }
}

fn early_stopping(keys: &Keys) -> Found<Option<EarlyStopping>> {
    match keys.get("early_stopping") {
        None => Ok(None),
        Some(Value::Bool(false)) => Ok(Some(EarlyStopping::No)),
        Some(Value::Bool(true)) => Ok(Some(EarlyStopping::Yes)),
        Some(Value::String(never)) if never == "never" => Ok(Some(EarlyStopping::Never)),
        Some(other) => Err(format!("early_stopping is {}, but must be true, false or \"never\"", shown(other))),
    }
}

fn number(keys: &Keys, key: &str, fits: impl Fn(f32) -> bool, range: &str) -> Found<Option<f32>> {
    match keys.number(key)? {
        Some(value) if !fits(value) => Err(format!("{key} is {value}, but must be {range}")),
        found => Ok(found),
    }
}

/// Keys of [`UNSUPPORTED`] with values that would change what is generated.
fn unsupported(keys: &Keys) -> Vec<String> {
    let asks = |value: &Value, neutral: &[f64]| match value {
        Value::Number(number) => !number.as_f64().is_some_and(|number| neutral.contains(&number)),
        Value::Bool(flag) => *flag,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    };
    let found = UNSUPPORTED.iter().filter(|(key, neutral)| keys.get(key).is_some_and(|value| asks(value, neutral)));
    found.map(|(key, _)| one_line(key)).collect()
}

fn one_or_many<S: Serializer>(ids: &[u32], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    one_or_list(ids).serialize(serializer)
}
