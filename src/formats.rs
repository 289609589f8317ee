//! Files of other programs: Hugging Face model folders and their hub, peft's adapters, safetensors, GGUF.

pub mod adapter;
mod blocks;
pub mod demo;
pub mod folder;
pub mod generation_config;
pub mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
pub mod safetensors;
pub mod source;
mod tensor_file;
pub mod upload;
