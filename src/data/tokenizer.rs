//! Tokenizers: text to token ids and back.
//!
//! - `char`: one id per character, the sorted set of characters of a text (as nanoGPT's `shakespeare_char`).
//! - `bytes`: one id per byte; the id is the byte's value, so the vocabulary is 256 and any text can be encoded.
//! - a Hugging Face `tokenizer.json` file, GPT-2's `vocab.json` and `merges.txt`, or BERT's `vocab.txt`, run by the `tokenizers` crate.
//!
//! All three are saved as a `tokenizer.json` that the Hugging Face libraries load and that gives the same ids there:
//! `char` as a WordLevel model over single characters, `bytes` as a byte-level BPE model without merges (GPT-2's
//! printable alphabet for the 256 bytes). Such a file is recognised again by its content when it is loaded.

mod beside;
mod frame;
mod open;
mod pieces;
mod stream;

use beside::Beside;
pub use beside::{FILES as BESIDE_FILES, KEYS as SETTINGS_KEYS};
pub use frame::Marks;
pub use pieces::{Filled, Frame, Piece};
pub use stream::TextStream;

use std::{borrow::Cow, collections::HashMap, path::Path};

use sha2::{Digest, Sha256};
use tokenizers::{
    DecoderWrapper, Model, PostProcessor, pre_tokenizers::byte_level::ByteLevel, utils::truncation::TruncationDirection,
};

use super::chat_template::ChatTemplate;
use super::guard::caught;
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

/// The token at the end of a text of T5's tokenizers.
pub const END_OF_SEQUENCE: &str = "</s>";

/// T5's special tokens in the order of their ids, and the names of their roles in the Hugging Face libraries.
pub(crate) const T5_TOKENS: [(&str, &str); 3] =
    [("pad_token", "<pad>"), ("eos_token", END_OF_SEQUENCE), ("unk_token", "<unk>")];

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
        Ok(Tokenizer { beside: Beside::read(&open::read_in(folder), folder)?, ..self })
    }

    /// The chat template that its folder has, compiled.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let Some(source) = self.beside.chat_template() else { return Ok(None) };
        let [bos, eos] = ["bos_token", "eos_token"].map(|role| self.beside.special(role).unwrap_or_default());
        ChatTemplate::new(&source, &bos, &eos).map(Some)
    }

    /// The source of the chat template that its folder has.
    pub fn chat_template_text(&self) -> Option<String> {
        self.beside.chat_template()
    }

    /// The same with another chat template.
    pub fn with_chat_template(self, text: &str) -> Tokenizer {
        Tokenizer { beside: self.beside.with_chat_template(text), ..self }
    }

    /// The same for a model that has embeddings of token types, which other programs then give it.
    pub fn with_token_types(self) -> Tokenizer {
        let beside = self.beside.clone().with_token_types(&self);
        Tokenizer { beside, ..self }
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

    /// The exact name of a token in a `tokenizer.json`, if the vocabulary has it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.kind {
            Kind::File { inner, .. } => inner.id_to_token(id).filter(|_| self.is_within_limit(id)),
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

    /// Whether the vocabulary has the id.
    pub fn knows(&self, id: u32) -> bool {
        match &self.kind {
            Kind::File { inner, .. } => self.is_within_limit(id) && inner.id_to_token(id).is_some(),
            _ => (id as usize) < self.vocabulary_size(),
        }
    }
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
