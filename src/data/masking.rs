//! Masked tokens, as "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al. 2019), section
//! 3.1, has them: of a share of a sequence's tokens, which a model predicts, eight of ten are replaced by [MASK], one by a random
//! token, and one stays. Special tokens are never among them. Whole words (the paper's later models): the pieces of a word are
//! predicted together.

use std::ops::Range;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::tokenizer::Tokenizer;
use crate::error::Result;
use crate::fail;

/// The prefix of WordPiece's tokens that continue a word.
const CONTINUATION: &str = "##";

/// The special tokens that an encoder's sequences consist of beside text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderTokens {
    /// [CLS], the first of a sequence.
    pub first: u32,
    /// [SEP], behind each text.
    pub separator: u32,
    /// [MASK].
    pub mask: u32,
    /// [PAD].
    pub pad: u32,
}

impl EncoderTokens {
    /// Those of a tokenizer, by the names of BERT's or of RoBERTa's; nothing where it lacks one.
    pub fn of(tokenizer: &Tokenizer) -> Option<EncoderTokens> {
        let id = |names: [&str; 2]| names.into_iter().find_map(|name| tokenizer.token_id(name));
        Some(EncoderTokens {
            first: id(["[CLS]", "<s>"])?,
            separator: id(["[SEP]", "</s>"])?,
            mask: id(["[MASK]", "<mask>"])?,
            pad: id(["[PAD]", "<pad>"])?,
        })
    }

    /// As [`EncoderTokens::of`], and an error with the remedy where there is nothing; `what` names the tokenizer.
    pub fn needed(tokenizer: &Tokenizer, what: &str) -> Result<EncoderTokens> {
        let Some(tokens) = EncoderTokens::of(tokenizer) else {
            fail!(
                Usage,
                "an encoder needs a tokenizer with [CLS], [SEP], [MASK] and [PAD], and {what} lacks one of them: make one with \
                 wgpt tokenizer train --kind wordpiece, or give --tokenizer wordpiece"
            );
        };
        Ok(tokens)
    }
}

/// Which tokens are predicted, and what a model sees in their place.
#[derive(Clone, Debug)]
pub struct Masking {
    tokens: EncoderTokens,
    vocabulary_size: u32,
    /// By id: whether a token is special, and so never predicted.
    special: Vec<bool>,
    /// By id: whether a token continues the word of the one before it; empty where tokens are drawn one by one.
    continues: Vec<bool>,
    /// Of the tokens that are not special.
    share: f32,
}

impl Masking {
    /// A share of a tokenizer's tokens; with `whole_words` of its words.
    pub fn new(tokenizer: &Tokenizer, what: &str, share: f32, whole_words: bool) -> Result<Masking> {
        if !(share > 0.0 && share < 1.0) {
            fail!(Usage, "--mask-share {share} must be above 0 and below 1");
        }
        let tokens = EncoderTokens::needed(tokenizer, what)?;
        let size = tokenizer.vocabulary_size() as u32;
        let names: Vec<String> = (0..size).map(|id| tokenizer.token(id).unwrap_or_default()).collect();
        let special = names.iter().map(|name| tokenizer.is_special(name)).collect();
        let continues: Vec<bool> = match whole_words {
            true => names.iter().map(|name| name.starts_with(CONTINUATION)).collect(),
            false => vec![],
        };
        if whole_words && !continues.contains(&true) {
            fail!(Usage, "--whole-words needs a WordPiece tokenizer, whose tokens say where words go on: leave it out");
        }
        Ok(Masking { tokens, vocabulary_size: size, special, continues, share })
    }

    pub fn tokens(&self) -> EncoderTokens {
        self.tokens
    }

    /// Tokens that are predicted of a sequence with so many of text, at most.
    pub fn most(&self, text: usize) -> usize {
        ((text as f32 * self.share).round() as usize).max(1)
    }

    /// Masks tokens of a sequence; gives their positions in rising order, and the tokens that stood there.
    pub fn mask<'a>(&self, ids: &mut [u32], random: &mut Pcg64, drawn: &'a mut Drawn) -> &'a [(usize, u32)] {
        let Drawn { words, masked } = drawn;
        words.clear();
        masked.clear();
        let mut text = 0;
        for (position, &id) in ids.iter().enumerate() {
            if self.special.get(id as usize).copied().unwrap_or(false) {
                continue;
            }
            text += 1;
            let goes_on = self.continues.get(id as usize).copied().unwrap_or(false);
            match words.last_mut() {
                Some(word) if goes_on && word.end == position => word.end += 1,
                _ => words.push(position..position + 1),
            }
        }
        let most = self.most(text);
        words.shuffle(random);
        for word in words.iter() {
            // A word that does not fit is left out, but the first, which is cut.
            let end = if masked.is_empty() { word.end.min(word.start + most) } else { word.end };
            if masked.len() + end - word.start <= most {
                masked.extend((word.start..end).map(|position| (position, ids[position])));
            }
            if masked.len() == most {
                break;
            }
        }
        masked.sort_unstable();
        for (position, id) in masked.iter() {
            ids[*position] = match random.random_range(0..10u32) {
                0 => *id,
                1 => random.random_range(0..self.vocabulary_size),
                _ => self.tokens.mask,
            };
        }
        masked
    }
}

/// What is drawn for a sequence; its memory is used again for the next.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// The positions of each word, or of each token.
    words: Vec<Range<usize>>,
    masked: Vec<(usize, u32)>,
}
