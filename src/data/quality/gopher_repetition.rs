//! The repetition rules of Gopher (Rae et al. 2021, table A1), as datatrove has them: lines, paragraphs and n-grams of words that come
//! again.

use ahash::{AHashMap, AHashSet};

use super::characters::{is_space, length};
use super::document::Document;
use super::field::{PRIME, reduced, times};
use super::filter::{Filter, LineCounts, Parameters};
use crate::error::Result;

const TOP: [(usize, f64, &str); 3] = [(2, 0.20, "top_2_gram"), (3, 0.18, "top_3_gram"), (4, 0.16, "top_4_gram")];
const DUPLICATED: [(usize, f64, &str); 6] = [
    (5, 0.15, "duplicated_5_n_grams"),
    (6, 0.14, "duplicated_6_n_grams"),
    (7, 0.13, "duplicated_7_n_grams"),
    (8, 0.12, "duplicated_8_n_grams"),
    (9, 0.11, "duplicated_9_n_grams"),
    (10, 0.10, "duplicated_10_n_grams"),
];

/// Texts are compared by polynomials, at this number, over the field of [`PRIME`].
const BASE: u64 = 0x1F0A_3C5B_9D27_E461;
/// Powers of the base that are kept: an n-gram may be as long as a document.
const MOST_POWERS: usize = 1 << 16;

/// Thresholds under datatrove's names.
pub struct GopherRepetition {
    dup_line_frac: f64,
    dup_para_frac: f64,
    dup_line_char_frac: f64,
    dup_para_char_frac: f64,
    top: [f64; 3],
    duplicated: [f64; 6],
}

impl GopherRepetition {
    pub fn new(given: &mut Parameters) -> Result<GopherRepetition> {
        let (dup_line_frac, dup_para_frac) = (given.number("dup-line-frac", 0.3)?, given.number("dup-para-frac", 0.3)?);
        let dup_line_char_frac = given.number("dup-line-char-frac", 0.2)?;
        let dup_para_char_frac = given.number("dup-para-char-frac", 0.2)?;
        let (mut top, mut duplicated) = ([0.0; 3], [0.0; 6]);
        for (most, (n, default, _)) in top.iter_mut().zip(TOP) {
            *most = given.number(&format!("top-{n}-gram"), default)?;
        }
        for (most, (n, default, _)) in duplicated.iter_mut().zip(DUPLICATED) {
            *most = given.number(&format!("duplicated-{n}-grams"), default)?;
        }
        Ok(GopherRepetition { dup_line_frac, dup_para_frac, dup_line_char_frac, dup_para_char_frac, top, duplicated })
    }

    fn n_grams(&self, document: &Document, characters: f64) -> Option<&'static str> {
        // Behind each word one space, which an n-gram ends before.
        let mut spaced = Prefixes::of(document.words(), true);
        for (most, (n, _, reason)) in self.top.iter().zip(TOP) {
            if spaced.words() >= n && spaced.top(n) as f64 / characters > *most {
                return Some(reason);
            }
        }
        let mut joined = Prefixes::of(document.words(), false);
        let mut pairs = self.duplicated.iter().zip(DUPLICATED);
        let found = pairs.find(|(most, (n, ..))| joined.duplicated(*n) as f64 / characters > **most);
        found.map(|(_, (.., reason))| reason)
    }
}

impl Filter for GopherRepetition {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        let text = document.text();
        if text.is_empty() {
            return Some("empty");
        }
        let characters = length(text) as f64;
        let exceeds = |share: f64, most: f64| most != 0.0 && share > most;
        let paragraphs = duplicates(runs(text.trim_matches(is_space), 2));
        if exceeds(paragraphs.share(), self.dup_para_frac) {
            return Some("dup_para_frac");
        }
        if exceeds(paragraphs.characters as f64 / characters, self.dup_para_char_frac) {
            return Some("dup_para_char_frac");
        }
        let lines = duplicates(runs(text, 1));
        if exceeds(lines.share(), self.dup_line_frac) {
            return Some("dup_line_frac");
        }
        if exceeds(lines.characters as f64 / characters, self.dup_line_char_frac) {
            return Some("dup_line_char_frac");
        }
        self.n_grams(document, characters)
    }
}

/// Elements that were there before.
#[derive(Debug, Default)]
pub struct Duplicates {
    all: usize,
    again: usize,
    /// Of those that come again.
    pub characters: usize,
}

impl Duplicates {
    fn share(&self) -> f64 {
        self.again as f64 / self.all.max(1) as f64
    }
}

/// Counts the elements that come again.
pub fn duplicates<'t>(elements: impl Iterator<Item = &'t str>) -> Duplicates {
    let mut seen = AHashSet::new();
    let mut counts = Duplicates::default();
    for element in elements {
        counts.all += 1;
        if !seen.insert(element) {
            counts.again += 1;
            counts.characters += length(element);
        }
    }
    counts
}

/// The parts of a text between runs of at least `least` newlines.
fn runs(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut from = 0;
        while let Some(found) = whole[from..].find('\n') {
            let start = from + found;
            let length = whole[start..].len() - whole[start..].trim_start_matches('\n').len();
            if length >= least {
                rest = Some(&whole[start + length..]);
                return Some(&whole[..start]);
            }
            from = start + length;
        }
        rest = None;
        Some(whole)
    })
}

/// Hashes of the beginnings of the words of a text that are written one behind the other, so that an n-gram's is a difference.
struct Prefixes {
    /// The hash before each word, and behind the last.
    hashes: Vec<u64>,
    /// Bytes and characters before each word, and behind the last.
    bytes: Vec<u32>,
    characters: Vec<u32>,
    powers: Vec<u64>,
    /// A space is behind each word.
    spaced: bool,
}

impl Prefixes {
    fn of<'t>(words: impl Iterator<Item = &'t str>, spaced: bool) -> Prefixes {
        let (mut hash, mut bytes, mut characters) = (0, 0, 0);
        let mut made = Prefixes { hashes: vec![0], bytes: vec![0], characters: vec![0], powers: vec![1], spaced };
        for word in words {
            let space = if spaced { " " } else { "" };
            for byte in word.bytes().chain(space.bytes()) {
                hash = reduced(times(hash, BASE) + u64::from(byte) + 1);
            }
            bytes += (word.len() + space.len()) as u32;
            characters += (length(word) + space.len()) as u32;
            made.hashes.push(hash);
            made.bytes.push(bytes);
            made.characters.push(characters);
        }
        made
    }

    fn words(&self) -> usize {
        self.hashes.len() - 1
    }

    /// A power of the base. Those up to [`MOST_POWERS`] are kept, and others are made of them by squares.
    fn power(&mut self, bytes: usize) -> u64 {
        if bytes > MOST_POWERS {
            let (half, odd) = (self.power(bytes / 2), self.power(bytes % 2));
            return times(times(half, half), odd);
        }
        while self.powers.len() <= bytes {
            self.powers.push(times(self.powers[self.powers.len() - 1], BASE));
        }
        self.powers[bytes]
    }

    /// The hash of the n-gram from a word on; a space behind it is part of it, which changes no comparison.
    fn hash(&mut self, from: usize, n: usize) -> u64 {
        let bytes = (self.bytes[from + n] - self.bytes[from]) as usize;
        let before = times(self.hashes[from], self.power(bytes));
        reduced(self.hashes[from + n] + PRIME - before)
    }

    fn length(&self, from: usize, n: usize) -> usize {
        (self.characters[from + n] - self.characters[from]) as usize - usize::from(self.spaced)
    }

    /// Characters in all occurrences of the most frequent n-gram, the first of several.
    fn top(&mut self, n: usize) -> usize {
        let mut counts: AHashMap<u64, (u32, u32)> = AHashMap::with_capacity(self.words());
        for from in 0..=self.words() - n {
            let hash = self.hash(from, n);
            counts.entry(hash).or_insert((0, from as u32)).0 += 1;
        }
        let most = counts.values().max_by_key(|(count, from)| (*count, std::cmp::Reverse(*from)));
        most.map_or(0, |(count, from)| *count as usize * self.length(*from as usize, n))
    }

    /// Characters in n-grams that were there before; the words of one that comes again count once.
    fn duplicated(&mut self, n: usize) -> usize {
        let mut seen = AHashSet::with_capacity(self.words());
        let (mut from, mut characters) = (0, 0);
        while from + n <= self.words() {
            if seen.insert(self.hash(from, n)) {
                from += 1;
            } else {
                characters += self.length(from, n);
                from += n;
            }
        }
        characters
    }
}
