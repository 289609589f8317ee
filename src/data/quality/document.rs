//! A document on its way through the filters: its text, and what several filters ask for.

use std::cell::OnceCell;

use whatlang::Lang;

use super::language::detect;
use super::words::{Span, words};

/// The text of a document.
#[derive(Debug, Default)]
pub struct Document {
    text: String,
    words: OnceCell<Vec<Span>>,
    language: OnceCell<Option<(Lang, f64)>>,
}

impl Document {
    pub fn new(text: String) -> Document {
        Document { text, ..Document::default() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn into_text(self) -> String {
        self.text
    }

    /// Another text in its place.
    pub fn set(&mut self, text: String) {
        if text != self.text {
            *self = Document::new(text);
        }
    }

    /// The number of words, punctuation included.
    pub fn word_count(&self) -> usize {
        self.spans().len()
    }

    /// The words, punctuation included.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.spans().iter().map(|(from, to)| &self.text[*from as usize..*to as usize])
    }

    /// The language and its score, as the filter `language` has them.
    pub fn language(&self) -> Option<(Lang, f64)> {
        *self.language.get_or_init(|| detect(&self.text))
    }

    fn spans(&self) -> &[Span] {
        self.words.get_or_init(|| words(&self.text))
    }
}
