//! A tokenizer as a page's player reads it: characters, or byte-level BPE, of which bytes are a case.

use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::fail;
use serde_json::{Map, Value, json};

/// GPT-2's pieces of words, which `ByteLevel` cuts by itself.
const GPT2_PIECES: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The tokenizer's tokens by id, merges, special tokens and cuts; refuses one that the player cannot run.
pub fn json(tokenizer: &Tokenizer) -> Result<Value> {
    let file: Value = serde_json::from_slice(tokenizer.json()).unwrap_or_default();
    let model = &file["model"];
    let vocabulary = tokens(model, &file["added_tokens"], tokenizer.vocabulary_size());
    // Tokens that are put in front of every prompt.
    let before = tokenizer.encode_prompt("")?;
    match model["type"].as_str() {
        Some("WordLevel") if tokenizer.encode("").is_ok() && file["pre_tokenizer"]["type"] != "BertPreTokenizer" => {
            Ok(json!({"kind": "characters", "tokens": vocabulary, "before": before}))
        }
        Some("BPE") if file["decoder"]["type"] == "ByteLevel" && file["normalizer"].is_null() => {
            let Some(pieces) = pieces(&file["pre_tokenizer"]) else { return refused() };
            let special: Map<String, Value> = file["added_tokens"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|token| Some((token["content"].as_str()?.to_string(), token["id"].clone())))
                .collect();
            let whole = model["ignore_merges"] == true;
            Ok(json!({
                "kind": "bpe", "tokens": vocabulary, "merges": merges(model), "special": special, "pieces": pieces,
                "whole": whole, "before": before,
            }))
        }
        _ => refused(),
    }
}

fn refused() -> Result<Value> {
    fail!(Input, "the page's tokenizers are characters, bytes and byte-level BPE, and this model's is another")
}

/// Texts of tokens by their ids.
fn tokens(model: &Value, added: &Value, count: usize) -> Vec<String> {
    let mut tokens = vec![String::new(); count];
    let of_model = model["vocab"].as_object().into_iter().flatten().map(|(token, id)| (token.as_str(), id));
    let added = added.as_array().into_iter().flatten();
    let added = added.filter_map(|token| Some((token["content"].as_str()?, &token["id"])));
    for (token, id) in of_model.chain(added) {
        if let Some(place) = id.as_u64().and_then(|id| tokens.get_mut(id as usize)) {
            *place = token.into();
        }
    }
    tokens
}

/// Merges in their order, as pairs; old files have them as texts with a space.
fn merges(model: &Value) -> Vec<[String; 2]> {
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| [a.to_string(), b.to_string()]),
        pair => serde_json::from_value(pair.clone()).ok(),
    };
    model["merges"].as_array().into_iter().flatten().filter_map(pair).collect()
}

/// The pattern that cuts a text into pieces: empty for no cuts. Nothing where the player does not know how.
fn pieces(pre: &Value) -> Option<String> {
    let byte_level = |pre: &Value| {
        (pre["type"] == "ByteLevel" && pre["add_prefix_space"] != true).then_some(pre["use_regex"] != false)
    };
    if let Some(uses_regex) = byte_level(pre) {
        return Some(if uses_regex { GPT2_PIECES.into() } else { String::new() });
    }
    match pre["pretokenizers"].as_array().map(Vec::as_slice) {
        Some([split, last])
            if split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] != true =>
        {
            let plain = byte_level(last) == Some(false);
            split["pattern"]["Regex"].as_str().filter(|_| plain).map(str::to_string)
        }
        _ => None,
    }
}
