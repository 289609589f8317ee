//! Models: configurations, Hugging Face folders, and the graphs themselves, each of which reads like its paper.

pub mod config;
pub mod folder;
pub mod gpt2;
