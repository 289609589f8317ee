//! wgpt pretrains, fine-tunes and samples GPT-family language models with hand-written WGSL compute shaders.
pub mod error;
