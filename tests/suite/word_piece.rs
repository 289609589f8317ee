//! BERT's `vocab.txt` against transformers' `BertTokenizer`: ids, token types, places in the text, words. The numbers are made by
//! tests/fixtures/bert_tokenizer.py.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::{TempDir, tempdir};
use wgpt::data::tokenizer::{Piece, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert_tokenizer").join(name)
}

/// The vocabulary in a folder with settings.
fn folder(settings: &Value) -> TempDir {
    let folder = tempdir().unwrap();
    fs::copy(fixture("vocab.txt"), folder.path().join("vocab.txt")).unwrap();
    fs::write(folder.path().join("tokenizer_config.json"), settings.to_string()).unwrap();
    folder
}

fn message(folder: &TempDir) -> String {
    Tokenizer::load(folder.path()).err().unwrap().to_string()
}

/// Places in characters.
fn places(text: &str, pieces: &[Piece]) -> Vec<[usize; 2]> {
    let at = |byte: usize| text[..byte].chars().count();
    pieces.iter().map(|piece| [at(piece.range.start), at(piece.range.end)]).collect()
}

#[test]
fn vocabulary_alone_gives_the_ids_types_places_and_words_of_transformers() {
    let expected: Value = serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let words: Vec<Vec<String>> = serde_json::from_value(expected["words"].clone()).unwrap();
    let cases = expected["settings"].as_array().unwrap();
    assert_eq!((texts.len(), cases.len()), (8, 5));
    for case in cases {
        let folder = folder(&case["settings"]);
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let (single, pair) = (tokenizer.frame(false).unwrap(), tokenizer.frame(true).unwrap());
        assert_eq!((single.len(), pair.len()), (2, 3));
        for (at, text) in texts.iter().enumerate() {
            assert_eq!(json!(tokenizer.encode_prompt(text).unwrap()), case["ids"][at], "{text:?} {}", case["settings"]);
            let pieces = tokenizer.pieces(text).unwrap();
            let inner = |row: &Value| row.as_array().unwrap()[1..1 + pieces.len()].to_vec();
            assert_eq!(json!(places(text, &pieces)), json!(inner(&case["places"][at])), "{text:?}");
            // Pieces share a word where transformers numbers them alike.
            let numbers = inner(&case["words_of_texts"][at]);
            for (pair, numbers) in pieces.windows(2).zip(numbers.windows(2)) {
                assert_eq!(pair[0].word == pair[1].word, numbers[0] == numbers[1], "{text:?} {pair:?}");
            }
            for piece in &pieces {
                assert!(piece.word.start <= piece.range.start && piece.range.end <= piece.word.end);
            }
            let ids = tokenizer.encode_prompt(text).unwrap();
            assert_eq!(json!(tokenizer.decode(&ids).unwrap()), case["decoded"][at]);
        }
        for (at, (a, b)) in texts[2..].iter().zip(&texts[1..]).enumerate() {
            let filled = pair.fill(&[&tokenizer.encode(a).unwrap(), &tokenizer.encode(b).unwrap()]);
            assert_eq!(json!({"ids": filled.ids, "types": filled.types}), case["pairs"][at]);
            assert_eq!(filled.starts, [1, 2 + tokenizer.encode(a).unwrap().len()]);
        }
        for (at, row) in words.iter().enumerate() {
            let pieces = tokenizer.encode_words(row).unwrap();
            let filled = single.fill(&[&pieces.concat()]);
            assert_eq!(json!(filled.ids), case["words"][at]["ids"], "{row:?}");
            let numbers = pieces.iter().enumerate().flat_map(|(word, pieces)| vec![json!(word); pieces.len()]);
            let numbers: Vec<Value> = [Value::Null].into_iter().chain(numbers).chain([Value::Null]).collect();
            assert_eq!(json!(numbers), case["words"][at]["words"], "{row:?}");
        }
        // Saved, it is a tokenizer.json that gives the same, with the settings beside it.
        let saved = tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let again = Tokenizer::load(saved.path()).unwrap();
        assert_eq!(json!(again.encode_prompt(&texts[3]).unwrap()), case["ids"][3]);
        assert_eq!(again.frame(true).unwrap(), pair);
        assert!(again.warnings().is_empty(), "{:?}", again.warnings());
    }
    assert_ne!(cases[0]["ids"], cases[1]["ids"], "settings make a difference");
    assert_ne!(cases[0]["ids"], cases[2]["ids"], "settings make a difference");
}

/// A byte-level tokenizer, whose tokens may be single bytes of a character.
fn byte_level() -> Tokenizer {
    Tokenizer::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2_tokenizer")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn places_of_any_text_are_whole_characters_and_words_hold_their_tokens(text in any::<String>()) {
        let words = Tokenizer::load(folder(&json!({})).path()).unwrap();
        for tokenizer in [words, byte_level()] {
            let pieces = tokenizer.pieces(&text).unwrap();
            let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
            prop_assert_eq!(ids, tokenizer.encode(&text).unwrap());
            for piece in &pieces {
                prop_assert!(text.get(piece.range.clone()).is_some() && text.get(piece.word.clone()).is_some());
                prop_assert!(piece.word.start <= piece.range.start && piece.range.end <= piece.word.end);
            }
        }
    }
}

#[test]
fn words_of_byte_level_tokenizers_begin_with_their_space() {
    let tokenizer = byte_level();
    let pieces = tokenizer.encode_words(&["model", "ids", "é"]).unwrap();
    assert_eq!(pieces, [" model", " ids", " é"].map(|word| tokenizer.encode(word).unwrap()));
    let texts: Vec<&str> = tokenizer.pieces("é é").unwrap().iter().map(|piece| &"é é"[piece.range.clone()]).collect();
    assert!(texts.len() > 3 && texts.iter().all(|text| ["é", " é", " "].contains(text)), "{texts:?}");
}

#[test]
fn special_tokens_are_those_of_their_own_file_unless_the_settings_say_otherwise() {
    let named = folder(&json!({"sep_token": "[SEP]"}));
    let roles = json!({"cls_token": {"content": "[MASK]"}, "sep_token": "[PAD]"});
    fs::write(named.path().join("special_tokens_map.json"), roles.to_string()).unwrap();
    assert_eq!(Tokenizer::load(named.path()).unwrap().encode_prompt("").unwrap(), [4, 3]);
    let next = Tokenizer::load(named.path()).unwrap().vocabulary_size();
    fs::write(named.path().join("added_tokens.json"), json!({"[NEW]": next}).to_string()).unwrap();
    assert_eq!(Tokenizer::load(named.path()).unwrap().encode("a[NEW]").unwrap().last(), Some(&(next as u32)));
}

#[test]
fn other_classes_and_vocabularies_that_are_not_berts_are_refused_by_name() {
    let other = folder(&json!({"tokenizer_class": "BertJapaneseTokenizer"}));
    assert!(message(&other).contains("BertJapaneseTokenizer"), "{}", message(&other));
    let other = folder(&json!({}));
    fs::write(other.path().join("config.json"), r#"{"model_type": "mpnet"}"#).unwrap();
    assert!(message(&other).contains("mpnet"), "{}", message(&other));
    fs::write(other.path().join("config.json"), r#"{"model_type": "distilbert"}"#).unwrap();
    assert!(Tokenizer::load(other.path()).is_ok());
    for (words, part) in [(&b"[UNK]\n[SEP]\na\n"[..], "[CLS]"), (b"", "[UNK]"), (b"[UNK]\n\xff\n", "UTF-8")] {
        fs::write(other.path().join("vocab.txt"), words).unwrap();
        let message = message(&other);
        assert!(message.contains("vocab.txt") && message.contains(part) && !message.contains('\n'), "{message}");
    }
    fs::write(other.path().join("vocab.txt"), "[UNK]\r\n[CLS]\r\n[SEP]\r\na").unwrap();
    assert_eq!(Tokenizer::load(other.path()).unwrap().encode_prompt("A").unwrap(), [1, 3, 2]);
    fs::remove_file(other.path().join("vocab.txt")).unwrap();
    assert!(message(&other).contains("vocab.txt"), "{}", message(&other));
}

#[test]
fn a_trained_word_piece_puts_two_texts_into_berts_frame() {
    use wgpt::data::source::Source;
    use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes};
    let source = Source::from_text("text", "the cat and the dog and the cat".repeat(4));
    let kind = Kind::WordPiece { cased: false };
    let recipe = Recipe { kind, vocabulary_size: 60, min_frequency: 2, special: vec![] };
    let tokenizer = recipe.train(&source, Sizes::default(), &mut |_| {}).unwrap().tokenizer;
    let filled = tokenizer.frame(true).unwrap().fill(&[&[30, 31], &[32]]);
    assert_eq!((filled.ids, filled.types), (vec![2, 30, 31, 3, 32, 3], vec![0, 0, 0, 0, 1, 1]));
    assert!(tokenizer.frame(true).unwrap().has_start());
    // Other programs give token types to models that are said to have them, and to no others.
    let inputs = |tokenizer: &Tokenizer| {
        let saved = tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let settings = fs::read(saved.path().join("tokenizer_config.json")).unwrap();
        serde_json::from_slice::<Value>(&settings).unwrap()
    };
    let (without, with) = (inputs(&tokenizer), inputs(&tokenizer.clone().with_token_types()));
    assert_eq!(without["model_input_names"], json!(["input_ids", "attention_mask"]));
    assert_eq!(with["model_input_names"], json!(["input_ids", "token_type_ids", "attention_mask"]));
    assert_eq!((&with["cls_token"], &with["mask_token"]), (&json!("[CLS]"), &json!("[MASK]")));
    // Texts of characters have nothing around them.
    let chars = Tokenizer::chars("abc").unwrap();
    assert!(chars.frame(true).unwrap().is_empty() && !chars.frame(false).unwrap().has_start());
    assert!(chars.pieces("abc").is_err_and(|error| error.to_string().contains("words")));
    assert_eq!(chars.encode_words(&["ab", "c"]).unwrap(), [vec![0, 1], vec![2]]);
}
