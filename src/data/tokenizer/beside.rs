//! The other files of a tokenizer beside `tokenizer.json`: kept, so that a model that is trained further has them too.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{BERT_TOKENS, END_OF_TEXT, ReadFile, T5_TOKENS, Tokenizer};
use crate::data::span_corruption::sentinel;
use crate::data::vocabulary::SETTINGS_FILE;
use crate::error::{Error, Result};
use crate::files::{one_line, write_bytes};
use crate::models::keys::Use::{self, Elsewhere, Harmless, Warned};
use crate::models::keys::{Keys, unheeded};

/// Further files that are written as they were read. How texts are to be generated is no matter of a tokenizer, but of those
/// who made the model's words.
pub const FILES: [&str; 5] =
    ["special_tokens_map.json", "added_tokens.json", TEMPLATE_FILE, TEMPLATE_JSON, GENERATION_FILE];
const TEMPLATE_FILE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";
pub(super) const GENERATION_FILE: &str = "generation_config.json";
const SPECIAL_TOKENS_FILE: &str = FILES[0];

/// How each key of a `tokenizer_config.json` that `transformers` knows is treated.
pub const KEYS: &[(&str, Use)] = &[
    ("__slow_tokenizer", Harmless),
    ("_json_padding", Harmless),
    ("_json_truncation", Harmless),
    ("_spm_precompiled_charsmap", Harmless),
    ("add_bos_token", Elsewhere), // compared with tokenizer.json, as the next two
    ("add_eos_token", Elsewhere),
    ("add_prefix_space", Elsewhere),
    ("added_tokens_decoder", Elsewhere), // where there is no tokenizer.json
    ("additional_special_tokens", Harmless),
    ("auto_map", Harmless),
    ("backend", Harmless),
    ("bos_token", Harmless), // names of tokens: what is done with them stands in tokenizer.json and generation_config.json
    ("chat_control_tokens", Harmless),
    ("chat_template", Harmless), // kept, and used by sft; prompts are taken as they are
    ("clean_up_tokenization_spaces", Elsewhere),
    ("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", Warned(&[])),
    ("cls_token", Harmless),
    ("device_map", Harmless),
    ("do_basic_tokenize", Harmless),
    ("do_lower_case", Elsewhere),
    ("eos_token", Harmless),
    ("errors", Harmless),    // bytes that are no text are shown as U+FFFD
    ("extra_ids", Harmless), // sentinels, which stand in tokenizer.json
    ("extra_special_tokens", Harmless),
    ("files_loaded", Harmless),
    ("fix_mistral_regex", Warned(&[])),
    ("from_slow", Harmless),
    ("gguf_file", Harmless),
    ("is_local", Harmless),
    ("legacy", Harmless), // of the conversion from other files
    ("local_files_only", Harmless),
    ("mask_token", Harmless),
    ("max_len", Harmless),
    ("max_length", Harmless), // of calls that ask for truncation
    ("merges", Harmless),
    ("merges_file", Harmless),
    ("model_input_names", Harmless),
    ("model_max_length", Harmless),
    ("model_specific_special_tokens", Harmless),
    ("name_or_path", Harmless),
    ("never_split", Harmless),
    ("pad_to_multiple_of", Harmless),
    ("pad_token", Harmless),
    ("pad_token_type_id", Harmless),
    ("padding_side", Harmless),
    ("post_processor", Harmless),
    ("processor_class", Harmless),
    ("response_schema", Harmless),
    ("response_template", Harmless),
    ("sep_token", Harmless),
    ("sp_model_kwargs", Harmless),
    ("spaces_between_special_tokens", Harmless),
    ("special_tokens_map_file", Harmless),
    ("split_special_tokens", Warned(&[])),
    ("stride", Harmless),
    ("strip_accents", Elsewhere),
    ("tokenize_chinese_chars", Elsewhere),
    ("tokenizer", Harmless),
    ("tokenizer_class", Elsewhere),
    ("tokenizer_file", Harmless),
    ("tokenizer_object", Harmless),
    ("tokenizer_padding", Harmless),
    ("tokenizer_truncation", Harmless),
    ("truncation_side", Harmless),
    ("truncation_strategy", Harmless),
    ("unk_id", Harmless),
    ("unk_token", Harmless),
    ("use_default_system_prompt", Harmless),
    ("verbose", Harmless),
    ("vocab", Harmless),
    ("vocab_file", Harmless),
];

/// The files beside a `tokenizer.json`.
#[derive(Clone, Default)]
pub(super) struct Beside {
    /// `tokenizer_config.json`.
    pub settings: Option<Map<String, Value>>,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Beside {
    pub fn read(read: &ReadFile, place: &Path) -> Result<Beside> {
        let settings = read(SETTINGS_FILE)?.map(|bytes| {
            serde_json::from_slice(&bytes).map_err(|cause| {
                let (path, cause) = (place.join(SETTINGS_FILE), one_line(&cause.to_string()));
                Error::Input(format!("{} is not a JSON object ({cause}); copy it again", path.display()))
            })
        });
        let mut files = vec![];
        for name in FILES {
            files.extend(read(name)?.map(|bytes| (name, bytes.into_owned())));
        }
        Ok(Beside { settings: settings.transpose()?, files })
    }

    /// Whether a file of this name is kept.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|(kept, _)| *kept == name)
    }

    /// The chat template, from the first of the three places that has it.
    pub fn chat_template(&self) -> Option<String> {
        let file = |name: &str| {
            let (_, bytes) = self.files.iter().find(|(kept, _)| *kept == name)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let in_json =
            |text: String| serde_json::from_str::<Value>(&text).ok()?.get("chat_template").and_then(default_template);
        let settings = || self.settings.as_ref()?.get("chat_template").and_then(default_template);
        file(TEMPLATE_FILE).or_else(|| file(TEMPLATE_JSON).and_then(in_json)).or_else(settings)
    }

    /// The same with another chat template, in the place that goes before the others.
    pub fn with_chat_template(mut self, text: &str) -> Beside {
        self.files.retain(|(name, _)| ![TEMPLATE_FILE, TEMPLATE_JSON].contains(name));
        self.files.push((TEMPLATE_FILE, text.as_bytes().to_vec()));
        if let Some(settings) = &mut self.settings {
            settings.remove("chat_template");
        }
        self
    }

    /// The same with a token before those that end a text in `generation_config.json`, where that is kept.
    pub fn with_end(mut self, id: u32) -> Beside {
        for (_, bytes) in self.files.iter_mut().filter(|(name, _)| *name == GENERATION_FILE) {
            let Ok(Value::Object(mut keys)) = serde_json::from_slice::<Value>(bytes) else { continue };
            let others = match keys.get("eos_token_id") {
                Some(Value::Array(ids)) => ids.clone(),
                Some(Value::Null) | None => vec![],
                Some(one) => vec![one.clone()],
            };
            let ids: Vec<Value> =
                [json!(id)].into_iter().chain(others.into_iter().filter(|other| *other != id)).collect();
            keys.insert("eos_token_id".into(), if ids.len() == 1 { json!(id) } else { ids.into() });
            *bytes = (serde_json::to_string_pretty(&keys).expect("JSON always serialises") + "\n").into_bytes();
        }
        self
    }

    /// The same with token types among what other programs give a model.
    pub fn with_token_types(mut self, tokenizer: &Tokenizer) -> Beside {
        let mut settings = self.settings.take().unwrap_or_else(|| defaults(tokenizer));
        settings.insert("model_input_names".into(), json!(["input_ids", "token_type_ids", "attention_mask"]));
        Beside { settings: Some(settings), ..self }
    }

    /// The text of a special token by its role, such as `bos_token`.
    pub fn special(&self, role: &str) -> Option<String> {
        let token = self.settings.as_ref()?.get(role)?;
        token.as_str().or(token["content"].as_str()).map(str::to_string)
    }

    /// The roles of special tokens that its files name, such as `cls_token`.
    pub fn roles(&self) -> Map<String, Value> {
        let file = self.files.iter().find(|(name, _)| *name == SPECIAL_TOKENS_FILE);
        let mut roles: Map<String, Value> =
            file.and_then(|(_, bytes)| serde_json::from_slice(bytes).ok()).unwrap_or_default();
        roles.extend(self.settings.clone().unwrap_or_default());
        roles
    }

    /// Writes all files. Those of a tokenizer that was there before and that this one does not have are removed: they would
    /// contradict it.
    pub fn write(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        self.write_settings(folder, tokenizer)?;
        for name in FILES.into_iter().filter(|name| *name != GENERATION_FILE && !self.has(name)) {
            match std::fs::remove_file(folder.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("remove", &folder.join(name))(error));
                }
                _ => {}
            }
        }
        self.files.iter().try_for_each(|(name, bytes)| write_bytes(&folder.join(name), bytes))
    }

    /// Writes `tokenizer_config.json`.
    pub fn write_settings(&self, folder: &Path, tokenizer: &Tokenizer) -> Result<()> {
        let settings = self.settings.clone().unwrap_or_else(|| defaults(tokenizer));
        let text = serde_json::to_string_pretty(&settings).expect("JSON always serialises") + "\n";
        write_bytes(&folder.join(SETTINGS_FILE), text.as_bytes())
    }

    /// The settings as one object, to be changed: the keys of `special_tokens_map.json` are merged into it.
    pub fn merged(&self, tokenizer: &Tokenizer) -> (Map<String, Value>, Beside) {
        let mut settings = self.settings.clone().unwrap_or_else(|| defaults(tokenizer));
        let mut files = self.files.clone();
        if let Some(at) = files.iter().position(|(name, _)| *name == SPECIAL_TOKENS_FILE) {
            let roles: Map<String, Value> = serde_json::from_slice(&files.remove(at).1).unwrap_or_default();
            for (role, token) in roles {
                settings.entry(role).or_insert(token);
            }
        }
        (settings, Beside { settings: None, files })
    }
}

/// A template that stands alone, or of a list of named ones the default.
fn default_template(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            named.iter().find(|one| one["name"] == "default")?["template"].as_str().map(str::to_string)
        }
        _ => None,
    }
}

/// The keys that make the Hugging Face libraries use a `tokenizer.json` as it is.
fn defaults(tokenizer: &Tokenizer) -> Map<String, Value> {
    let settings = json!({
        // Without this, `AutoTokenizer` takes a model of type gpt2 to have GPT-2's own pre-tokenizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        // Version 4 gives token types as well otherwise, which GPT-2 adds as embeddings and LLaMA refuses.
        "model_input_names": ["input_ids", "attention_mask"],
    });
    let mut settings = settings.as_object().cloned().unwrap_or_default();
    if tokenizer.end_of_text().is_some() {
        settings.insert("eos_token".into(), END_OF_TEXT.into());
        settings.insert("pad_token".into(), END_OF_TEXT.into());
    }
    let has_sentinels = tokenizer.token_id(&sentinel(0)).is_some();
    let of_t5 = T5_TOKENS.into_iter().filter(|_| has_sentinels);
    for (role, token) in BERT_TOKENS.into_iter().chain(of_t5) {
        if tokenizer.token_id(token).is_some() {
            settings.insert(role.into(), token.into());
        }
    }
    settings
}

/// Settings of a `tokenizer_config.json` that have no effect here, one sentence each.
pub(super) fn warnings(settings: &Map<String, Value>, tokenizer: &Tokenizer) -> Vec<String> {
    let name = SETTINGS_FILE;
    let keys = Keys::of(settings.clone());
    let unheeded = unheeded(&keys, &[KEYS]);
    let mut warnings: Vec<String> =
        unheeded.into_iter().map(|key| format!("{name} asks for {key}, which is not implemented")).collect();
    if settings.get("clean_up_tokenization_spaces") == Some(&Value::Bool(true)) {
        warnings
            .push(format!("{name} asks for clean_up_tokenization_spaces: texts here keep spaces before punctuation"));
    }
    let Some(inner) = tokenizer.inner() else { return warnings };
    // tokenizer.json decides here; transformers changes it where these keys differ.
    let json: Value = serde_json::from_slice(tokenizer.json()).unwrap_or_default();
    let around = inner.encode_fast("", true).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
    for (key, role, found) in
        [("add_bos_token", "bos_token", around.first()), ("add_eos_token", "eos_token", around.last())]
    {
        let token = settings.get(role).and_then(|token| token.as_str().or(token["content"].as_str()));
        let id = token.and_then(|token| tokenizer.token_id(token));
        let (Some(asked), Some(id)) = (settings.get(key).and_then(Value::as_bool), id) else { continue };
        if asked != (found == Some(&id)) {
            let does = if asked { "does not" } else { "does" };
            warnings.push(format!(
                "{name} says {key} {asked}, but tokenizer.json {does} add that token, as it is done here"
            ));
        }
    }
    let differs = |key: &str, is: Option<&Value>| {
        let asked = settings.get(key).filter(|value| !value.is_null())?;
        let is = is.filter(|is| !is.is_null())?;
        (asked != is).then(|| format!("{name} says {key} {asked}, but tokenizer.json {is}, as it is done here"))
    };
    let byte_level = steps(&json["pre_tokenizer"], "pretokenizers").into_iter().find(|s| s["type"] == "ByteLevel");
    let bert = steps(&json["normalizer"], "normalizers").into_iter().find(|step| step["type"] == "BertNormalizer");
    warnings.extend(byte_level.and_then(|step| differs("add_prefix_space", step.get("add_prefix_space"))));
    let of_bert = [
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ];
    if let Some(step) = bert {
        warnings.extend(of_bert.iter().filter_map(|(key, own)| differs(key, step.get(*own))));
    }
    warnings
}

fn steps<'a>(step: &'a Value, list: &str) -> Vec<&'a Value> {
    step[list].as_array().map_or_else(|| vec![step], |steps| steps.iter().collect())
}
