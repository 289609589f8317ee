//! Data: sources, tokenizers, shards, batches, and the errors of each about bad input.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use tempfile::{TempDir, tempdir};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use wgpt::{
    data::{
        batches::Batches,
        corpus::{self, Corpus, GPT2_VOCABULARY_SIZE},
        shards::{self, Sizes},
        source::Source,
        tokenizer::Tokenizer,
        tokens::Tokens,
    },
    error::{Error, Result},
};

const VERSE: &str =
    "The quick brown fox\njumps over   the lazy dog.\n\n\"Où?\" – “Là,” said 日本語 & 🦊; it's 1984.\r\n\tEnd\n";

// ---------------------------------------------------------------------------------------------------- helpers

fn write(dir: &TempDir, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, contents).unwrap();
    path
}

fn u16_bytes(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn llmc(magic: i32, version: i32, count: i32, ids: &[u8]) -> Vec<u8> {
    let mut header = [0i32; 256];
    header[..3].copy_from_slice(&[magic, version, count]);
    header.iter().flat_map(|word| word.to_le_bytes()).chain(ids.iter().copied()).collect()
}

fn all(tokens: &Tokens) -> Vec<u32> {
    let mut ids = vec![u32::MAX; tokens.len() as usize];
    tokens.read(0, &mut ids).unwrap();
    ids
}

/// The message of an error, which must be one line with all of the words in it.
#[track_caller]
fn refused<T>(result: Result<T>, words: &[&str]) -> Error {
    let Err(error) = result else { panic!("this must be refused, with {words:?}") };
    let message = error.to_string();
    assert!(!message.contains('\n'), "more than one line: {message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    error
}

fn bytes() -> Tokenizer {
    Tokenizer::bytes().unwrap()
}

/// Tokenises with the given sizes and a cache of its own.
fn tokenise(path: &Path, tokenizer: &Tokenizer, sizes: Sizes) -> Result<Tokens> {
    let cache = tempdir().unwrap();
    shards::tokenise(&Source::open(path)?, tokenizer, cache.path(), sizes)
}

fn tiny(piece_bytes: usize) -> Sizes {
    Sizes { piece_bytes, block_bytes: 3 * piece_bytes, shard_tokens: 7 }
}

fn open_bin(path: &Path, vocabulary_size: usize) -> Result<Tokens> {
    let cache = tempdir().unwrap();
    shards::map(&Source::open(path)?, vocabulary_size, cache.path())
}

/// A small byte-level BPE like GPT-2's, trained on the verse.
fn gpt2_like(dir: &TempDir, special: &[&str]) -> PathBuf {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true))).with_decoder(Some(ByteLevel::default()));
    let specials = special.iter().map(|&token| tokenizers::AddedToken::from(token, true)).collect();
    let trainer = BpeTrainerBuilder::new().vocab_size(320).show_progress(false).special_tokens(specials);
    let alphabet = ByteLevel::alphabet().into_iter().collect();
    let mut trainer = tokenizers::models::TrainerWrapper::from(trainer.initial_alphabet(alphabet).build());
    tokenizer.train(&mut trainer, std::iter::repeat_n(VERSE, 8)).unwrap();
    let path = dir.path().join("tokenizer.json");
    tokenizer.save(&path, true).unwrap();
    path
}

// ------------------------------------------------------------------------------------------------- tokenizers

#[test]
fn char_ids_are_the_sorted_characters() {
    let tokenizer = Tokenizer::chars("banana é\n").unwrap();
    assert_eq!(tokenizer.vocabulary_size(), 6);
    assert_eq!(tokenizer.encode("\n abné").unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(tokenizer.token_bytes().unwrap(), [1, 1, 1, 1, 1, 2]);
}

#[test]
fn byte_ids_are_the_bytes() {
    let tokenizer = bytes();
    assert_eq!(tokenizer.vocabulary_size(), 256);
    assert_eq!(tokenizer.encode("a\né").unwrap(), [97, 10, 0xC3, 0xA9]);
    assert_eq!(tokenizer.decode(&[0xC3]).unwrap(), "\u{FFFD}");
}

#[test]
fn an_unknown_character_is_named_with_its_position() {
    let tokenizer = Tokenizer::chars("abcé").unwrap();
    refused(tokenizer.encode("aé\tb"), &["'\\t' (U+0009)", "at character 3", "4 characters", "--tokenizer bytes"]);

    let dir = tempdir().unwrap();
    let path = write(&dir, "a.txt", "abcabcébzabc");
    refused(tokenise(&path, &tokenizer, tiny(4)), &["'z' (U+007A)", "at byte 9 of", "a.txt"]);
    let path = write(&dir, "a.jsonl", "{\"text\": \"abc\"}\n{\"text\": \"abz\"}\n");
    let tokenizer = Tokenizer::chars("abc\n").unwrap();
    refused(tokenise(&path, &tokenizer, tiny(4)), &["'z'", "at byte 2 of the text in line 2 of", "a.jsonl"]);
}

#[test]
fn decoding_refuses_ids_beyond_the_vocabulary() {
    let dir = tempdir().unwrap();
    let file = Tokenizer::load(&gpt2_like(&dir, &[])).unwrap();
    for tokenizer in [Tokenizer::chars("ab").unwrap(), bytes(), file] {
        let beyond = tokenizer.vocabulary_size() as u32;
        assert!(tokenizer.decode(&[beyond - 1]).is_ok());
        refused(tokenizer.decode(&[0, beyond]), &[&format!("token id {beyond} is not in"), &format!("of {beyond}")]);
    }
}

#[test]
fn char_and_bytes_are_saved_as_files_that_the_tokenizers_library_reads_alike() {
    for tokenizer in [Tokenizer::chars(VERSE).unwrap(), bytes()] {
        let dir = tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let library = tokenizers::Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap();
        let ids = tokenizer.encode(VERSE).unwrap();
        assert_eq!(library.encode(VERSE, true).unwrap().get_ids(), ids);
        assert_eq!(library.decode(&ids, true).unwrap(), VERSE);
        assert_eq!(library.get_vocab_size(true), tokenizer.vocabulary_size());

        // What the library saves again is still recognised as what it is.
        library.save(dir.path().join("again.json"), false).unwrap();
        for file in [dir.path().to_path_buf(), dir.path().join("again.json")] {
            let loaded = Tokenizer::load(&file).unwrap();
            assert_eq!(loaded.encode(VERSE).unwrap(), ids);
            assert_eq!(loaded.decode(&ids).unwrap(), VERSE);
            assert_eq!(loaded.token_bytes(), tokenizer.token_bytes());
            assert_eq!(loaded.end_of_text(), None);
        }
        assert_eq!(Tokenizer::load(dir.path()).unwrap().hash(), tokenizer.hash());
        let config = fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
        assert!(config.contains("PreTrainedTokenizerFast"), "{config}");
    }
}

#[test]
fn a_loaded_char_tokenizer_still_refuses_unknown_characters() {
    let dir = tempdir().unwrap();
    Tokenizer::chars("abc").unwrap().save(dir.path()).unwrap();
    refused(Tokenizer::load(dir.path()).unwrap().encode("abd"), &["'d' (U+0064)", "at character 3"]);
}

#[test]
fn a_tokenizer_file_is_used_and_saved_as_it_is() {
    let dir = tempdir().unwrap();
    let path = gpt2_like(&dir, &["<|endoftext|>"]);
    let tokenizer = Tokenizer::load(&path).unwrap();
    let ids = tokenizer.encode(VERSE).unwrap();
    assert!(ids.len() < VERSE.len(), "merges are used");
    assert_eq!(tokenizer.decode(&ids).unwrap(), VERSE);
    assert_eq!(tokenizer.end_of_text(), Some(0));
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [0]);
    assert_eq!(tokenizer.decode(&[0]).unwrap(), "<|endoftext|>");

    let lengths = tokenizer.token_bytes().unwrap();
    assert_eq!(lengths.len(), tokenizer.vocabulary_size());
    assert_eq!(lengths[0], 0, "a special token is no text");
    assert_eq!(ids.iter().map(|&id| lengths[id as usize] as usize).sum::<usize>(), VERSE.len());

    let copy = tempdir().unwrap();
    tokenizer.save(copy.path()).unwrap();
    assert_eq!(fs::read(copy.path().join("tokenizer.json")).unwrap(), fs::read(&path).unwrap());
    assert!(fs::read_to_string(copy.path().join("tokenizer_config.json")).unwrap().contains("<|endoftext|>"));
}

#[test]
fn truncation_and_padding_of_a_tokenizer_file_are_not_applied() {
    let dir = tempdir().unwrap();
    let path = gpt2_like(&dir, &[]);
    let expected = Tokenizer::load(&path).unwrap().encode(VERSE).unwrap();
    let mut library = tokenizers::Tokenizer::from_file(&path).unwrap();
    library.with_truncation(Some(tokenizers::TruncationParams { max_length: 4, ..Default::default() })).unwrap();
    library.with_padding(Some(tokenizers::PaddingParams::default()));
    library.save(&path, false).unwrap();
    assert_eq!(Tokenizer::load(&path).unwrap().encode(VERSE).unwrap(), expected);
}

#[test]
fn bad_tokenizer_files_are_refused() {
    let dir = tempdir().unwrap();
    refused(Tokenizer::load(&dir.path().join("none.json")), &["no tokenizer at", "none.json", "`char`"]);
    refused(Tokenizer::load(dir.path()), &["no tokenizer at", "tokenizer.json"]);
    for (contents, reason) in [
        ("{\"model\":", "not JSON"),
        ("{}", "not a usable tokenizer"),
        ("{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "vocabulary is empty"),
        ("{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967295},\"merges\":[]}}", "4294967295"),
        ("{\"version\":\"1.0\",\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":-1},\"unk_token\":\"u\"}}", "usable"),
    ] {
        let path = write(&dir, "bad.json", contents);
        refused(Tokenizer::load(&path), &["bad.json", reason, "Hugging Face"]);
    }
    refused(Tokenizer::load(&write(&dir, "empty.json", "")), &["empty.json is empty", "without a tokenizer"]);
    refused(Tokenizer::chars(""), &["at least one character"]);
}

#[test]
fn a_stream_holds_back_incomplete_characters() {
    let tokenizer = bytes();
    let mut stream = tokenizer.stream();
    let shown: Vec<String> = tokenizer.encode("aé🦊").unwrap().iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(shown, ["a", "", "é", "", "", "", "🦊"]);
    stream.push(0xE6).unwrap();
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}", "what stays incomplete is shown at the end");

    let mut stream = tokenizer.stream();
    let shown: String = (0..40).map(|_| stream.push(0xFF).unwrap()).collect();
    assert!(shown.chars().count() >= 30, "bytes that are no text do not wait for ever: {shown:?}");
}

// ---------------------------------------------------------------------------------------------------- sources

#[test]
fn a_folder_is_read_in_sorted_order_with_folders_in_it() {
    let dir = tempdir().unwrap();
    write(&dir, "b.txt", "bee");
    write(&dir, "a/z.TXT", "zed");
    write(&dir, "a/b.jsonl", "{\"text\": \"one\", \"id\": 1}\n\n{\"id\": 2, \"text\": \"tw\\u00f6\"}");
    write(&dir, "a/empty.txt", "");
    write(&dir, "c.md", "not read");
    write(&dir, ".hidden.txt", "not read");
    write(&dir, ".git/x.txt", "not read");
    let tokens = tokenise(dir.path(), &bytes(), Sizes::default()).unwrap();
    let text = bytes().decode(&all(&tokens)).unwrap();
    assert_eq!(text, "one\ntwö\nzed\nbee");
    assert_eq!(tokens.text_bytes(), Some(text.len() as u64));
}

#[test]
fn end_of_text_separates_documents_where_the_tokenizer_has_it() {
    let dir = tempdir().unwrap();
    let with = Tokenizer::load(&gpt2_like(&dir, &["<|endoftext|>"])).unwrap();
    let without = Tokenizer::load(&gpt2_like(&dir, &[])).unwrap();
    let path = write(&dir, "x.jsonl", "{\"text\": \"The fox\"}\n{\"text\": \"\"}\n{\"text\": \"dog.\"}\n");
    let tokens = tokenise(&path, &with, Sizes::default()).unwrap();
    assert_eq!(with.decode(&all(&tokens)).unwrap(), "The fox<|endoftext|>dog.");
    assert_eq!(tokens.text_bytes(), Some(11), "separators that are no text do not count");
    let tokens = tokenise(&path, &without, Sizes::default()).unwrap();
    assert_eq!(without.decode(&all(&tokens)).unwrap(), "The fox\ndog.");
}

#[test]
fn char_takes_its_alphabet_from_all_documents_and_their_separator() {
    let dir = tempdir().unwrap();
    let one = write(&dir, "one.txt", "ba");
    assert_eq!(Tokenizer::choose("char", &Source::open(&one).unwrap()).unwrap().vocabulary_size(), 2);
    write(&dir, "two.txt", "cé");
    let source = Source::open(dir.path()).unwrap();
    let tokenizer = Tokenizer::choose("char", &source).unwrap();
    assert_eq!(tokenizer.decode(&[0, 1, 2, 3, 4]).unwrap(), "\nabcé");
    assert_eq!(tokenizer.decode(&all(&tokenise(dir.path(), &tokenizer, tiny(4)).unwrap())).unwrap(), "ba\ncé");

    let narrow = Tokenizer::chars("abcé").unwrap();
    refused(tokenise(dir.path(), &narrow, tiny(4)), &["separate the documents", "newline", "'\\n' (U+000A)"]);
    assert_eq!(Tokenizer::choose("bytes", &source).unwrap().vocabulary_size(), 256);
}

#[test]
fn bad_sources_are_refused() {
    let dir = tempdir().unwrap();
    refused(Source::open(&dir.path().join("none.txt")), &["no data at", "none.txt"]);
    refused(Source::open(dir.path()), &["has no .txt, .jsonl, .parquet, .wet or .bin files"]);
    for binary in [&b"PAR1\0"[..], b"text\xFFtext", b"\x1F\x8B"] {
        let path = write(&dir, "x.dat", binary);
        refused(Source::open(&path), &["x.dat", "is not UTF-8 text, and neither .jsonl, .parquet nor .bin"]);
    }
    write(&dir, "y.dat", "");
    refused(
        Source::open(dir.path()),
        &["has no .txt, .jsonl, .parquet, .wet or .bin files in it, but 2 .dat", "--ext md,py"],
    );
    for name in ["a.bin.gz", "a.parquet.zst"] {
        refused(Source::open(&write(&dir, name, "")), &[name, "unpack it with"]);
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    write(&dir, "mixed/a.txt", "a");
    write(&dir, "mixed/b.bin", [1, 0]);
    refused(Source::open(&dir.path().join("mixed")), &["mixes", "a.txt", "b.bin"]);

    let source = Source::open(&dir.path().join("mixed/b.bin")).unwrap();
    let error = refused(Tokenizer::choose("char", &source), &["b.bin", "token ids, not text"]);
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn bad_text_is_refused_with_its_place() {
    let dir = tempdir().unwrap();
    let refuse = |name: &str, contents: &[u8], words: &[&str]| {
        let path = write(&dir, name, contents);
        let words: Vec<&str> = words.iter().copied().chain([name]).collect();
        refused(tokenise(&path, &bytes(), tiny(4)), &words);
        refused(Tokenizer::choose("char", &Source::open(&path).unwrap()), &words[words.len() - 1..]);
    };
    refuse("invalid.txt", b"good text\xFFmore", &["no valid UTF-8", "at byte 9 of"]);
    refuse("cut.txt", "good é".as_bytes().split_last().unwrap().1, &["no valid UTF-8", "at byte 5 of"]);
    refuse("utf16.txt", b"\xFF\xFEa\0", &["no valid UTF-8", "at byte 0 of"]);
    refuse("broken.jsonl", b"{\"text\": \"a\"}\n\n{\"text\": \n", &["line 3", "is not JSON"]);
    refuse("other.jsonl", b"{\"text\": \"a\"}\n{\"body\": \"b\"}\n", &["line 2", "has no `text`"]);
    refuse("number.jsonl", b"{\"text\": 5}\n", &["line 1", "has no `text`"]);
    refuse("list.jsonl", b"[\"text\"]\n", &["line 1", "has no `text`"]);
    refuse("bytes.jsonl", b"{\"text\": \"\xC3\x28\"}\n", &["byte 10 of line 1", "no valid UTF-8"]);
}

#[test]
fn data_without_any_text_is_refused() {
    let dir = tempdir().unwrap();
    for (name, contents) in [("empty.txt", ""), ("lines.jsonl", "\n\n"), ("texts.jsonl", "{\"text\": \"\"}\n")] {
        let path = write(&dir, name, contents);
        refused(tokenise(&path, &bytes(), Sizes::default()), &[name, "is empty"]);
        refused(Tokenizer::choose("char", &Source::open(&path).unwrap()), &["holds no text"]);
    }
    let cache = dir.path().join("cache");
    let nothing = Source::from_text("nothing", "");
    refused(shards::tokenise(&nothing, &bytes(), &cache, Sizes::default()), &["nothing is empty"]);
}

#[test]
fn a_refused_source_leaves_nothing_in_the_cache() {
    let dir = tempdir().unwrap();
    let cache = tempdir().unwrap();
    let source = Source::open(&write(&dir, "a.txt", b"good text, much of it\xFF")).unwrap();
    refused(shards::tokenise(&source, &bytes(), cache.path(), tiny(4)), &["UTF-8"]);
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
}

// ----------------------------------------------------------------------------------------------------- pieces

#[test]
fn pieces_give_the_same_ids_as_the_whole() {
    let dir = tempdir().unwrap();
    let file = Tokenizer::load(&gpt2_like(&dir, &["<|endoftext|>"])).unwrap();
    let text = VERSE.repeat(40);
    let path = write(&dir, "verse.txt", &text);
    let lines: String =
        VERSE.lines().map(|line| serde_json::json!({ "text": line.repeat(30) }).to_string() + "\n").collect();
    let documents = write(&dir, "verse.jsonl", lines);
    for tokenizer in [Tokenizer::chars(VERSE).unwrap(), bytes(), file] {
        let whole = tokenizer.encode(&text).unwrap();
        let whole_lines = all(&tokenise(&documents, &tokenizer, Sizes::default()).unwrap());
        for piece_bytes in [64, 100, 333, 1 << 20] {
            let sizes = Sizes { shard_tokens: 2000, ..tiny(piece_bytes) };
            let tokens = tokenise(&path, &tokenizer, sizes).unwrap();
            assert_eq!(all(&tokens), whole, "pieces of {piece_bytes}");
            assert_eq!(tokens.text_bytes(), Some(text.len() as u64));
            assert_eq!(tokens.max_id(), *whole.iter().max().unwrap());
            let tokens = tokenise(&documents, &tokenizer, sizes).unwrap();
            assert_eq!(all(&tokens), whole_lines, "lines in pieces of {piece_bytes}");
        }
    }
}

#[test]
fn pieces_are_bounded_and_lose_nothing() {
    let dir = tempdir().unwrap();
    for text in [VERSE.repeat(5), "日本語".repeat(50), "word\n".repeat(50), " \n".repeat(50), "x".repeat(200)] {
        let source = Source::open(&write(&dir, "a.txt", &text)).unwrap();
        for size_bytes in [1, 4, 5, 17, 64] {
            let pieces: Vec<_> = source.pieces(size_bytes).map(|piece| piece.unwrap()).collect();
            assert!(pieces.iter().all(|piece| !piece.text.is_empty() && piece.text.len() <= size_bytes.max(4)));
            assert_eq!(pieces.iter().filter(|piece| piece.starts_document).count(), 1);
            assert_eq!(pieces.into_iter().map(|piece| piece.text).collect::<String>(), text);
        }
    }
}

#[test]
fn pieces_end_between_words() {
    let source = Source::from_text("words", "one two three\nfour  five\n\nsix seven");
    let pieces: Vec<String> = source.pieces(12).map(|piece| piece.unwrap().text).collect();
    assert_eq!(pieces, ["one two", " three\nfour", "  five\n\nsix", " seven"].map(String::from));
}

// ----------------------------------------------------------------------------------------------------- shards

/// Every file of a folder with its time of change, and on Unix its inode.
fn state(dir: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(state(&path));
            continue;
        }
        let metadata = fs::metadata(&path).unwrap();
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        found.push((path, metadata.modified().unwrap(), inode));
    }
    found.sort();
    found
}

#[test]
fn shards_are_made_once_and_again_when_the_source_changes() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let path = write(&dir, "a.txt", "first text of this file");
    let run = || {
        let source = Source::open(&path).unwrap();
        let tokens = shards::tokenise(&source, &bytes(), cache.path(), tiny(8)).unwrap();
        (bytes().decode(&all(&tokens)).unwrap(), state(cache.path()))
    };
    let (text, first) = run();
    assert_eq!(text, "first text of this file");
    assert_eq!(first.len(), 5, "23 ids in shards of 7, and the index: {first:?}");
    assert_eq!(run(), (text.clone(), first.clone()), "nothing is written again");

    // The source is not even read: this change cannot be seen from outside.
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, [0xFF; 23]).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
    assert_eq!(run(), (text, first.clone()));

    // The same length, but changed later.
    fs::write(&path, "other text of this file").unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let (text, second) = run();
    assert_eq!(text, "other text of this file");
    assert!(second.iter().all(|file| !first.contains(file)));
    assert_eq!(second.len(), first.len(), "the former shards are removed: {second:?}");

    // Another tokenizer has shards of its own.
    let other = Tokenizer::chars("other text of this file").unwrap();
    shards::tokenise(&Source::open(&path).unwrap(), &other, cache.path(), tiny(8)).unwrap();
    assert_eq!(run().1.len(), 2 * first.len());
}

#[test]
fn damaged_shards_are_made_anew() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let source = Source::open(&write(&dir, "a.txt", "some text of this file")).unwrap();
    let run = || all(&shards::tokenise(&source, &bytes(), cache.path(), tiny(8)).unwrap());
    let expected = run();
    let file = |end: &str| state(cache.path()).into_iter().find(|(path, ..)| path.ends_with(end)).unwrap().0;
    for (name, contents) in [
        ("000001.ids", &b"short"[..]),
        ("index.json", b"{"),
        ("index.json", b"{}"),
        ("index.json", b"{\"width\":\"U16\",\"shards\":[9223372036854775808],\"max_id\":1,\"text_bytes\":1}"),
        ("index.json", b"{\"width\":\"U16\",\"shards\":[7],\"max_id\":999,\"text_bytes\":1}"),
    ] {
        fs::write(file(name), contents).unwrap();
        assert_eq!(run(), expected, "{name}");
    }
    fs::remove_file(file("000002.ids")).unwrap();
    assert_eq!(run(), expected);
}

#[test]
fn ids_of_a_large_vocabulary_take_four_bytes() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let text: String = ('\u{10000}'..).take(70_000).collect();
    let tokenizer = Tokenizer::chars(&text).unwrap();
    let source = Source::open(&write(&dir, "a.txt", &text)).unwrap();
    let tokens = shards::tokenise(&source, &tokenizer, cache.path(), Sizes::default()).unwrap();
    assert_eq!(all(&tokens), (0..70_000).collect::<Vec<u32>>());
    let (shard, ..) = state(cache.path()).into_iter().find(|(path, ..)| path.ends_with("000000.ids")).unwrap();
    assert_eq!(fs::metadata(shard).unwrap().len(), 4 * 70_000);
}

#[test]
fn reading_crosses_shards_and_slices() {
    let dir = tempdir().unwrap();
    let text: String = ('0'..='z').cycle().take(100).collect();
    let tokens = tokenise(&write(&dir, "a.txt", &text), &bytes(), tiny(9)).unwrap();
    let ids = bytes().encode(&text).unwrap();
    for tokens in [tokens, Tokens::from_ids(ids.clone())] {
        let part = tokens.slice(3..95).slice(2..90);
        for start in 0..88 {
            for length in [0, 1, 7, 8, 15].into_iter().filter(|length| start + length <= 88) {
                let mut out = vec![0; length];
                part.read(start as u64, &mut out).unwrap();
                assert_eq!(out, ids[start + 5..][..length]);
            }
        }
        assert_eq!((tokens.len(), part.len()), (100, 88));
    }
}

#[test]
#[should_panic(expected = "tokens 3..6 of 5")]
fn reading_beyond_the_end_is_a_mistake_of_the_program() {
    let _ = Tokens::from_ids(vec![1; 9]).slice(0..5).read(3, &mut [0; 3]);
}

// -------------------------------------------------------------------------------------------------- .bin files

#[test]
fn nanogpt_and_llmc_files_are_mapped() {
    let dir = tempdir().unwrap();
    let nano = write(&dir, "nano.bin", u16_bytes(&[1, 50_256, 7]));
    let tokens = open_bin(&nano, GPT2_VOCABULARY_SIZE).unwrap();
    assert_eq!((all(&tokens), tokens.max_id(), tokens.text_bytes()), (vec![1, 50_256, 7], 50_256, None));

    let narrow = write(&dir, "narrow.bin", llmc(20_240_520, 1, 2, &u16_bytes(&[3, 50_256])));
    assert_eq!(all(&open_bin(&narrow, GPT2_VOCABULARY_SIZE).unwrap()), [3, 50_256]);

    let ids: Vec<u8> = [5u32, 128_255].iter().flat_map(|id| id.to_le_bytes()).collect();
    let wide = write(&dir, "wide.bin", llmc(20_240_801, 7, 2, &ids));
    assert_eq!(all(&open_bin(&wide, 128_256).unwrap()), [5, 128_255]);

    // A folder of them is one sequence, in sorted order.
    assert_eq!(all(&open_bin(dir.path(), 128_256).unwrap()), [1, 50_256, 7, 3, 50_256, 5, 128_255]);
}

#[test]
fn bad_bin_files_are_refused() {
    let dir = tempdir().unwrap();
    let ids = u16_bytes(&[1, 2, 3]);
    for (name, contents, words) in [
        ("empty.bin", vec![], &["is empty"][..]),
        ("odd.bin", vec![1, 0, 2], &["odd length of 3 bytes"]),
        ("version.bin", llmc(20_240_520, 2, 3, &ids), &["header of version 2", "1 is expected"]),
        ("wide.bin", llmc(20_240_801, 1, 3, &ids), &["header of version 1", "7 is expected"]),
        ("more.bin", llmc(20_240_520, 1, 4, &ids), &["1030 bytes", "4 tokens", "1032 bytes"]),
        ("less.bin", llmc(20_240_520, 1, 2, &ids), &["1030 bytes", "2 tokens", "1028 bytes"]),
        ("negative.bin", llmc(20_240_520, 1, -3, &ids), &["broken llm.c header"]),
        ("none.bin", llmc(20_240_520, 1, 0, &[]), &["is empty", "0 tokens"]),
        ("cut.bin", llmc(20_240_520, 1, 3, &ids)[..100].to_vec(), &["broken llm.c header"]),
        ("magic.bin", 20_240_520i32.to_le_bytes().to_vec(), &["llm.c header of no version"]),
        ("choices.bin", llmc(20_240_522, 1, 3, &ids), &["llm.c evaluation set"]),
        ("beyond.bin", u16_bytes(&[1, 2, 300, 400]), &["token id 300 at position 2", "vocabulary of 256"]),
        ("header.bin", llmc(20_240_520, 1, 3, &u16_bytes(&[1, 256, 3])), &["token id 256 at position 1"]),
    ] {
        let path = write(&dir, name, contents);
        refused(open_bin(&path, 256), &[words, &[name]].concat());
    }
}

#[test]
fn ids_of_a_bin_file_are_looked_through_once_per_state() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let path = write(&dir, "a.bin", u16_bytes(&[1, 2, 300]));
    let source = Source::open(&path).unwrap();
    let run = |vocabulary_size| shards::map(&source, vocabulary_size, cache.path());
    assert_eq!(run(301).unwrap().max_id(), 300);
    let first = state(cache.path());
    refused(run(300), &["token id 300 at position 2"]);
    assert_eq!(state(cache.path()), first);
    fs::write(&path, u16_bytes(&[1, 2, 3, 4])).unwrap();
    assert_eq!(run(5).unwrap().max_id(), 4);
    assert_eq!(state(cache.path()).len(), 1);
}

#[test]
fn a_file_overwritten_while_in_use_cannot_give_ids_beyond_the_largest() {
    let dir = tempdir().unwrap();
    let path = write(&dir, "a.bin", u16_bytes(&[1, 2, 3, 4]));
    let tokens = open_bin(&path, 5).unwrap();
    use std::io::{Seek, SeekFrom, Write};
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(4)).unwrap();
    file.write_all(&9u16.to_le_bytes()).unwrap();
    tokens.read(0, &mut [0; 2]).unwrap();
    refused(tokens.read(0, &mut [0; 4]), &["a.bin", "token id 9", "changed while in use"]);
}

// ----------------------------------------------------------------------------------------------------- corpus

fn corpus(data: &Path, val: Option<&Path>, tokenizer: Option<&Tokenizer>) -> Result<Corpus> {
    let cache = tempdir().unwrap();
    let val = val.map(Source::open).transpose()?;
    Corpus::open(&Source::open(data)?, val.as_ref(), tokenizer, None, cache.path())
}

#[test]
fn the_last_tenth_is_held_out() {
    let dir = tempdir().unwrap();
    let text: String = ('a'..='z').cycle().take(105).chain("éé".chars()).collect();
    let tokenizer = Tokenizer::chars(&text).unwrap();
    let corpus = corpus(&write(&dir, "a.txt", &text), None, Some(&tokenizer)).unwrap();
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(all(&corpus.training), ids[..97]);
    assert_eq!(all(&corpus.validation), ids[97..]);
    assert_eq!((corpus.training.text_bytes(), corpus.validation.text_bytes()), (Some(97), Some(12)));
    assert_eq!(corpus.vocabulary_size, 27);
    assert!(corpus.notes.iter().any(|note| note.contains("last tenth")), "{:?}", corpus.notes);
}

#[test]
fn given_validation_is_used_whole() {
    let dir = tempdir().unwrap();
    let (data, val) = (write(&dir, "a.txt", "training"), write(&dir, "b.txt", "held out"));
    let corpus = corpus(&data, Some(&val), Some(&bytes())).unwrap();
    assert_eq!(bytes().decode(&all(&corpus.training)).unwrap(), "training");
    assert_eq!(bytes().decode(&all(&corpus.validation)).unwrap(), "held out");
    assert!(corpus.notes.is_empty(), "{:?}", corpus.notes);
}

#[test]
fn val_files_beside_bin_data_are_held_out() {
    let dir = tempdir().unwrap();
    let nano = write(&dir, "nano/train.bin", u16_bytes(&[1, 2, 3]));
    write(&dir, "nano/val.bin", u16_bytes(&[4, 5]));
    let shard = write(&dir, "llmc/web_train_000002.bin", u16_bytes(&[2]));
    write(&dir, "llmc/web_train_000001.bin", u16_bytes(&[1]));
    write(&dir, "llmc/web_val_000000.bin", u16_bytes(&[9]));
    let other = write(&dir, "llmc/other_train.bin", u16_bytes(&[7; 10]));
    let ids = |path: &Path| {
        let corpus = corpus(path, None, Some(&bytes())).unwrap();
        (all(&corpus.training), all(&corpus.validation))
    };
    for path in [&nano, nano.parent().unwrap()] {
        assert_eq!(ids(path), (vec![1, 2, 3], vec![4, 5]));
    }
    assert_eq!(ids(&shard), (vec![2], vec![9]));
    assert_eq!(ids(&other), (vec![7; 9], vec![7]), "the validation file of something else is not taken");
    fs::remove_file(other).unwrap();
    assert_eq!(ids(shard.parent().unwrap()), (vec![1, 2], vec![9]));

    let val = Source::open(&dir.path().join("nano/val.bin")).unwrap();
    let cache = tempdir().unwrap();
    let tokens = corpus::tokens(&val, Some(&bytes()), 256, cache.path()).unwrap();
    assert_eq!((all(&tokens), tokens.text_bytes()), (vec![4, 5], Some(2)));
}

#[test]
fn bin_data_without_a_tokenizer_is_taken_for_gpt2s_and_says_so() {
    let dir = tempdir().unwrap();
    let path = write(&dir, "train.bin", u16_bytes(&[1; 20]));
    let opened = corpus(&path, None, None).unwrap();
    assert_eq!(opened.vocabulary_size, 50_257);
    assert!(opened.notes[0].contains("GPT-2's vocabulary of 50257"), "{:?}", opened.notes);
    fs::write(&path, u16_bytes(&[50_257; 20])).unwrap();
    refused(corpus(&path, None, None), &["token id 50257 at position 0", "vocabulary of 50257"]);

    let cache = tempdir().unwrap();
    let opened = Corpus::open(&Source::open(&path).unwrap(), None, None, Some(50_304), cache.path()).unwrap();
    assert_eq!(opened.vocabulary_size, 50_304);
}

#[test]
fn text_needs_a_tokenizer_that_fits_the_vocabulary() {
    let cache = tempdir().unwrap();
    let text = Source::from_text("the story", "once");
    let error = refused(Corpus::open(&text, None, None, None, cache.path()), &["the story", "needs a tokenizer"]);
    assert_eq!(error.exit_code(), 2);
    let opened = Corpus::open(&text, None, Some(&bytes()), Some(100), cache.path());
    refused(opened, &["256 tokens", "vocabulary of 100"]);
    let opened = Corpus::open(&text, None, Some(&bytes()), None, cache.path()).unwrap();
    assert_eq!(opened.training.len() + opened.validation.len(), 4);
    assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0, "text in memory needs no files");
}

// ---------------------------------------------------------------------------------------------------- batches

fn counting(length: u32) -> Arc<Tokens> {
    Tokens::from_ids((0..length).collect()).into()
}

fn draw(batches: &mut Batches, size: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut inputs, mut targets) = (vec![u32::MAX; size], vec![u32::MAX; size]);
    batches.next(&mut inputs, &mut targets).unwrap();
    (inputs, targets)
}

#[test]
fn targets_are_the_inputs_one_later() {
    let mut batches = Batches::new(counting(1000), 3, 5, 42).unwrap();
    for _ in 0..50 {
        let (inputs, targets) = draw(&mut batches, 15);
        assert_eq!(targets, inputs.iter().map(|id| id + 1).collect::<Vec<_>>());
        for row in inputs.chunks(5) {
            assert!(row.windows(2).all(|pair| pair[1] == pair[0] + 1), "{row:?}");
        }
    }
}

#[test]
fn a_batch_depends_on_the_seed_and_its_number_alone() {
    let draws = |seed| {
        let mut batches = Batches::new(counting(10_000), 4, 8, seed).unwrap();
        (0..20).map(|_| draw(&mut batches, 32)).collect::<Vec<_>>()
    };
    let drawn = draws(7);
    assert_eq!(drawn, draws(7));
    assert_ne!(drawn, draws(8));
    let mut batches = Batches::new(counting(10_000), 4, 8, 7).unwrap();
    for number in [13, 0, 19, 5] {
        batches.seek(number);
        assert_eq!(batches.position(), number);
        assert_eq!(draw(&mut batches, 32), drawn[number as usize]);
        assert_eq!(batches.position(), number + 1);
    }
    // No batch is another one shifted by a row, as it would be if batches took fewer numbers than they have rows.
    let rows: HashSet<u32> = drawn.iter().flat_map(|(inputs, _)| inputs.chunks(8).map(|row| row[0])).collect();
    assert!(rows.len() > 75, "{} of 80 windows differ", rows.len());
    batches.seek(u64::MAX - 1);
    draw(&mut batches, 32);
}

/// A resumed run must see the same windows after an update of this program or its generator.
#[test]
fn the_windows_of_a_seed_are_fixed() {
    let mut batches = Batches::new(counting(1_000_000), 4, 1, 1337).unwrap();
    assert_eq!(draw(&mut batches, 4).0, [595_590, 365_678, 696_345, 405_165]);
    batches.seek(1_000_000_000_000);
    assert_eq!(draw(&mut batches, 4).0, [822_310, 544_654, 525_820, 671_348]);
}

#[test]
fn windows_cover_the_whole_range_alike() {
    let (length, context) = (50, 10);
    let mut batches = Batches::new(counting(length), 16, context, 3).unwrap();
    let mut counts = vec![0; 40];
    for _ in 0..1000 {
        draw(&mut batches, 160).0.chunks(context).for_each(|row| counts[row[0] as usize] += 1);
    }
    // 16000 draws of 40 places: 400 each with a standard deviation of 20; five of those on either side.
    assert!(counts.iter().all(|count| (300..500).contains(count)), "{counts:?}");

    let mut batches = Batches::new(counting(11), 2, context, 3).unwrap();
    assert_eq!(draw(&mut batches, 20).1[9], 10, "a text of just one window works");
}

#[test]
fn validation_windows_are_spread_evenly_and_repeat() {
    let mut batches = Batches::evenly(counting(101), 2, 10, 3).unwrap();
    let pass = |batches: &mut Batches| (0..3).map(|_| draw(batches, 20)).collect::<Vec<_>>();
    let first = pass(&mut batches);
    let starts: Vec<u32> = first.iter().flat_map(|(inputs, _)| [inputs[0], inputs[10]]).collect();
    assert_eq!(starts, [0, 18, 36, 54, 72, 90], "from the first token to the last window");
    assert_eq!(first[2].1[19], 100);
    assert_eq!(pass(&mut batches), first);
    let mut one = Batches::evenly(counting(101), 1, 10, 1).unwrap();
    assert_eq!(draw(&mut one, 10).0[0], 0);
}

#[test]
fn impossible_batches_are_refused() {
    let short: Arc<Tokens> = Tokens::from_ids(vec![1; 16]).named("short.txt").into();
    let words = ["short.txt has 16 tokens", "at least 17", "--context"];
    refused(Batches::new(short.clone(), 1, 16, 0), &words);
    refused(Batches::evenly(short.clone(), 1, 16, 1), &words);
    assert!(Batches::new(short.clone(), 1, 15, 0).is_ok());
    for (batch, context) in [(0, 8), (8, 0), (usize::MAX, 2)] {
        assert_eq!(refused(Batches::new(short.clone(), batch, context, 0), &["impossible"]).exit_code(), 2);
    }
    refused(Batches::new(short.clone(), 1, usize::MAX, 0), &["impossible"]);
    refused(Batches::evenly(short, 1, 4, 0), &["at least one batch"]);
}

// ------------------------------------------------------------------------------------------------- properties

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_text_survives_char_and_bytes(text in prop_oneof![any::<String>(), "[a\u{FFFD}é🦊]{0,90}"]) {
        for tokenizer in [Tokenizer::bytes(), Tokenizer::chars(&format!("{text}."))] {
            let tokenizer = tokenizer.unwrap();
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(&tokenizer.decode(&ids).unwrap(), &text);
            let mut stream = tokenizer.stream();
            let mut shown: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            shown += &stream.finish().unwrap();
            prop_assert_eq!(&shown, &text);
        }
    }

    #[test]
    fn any_text_survives_pieces(text in "[ a-zé\n\t日🦊]{1,80}", piece_bytes in 1usize..40) {
        let source = Source::from_text("any", text.clone());
        let tokens = shards::tokenise(&source, &bytes(), Path::new("unused"), tiny(piece_bytes)).unwrap();
        prop_assert_eq!(all(&tokens), text.bytes().map(u32::from).collect::<Vec<_>>());
    }
}

proptest! {
    // Each of these waits for the disk several times.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_ids_survive_bin_files(ids in prop::collection::vec(0u16..50_257, 1..200)) {
        let dir = tempdir().unwrap();
        let expected: Vec<u32> = ids.iter().map(|&id| id.into()).collect();
        let nano = write(&dir, "nano.bin", u16_bytes(&ids));
        prop_assert_eq!(all(&open_bin(&nano, GPT2_VOCABULARY_SIZE).unwrap()), expected.clone());
        let shard = write(&dir, "llmc.bin", llmc(20_240_520, 1, ids.len() as i32, &u16_bytes(&ids)));
        prop_assert_eq!(all(&open_bin(&shard, GPT2_VOCABULARY_SIZE).unwrap()), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(contents in prop::collection::vec(any::<u8>(), 0..300), header in 0usize..4) {
        let dir = tempdir().unwrap();
        let magic = [llmc(20_240_520, 1, 9, &[]), llmc(20_240_801, 7, -1, &[]), b"{\"text\":\"".to_vec(), vec![]];
        let contents = [&magic[header][..], &contents].concat();
        for name in ["a.bin", "a.txt", "a.jsonl"] {
            let path = write(&dir, name, &contents);
            let result = corpus(&path, None, Some(&bytes()));
            if let Err(error) = result {
                prop_assert!(error.to_string().contains(name), "{}", error);
            }
        }
        prop_assert!(Tokenizer::load(&write(&dir, "tokenizer.json", &contents)).is_err());
    }
}
