//! Training a tokenizer on a text with the `tokenizers` crate, as GPT-2 or as BERT has it.
//!
//! - Byte-level BPE (Sennrich et al. 2016, Radford et al. 2019): ids are the 256 bytes in GPT-2's order, then the
//!   merges as they were found, then `<|endoftext|>` and any further special tokens.
//! - Unigram (Kudo 2018), as T5 has it; see [`unigram`].
//! - WordPiece (Devlin et al. 2019): `[PAD] [UNK] [CLS] [SEP] [MASK]`, further special tokens, the characters, the
//!   characters within a word (`##a`), then the merges.
//!
//! The same words give the same file: among pairs that are equally frequent the crate takes the one with the smallest
//! ids, and every id that it would give out in the order of a hash map is given to it in sorted order instead.

pub mod unigram;

use ahash::AHashMap;
use compact_str::CompactString;
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    decoders::wordpiece::WordPiece as WordPieceDecoder,
    models::{
        bpe::{BPE, BpeTrainer},
        wordpiece::WordPiece,
    },
    normalizers::BertNormalizer,
    pre_tokenizers::{bert::BertPreTokenizer, byte_level::ByteLevel},
    processors::bert::BertProcessing,
};

pub use super::word_counts::Sizes;
use super::{
    source::Source,
    tokenizer::{BERT_TOKENS, END_OF_TEXT, T5_TOKENS, Tokenizer, byte_alphabet},
    word_counts::{Table, WordCounts, Words},
};
use crate::{
    error::{Error, Result},
    fail,
};

/// Prefix of a token that continues a word.
const CONTINUATION: &str = "##";
/// Characters that a WordPiece vocabulary has, the most frequent ones; words with others are unknown. BERT's number.
const MOST_CHARACTERS: usize = 1000;
/// Longer words are unknown to WordPiece: `max_input_chars_per_word`.
const LONGEST_WORDPIECE: usize = 100;
/// The crate adds up the counts of pairs in 32 bits.
const MOST_PAIRS: u64 = i32::MAX as u64;

/// The choices of a training.
#[derive(Clone, Debug)]
pub struct Recipe {
    pub kind: Kind,
    /// All tokens together: bytes or characters, merges, special tokens.
    pub vocabulary_size: usize,
    /// Pairs that occur less often are not merged.
    pub min_frequency: u64,
    /// Special tokens beside those of the kind.
    pub special: Vec<String>,
}

/// The kinds of tokenizers that can be trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Bpe,
    WordPiece {
        /// BERT's "cased": letters and their accents are kept as they are.
        cased: bool,
    },
    Unigram {
        /// Sentinels of span corruption.
        sentinels: usize,
    },
}

/// The outcome: the tokenizer and its counts.
pub struct Trained {
    pub tokenizer: Tokenizer,
    pub text_bytes: u64,
    /// Different words.
    pub words: usize,
    /// Notes for the user, one sentence each.
    pub notes: Vec<String>,
}

/// The stages of training, for progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Progress {
    /// The text is read; so many bytes of its files are done.
    Reading { bytes: u64 },
    /// So many different words are merged.
    Merging { words: usize },
}

impl Recipe {
    /// Trains on a text. The text is read once and not kept; only a table of its words is.
    pub fn train(&self, source: &Source, sizes: Sizes, progress: &mut dyn FnMut(Progress)) -> Result<Trained> {
        let special = self.special_tokens()?;
        let words = match self.kind {
            Kind::Bpe => Words::Gpt2,
            Kind::WordPiece { .. } => Words::Bert,
            Kind::Unigram { .. } => Words::Spaced,
        };
        let mut counts =
            WordCounts::of(source, words, &special, sizes, &mut |bytes| progress(Progress::Reading { bytes }))?;
        let table = std::mem::take(&mut counts.table);
        let mut notes = Vec::new();
        if counts.missing_up_to > 0 {
            let (most, up_to) = (sizes.most_words, counts.missing_up_to);
            notes.push(format!(
                "there are more than {most} different words: of those that occur up to {up_to} times some are not counted"
            ));
        }
        progress(Progress::Merging { words: table.len() });
        let words = table.len();
        let inner = match self.kind {
            Kind::Bpe => self.bpe(table, &special, &mut notes),
            Kind::WordPiece { cased } => self.word_piece(table, cased, &special, &mut notes),
            Kind::Unigram { sentinels } => self.unigram(table, &special, sentinels, &mut notes),
        }?;
        let size = inner.get_vocab_size(true);
        if size < self.vocabulary_size {
            let why = match self.kind {
                Kind::Unigram { .. } => "it has no other pieces".to_string(),
                Kind::Bpe | Kind::WordPiece { .. } => format!("no other pair occurs {} times", self.min_frequency),
            };
            notes.push(format!("the text gives {size} tokens, not {}: {why}", self.vocabulary_size));
        }
        let json = inner.to_string(true).map_err(failed)?.into_bytes();
        let tokenizer = Tokenizer::from_json(json)
            .map_err(|reason| Error::Input(format!("the trained tokenizer cannot be used ({reason}); report it")))?;
        Ok(Trained { tokenizer, text_bytes: counts.text_bytes, words, notes })
    }

    /// The kind's own special tokens and the further ones, in the order of their ids.
    fn special_tokens(&self) -> Result<Vec<String>> {
        let mut special: Vec<String> = match self.kind {
            Kind::Bpe => vec![END_OF_TEXT.into()],
            Kind::WordPiece { .. } => BERT_TOKENS.iter().map(|(_, token)| token.to_string()).collect(),
            Kind::Unigram { .. } => T5_TOKENS.iter().map(|(_, token)| token.to_string()).collect(),
        };
        for token in &self.special {
            if token.trim().is_empty() || token.trim() != token {
                fail!(
                    Usage,
                    "--special {token:?} is empty or has white space around it; give a token such as <|user|>"
                );
            }
            if token.chars().count() < 2 {
                fail!(
                    Usage,
                    "--special {token:?} is a single character, which text has too; give one such as <|user|>"
                );
            }
            if !special.contains(token) {
                special.push(token.clone());
            }
        }
        Ok(special)
    }

    fn bpe(&self, words: Table, special: &[String], notes: &mut Vec<String>) -> Result<tokenizers::Tokenizer> {
        let least = 256 + special.len();
        let Some(learned) = self.vocabulary_size.checked_sub(special.len()).filter(|size| *size >= 256) else {
            let size = self.vocabulary_size;
            fail!(Usage, "--vocab {size} is too small: 256 bytes and the special tokens alone are {least}; give more");
        };
        let alphabet = byte_alphabet();
        let bytes = |word: &str| word.bytes().map(|byte| alphabet[byte as usize]).collect::<CompactString>();
        let words: Table = words.into_iter().map(|(word, count)| (bytes(&word), count)).collect();
        let (words, divisor) = within_32_bits(words, notes);
        let trainer = BpeTrainer::builder()
            .vocab_size(learned)
            .min_frequency(self.min_frequency.div_ceil(divisor))
            .initial_alphabet(alphabet.into_iter().collect())
            .show_progress(false);
        let mut model = BPE::default();
        trainer.build().do_train(&words, &mut model).map_err(failed)?;
        drop(words);
        // The vocabulary itself has the special tokens too, at its end, as GPT-2's does.
        let vocabulary = model.get_vocab();
        let added = special.iter().filter(|token| !vocabulary.contains_key(*token)).cloned();
        let ids = vocabulary.len() as u32..;
        let all: AHashMap<String, u32> = added.zip(ids).chain(vocabulary.clone()).collect();
        let model = BPE::builder().vocab_and_merges(all, merges(&model)?).build().map_err(failed)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer
            .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
            .with_post_processor(Some(ByteLevel::new(false, false, true)))
            .with_decoder(Some(ByteLevel::new(false, true, true)));
        add_special(&mut tokenizer, special)?;
        Ok(tokenizer)
    }

    fn word_piece(
        &self,
        words: Table,
        cased: bool,
        special: &[String],
        notes: &mut Vec<String>,
    ) -> Result<tokenizers::Tokenizer> {
        let normalizer = BertNormalizer::new(true, true, None, !cased);
        let words = bert_words(words, &normalizer)?;
        let (words, known) = with_known_characters(words);
        let mut given: Vec<String> = special.to_vec();
        given.extend(known);
        if given.len() > self.vocabulary_size {
            let (size, least) = (self.vocabulary_size, given.len());
            fail!(Usage, "--vocab {size} is too small: special tokens and characters alone are {least}; give more");
        }
        let (words, divisor) = within_32_bits(words, notes);
        let trainer = BpeTrainer::builder()
            .vocab_size(self.vocabulary_size)
            .min_frequency(self.min_frequency.div_ceil(divisor))
            .continuing_subword_prefix(CONTINUATION.into())
            .special_tokens(given.iter().map(|token| AddedToken::from(token.as_str(), true)).collect())
            .show_progress(false);
        let mut model = BPE::default();
        trainer.build().do_train(&words, &mut model).map_err(failed)?;
        let model = WordPiece::builder()
            .vocab(model.get_vocab().into_iter().collect::<AHashMap<_, _>>())
            .unk_token("[UNK]".into())
            .continuing_subword_prefix(CONTINUATION.into())
            .max_input_chars_per_word(LONGEST_WORDPIECE)
            .build()
            .map_err(failed)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        let end =
            |token: &str| (token.to_string(), special.iter().position(|known| known == token).unwrap_or(0) as u32);
        tokenizer
            .with_normalizer(Some(normalizer))
            .map_err(failed)?
            .with_pre_tokenizer(Some(BertPreTokenizer))
            .with_post_processor(Some(BertProcessing::new(end("[SEP]"), end("[CLS]"))))
            .with_decoder(Some(WordPieceDecoder::new(CONTINUATION.into(), true)));
        add_special(&mut tokenizer, special)?;
        Ok(tokenizer)
    }
}

/// Normalises words and splits them as BERT does, and leaves out those that its model would not look up.
fn bert_words(words: Table, normalizer: &BertNormalizer) -> Result<Table> {
    let mut split = Table::new();
    for (word, count) in words {
        let mut normalized = NormalizedString::from(word.as_str());
        normalizer.normalize(&mut normalized).map_err(failed)?;
        let mut pieces = PreTokenizedString::from(normalized);
        BertPreTokenizer.pre_tokenize(&mut pieces).map_err(failed)?;
        for (piece, _, _) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            if piece.chars().count() <= LONGEST_WORDPIECE {
                *split.entry(CompactString::new(piece)).or_default() += count;
            }
        }
    }
    Ok(split)
}

/// Leaves the words of the most frequent characters, and lists these: as they begin words or stand alone, then as they
/// continue them, each sorted.
fn with_known_characters(mut words: Table) -> (Table, Vec<String>) {
    let mut counts: AHashMap<char, u64> = AHashMap::new();
    for (word, count) in &words {
        word.chars().for_each(|c| *counts.entry(c).or_default() += count);
    }
    let mut characters: Vec<(char, u64)> = counts.into_iter().collect();
    characters.sort_unstable_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    characters.truncate(MOST_CHARACTERS);
    let mut characters: Vec<char> = characters.into_iter().map(|(c, _)| c).collect();
    characters.sort_unstable();
    words.retain(|word, _| word.chars().all(|c| characters.binary_search(&c).is_ok()));
    let continuing: std::collections::BTreeSet<char> = words.keys().flat_map(|word| word.chars().skip(1)).collect();
    let starts = characters.iter().map(char::to_string);
    (words, starts.chain(continuing.iter().map(|c| format!("{CONTINUATION}{c}"))).collect())
}

/// Divides the counts by a number so that those of pairs fit 32 bits, which takes tens of gigabytes of text.
fn within_32_bits(words: Table, notes: &mut Vec<String>) -> (Table, u64) {
    let mut pairs: AHashMap<(char, char), u64> = AHashMap::new();
    for (word, count) in &words {
        let pair = |(a, b)| *pairs.entry((a, b)).or_default() += count;
        word.chars().zip(word.chars().skip(1)).for_each(pair);
    }
    // Merging only divides pairs up, so no pair of longer tokens occurs more often.
    let divisor = pairs.into_values().max().unwrap_or(0).div_ceil(MOST_PAIRS).max(1);
    if divisor == 1 {
        return (words, 1);
    }
    notes.push(format!("the text is so large that all counts are divided by {divisor}"));
    let divided = words.into_iter().map(|(word, count)| (word, count / divisor));
    (divided.filter(|(_, count)| *count > 0).collect(), divisor)
}

fn merges(model: &BPE) -> Result<Vec<(String, String)>> {
    // The model shows its merges, in order, only through its JSON.
    let json = serde_json::to_value(model).map_err(|cause| failed(cause.into()))?;
    serde_json::from_value(json["merges"].clone()).map_err(|cause| failed(cause.into()))
}

fn add_special(tokenizer: &mut tokenizers::Tokenizer, special: &[String]) -> Result<()> {
    let tokens = special.iter().map(|token| AddedToken::from(token.as_str(), true));
    tokenizer.add_special_tokens(tokens).map(drop).map_err(failed)
}

fn failed(cause: tokenizers::Error) -> Error {
    let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Input(format!("the tokenizer cannot be trained: {cause}"))
}
