//! Rewards of answers, by a column of their rows, by a command, or by a reward model.

pub mod column;
pub mod command;
pub mod model;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::executor::Executor;
use crate::graph::Graph;

/// An answer to reward.
pub struct Candidate<'a> {
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
    /// A reward for each answer, a finite number; none where the source gives none.
    fn of(&mut self, executor: &mut dyn Executor, answers: &[Candidate]) -> Result<Vec<Option<f32>>>;

    /// The graphs that it runs.
    fn graphs(&self) -> Vec<Graph> {
        vec![]
    }

    /// Forgets what is on a device that is no longer there.
    fn forget(&mut self) {}
}
