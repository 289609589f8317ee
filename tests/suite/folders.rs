//! Folders for other programs: what a base folder said of its tokenizer and of generation is kept, a classifier's tokens are in
//! its tokenizer, and older tokenizer files give the ids of their class.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use wgpt::data::source::Source;
use wgpt::data::tokenizer::{Tokenizer, byte_alphabet};
use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes};
use wgpt::formats::folder::write_folder;
use wgpt::formats::safetensors::WeightType;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;

fn bpe() -> Tokenizer {
    let recipe = Recipe { kind: Kind::Bpe, vocabulary_size: 262, min_frequency: 2, special: vec![] };
    let text = Source::from_text("text", "the cat and the dog sat on the mat ".repeat(9));
    recipe.train(&text, Sizes::default(), &mut |_| {}).unwrap().tokenizer
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A tokenizer as other programs have it: with what its `tokenizer.json` puts around texts.
fn foreign(folder: &Path) -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(folder.join("tokenizer.json")).unwrap()
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: impl Into<tokenizers::EncodeInput<'static>>) -> Vec<u32> {
    tokenizer.encode(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn a_saved_tokenizer_has_the_keys_that_other_programs_need() {
    let folder = tempdir().unwrap();
    bpe().save(folder.path()).unwrap();
    let settings = json_of(&folder.path().join("tokenizer_config.json"));
    assert_eq!(settings["model_input_names"], json!(["input_ids", "attention_mask"]));
    assert_eq!((&settings["eos_token"], &settings["pad_token"]), (&json!("<|endoftext|>"), &json!("<|endoftext|>")));
}

#[test]
fn the_tokens_of_a_task_are_in_its_tokenizer() {
    let base = bpe();
    let first = base.vocabulary_size() as u32;
    let (start, delimiter, extract) = (first, first + 1, first + 2);
    let folder = tempdir().unwrap();
    let framed = base.framed(first, 64).unwrap();
    framed.save(folder.path()).unwrap();
    let other = foreign(folder.path());
    let (cat, dog) = (base.encode("the cat").unwrap(), base.encode(" a dog").unwrap());
    assert_eq!(ids(&other, "the cat"), [&[start][..], &cat, &[extract]].concat());
    let pair = [&[start][..], &cat, &[delimiter], &dog, &[extract]].concat();
    let encoding = other.encode(("the cat", " a dog"), true).unwrap();
    assert_eq!(encoding.get_ids(), pair);
    assert!(encoding.get_type_ids().iter().all(|kind| *kind == 0));
    assert_eq!(framed.encode("the cat").unwrap(), cat, "what is encoded here is the text alone");
    let settings = json_of(&folder.path().join("tokenizer_config.json"));
    assert_eq!(settings["pad_token"], "<|task_start|>");
    assert_eq!((&settings["model_max_length"], &settings["padding_side"]), (&json!(64), &json!("right")));

    // A model that is fine-tuned again keeps them, and names that are taken are avoided.
    let again = Tokenizer::load(folder.path()).unwrap().framed(first, 32).unwrap();
    assert_eq!(again.vocabulary_size(), framed.vocabulary_size());
    for text in ["char", "bytes"] {
        let base = Tokenizer::choose(text, &Source::from_text("text", "the cat")).unwrap();
        let first = base.vocabulary_size() as u32;
        base.framed(first, 32).unwrap().save(folder.path()).unwrap();
        let ids = ids(&foreign(folder.path()), "cat");
        assert_eq!(ids, [&[first][..], &base.encode("cat").unwrap(), &[first + 2]].concat(), "{text}");
    }
}

/// A model folder with everything beside it.
fn dressed() -> TempDir {
    let folder = tempdir().unwrap();
    let config = Config { bos_token_id: Some(5), eos_token_id: vec![261], ..Config::new(262, 16, 1, 2, 8) };
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = config
        .parameters()
        .into_iter()
        .map(|(name, dims)| {
            let len = dims.iter().product();
            (name, dims, vec![0.01; len])
        })
        .collect();
    let tensors: Vec<_> =
        tensors.iter().map(|(name, dims, values)| (name.clone(), dims.clone(), &values[..])).collect();
    write_folder(folder.path(), &config, &tensors, Some(&bpe()), WeightType::F32).unwrap();
    let mut config = json_of(&folder.path().join("config.json"));
    config["pad_token_id"] = 7.into();
    config["something_else"] = json!({"a": 1});
    let files = [
        ("config.json", config),
        (
            "tokenizer_config.json",
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ x }}", "bos_token": "a"}),
        ),
        ("special_tokens_map.json", json!({"unk_token": "b"})),
        ("generation_config.json", json!({"eos_token_id": [261, 5], "temperature": 0.6, "no_repeat_ngram_size": 3})),
    ];
    for (name, value) in files {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    fs::write(folder.path().join("chat_template.jinja"), "{{ y }}").unwrap();
    folder
}

#[test]
fn settings_of_a_base_folder_are_written_again() {
    let base = dressed();
    let source = ModelSource::folder(base.path());
    let (config, weights) = source.model().unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let out = tempdir().unwrap();
    let values: BTreeMap<String, Vec<f32>> =
        weights.names().iter().map(|name| (name.to_string(), weights.read(name).unwrap().into_owned())).collect();
    let tensors: Vec<_> =
        config.parameters().into_iter().map(|(name, dims)| (name.clone(), dims, &values[&name][..])).collect();
    fs::write(out.path().join("added_tokens.json"), "{}").unwrap();
    write_folder(out.path(), &config, &tensors, Some(&tokenizer), WeightType::F32).unwrap();
    for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"] {
        assert_eq!(json_of(&out.path().join(name)), json_of(&base.path().join(name)), "{name}");
    }
    assert_eq!(fs::read_to_string(out.path().join("chat_template.jinja")).unwrap(), "{{ y }}");
    assert!(!out.path().join("added_tokens.json").exists(), "what another tokenizer said does not stay");
    assert_eq!(source.warnings().unwrap().len(), 1, "{:?}", source.warnings());
}

#[test]
fn tokens_that_the_model_lacks_are_no_mistake_until_a_text_has_them() {
    let place = Path::new("m");
    let padded = bpe().framed(262, 16).unwrap();
    let limited = padded.clone().for_model(262, place).unwrap();
    assert_eq!((limited.vocabulary_size(), limited.full_vocabulary_size()), (262, 265));
    assert_eq!(limited.encode("the cat").unwrap(), bpe().encode("the cat").unwrap());
    for error in [limited.encode("a <|task_start|> b").unwrap_err(), limited.encode_prompt("a").unwrap_err()] {
        let message = error.to_string();
        assert!(message.contains("<|task_start|>") && message.contains("262 tokens"), "{message}");
    }
    assert!(limited.decode(&[262]).is_err() && limited.token_id("<|task_start|>").is_none());
    assert_eq!(limited.token_bytes().map(|bytes| bytes.len() >= 262), Some(true));
    let error = bpe().for_model(200, place).err().expect("tokens of the model itself are missing").to_string();
    assert!(error.contains("do not belong together"), "{error}");
}

/// `vocab.json` and `merges.txt` in a folder, with other files.
fn older(files: &[(&str, Value)]) -> TempDir {
    let folder = tempdir().unwrap();
    let mut vocabulary: Vec<String> = byte_alphabet().map(String::from).to_vec();
    let merges = [("Ċ", "Ċ"), ("1", "2"), ("12", "3"), ("l", "l"), ("Ġ", "a"), ("ĉ", "b")];
    vocabulary.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let vocabulary: BTreeMap<&String, usize> = vocabulary.iter().zip(0..).collect();
    fs::write(folder.path().join("vocab.json"), json!(vocabulary).to_string()).unwrap();
    let merges: String = merges.iter().map(|(a, b)| format!("{a} {b}\n")).collect();
    fs::write(folder.path().join("merges.txt"), format!("#version: 0.2\n{merges}")).unwrap();
    for (name, value) in files {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    folder
}

#[test]
fn older_tokenizer_files_are_split_as_their_class_does() {
    let tokens = |folder: &TempDir, text: &str| {
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let ids = tokenizer.encode(text).unwrap();
        ids.iter().map(|id| tokenizer.decode(&[*id]).unwrap()).collect::<Vec<_>>()
    };
    let qwen = json!({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {
        "262": {"content": "<|im_start|>", "special": true}, "263": {"content": "<tool>", "special": false}}});
    let qwen = older(&[("tokenizer_config.json", qwen)]);
    let plain = older(&[]);
    // Digits one by one, a tab before letters, line breaks together; GPT-2 joins digits alone.
    assert_eq!(tokens(&qwen, "123\tb\n\na"), ["1", "2", "3", "\tb", "\n\n", "a"]);
    assert_eq!(tokens(&plain, "123\tb\n\na"), ["123", "\t", "b", "\n", "\n", "a"]);
    assert_eq!(tokens(&qwen, "<|im_start|>a<tool>"), ["<|im_start|>", "a", "<tool>"]);
    assert_eq!(tokens(&qwen, "e\u{301}"), tokens(&plain, "é"), "NFC comes first");
    let by_model = older(&[("config.json", json!({"model_type": "qwen3"}))]);
    assert_eq!(tokens(&by_model, "123"), ["1", "2", "3"]);
    for other in ["WhisperTokenizer", "BartTokenizer", "LlamaTokenizer"] {
        let folder = older(&[("tokenizer_config.json", json!({"tokenizer_class": other}))]);
        let message = Tokenizer::load(folder.path()).err().unwrap_or_else(|| panic!("{other}")).to_string();
        assert!(message.contains(other) && message.contains("tokenizer.json"), "{message}");
    }
    let hole = json!({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"300": {"content": "<x>"}}});
    let message = Tokenizer::load(older(&[("tokenizer_config.json", hole)]).path()).err().unwrap().to_string();
    assert!(message.contains("300") && message.contains("262"), "{message}");
}
