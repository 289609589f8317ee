//! GPT-2's older tokenizer files, `vocab.json` and `merges.txt`: made into what a `tokenizer.json` holds.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::tokenizer::END_OF_TEXT;

pub const VOCABULARY_FILE: &str = "vocab.json";
pub const MERGES_FILE: &str = "merges.txt";
/// Tokens that were added to the vocabulary after training, where there are any.
pub const ADDED_FILE: &str = "added_tokens.json";
/// Where `add_prefix_space` may stand.
pub const SETTINGS_FILE: &str = "tokenizer_config.json";

/// The contents of the files; all but the first two may be missing.
pub struct Files<'a> {
    pub vocabulary: &'a [u8],
    pub merges: &'a [u8],
    pub added: Option<&'a [u8]>,
    pub settings: Option<&'a [u8]>,
}

/// The `tokenizer.json` of byte-level BPE with GPT-2's pre-tokenisation, which gives the ids that `GPT2Tokenizer` gives.
/// `<|endoftext|>` is a special token where the vocabulary has it.
pub fn tokenizer_json(files: &Files) -> Result<Vec<u8>, String> {
    let vocabulary: HashMap<String, u32> = parse(VOCABULARY_FILE, files.vocabulary)?;
    let added: HashMap<String, u32> = files.added.map_or(Ok(HashMap::new()), |bytes| parse(ADDED_FILE, bytes))?;
    let settings: Value = files.settings.map_or(Ok(Value::Null), |bytes| parse(SETTINGS_FILE, bytes))?;
    let prefix_space = settings.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added_tokens(&vocabulary, added)?,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "merges": merges(files.merges)?,
            "vocab": vocabulary,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// `<|endoftext|>`, where the vocabulary has it, and tokens that were added behind the vocabulary.
fn added_tokens(vocabulary: &HashMap<String, u32>, added: HashMap<String, u32>) -> Result<Vec<Value>, String> {
    let entry = |token: &str, id: u32, special: bool| {
        json!({"id": id, "content": token, "special": special, "normalized": !special,
            "single_word": false, "lstrip": false, "rstrip": false})
    };
    let mut entries: Vec<Value> =
        vocabulary.get(END_OF_TEXT).map(|&id| entry(END_OF_TEXT, id, true)).into_iter().collect();
    let mut added: Vec<_> = added.into_iter().filter(|(token, id)| vocabulary.get(token) != Some(id)).collect();
    added.sort_by_key(|(_, id)| *id);
    for ((token, id), next) in added.into_iter().zip(vocabulary.len()..) {
        if id as usize != next {
            return Err(format!("{ADDED_FILE} gives {token:?} the id {id}, but {next} comes next"));
        }
        entries.push(entry(&token, id, token == END_OF_TEXT));
    }
    Ok(entries)
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
    serde_json::from_slice(bytes).map_err(|cause| format!("{file} is not what it should be ({cause})"))
}
