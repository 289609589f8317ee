//! Words as token sequences: a label stands at the first piece of each word, other pieces have none. A sentence that is too long becomes
//! several sequences, each of whole words.

use std::ops::Range;

use super::Sentence;
use super::tags::{Labels, OUTSIDE};
use crate::data::tokenizer::{Frame, Tokenizer};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// A text in words, and the tokens of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub text: String,
    /// The bytes of each word in the text.
    pub places: Vec<Range<usize>>,
    /// The tokens of each word, which may be none.
    pub pieces: Vec<Vec<u32>>,
}

impl Words {
    /// Of words that are given: the text is the words with a space between.
    pub fn given(words: &[String], tokenizer: &Tokenizer) -> Result<Words> {
        let mut text = String::new();
        let mut place = |word: &String| {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
            text.len() - word.len()..text.len()
        };
        let places = words.iter().map(&mut place).collect();
        Ok(Words { places, pieces: tokenizer.encode_words(words)?, text })
    }

    /// Of a text, in the words that the tokenizer splits it into.
    pub fn split(text: &str, tokenizer: &Tokenizer) -> Result<Words> {
        let mut words = Words { text: text.into(), places: vec![], pieces: vec![] };
        for piece in tokenizer.pieces(text)? {
            if words.places.last() != Some(&piece.word) {
                words.places.push(piece.word);
                words.pieces.push(vec![]);
            }
            words.pieces.last_mut().expect("one was pushed").push(piece.id);
        }
        Ok(words)
    }
}

/// A row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub ids: Vec<u32>,
    /// The token type of each id.
    pub types: Vec<u32>,
    /// The words whose labels are asked for, in order.
    pub firsts: Vec<First>,
}

/// The first piece of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// Its position in the sequence.
    pub position: usize,
    /// The word's number in the sentence.
    pub word: usize,
}

/// Turns words into sequences of at most `longest` tokens.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    frame: Frame,
    room: usize,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, longest: usize) -> Result<Encoder<'a>> {
        let frame = tokenizer.frame(false)?;
        match longest.checked_sub(frame.len()).filter(|room| *room > 0) {
            Some(room) => Ok(Encoder { tokenizer, frame, room }),
            None => fail!(Usage, "sequences of {longest} tokens leave no room for a word: allow longer ones"),
        }
    }

    /// The words of a sentence with their tokens.
    pub fn words(&self, sentence: &Sentence) -> Result<Words> {
        Words::given(&sentence.words, self.tokenizer)
    }

    /// The sequences of words, in order. A word of more tokens than a sequence holds is cut; one without tokens is in none.
    pub fn encode(&self, words: &Words) -> Vec<Sequence> {
        let mut sequences = vec![];
        let (mut ids, mut firsts) = (vec![], vec![]);
        let mut close = |ids: &mut Vec<u32>, firsts: &mut Vec<First>| {
            let filled = self.frame.fill(&[ids]);
            firsts.iter_mut().for_each(|first: &mut First| first.position += filled.starts[0]);
            sequences.push(Sequence { ids: filled.ids, types: filled.types, firsts: std::mem::take(firsts) });
            ids.clear();
        };
        for (word, pieces) in words.pieces.iter().enumerate().filter(|(_, pieces)| !pieces.is_empty()) {
            let pieces = &pieces[..pieces.len().min(self.room)];
            if ids.len() + pieces.len() > self.room {
                close(&mut ids, &mut firsts);
            }
            firsts.push(First { position: ids.len(), word });
            ids.extend(pieces);
        }
        if !firsts.is_empty() {
            close(&mut ids, &mut firsts);
        }
        sequences
    }
}

/// The label of each word of a sentence of `path`, where it has tags; errors name the line.
pub fn labels(sentence: &Sentence, labels: &Labels, path: &std::path::Path) -> Result<Option<Vec<usize>>> {
    let Some(tags) = &sentence.tags else { return Ok(None) };
    let label = |tag: &String| {
        labels.index(tag).ok_or_else(|| {
            let (tag, known) = (one_line(tag), one_line(&labels.names().join(", ")));
            let place = format!("the sentence at line {} of {}", sentence.line, path.display());
            Error::Input(format!("the tag `{tag}` in {place} is not one that the head knows: {known}"))
        })
    };
    tags.iter().map(label).collect::<Result<_>>().map(Some)
}

/// The tag of each of a sentence's words, from the labels that were predicted for the first pieces of its sequences, one after the other.
/// A word without tokens is outside of entities.
pub fn tags<'a>(words: usize, sequences: &[Sequence], predicted: &[usize], labels: &'a Labels) -> Vec<&'a str> {
    let firsts: Vec<&First> = sequences.iter().flat_map(|sequence| &sequence.firsts).collect();
    assert_eq!(firsts.len(), predicted.len(), "a label for every first piece");
    let mut tags = vec![OUTSIDE; words];
    firsts.into_iter().zip(predicted).for_each(|(first, label)| tags[first.word] = &labels.names()[*label]);
    tags
}
