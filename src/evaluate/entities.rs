//! Precision, recall and F1 of entities, as seqeval's default mode has them: an entity is right if its type, its first and its last word
//! are. A figure that is not defined is 0.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::data::tagged::tags::spans;

/// The figures of one type of entities, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    pub precision: f64,
    pub recall: f64,
    pub f1: f64,
    /// True entities.
    pub support: u64,
}

/// The figures of a set of sentences.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntityScores {
    /// Over all entities, whatever their types.
    pub micro: Scores,
    /// By type.
    pub types: BTreeMap<String, Scores>,
    /// The share of words with the right tag.
    pub accuracy: f64,
}

/// Counts entities and words, sentence by sentence.
#[derive(Clone, Debug, Default)]
pub struct EntityCounts {
    types: BTreeMap<String, Counts>,
    words: u64,
    right_words: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    right: u64,
    predicted: u64,
    truth: u64,
}

impl Counts {
    fn scores(self) -> Scores {
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let (precision, recall) = (share(self.right, self.predicted), share(self.right, self.truth));
        let sum = precision + recall;
        let f1 = if sum == 0.0 { 0.0 } else { 2.0 * precision * recall / sum };
        Scores { precision, recall, f1, support: self.truth }
    }
}

impl EntityCounts {
    /// Adds a sentence by its true and its predicted tags.
    pub fn add(&mut self, truth: &[impl AsRef<str>], predicted: &[impl AsRef<str>]) {
        assert_eq!(truth.len(), predicted.len(), "a prediction for every word");
        self.words += truth.len() as u64;
        self.right_words += truth.iter().zip(predicted).filter(|(t, p)| t.as_ref() == p.as_ref()).count() as u64;
        let known: BTreeSet<_> = spans(truth).into_iter().collect();
        for span in spans(predicted) {
            let right = known.contains(&span);
            let counts = self.types.entry(span.kind).or_default();
            counts.predicted += 1;
            counts.right += u64::from(right);
        }
        known.into_iter().for_each(|span| self.types.entry(span.kind).or_default().truth += 1);
    }

    pub fn scores(&self) -> EntityScores {
        let add = |a: Counts, b: &Counts| Counts {
            right: a.right + b.right,
            predicted: a.predicted + b.predicted,
            truth: a.truth + b.truth,
        };
        EntityScores {
            micro: self.types.values().fold(Counts::default(), add).scores(),
            types: self.types.iter().map(|(kind, counts)| (kind.clone(), counts.scores())).collect(),
            accuracy: self.right_words as f64 / self.words.max(1) as f64,
        }
    }
}

impl std::fmt::Display for EntityScores {
    /// One line for people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Scores { precision, recall, f1, support } = self.micro;
        write!(f, "precision {precision:.4}, recall {recall:.4}, F1 {f1:.4} over {support} entities")
    }
}
