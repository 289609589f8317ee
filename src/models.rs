//! Models: configurations, Hugging Face folders, and the graphs themselves, each of which reads like its paper.

pub mod config;
pub mod demo;
pub mod folder;
pub mod generation_config;
pub mod gguf;
pub mod gpt2;
mod keys;
pub mod safetensors;
pub mod source;
pub mod upload;
