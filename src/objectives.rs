//! The objectives of runs, one file each.

pub mod dpo;
pub mod grpo;
pub mod kto;
pub mod labelled;
pub mod ppo;
pub mod pretrain;
pub mod recipe;
pub mod reference;
pub mod rejection;
pub mod reward;
pub mod rewards;
pub mod rollouts;
mod rows;
pub mod sft;
