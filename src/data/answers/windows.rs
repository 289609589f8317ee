//! A question and its context as token sequences: a context that is too long becomes several windows, which overlap.

use std::ops::Range;

use super::{Gold, Question};
use crate::data::tokenizer::{Frame, Piece, Tokenizer};
use crate::error::Result;
use crate::fail;

/// The tokens of a context, and the windows over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    pub pieces: Vec<Piece>,
    pub windows: Vec<Window>,
}

/// A row of a batch: the question and a part of the context in the tokenizer's frame, such as `[CLS] question [SEP] context [SEP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pub ids: Vec<u32>,
    /// The token type of each id.
    pub types: Vec<u32>,
    /// The position of its first piece of the context.
    pub start: usize,
    /// Its pieces of the context.
    pub pieces: Range<usize>,
}

impl Window {
    /// The positions of the context.
    pub fn positions(&self) -> Range<usize> {
        self.start..self.start + self.pieces.len()
    }
}

/// The position that stands for no answer: that of the token that comes first.
pub const NO_ANSWER: usize = 0;

/// Turns questions into windows of at most `longest` tokens, of which neighbours share `stride` tokens of the context.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    frame: Frame,
    longest: usize,
    stride: usize,
}

impl<'a> Encoder<'a> {
    pub fn new(tokenizer: &'a Tokenizer, longest: usize, stride: usize) -> Result<Encoder<'a>> {
        let frame = tokenizer.frame(true)?;
        if !frame.has_start() {
            fail!(
                Input,
                "the tokenizer puts no token such as [CLS] before a text, which stands for no answer: take one that does"
            );
        }
        Ok(Encoder { tokenizer, frame, longest, stride })
    }

    /// The windows of a question; an error says how much room the question leaves.
    pub fn encode(&self, question: &Question) -> Result<Windows> {
        let asked = self.tokenizer.encode(&question.question)?;
        let pieces = self.tokenizer.pieces(&question.context)?;
        let room = self.longest.saturating_sub(self.frame.len() + asked.len());
        if room == 0 || (pieces.len() > room && room <= self.stride) {
            let (longest, tokens, stride) = (self.longest, asked.len(), self.stride);
            fail!(
                Input,
                "the question has {tokens} tokens and leaves room for {room} of the context in sequences of {longest}, of which \
                 windows share {stride}: shorten it, or allow longer sequences or a smaller stride"
            );
        }
        let ids: Vec<u32> = pieces.iter().map(|piece| piece.id).collect();
        let window = |part: Range<usize>| {
            let filled = self.frame.fill(&[&asked, &ids[part.clone()]]);
            Window { ids: filled.ids, types: filled.types, start: filled.starts[1], pieces: part }
        };
        let mut windows = vec![];
        let mut first = 0;
        loop {
            let end = ids.len().min(first + room);
            windows.push(window(first..end));
            if end == ids.len() {
                return Ok(Windows { pieces, windows });
            }
            first += room - self.stride;
        }
    }
}

impl Windows {
    /// The positions of an answer's first and last token in a window; those of no answer where the window does not hold all of it.
    pub fn target(&self, window: &Window, gold: Option<&Gold>) -> [usize; 2] {
        let pieces = &self.pieces[window.pieces.clone()];
        let Some((gold, (first, last))) = gold.zip(pieces.first().zip(pieces.last())) else {
            return [NO_ANSWER; 2];
        };
        if first.range.start > gold.range.start || last.range.end < gold.range.end {
            return [NO_ANSWER; 2];
        }
        // The last piece that begins no later, and the first that ends no sooner.
        let start = pieces.partition_point(|piece| piece.range.start <= gold.range.start) - 1;
        let end = pieces.partition_point(|piece| piece.range.end < gold.range.end);
        [window.start + start, window.start + end.max(start)]
    }
}
