//! The built-in corpus: stories from a grammar whose entropy is known, and labelled tasks about them.

pub mod story;
pub mod tasks;
