//! wgpt pretrains, fine-tunes and samples GPT-family language models with hand-written WGSL compute shaders.
//!
//! Model code builds a static [`graph`] of coarse [`ops`]; it is differentiated by appending nodes, planned once into
//! buffers and dispatches, and replayed by an [`executor`]: the [`gpu`] through wgpu, or the CPU [`reference`].

pub mod checks;
pub mod data;
pub mod error;
pub mod evaluate;
pub mod executor;
pub mod files;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod models;
pub mod objectives;
pub mod ops;
pub mod ranks;
pub mod reference;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shaders;
pub mod train;
pub mod web;
