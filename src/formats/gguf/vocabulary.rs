//! A `tokenizer.json` as GGUF lists it: tokens by id, the type of each, and merges or scores.
//!
//! llama.cpp has two kinds of BPE: byte-level, from merges and the name of a pre-tokenizer ([`super::splitting`]), and
//! SentencePiece's, which merges the pair whose whole has the best score.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::splitting::Splitting;
use crate::files::one_line;

/// llama.cpp's types of tokens, with its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text: in GPT-2's alphabet of bytes, or of SentencePiece, whose space is U+2581.
    Normal = 1,
    /// What SentencePiece has for a text that it cannot encode.
    Unknown = 2,
    /// A special token, which ends a text or separates.
    Control = 3,
    /// Plain text that is one token wherever it stands.
    UserDefined = 4,
    /// Fills an id that the tokenizer does not use.
    Unused = 5,
    /// A byte of SentencePiece, written <0x0A>.
    Byte = 6,
}

/// What stands for a space in SentencePiece's tokens.
pub const SPACE: char = '\u{2581}';

/// Everything that GGUF says about a tokenizer.
#[derive(Debug)]
pub struct Vocabulary {
    /// One text per row of the embedding table, each of them once.
    pub tokens: Vec<String>,
    /// A [`TokenKind`] for each.
    pub kinds: Vec<i32>,
    pub algorithm: Algorithm,
    /// Whether text is normalised to NFC first, which llama.cpp does not.
    pub composes: bool,
}

/// How text becomes tokens.
#[derive(Debug)]
pub enum Algorithm {
    ByteLevel {
        /// Name of the pre-tokenizer.
        pre: &'static str,
        /// Pairs in the order of their ranks, a space between the two.
        merges: Vec<String>,
    },
    SentencePiece {
        /// One for each token; the pair whose whole has the highest is merged first.
        scores: Vec<f32>,
        /// Whether a text gets a space in front.
        adds_space: bool,
        unknown: Option<u32>,
    },
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
    unk_token: Option<String>,
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
        let model: BpeJson = serde_json::from_value(file.model)
            .map_err(|error| format!("has a BPE model that cannot be read ({})", one_line(&error.to_string())))?;
        check_model(&model)?;
        if let Some(token) = file.added_tokens.iter().find(|token| token.single_word || token.lstrip || token.rstrip) {
            return Err(format!("has a token that looks at the text around it ({:?})", one_line(&token.content)));
        }
        let merges = model.merges.iter().map(MergeJson::pair).collect::<Result<Vec<_>, _>>()?;
        let (tokens, mut kinds) = by_id(&model.vocab, &file.added_tokens, rows)?;
        let (normalizer, pre_tokenizer) = (file.normalizer.unwrap_or_default(), file.pre_tokenizer.unwrap_or_default());
        let (algorithm, composes) = if model.byte_fallback {
            let Some(adds_space) = adds_space(&normalizer, &pre_tokenizer) else {
                return Err("changes or splits the text in another way than SentencePiece".into());
            };
            let unknown = model.unk_token.as_ref().and_then(|token| model.vocab.get(token)).copied();
            for (token, kind) in tokens.iter().zip(&mut kinds) {
                if token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                    *kind = TokenKind::Byte;
                }
            }
            if let Some(kind) = unknown.and_then(|id| kinds.get_mut(id as usize)) {
                *kind = TokenKind::Unknown;
            }
            let scores = scores(&tokens, &kinds, &merges)?;
            (Algorithm::SentencePiece { scores, adds_space, unknown }, false)
        } else {
            let splitting = splitting(&normalizer, &pre_tokenizer, &model)?;
            let merges = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            (Algorithm::ByteLevel { pre: splitting.names[0], merges }, splitting.composes)
        };
        Ok(Self { tokens, kinds: kinds.into_iter().map(|kind| kind as i32).collect(), algorithm, composes })
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
        let zero_byte = match self.algorithm {
            Algorithm::ByteLevel { .. } => "\u{100}", // in GPT-2's alphabet
            Algorithm::SentencePiece { .. } => "<0x00>",
        };
        let named = configured.filter(|&id| self.is_token(id)).or_else(|| find("<|endoftext|>").map(|id| id as u32));
        let spare = || unused().or_else(|| find(zero_byte)).map(|id| (id as u32, false));
        named.map(|id| (id, true)).or_else(spare)
    }
}

impl MergeJson {
    /// The two tokens, neither of which has a space in it.
    fn pair(&self) -> Result<(&str, &str), String> {
        let pair = match self {
            MergeJson::Joined(text) => text.split_once(' ').unwrap_or((text, "")),
            MergeJson::Pair(left, right) => (left.as_str(), right.as_str()),
        };
        match pair {
            (left, right) if [left, right].iter().all(|part| !part.is_empty() && !part.contains(' ')) => Ok(pair),
            (left, right) => {
                Err(format!("has a merge of tokens with spaces in them ({:?})", one_line(&format!("{left} {right}"))))
            }
        }
    }
}

fn check_model(model: &BpeJson) -> Result<(), String> {
    let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let refused = [
        ("dropout", model.dropout.is_some_and(|p| p > 0.0)),
        ("continuing_subword_prefix", some(&model.continuing_subword_prefix)),
        ("end_of_word_suffix", some(&model.end_of_word_suffix)),
        ("ignore_merges with byte_fallback", model.byte_fallback && model.ignore_merges),
    ];
    match refused.iter().find(|(_, used)| *used) {
        Some((name, _)) => Err(format!("uses {name}")),
        None => Ok(()),
    }
}

/// How byte-level BPE splits a text; without merges it falls into its bytes however it is split.
fn splitting(normalizer: &Value, pre_tokenizer: &Value, model: &BpeJson) -> Result<&'static Splitting, String> {
    let flag = |name: &str, default: bool| pre_tokenizer[name].as_bool().unwrap_or(default);
    let is_byte_level = pre_tokenizer["type"] == "ByteLevel";
    if is_byte_level && flag("add_prefix_space", true) {
        return Err("puts a space before the text (add_prefix_space)".into());
    }
    let found = if is_byte_level && model.merges.is_empty() && !flag("use_regex", true) {
        Splitting::named("gpt-2")
    } else {
        Splitting::of(pre_tokenizer)
    };
    let Some(splitting) = found else {
        return Err("splits text in a way that has no name there (pre_tokenizer)".into());
    };
    if *normalizer != Value::Null && !(splitting.composes && normalizer["type"] == "NFC") {
        return Err("changes the text before it splits it (normalizer)".into());
    }
    if model.ignore_merges != splitting.ignore_merges && !model.merges.is_empty() {
        let (is, name) = (model.ignore_merges, splitting.names[0]);
        return Err(format!("has ignore_merges {is}, unlike the pre-tokenizer {name} of llama.cpp"));
    }
    Ok(splitting)
}

/// Whether a text gets a space in front, where spaces become U+2581 and nothing else is changed or split.
fn adds_space(normalizer: &Value, pre_tokenizer: &Value) -> Option<bool> {
    let space = SPACE.to_string();
    let steps = match normalizer["normalizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None if *normalizer == Value::Null => vec![],
        None => vec![normalizer],
    };
    if steps.is_empty() && pre_tokenizer["type"] == "Metaspace" {
        let replaces = pre_tokenizer["replacement"] == *space && pre_tokenizer["split"] == false;
        return replaces.then(|| pre_tokenizer["prepend_scheme"] != "never");
    }
    let is_replace =
        |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == *space;
    match *steps {
        [replace] if is_replace(replace) && *pre_tokenizer == Value::Null => Some(false),
        [prepend, replace] if is_replace(replace) && *pre_tokenizer == Value::Null => {
            (prepend["type"] == "Prepend" && prepend["prepend"] == *space).then_some(true)
        }
        _ => None,
    }
}

/// Scores that merge in the order of the merges: each token's is its lowest rank, negative. All pairs of tokens that make a token
/// must be merges, because llama.cpp takes any.
fn scores(tokens: &[String], kinds: &[TokenKind], merges: &[(&str, &str)]) -> Result<Vec<f32>, String> {
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
    let mut ranks: Vec<Option<usize>> = vec![None; tokens.len()];
    for (rank, (left, right)) in merges.iter().enumerate() {
        if let Some(&id) = ids.get(format!("{left}{right}").as_str()) {
            ranks[id].get_or_insert(rank);
        }
    }
    let merges: HashSet<(&str, &str)> = merges.iter().copied().collect();
    for (token, _) in tokens.iter().zip(kinds).filter(|(_, kind)| **kind == TokenKind::Normal) {
        let mut pairs = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let left_out =
            |pair: &(&str, &str)| ids.contains_key(pair.0) && ids.contains_key(pair.1) && !merges.contains(pair);
        if let Some((left, right)) = pairs.find(left_out) {
            let pair = one_line(&format!("{left} {right}"));
            return Err(format!("has no merge of {pair}, and llama.cpp merges any two tokens that make a third"));
        }
    }
    // Tokens that no merge makes are characters: any score below the others' will do.
    Ok(ranks.into_iter().map(|rank| -(rank.unwrap_or(tokens.len() + merges.len()) as f32)).collect())
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
