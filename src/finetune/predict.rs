//! Predictions of a fine-tuned model.

use serde_json::{Map, Value, json};

use super::batches::{Buckets, Item};
use super::folder::{Finetuned, TaskFile};
use super::scorer::{Scorer, best, probabilities};
use super::sequences::Encoder;
use super::task::Target;
use crate::data::labelled::Example;
use crate::error::Result;
use crate::executor::Executor;
use crate::formats::upload::upload;
use crate::models::config::SCORE;

impl Finetuned {
    pub fn encoder(&self) -> Encoder<'_> {
        let TaskFile { task, special, longest, pad, .. } = self.task;
        Encoder { tokenizer: &self.tokenizer, task, special, longest, pad }
    }

    /// Scores of items: loads what programs their lengths ask for, at most `buckets`, and the weights.
    pub fn scores(
        &self,
        executor: &mut dyn Executor,
        items: &[Item],
        batch: usize,
        buckets: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let head = self.task.head(&self.config, batch.min(items.len()).max(1));
        let buckets = Buckets::fit(items.iter().map(Item::length), buckets, self.task.longest);
        let scorer = Scorer::load(executor, &self.config, &head, &buckets)?;
        upload(executor, &self.weights)?;
        executor.write_state(SCORE, &self.score.1)?;
        scorer.scores(executor, items)
    }

    /// A prediction as an object: `label` and `probabilities` by label; `choice`, its `text` and `probabilities`; or `grade`.
    pub fn prediction(&self, example: &Example, scores: &[f32]) -> Value {
        let rounded = |p: &f64| json!((p * 1e6).round() / 1e6);
        let p = probabilities(scores);
        match &self.task.target {
            Target::Labels(labels) => {
                let each: Map<String, Value> = labels.iter().cloned().zip(p.iter().map(rounded)).collect();
                json!({ "label": labels[best(scores)], "probabilities": each })
            }
            Target::Choices(_) => {
                let choice = best(scores);
                let each: Vec<Value> = p.iter().map(rounded).collect();
                json!({ "choice": choice, "text": example.choices[choice], "probabilities": each })
            }
            Target::Grade => json!({ "grade": scores[0] }),
        }
    }
}
