//! Masks of attention: which keys a query sees, as a shared shader file and as a range of keys.

use super::Size;
use std::ops::Range;

/// Which keys a query sees. Where there are more keys than queries, or fewer, the last query stands at the last key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// The key at its own position and all before it; with a window of W, that key and the W - 1 before it (Beltagy, Peters
    /// and Cohan 2020).
    Causal { window: Option<usize> },
    /// Every key.
    Full,
    /// Keys before the length of the batch entry, for rows that are padded: words (B) u32. An entry of length 0 has y = 0 and
    /// no gradients. What stands in the padding must be finite.
    Lengths,
    /// As `Causal`, and no key before the query's document, for rows that documents are packed in: words (B, TQ) u32, the first
    /// key of each query's document. Words of a row never decrease.
    Documents { window: Option<usize> },
}

impl Default for Mask {
    fn default() -> Mask {
        Mask::Causal { window: None }
    }
}

impl Mask {
    /// The shared shader file.
    pub(super) fn file(self) -> &'static str {
        match self {
            Mask::Causal { .. } => "mask_causal",
            Mask::Full => "mask_full",
            Mask::Lengths => "mask_lengths",
            Mask::Documents { .. } => "mask_documents",
        }
    }

    pub(super) fn window(self) -> Option<usize> {
        match self {
            Mask::Causal { window } | Mask::Documents { window } => window,
            Mask::Full | Mask::Lengths => None,
        }
    }

    /// Dimensions of its words, if it has any.
    pub(super) fn words(self, batch: usize, queries: usize) -> Option<Vec<usize>> {
        match self {
            Mask::Causal { .. } | Mask::Full => None,
            Mask::Lengths => Some(vec![batch]),
            Mask::Documents { .. } => Some(vec![batch, queries]),
        }
    }

    /// The mask without words whose work is most alike: kernels are measured with it.
    pub(super) fn without_words(self) -> Mask {
        match self {
            Mask::Causal { window } | Mask::Documents { window } => Mask::Causal { window },
            Mask::Full | Mask::Lengths => Mask::Full,
        }
    }
}

impl Size {
    /// The keys that query `i` sees under the mask without words.
    pub fn seen(&self, i: usize) -> Range<usize> {
        match self.mask.without_words() {
            Mask::Full => 0..self.keys,
            _ => {
                let end = (i + 1 + self.keys).saturating_sub(self.t).min(self.keys);
                end.saturating_sub(self.window)..end
            }
        }
    }

    /// The keys that query `i` of a batch entry sees, with the words of the mask.
    pub fn seen_by(&self, entry: usize, i: usize, words: &[u32]) -> Range<usize> {
        let Range { start, end } = self.seen(i);
        match self.mask {
            Mask::Causal { .. } | Mask::Full => start..end,
            Mask::Lengths => 0..end.min(words[entry] as usize),
            Mask::Documents { .. } => start.max(words[entry * self.t + i] as usize).min(end)..end,
        }
    }

    /// Pairs of a query and a key that it sees, over all heads, at most.
    pub fn pairs(&self) -> u64 {
        (self.b * self.heads) as u64 * (0..self.t).map(|i| self.seen(i).len() as u64).sum::<u64>()
    }
}
