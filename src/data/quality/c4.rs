//! The rules of C4 (Raffel et al. 2020, section 2.2), as datatrove has them: lines that are no sentences are taken out, and documents
//! with too few sentences, with filler text or code are dropped.

use std::sync::LazyLock;

use regex::Regex;

use super::characters::{is_space, length, lines};
use super::document::Document;
use super::filter::{Filter, LineCounts, Parameters};
use super::words::count_sentences;
use crate::error::Result;

/// Notes of an encyclopedia.
static CITATION: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\[\d*\]|\[edit\]|\[citation needed\]").ok());
const ENDS: [char; 5] = ['.', '?', '!', '"', '\''];
const POLICIES: [&str; 6] =
    ["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"];

/// Thresholds under datatrove's names; -1 switches a rule off.
pub struct C4 {
    remove_citations: bool,
    no_terminal_punct: bool,
    min_num_sentences: f64,
    min_words_per_line: f64,
    max_word_length: f64,
    lorem_ipsum: bool,
    javascript: bool,
    curly_bracket: bool,
    policy: bool,
}

/// What becomes of a line.
enum Line {
    Stays,
    Out(&'static str),
    /// The whole document is dropped.
    Drops(&'static str),
}

impl C4 {
    pub fn new(given: &mut Parameters) -> Result<C4> {
        Ok(C4 {
            remove_citations: given.choice("remove-citations", true)?,
            no_terminal_punct: given.choice("filter-no-terminal-punct", true)?,
            min_num_sentences: given.number("min-num-sentences", 5.0)?,
            min_words_per_line: given.number("min-words-per-line", 3.0)?,
            max_word_length: given.number("max-word-length", 1000.0)?,
            lorem_ipsum: given.choice("filter-lorem-ipsum", true)?,
            javascript: given.choice("filter-javascript", true)?,
            curly_bracket: given.choice("filter-curly-bracket", true)?,
            policy: given.choice("filter-policy", true)?,
        })
    }

    /// The verdict on a line, without its citations, that had this many words before they were taken out.
    fn line(&self, line: &str, words: usize) -> Line {
        if self.no_terminal_punct && (!line.ends_with(ENDS) || line.ends_with("...")) {
            return Line::Out("line-filter-no_terminal_punc");
        }
        if (words as f64) < self.min_words_per_line {
            return Line::Out("line-filter-too_few_words");
        }
        let lower = line.to_lowercase();
        if self.lorem_ipsum && lower.contains("lorem ipsum") {
            Line::Drops("lorem_ipsum")
        } else if self.javascript && lower.contains("javascript") {
            Line::Out("line-filter-javascript")
        } else if self.curly_bracket && line.contains('{') {
            Line::Drops("curly_bracket")
        } else if self.policy && POLICIES.iter().any(|phrase| lower.contains(phrase)) {
            Line::Out("line-filter-policy")
        } else {
            Line::Stays
        }
    }

    fn is_too_long(&self, word: &str) -> bool {
        self.max_word_length != -1.0
            && word.len() as f64 > self.max_word_length
            && length(word) as f64 > self.max_word_length
    }
}

impl Filter for C4 {
    fn check(&self, document: &mut Document, counts: &mut LineCounts) -> Option<&'static str> {
        let (mut sentences, mut kept) = (0, String::with_capacity(document.text().len()));
        for line in lines(document.text()) {
            let line = line.trim_matches(is_space);
            let words = line.split(is_space).filter(|word| !word.is_empty());
            if words.clone().any(|word| self.is_too_long(word)) {
                *counts.entry("line-filter-too_long_word").or_default() += 1;
                continue;
            }
            let count = words.count();
            let citations = CITATION.as_ref().filter(|_| self.remove_citations && line.contains('['));
            let line = citations.map_or(line.into(), |pattern| pattern.replace_all(line, ""));
            match self.line(&line, count) {
                Line::Out(reason) => *counts.entry(reason).or_default() += 1,
                Line::Drops(reason) => return Some(reason),
                Line::Stays => {
                    if self.min_num_sentences != -1.0 {
                        sentences += count_sentences(&line);
                    }
                    kept += &line;
                    kept.push('\n');
                }
            }
        }
        if (sentences as f64) < self.min_num_sentences {
            return Some("too_few_sentences");
        }
        document.set(kept.trim_matches(is_space).to_string());
        None
    }
}
