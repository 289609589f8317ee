//! Answers to questions by a fine-tuned encoder.

use super::folder::Answerer;
use super::{Item, Logits, scores, take};
use crate::error::Result;
use crate::executor::Executor;
use crate::objectives::encoded::{Gathered, Headed, check_types, rows};

impl Answerer {
    /// The logits of every window, question by question.
    pub fn logits(&self, executor: &mut dyn Executor, items: &[Item], batch: usize) -> Result<Vec<Logits>> {
        check_types(items, &self.config)?;
        let mut gathered = Gathered::new(items);
        let Answerer { config, weights, head, task, .. } = self;
        let headed = Headed { config, weights, head, longest: task.longest };
        headed.scores(
            executor,
            (&rows(items), batch),
            &|g, model, shape| scores(g, model, shape, 0.0),
            &mut |row, found| take(&mut gathered, items, row, &found),
        )?;
        Ok(gathered.by_example())
    }
}
