//! The ops, each in a file of its own with its shaders of the same stem, and the cases that tests, benches and
//! `wgpt doctor` iterate.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod attention_backward;
pub mod attention_cached;
pub mod attention_weights;
pub mod best_tokens;
pub mod block_diagonal;
pub mod cache_append;
pub mod cache_reorder;
pub mod case;
pub mod cast;
pub mod ceiling;
mod chunked;
pub mod chunked_classifier;
pub mod chunked_cross_entropy;
pub mod chunked_token_log_prob;
pub mod class_loss;
pub mod classifier;
pub mod column_sum;
pub mod combine;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod expert_groups;
pub mod expert_load;
pub mod fill;
pub mod gather_rows;
pub mod gelu;
pub mod global_norm;
pub mod glu;
pub mod grouped_matmul;
pub mod grouped_weights;
pub mod head_product;
pub mod kto_loss;
pub mod layernorm;
pub mod loss_scale;
pub mod matmul;
pub mod next_token;
pub mod policy_loss;
pub mod preference_loss;
pub mod relative_bias;
pub mod relu;
pub mod rmsnorm;
pub mod rope;
pub mod router;
pub mod router_losses;
pub mod row_dot;
pub mod rows;
pub mod scalars;
pub mod scale;
pub mod segment_memory;
pub mod sinusoids;
pub mod squared_error;
pub mod tanh;
pub mod token_log_prob;
pub mod token_scores;
pub mod value_loss;
pub mod zeros;

pub use case::{Case, Draw};

use crate::graph::Limits;

/// The target of a position that does not count towards the loss.
pub const IGNORED: u32 = u32::MAX;

/// The cases that a device can run: those in half precision only where it has that.
pub fn cases_for(limits: &Limits) -> Vec<&'static Case> {
    cases().into_iter().filter(|case| limits.f16 || !case.is_half()).collect()
}

/// Every op's cases.
pub fn cases() -> Vec<&'static Case> {
    let ops = [
        adamw::CASES,
        add::CASES,
        attention::CASES,
        attention::MASK_CASES,
        attention_cached::CASES,
        attention_weights::CASES,
        best_tokens::CASES,
        block_diagonal::CASES,
        cache_append::CASES,
        cache_reorder::CASES,
        cast::CASES,
        ceiling::CASES,
        chunked_classifier::CASES,
        chunked_cross_entropy::CASES,
        chunked_token_log_prob::CASES,
        class_loss::CASES,
        classifier::CASES,
        column_sum::CASES,
        combine::CASES,
        cross_entropy::CASES,
        dropout::CASES,
        embedding::CASES,
        expert_groups::CASES,
        expert_load::CASES,
        gather_rows::CASES,
        gelu::CASES,
        global_norm::CASES,
        glu::CASES,
        grouped_matmul::CASES,
        grouped_weights::CASES,
        head_product::CASES,
        kto_loss::CASES,
        layernorm::CASES,
        loss_scale::CASES,
        matmul::CASES,
        next_token::CASES,
        policy_loss::CASES,
        preference_loss::CASES,
        relative_bias::CASES,
        relu::CASES,
        rmsnorm::CASES,
        rope::CASES,
        router::CASES,
        router_losses::CASES,
        row_dot::CASES,
        rows::CASES,
        scalars::CASES,
        scale::CASES,
        segment_memory::CASES,
        sinusoids::CASES,
        squared_error::CASES,
        tanh::CASES,
        token_log_prob::CASES,
        token_scores::CASES,
        value_loss::CASES,
        zeros::CASES,
    ];
    ops.into_iter().flatten().collect()
}
