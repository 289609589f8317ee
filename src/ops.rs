//! The ops, each in a file of its own with its shaders of the same stem, and the cases that tests, benches and
//! `wgpt doctor` iterate.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod attention_backward;
pub mod attention_cached;
pub mod best_tokens;
pub mod cache_append;
pub mod cache_reorder;
pub mod case;
pub mod ceiling;
pub mod column_sum;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod fill;
pub mod gelu;
pub mod global_norm;
pub mod layernorm;
pub mod matmul;
pub mod next_token;
pub mod rmsnorm;
pub mod rope;
pub mod swiglu;

pub use case::{Case, Draw};

/// Every op's cases.
pub fn cases() -> Vec<&'static Case> {
    let ops = [
        adamw::CASES,
        add::CASES,
        attention::CASES,
        attention_cached::CASES,
        best_tokens::CASES,
        cache_append::CASES,
        cache_reorder::CASES,
        ceiling::CASES,
        column_sum::CASES,
        cross_entropy::CASES,
        dropout::CASES,
        embedding::CASES,
        gelu::CASES,
        global_norm::CASES,
        layernorm::CASES,
        matmul::CASES,
        next_token::CASES,
        rmsnorm::CASES,
        rope::CASES,
        swiglu::CASES,
    ];
    ops.into_iter().flatten().collect()
}
