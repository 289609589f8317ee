//! Files of data: format and part by name, files that are left out, and data that has changed.

use std::fs;
use std::io::Write;
use std::path::Path;

use tempfile::{TempDir, tempdir};
use wgpt::data::corpus::Corpus;
use wgpt::data::shards::{self, Sizes};
use wgpt::data::source::{Extensions, Source};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::tokens::Tokens;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

fn text_of(source: &Source) -> String {
    source.pieces(1 << 20).map(|piece| piece.unwrap().text + "|").collect()
}

fn open(path: &Path, extensions: &str) -> Source {
    Source::open_with(path, &extensions.parse().unwrap()).unwrap()
}

fn corpus(path: &Path, cache: &Path) -> Corpus {
    let tokenizer = Tokenizer::bytes().unwrap();
    Corpus::open(&Source::open(path).unwrap(), None, Some(&tokenizer), None, cache).unwrap()
}

fn ids(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![0; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packed = vec![];
    // Two members, as `cat a.gz b.gz` makes them.
    for part in [&text[..3], &text[3..]] {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(part.as_bytes()).unwrap();
        packed.extend(encoder.finish().unwrap());
    }
    packed
}

/// Two frames, and between them one that is to be skipped.
fn zstandard(text: &str) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let mut packed = compress_to_vec(&text.as_bytes()[..3], CompressionLevel::Fastest);
    packed.extend([0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]);
    packed.extend(compress_to_vec(&text.as_bytes()[3..], CompressionLevel::Fastest));
    packed
}

#[test]
fn a_named_file_of_text_is_text_whatever_its_extension() {
    let dir = folder(&[("notes.md", "# Notes é".as_bytes()), ("Makefile", b"all:"), ("a.TXT", b"text")]);
    for (name, text) in [("notes.md", "# Notes é|"), ("Makefile", "all:|"), ("a.TXT", "text|")] {
        assert_eq!(text_of(&Source::open(&dir.path().join(name)).unwrap()), text);
    }
}

#[test]
fn a_folder_is_searched_for_the_extensions_that_are_asked_for() {
    let dir = folder(&[
        ("a.md", b"one"),
        ("b/c.py", b"two"),
        ("d.txt", b"three"),
        ("e.dat", b"\xFF\0"),
        ("LICENSE", b"no"),
        (".hidden.md", b"no"),
        ("tokenizer.json", b"{}"),
    ]);
    assert_eq!(text_of(&open(dir.path(), "md,py")), "one|two|");
    assert_eq!(text_of(&open(dir.path(), ".py, *.TXT")), "two|three|");
    let source = Source::open(dir.path()).unwrap();
    assert_eq!(text_of(&source), "three|");
    let [note] = source.notes() else { panic!("{:?}", source.notes()) };
    for part in ["4 files are not read", "1 .md", "1 .py", "1 .dat", "1 without an extension", "--ext"] {
        assert!(note.contains(part), "{part:?} is not in: {note}");
    }
    for wrong in ["", "md,,py", "a/b", "*"] {
        assert!(wrong.parse::<Extensions>().is_err(), "{wrong:?}");
    }
}

#[test]
fn compressed_files_are_read_as_their_content() {
    let lines = "{\"text\": \"one é\"}\n{\"text\": \"two\"}\n";
    let dir = folder(&[
        ("a.txt.gz", &gzip("the text é")),
        ("b.txt.zst", &zstandard("another text")),
        ("c.jsonl.gz", &gzip(lines)),
        ("d.jsonl.zst", &zstandard(lines)),
        ("e.md.gz", &gzip("# Notes")),
    ]);
    let all = "the text é|another text|one é|two|one é|two|";
    assert_eq!(text_of(&Source::open(dir.path()).unwrap()), all);
    assert_eq!(text_of(&open(dir.path(), "md")), "# Notes|");
    assert_eq!(text_of(&Source::open(&dir.path().join("e.md.gz")).unwrap()), "# Notes|");
    for (name, packed) in [("cut.txt.gz", gzip("text")), ("cut.txt.zst", zstandard("text"))] {
        let dir = folder(&[(name, &packed[..packed.len() - 2])]);
        let source = Source::open(dir.path()).unwrap();
        let error = source.pieces(1 << 20).find_map(Result::err).unwrap_or_else(|| panic!("{name} is cut off"));
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn names_say_what_is_for_training_validation_and_testing() {
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let cases: [(Files, &str, &str); 5] = [
        (&[("train.txt", b"t"), ("val.txt", b"v"), ("test.txt", b"x")], "t|", "v|"),
        (&[("wiki.train.tokens.txt", b"x"), ("train/a.txt", b"t"), ("valid/a.txt", b"v")], "t|x|", "v|"),
        (&[("train.jsonl", b"{\"text\": \"t\"}"), ("validation.jsonl", b"{\"text\": \"v\"}")], "t|", "v|"),
        (&[("train-0.txt", b"t"), ("dev-0.txt", b"v"), ("more.txt", b"m")], "m|t|", "v|"),
        // Without a file for training, names are names.
        (&[("val_kilmer.txt", b"a"), ("test.txt", b"b")], "b|a|", ""),
    ];
    for (files, training, validation) in cases {
        let dir = folder(files);
        let source = Source::open(dir.path()).unwrap();
        assert_eq!(text_of(&source), training, "{files:?}");
        assert_eq!(source.validation().map_or(String::new(), |source| text_of(&source)), validation);
    }
    let dir = folder(&[("train.txt", b"ab"), ("val.txt", b"c"), ("test.txt", b"d"), ("val.md", b"e")]);
    let source = Source::open(dir.path()).unwrap();
    assert!(source.notes().iter().any(|note| note.contains("test.txt is for testing")), "{:?}", source.notes());
    let named = Source::open(&dir.path().join("train.txt")).unwrap();
    assert_eq!(text_of(&named.validation().unwrap()), "c|");
    assert!(Source::open(&dir.path().join("val.txt")).unwrap().validation().is_none());
    let characters = Tokenizer::choose("char", &named).unwrap();
    assert_eq!(characters.decode(&[0, 1, 2, 3]).unwrap(), "\nabc", "what is held out has characters, too");
    let corpus = corpus(dir.path(), &dir.path().join("cache"));
    assert_eq!((corpus.training.len(), corpus.validation.len()), (2, 1));
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let dir = folder(&[
        ("a.txt", "\u{feff}one\u{feff}".as_bytes()),
        ("b.jsonl", "\u{feff}{\"text\": \"\u{feff}two\"}\n".as_bytes()),
        ("c.txt", "\u{feff}".as_bytes()),
        ("d.txt.gz", &gzip("\u{feff}three")),
    ]);
    let source = Source::open(dir.path()).unwrap();
    assert_eq!(text_of(&source), "one\u{feff}|\u{feff}two|three|");
    let pieces: Vec<_> = source.pieces(4).map(|piece| piece.unwrap()).collect();
    assert_eq!(pieces.iter().filter(|piece| piece.starts_document).count(), 3);
    assert_eq!(pieces.into_iter().map(|piece| piece.text).collect::<String>(), "one\u{feff}\u{feff}twothree");
}

#[test]
fn ids_of_four_bytes_without_a_header_are_told() {
    let bytes = |ids: &[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let small: Vec<u32> = (0..4000).map(|i| 1 + (i * 7919) % 300).collect();
    let large: Vec<u32> = (0..4000).map(|i| (i * 7919) % 151_000).collect();
    let pairs: Vec<u8> = (0..4000u16).flat_map(|i| (i % 300).to_le_bytes()).collect();
    let few: Vec<u8> = (0..4000u16).flat_map(|i| (i % 3).to_le_bytes()).collect();
    for (name, contents, is_told) in [
        ("small.bin", bytes(&small), true),
        ("large.bin", bytes(&large), true),
        ("pairs.bin", pairs, false),
        ("few.bin", few, false),
        ("short.bin", bytes(&[5, 6]), false),
    ] {
        let dir = folder(&[(name, &contents)]);
        let source = Source::open(&dir.path().join(name)).unwrap();
        let tokens = shards::map(&source, 1 << 16, &dir.path().join("cache")).unwrap();
        assert_eq!(tokens.warnings().len(), usize::from(is_told), "{name}: {:?}", tokens.warnings());
        if let [warning] = tokens.warnings() {
            assert!(warning.contains(name) && warning.contains("ids of four bytes"), "{warning}");
        }
        let corpus = Corpus::open(&source, None, None, Some(1 << 16), &dir.path().join("cache")).unwrap();
        assert_eq!(corpus.warnings.len(), usize::from(is_told), "{name}");
    }
}

#[test]
fn data_is_told_from_other_data_wherever_it_is() {
    let text = "A girl had a dog. ".repeat(40);
    let dir = folder(&[("a.txt", text.as_bytes()), ("b/moved.txt", text.as_bytes())]);
    let cache = dir.path().join("cache");
    let before = corpus(&dir.path().join("a.txt"), &cache);
    for _ in 0..2 {
        let again = corpus(&dir.path().join("b/moved.txt"), &cache); // the second time from the cache
        assert_eq!(again.digest(), before.digest());
        assert_eq!(again.digest().changed_since(&before.digest()), None);
    }
    let changed = text.replacen("girl", "gurl", 1);
    fs::write(dir.path().join("a.txt"), &changed).unwrap();
    assert_eq!(corpus(&dir.path().join("a.txt"), &cache).digest().changed_since(&before.digest()), Some("the data"));

    let split = folder(&[("train.txt", text.as_bytes()), ("val.txt", b"one"), ("cache/x", b"")]);
    let open = || corpus(split.path(), &cache).digest();
    let before = open();
    fs::write(split.path().join("val.txt"), "two").unwrap();
    assert_eq!(open().changed_since(&before), Some("the validation data"));
    fs::write(split.path().join("val.txt"), "one").unwrap();
    fs::write(split.path().join("train.txt"), &changed).unwrap();
    assert_eq!(open().changed_since(&before), Some("the training data"));

    // The same ids in memory and in files.
    let tokenizer = Tokenizer::bytes().unwrap();
    let memory = Source::from_text("memory", text.as_str());
    let memory = shards::tokenise(&memory, &tokenizer, &cache, Sizes::default()).unwrap();
    let file = Source::open(&dir.path().join("b/moved.txt")).unwrap();
    let file = shards::tokenise(&file, &tokenizer, &cache, Sizes::default()).unwrap();
    assert_eq!((ids(&memory), memory.digest()), (ids(&file), file.digest()));
    assert_ne!(memory.slice(0..10).digest(), memory.slice(1..11).digest());
}
