//! Documents and paragraphs that are there a second time, letter for letter in documents, and in their simple form in paragraphs. The
//! first stays. Only hashes are kept, of 64 bits.

use ahash::AHashSet;
use twox_hash::XxHash64;

use super::characters::is_space;
use super::filter::Parameters;
use super::simplify::simplify;
use crate::error::Result;

/// A document's hash.
pub fn document(text: &str) -> u64 {
    XxHash64::oneshot(0, text.as_bytes())
}

/// Paragraphs, which are lines, as in CCNet (Wenzek et al. 2020, section 3.1).
pub struct Paragraphs {
    /// Shorter ones may come again.
    min_words: usize,
}

impl Paragraphs {
    pub fn new(given: &mut Parameters) -> Result<Paragraphs> {
        Ok(Paragraphs { min_words: given.count("min-words", 10, 1)? })
    }

    /// A hash for each line of a text; none for those that may come again.
    pub fn hashes(&self, text: &str) -> Vec<Option<u64>> {
        let hash = |line: &str| {
            let words = line.split(is_space).filter(|word| !word.is_empty()).count();
            (words >= self.min_words).then(|| XxHash64::oneshot(1, simplify(line).as_bytes()))
        };
        text.split('\n').map(hash).collect()
    }
}

/// Which of these are new, and those of them that were not known.
pub fn unseen(seen: &mut AHashSet<u64>, hashes: &[Option<u64>]) -> (Vec<bool>, Vec<u64>) {
    let mut new = vec![];
    let mut is_new = |hash: &Option<u64>| {
        let Some(hash) = hash else { return true };
        let is_new = seen.insert(*hash);
        new.extend(is_new.then_some(*hash));
        is_new
    };
    (hashes.iter().map(&mut is_new).collect(), new)
}

/// The lines that stay.
pub fn without(text: &str, stays: &[bool]) -> String {
    let lines = text.split('\n').zip(stays).filter(|(_, stays)| **stays).map(|(line, _)| line);
    lines.collect::<Vec<_>>().join("\n").trim_matches('\n').to_string()
}
