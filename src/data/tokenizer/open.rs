//! Where a tokenizer comes from: the characters of a text, bytes, a `tokenizer.json`, or a model's files.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use serde_json::Value;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::models::bpe::BPE;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::Split;
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::beside::Beside;
use super::{END_OF_TEXT, FILE_NAME, Kind, ReadFile, Tokenizer, byte_alphabet, invalid, one_line};
use crate::data::guard::caught;
use crate::data::source::Source;
use crate::data::vocabulary::{self, ADDED_FILE, MERGES_FILE, MODEL_FILE, SETTINGS_FILE, TEXT_FILE, VOCABULARY_FILE};
use crate::error::{Error, Result};
use crate::{fail, files};

impl Tokenizer {
    /// The tokenizer that `--tokenizer` names: `char` (made from `source`), `bytes`, or the path of a `tokenizer.json`.
    pub fn choose(choice: &str, source: &Source) -> Result<Tokenizer> {
        match choice {
            "char" => match source.alphabet()? {
                none if none.is_empty() => {
                    fail!(Input, "{} holds no text: give data with at least one sentence", source.name())
                }
                alphabet => Tokenizer::from_alphabet(alphabet),
            },
            "bytes" => Tokenizer::bytes(),
            path => Tokenizer::load(Path::new(path)),
        }
    }

    /// One id per character of `text`, in sorted order.
    pub fn chars(text: &str) -> Result<Tokenizer> {
        Tokenizer::from_alphabet(text.chars().collect())
    }

    /// One id per character of the set, in sorted order.
    pub fn from_alphabet(alphabet: BTreeSet<char>) -> Result<Tokenizer> {
        if alphabet.is_empty() {
            fail!(Input, "a character tokenizer needs at least one character, and the text has none");
        }
        let chars: Vec<char> = alphabet.into_iter().collect();
        let json = chars_json(&chars).map_err(invalid)?;
        let ids = chars.iter().zip(0..).map(|(&c, id)| (c, id)).collect();
        Ok(Tokenizer { kind: Kind::Chars { chars, ids }, json, beside: Beside::default(), limit: None })
    }

    /// One id per byte, its value.
    pub fn bytes() -> Result<Tokenizer> {
        Ok(Tokenizer {
            kind: Kind::Bytes,
            json: bytes_json().map_err(invalid)?,
            beside: Beside::default(),
            limit: None,
        })
    }

    /// Reads a `tokenizer.json`, or the tokenizer of the model folder `path`.
    pub fn load(path: &Path) -> Result<Tokenizer> {
        if path.is_dir() {
            return Tokenizer::from_model(&read_in(path), path);
        }
        if !path.exists() {
            let choices = "--tokenizer takes `char`, `bytes` or the path of a tokenizer.json";
            fail!(Input, "there is no tokenizer at {}; {choices}", path.display());
        }
        Tokenizer::from_file(fs::read(path).map_err(Error::io("read the tokenizer", path))?, path)
    }

    /// The tokenizer of a model whose files `read` gives, if they are there: `tokenizer.json`, or else `vocab.json` and
    /// `merges.txt`, or else BERT's `vocab.txt`. Errors say that they are in `place`.
    pub fn from_model(read: &ReadFile, place: &Path) -> Result<Tokenizer> {
        let beside = Beside::read(read, place)?;
        if let Some(json) = read(FILE_NAME)? {
            let tokenizer = Tokenizer::from_file(json.into_owned(), &place.join(FILE_NAME))?;
            return Ok(Tokenizer { beside, ..tokenizer });
        }
        let (added, settings, model) = (read(ADDED_FILE)?, read(SETTINGS_FILE)?, read(MODEL_FILE)?);
        let (added, settings, model) = (added.as_deref(), settings.as_deref(), model.as_deref());
        let files = vocabulary::Beside { added, settings, model };
        let json = match (read(VOCABULARY_FILE)?, read(MERGES_FILE)?, read(TEXT_FILE)?) {
            (Some(vocabulary), Some(merges), _) => {
                let (vocabulary, merges) = (&vocabulary, &merges);
                vocabulary::tokenizer_json(&vocabulary::Files { vocabulary, merges, beside: files })
            }
            (_, _, Some(words)) => vocabulary::word_piece_json(&words, &files, &beside.roles()),
            _ => {
                let wanted = format!("no {FILE_NAME}, nor {VOCABULARY_FILE} with {MERGES_FILE}, nor {TEXT_FILE}");
                let remedy = "copy it from where the model is from";
                fail!(Input, "there is no tokenizer at {} ({wanted}); {remedy}", place.display());
            }
        };
        let tokenizer = json.and_then(Tokenizer::from_json).map_err(|reason| {
            let remedy = "copy the tokenizer's files again";
            Error::Input(format!("{} has no usable tokenizer: {}; {remedy}", place.display(), files::one_line(&reason)))
        })?;
        Ok(Tokenizer { beside, ..tokenizer })
    }

    fn from_file(json: Vec<u8>, file: &Path) -> Result<Tokenizer> {
        if json.is_empty() {
            let remedy = "put the tokenizer.json that made them there";
            fail!(
                Input,
                "{} is empty: the model was trained on token ids without a tokenizer; {remedy}",
                file.display()
            );
        }
        Tokenizer::from_json(json).map_err(|reason| {
            let expected = "give a tokenizer.json as the Hugging Face libraries save it";
            let reason = files::one_line(&reason);
            Error::Input(format!("{} is not a usable tokenizer: {reason}; {expected}", file.display()))
        })
    }

    /// The tokenizer of a `tokenizer.json`'s bytes, or why there is none.
    pub fn from_json(json: Vec<u8>) -> std::result::Result<Tokenizer, String> {
        let value: Value = serde_json::from_slice(&json).map_err(|cause| format!("it is not JSON ({cause})"))?;
        if let Some(kind) = recognise(&value) {
            return Ok(Tokenizer { kind, json, beside: Beside::default(), limit: None });
        }
        let mut inner = caught(|| tokenizers::Tokenizer::from_bytes(&json))?.map_err(one_line)?;
        // A file may ask for texts to be cut or filled up to a length, which would silently change the data.
        inner.with_padding(None).with_truncation(None).map_err(one_line)?;
        let largest = inner.get_vocab(true).into_values().max().ok_or("its vocabulary is empty")?;
        // Every token takes more than a byte of the file; tables by id must not become larger than that.
        if largest as usize >= json.len() {
            return Err(format!("it has a token id {largest}, which is far beyond the number of its tokens"));
        }
        let end_of_text = inner.token_to_id(END_OF_TEXT);
        let kind = Kind::File { inner: Box::new(inner), vocabulary_size: largest as usize + 1, end_of_text };
        Ok(Tokenizer { kind, json, beside: Beside::default(), limit: None })
    }
}

/// Reads the files of a folder by name.
pub(super) fn read_in(folder: &Path) -> impl Fn(&str) -> Result<Option<Cow<'static, [u8]>>> {
    move |file| match fs::read(folder.join(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        bytes => bytes.map(|bytes| Some(bytes.into())).map_err(Error::io("read", &folder.join(file))),
    }
}

/// The tokenizer that `save` has written as this JSON, if it is `char` or `bytes`.
fn recognise(value: &Value) -> Option<Kind> {
    let same = |json: tokenizers::Result<Vec<u8>>| {
        json.is_ok_and(|json| serde_json::from_slice::<Value>(&json).is_ok_and(|expected| expected == *value))
    };
    let model = value.get("model")?;
    let vocabulary = model.get("vocab")?.as_object()?;
    match model.get("type")?.as_str()? {
        "BPE" if vocabulary.len() == 256 => same(bytes_json()).then_some(Kind::Bytes),
        "WordLevel" => {
            let chars: BTreeSet<char> = vocabulary.keys().filter_map(|token| token.chars().next()).collect();
            let chars: Vec<char> = chars.into_iter().collect();
            let ids = chars.iter().zip(0..).map(|(&c, id)| (c, id)).collect();
            (!chars.is_empty() && same(chars_json(&chars))).then_some(Kind::Chars { chars, ids })
        }
        _ => None,
    }
}

fn chars_json(chars: &[char]) -> tokenizers::Result<Vec<u8>> {
    let vocabulary = chars.iter().zip(0..).map(|(c, id)| (c.to_string(), id)).collect();
    // A token for unknown characters must be named but is not in the vocabulary, so that they stay an error.
    let model = WordLevel::builder().vocab(vocabulary).unk_token("<unk>".into()).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Split::new("", SplitDelimiterBehavior::Isolated, false)?));
    tokenizer.with_decoder(Some(Fuse::new()));
    Ok(tokenizer.to_string(true)?.into_bytes())
}

fn bytes_json() -> tokenizers::Result<Vec<u8>> {
    let alphabet = byte_alphabet();
    let vocabulary: [(String, u32); 256] = std::array::from_fn(|byte| (alphabet[byte].to_string(), byte as u32));
    let model = BPE::builder().vocab_and_merges(vocabulary, Vec::new()).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, false)));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, false)));
    Ok(tokenizer.to_string(true)?.into_bytes())
}
