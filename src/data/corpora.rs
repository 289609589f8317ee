//! The built-in corpus: stories from a grammar whose entropy is known; labelled tasks, dialogues and preferences about them.

pub mod dialogues;
pub mod preferences;
pub mod story;
pub mod tasks;
