//! Shards made ahead of training: the same ids as training on the text itself, in a folder that says all there is to say.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use serde_json::Value;
use wgpt::data::corpora::story;
use wgpt::data::corpus::Corpus;
#[cfg(feature = "parquet")]
use wgpt::data::dialogues;
use wgpt::data::prepare::{Preparation, Prepared, Validation};
use wgpt::data::shards;
use wgpt::data::source::Source;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::tokenizer_training::{Kind, Recipe, Sizes};
use wgpt::data::tokens::Tokens;
use wgpt::error::Result;

use crate::cli::{Place, error, has, stderr};

const DOCUMENTS: [&str; 5] =
    ["The first\r\nline.", "naïve e\u{301} 👩‍👩‍👧‍👦", "a\0b\u{FEFF} ", "東京都に行く", "  last  \n\n"];

/// A byte-level BPE of 300 tokens, with `<|endoftext|>`.
fn tokenizer() -> Tokenizer {
    let recipe = Recipe { kind: Kind::Bpe, vocabulary_size: 300, min_frequency: 2, special: vec![] };
    let text = Source::from_text("stories", story::training_text(3, 40_000));
    recipe.train(&text, Sizes::default(), &mut |_| {}).unwrap().tokenizer
}

fn prepare(data: &Path, tokenizer: &Tokenizer, out: &Path, shard_tokens: u64, fraction: f64) -> Result<Prepared> {
    let source = Source::open(data)?;
    let validation = Validation::Fraction(fraction);
    let interrupted = Arc::default();
    let mut job =
        Preparation { data: &source, validation, shard_tokens, out, overwrite: false, interrupted, beside: None };
    job.run(tokenizer, &mut |_| {})
}

fn open(data: &Path, tokenizer: &Tokenizer, place: &Place) -> Corpus {
    Corpus::open(&Source::open(data).unwrap(), None, Some(tokenizer), None, &place.path("cache")).unwrap()
}

fn ids(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![0; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids
}

/// Lines of JSON with the documents in a `text` field.
fn lines(documents: &[&str]) -> String {
    documents.iter().map(|text| format!("{}\n", serde_json::json!({ "id": 7, "text": text }))).collect()
}

/// All files of a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn shards_hold_the_documents_joined_by_the_end_of_text() {
    let place = Place::new();
    let tokenizer = tokenizer();
    let data = place.write("data.jsonl", lines(&DOCUMENTS));
    let expected: Vec<Vec<u32>> = DOCUMENTS.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
    let expected = expected.join(&tokenizer.end_of_text().unwrap());
    for shard_tokens in [1, 7, expected.len() as u64 / 2, expected.len() as u64, 1 << 30] {
        for fraction in [0.0, 0.1, 0.5, 0.99] {
            let out = place.path(&format!("{shard_tokens}-{fraction}"));
            let prepared = prepare(&data, &tokenizer, &out, shard_tokens, fraction).unwrap();
            let parts = [&prepared.training, &prepared.validation];
            let source = Source::open(&out).unwrap();
            let read =
                |source: &Source| ids(&wgpt::data::corpus::tokens(source, None, 300, &place.path("cache")).unwrap());
            let mut all = read(&source);
            assert_eq!(all.len() as u64, parts[0].tokens);
            assert!(parts.iter().all(|part| part.files.iter().all(|shard| (1..=shard_tokens).contains(&shard.tokens))));
            let held_out = source.validation().map_or(vec![], |source| read(&source));
            assert_eq!(held_out.len(), (expected.len() as f64 * fraction) as usize, "{shard_tokens} {fraction}");
            all.extend(held_out);
            assert_eq!(all, expected, "{shard_tokens} {fraction}");
            assert_eq!((prepared.documents, prepared.id_bytes), (5, 2));
            assert_eq!(prepared.text_bytes as usize, DOCUMENTS.concat().len());
            let bytes = contents(&out).into_iter().filter(|(name, _)| name.ends_with(".bin"));
            assert_eq!(bytes.map(|(_, bytes)| bytes.len() as u64).sum::<u64>(), parts[0].bytes + parts[1].bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Words that are encoded one by one give the ids of the text as a whole, special tokens in it included.
    #[test]
    fn ids_are_those_of_the_whole_text(
        parts in prop::collection::vec("[a-c']{1,9}|[ \n\t\u{A0}]{1,3}|\\PC|[1²]|<\\|endoftext\\|>|'s|don't |東", 1..60),
        twice in any::<bool>(),
    ) {
        static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(tokenizer);
        let text = parts.concat().repeat(if twice { 2 } else { 1 });
        let source = Source::from_text("text", text.as_str());
        let place = Place::new();
        let tokens = shards::tokenise(&source, &TOKENIZER, &place.path("cache"), shards::Sizes::default()).unwrap();
        prop_assert_eq!(ids(&tokens), TOKENIZER.encode(&text).unwrap());
    }
}

#[test]
fn training_on_shards_is_training_on_the_text() {
    let place = Place::new();
    let tokenizer = tokenizer();
    for (number, size) in [997, 5000, 20_010].into_iter().enumerate() {
        let data = place.write(&format!("text{number}/a.txt"), story::training_text(5, size));
        let out = place.path(&format!("shards{number}"));
        prepare(data.parent().unwrap(), &tokenizer, &out, 1000, 0.1).unwrap();
        let (text, shards) = (open(&data, &tokenizer, &place), open(&out, &tokenizer, &place));
        assert_eq!(ids(&text.training), ids(&shards.training));
        assert_eq!(ids(&text.validation), ids(&shards.validation));
        assert_eq!(text.validation.text_bytes(), shards.validation.text_bytes());
    }
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let place = Place::new();
    tokenizer().save(place.0.path()).unwrap();
    place.write("data/a.txt", story::training_text(9, 700_000));
    place.write("data/b/c.jsonl", lines(&DOCUMENTS).repeat(20));
    let folders = ["1", "2", "3"].map(|threads| {
        let out = format!("out{threads}");
        let arguments = format!("data prepare --data data --tokenizer tokenizer.json --shard-tokens 99999 --out {out}");
        let output = place.command(&arguments).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        contents(&place.path(&out))
    });
    assert!(folders[0] == folders[1] && folders[1] == folders[2]);
    let names: Vec<&String> = folders[0].keys().collect();
    assert_eq!(names[..3], ["meta.json", "tokenizer.json", "tokenizer_config.json"]);
    assert!(names.len() > 5 && names[3] == "train_000000.bin" && names.last().unwrap().starts_with("val_0"));
}

#[test]
fn a_run_finds_the_tokenizer_beside_its_shards() {
    let place = Place::new();
    tokenizer().save(place.0.path()).unwrap();
    place.write("data.txt", story::training_text(9, 20_000));
    let prepared = place.wgpt("data prepare --data data.txt --tokenizer tokenizer.json --out shards");
    assert!(prepared.status.success(), "{}", stderr(&prepared));
    has(&stderr(&prepared), &["1 documents", "20", "training:", "validation:", "wgpt train --data shards"]);
    let trained = place.train("--data shards");
    assert!(trained.status.success(), "{}", stderr(&trained));
    assert!(!stderr(&trained).contains("50257"), "{}", stderr(&trained));
    let json = |folder: &str| fs::read(place.path(folder).join("tokenizer.json")).unwrap();
    assert_eq!(json("run"), json("shards"));
    let sampled = place.wgpt("sample --model run --prompt The --tokens 5 --device cpu");
    assert!(sampled.status.success(), "{}", stderr(&sampled));
    assert!(sampled.stdout.starts_with(b"The"));

    // A file of the folder has the same tokenizer; one without such a neighbour has none, as before.
    let file = Source::open(&place.path("shards/train_000000.bin")).unwrap();
    assert_eq!(file.tokenizer_file(), Some(place.path("shards/tokenizer.json")));
    assert!(file.validation().is_some());
    let bare = place.write("bare/train.bin", [0; 200]);
    assert_eq!(Source::open(&bare).unwrap().tokenizer_file(), None);
    fs::write(place.path("shards/tokenizer.json"), "{").unwrap();
    has(&error(&place.train("--overwrite --data shards"), 1), &["shards/tokenizer.json", "not a usable tokenizer"]);
}

#[test]
fn validation_may_have_data_of_its_own() {
    let place = Place::new();
    place.write("data.jsonl", "{\"body\": \"abc\"}\n{\"body\": \"\"}\n{\"body\": \"d\"}\n");
    place.write("val.txt", "held out");
    let arguments = "data prepare --data data.jsonl --val val.txt --column body --tokenizer bytes --out shards";
    let output = place.wgpt(arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    has(&stderr(&output), &["3 documents", "no <|endoftext|>", "newline"]);
    let corpus = open(&place.path("shards"), &Tokenizer::bytes().unwrap(), &place);
    assert_eq!(ids(&corpus.training), b"abc\nd".map(u32::from));
    assert_eq!(ids(&corpus.validation), b"held out".map(u32::from));
    let meta: Value = serde_json::from_slice(&fs::read(place.path("shards/meta.json")).unwrap()).unwrap();
    assert_eq!((meta["vocabulary_size"].clone(), meta["train"]["tokens"].clone()), (256.into(), 5.into()));
    assert_eq!(meta["val"]["files"][0]["name"], "val_000000.bin");
}

/// llm.c has a layout of its own for vocabularies that 16 bits cannot hold.
#[test]
fn large_vocabularies_take_four_bytes_an_id() {
    let place = Place::new();
    let mut json: Value = serde_json::from_slice(tokenizer().json()).unwrap();
    let words = json["model"]["vocab"].as_object_mut().unwrap();
    (300..65_536).for_each(|id| drop(words.insert(format!("unused{id}"), id.into())));
    let fits = Tokenizer::load(&place.write("fits.json", json.to_string())).unwrap();
    json["model"]["vocab"]["one more"] = 65_536.into();
    let large = Tokenizer::load(&place.write("large.json", json.to_string())).unwrap();
    let data = place.write("data.txt", "The cat sat on the mat.");
    for (tokenizer, id_bytes, magic) in [(fits, 2, 20_240_520i32), (large, 4, 20_240_801)] {
        let out = place.path(&format!("out{id_bytes}"));
        let prepared = prepare(&data, &tokenizer, &out, 100, 0.2).unwrap();
        assert_eq!((prepared.id_bytes, prepared.notes.is_empty()), (id_bytes, id_bytes == 2), "{:?}", prepared.notes);
        let shard = fs::read(out.join("train_000000.bin")).unwrap();
        assert_eq!(shard[..4], magic.to_le_bytes());
        assert_eq!(shard[8..12], (prepared.training.tokens as i32).to_le_bytes());
        let corpus = open(&out, &tokenizer, &place);
        let all = [ids(&corpus.training), ids(&corpus.validation)].concat();
        assert_eq!(all, tokenizer.encode("The cat sat on the mat.").unwrap());
    }
}

#[test]
fn bad_data_and_choices_leave_nothing_behind() {
    let place = Place::new();
    place.write("data/a.txt", "fine ".repeat(100));
    place.write("data/b.txt", b"caf\xe9");
    place.write("fine.txt", "fine ".repeat(100));
    place.write("empty.txt", "");
    place.write("ids.bin", [1, 0, 2, 0]);
    place.write("full/thing", "x");
    place.write("file", "x");
    let cases: &[(&str, i32, &[&str])] = &[
        ("--data data --out out", 1, &["b.txt", "byte 3", "UTF-8"]),
        ("--data empty.txt --out out", 1, &["empty.txt", "empty"]),
        ("--data fine.txt --val empty.txt --out out", 1, &["empty.txt", "empty"]),
        ("--data ids.bin --out out", 2, &["ids.bin", "token ids already"]),
        ("--data none --out out", 1, &["none"]),
        ("--data fine.txt --out file", 2, &["file"]),
        ("--data fine.txt --out full", 2, &["full", "not empty", "--overwrite"]),
        ("--data fine.txt --out full --overwrite", 2, &["full", "thing"]),
        ("--data fine.txt --out out --shard-tokens 0", 2, &["--shard-tokens 0"]),
        ("--data fine.txt --out out --shard-tokens 3000000000", 2, &["--shard-tokens 3000000000"]),
        ("--data fine.txt --out out --val-fraction 1", 2, &["--val-fraction 1"]),
        ("--data fine.txt --out out --val-fraction NaN", 2, &["--val-fraction"]),
        ("--data fine.txt --out out --tokenizer none.json", 1, &["none.json"]),
    ];
    let before = fs::read_dir(place.0.path()).unwrap().count();
    for (arguments, code, words) in cases {
        let tokenizer = if arguments.contains("--tokenizer") { "" } else { "--tokenizer bytes" };
        has(&error(&place.wgpt(&format!("data prepare {arguments} {tokenizer}")), *code), words);
        assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), before, "{arguments}");
    }
    assert_eq!(fs::read(place.path("full/thing")).unwrap(), b"x");
}

#[test]
fn shards_are_replaced_as_a_whole_and_only_when_asked() {
    let place = Place::new();
    place.write("long.txt", "fine ".repeat(100));
    place.write("short.txt", "other text");
    let run = |data: &str, more: &str| {
        place.wgpt(&format!("data prepare --data {data} --tokenizer bytes --shard-tokens 50 --out a/out {more}"))
    };
    assert!(run("long.txt", "").status.success());
    let first = contents(&place.path("a/out"));
    has(&error(&run("short.txt", ""), 2), &["a/out", "--overwrite"]);
    has(&error(&run("none.txt", "--overwrite"), 1), &["none.txt"]);
    assert!(contents(&place.path("a/out")) == first, "a failure keeps what was there");
    // What a killed process leaves is removed by the next one of the same name.
    let abandoned = place.write("a/.wgpt-tmp-out-1/.wgpt-building", "");
    assert!(run("short.txt", "--overwrite").status.success());
    assert!(!abandoned.exists());
    let names: Vec<String> = contents(&place.path("a/out")).into_keys().collect();
    assert_eq!(
        names.iter().filter(|name| name.ends_with(".bin")).collect::<Vec<_>>(),
        ["train_000000.bin", "val_000000.bin"]
    );
    assert_eq!(fs::read_dir(place.path("a")).unwrap().count(), 1);
}

#[test]
#[cfg(unix)]
fn an_interrupt_leaves_nothing_behind() {
    let place = Place::new();
    tokenizer().save(place.0.path()).unwrap();
    let part = story::training_text(9, 1 << 20);
    place.write("data/a.txt", part.repeat(100));
    let arguments = "data prepare --data data --tokenizer tokenizer.json --out out/shards";
    let child = place.command(arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let started = std::time::Instant::now();
    let writing = || fs::read_dir(place.path("out")).is_ok_and(|mut entries| entries.next().is_some());
    while !writing() {
        assert!(started.elapsed().as_secs() < 60, "it did not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let signalled = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    let output = child.wait_with_output().unwrap();
    has(&error(&output, 1), &["interrupted", "out/shards"]);
    assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 0);
}

#[test]
#[cfg(not(feature = "parquet"))]
fn a_parquet_file_says_how_to_get_it_read() {
    let place = Place::new();
    place.write("data/rows.parquet", "PAR1");
    let output = place.wgpt("data prepare --data data --tokenizer bytes --out out");
    has(&error(&output, 1), &["rows.parquet", "--features parquet"]);
}

#[cfg(feature = "parquet")]
mod parquet {
    use super::*;
    use ::parquet::basic::{Compression, ZstdLevel};
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::{properties::WriterProperties, writer::SerializedFileWriter};
    use ::parquet::schema::parser::parse_message_type;

    /// Writes rows of a number and an optional text, two groups of them.
    fn write(place: &Place, name: &str, column: &str, rows: &[Option<&[u8]>], compression: Compression) {
        let kind = if column == "raw" { "" } else { " (UTF8)" };
        let schema = format!("message rows {{ required int64 id; optional binary {column}{kind}; }}");
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = fs::File::create(place.write(name, "")).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
        for rows in rows.chunks(rows.len().div_ceil(2)) {
            let mut group = writer.next_row_group().unwrap();
            let mut numbers = group.next_column().unwrap().unwrap();
            let ids: Vec<i64> = (0..rows.len() as i64).collect();
            numbers.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
            numbers.close().unwrap();
            let mut texts = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = rows.iter().flatten().map(|text| text.to_vec().into()).collect();
            let levels: Vec<i16> = rows.iter().map(|row| row.is_some().into()).collect();
            texts.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            texts.close().unwrap();
            group.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn the_rows_of_a_column_are_documents() {
        let place = Place::new();
        let tokenizer = tokenizer();
        place.write("lines/a.jsonl", lines(&DOCUMENTS).repeat(200));
        prepare(&place.path("lines"), &tokenizer, &place.path("expected"), 1000, 0.1).unwrap();
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let kinds = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            zstd,
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
        ];
        for (number, compression) in kinds.into_iter().enumerate() {
            let mut rows: Vec<Option<&[u8]>> = DOCUMENTS.repeat(200).iter().map(|text| Some(text.as_bytes())).collect();
            rows.insert(3, None);
            rows.push(Some(b""));
            write(&place, &format!("{number}/rows.parquet"), "text", &rows, compression);
            let out = place.path(&format!("out{number}"));
            prepare(&place.path(&number.to_string()), &tokenizer, &out, 1000, 0.1).unwrap();
            assert!(contents(&out) == contents(&place.path("expected")), "{compression:?}");
        }
    }

    #[test]
    fn bad_files_and_columns_are_refused() {
        let place = Place::new();
        write(&place, "rows.parquet", "body", &[Some(b"fine"), None, Some(b"text")], Compression::SNAPPY);
        write(&place, "bytes.parquet", "raw", &[Some(b"fine"), None, Some(b"caf\xe9")], Compression::SNAPPY);
        let whole = fs::read(place.path("rows.parquet")).unwrap();
        place.write("cut.parquet", &whole[..whole.len() / 2]);
        place.write("empty.parquet", "");
        let run = |data: &str| place.wgpt(&format!("data prepare --data {data} --tokenizer bytes --out out"));
        has(&error(&run("rows.parquet"), 1), &["rows.parquet", "`text`", "body", "--column"]);
        has(&error(&run("rows.parquet --column id"), 1), &["rows.parquet", "`id`", "body"]);
        has(&error(&run("bytes.parquet --column raw"), 1), &["bytes.parquet", "row 3", "byte 3", "UTF-8"]);
        has(&error(&run("cut.parquet"), 1), &["cut.parquet", "Parquet"]);
        has(&error(&run("empty.parquet"), 1), &["empty.parquet", "Parquet"]);
        let fine = run("rows.parquet --column body");
        assert!(fine.status.success(), "{}", stderr(&fine));
        has(&stderr(&fine), &["2 documents"]);
    }

    #[test]
    fn dialogues_are_read_as_those_of_lines() {
        let place = Place::new();
        let schema = "message rows { required group messages (LIST) { repeated group list { required group element {
            required binary role (UTF8); required binary content (UTF8); } } } optional int64 number; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let file = fs::File::create(place.write("rows.parquet", "")).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for texts in [["user", "assistant"].repeat(2), vec!["hi", "ho", "yes", "no"]] {
            let mut column = group.next_column().unwrap().unwrap();
            let values: Vec<ByteArray> = texts.iter().map(|text| text.as_bytes().to_vec().into()).collect();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&[1; 4]), Some(&[0, 1, 0, 1])).unwrap();
            column.close().unwrap();
        }
        let mut numbers = group.next_column().unwrap().unwrap();
        numbers.typed::<Int64Type>().write_batch(&[7], Some(&[1, 0]), None).unwrap();
        numbers.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
        let line = |a: &str, b: &str| {
            let turn = |role: &str, content: &str| format!(r#"{{"role": "{role}", "content": "{content}"}}"#);
            format!("{{\"messages\": [{}, {}]}}\n", turn("user", a), turn("assistant", b))
        };
        place.write("rows.jsonl", line("hi", "ho") + &line("yes", "no"));
        let read = |name: &str| dialogues::read(&place.path(name)).unwrap();
        assert_eq!(read("rows.parquet"), read("rows.jsonl"));
        let output = place.wgpt("reward --data rows.parquet --out out --device cpu");
        has(&error(&output, 1), &["row 1 of rows.parquet", "chosen"]);
    }
}
