//! What makes a model an encoder and a decoder: a text that is read whole, and one that is written.

use super::blocks::{CacheMode, Model};
use super::config::Config;
use crate::error::Result;
use crate::fail;
use crate::graph::{Graph, Tensor};
use crate::ops::cache_append::CacheAppend;

/// What a model has beside its encoder, whose sizes are the [`Config`]'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderDecoder {
    /// Blocks of the decoder.
    pub decoder_layers: usize,
    /// The token that every output starts with (`decoder_start_token_id`).
    pub start: u32,
    /// Whether the output projection takes hidden states that are scaled by C^-0.5, as T5 1.0 has it.
    pub scaled_outputs: bool,
}

/// The encoder's outputs that a decoder's rows attend to.
#[derive(Clone, Copy)]
pub enum Source {
    /// Hidden states (B, S, C), and the tokens of each row, (B) u32, where rows are padded at their ends.
    States { encoded: Tensor, lengths: Option<Tensor> },
    /// Keys and values in a cache of each layer; the last of each row, (B) u32.
    Cached { last: Tensor },
}

impl Model<'_> {
    /// Hidden states (B, S, C) of an encoder's input ids (B, S); `lengths` as in [`Source::States`].
    pub fn source(&self, g: &mut Graph, ids: Tensor, lengths: Option<Tensor>) -> Tensor {
        self.config.family().source(self, g, ids, lengths)
    }

    /// Hidden states (B, T, C) of a decoder's ids (B, T), as the output projection takes them, with the encoder's hidden states (B, S, C).
    pub fn hidden_after(&self, g: &mut Graph, ids: Tensor, encoded: Tensor, lengths: Option<Tensor>) -> Tensor {
        let source = Source::States { encoded, lengths };
        self.config.family().hidden_after(self, g, ids, CacheMode::Off, source)
    }

    /// Stores what a decoder's layers attend to of an encoder's input ids (1, S), in row `Step::row` of caches of `rows` rows.
    pub fn fill_sources(&self, g: &mut Graph, ids: Tensor, lengths: Tensor, rows: usize) {
        let encoded = self.source(g, ids, Some(lengths));
        for layer in 0..self.decoder_layers() {
            let keys_values = self.config.family().keys_values(self, g, encoded, layer);
            let kept = self.source_cache(g, layer, rows);
            g.apply(CacheAppend, &[keys_values, kept]);
        }
    }

    /// The caches of the encoder's keys and values of all layers, each (rows, 2, NH, T, HS).
    pub fn source_caches(&self, g: &mut Graph, rows: usize) -> Vec<Tensor> {
        (0..self.decoder_layers()).map(|layer| self.source_cache(g, layer, rows)).collect()
    }

    /// That of one layer.
    pub(super) fn source_cache(&self, g: &mut Graph, layer: usize, rows: usize) -> Tensor {
        self.cache_named(g, &format!("source.h.{layer}"), rows)
    }

    /// Blocks of the decoder.
    pub(super) fn decoder_layers(&self) -> usize {
        self.config.encoder_decoder.map_or(self.config.layers, |both| both.decoder_layers)
    }
}

impl Config {
    /// Refuses a model without an encoder and a decoder, as a usage error; `what` says what it cannot do.
    pub fn must_read_and_write(&self, what: &str) -> Result<EncoderDecoder> {
        let Some(both) = self.encoder_decoder else {
            fail!(Usage, "a {} has no encoder beside a decoder: it cannot {what}; give a T5", self.family);
        };
        Ok(both)
    }
}
