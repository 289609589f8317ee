//! Entities of texts by a tagger.

use serde_json::{Value, json};

use super::folder::Tagger;
use super::{Item, scores, scores_of, take};
use crate::data::tagged::sequences::{Words, tags};
use crate::data::tagged::tags::{Entity, entities};
use crate::error::Result;
use crate::executor::Executor;
use crate::objectives::encoded::{Gathered, Headed, check_types, rows};
use crate::objectives::labelled::scorer::{best, probabilities};

impl Tagger {
    /// The scores of all labels at each word's first piece, sentence by sentence.
    pub fn scores(&self, executor: &mut dyn Executor, items: &[Item], batch: usize) -> Result<Vec<Vec<Vec<f32>>>> {
        check_types(items, &self.config)?;
        let labels = self.task.labels.names().len();
        let mut gathered = Gathered::new(items);
        let Tagger { config, weights, head, task, .. } = self;
        let headed = Headed { config, weights, head, longest: task.longest };
        headed.scores(
            executor,
            (&rows(items), batch),
            &|g, model, shape| scores(g, model, shape, labels, 0.0),
            &mut |row, found| take(&mut gathered, items, &task.labels, row, &found),
        )?;
        Ok(scores_of(gathered))
    }

    /// The entities of a text from the scores of its words: each with its type, text, first and last character, and the mean probability
    /// of its words' tags.
    pub fn prediction(&self, words: &Words, item: &Item, scores: &[Vec<f32>]) -> Value {
        let predicted: Vec<usize> = scores.iter().map(|scores| best(scores)).collect();
        let tags = tags(item.words, &item.sequences, &predicted, &self.task.labels);
        let mut sure = vec![0.0; item.words];
        let firsts = item.sequences.iter().flat_map(|sequence| &sequence.firsts);
        for ((first, scores), label) in firsts.zip(scores).zip(&predicted) {
            sure[first.word] = probabilities(scores)[*label];
        }
        let entity = |entity: Entity| {
            let score = sure[entity.words.clone()].iter().sum::<f64>() / entity.words.len() as f64;
            let mut object = json!(entity);
            object["score"] = json!((score * 1e6).round() / 1e6);
            object
        };
        entities(&words.text, &words.places, &tags).into_iter().map(entity).collect()
    }
}
