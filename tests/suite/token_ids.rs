//! Token ids of a text that is encoded in pieces are those of the whole, for tokenizers of every kind.

use std::fs;
use std::sync::{Arc, atomic::AtomicBool};

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde_json::{Map, Value, json};
use tempfile::tempdir;
use wgpt::data::cuts::Cuts;
use wgpt::data::prepare::{Preparation, Validation};
use wgpt::data::shards::{self, Sizes};
use wgpt::data::source::Source;
use wgpt::data::tokenizer::{Tokenizer, byte_alphabet};
use wgpt::data::tokens::Tokens;

/// The pieces of texts: words, and everything that stands at an awkward border.
const PARTS: [&str; 60] = [
    "the",
    "The",
    "cat",
    "dog",
    "sat",
    "mat",
    "don't",
    "it's",
    "big dog",
    "42",
    "1984",
    "3.14",
    "x=1;",
    "é",
    "e\u{301}",
    "\u{301}",
    "日本語",
    "东西。",
    "한국",
    "\u{1112}\u{1161}",
    "ﬁ",
    "Ω",
    "ß",
    "İ",
    "🦊",
    "👩‍👩‍👧",
    "\u{200B}",
    "\u{FEFF}",
    "\u{AD}",
    "▁",
    "Ġ",
    "<|x|>",
    "<|X|>",
    "<s>",
    "</s>",
    "[MASK]",
    "[mask]",
    "<unk>",
    "--",
    "...",
    "\"",
    "(",
    ")",
    ",",
    ".",
    "!",
    "'",
    "'s",
    "/",
    "_",
    "\u{600}",
    "\u{A8}",
    "ﷺ",
    "a",
    "b",
    "e",
    "s",
    "t",
    "mask",
    "hello",
];
const BETWEEN: [&str; 12] =
    [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u{A0}", "\u{3000}", "\n ", " \n", "\u{2028}"];

/// A text of about so many bytes, of which most are words with single spaces between them.
fn text(seed: u64, bytes: usize) -> String {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut text = String::new();
    while text.len() < bytes {
        text += PARTS.choose(&mut random).unwrap();
        match random.random_range(0..20) {
            0..14 => text.push(' '),
            14..17 => {}
            _ => text += BETWEEN.choose(&mut random).unwrap(),
        }
    }
    text
}

/// Vocabulary and merges of BPE over these characters: words of the texts, with `space` in front and alone.
fn bpe(characters: impl IntoIterator<Item = String>, space: &str, further: &[(&str, &str)], settings: Value) -> Value {
    let pairs = [("t", "h"), ("th", "e"), ("a", "t"), ("c", "at"), ("d", "o"), ("do", "g"), ("l", "l"), ("e", "ll")];
    let spaced = ["the", "cat", "a", "dog", "t", "s"].map(|word| (space.to_string(), word.to_string()));
    let mut merges: Vec<(String, String)> =
        pairs.iter().chain(further).map(|(a, b)| (a.to_string(), b.to_string())).collect();
    merges.extend(spaced);
    merges.push((space.into(), space.into()));
    let mut vocabulary = Map::new();
    let tokens = ["<unk>".to_string()].into_iter().chain(characters);
    for token in tokens.chain(merges.iter().map(|(a, b)| format!("{a}{b}"))) {
        let next = vocabulary.len();
        vocabulary.entry(token).or_insert(next.into());
    }
    let merges: Vec<Value> = merges.iter().map(|(a, b)| json!([a, b])).collect();
    let mut model = json!({"type": "BPE", "vocab": vocabulary, "merges": merges});
    model.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    model
}

fn bytes(further: &[(&str, &str)], settings: Value) -> Value {
    bpe(byte_alphabet().map(String::from), "Ġ", further, settings)
}

fn characters() -> Vec<String> {
    let mut all: Vec<char> = "abcdefghilmnorstuxy0123456789.,'▁日本é".chars().collect();
    all.sort_unstable();
    all.into_iter().map(String::from).collect()
}

fn sentence_piece(settings: Value) -> Value {
    bpe(characters(), "▁", &[], settings)
}

fn unigram() -> Value {
    let words = ["▁the", "the", "▁cat", "at", "▁a", "aa", "..", "...", "do", "dog", "▁do", "▁▁", "▁b"];
    let scores = |(i, token): (usize, String)| json!([token, -2.0 - 0.1 * i as f64]);
    let tokens = characters().into_iter().chain(words.map(String::from));
    let mut vocabulary = vec![json!(["<unk>", 0.0])];
    vocabulary.extend(tokens.enumerate().map(scores));
    json!({"type": "Unigram", "unk_id": 0, "vocab": vocabulary})
}

fn words(kind: &str) -> Value {
    let tokens =
        ["[UNK]", "the", "The", "cat", "dog", "sat", "a", "e", "it", "'", "s", "##s", "##t", "##at", "42", ".", "mask"];
    let vocabulary: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.to_string(), id.into())).collect();
    match kind {
        "WordPiece" => json!({"type": kind, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocabulary}),
        _ => json!({"type": kind, "unk_token": "[UNK]", "vocab": vocabulary}),
    }
}

fn byte_level(prefix: bool, regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex})
}

fn all_of(list: &str, steps: Vec<Value>) -> Value {
    json!({"type": "Sequence", list: steps})
}

fn split(pattern: Value, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert})
}

fn regex_then_bytes(pattern: &str, behavior: &str, invert: bool) -> Value {
    all_of("pretokenizers", vec![split(json!({"Regex": pattern}), behavior, invert), byte_level(false, false)])
}

fn replace(pattern: Value, content: &str) -> Value {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

/// An added token: content, and which of its flags are set.
fn added(id: usize, content: &str, flags: &str) -> Value {
    let set = |flag: &str| flags.contains(flag);
    json!({"id": id, "content": content, "special": set("special"), "normalized": set("normalized"),
        "lstrip": set("lstrip"), "rstrip": set("rstrip"), "single_word": set("single")})
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Name, whether its texts can be cut, normalizer, pre-tokenizer, model, added tokens: content and flags.
type Kind = (&'static str, bool, Value, Value, Value, &'static [(&'static str, &'static str)]);

const SPECIAL: &[(&str, &str)] = &[("<|x|>", "special"), ("<s>", "special"), ("</s>", "special normalized")];

fn kinds() -> Vec<Kind> {
    let none = Value::Null;
    let of = |name: &str| json!({"type": name});
    let metaspace = |scheme: &str, split: bool| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
    let llama =
        all_of("normalizers", vec![json!({"type": "Prepend", "prepend": "▁"}), replace(json!({"String": " "}), "▁")]);
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let t5 = all_of("normalizers", vec![strip.clone(), replace(json!({"Regex": " {2,}"}), " ")]);
    let plain = all_of("normalizers", vec![of("NFD"), of("Lowercase"), of("StripAccents")]);
    let unknown = json!({"unk_token": "<unk>", "fuse_unk": true});
    vec![
        ("GPT-2", true, none.clone(), byte_level(false, true), bytes(&[], json!({})), SPECIAL),
        ("GPT-2 with a space in front", true, none.clone(), byte_level(true, true), bytes(&[], json!({})), SPECIAL),
        ("GPT-2 with NFC", true, of("NFC"), byte_level(false, true), bytes(&[], json!({})), SPECIAL),
        ("Qwen", true, of("NFC"), regex_then_bytes(QWEN, "Isolated", false), bytes(&[], json!({})), SPECIAL),
        (
            "LLaMA 3",
            true,
            none.clone(),
            regex_then_bytes(LLAMA_3, "Isolated", false),
            bytes(&[], json!({"ignore_merges": true})),
            SPECIAL,
        ),
        ("GPT-4", true, none.clone(), regex_then_bytes(LLAMA_3, "Removed", true), bytes(&[], json!({})), &[]),
        (
            "an unknown regular expression",
            false,
            none.clone(),
            regex_then_bytes(r"\w+ \w+|.", "Isolated", false),
            bytes(&[], json!({})),
            &[],
        ),
        ("LLaMA 2", true, llama.clone(), none.clone(), sentence_piece(unknown.clone()), SPECIAL),
        (
            "LLaMA 2 with stripped tokens",
            true,
            llama,
            none.clone(),
            sentence_piece(unknown.clone()),
            &[("<s>", "special lstrip rstrip"), ("[MASK]", "normalized single")],
        ),
        ("Mistral", true, none.clone(), metaspace("first", false), sentence_piece(unknown.clone()), SPECIAL),
        (
            "Metaspace before every text",
            true,
            none.clone(),
            metaspace("always", false),
            sentence_piece(unknown.clone()),
            SPECIAL,
        ),
        (
            "Gemma",
            true,
            replace(json!({"String": " "}), "▁"),
            split(json!({"String": " "}), "MergedWithPrevious", false),
            sentence_piece(unknown.clone()),
            SPECIAL,
        ),
        (
            "tokens across spaces",
            false,
            none.clone(),
            byte_level(false, false),
            bytes(&[("e", "Ġ"), ("eĠ", "c")], json!({})),
            &[],
        ),
        ("bytes without pre-tokens", true, none.clone(), byte_level(false, false), bytes(&[], json!({})), SPECIAL),
        ("Unigram over words", true, t5.clone(), metaspace("always", true), unigram(), SPECIAL),
        (
            "Unigram with NFKC",
            true,
            all_of("normalizers", vec![of("NFKC"), of("Nmt")]),
            metaspace("first", true),
            unigram(),
            SPECIAL,
        ),
        ("Unigram over texts", false, t5, none.clone(), unigram(), &[]),
        (
            "BERT",
            true,
            bert.clone(),
            of("BertPreTokenizer"),
            words("WordPiece"),
            &[("[MASK]", "special lstrip"), ("big dog", "normalized")],
        ),
        (
            "BERT with normalised tokens",
            true,
            bert,
            of("BertPreTokenizer"),
            words("WordPiece"),
            &[("[mask]", "normalized"), ("The", "normalized single")],
        ),
        (
            "words",
            true,
            plain.clone(),
            of("Whitespace"),
            words("WordLevel"),
            &[("cat", "normalized single"), ("Ω", "")],
        ),
        ("words between spaces", true, strip, of("WhitespaceSplit"), words("WordPiece"), SPECIAL),
        (
            "digits and bytes",
            true,
            none.clone(),
            all_of(
                "pretokenizers",
                vec![json!({"type": "Digits", "individual_digits": true}), byte_level(false, true)],
            ),
            bytes(&[], json!({})),
            SPECIAL,
        ),
        ("plain letters and bytes", true, plain, byte_level(false, true), bytes(&[], json!({})), SPECIAL),
        (
            "spaces as added tokens",
            true,
            none.clone(),
            byte_level(false, true),
            bytes(&[], json!({})),
            &[("  ", "normalized"), ("   ", "normalized")],
        ),
        (
            "scripts",
            false,
            none.clone(),
            all_of("pretokenizers", vec![of("UnicodeScripts"), of("Whitespace")]),
            unigram(),
            &[],
        ),
        (
            "punctuation with what follows it",
            false,
            none.clone(),
            all_of(
                "pretokenizers",
                vec![json!({"type": "Punctuation", "behavior": "MergedWithNext"}), of("Whitespace")],
            ),
            words("WordLevel"),
            &[],
        ),
        ("lengths", false, none, json!({"type": "FixedLength", "length": 5}), words("WordLevel"), &[]),
    ]
}

fn json_of((_, _, normalizer, pre_tokenizer, model, tokens): &Kind) -> Vec<u8> {
    let size = model["vocab"].as_object().map_or_else(|| model["vocab"].as_array().unwrap().len(), Map::len);
    let mut next = size;
    let mut entry = |(content, flags): &(&str, &str)| {
        let known = model["vocab"].get(*content).and_then(Value::as_u64).map(|id| id as usize);
        let id = known.unwrap_or(next);
        next += usize::from(known.is_none());
        added(id, content, flags)
    };
    let tokens: Vec<Value> = tokens.iter().map(&mut entry).collect();
    let object = json!({"version": "1.0", "added_tokens": tokens, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null, "model": model});
    object.to_string().into_bytes()
}

/// Ids of the whole text, as the `tokenizers` crate gives them.
fn whole(json: &[u8], text: &str) -> Vec<u32> {
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

fn all(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![0; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids
}

#[track_caller]
fn assert_same(name: &str, got: &[u32], expected: &[u32]) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert!(
        got == expected,
        "{name}: {} ids instead of {}; the first difference at {differs:?}",
        got.len(),
        expected.len()
    );
}

#[test]
fn ids_of_pieces_are_those_of_the_whole() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let mut different = 0;
    for seed in 0..3 {
        let text = text(seed, 40_000);
        let path = dir.path().join(format!("{seed}.txt"));
        fs::write(&path, &text).unwrap();
        let source = Source::open(&path).unwrap();
        for kind in kinds() {
            let (name, can_be_cut) = (kind.0, kind.1);
            let json = json_of(&kind);
            let tokenizer = Tokenizer::from_json(json.clone()).unwrap_or_else(|why| panic!("{name}: {why}"));
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let expected = whole(&json, text);
            let pieces = source.pieces(300).cut_at(Cuts::of(&tokenizer)).count();
            assert_eq!(pieces > 40, can_be_cut, "{name} is encoded in {pieces} pieces");
            for piece_bytes in [200, 3000] {
                let sizes = Sizes { piece_bytes, block_bytes: 3 * piece_bytes, shard_tokens: 1 << 20 };
                let place = cache.path().join(format!("{piece_bytes}"));
                let tokens = shards::tokenise(&source, &tokenizer, &place, sizes).unwrap();
                assert_same(name, &all(&tokens), &expected);
            }
            // The test could not fail if cutting anywhere did no harm.
            let anywhere = source.pieces(200).map(|piece| tokenizer.encode(&piece.unwrap().text).unwrap());
            different += usize::from(anywhere.flatten_ids() != expected);
        }
    }
    assert!(different > 20, "cutting anywhere changes only {different} of the texts' ids");
}

trait FlattenIds {
    fn flatten_ids(self) -> Vec<u32>;
}

impl<I: Iterator<Item = Vec<u32>>> FlattenIds for I {
    fn flatten_ids(self) -> Vec<u32> {
        self.flatten().collect()
    }
}

/// Several megabytes through everything that makes ids: training on text, shards, and a pipe.
#[test]
fn ids_of_megabytes_are_the_same_in_training_in_shards_and_in_a_pipe() {
    let dir = tempdir().unwrap();
    let text = text(9, 2_200_000);
    let path = dir.path().join("text.txt");
    fs::write(&path, &text).unwrap();
    let source = Source::open(&path).unwrap();
    let all_kinds = kinds();
    for name in ["Qwen", "LLaMA 2"] {
        let kind = all_kinds.iter().find(|kind| kind.0 == name).unwrap();
        let json = json_of(kind);
        let expected = whole(&json, &text);
        let file = dir.path().join("tokenizer.json");
        fs::write(&file, &json).unwrap();
        let tokenizer = Tokenizer::load(&file).unwrap();

        let tokens = shards::tokenise(&source, &tokenizer, &dir.path().join("cache"), Sizes::default()).unwrap();
        assert_same(name, &all(&tokens), &expected);

        let out = dir.path().join(name);
        let mut preparation = Preparation {
            data: &source,
            validation: Validation::Fraction(0.1),
            shard_tokens: 300_000,
            out: &out,
            overwrite: false,
            interrupted: Arc::new(AtomicBool::new(false)),
            beside: None,
        };
        preparation.run(&tokenizer, &mut |_| {}).unwrap();
        let shards = Source::open(&out).unwrap();
        let map = |source: &Source| all(&shards::map(source, 1 << 16, &dir.path().join("cache")).unwrap());
        let ids = [map(&shards), map(&shards.validation().unwrap())].concat();
        assert_same(name, &ids, &expected);

        let piped = std::process::Command::new(env!("CARGO_BIN_EXE_wgpt"))
            .args(["tokenizer", "encode", "--tokenizer"])
            .arg(&file)
            .stdin(fs::File::open(&path).unwrap())
            .output()
            .unwrap();
        assert!(piped.status.success(), "{}", String::from_utf8_lossy(&piped.stderr));
        let ids = String::from_utf8(piped.stdout).unwrap();
        let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_same(name, &ids, &expected);
    }
}

/// A tokenizer whose texts cannot be cut takes documents of some megabytes as a whole, and refuses longer ones.
#[test]
fn a_document_that_cannot_be_cut_is_refused_beyond_a_size() {
    let dir = tempdir().unwrap();
    let kinds = kinds();
    let kind = kinds.iter().find(|kind| kind.0 == "Unigram over texts").unwrap();
    let tokenizer = Tokenizer::from_json(json_of(kind)).unwrap();
    let path = dir.path().join("long.txt");
    fs::write(&path, "word ".repeat((17 << 20) / 5)).unwrap();
    let source = Source::open(&path).unwrap();
    let error = shards::tokenise(&source, &tokenizer, &dir.path().join("cache"), Sizes::default()).unwrap_err();
    let message = error.to_string();
    for part in ["16 MiB", "long.txt", "Unigram model runs over whole texts", ".jsonl"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}
