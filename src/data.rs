//! Data: the built-in corpus, files of text or tokens, tokenizers, and batches.

pub mod batches;
pub mod buckets;
pub mod chat_template;
pub mod corpora;
pub mod corpus;
pub mod cuts;
pub mod dialogues;
mod encode;
pub mod encoder;
mod found;
mod guard;
pub mod labelled;
pub mod lines;
mod parquet;
pub mod pieces;
pub mod preferences;
pub mod prepare;
pub mod prompts;
mod shard_writer;
pub mod shards;
pub mod source;
pub mod tokenizer;
pub mod tokenizer_training;
pub mod tokens;
mod vocabulary;
pub mod word_counts;
mod zstandard;
