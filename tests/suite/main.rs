//! One binary with all integration tests. They need a Vulkan, Metal or DX12 adapter (a software one will do) and fail
//! without one.

mod beam;
mod checkpoint;
mod classifier;
mod cli;
mod cooperative;
mod cooperative_attention;
mod data;
mod demo;
mod evaluate;
mod export;
mod finetune;
mod finetune_heads;
mod finetune_run;
mod folders;
mod generate;
mod gguf;
mod gpt;
mod gpt2;
#[cfg(feature = "hub")]
mod hub;
mod hugging_face;
mod labelled;
mod layers;
mod llama;
mod llama_blocks;
mod metrics;
mod mixed;
mod moe_block;
mod objectives;
mod ops;
mod plan;
mod prepare;
mod profile;
mod sample;
mod settings;
mod shaders;
mod sources;
mod stop;
mod story;
mod tasks;
mod together;
mod token_ids;
mod tokenizer;
mod training;
mod tuning;
