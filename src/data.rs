//! Data: the built-in corpus, files of text or tokens, tokenizers, and batches.

pub mod batches;
pub mod corpus;
mod encode;
pub mod encoder;
mod guard;
pub mod labelled;
mod parquet;
pub mod pieces;
pub mod prepare;
mod shard_writer;
pub mod shards;
pub mod source;
pub mod story;
pub mod tasks;
pub mod tokenizer;
pub mod tokenizer_training;
pub mod tokens;
mod vocabulary;
pub mod word_counts;

/// The target of a position that does not count towards the loss.
pub const IGNORED: u32 = u32::MAX;
