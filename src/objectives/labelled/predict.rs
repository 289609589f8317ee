//! Predictions of a fine-tuned model.

use serde_json::{Map, Value, json};

use super::batch::Item;
use super::folder::{Finetuned, TaskFile};
use super::scorer::{best, graph, probabilities, scores};
use crate::data::buckets::Buckets;
use crate::data::labelled::Example;
use crate::data::labelled::sequences::Encoder;
use crate::data::labelled::target::Target;
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::formats::upload::upload;
use crate::models::network::Network;

impl Finetuned {
    pub fn encoder(&self) -> Encoder<'_> {
        let TaskFile { task, special, longest, pad, .. } = self.task;
        let is_encoder = self.config.encoder.is_some();
        Encoder { tokenizer: &self.tokenizer, task, special, longest, pad, is_encoder }
    }

    /// Scores of items: loads at most `buckets` programs for their lengths, and the weights.
    pub fn scores(
        &self,
        executor: &mut dyn Executor,
        items: &[Item],
        batch: usize,
        buckets: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let head = self.task.head(&self.config, batch.min(items.len()).max(1));
        let buckets = Buckets::fit(items.iter().map(Item::length), buckets, self.task.longest);
        let network = Network::new(self.config.clone());
        let mut programs = Programs::default();
        for &length in &buckets.0 {
            programs.get(executor, length, || graph(&network, &head, length))?;
        }
        upload(executor, &network, &self.weights)?;
        self.head.iter().try_for_each(|(name, _, values)| executor.write_state(name, values))?;
        scores(executor, &mut programs, (&network, &head, &buckets), items)
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
