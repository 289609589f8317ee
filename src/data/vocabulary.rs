//! Older tokenizer files, `vocab.json` with `merges.txt`, or `vocab.txt`: made into the content of a `tokenizer.json`. How a text is
//! split is not in them; it follows from the tokenizer's class, which `tokenizer_config.json` or else the model's type names.

mod word_piece;

pub use word_piece::{TEXT_FILE, word_piece_json};

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::tokenizer::END_OF_TEXT;
use crate::files::one_line;

pub const VOCABULARY_FILE: &str = "vocab.json";
pub const MERGES_FILE: &str = "merges.txt";
/// Tokens that were added to the vocabulary after training, where there are any.
pub const ADDED_FILE: &str = "added_tokens.json";
/// The file with the class, `add_prefix_space`, and the properties of added tokens.
pub const SETTINGS_FILE: &str = "tokenizer_config.json";
/// Where the model's type stands.
pub const MODEL_FILE: &str = "config.json";

/// The contents of the files.
pub struct Files<'a> {
    pub vocabulary: &'a [u8],
    pub merges: &'a [u8],
    pub beside: Beside<'a>,
}

/// The files beside a vocabulary, where they are there.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    pub added: Option<&'a [u8]>,
    pub settings: Option<&'a [u8]>,
    pub model: Option<&'a [u8]>,
}

/// How the tokenizers of a class split a text.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Gpt2,
    Qwen2,
    Gpt,
}

/// Qwen 2's pre-tokenisation (`transformers`, `Qwen2Converter`).
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The `tokenizer.json` that gives the ids of the class that the files are for: `GPT2Tokenizer`, `Qwen2Tokenizer` or
/// `OpenAIGPTTokenizer`. Others are refused by name.
pub fn tokenizer_json(files: &Files) -> Result<Vec<u8>, String> {
    let vocabulary: HashMap<String, u32> = parse(VOCABULARY_FILE, files.vocabulary)?;
    let settings = files.beside.parsed_settings()?;
    let class = class(&files.beside, &settings)?;
    let prefix_space = settings["add_prefix_space"].as_bool().unwrap_or(false);
    let byte_level = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": regex});
    let (normalizer, pre_tokenizer, decoder, suffix) = match class {
        Class::Gpt2 => (Value::Null, byte_level(true), byte_level(true), ""),
        Class::Qwen2 => {
            let split = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            let steps = json!({"type": "Sequence", "pretokenizers": [split, byte_level(false)]});
            (json!({"type": "NFC"}), steps, byte_level(true), "")
        }
        Class::Gpt => {
            let lowercase = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true});
            let decoder = json!({"type": "BPEDecoder", "suffix": "</w>"});
            (lowercase, json!({"type": "BertPreTokenizer"}), decoder, "</w>")
        }
    };
    let unknown =
        if class == Class::Gpt { named(&settings, "unk_token").unwrap_or("<unk>".into()) } else { String::new() };
    let unknown = Some(unknown).filter(|unknown| vocabulary.contains_key(unknown) && class == Class::Gpt);
    let roles = ["bos_token", "eos_token", "pad_token", "unk_token"].map(|role| named(&settings, role));
    let special = roles.into_iter().flatten().chain([END_OF_TEXT.to_string()]).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added_tokens((VOCABULARY_FILE, &vocabulary), &files.beside, &settings, special)?,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": suffix,
            "merges": merges(files.merges)?,
            "vocab": vocabulary,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// The class of the tokenizer, as `transformers` finds it.
fn class(beside: &Beside, settings: &Value) -> Result<Class, String> {
    let model_type = beside.model_type();
    match (class_name(settings), model_type.as_deref()) {
        (Some("GPT2Tokenizer"), _) => Ok(Class::Gpt2),
        (Some("Qwen2Tokenizer"), _) => Ok(Class::Qwen2),
        (Some("OpenAIGPTTokenizer"), _) => Ok(Class::Gpt),
        (None, Some("qwen2" | "qwen3")) => Ok(Class::Qwen2),
        (None, Some("openai-gpt")) => Ok(Class::Gpt),
        (None, Some("gpt2" | "wgpt-gpt2") | None) => Ok(Class::Gpt2),
        (Some(other), _) | (None, Some(other)) => Err(format!(
            "{VOCABULARY_FILE} and {MERGES_FILE} do not say how a text is split, and those of {:?} are not known here: save \
             a tokenizer.json with AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
            one_line(other)
        )),
    }
}

/// The class that the settings name.
fn class_name(settings: &Value) -> Option<&str> {
    settings["tokenizer_class"].as_str().map(|name| name.strip_suffix("Fast").unwrap_or(name))
}

impl Beside<'_> {
    fn parsed_settings(&self) -> Result<Value, String> {
        self.settings.map_or(Ok(Value::Null), |bytes| parse(SETTINGS_FILE, bytes))
    }

    fn model_type(&self) -> Option<String> {
        let model: Value = serde_json::from_slice(self.model?).ok()?;
        model["model_type"].as_str().map(str::to_string)
    }
}

/// A special token of the settings, which is a text or an object.
fn named(settings: &Value, role: &str) -> Option<String> {
    let token = &settings[role];
    token.as_str().or(token["content"].as_str()).map(str::to_string)
}

/// Tokens that are found in a text before it is split: those that the settings describe, those that were added behind the
/// vocabulary of `file`, and the `special` ones, such as the end of a text, and further ones of the settings, where they have an id.
fn added_tokens(
    (file, vocabulary): (&str, &HashMap<String, u32>),
    beside: &Beside,
    settings: &Value,
    mut special: Vec<String>,
) -> Result<Vec<Value>, String> {
    let added: HashMap<String, u32> = beside.added.map_or(Ok(HashMap::new()), |bytes| parse(ADDED_FILE, bytes))?;
    let entry = |id: u32, token: &str, special: bool| {
        json!({"id": id, "content": token, "special": special, "normalized": !special,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    let further = settings["additional_special_tokens"].as_array().cloned().unwrap_or_default();
    special.extend(further.iter().filter_map(|token| token.as_str().map(str::to_string)));
    let mut entries: BTreeMap<u32, Value> = BTreeMap::new();
    for token in &special {
        if let Some(&id) = vocabulary.get(token).or(added.get(token)) {
            entries.insert(id, entry(id, token, true));
        }
    }
    for (token, &id) in &added {
        entries.entry(id).or_insert_with(|| entry(id, token, false));
    }
    for (id, token) in settings["added_tokens_decoder"].as_object().into_iter().flatten() {
        let (Ok(id), Some(content)) = (id.parse::<u32>(), token["content"].as_str()) else {
            return Err(format!("{SETTINGS_FILE} has an added token without an id or a text"));
        };
        let flag = |name: &str, default: bool| token[name].as_bool().unwrap_or(default);
        let special = flag("special", false);
        let entry = json!({"id": id, "content": content, "special": special, "normalized": flag("normalized", !special),
            "single_word": flag("single_word", false), "lstrip": flag("lstrip", false), "rstrip": flag("rstrip", false)});
        entries.insert(id, entry);
    }
    let mut next = vocabulary.len() as u32;
    for (&id, entry) in &entries {
        let token = entry["content"].as_str().unwrap_or_default();
        match vocabulary.get(token) {
            Some(&known) if known == id => {}
            Some(known) => return Err(format!("{token:?} has the id {id}, but {known} in {file}")),
            None if id == next => next += 1,
            None => {
                let place = format!("{ADDED_FILE}, or added_tokens_decoder of {SETTINGS_FILE}");
                return Err(format!("{place}, gives {token:?} the id {id}, but {next} comes next"));
            }
        }
    }
    Ok(entries.into_values().collect())
}

/// The pairs of `merges.txt`, in order of rank: one "left right" per line after a version comment.
fn merges(bytes: &[u8]) -> Result<Vec<(String, String)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{MERGES_FILE} is not UTF-8 text"))?;
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).enumerate();
    let pairs = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    let pair = |(number, line): (usize, &str)| match line.split_once(' ') {
        Some((left, right)) if !right.contains(' ') => Ok((left.to_string(), right.to_string())),
        _ => Err(format!("line {} of {MERGES_FILE} is not two tokens with a space between", number + 1)),
    };
    pairs.map(pair).collect()
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|cause| format!("{file} is invalid ({cause})"))
}
