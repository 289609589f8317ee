//! The quality rules of Gopher (Rae et al. 2021, section A1.1), as datatrove has them: words, their lengths, symbols, bullets, stop words.

use std::collections::HashSet;

use super::characters::{is_space, is_symbol, length, lines};
use super::document::Document;
use super::filter::{Filter, LineCounts, Parameters};
use crate::error::Result;

const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// Thresholds under datatrove's names; zero switches a rule off.
pub struct GopherQuality {
    min_doc_words: f64,
    max_doc_words: f64,
    min_avg_word_length: f64,
    max_avg_word_length: f64,
    max_symbol_word_ratio: f64,
    max_bullet_lines_ratio: f64,
    max_ellipsis_lines_ratio: f64,
    /// A share of words with a letter, and so a minimum; the name is datatrove's.
    max_non_alpha_words_ratio: f64,
    min_stop_words: f64,
}

impl GopherQuality {
    pub fn new(given: &mut Parameters) -> Result<GopherQuality> {
        Ok(GopherQuality {
            min_doc_words: given.number("min-doc-words", 50.0)?,
            max_doc_words: given.number("max-doc-words", 100_000.0)?,
            min_avg_word_length: given.number("min-avg-word-length", 3.0)?,
            max_avg_word_length: given.number("max-avg-word-length", 10.0)?,
            max_symbol_word_ratio: given.number("max-symbol-word-ratio", 0.1)?,
            max_bullet_lines_ratio: given.number("max-bullet-lines-ratio", 0.9)?,
            max_ellipsis_lines_ratio: given.number("max-ellipsis-lines-ratio", 0.3)?,
            max_non_alpha_words_ratio: given.number("max-non-alpha-words-ratio", 0.8)?,
            min_stop_words: given.number("min-stop-words", 2.0)?,
        })
    }

    fn words(&self, document: &Document) -> Option<&'static str> {
        let (mut count, mut characters) = (0, 0);
        for word in document.words().filter(|word| word.chars().any(|c| !is_symbol(c))) {
            count += 1;
            characters += length(word);
        }
        let (count, mean) = (count as f64, characters as f64 / f64::from(count.max(1)));
        let (least, most) = (self.min_avg_word_length, self.max_avg_word_length);
        if count == 0.0 || count < self.min_doc_words {
            Some("gopher_short_doc")
        } else if self.max_doc_words != 0.0 && count > self.max_doc_words {
            Some("gopher_long_doc")
        } else if mean < least {
            Some("gopher_below_avg_threshold")
        } else if most != 0.0 && mean > most {
            Some("gopher_above_avg_threshold")
        } else {
            None
        }
    }

    fn symbols(&self, document: &Document) -> Option<&'static str> {
        let (text, words) = (document.text(), document.word_count() as f64);
        let count = |sign: &str| text.matches(sign).count() as f64;
        if self.max_symbol_word_ratio == 0.0 {
            None
        } else if count("#") / words > self.max_symbol_word_ratio {
            Some("gopher_too_many_hashes")
        } else if (count("...") + count("…")) / words > self.max_symbol_word_ratio {
            Some("gopher_too_many_ellipsis")
        } else {
            None
        }
    }

    fn lines(&self, document: &Document) -> Option<&'static str> {
        let (mut all, mut bullets, mut ellipses) = (0.0, 0.0, 0.0);
        for line in lines(document.text()) {
            all += 1.0;
            bullets += f64::from(u8::from(line.trim_start_matches(is_space).starts_with(['•', '-'])));
            let end = line.trim_end_matches(is_space);
            ellipses += f64::from(u8::from(end.ends_with("...") || end.ends_with('…')));
        }
        if self.max_bullet_lines_ratio != 0.0 && bullets / all > self.max_bullet_lines_ratio {
            Some("gopher_too_many_bullets")
        } else if self.max_ellipsis_lines_ratio != 0.0 && ellipses / all > self.max_ellipsis_lines_ratio {
            Some("gopher_too_many_end_ellipsis")
        } else {
            None
        }
    }

    fn letters(&self, document: &Document) -> Option<&'static str> {
        let with_letters = document.words().filter(|word| word.chars().any(char::is_alphabetic)).count();
        if (with_letters as f64 / document.word_count() as f64) < self.max_non_alpha_words_ratio {
            return Some("gopher_below_alpha_threshold");
        }
        let found: HashSet<&str> = document.words().filter(|word| STOP_WORDS.contains(word)).collect();
        ((found.len() as f64) < self.min_stop_words).then_some("gopher_enough_stop_words")
    }
}

impl Filter for GopherQuality {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        let document = &*document;
        self.words(document)
            .or_else(|| self.symbols(document))
            .or_else(|| self.lines(document))
            .or_else(|| self.letters(document))
    }
}
