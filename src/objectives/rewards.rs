//! Rewards of answers, by a column of their rows, by a command, or by a reward model.

pub mod column;
pub mod command;
pub mod model;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::executor::Executor;

/// An answer that wants a reward.
pub struct Judged<'a> {
    /// The prompt's row, with all its columns.
    pub row: &'a Map<String, Value>,
    /// The line of the row in its file.
    pub line: usize,
    /// Prompt and answer as one text.
    pub whole: String,
    /// Whether a chat template wrote it, with all tokens around it.
    pub rendered: bool,
    /// The answer alone, without the token that ends it.
    pub answer: &'a str,
    /// Tokens of the answer, the one that ends it among them.
    pub tokens: usize,
}

/// What gives rewards.
pub trait Rewards {
    /// A reward for each answer, a finite number; none where it cannot be judged.
    fn of(&mut self, executor: &mut dyn Executor, answers: &[Judged]) -> Result<Vec<Option<f32>>>;

    /// Forgets what is on a device that is no longer there.
    fn forget(&mut self) {}
}
