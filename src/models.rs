//! Models: configurations, Hugging Face folders, and the graphs themselves, each of which reads like its paper.

pub mod config;
pub mod demo;
pub mod experts;
pub mod family;
pub mod folder;
pub mod generation_config;
pub mod gguf;
pub mod gpt;
pub mod gpt2;
pub mod initial;
mod keys;
pub mod llama;
pub mod model;
pub mod safetensors;
pub mod source;
pub mod upload;
