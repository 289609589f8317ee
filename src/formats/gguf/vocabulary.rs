//! A `tokenizer.json` as GGUF lists it: tokens by id, the type of each, and merges.
//!
//! llama.cpp rebuilds the tokenizer from these and the name `gpt-2` of a pre-tokenizer, so only GPT-2's kind fits:
//! byte-level BPE without a normaliser, split by GPT-2's pattern.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use crate::files::one_line;

/// llama.cpp's types of tokens, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text in GPT-2's alphabet of bytes.
    Normal = 1,
    /// A special token, which ends a text or separates.
    Control = 3,
    /// Plain text that is one token wherever it stands.
    UserDefined = 4,
    /// Fills an id that the tokenizer does not use.
    Unused = 5,
}

/// Everything that GGUF says about a tokenizer.
#[derive(Debug)]
pub struct Vocabulary {
    /// One text per row of the embedding table, each of them once.
    pub tokens: Vec<String>,
    /// A [`TokenKind`] for each.
    pub kinds: Vec<i32>,
    /// Pairs in the order of their ranks, a space between the two.
    pub merges: Vec<String>,
}

#[derive(Deserialize)]
struct TokenizerJson {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    model: Value,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
}

impl AddedToken {
    fn entry(&self) -> (u32, &str, TokenKind) {
        let kind = if self.special { TokenKind::Control } else { TokenKind::UserDefined };
        (self.id, &self.content, kind)
    }
}

#[derive(Deserialize)]
struct BpeJson {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeJson>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Older files join the two with a space.
#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Joined(String),
    Pair(String, String),
}

impl Vocabulary {
    /// Reads a `tokenizer.json` for a model with `rows` rows in its embedding table; the error is the reason why GGUF
    /// cannot express it, to follow "its tokenizer".
    pub fn from_json(json: &[u8], rows: usize) -> Result<Self, String> {
        let file: TokenizerJson = serde_json::from_slice(json)
            .map_err(|error| format!("cannot be read ({})", one_line(&error.to_string())))?;
        let kind = file.model.get("type").and_then(Value::as_str).unwrap_or("BPE").to_string();
        if kind != "BPE" {
            return Err(format!("is of the kind {} (as --tokenizer char makes), not byte-level BPE", one_line(&kind)));
        }
        if file.normalizer.is_some() {
            return Err("changes the text before it splits it (normalizer)".into());
        }
        let model: BpeJson = serde_json::from_value(file.model)
            .map_err(|error| format!("has a BPE model that cannot be read ({})", one_line(&error.to_string())))?;
        check_model(&model)?;
        check_splitting(file.pre_tokenizer.as_ref(), model.merges.is_empty())?;
        if let Some(token) = file.added_tokens.iter().find(|token| token.single_word || token.lstrip || token.rstrip) {
            return Err(format!("has a token that looks at the text around it ({:?})", one_line(&token.content)));
        }
        let merges = model.merges.iter().map(MergeJson::joined).collect::<Result<_, _>>()?;
        let (tokens, kinds) = by_id(&model.vocab, &file.added_tokens, rows)?;
        Ok(Self { tokens, kinds: kinds.into_iter().map(|kind| kind as i32).collect(), merges })
    }

    /// Whether the tokenizer has a token of this id.
    pub fn is_token(&self, id: u32) -> bool {
        self.kinds.get(id as usize).is_some_and(|&kind| kind != TokenKind::Unused as i32)
    }

    /// The token that ends a text: `configured` or `<|endoftext|>` (true), otherwise one that no text has: an unused id, or
    /// the zero byte (false). llama.cpp would take token 11 where none is named, whatever that stands for.
    pub fn end_of_text(&self, configured: Option<u32>) -> Option<(u32, bool)> {
        let find = |text: &str| self.tokens.iter().position(|token| token == text);
        let unused = || self.kinds.iter().position(|&kind| kind == TokenKind::Unused as i32);
        let zero_byte = "\u{100}"; // in GPT-2's alphabet
        let named = configured.filter(|&id| self.is_token(id)).or_else(|| find("<|endoftext|>").map(|id| id as u32));
        let spare = || unused().or_else(|| find(zero_byte)).map(|id| (id as u32, false));
        named.map(|id| (id, true)).or_else(spare)
    }
}

impl MergeJson {
    fn joined(&self) -> Result<String, String> {
        let joined = match self {
            MergeJson::Joined(text) => text.clone(),
            MergeJson::Pair(left, right) => format!("{left} {right}"),
        };
        match joined.matches(' ').count() {
            1 => Ok(joined),
            _ => Err(format!("has a merge of tokens with spaces in them ({:?})", one_line(&joined))),
        }
    }
}

fn check_model(model: &BpeJson) -> Result<(), String> {
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        ("dropout", model.dropout.is_some_and(|p| p > 0.0)),
        ("continuing_subword_prefix", some(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", some(&model.end_of_word_suffix)),
        ("byte_fallback", model.byte_fallback),
        ("ignore_merges", model.ignore_merges),
    ];
    match refused.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(format!("uses {name}")),
        None => Ok(()),
    }
}

/// Only GPT-2's pattern; without merges a text falls into its bytes however it is split.
fn check_splitting(pre_tokenizer: Option<&Value>, no_merges: bool) -> Result<(), String> {
    let flag = |name: &str, default: bool| {
        pre_tokenizer.and_then(|value| value.get(name)).and_then(Value::as_bool).unwrap_or(default)
    };
    let kind = pre_tokenizer.and_then(|value| value.get("type")).and_then(Value::as_str);
    if kind != Some("ByteLevel") {
        return Err("does not split text as GPT-2's does (its pre_tokenizer is not ByteLevel alone)".into());
    }
    if flag("add_prefix_space", true) {
        return Err("puts a space before the text (add_prefix_space)".into());
    }
    if !flag("use_regex", true) && !no_merges {
        return Err("does not split text by GPT-2's pattern (use_regex is false)".into());
    }
    Ok(())
}

/// Texts and kinds by id; ids without a token get a name of their own, because llama.cpp wants every text once.
fn by_id(
    vocab: &HashMap<String, u32>,
    added: &[AddedToken],
    rows: usize,
) -> Result<(Vec<String>, Vec<TokenKind>), String> {
    let mut by_id: Vec<Option<(&str, TokenKind)>> = vec![None; rows];
    let added_ids: HashSet<u32> = added.iter().map(|token| token.id).collect();
    let learned = vocab.iter().filter(|(_, id)| !added_ids.contains(id));
    let learned = learned.map(|(text, &id)| (id, text.as_str(), TokenKind::Normal));
    for (id, text, kind) in learned.chain(added.iter().map(AddedToken::entry)) {
        let Some(place) = by_id.get_mut(id as usize) else {
            return Err(format!("has a token id {id}, beyond the model's vocabulary of {rows}"));
        };
        if place.replace((text, kind)).is_some() {
            return Err(format!("gives the id {id} to two tokens"));
        }
    }
    let mut texts: HashSet<&str> = HashSet::new();
    if let Some((twice, _)) = by_id.iter().flatten().find(|(text, _)| !texts.insert(text)) {
        return Err(format!("has the token {:?} twice", one_line(twice)));
    }
    let named = by_id.iter().enumerate().map(|(id, token)| match token {
        Some((text, kind)) => (text.to_string(), *kind),
        None => {
            let mut name = format!("[PAD{id}]");
            while texts.contains(name.as_str()) {
                name.push('_');
            }
            (name, TokenKind::Unused)
        }
    });
    Ok(named.unzip())
}
