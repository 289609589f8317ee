//! Ids of pieces of text, from many threads.
//!
//! The `tokenizers` crate spends most of its time on offsets that nobody asks for and on small allocations. Where a
//! tokenizer splits text as GPT-2 does, and does nothing else before its merges, the ids of a text are those of its
//! words: each different word goes through the crate once, and is looked up from then on.

use std::sync::{PoisonError, RwLock};

use ahash::AHashMap;
use compact_str::CompactString;
use regex::Regex;
use serde_json::Value;

use super::{
    pieces::Piece,
    tokenizer::{Tokenizer, Unencodable},
    word_counts::{gpt2_pattern, gpt2_words},
};
use crate::error::{Error, Result};

/// Words that are kept; further ones are encoded each time.
const MOST_WORDS: usize = 500_000;
/// Longer words are not kept.
const LONGEST_WORD_BYTES: usize = 64;

/// Encodes pieces of text with a tokenizer; the ids are those of `Tokenizer::encode`.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    words: Option<Words>,
}

/// The parts of the encoder that go word by word.
struct Words {
    pattern: &'static Regex,
    /// Tokens that are found in the text before it is split; a text with one of them goes through the crate.
    added: Option<Regex>,
    known: RwLock<AHashMap<CompactString, Box<[u32]>>>,
}

impl Encoder<'_> {
    pub fn new(tokenizer: &Tokenizer) -> Result<Encoder<'_>> {
        let json = serde_json::from_slice(tokenizer.json()).unwrap_or_default();
        let words = if splits_like_gpt2(&json) {
            added_tokens(&json)
                .map(|added| Ok::<_, Error>(Words { pattern: gpt2_pattern()?, added, known: RwLock::default() }))
        } else {
            None
        };
        Ok(Encoder { tokenizer, words: words.transpose()? })
    }

    /// The ids of a piece; an error says where in the source the text cannot be encoded.
    pub fn encode(&self, piece: &Piece) -> Result<Vec<u32>> {
        let text = &piece.text;
        let words = self.words.as_ref().filter(|words| !words.added.as_ref().is_some_and(|added| added.is_match(text)));
        let ids = match words {
            Some(words) => words.encode(text, self.tokenizer),
            None => self.behind(&piece.before, text),
        };
        ids.map_err(|failure| {
            let position = piece.position(failure.offset);
            Error::Input(format!("cannot encode the text {position}: {}", failure.reason))
        })
    }

    /// The ids of a text that stands behind another one, which is left out.
    fn behind(&self, before: &str, text: &str) -> std::result::Result<Vec<u32>, Unencodable> {
        if before.is_empty() {
            return self.tokenizer.try_encode(text);
        }
        let head = self.tokenizer.try_encode(before)?;
        let ids = self.tokenizer.try_encode(&format!("{before}{text}"))?;
        match ids.strip_prefix(&head[..]) {
            Some(ids) => Ok(ids.to_vec()),
            None => {
                let reason = format!("the tokenizer joins the texts on both sides of {before:?}; report it");
                Err(Unencodable { offset: None, reason })
            }
        }
    }
}

impl Words {
    fn encode(&self, text: &str, tokenizer: &Tokenizer) -> std::result::Result<Vec<u32>, Unencodable> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let is_full = known.len() >= MOST_WORDS;
        let mut fresh: AHashMap<&str, Vec<u32>> = AHashMap::new();
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut failure = None;
        gpt2_words(self.pattern, text, &mut |word| {
            if let Some(known) = known.get(word) {
                ids.extend_from_slice(known);
            } else if let Some(fresh) = fresh.get(word) {
                ids.extend_from_slice(fresh);
            } else {
                match tokenizer.try_encode(word) {
                    Ok(new) => {
                        ids.extend_from_slice(&new);
                        fresh.insert(word, new);
                    }
                    Err(cause) => failure = Some(cause),
                }
            }
        });
        drop(known);
        if let Some(Unencodable { reason, .. }) = failure {
            return Err(Unencodable { offset: None, reason });
        }
        if !is_full && !fresh.is_empty() {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let short = fresh.into_iter().filter(|(word, _)| word.len() <= LONGEST_WORD_BYTES);
            known.extend(short.map(|(word, ids)| (CompactString::new(word), ids.into_boxed_slice())));
        }
        Ok(ids)
    }
}

/// Whether a `tokenizer.json` describes GPT-2's kind: byte-level BPE after GPT-2's regular expression, nothing else.
fn splits_like_gpt2(json: &Value) -> bool {
    let (split, model) = (&json["pre_tokenizer"], &json["model"]);
    json["normalizer"].is_null()
        && split["type"] == "ByteLevel"
        && split["add_prefix_space"] == false
        && split["use_regex"] != false
        && model["type"] == "BPE"
        && model["dropout"].is_null()
}

/// Matches the tokens that are found before a text is split (None inside if there are none); None if they are too many.
fn added_tokens(json: &Value) -> Option<Option<Regex>> {
    let tokens: Vec<String> = json["added_tokens"]
        .as_array()?
        .iter()
        .filter_map(|token| token["content"].as_str())
        .map(regex::escape)
        .collect();
    if tokens.is_empty() { Some(None) } else { Regex::new(&tokens.join("|")).ok().map(Some) }
}
