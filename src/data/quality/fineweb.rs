//! The rules of FineWeb (Penedo et al. 2024, section 3.6), as datatrove has them: punctuation at ends of lines, short lines, lines that
//! come again, lists.

use super::characters::{is_space, is_terminal, length};
use super::document::Document;
use super::filter::{Filter, LineCounts, Parameters};
use super::gopher_repetition::duplicates;
use crate::error::Result;

/// Thresholds under datatrove's names.
pub struct FineWeb {
    line_punct_thr: f64,
    line_punct_exclude_zero: bool,
    short_line_thr: f64,
    short_line_length: f64,
    char_duplicates_ratio: f64,
    new_line_ratio: f64,
}

impl FineWeb {
    pub fn new(given: &mut Parameters) -> Result<FineWeb> {
        Ok(FineWeb {
            line_punct_thr: given.number("line-punct-thr", 0.12)?,
            line_punct_exclude_zero: given.choice("line-punct-exclude-zero", false)?,
            short_line_thr: given.number("short-line-thr", 0.67)?,
            short_line_length: given.number("short-line-length", 30.0)?,
            char_duplicates_ratio: given.number("char-duplicates-ratio", 0.01)?,
            new_line_ratio: given.number("new-line-ratio", 0.3)?,
        })
    }
}

impl Filter for FineWeb {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        let text = document.text();
        let lines = || text.split('\n').filter(|line| line.chars().any(|c| !is_space(c)));
        let all = lines().count() as f64;
        if all == 0.0 {
            return Some("empty");
        }
        let punctuated = lines().filter(|line| line.chars().next_back().is_some_and(is_terminal)).count() as f64 / all;
        if punctuated < self.line_punct_thr && !(punctuated == 0.0 && self.line_punct_exclude_zero) {
            return Some("line_punct_ratio");
        }
        let short = lines().filter(|line| length(line) as f64 <= self.short_line_length).count() as f64;
        if short / all > self.short_line_thr {
            return Some("short_line_ratio");
        }
        let newlines = text.bytes().filter(|byte| *byte == b'\n').count();
        let characters = (length(text) - newlines) as f64;
        if duplicates(lines()).characters as f64 / characters > self.char_duplicates_ratio {
            return Some("char_dup_ratio");
        }
        (newlines as f64 / document.word_count() as f64 > self.new_line_ratio).then_some("list_ratio")
    }
}
