//! BERT's `vocab.txt`, a token on each line: made into the content of a `tokenizer.json`, as `BertTokenizer` has it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{Beside, added_tokens, class_name};
use crate::data::tokenizer::BERT_TOKENS;
use crate::files::one_line;

/// The vocabulary of WordPiece tokenizers: a token's id is the number of its line, from 0 on.
pub const TEXT_FILE: &str = "vocab.txt";
/// Classes that split texts as `BertTokenizer` does, without their ending, and types of models that have it.
const CLASSES: [&str; 6] = ["Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert"];
const MODELS: [&str; 6] = ["bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert"];
/// Longer words are unknown.
const LONGEST_WORD: usize = 100;

/// The `tokenizer.json` that gives the ids of `BertTokenizer` with a `vocab.txt`. `roles` names special tokens, where these are others
/// than BERT's. Other tokenizers with such a file are refused by name.
pub fn word_piece_json(words: &[u8], beside: &Beside, roles: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let settings = beside.parsed_settings()?;
    check_class(beside, &settings)?;
    let vocabulary = vocabulary(words)?;
    let special = BERT_TOKENS.map(|(role, default)| {
        let given = roles.get(role).and_then(|token| token.as_str().or(token["content"].as_str()));
        given.unwrap_or(default).to_string()
    });
    let [_, unknown, start, separator, _] = &special;
    let id = |token: &String| {
        let missing = || format!("{TEXT_FILE} has no token {:?}, which texts need: it is not BERT's", one_line(token));
        vocabulary.get(token).copied().ok_or_else(missing)
    };
    id(unknown)?;
    let (start_id, separator_id) = (id(start)?, id(separator)?);
    let flag = |key: &str| settings[key].as_bool();
    let token = |token: &str, kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    let (before, first, after) = (token(start, 0), text("A", 0), token(separator, 0));
    let known = |token: &str, id: u32| (token.to_string(), json!({"id": token, "ids": [id], "tokens": [token]}));
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added_tokens((TEXT_FILE, &vocabulary), beside, &settings, special.to_vec())?,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars").unwrap_or(true),
            "strip_accents": flag("strip_accents"),
            "lowercase": flag("do_lower_case").unwrap_or(true),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [before, first, after],
            "pair": [before, first, after, text("B", 1), token(separator, 1)],
            "special_tokens": Map::from_iter([known(start, start_id), known(separator, separator_id)]),
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": LONGEST_WORD,
            "vocab": vocabulary,
        },
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// Refuses files of a class that splits texts in another way.
fn check_class(beside: &Beside, settings: &Value) -> Result<(), String> {
    let model = beside.model_type();
    let (is_known, name) = match (class_name(settings), &model) {
        (Some(class), _) => (class.strip_suffix("Tokenizer").is_some_and(|class| CLASSES.contains(&class)), class),
        (None, Some(model)) => (MODELS.contains(&model.as_str()), model.as_str()),
        (None, None) => (true, ""),
    };
    if is_known {
        return Ok(());
    }
    Err(format!(
        "{TEXT_FILE} does not say how a text is split, and that of {:?} is not known here: save a tokenizer.json with \
         AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
        one_line(name)
    ))
}

/// The ids of the tokens; of equal lines the last counts.
fn vocabulary(bytes: &[u8]) -> Result<HashMap<String, u32>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("{TEXT_FILE} is not UTF-8 text"))?;
    let text = text.replace("\r\n", "\n");
    let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
    Ok(lines.map(str::to_string).zip(0..).collect())
}
