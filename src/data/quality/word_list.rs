//! Words of the user's own: those whose documents are dropped (`--block`), and groups of words whose mentions are counted (`--mentions`).
//! A word, which may be several with spaces between them, is found in any case, and not within another word.

use std::collections::BTreeMap;
use std::path::Path;

use ahash::AHashMap;
use regex::{Regex, RegexBuilder};

use super::document::Document;
use super::filter::{Filter, LineCounts};
use crate::data::lines;
use crate::error::{Error, Result};
use crate::fail;

/// Memory that the pattern of a list may take.
const MOST_PATTERN_BYTES: usize = 256 << 20;

/// Documents with a word of a file, one on each line, are dropped.
pub struct Block {
    pattern: Regex,
}

impl Block {
    pub fn read(path: &Path) -> Result<Block> {
        let text = lines::text(path, "words")?;
        let words: Vec<&str> = text.lines().map(str::trim).filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            fail!(Input, "{} has no words in it; write one on each line", path.display());
        }
        Ok(Block { pattern: pattern(path, &words)? })
    }
}

impl Filter for Block {
    fn check(&self, document: &mut Document, _: &mut LineCounts) -> Option<&'static str> {
        self.pattern.is_match(document.text()).then_some("document_removed_with_badwords")
    }
}

/// Groups of words whose mentions are counted.
pub struct Mentions {
    pattern: Regex,
    groups: Vec<String>,
    /// The group of a word in lower case.
    of: AHashMap<String, usize>,
}

impl Mentions {
    /// Reads lines such as `group: word, word`.
    pub fn read(path: &Path) -> Result<Mentions> {
        let text = lines::text(path, "groups of words")?;
        let (mut groups, mut of): (Vec<String>, AHashMap<String, usize>) = (vec![], AHashMap::new());
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let Some((group, words)) = line.split_once(':') else {
                fail!(Input, "{} is no group of words: write it as `group: word, word`", lines::place(path, number));
            };
            for word in words.split(',').map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()) {
                if let Some(other) = of.get(&word).filter(|other| **other != groups.len()) {
                    let (place, other) = (lines::place(path, number), &groups[*other]);
                    fail!(Input, "{place} has {word}, which is in the group {other} too: leave it in one of them");
                }
                of.insert(word, groups.len());
            }
            groups.push(group.trim().to_string());
        }
        if of.is_empty() {
            fail!(Input, "{} has no groups of words in it; write lines such as `group: word, word`", path.display());
        }
        let words: Vec<&str> = of.keys().map(String::as_str).collect();
        Ok(Mentions { pattern: pattern(path, &words)?, groups, of })
    }

    /// The names of the groups.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Mentions of each group in a text, those of groups without any left out.
    pub fn count(&self, text: &str) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for found in self.pattern.find_iter(text) {
            if let Some(group) = self.of.get(&found.as_str().to_lowercase()) {
                *counts.entry(self.groups[*group].clone()).or_default() += 1;
            }
        }
        counts
    }
}

/// A pattern of any of the words, longer ones first.
fn pattern(path: &Path, words: &[&str]) -> Result<Regex> {
    let mut words = words.to_vec();
    words.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    let bounded = |word: &&str| {
        let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let [before, after] =
            [word.chars().next(), word.chars().next_back()].map(|c| if is_letter(c) { r"\b" } else { "" });
        format!("{before}{}{after}", regex::escape(word))
    };
    let all = words.iter().map(bounded).collect::<Vec<_>>().join("|");
    let built = RegexBuilder::new(&all).case_insensitive(true).size_limit(MOST_PATTERN_BYTES).build();
    built.map_err(|_| Error::Input(format!("{} has too many words for one list; take some out", path.display())))
}
