//! The objectives of runs, one file each.

pub mod dpo;
pub mod kto;
pub mod labelled;
pub mod pretrain;
pub mod recipe;
pub mod reference;
pub mod reward;
mod rows;
pub mod sft;
