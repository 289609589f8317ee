//! The built-in corpus: stories from a grammar whose entropy is known, labelled tasks and dialogues about them.

pub mod dialogues;
pub mod story;
pub mod tasks;
