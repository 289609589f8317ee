//! The objectives of runs, one file each.

pub mod labelled;
pub mod pretrain;
pub mod recipe;
pub mod reward;
pub mod sft;
