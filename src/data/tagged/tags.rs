//! Tags of words: what they mean, whether they are IOB2's, the entities that they tell, and the labels of a head.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Sentence;
use crate::error::Result;
use crate::fail;
use crate::files::one_line;

/// The tag of words outside of entities.
pub const OUTSIDE: &str = "O";

/// The meaning of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag<'a> {
    Outside,
    /// The first word of an entity of a type.
    Begin(&'a str),
    /// A further word of an entity of a type.
    Inside(&'a str),
}

impl<'a> Tag<'a> {
    /// The meaning of `O`, `B-TYPE` or `I-TYPE`.
    pub fn parse(tag: &'a str) -> Option<Tag<'a>> {
        match tag.split_once('-') {
            None if tag == OUTSIDE => Some(Tag::Outside),
            Some(("B", kind)) if !kind.is_empty() => Some(Tag::Begin(kind)),
            Some(("I", kind)) if !kind.is_empty() => Some(Tag::Inside(kind)),
            _ => None,
        }
    }

    /// The type of its entity.
    fn kind(self) -> Option<&'a str> {
        match self {
            Tag::Outside => None,
            Tag::Begin(kind) | Tag::Inside(kind) => Some(kind),
        }
    }
}

/// An entity by its words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// From the first word to behind the last.
    pub words: (usize, usize),
    pub kind: String,
}

/// The entities that tags tell, in their order. A model's tags may jump: an `I-` that continues nothing begins an entity.
pub fn spans(tags: &[impl AsRef<str>]) -> Vec<Span> {
    let mut spans: Vec<Span> = vec![];
    let mut before = None;
    for (word, tag) in tags.iter().enumerate() {
        let tag = Tag::parse(tag.as_ref()).unwrap_or(Tag::Outside);
        match (tag, spans.last_mut()) {
            (Tag::Outside, _) => {}
            (Tag::Inside(kind), Some(last)) if before == Some(kind) => last.words.1 = word + 1,
            (Tag::Begin(kind) | Tag::Inside(kind), _) => {
                spans.push(Span { words: (word, word + 1), kind: kind.into() });
            }
        }
        before = tag.kind();
    }
    spans
}

/// What is wrong with the tags of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A tag of another form.
    Unknown { line: usize, tag: String },
    /// Entities begin with `I-` all over the file.
    Iob1 { line: usize },
    /// A tag that continues no entity.
    Jump { line: usize, tag: String, before: String },
}

/// Tells IOB2 from other schemes, sentence by sentence.
#[derive(Debug, Default)]
pub struct Scheme {
    first: Option<Fault>,
    /// Whether a `B-` begins an entity that an `I-` begins in IOB1.
    is_iob2: bool,
}

impl Scheme {
    /// Looks at the tags of a sentence; `line` is that of each word.
    pub fn add(&mut self, tags: &[String], line: &dyn Fn(usize) -> usize) {
        let mut before = Tag::Outside;
        for (word, text) in tags.iter().enumerate() {
            let Some(tag) = Tag::parse(text) else {
                // A tag of no scheme goes before all else.
                if !matches!(self.first, Some(Fault::Unknown { .. })) {
                    self.first = Some(Fault::Unknown { line: line(word), tag: text.clone() });
                }
                return;
            };
            self.is_iob2 |= matches!(tag, Tag::Begin(kind) if before.kind() != Some(kind));
            if self.first.is_none() && matches!(tag, Tag::Inside(kind) if before.kind() != Some(kind)) {
                let before = if word == 0 { "none".into() } else { tags[word - 1].clone() };
                self.first = Some(Fault::Jump { line: line(word), tag: text.clone(), before });
            }
            before = tag;
        }
    }

    /// The first fault of the sentences.
    pub fn fault(self) -> Option<Fault> {
        match self.first {
            Some(Fault::Jump { line, .. }) if !self.is_iob2 => Some(Fault::Iob1 { line }),
            first => first,
        }
    }
}

/// The tags that a head tells apart, by index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels(Vec<String>);

impl Labels {
    /// `O`, then `B-` and `I-` of each type of the sentences' entities, types in alphabetical order.
    pub fn of(sentences: &[Sentence]) -> Result<Labels> {
        let tags = sentences.iter().flat_map(|sentence| sentence.tags.iter().flatten());
        let kinds: BTreeSet<&str> = tags.filter_map(|tag| Tag::parse(tag)?.kind()).collect();
        if kinds.is_empty() {
            fail!(Input, "no word has a tag but O, so there are no entities to learn");
        }
        let both = |kind| ["B", "I"].map(|prefix| format!("{prefix}-{kind}"));
        Ok(Labels([OUTSIDE.to_string()].into_iter().chain(kinds.into_iter().flat_map(both)).collect()))
    }

    /// Those of a head, in its order.
    pub fn named(names: Vec<String>) -> Result<Labels> {
        if let Some(name) = names.iter().find(|name| Tag::parse(name).is_none()) {
            let name = one_line(name);
            fail!(Input, "the head's label `{name}` is neither O, B-TYPE nor I-TYPE: its entities cannot be told");
        }
        Ok(Labels(names))
    }

    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The index of a tag.
    pub fn index(&self, tag: &str) -> Option<usize> {
        self.0.iter().position(|name| name == tag)
    }
}

/// An entity of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entity {
    #[serde(rename = "type")]
    pub kind: String,
    pub text: String,
    /// Its first character in the text, counted from 0.
    pub start: usize,
    /// Behind its last character.
    pub end: usize,
    /// Its words.
    #[serde(skip)]
    pub words: Range<usize>,
}

/// The entities of a text, given the bytes of its words and their tags.
pub fn entities(text: &str, words: &[Range<usize>], tags: &[impl AsRef<str>]) -> Vec<Entity> {
    assert_eq!(words.len(), tags.len(), "a tag for every word");
    let (mut characters, mut at) = (0, 0);
    let entity = |Span { words: (first, end), kind }| {
        let bytes = words[first].start..words[end - 1].end;
        characters += text[at..bytes.start].chars().count();
        at = bytes.start;
        let (start, text) = (characters, text[bytes].to_string());
        Entity { kind, start, end: start + text.chars().count(), text, words: first..end }
    };
    spans(tags).into_iter().map(entity).collect()
}
