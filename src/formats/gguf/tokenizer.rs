//! The tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::container::Metadatum;
use super::read::Keys;
use super::splitting::Splitting;
use super::vocabulary::{SPACE, TokenKind};
use crate::data::tokenizer::{Tokenizer, byte_alphabet};
use crate::files::one_line;

/// Roles of special tokens in `tokenizer_config.json`, and their keys in GGUF.
const ROLES: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// The longest token that is taken for one.
const MOST_BYTES: usize = 1 << 12;

/// What the metadata lists.
struct Listed<'a> {
    keys: &'a Keys,
    tokens: &'a [String],
    kinds: Vec<i64>,
}

/// The content of `tokenizer.json` and of `tokenizer_config.json`; the error is what is wrong, to follow the file's name.
pub fn files(keys: &Keys) -> Result<(Vec<u8>, Vec<u8>), String> {
    let Some(Metadatum::Texts(tokens)) = keys.get("tokenizer.ggml.tokens") else {
        return Err("it has no list of tokens (tokenizer.ggml.tokens)".into());
    };
    // A token is cut at each of its characters to find merges.
    if let Some(token) = tokens.iter().find(|token| token.len() > MOST_BYTES) {
        return Err(format!("it has a token of {} bytes", token.len()));
    }
    let kinds = match keys.get("tokenizer.ggml.token_type") {
        Some(Metadatum::Integers(kinds)) if kinds.len() == tokens.len() => kinds.clone(),
        None => vec![TokenKind::Normal as i64; tokens.len()],
        Some(_) => return Err("tokenizer.ggml.token_type is not a number for each token".into()),
    };
    let listed = Listed { keys, tokens, kinds };
    let json = match keys.text("tokenizer.ggml.model")? {
        Some("gpt2") => listed.byte_level()?,
        Some("llama") => listed.sentencepiece()?,
        other => {
            let other = one_line(other.unwrap_or("not named"));
            return Err(format!("its tokenizer is of the kind {other}, and gpt2 and llama can be read"));
        }
    };
    Ok((json, listed.settings()?))
}

impl Listed<'_> {
    /// Byte-level BPE.
    fn byte_level(&self) -> Result<Vec<u8>, String> {
        let merges = match self.keys.get("tokenizer.ggml.merges") {
            Some(Metadatum::Texts(merges)) => merges.as_slice(),
            _ => &[],
        };
        let alphabet = byte_alphabet().map(String::from);
        if merges.is_empty() && self.tokens == alphabet {
            let bytes = Tokenizer::bytes().map_err(|error| error.to_string())?;
            return Ok(bytes.json().to_vec());
        }
        // Files of GPT-2 from before llama.cpp had names of pre-tokenizers have none.
        let is_gpt2 = self.keys.text("general.architecture")? == Some("gpt2");
        let name = match self.keys.text("tokenizer.ggml.pre")? {
            None if is_gpt2 => "gpt-2",
            name => name.unwrap_or("default"),
        };
        let Some(splitting) = Splitting::named(name) else {
            return Err(format!(
                "its tokenizer splits text by the pre-tokenizer {}, which is not known here",
                one_line(name)
            ));
        };
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": splitting.ignore_merges, "vocab": self.vocabulary(),
            "merges": pairs(merges)?,
        });
        let byte_level =
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        self.json(json!({
            "normalizer": splitting.normalizer(), "pre_tokenizer": splitting.pre_tokenizer(),
            "post_processor": self.template(false)?.unwrap_or_else(|| byte_level.clone()), "decoder": byte_level,
            "model": model,
        }))
    }

    /// SentencePiece's BPE: its merges are all pairs of tokens that make a token, the best score first.
    fn sentencepiece(&self) -> Result<Vec<u8>, String> {
        let Some(Metadatum::Numbers(scores)) = self.keys.get("tokenizer.ggml.scores") else {
            return Err("it has no score for each token (tokenizer.ggml.scores)".into());
        };
        if scores.len() != self.tokens.len() {
            return Err("tokenizer.ggml.scores is not a number for each token".into());
        }
        let ids: HashMap<&str, usize> =
            self.tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect();
        let mut merges = vec![];
        for (id, token) in self.tokens.iter().enumerate() {
            if self.kinds[id] != TokenKind::Normal as i64 {
                continue;
            }
            for (at, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(at);
                if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                    merges.push((id, (*l, *r), [left, right]));
                }
            }
        }
        merges.sort_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then(a.1.cmp(&b.1)));
        let merges: Vec<_> = merges.into_iter().map(|(_, _, pair)| pair).collect();
        let unknown = self.token("tokenizer.ggml.unknown_token_id")?;
        let space = SPACE.to_string();
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": space});
        let adds_space = self.keys.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let prepend = adds_space.then(|| json!({"type": "Prepend", "prepend": space}));
        let normalizers: Vec<Value> = prepend.into_iter().chain([replace]).collect();
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": space}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if adds_space {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": self.vocabulary(), "merges": merges,
        });
        self.json(json!({
            "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": null,
            "post_processor": self.template(true)?, "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
        }))
    }

    /// `tokenizer.json` of its parts.
    fn json(&self, parts: Value) -> Result<Vec<u8>, String> {
        let kinds = [TokenKind::Control, TokenKind::Unknown, TokenKind::UserDefined].map(|kind| kind as i64);
        let added = self.kinds.iter().enumerate().filter(|(_, kind)| kinds.contains(kind)).map(|(id, kind)| {
            json!({"id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != TokenKind::UserDefined as i64})
        });
        let mut all =
            json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>()});
        let all = all.as_object_mut().expect("an object");
        let Value::Object(parts) = parts else { unreachable!("an object") };
        all.extend(parts);
        serde_json::to_vec(&all).map_err(|error| error.to_string())
    }

    /// Ids by token; ids that only fill up are left out.
    fn vocabulary(&self) -> Map<String, Value> {
        let used = self.tokens.iter().enumerate().filter(|(id, _)| self.kinds[*id] != TokenKind::Unused as i64);
        used.map(|(id, token)| (token.clone(), id.into())).collect()
    }

    /// The token that a key names by its id.
    fn token(&self, key: &str) -> Result<Option<&String>, String> {
        let Some(id) = self.keys.whole(key)? else { return Ok(None) };
        let token = self.tokens.get(id);
        token.map(Some).ok_or_else(|| format!("{key} is {id}, and there are {} tokens", self.tokens.len()))
    }

    /// The tokens around every text, as `post_processor`; the first is added unless the file says so where `starts`.
    fn template(&self, starts: bool) -> Result<Option<Value>, String> {
        let part = |key: &str, flag: &str, default: bool| -> Result<_, String> {
            Ok(if self.keys.flag(flag)?.unwrap_or(default) {
                self.keys.whole(key)?.zip(self.token(key)?)
            } else {
                None
            })
        };
        let start = part(ROLES[0].1, "tokenizer.ggml.add_bos_token", starts)?;
        let end = part(ROLES[1].1, "tokenizer.ggml.add_eos_token", false)?;
        if start.is_none() && end.is_none() {
            return Ok(None);
        }
        let special =
            |(_, token): &(usize, &String), text: usize| json!({"SpecialToken": {"id": token, "type_id": text}});
        let text = |name: &str, text: usize| {
            let first = start.iter().map(|token| special(token, text));
            let last = end.iter().map(|token| special(token, text));
            first.chain([json!({"Sequence": {"id": name, "type_id": text}})]).chain(last).collect::<Vec<_>>()
        };
        let tokens: Map<String, Value> = [&start, &end]
            .into_iter()
            .flatten()
            .map(|(id, token)| (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let pair = [text("A", 0), text("B", 1)].concat();
        Ok(Some(json!({
            "type": "TemplateProcessing", "single": text("A", 0), "pair": pair,
            "special_tokens": tokens,
        })))
    }

    fn settings(&self) -> Result<Vec<u8>, String> {
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
            "model_input_names": ["input_ids", "attention_mask"],
        });
        let all = settings.as_object_mut().expect("an object");
        for (role, key) in ROLES {
            all.extend(self.token(key)?.map(|token| (role.to_string(), Value::from(token.as_str()))));
        }
        let template = self.keys.text("tokenizer.chat_template")?;
        all.extend(template.map(|template| ("chat_template".to_string(), Value::from(template))));
        serde_json::to_vec_pretty(&settings).map_err(|error| error.to_string())
    }
}

/// Merges as pairs.
fn pairs(merges: &[String]) -> Result<Vec<[&str; 2]>, String> {
    merges
        .iter()
        .map(|merge| {
            let pair = merge.split_once(' ').map(|(left, right)| [left, right]);
            pair.ok_or_else(|| format!("it has a merge that is no pair ({:?})", one_line(merge)))
        })
        .collect()
}
