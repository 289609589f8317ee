//! Text from ids that come one at a time.

use super::Tokenizer;
use crate::error::Result;

/// Text that appears id by id: characters whose bytes are spread over several tokens are held back until complete.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last ids: some decoders look at a token's neighbours.
    ids: Vec<u32>,
    /// How much of the text of `ids` has been handed out, in bytes.
    shown: usize,
}

impl<'a> TextStream<'a> {
    /// Ids decoded at a time, at most, and how many of them stay when they become more.
    pub(super) const WINDOW: (usize, usize) = (32, 8);

    /// A stream after `ids`, of whose text the first `shown` bytes have been handed out.
    pub(super) fn new(tokenizer: &'a Tokenizer, ids: &[u32], shown: usize) -> Self {
        TextStream { tokenizer, ids: ids.to_vec(), shown }
    }

    /// The text that `id` completes; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.extend(&[id])
    }

    /// The text that the ids complete; the same as that of each, and faster.
    pub fn extend(&mut self, ids: &[u32]) -> Result<String> {
        self.ids.extend_from_slice(ids);
        let text = self.tokenizer.decode(&self.ids)?;
        let end = complete(&text);
        let new = text.get(self.shown..end).unwrap_or_default().to_string();
        self.shown = self.shown.max(end);
        let (most, keep) = Self::WINDOW;
        if self.ids.len() > most {
            // The text of the first remaining ids may look different now; the text that is held back does not.
            let held_back = text.len().saturating_sub(self.shown);
            self.ids.drain(..self.ids.len() - keep);
            self.shown = self.tokenizer.decode(&self.ids)?.len().saturating_sub(held_back);
        }
        Ok(new)
    }

    /// The text that was held back.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.shown..).unwrap_or_default().to_string())
    }
}

/// The length of the text without a possible beginning of a character: at most three bytes, each of which a
/// decoder may show as a U+FFFD.
fn complete(text: &str) -> usize {
    let incomplete = text.chars().rev().take(3).take_while(|&c| c == char::REPLACEMENT_CHARACTER).count();
    text.len() - incomplete * char::REPLACEMENT_CHARACTER.len_utf8()
}
