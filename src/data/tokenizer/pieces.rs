//! Tokens with their places in a text, and the tokens that a `tokenizer.json` puts around one text or around two, such as BERT's
//! `[CLS] A [SEP] B [SEP]` with token types 0 and 1.

use std::ops::Range;

use tokenizers::{Encoding, InputSequence, PreTokenizerWrapper, Token};

use super::{Kind, Tokenizer, one_line};
use crate::data::guard::caught;
use crate::error::{Error, Result};
use crate::{fail, files};

/// A token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u32,
    /// Its bytes in the text.
    pub range: Range<usize>,
    /// The bytes of the word that it is of, as the tokenizer splits texts into words.
    pub word: Range<usize>,
}

/// The tokens around one text, or around two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Token { id: u32, kind: u32 },
    Text { number: usize, kind: u32 },
}

/// A sequence in its frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    pub ids: Vec<u32>,
    /// The token type of each id.
    pub types: Vec<u32>,
    /// Where each text begins.
    pub starts: Vec<usize>,
}

impl Frame {
    /// How many tokens it has of its own.
    pub fn len(&self) -> usize {
        self.0.iter().filter(|part| matches!(part, Part::Token { .. })).count()
    }

    /// Whether it is the texts alone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a token of its own comes first, as BERT's `[CLS]`.
    pub fn has_start(&self) -> bool {
        matches!(self.0.first(), Some(Part::Token { .. }))
    }

    /// The tokens of the texts in the frame.
    ///
    /// # Panics
    ///
    /// If it is for another number of texts.
    pub fn fill(&self, texts: &[&[u32]]) -> Filled {
        let wanted = self.0.iter().filter(|part| matches!(part, Part::Text { .. })).count();
        assert_eq!(wanted, texts.len(), "texts of a frame");
        let mut filled = Filled { starts: vec![0; texts.len()], ..Filled::default() };
        for part in &self.0 {
            match *part {
                Part::Token { id, kind } => {
                    filled.ids.push(id);
                    filled.types.push(kind);
                }
                Part::Text { number, kind } => {
                    filled.starts[number] = filled.ids.len();
                    filled.ids.extend(texts[number]);
                    filled.types.resize(filled.ids.len(), kind);
                }
            }
        }
        filled
    }
}

impl Tokenizer {
    /// The tokens that are put around one text, or around a pair of texts.
    pub fn frame(&self, pair: bool) -> Result<Frame> {
        let texts = 1 + usize::from(pair);
        let Kind::File { inner, .. } = &self.kind else {
            return Ok(Frame((0..texts).map(|number| Part::Text { number, kind: 0 }).collect()));
        };
        // What is done with texts of one token each shows it.
        let text = || Encoding::from_tokens(vec![Token::new(0, "a".into(), (0, 1))], 0);
        let framed = caught(|| inner.post_process(text(), pair.then(text), true));
        let framed = framed.and_then(|framed| framed.map_err(one_line)).map_err(|cause| cannot_encode(&cause))?;
        let (ids, kinds, numbers) = (framed.get_ids(), framed.get_type_ids(), framed.get_sequence_ids());
        let added = framed.get_special_tokens_mask();
        let part = |at: usize| match numbers[at].filter(|_| added[at] == 0) {
            Some(number) => Part::Text { number, kind: kinds[at] },
            None => Part::Token { id: ids[at], kind: kinds[at] },
        };
        let frame = Frame((0..ids.len()).map(part).collect());
        if frame.0.len() - frame.len() != texts {
            fail!(Input, "the tokenizer's post-processor does not put every text into a sequence once: take another");
        }
        self.within_limit(ids.iter().zip(added).filter(|(_, added)| **added == 1).map(|(id, _)| *id).collect())
            .map_err(|cause| cannot_encode(&cause))?;
        Ok(frame)
    }

    /// The tokens of a text with their places in it, without those around it.
    pub fn pieces(&self, text: &str) -> Result<Vec<Piece>> {
        let encoding = self.encoding(text.into())?;
        let words = encoding.get_word_ids();
        let mut pieces: Vec<Piece> = vec![];
        let mut first = 0;
        for (at, (&id, &(start, end))) in encoding.get_ids().iter().zip(encoding.get_offsets()).enumerate() {
            if at == 0 || words[at].is_none() || words[at] != words[at - 1] {
                first = at;
            }
            // Tokens of single bytes may begin within a character.
            let (start, end) = (boundary(text, start, false), boundary(text, end, true));
            pieces.push(Piece { id, range: start..end, word: start..end });
            let word = pieces[first].word.start..end;
            pieces[first..].iter_mut().for_each(|piece| piece.word = word.clone());
        }
        Ok(pieces)
    }

    /// The tokens of each of a text's words, which may be none.
    pub fn encode_words(&self, words: &[impl AsRef<str>]) -> Result<Vec<Vec<u32>>> {
        let Kind::File { inner, .. } = &self.kind else {
            return words.iter().map(|word| self.encode(word.as_ref())).collect();
        };
        // Words of byte-level tokenizers begin with their space.
        let spaced =
            matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(level)) if !level.add_prefix_space);
        let given = words.iter().map(|word| if spaced { format!(" {}", word.as_ref()) } else { word.as_ref().into() });
        let encoding = self.encoding(InputSequence::from(given.collect::<Vec<String>>()))?;
        let mut pieces = vec![vec![]; words.len()];
        for (&id, word) in encoding.get_ids().iter().zip(encoding.get_word_ids()) {
            if let Some(word) = word {
                pieces[*word as usize].push(id);
            }
        }
        Ok(pieces)
    }

    fn encoding(&self, text: InputSequence) -> Result<Encoding> {
        let Kind::File { inner, .. } = &self.kind else {
            fail!(
                Input,
                "the tokenizer has no words: this task takes a tokenizer.json or vocab.txt that splits texts into words"
            );
        };
        let encoded = caught(|| inner.encode(text, false)).and_then(|encoded| encoded.map_err(one_line));
        let encoding = encoded.map_err(|cause| cannot_encode(&cause))?;
        self.within_limit(encoding.get_ids().to_vec()).map_err(|cause| cannot_encode(&cause))?;
        Ok(encoding)
    }
}

/// The nearest byte from `at` on, forwards or backwards, that begins a character.
fn boundary(text: &str, at: usize, forwards: bool) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at = if forwards { at + 1 } else { at - 1 };
    }
    at
}

fn cannot_encode(cause: &str) -> Error {
    Error::Input(format!("cannot encode the text: {}", files::one_line(cause)))
}
