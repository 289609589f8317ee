//! Training tokenizers, and text to ids and back in pipes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use wgpt::data::corpora::story;
use wgpt::data::source::Source;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes, Trained};
use wgpt::error::{Error, Result};

use crate::cli::{Place, error, has};

/// What is easily broken: emoji of several code points, combining marks, CR LF, NUL, scripts without spaces, white space
/// of all kinds, a code point beyond the basic plane, a byte-order mark.
const HARD: &str =
    "\u{FEFF}Don't  stop—👩‍👩‍👧‍👦 e\u{301}\u{323} naïve\r\n\r\n\t東京都に行く、\0 x\u{A0}y\u{2003}z 12³ Ⅷ नमस्ते  \n\n end  ";

fn train(text: &str, kind: Kind, vocabulary_size: usize, special: &[&str]) -> Result<Trained> {
    train_with(text, kind, vocabulary_size, special, Sizes::default())
}

fn train_with(text: &str, kind: Kind, vocabulary_size: usize, special: &[&str], sizes: Sizes) -> Result<Trained> {
    let special = special.iter().map(|token| token.to_string()).collect();
    let recipe = Recipe { kind, vocabulary_size, min_frequency: 2, special };
    recipe.train(&Source::from_text("the text", text), sizes, &mut |_| {})
}

fn vocabulary(tokenizer: &Tokenizer) -> serde_json::Map<String, Value> {
    let json: Value = serde_json::from_slice(tokenizer.json()).unwrap();
    json["model"]["vocab"].as_object().unwrap().clone()
}

fn stories() -> String {
    story::training_text(3, 60_000)
}

#[test]
fn bpe_is_laid_out_as_gpt2s() {
    let trained = train(&stories(), Kind::Bpe, 400, &["<|user|>"]).unwrap();
    let tokenizer = trained.tokenizer;
    assert_eq!((tokenizer.vocabulary_size(), trained.text_bytes), (400, stories().len() as u64));
    let vocabulary = vocabulary(&tokenizer);
    // As in GPT-2's vocab.json: printable characters first, then the others, of which space is the 33rd.
    for (token, id) in [("!", 0), ("~", 93), ("¡", 94), ("ÿ", 187), ("Ā", 188), ("Ġ", 220), ("Ń", 255)] {
        assert_eq!(vocabulary[token], id, "{token}");
    }
    assert_eq!((vocabulary["<|endoftext|>"].clone(), vocabulary["<|user|>"].clone()), (398.into(), 399.into()));
    assert_eq!(tokenizer.end_of_text(), Some(398));
    assert_eq!(tokenizer.encode("<|endoftext|><|user|>!").unwrap(), [398, 399, 0]);
    let json: Value = serde_json::from_slice(tokenizer.json()).unwrap();
    assert_eq!(json["model"]["merges"].as_array().unwrap().len(), 400 - 256 - 2, "one merge for each other token");
    let text = stories();
    assert!(tokenizer.encode(&text).unwrap().len() < text.len() * 2 / 3, "merges make text shorter");
}

/// Our counting of words, in pieces and by another regular expression, gives what the crate's own training does.
#[test]
fn bpe_merges_are_those_of_the_library() {
    let text = format!("{}{}", stories(), HARD.repeat(4));
    for special in [&[][..], &["<|x|>"]] {
        // Special tokens in the text are not counted; the library sees them as ends of the text.
        let with_special = text.replace("\n\n", &special.concat());
        let trained = train(&with_special, Kind::Bpe, 600, special).unwrap();
        let parts: Vec<&str> = match special {
            [token] => with_special.split(token).collect(),
            _ => vec![&with_special],
        };
        assert_eq!(merges(&trained.tokenizer), library_merges(&parts, 600 - 1 - special.len()));
    }
}

fn merges(tokenizer: &Tokenizer) -> Value {
    let json: Value = serde_json::from_slice(tokenizer.json()).unwrap();
    json["model"]["merges"].clone()
}

fn library_merges(texts: &[&str], size: usize) -> Value {
    let mut library = tokenizers::Tokenizer::new(BPE::default());
    library.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    let trainer = BpeTrainerBuilder::new().vocab_size(size).min_frequency(2).show_progress(false);
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    let mut trainer = tokenizers::models::TrainerWrapper::from(trainer.initial_alphabet(alphabet).build());
    library.train(&mut trainer, texts.iter()).unwrap();
    let json: Value = serde_json::from_str(&library.to_string(false).unwrap()).unwrap();
    json["model"]["merges"].clone()
}

#[test]
fn a_trained_tokenizer_does_not_depend_on_how_the_text_is_read() {
    for kind in [Kind::Bpe, Kind::WordPiece { cased: false }] {
        let whole = train(&stories(), kind, 500, &[]).unwrap();
        for (piece_bytes, block_bytes) in [(100, 1), (1000, 5000), (77, 1 << 20)] {
            let sizes = Sizes { piece_bytes, block_bytes, ..Sizes::default() };
            let pieces = train_with(&stories(), kind, 500, &[], sizes).unwrap();
            assert_eq!(pieces.tokenizer.json(), whole.tokenizer.json(), "{kind:?} in pieces of {piece_bytes}");
        }
    }
}

#[test]
fn the_same_data_gives_the_same_file_on_any_number_of_threads() {
    let place = Place::new();
    place.write("data/a.txt", stories());
    place.write("data/b.jsonl", format!("{{\"text\": {}}}\n", Value::from(HARD)));
    for kind in ["bpe", "wordpiece", "wordpiece --cased"] {
        let files = ["1", "2", "2"].map(|threads| {
            let out = place.path("tokenizer.json");
            let arguments =
                format!("tokenizer train --data data --vocab 700 --overwrite --out tokenizer.json --kind {kind}");
            let output = place.command(&arguments).env("RAYON_NUM_THREADS", threads).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            fs::read(out).unwrap()
        });
        assert!(files[0] == files[1] && files[1] == files[2], "{kind}");
    }
}

#[test]
fn a_full_table_leaves_the_rarest_words_out_and_says_so() {
    // Nine hundred words that come once, and two that come often.
    let text: String = (0..900).map(|i| format!("common q{i}w often ")).collect();
    let sizes = Sizes { piece_bytes: 64, block_bytes: 64, most_words: 100 };
    let small = train_with(&text, Kind::Bpe, 300, &[], sizes).unwrap();
    assert!(small.words <= 100 && small.notes[0].contains("more than 100 different words"), "{:?}", small.notes);
    for word in [" common", " often"] {
        assert_eq!(small.tokenizer.encode(word).unwrap().len(), 1, "{word}");
    }
    let again = train_with(&text, Kind::Bpe, 300, &[], sizes).unwrap();
    assert_eq!(small.tokenizer.json(), again.tokenizer.json());
}

#[test]
fn long_stretches_without_a_boundary_are_learned_in_parts() {
    let trained = train(&format!("{} b", "a".repeat(3_000_000)), Kind::Bpe, 280, &[]).unwrap();
    assert!(trained.words <= 4, "{} words", trained.words);
    let ids = trained.tokenizer.encode(&"a".repeat(256)).unwrap();
    assert_eq!(ids.len(), 1, "eight merges make the longest part");
}

#[test]
fn wordpiece_is_laid_out_as_berts() {
    let text = format!("{}naïve NAÏVE [x] ", stories()).repeat(2);
    let tokenizer = train(&text, Kind::WordPiece { cased: false }, 300, &["[USER]"]).unwrap().tokenizer;
    let words = vocabulary(&tokenizer);
    for (id, token) in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[USER]"].into_iter().enumerate() {
        assert_eq!(words[token], id, "{token}");
    }
    assert!(words.keys().any(|token| token.starts_with("##")) && words.len() <= 300);
    let ids = tokenizer.encode("Naive naïve").unwrap();
    let (first, second) = ids.split_at(ids.len() / 2);
    assert_eq!(first, second, "case and accents are dropped");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "naive naive");
    assert_eq!(tokenizer.encode("東 [SEP]").unwrap(), [1, 3], "an unknown character, a special token");

    let cased = train(&text, Kind::WordPiece { cased: true }, 300, &[]).unwrap().tokenizer;
    assert_ne!(cased.encode("naïve").unwrap(), cased.encode("NAÏVE").unwrap());
    let dir = tempfile::tempdir().unwrap();
    cased.save(dir.path()).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(dir.path().join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!((config["unk_token"].clone(), config["mask_token"].clone()), ("[UNK]".into(), "[MASK]".into()));
}

#[test]
fn hard_text_survives_a_trained_bpe() {
    let tokenizer = train(&HARD.repeat(3), Kind::Bpe, 320, &[]).unwrap().tokenizer;
    for text in [HARD, "", "\r\n", "\0", " ", "\u{10FFFF}", "e\u{301}", "a\u{200D}"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives_a_bpe_trained_on_any_text(learned in "\\PC{1,200}", text in any::<String>()) {
        let tokenizer = train(&format!("{learned} {learned}"), Kind::Bpe, 300, &[]).unwrap().tokenizer;
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn words_are_counted_as_the_library_does(text in "([a-c']|[ \n\t\u{A0}]|[1²]|[.!]|é|東|'s|'ll){1,120}") {
        let trained = train(&text.repeat(2), Kind::Bpe, 300, &[]).unwrap();
        prop_assert_eq!(merges(&trained.tokenizer), library_merges(&[&text.repeat(2)], 299));
    }
}

#[test]
fn bad_recipes_and_data_are_refused() {
    let place = Place::new();
    place.write("text.txt", stories());
    place.write("latin.txt", b"fine\nthen caf\xe9 ".repeat(20));
    place.write("rows.jsonl", "{\"text\": \"fine\"}\n{\"body\": 1}\n");
    place.write("empty.txt", "");
    place.write("ids.bin", [1, 0, 2, 0]);
    place.write("there.json", "x");
    let cases: &[(&str, i32, &[&str])] = &[
        ("--data latin.txt --out a.json", 1, &["latin.txt", "byte 13", "UTF-8"]),
        ("--data rows.jsonl --out a.json", 1, &["line 2 of rows.jsonl", "`text`"]),
        ("--data empty.txt --out a.json", 1, &["empty.txt"]),
        ("--data ids.bin --out a.json", 1, &["ids.bin", "token ids"]),
        ("--data none.txt --out a.json", 1, &["none.txt"]),
        ("--data text.txt --vocab 256 --out a.json", 2, &["--vocab 256", "257"]),
        ("--data text.txt --vocab 20 --kind wordpiece --out a.json", 2, &["--vocab 20", "too small"]),
        ("--data text.txt --special x --out a.json", 2, &["--special", "single"]),
        ("--data text.txt --cased --out a.json", 2, &["--cased", "wordpiece"]),
        ("--data text.txt --kind unigram --min-frequency 3 --out a.json", 2, &["--min-frequency", "unigram"]),
        ("--data text.txt --out there.json", 2, &["there.json", "--overwrite"]),
        ("--data text.txt --out nowhere/a.json", 2, &["nowhere"]),
        ("--data text.txt --out text.txt", 2, &["text.txt", "file"]),
    ];
    for (arguments, code, words) in cases {
        has(&error(&place.wgpt(&format!("tokenizer train {arguments}")), *code), words);
        assert!(!place.path("a.json").exists(), "{arguments}");
    }
    assert_eq!(fs::read(place.path("there.json")).unwrap(), b"x");
    let few = train("a b a b", Kind::Bpe, 300, &[]).unwrap();
    assert!(few.notes[0].contains("not 300"), "{:?}", few.notes);
    assert!(matches!(train("a b", Kind::Bpe, 300, &[" "]), Err(Error::Usage(_))));
}

/// A tokenizer of 300 tokens in a folder.
fn saved() -> (TempDir, Tokenizer) {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = train(&format!("{}{HARD}", stories()), Kind::Bpe, 300, &[]).unwrap().tokenizer;
    tokenizer.save(dir.path()).unwrap();
    (dir, tokenizer)
}

/// Runs `wgpt tokenizer` with a standard input.
fn pipe(tokenizer: &Path, arguments: &str, input: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wgpt"))
        .arg("tokenizer")
        .args(arguments.split(' '))
        .arg("--tokenizer")
        .arg(tokenizer)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[track_caller]
fn text_of(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_text_goes_through_pipes_and_back() {
    let (dir, tokenizer) = saved();
    let ids = tokenizer.encode(HARD).unwrap();
    let spaced = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(text_of(pipe(dir.path(), "encode", HARD)), format!("{spaced}\n"));
    let json = text_of(pipe(dir.path(), "encode --format json", HARD));
    assert_eq!(serde_json::from_str::<Vec<u32>>(&json).unwrap(), ids);
    for input in [&spaced, &json] {
        assert_eq!(text_of(pipe(dir.path(), "decode", input)), HARD);
        let quoted = text_of(pipe(dir.path(), "decode --format json", input));
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), HARD);
    }
    assert_eq!(text_of(pipe(dir.path(), "encode", "")), "\n");
    assert_eq!(text_of(pipe(dir.path(), "decode", "")), "");
    assert_eq!(text_of(pipe(Path::new("bytes"), "encode", "aé")), "97 195 169\n");

    // Longer than what is held at a time, in both directions; characters of several tokens lie across every border.
    let long = "The 🦊 ran. ".repeat(60_000);
    let ids = text_of(pipe(dir.path(), "encode", &long));
    let expected = tokenizer.encode(&long).unwrap();
    assert!(ids.split_whitespace().map(|id| id.parse::<u32>().unwrap()).eq(expected));
    assert_eq!(text_of(pipe(dir.path(), "decode", ids)), long);
}

#[test]
fn lines_go_through_pipes_one_by_one() {
    let (dir, tokenizer) = saved();
    let lines = ["The cat", "", " sat\ton 東京 🦊", "no end of line"];
    let ids = text_of(pipe(dir.path(), "encode --lines", lines.join("\r\n")));
    let each: Vec<Vec<u32>> = ids.lines().map(|line| line.split(' ').flat_map(str::parse).collect()).collect();
    assert_eq!(each, lines.map(|line| tokenizer.encode(line).unwrap()));
    assert_eq!(text_of(pipe(dir.path(), "decode --lines", &ids)), lines.join("\n") + "\n");
    let json = text_of(pipe(dir.path(), "encode --lines --format json", lines.join("\n")));
    assert_eq!(json.lines().map(|line| serde_json::from_str::<Vec<u32>>(line).unwrap()).collect::<Vec<_>>(), each);
    let quoted = text_of(pipe(dir.path(), "decode --lines --format json", &json));
    assert_eq!(quoted.lines().map(|line| serde_json::from_str::<String>(line).unwrap()).collect::<Vec<_>>(), lines);
    // Within an array, line breaks are only white space.
    assert_eq!(text_of(pipe(dir.path(), "decode --lines", "[64,\n 65]\n66")), "ab\nc\n");
}

#[test]
fn bad_ids_and_bytes_are_told_with_their_place() {
    let (dir, _) = saved();
    let cases: &[(&str, &[u8], &[&str])] = &[
        ("decode", b"1 2\n3 x4\n", &["`x`", "line 2, column 3"]),
        ("decode", b"1 300 2", &["token id 300", "line 1, column 3", "300"]),
        ("decode", b"1\n\n99999999999", &["line 3, column 1", "too large"]),
        ("decode", b"1 -2", &["`-`", "line 1, column 3"]),
        ("decode", b"[1, 2", &["line 1, column 1", "does not end"]),
        ("decode", b"[1] ]", &["line 1, column 5", "closes nothing"]),
        ("decode", b"1 \xff", &["a byte", "line 1, column 3"]),
        ("encode", b"ab\xff", &["byte 2", "standard input", "UTF-8"]),
        ("encode --lines", b"fine\nab\xe9\n", &["line 2", "column 3", "UTF-8"]),
    ];
    for (arguments, input, words) in cases {
        has(&error(&pipe(dir.path(), arguments, input), 1), words);
    }
    let chars = tempfile::tempdir().unwrap();
    Tokenizer::chars("ab").unwrap().save(chars.path()).unwrap();
    let unknown = pipe(chars.path(), "encode --lines", "ab\nbx\n");
    has(&error(&unknown, 1), &["line 2", "character 2", "'x'"]);
    assert_eq!(unknown.stdout, b"0 1\n", "what comes before it is written");
    has(&error(&pipe(Path::new("char"), "encode", ""), 2), &["char"]);
    has(&error(&pipe(Path::new("nowhere.json"), "encode", ""), 1), &["nowhere.json"]);
}

/// As `wgpt tokenizer encode < text | head -c 10`.
#[test]
fn a_reader_that_stops_is_no_failure() {
    let (dir, _) = saved();
    for arguments in ["encode", "encode --lines"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wgpt"))
            .arg("tokenizer")
            .args(arguments.split(' '))
            .arg("--tokenizer")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let written = child.stdin.take().unwrap().write_all("The cat sat.\n".repeat(50_000).as_bytes());
        drop(written); // it may have ended already
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}
