//! Tokens that a model with a head has around every text, as a `tokenizer.json` has them: added tokens and a post-processor, so
//! that the folder alone gives other programs the same sequences.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Tokenizer;
use crate::error::{Error, Result};

/// The tokens of a fine-tuned model, in the order of their ids, which follow each other.
const NAMES: [&str; 3] = ["start", "delimiter", "extract"];

/// Tokens of a model whose head looks at the last token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Ends every text, where the tokenizer has an end of text.
    pub end: Option<u32>,
    /// Fills up a batch. Never the end of text: the head looks at the last token that is not this one.
    pub pad: u32,
}

impl Marks {
    /// Those of a tokenizer; `pad` is the token for padding of a model that has one already.
    pub fn of(tokenizer: &Tokenizer, pad: Option<u32>) -> Marks {
        Marks { end: tokenizer.end_of_text(), pad: pad.unwrap_or(tokenizer.full_vocabulary_size() as u32) }
    }
}

/// Part of a template: a token by its id, or one of the two texts.
enum Part {
    Token(u32),
    Text(&'static str),
}

impl Tokenizer {
    /// The same with tokens of the ids from `first` on, which every text gets in other programs: start, text, extract, or with
    /// a second text behind a delimiter; sequences have at most `longest` tokens. [`Tokenizer::encode`] adds none of them.
    ///
    /// Unchanged where the ids do not follow those of the tokenizer, as those of models fine-tuned by the first version.
    pub fn framed(&self, first: u32, longest: usize) -> Result<Tokenizer> {
        let [start, delimiter, extract] = [0, 1, 2].map(|i| Part::Token(first + i));
        let single = [&start, &Part::Text("A"), &extract];
        let pair = [&start, &Part::Text("A"), &delimiter, &Part::Text("B"), &extract];
        // The head looks at the last token that is not padding: any but the one that comes last will do.
        self.templated((first, &NAMES), (&single, &pair), first, longest)
    }

    /// The same with a token for padding, and with the end of a text behind every text in other programs.
    /// [`Tokenizer::encode`] adds neither.
    pub fn ended(&self, Marks { end, pad }: Marks, longest: usize) -> Result<Tokenizer> {
        let (a, b, end) = (Part::Text("A"), Part::Text("B"), end.map(Part::Token));
        let single: Vec<&Part> = [&a].into_iter().chain(&end).collect();
        let pair: Vec<&Part> = [&a, &b].into_iter().chain(&end).collect();
        self.templated((pad, &["pad"]), (&single, &pair), pad, longest)
    }

    /// The same with added tokens of the ids from `first` on, templates for one text and for two, and a token for padding.
    fn templated(
        &self,
        (first, names): (u32, &[&str]),
        (single, pair): (&[&Part], &[&Part]),
        pad: u32,
        longest: usize,
    ) -> Result<Tokenizer> {
        let mut json: Value = serde_json::from_slice(&self.json)
            .map_err(|cause| Error::Input(format!("the tokenizer cannot be given tokens: {cause}")))?;
        let mut added = json["added_tokens"].as_array().cloned().unwrap_or_default();
        let mut contents = vec![];
        for (id, name) in (first..).zip(names) {
            let known = added.iter().find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
            if let Some(known) = known {
                contents.push(known.to_string());
                continue;
            }
            if id as usize != self.full_vocabulary_size() + contents.len() {
                return Ok(self.clone());
            }
            let mut content = format!("<|task_{name}|>");
            while self.token_id(&content).is_some() {
                content.insert(2, '_');
            }
            added.push(json!({"id": id, "content": content, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false}));
            contents.push(content);
        }
        let content = |id: u32| match id.checked_sub(first).and_then(|i| contents.get(i as usize)) {
            Some(content) => Some(content.clone()),
            None => self.inner().and_then(|inner| inner.id_to_token(id)),
        };
        let mut tokens = serde_json::Map::new();
        let mut template = |parts: &[&Part]| -> Option<Value> {
            let parts = parts.iter().map(|part| match part {
                Part::Text(name) => Some(json!({"Sequence": {"id": name, "type_id": 0}})),
                Part::Token(id) => {
                    let name = content(*id)?;
                    let part = json!({"SpecialToken": {"id": name, "type_id": 0}});
                    tokens.insert(name.clone(), json!({"id": name, "ids": [id], "tokens": [name]}));
                    Some(part)
                }
            });
            parts.collect::<Option<Vec<Value>>>().map(Value::from)
        };
        let (Some(single), Some(pair)) = (template(single), template(pair)) else { return Ok(self.clone()) };
        json["added_tokens"] = added.into();
        json["post_processor"] =
            json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens});
        let mut framed = Tokenizer::from_json(serde_json::to_vec_pretty(&json).expect("JSON always serialises"))
            .map_err(|why| Error::Input(format!("the tokenizer cannot be given tokens for the task: {why}")))?;
        if (first..).zip(&contents).any(|(id, content)| framed.token_id(content) != Some(id)) {
            return Ok(self.clone());
        }
        let (mut settings, mut beside) = self.beside.merged(self);
        // Other classes put their own tokens around a text, whatever tokenizer.json says.
        settings.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        for own in ["add_bos_token", "add_eos_token", "added_tokens_decoder"] {
            settings.remove(own);
        }
        settings.insert("model_input_names".into(), json!(["input_ids", "attention_mask"]));
        settings.insert("model_max_length".into(), longest.into());
        settings.insert("pad_token".into(), content(pad).into());
        settings.insert("padding_side".into(), "right".into());
        settings.insert("truncation_side".into(), "right".into());
        beside.settings = Some(settings);
        framed.beside = beside;
        Ok(framed)
    }
}
