//! Models: configurations, and the graphs themselves, each of which reads like its paper.

pub mod bert;
pub mod blocks;
pub mod choices;
pub mod config;
pub mod encoder;
pub mod encoder_decoder;
pub mod experts;
pub mod family;
pub mod gpt;
pub mod gpt2;
pub mod gpt_neo;
pub mod initial;
pub mod keys;
pub mod known_keys;
mod linear;
pub mod llama;
pub mod lora;
pub mod network;
pub mod presets;
pub mod registry;
mod t5;
pub mod transfo_xl;
