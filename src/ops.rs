//! The ops, each in a file of its own with its shaders of the same stem, and the cases that tests, benches and
//! `wgpt doctor` iterate.

pub mod add;
pub mod case;
pub mod column_sum;
pub mod elementwise;
pub mod fill;
pub mod gelu;
pub mod matmul;

pub use case::{Case, Draw};

/// Every op's cases.
pub fn cases() -> Vec<&'static Case> {
    [add::CASES, column_sum::CASES, gelu::CASES, matmul::CASES].into_iter().flatten().collect()
}
