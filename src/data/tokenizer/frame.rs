//! Tokens that a fine-tuned model has around every text, as a `tokenizer.json` has them: added tokens and a post-processor, so
//! that the folder alone gives other programs the same sequences.

use serde_json::{Value, json};

use super::Tokenizer;
use crate::error::{Error, Result};

/// The tokens of a fine-tuned model, in the order of their ids, which follow each other.
const NAMES: [&str; 3] = ["start", "delimiter", "extract"];

impl Tokenizer {
    /// The same with tokens of the ids from `first` on, which every text gets in other programs: start, text, extract, or with
    /// a second text behind a delimiter; sequences have at most `longest` tokens. [`Tokenizer::encode`] adds none of them.
    ///
    /// Unchanged where the ids do not follow those of the tokenizer, as those of models fine-tuned by the first version.
    pub fn framed(&self, first: u32, longest: usize) -> Result<Tokenizer> {
        let mut json: Value = serde_json::from_slice(&self.json)
            .map_err(|cause| Error::Input(format!("the tokenizer cannot be given tokens: {cause}")))?;
        let mut added = json["added_tokens"].as_array().cloned().unwrap_or_default();
        let mut names = vec![];
        for (id, name) in (first..).zip(NAMES) {
            let known = added.iter().find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
            if let Some(known) = known {
                names.push(known.to_string());
                continue;
            }
            if id as usize != self.full_vocabulary_size() + names.len() {
                return Ok(self.clone());
            }
            let mut content = format!("<|task_{name}|>");
            while self.token_id(&content).is_some() {
                content.insert(2, '_');
            }
            added.push(json!({"id": id, "content": content, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false}));
            names.push(content);
        }
        let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let ids =
            (first..).zip(&names).map(|(id, name)| (name.clone(), json!({"id": name, "ids": [id], "tokens": [name]})));
        json["added_tokens"] = added.into();
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special(&names[0]), text("A"), special(&names[2])],
            "pair": [special(&names[0]), text("A"), special(&names[1]), text("B"), special(&names[2])],
            "special_tokens": ids.collect::<serde_json::Map<_, _>>(),
        });
        let mut framed = Tokenizer::from_json(serde_json::to_vec_pretty(&json).expect("JSON always serialises"))
            .map_err(|why| Error::Input(format!("the tokenizer cannot be given tokens for the task: {why}")))?;
        if (first..).zip(&names).any(|(id, name)| framed.token_id(name) != Some(id)) {
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
        // The head looks at the last token that is not padding: any but the one that comes last will do.
        settings.insert("pad_token".into(), names[0].clone().into());
        settings.insert("padding_side".into(), "right".into());
        settings.insert("truncation_side".into(), "right".into());
        beside.settings = Some(settings);
        framed.beside = beside;
        Ok(framed)
    }
}
