//! Hugging Face's `generation_config.json`: how the makers of a model would have it sampled.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::folder::CONFIG_FILE;
use super::source::ModelSource;
use crate::error::{Error, Result};
use crate::files::write_bytes;
use crate::models::config::Config;
use crate::models::family::one_or_list;
use crate::models::keys::Use::{Harmless, Obeyed, Warned};
use crate::models::keys::{Found, Keys, Use, shown, unheeded};

pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// The values of `generation_config.json`; `None` where it has none.
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
    /// Texts that end a text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop_strings: Vec<String>,
    /// Keys that ask for something which is not implemented or not known: worth a warning, as texts will differ.
    #[serde(skip)]
    pub unsupported: Vec<String>,
    /// The file's other keys.
    #[serde(flatten)]
    pub others: Map<String, Value>,
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

/// How each key that `transformers` knows is treated.
pub const KEYS: &[(&str, Use)] = &[
    ("_commit_hash", Harmless),
    ("_from_model_config", Harmless),
    ("assistant_confidence_threshold", Harmless), // a second model is only used where one is given
    ("assistant_early_exit", Warned(&[])),
    ("assistant_ensemble_weight", Harmless),
    ("assistant_lookbehind", Harmless),
    ("bad_words_ids", Warned(&[])),
    ("begin_suppress_tokens", Warned(&[])),
    ("bos_token_id", Obeyed),
    ("cache_config", Harmless), // how keys and values are kept, not what they are
    ("cache_implementation", Harmless),
    ("compile_config", Harmless),
    ("constraints", Warned(&[])),
    ("continuous_batching_config", Harmless),
    ("decoder_start_token_id", Harmless), // of models with an encoder
    ("disable_compile", Harmless),
    ("diversity_penalty", Warned(&[0.0])),
    ("do_sample", Obeyed),
    ("dola_layers", Warned(&[])),
    ("early_stopping", Obeyed),
    ("encoder_no_repeat_ngram_size", Warned(&[0.0])),
    ("encoder_repetition_penalty", Warned(&[1.0])),
    ("eos_token_id", Obeyed),
    ("epsilon_cutoff", Warned(&[0.0])),
    ("eta_cutoff", Warned(&[0.0])),
    ("exponential_decay_length_penalty", Warned(&[])),
    ("force_words_ids", Warned(&[])),
    ("forced_bos_token_id", Warned(&[])),
    ("forced_eos_token_id", Warned(&[])),
    ("guidance_scale", Warned(&[1.0])),
    ("is_assistant", Harmless),
    ("length_penalty", Obeyed),
    ("low_memory", Harmless),
    ("max_cache_len", Harmless),
    ("max_length", Obeyed),
    ("max_matching_ngram_size", Harmless),
    ("max_new_tokens", Obeyed),
    ("max_time", Warned(&[])),
    ("min_length", Warned(&[0.0])),
    ("min_new_tokens", Warned(&[0.0])),
    ("min_p", Obeyed),
    ("no_repeat_ngram_size", Warned(&[0.0])),
    ("num_assistant_tokens", Harmless),
    ("num_assistant_tokens_schedule", Harmless),
    ("num_beam_groups", Warned(&[1.0])),
    ("num_beams", Obeyed),
    ("num_return_sequences", Warned(&[1.0])),
    ("output_attentions", Harmless),
    ("output_hidden_states", Harmless),
    ("output_logits", Harmless),
    ("output_scores", Harmless),
    ("pad_token_id", Harmless), // texts of one prompt are not padded
    ("penalty_alpha", Warned(&[0.0])),
    ("prefill_chunk_size", Harmless),
    ("prompt_lookup_num_tokens", Harmless), // how fast, not what
    ("remove_invalid_values", Harmless),    // numbers that are not finite are an error here
    ("renormalize_logits", Warned(&[])),
    ("repetition_penalty", Obeyed),
    ("return_dict_in_generate", Harmless),
    ("return_legacy_cache", Harmless),
    ("sequence_bias", Warned(&[])),
    ("speculation_type", Harmless),
    ("stop_strings", Obeyed),
    ("suppress_tokens", Warned(&[])),
    ("target_lookbehind", Harmless),
    ("temperature", Obeyed),
    ("token_healing", Warned(&[])),
    ("top_h", Warned(&[])),
    ("top_k", Obeyed),
    ("top_p", Obeyed),
    ("transformers_version", Harmless),
    ("typical_p", Warned(&[1.0])),
    ("use_cache", Harmless),
    ("use_mtp", Harmless),
    ("watermarking_config", Warned(&[])),
];

/// Values that a `config.json` of older versions may have for keys of generation without asking for anything.
const DEFAULTS: [(&str, f64); 15] = [
    ("diversity_penalty", 0.0),
    ("do_sample", 0.0),
    ("early_stopping", 0.0),
    ("length_penalty", 1.0),
    ("max_length", 20.0),
    ("min_length", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_no_repeat_ngram_size", 0.0),
    ("num_beams", 1.0),
    ("num_beam_groups", 1.0),
    ("repetition_penalty", 1.0),
    ("temperature", 1.0),
    ("top_k", 50.0),
    ("top_p", 1.0),
    ("typical_p", 1.0),
];

impl GenerationConfig {
    /// Reads the `generation_config.json` of a model folder; all absent where there is none.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::open(&ModelSource::folder(folder))
    }

    pub(super) fn open(source: &ModelSource) -> Result<Self> {
        if let Some(text) = source.text(GENERATION_CONFIG_FILE)? {
            return Self::from_json(&text, &source.path(GENERATION_CONFIG_FILE));
        }
        let Some(text) = source.text(CONFIG_FILE)? else { return Ok(Self::default()) };
        Self::from_model_config(&text)
            .map_err(|problem| Error::Input(format!("{}: {problem}", source.path(CONFIG_FILE).display())))
    }

    /// The generation settings in a `config.json`, where older versions of `transformers` kept them.
    fn from_model_config(text: &str) -> Found<Self> {
        let keys = Keys::parse(text, CONFIG_FILE)?;
        let asks = |key: &str, value: &Value| {
            let number = value.as_f64().or(value.as_bool().map(|flag| f64::from(u8::from(flag))));
            !DEFAULTS.iter().any(|(known, default)| *known == key && number == Some(*default))
        };
        // A key that both files may have is no setting of generation here.
        let is_own = |key: &str| KEYS.iter().any(|(known, _)| *known == key) && !key.ends_with("_token_id");
        let kept = keys.entries().filter(|(key, value)| is_own(key) && asks(key, value));
        Self::from_keys(&Keys::of(kept.map(|(key, value)| (key.clone(), value.clone())).collect()))
    }

    /// Parses the file's text; `origin` is the file that errors name. Values that mean nothing are refused by name.
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        Self::parse(text).map_err(|problem| Error::Input(format!("{}: {problem}", origin.display())))
    }

    /// The settings of a model's own configuration that concern its texts.
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
        Self::from_keys(&Keys::parse(text, GENERATION_CONFIG_FILE)?)
    }

    fn from_keys(keys: &Keys) -> Found<Self> {
        Ok(Self {
            bos_token_id: keys.tokens("bos_token_id").first().copied(),
            do_sample: keys.flag("do_sample")?,
            early_stopping: early_stopping(keys)?,
            eos_token_id: keys.tokens("eos_token_id"),
            length_penalty: number(keys, "length_penalty", f32::is_finite, "a number")?,
            max_length: keys.whole("max_length", 0..=usize::MAX)?,
            max_new_tokens: keys.whole("max_new_tokens", 0..=usize::MAX)?,
            min_p: number(keys, "min_p", |p| (0.0..=1.0).contains(&p), "from 0 to 1")?,
            num_beams: keys.whole("num_beams", 1..=MOST_BEAMS)?,
            repetition_penalty: number(keys, "repetition_penalty", |p| p.is_finite() && p > 0.0, "more than 0")?,
            temperature: number(keys, "temperature", |t| t.is_finite() && t >= 0.0, "at least 0")?,
            top_k: keys.whole("top_k", 0..=usize::MAX)?,
            top_p: number(keys, "top_p", |p| (0.0..=1.0).contains(&p), "from 0 to 1")?,
            stop_strings: stop_strings(keys)?,
            unsupported: unheeded(keys, &[KEYS]),
            others: others(keys),
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

/// One text, or a list of them.
fn stop_strings(keys: &Keys) -> Found<Vec<String>> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_string);
    let found = match keys.get("stop_strings") {
        None => Some(vec![]),
        Some(Value::Array(list)) => list.iter().map(text).collect(),
        Some(value) => text(value).map(|text| vec![text]),
    };
    found.ok_or_else(|| {
        let value = keys.get("stop_strings").map(shown).unwrap_or_default();
        format!("stop_strings is {value}, but must be a text or a list of texts")
    })
}

/// The keys that are not read, to be written again as they were.
fn others(keys: &Keys) -> Map<String, Value> {
    let is_read = |key: &str| KEYS.iter().any(|(known, what)| *known == key && *what == Obeyed);
    let is_origin = |key: &str| ["transformers_version", "_from_model_config"].contains(&key);
    let kept = keys.entries().filter(|(key, _)| !is_read(key) && !is_origin(key));
    kept.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn one_or_many<S: Serializer>(ids: &[u32], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    one_or_list(ids).serialize(serializer)
}
