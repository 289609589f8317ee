//! Text to token ids on all cores: pieces are encoded in parallel and handed on in their order, so that the ids do not
//! depend on the number of threads.
//!
//! Documents are separated by `<|endoftext|>` where the tokenizer has it, by `[SEP]` if it is BERT's kind, by `</s>` if it is
//! T5's, and by a newline otherwise. Empty documents are left out, and nothing comes before the first document or after the last.

use rayon::prelude::*;

use super::{
    cuts::Cuts,
    encoder::Encoder,
    pieces::{Piece, Pieces},
    source::Source,
    span_corruption::sentinel,
    tokenizer::{END_OF_SEQUENCE, SEPARATOR, Tokenizer},
};
use crate::{error::Result, fail};

/// How much is worked on at a time.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Text that is tokenised as one, where the tokenizer allows it to be cut.
    pub piece_bytes: usize,
    /// Text held in memory, tokenised by all cores.
    pub block_bytes: usize,
    /// Ids in one shard file.
    pub shard_tokens: u64,
}

impl Default for Sizes {
    fn default() -> Sizes {
        Sizes { piece_bytes: 64 << 10, block_bytes: 8 << 20, shard_tokens: 1 << 28 }
    }
}

/// The outcome of encoding.
#[derive(Clone, Debug, Default)]
pub(super) struct Encoded {
    pub documents: u64,
    pub text_bytes: u64,
    /// Ids of each source, where several are mixed; those between documents count for the later one.
    pub tokens: Vec<u64>,
}

impl Encoded {
    fn count(&mut self, origin: u16, ids: &[u32]) {
        let origin = usize::from(origin);
        if self.tokens.len() <= origin {
            self.tokens.resize(origin + 1, 0);
        }
        self.tokens[origin] += ids.len() as u64;
    }
}

/// Runs a source's text through the tokenizer and hands the ids on, in order, with the bytes read so far.
pub(super) fn encode(
    source: &Source,
    tokenizer: &Tokenizer,
    sizes: Sizes,
    mut take: impl FnMut(&[u32], u64) -> Result<()>,
) -> Result<Encoded> {
    let mut pieces = source.pieces(sizes.piece_bytes).cut_at(Cuts::of(tokenizer));
    let encoder = Encoder::new(tokenizer)?;
    let mut separator = None;
    let mut encoded = Encoded::default();
    loop {
        let block = next_block(&mut pieces, sizes.block_bytes)?;
        if block.is_empty() {
            break;
        }
        let ids = block.par_iter().map(|piece| encoder.encode(piece)).collect::<Result<Vec<_>>>()?;
        for (piece, ids) in block.iter().zip(ids) {
            if piece.starts_document {
                // There is nothing to separate the first document from.
                match &separator {
                    None => separator = Some(document_separator(tokenizer)),
                    Some(Ok((separator, bytes))) => {
                        take(separator, pieces.bytes_read())?;
                        encoded.text_bytes += bytes;
                        encoded.count(piece.origin, separator);
                    }
                    Some(Err(reason)) => {
                        fail!(Input, "cannot separate the documents of {} by a newline: {reason}", source.name())
                    }
                }
                encoded.documents += 1;
            }
            take(&ids, pieces.bytes_read())?;
            encoded.count(piece.origin, &ids);
            encoded.text_bytes += piece.text.len() as u64;
        }
    }
    if separator.is_none() {
        fail!(Input, "{} is empty: there is no text in it to train on", source.name());
    }
    Ok(encoded)
}

/// The next pieces, of `block_bytes` together or a little more; none at the end.
pub(super) fn next_block(pieces: &mut Pieces, block_bytes: usize) -> Result<Vec<Piece>> {
    let mut block = Vec::new();
    let mut size_bytes = 0;
    while size_bytes < block_bytes.max(1) {
        let Some(piece) = pieces.next().transpose()? else { break };
        size_bytes += piece.text.len();
        block.push(piece);
    }
    Ok(block)
}

/// The token between two documents, where the tokenizer has one: GPT-2's, BERT's, or that at the end of T5's texts.
fn separating_token(tokenizer: &Tokenizer) -> Option<u32> {
    let of_t5 = || tokenizer.token_id(&sentinel(0)).and_then(|_| tokenizer.token_id(END_OF_SEQUENCE));
    tokenizer.end_of_text().or_else(|| tokenizer.token_id(SEPARATOR)).or_else(of_t5)
}

/// What stands between two documents, for people.
pub(super) fn between_documents(tokenizer: &Tokenizer) -> String {
    separating_token(tokenizer).and_then(|id| tokenizer.token(id)).unwrap_or_else(|| "a newline".into())
}

/// The ids between two documents, and the bytes of text that they stand for.
fn document_separator(tokenizer: &Tokenizer) -> std::result::Result<(Vec<u32>, u64), String> {
    match separating_token(tokenizer) {
        Some(id) => Ok((vec![id], 0)),
        None => tokenizer.try_encode("\n").map(|ids| (ids, 1)).map_err(|failure| failure.reason),
    }
}
