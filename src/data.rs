//! Data: the built-in corpus, files of text or tokens, tokenizers, and batches.

pub mod batches;
pub mod corpus;
mod guard;
pub mod shards;
pub mod source;
pub mod story;
pub mod tokenizer;
pub mod tokens;
mod vocabulary;

/// The target of a position that does not count towards the loss.
pub const IGNORED: u32 = u32::MAX;
