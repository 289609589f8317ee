//! GPT-2 and the LLaMA family as one GGUF file, which llama.cpp and programs built on it load and write.
//!
//! A file stands for a model folder: [`Gguf`] gives its metadata as `config.json`, `tokenizer.json` and `tokenizer_config.json`, and
//! its tensors under the names that they have there. So whatever reads a model reads one of these.

mod container;
mod names;
mod read;
mod splitting;
mod tokenizer;
mod vocabulary;
mod write;

pub use read::Gguf;
pub use write::{Precision, write};
