//! Counts of what became of documents, by source and by reason, with examples.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash64;

use super::characters::length;

/// Examples that are kept of each reason, and characters of each.
const EXAMPLES: usize = 3;
const EXAMPLE_CHARACTERS: usize = 400;

/// Documents, and bytes of their text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub documents: u64,
    pub bytes: u64,
}

impl Tally {
    pub fn add(&mut self, text: &str) {
        self.documents += 1;
        self.bytes += text.len() as u64;
    }
}

/// Documents of one kind: read, or kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    #[serde(flatten)]
    pub tally: Tally,
    /// Documents by the power of two that their number of characters reaches.
    pub lengths: BTreeMap<u32, u64>,
    /// Documents by language, where these are counted.
    pub languages: BTreeMap<String, u64>,
    /// Mentions by group.
    pub mentions: BTreeMap<String, u64>,
}

impl Part {
    /// Adds a document.
    pub fn add(&mut self, text: &str, looked: Looked) {
        self.tally.add(text);
        *self.lengths.entry(length(text).max(1).ilog2()).or_default() += 1;
        if let Some(language) = looked.language {
            *self.languages.entry(language.to_string()).or_default() += 1;
        }
        merge(&mut self.mentions, looked.mentions);
    }
}

/// What was found in a document.
#[derive(Debug, Default)]
pub struct Looked {
    pub language: Option<&'static str>,
    pub mentions: BTreeMap<String, u64>,
}

/// Counts of a source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SourceCounts {
    pub name: String,
    /// Its share of the text that was asked for.
    pub share: Option<f64>,
    pub read: Part,
    /// Dropped documents by reason.
    pub dropped: BTreeMap<String, Tally>,
    /// Lines that were taken out of documents, dropped ones too, by reason.
    pub lines: BTreeMap<String, u64>,
    /// Paragraphs that were there before.
    pub paragraphs: u64,
    /// Documents that a mixture had no place for.
    pub not_drawn: Tally,
    pub kept: Part,
    /// Replaced pieces of personal information by kind.
    pub redacted: BTreeMap<String, u64>,
    pub tokens: u64,
}

/// A dropped document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    pub place: String,
    /// Its beginning.
    pub text: String,
    /// Where the document is that it is a duplicate of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<String>,
    /// Those with the least hashes are kept.
    hash: u64,
}

/// Counts of all sources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    pub sources: Vec<SourceCounts>,
    /// Dropped documents by reason.
    pub examples: BTreeMap<String, Vec<Example>>,
    /// Groups of near-duplicates.
    pub groups: u64,
}

impl Counts {
    /// Counts a dropped document, and may keep it as an example.
    pub fn drop(&mut self, origin: u16, reason: &str, text: &str, place: &str, duplicate_of: Option<&str>) {
        self.sources[usize::from(origin)].dropped.entry(reason.to_string()).or_default().add(text);
        let examples = self.examples.entry(reason.to_string()).or_default();
        let hash = XxHash64::oneshot(2, text.as_bytes());
        if examples.len() == EXAMPLES && examples.last().is_some_and(|last| last.hash <= hash) {
            return;
        }
        let text = text.chars().take(EXAMPLE_CHARACTERS).collect();
        examples.push(Example { place: place.to_string(), text, duplicate_of: duplicate_of.map(str::to_string), hash });
        examples.sort_by(|a, b| (a.hash, &a.place).cmp(&(b.hash, &b.place)));
        examples.truncate(EXAMPLES);
    }

    /// Dropped documents of all sources by reason, the most frequent first.
    pub fn reasons(&self) -> Vec<(String, Tally)> {
        let mut all: BTreeMap<&str, Tally> = BTreeMap::new();
        for (reason, tally) in self.sources.iter().flat_map(|source| &source.dropped) {
            let sum = all.entry(reason).or_default();
            sum.documents += tally.documents;
            sum.bytes += tally.bytes;
        }
        let mut all: Vec<_> = all.into_iter().map(|(reason, tally)| (reason.to_string(), tally)).collect();
        all.sort_by(|a, b| b.1.documents.cmp(&a.1.documents).then(a.0.cmp(&b.0)));
        all
    }

    /// Documents that were read, and those that are kept.
    pub fn documents(&self) -> (u64, u64) {
        let sum =
            |part: fn(&SourceCounts) -> &Part| self.sources.iter().map(|source| part(source).tally.documents).sum();
        (sum(|source| &source.read), sum(|source| &source.kept))
    }
}

impl SourceCounts {
    /// Notes on the quality of the source, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        let (name, read) = (&self.name, self.read.tally);
        let share = |part: u64, of: u64| format!("{:.1}%", 100.0 * part as f64 / of.max(1) as f64);
        let dropped: u64 = self.dropped.values().map(|tally| tally.documents).sum();
        let mut notes = vec![];
        if dropped == 0 {
            notes.push(format!("{name}: all {} documents pass", read.documents));
        }
        if let Some((reason, most)) = self.dropped.iter().max_by_key(|(_, tally)| tally.documents) {
            let (all, most) = (share(dropped, read.documents), share(most.documents, read.documents));
            notes
                .push(format!("{name}: {all} of {} documents are dropped, most for {reason} ({most})", read.documents));
        }
        let duplicates: u64 =
            DUPLICATES.iter().filter_map(|reason| self.dropped.get(*reason)).map(|tally| tally.documents).sum();
        if duplicates > 0 {
            notes.push(format!(
                "{name}: {} of its documents are duplicates of others",
                share(duplicates, read.documents)
            ));
        }
        if let Some((language, most)) = self.read.languages.iter().max_by_key(|(_, count)| **count) {
            let others = match self.read.languages.len() - 1 {
                0 => String::new(),
                1 => ", the others in one more language".to_string(),
                others => format!(", the others in {others} more languages"),
            };
            notes.push(format!("{name}: {} are in {language}{others}", share(*most, read.documents)));
        }
        if self.not_drawn.documents > 0 {
            let left = share(self.not_drawn.bytes, self.not_drawn.bytes + self.kept.tally.bytes);
            notes.push(format!("{name}: {left} of the text that passes has no place in the mixture"));
        }
        notes
    }
}

/// Reasons of documents that are there before.
pub const DUPLICATES: [&str; 3] = ["exact_duplicate", "duplicate_paragraphs", "near_duplicate"];

/// Adds counts to others.
pub fn merge(all: &mut BTreeMap<String, u64>, more: BTreeMap<String, u64>) {
    more.into_iter().for_each(|(name, count)| *all.entry(name).or_default() += count);
}
