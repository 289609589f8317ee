//! How often each word of a corpus occurs: all that is kept of a text when a tokenizer is trained on it.
//!
//! Text is read in pieces, split into words on all cores, and counted in one table. Sums do not depend on their order,
//! and words that are dropped when the table is full are chosen after each block of text from the table alone, so that the
//! counts are the same for any number of threads.

use std::{collections::HashMap, sync::LazyLock};

use ahash::AHashMap;
use compact_str::CompactString;
use rayon::prelude::*;
use regex::Regex;

use super::{encode::next_block, source::Source};
use crate::{
    error::{Error, Result},
    fail,
};

/// Words and how often they occur, in the form that the `tokenizers` crate trains on.
pub(super) type Table = AHashMap<CompactString, u64>;

/// Longer stretches without a boundary (base64, scripts without spaces) are counted in parts of this length.
const LONGEST_WORD_BYTES: usize = 256;

/// GPT-2's pre-tokenisation (Radford et al. 2019, `encoder.py`) but for `\s+(?!\S)`, which `gpt2_words` does: this
/// engine has no look-ahead, and is seven times as fast as the crate's pre-tokenizer, which needs one that has.
static GPT2_WORD: LazyLock<Result<Regex>> =
    LazyLock::new(|| pattern(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"));

/// What stands between white space.
static SPACED_WORD: LazyLock<Result<Regex>> = LazyLock::new(|| pattern(r"\S+"));

/// Between white space, with each Chinese character on its own, as BERT has them. Words with the same letters are
/// normalised and split at punctuation later, once for each.
static BERT_WORD: LazyLock<Result<Regex>> = LazyLock::new(|| {
    let chinese = r"\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\
                    \u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}";
    pattern(&format!(r"[{chinese}]|[^\s{chinese}]+"))
});

/// How a text is split into words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Words {
    Gpt2,
    Bert,
    /// Whatever stands between white space.
    Spaced,
}

/// How much is worked on, and kept, at a time.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Text that is split by one core.
    pub piece_bytes: usize,
    /// Text held in memory.
    pub block_bytes: usize,
    /// Different words in the table; training takes up to 800 bytes for each. When there are more after a block, the
    /// rarest are left out until there are half as many. Later counts of a word that was left out start anew (lossy
    /// counting, Manku and Motwani 2002).
    pub most_words: usize,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { piece_bytes: 256 << 10, block_bytes: 16 << 20, most_words: 2_000_000 }
    }
}

/// The words of a source.
#[derive(Debug, Default)]
pub(super) struct WordCounts {
    pub table: Table,
    pub text_bytes: u64,
    /// Words that occur up to this often may be missing, and the counts of the others be too low by as much.
    pub missing_up_to: u64,
}

impl WordCounts {
    /// Counts the words of a text, and not those in `special`. `progress` is called with the bytes read so far.
    pub fn of(
        source: &Source,
        words: Words,
        special: &[String],
        sizes: Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<WordCounts> {
        if !source.is_text() {
            fail!(Input, "{} holds token ids, and a tokenizer is trained on text; give the text itself", source.name());
        }
        let splitter = Splitter::new(words, special)?;
        let mut pieces = source.pieces(sizes.piece_bytes);
        let mut counts = WordCounts::default();
        loop {
            let block = next_block(&mut pieces, sizes.block_bytes)?;
            if block.is_empty() {
                break;
            }
            let parts: Vec<_> = block.par_iter().map(|piece| splitter.count(&piece.text)).collect();
            parts.into_iter().for_each(|part| counts.add(part));
            counts.text_bytes += block.iter().map(|piece| piece.text.len() as u64).sum::<u64>();
            counts.limit(sizes.most_words);
            progress(pieces.bytes_read());
        }
        if counts.table.is_empty() {
            fail!(Input, "{} has no words that repeat, so there is nothing to train a tokenizer on", source.name());
        }
        Ok(counts)
    }

    fn add(&mut self, part: HashMap<&str, u64>) {
        for (word, count) in part {
            match self.table.get_mut(word) {
                Some(sum) => *sum += count,
                None => drop(self.table.insert(CompactString::new(word), count)),
            }
        }
    }

    /// Leaves the rarest words out if there are more than `most`, until there are at most half as many.
    fn limit(&mut self, most: usize) {
        if self.table.len() <= most {
            return;
        }
        let mut counts: Vec<u64> = self.table.values().copied().collect();
        let keep = most / 2;
        let (_, last, _) = counts.select_nth_unstable_by(keep, |a, b| b.cmp(a));
        let last = *last; // the most that a word may have which is left out; words that are equal go together
        self.table.retain(|_, count| *count > last);
        self.missing_up_to += last;
    }
}

struct Splitter {
    words: &'static Regex,
    kind: Words,
    special: Option<Regex>,
}

impl Splitter {
    fn new(kind: Words, special: &[String]) -> Result<Splitter> {
        let words = match kind {
            Words::Gpt2 => gpt2_pattern()?,
            Words::Spaced => SPACED_WORD.as_ref().map_err(|cause| Error::Input(cause.to_string()))?,
            Words::Bert => BERT_WORD.as_ref().map_err(|cause| Error::Input(cause.to_string()))?,
        };
        let alternatives: Vec<_> = special.iter().map(|token| regex::escape(token)).collect();
        let special = (!special.is_empty()).then(|| pattern(&alternatives.join("|"))).transpose()?;
        Ok(Splitter { words, kind, special })
    }

    fn count<'t>(&self, text: &'t str) -> HashMap<&'t str, u64> {
        let mut counts = HashMap::new();
        let mut count = |word: &'t str| parts(word).for_each(|part| *counts.entry(part).or_default() += 1);
        let mut stretch = |text: &'t str| match self.kind {
            Words::Gpt2 => gpt2_words(self.words, text, &mut count),
            Words::Bert | Words::Spaced => self.words.find_iter(text).for_each(|found| count(found.as_str())),
        };
        match &self.special {
            Some(special) => special.split(text).for_each(stretch),
            None => stretch(text),
        }
        counts
    }
}

/// Calls `each` with the words of a text as GPT-2 splits it; together they are the text.
pub(super) fn gpt2_words<'t>(words: &Regex, text: &'t str, each: &mut impl FnMut(&'t str)) {
    let mut at = 0;
    while let Some(found) = words.find_at(text, at) {
        // `\s+(?!\S)`: of white space before a word the last character stands for itself, or belongs to the word if it
        // is a space.
        let last = found.as_str().chars().next_back().filter(|c| c.is_whitespace() && found.end() < text.len());
        let last_bytes = last.map_or(0, char::len_utf8);
        at = if last_bytes < found.len() { found.end() - last_bytes } else { found.end() };
        each(&text[found.start()..at]);
    }
}

/// The regular expression for [`gpt2_words`].
pub(super) fn gpt2_pattern() -> Result<&'static Regex> {
    GPT2_WORD.as_ref().map_err(|cause| Error::Input(cause.to_string()))
}

/// The word itself unless it is too long.
fn parts(word: &str) -> impl Iterator<Item = &str> {
    let mut rest = word;
    std::iter::from_fn(move || {
        let most = LONGEST_WORD_BYTES.min(rest.len());
        let end = (0..=most).rev().find(|&end| rest.is_char_boundary(end)).unwrap_or(rest.len());
        let (part, later) = rest.split_at(end);
        rest = later;
        (!part.is_empty()).then_some(part)
    })
}

fn pattern(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|cause| Error::Usage(format!("the special tokens are too long ({cause})")))
}
