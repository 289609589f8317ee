//! Tokenizers: text to token ids and back.
//!
//! - `char`: one id per character, the sorted set of characters of a text (as nanoGPT's `shakespeare_char`).
//! - `bytes`: one id per byte; the id is the byte's value, so the vocabulary is 256 and any text can be encoded.
//! - a Hugging Face `tokenizer.json` file, or GPT-2's `vocab.json` and `merges.txt`, run by the `tokenizers` crate.
//!
//! All three are saved as a `tokenizer.json` that the Hugging Face libraries load and that gives the same ids there:
//! `char` as a WordLevel model over single characters, `bytes` as a byte-level BPE model without merges (GPT-2's
//! printable alphabet for the 256 bytes). Such a file is recognised again by its content when it is loaded.

mod beside;
mod frame;
mod stream;

use beside::Beside;
pub use beside::{FILES as BESIDE_FILES, KEYS as SETTINGS_KEYS};
pub use frame::Marks;
pub use stream::TextStream;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fs, io,
    path::Path,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::{
    DecoderWrapper, Model, PostProcessor,
    decoders::fuse::Fuse,
    models::{bpe::BPE, wordlevel::WordLevel},
    pre_tokenizers::{byte_level::ByteLevel, split::Split},
    tokenizer::SplitDelimiterBehavior,
    utils::truncation::TruncationDirection,
};

use super::chat_template::ChatTemplate;
use super::guard::caught;
use super::source::Source;
use super::vocabulary::{self, ADDED_FILE, MERGES_FILE, MODEL_FILE, SETTINGS_FILE, VOCABULARY_FILE};
use crate::{
    error::{Error, Result},
    fail,
    files::{self, write_bytes},
};

/// The file of a model folder that holds the tokenizer.
pub const FILE_NAME: &str = "tokenizer.json";
/// The token that separates documents, where a `tokenizer.json` has it.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The token between documents, and at the end of a text, of BERT's tokenizers.
pub const SEPARATOR: &str = "[SEP]";

/// BERT's special tokens in the order of their ids, and the names of their roles in the Hugging Face libraries.
pub(crate) const BERT_TOKENS: [(&str, &str); 5] = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", SEPARATOR),
    ("mask_token", "[MASK]"),
];

/// Text to token ids and back; see the module for the kinds there are.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
    /// The bytes of its `tokenizer.json`, for `save` and `hash`.
    json: Vec<u8>,
    /// The tokenizer's other files in its folder.
    beside: Beside,
    /// Ids that a model has, where they are fewer than those here.
    limit: Option<usize>,
}

#[derive(Clone)]
enum Kind {
    Chars { chars: Vec<char>, ids: HashMap<char, u32> },
    Bytes,
    File { inner: Box<tokenizers::Tokenizer>, vocabulary_size: usize, end_of_text: Option<u32> },
}

/// Gives the bytes of one of a model's files, or nothing where there is none of that name.
pub type ReadFile<'a> = dyn Fn(&str) -> Result<Option<Cow<'static, [u8]>>> + 'a;

/// Why a text could not be encoded, with the byte offset in the text where that is known.
pub(crate) struct Unencodable {
    pub offset: Option<usize>,
    pub reason: String,
}

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
    /// `merges.txt`. Errors say that they are in `place`.
    pub fn from_model(read: &ReadFile, place: &Path) -> Result<Tokenizer> {
        let beside = Beside::read(read, place)?;
        if let Some(json) = read(FILE_NAME)? {
            let tokenizer = Tokenizer::from_file(json.into_owned(), &place.join(FILE_NAME))?;
            return Ok(Tokenizer { beside, ..tokenizer });
        }
        let (Some(vocabulary), Some(merges)) = (read(VOCABULARY_FILE)?, read(MERGES_FILE)?) else {
            let wanted = format!("no {FILE_NAME}, nor {VOCABULARY_FILE} with {MERGES_FILE}");
            let remedy = "copy it from where the model is from";
            fail!(Input, "there is no tokenizer at {} ({wanted}); {remedy}", place.display());
        };
        let (added, settings, model) = (read(ADDED_FILE)?, read(SETTINGS_FILE)?, read(MODEL_FILE)?);
        let (added, settings, model) = (added.as_deref(), settings.as_deref(), model.as_deref());
        let files = vocabulary::Files { vocabulary: &vocabulary, merges: &merges, added, settings, model };
        let tokenizer = vocabulary::tokenizer_json(&files).and_then(Tokenizer::from_json).map_err(|reason| {
            let remedy = "copy the tokenizer's files again";
            Error::Input(format!("{} has no usable tokenizer: {}; {remedy}", place.display(), files::one_line(&reason)))
        })?;
        Ok(Tokenizer { beside, ..tokenizer })
    }

    /// This tokenizer for a model with so many tokens, whose files are at `place`. Added tokens beyond those, such as one that
    /// only fills up, are no mistake as long as no text has them; other ones are.
    pub fn for_model(self, vocab_size: usize, place: &Path) -> Result<Tokenizer> {
        let all = self.vocabulary_size();
        if all <= vocab_size {
            return Ok(self);
        }
        let added = self.inner().map(|inner| inner.get_added_tokens_decoder()).unwrap_or_default();
        let is_added = |id: usize| added.contains_key(&(id as u32));
        if !(vocab_size..all).all(is_added) {
            fail!(
                Input,
                "{}: its tokenizer has {all} tokens and its model {vocab_size}: they do not belong together",
                place.display()
            );
        }
        Ok(Tokenizer { limit: Some(vocab_size), ..self })
    }

    /// The ids, if the model that the tokenizer is for has all of them.
    fn within_limit(&self, ids: Vec<u32>) -> std::result::Result<Vec<u32>, String> {
        let beyond = ids.iter().find(|&&id| self.limit.is_some_and(|limit| id as usize >= limit));
        match (beyond, self.inner()) {
            (Some(&id), Some(inner)) => {
                let (token, limit) = (inner.id_to_token(id).unwrap_or_default(), self.vocabulary_size());
                Err(format!(
                    "the text has {:?}, token {id} of the tokenizer, and the model has {limit} tokens: leave it out of the text, \
                     or remove it from tokenizer.json",
                    files::one_line(&token)
                ))
            }
            _ => Ok(ids),
        }
    }

    /// The same with a folder's other files of its tokenizer besides `tokenizer.json`.
    pub fn with_settings_of(self, folder: &Path) -> Result<Tokenizer> {
        Ok(Tokenizer { beside: Beside::read(&read_in(folder), folder)?, ..self })
    }

    /// The chat template that its folder has, compiled.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let Some(source) = self.beside.chat_template() else { return Ok(None) };
        let [bos, eos] = ["bos_token", "eos_token"].map(|role| self.beside.special(role).unwrap_or_default());
        ChatTemplate::new(&source, &bos, &eos).map(Some)
    }

    /// The same with another chat template.
    pub fn with_chat_template(self, text: &str) -> Tokenizer {
        Tokenizer { beside: self.beside.with_chat_template(text), ..self }
    }

    /// The same with another token that ends texts, where its folder says how texts are to be generated.
    pub fn with_end(self, id: u32) -> Tokenizer {
        Tokenizer { beside: self.beside.with_end(id), ..self }
    }

    /// Whether its folder says how texts are to be generated, which [`Tokenizer::save`] writes as well.
    pub fn has_generation_config(&self) -> bool {
        self.beside.has(beside::GENERATION_FILE)
    }

    /// Settings of its folder that have no effect here, one sentence each, to tell the user.
    pub fn warnings(&self) -> Vec<String> {
        self.beside.settings.as_ref().map_or(vec![], |settings| beside::warnings(settings, self))
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

    /// Writes `tokenizer.json` into the folder, and the tokenizer's other files, or else a `tokenizer_config.json` that makes
    /// the Hugging Face libraries use that file as it is. Each is written to a temporary name, synced and renamed.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_bytes(&dir.join(FILE_NAME), &self.json)?;
        self.beside.write(dir, self)
    }

    /// Writes only `tokenizer.json` and `tokenizer_config.json`, for a folder that holds no model.
    pub fn save_alone(&self, dir: &Path) -> Result<()> {
        write_bytes(&dir.join(FILE_NAME), &self.json)?;
        self.beside.write_settings(dir, self)
    }

    /// The `tokenizers` crate's object of a `tokenizer.json`; none for characters and bytes.
    pub(super) fn inner(&self) -> Option<&tokenizers::Tokenizer> {
        match &self.kind {
            Kind::File { inner, .. } => Some(inner),
            _ => None,
        }
    }

    /// The bytes of its `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// The ids of a text. A `tokenizer.json` adds no tokens of its own, but special tokens spelled out in the text,
    /// such as `<|endoftext|>`, become their ids.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.try_encode(text).map_err(|Unencodable { offset, reason }| {
            let position = offset.map(|offset| format!(" at character {}", text[..offset].chars().count() + 1));
            Error::Input(format!("cannot encode the text{}: {reason}", position.unwrap_or_default()))
        })
    }

    /// The ids of a text that a model is to continue: as [`Tokenizer::encode`], with the tokens that a `tokenizer.json` puts
    /// around every text, such as LLaMA's `<s>`.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encode_within(text, usize::MAX)?.0)
    }

    /// As [`Tokenizer::encode_prompt`], at most `longest` ids: whether the end of the text was cut for that.
    pub fn encode_within(&self, text: &str, longest: usize) -> Result<(Vec<u32>, bool)> {
        let Kind::File { inner, .. } = &self.kind else {
            let mut ids = self.encode(text)?;
            let cut = ids.len() > longest;
            ids.truncate(longest);
            return Ok((ids, cut));
        };
        let around = inner.get_post_processor().map_or(0, |post| post.added_tokens(false));
        let framed = caught(|| {
            let mut encoding = inner.encode_fast(text, false)?;
            let room = longest.saturating_sub(around);
            let cut = encoding.len() > room;
            encoding.truncate(room, 0, TruncationDirection::Right);
            Ok((inner.post_process(encoding, None, true)?, cut))
        });
        let framed = framed.and_then(|framed: tokenizers::Result<_>| framed.map_err(one_line));
        let framed = framed.and_then(|(encoding, cut)| Ok((self.within_limit(encoding.get_ids().to_vec())?, cut)));
        framed.map_err(|cause| Error::Input(format!("cannot encode the text: {}", files::one_line(&cause))))
    }

    /// The text of the ids, special tokens included. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| !self.knows(id)) {
            fail!(Input, "token id {id} is not in the tokenizer's vocabulary of {}", self.vocabulary_size());
        }
        match &self.kind {
            Kind::Chars { chars, .. } => Ok(ids.iter().map(|&id| chars[id as usize]).collect()),
            Kind::Bytes => {
                let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Kind::File { inner, .. } => {
                let decoded = caught(|| inner.decode(ids, false)).and_then(|decoded| decoded.map_err(one_line));
                decoded.map_err(|cause| {
                    let cause = files::one_line(&cause);
                    Error::Input(format!("the tokenizer cannot decode {} ids: {cause}", ids.len()))
                })
            }
        }
    }

    /// One more than the largest id, of those that its model has.
    pub fn vocabulary_size(&self) -> usize {
        self.limit.unwrap_or_else(|| self.full_vocabulary_size())
    }

    /// One more than the largest id, whatever its model has.
    pub fn full_vocabulary_size(&self) -> usize {
        match &self.kind {
            Kind::Chars { chars, .. } => chars.len(),
            Kind::Bytes => 256,
            Kind::File { vocabulary_size, .. } => *vocabulary_size,
        }
    }

    /// The id of `<|endoftext|>`, if the vocabulary has it.
    pub fn end_of_text(&self) -> Option<u32> {
        match self.kind {
            Kind::File { end_of_text, .. } => end_of_text.filter(|&id| self.is_within_limit(id)),
            _ => None,
        }
    }

    /// The id of a token by its exact name in a `tokenizer.json`, if the vocabulary has it.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::File { inner, .. } => inner.token_to_id(token).filter(|&id| self.is_within_limit(id)),
            _ => None,
        }
    }

    fn is_within_limit(&self, id: u32) -> bool {
        self.limit.is_none_or(|limit| (id as usize) < limit)
    }

    /// Whether a text is one special token.
    pub fn is_special(&self, text: &str) -> bool {
        match &self.kind {
            Kind::File { inner, .. } => {
                inner.get_added_tokens_decoder().values().any(|token| token.special && token.content == text)
            }
            _ => false,
        }
    }

    /// How many bytes of text each id stands for (special tokens: none), for bits per byte. None for a tokenizer
    /// whose tokens have no text of their own, such as one that adds or strips spaces when it decodes.
    pub fn token_bytes(&self) -> Option<Vec<u32>> {
        match &self.kind {
            Kind::Chars { chars, .. } => Some(chars.iter().map(|c| c.len_utf8() as u32).collect()),
            Kind::Bytes => Some(vec![1; 256]),
            Kind::File { inner, vocabulary_size, .. } => byte_level_lengths(inner, *vocabulary_size), // also of ids beyond a limit
        }
    }

    /// Decodes ids one at a time, as they are drawn.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self, &[], 0)
    }

    /// Decodes ids that come after others, whose text is not repeated: some decoders drop the space at a text's start.
    pub fn stream_after(&self, before: &[u32]) -> Result<TextStream<'_>> {
        let last = &before[before.len().saturating_sub(TextStream::WINDOW.1)..];
        Ok(TextStream::new(self, last, self.decode(last)?.len()))
    }

    /// SHA-256 of its `tokenizer.json`.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.json).into()
    }

    pub(crate) fn try_encode(&self, text: &str) -> std::result::Result<Vec<u32>, Unencodable> {
        match &self.kind {
            Kind::Chars { chars, ids } => text
                .char_indices()
                .map(|(offset, c)| ids.get(&c).copied().ok_or_else(|| unknown_character(c, offset, chars.len())))
                .collect(),
            Kind::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Kind::File { inner, .. } => caught(|| inner.encode_fast(text, false))
                .and_then(|encoding| encoding.map_err(one_line))
                .and_then(|encoding| self.within_limit(encoding.get_ids().to_vec()))
                .map_err(|reason| Unencodable { offset: None, reason: files::one_line(&reason) }),
        }
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

    /// Whether the vocabulary has the id.
    pub fn knows(&self, id: u32) -> bool {
        match &self.kind {
            Kind::File { inner, .. } => self.is_within_limit(id) && inner.id_to_token(id).is_some(),
            _ => (id as usize) < self.vocabulary_size(),
        }
    }
}

/// Reads the files of a folder by name.
fn read_in(folder: &Path) -> impl Fn(&str) -> Result<Option<Cow<'static, [u8]>>> {
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

/// The printable character that stands for each byte in GPT-2's vocabulary: printable Latin-1 for itself, and the
/// others by U+0100 and up, in order.
pub fn byte_alphabet() -> [char; 256] {
    let mut others = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => char::from(byte),
        _ => others.next().unwrap_or_default(),
    })
}

fn byte_level_lengths(inner: &tokenizers::Tokenizer, vocabulary_size: usize) -> Option<Vec<u32>> {
    if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
        return None;
    }
    let alphabet = ByteLevel::alphabet();
    let length = |token: &str| {
        let characters = token.chars().count();
        if token.chars().all(|c| alphabet.contains(&c)) { characters } else { token.len() }
    };
    let mut lengths = vec![0; vocabulary_size];
    for (token, id) in inner.get_model().get_vocab() {
        lengths[id as usize] = length(&token) as u32;
    }
    for (id, token) in inner.get_added_tokens_decoder() {
        lengths[id as usize] = if token.special { 0 } else { token.content.len() as u32 };
    }
    Some(lengths)
}

fn unknown_character(character: char, offset: usize, alphabet: usize) -> Unencodable {
    let code = u32::from(character);
    let remedy = "leave it out, or train with --tokenizer bytes";
    let reason = format!(
        "the character {character:?} (U+{code:04X}) is not among the tokenizer's {alphabet} characters; {remedy}"
    );
    Unencodable { offset: Some(offset), reason }
}

fn invalid(cause: tokenizers::Error) -> Error {
    Error::Input(format!("cannot make the tokenizer: {}", one_line(cause)))
}

fn one_line(cause: tokenizers::Error) -> String {
    cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
