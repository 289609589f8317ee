//! The objectives of runs, one file each.

pub mod answer;
pub mod dpo;
mod draws;
pub mod encoded;
pub mod grpo;
pub mod kto;
pub mod labelled;
mod loss_sum;
pub mod masked;
pub mod ppo;
pub mod pretrain;
pub mod recipe;
pub mod reference;
pub mod rejection;
pub mod reward;
pub mod rewards;
pub mod rollouts;
mod rows;
pub mod segments;
pub mod seq2seq;
pub mod sft;
pub mod span;
pub mod tag;

use crate::models::config::Config;
use crate::train::objective::Objective;

/// The objective that a model of its family is pretrained by, without data: to plan a run, and to profile a step.
pub fn pretraining(config: Config, context: usize) -> Box<dyn Objective> {
    if config.encoder_decoder.is_some() {
        return Box::new(span::Span::without_data(config, context));
    }
    match config.encoder {
        Some(_) => Box::new(masked::Masked::without_data(config, context)),
        None => Box::new(pretrain::Pretrain::without_data(config, context)),
    }
}
