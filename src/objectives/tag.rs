//! Tagging of words, such as named entities, as "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
//! (Devlin et al. 2019), section 5.3, has it: the hidden state of each word's first piece tells the word's tag.
//!
//!   loss = mean over words of cross-entropy(W h + b, tag); W is `classifier.weight` (tags, C)
//!
//! The best model has the highest F1 of entities on validation data.

pub mod folder;
pub mod predict;

use std::path::Path;

use self::folder::TagFile;
use crate::data::tagged::sequences::{Sequence, tags};
use crate::data::tagged::tags::Labels;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::evaluate::entities::{EntityCounts, EntityScores};
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Initial, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{CLASSIFIER, Config};
use crate::models::network::Network;
use crate::objectives::encoded::{self, Data, Example, Found, Gathered, Row, rows};
use crate::objectives::labelled::scorer::{best, probabilities};
use crate::ops::IGNORED;
use crate::ops::matmul::Matmul;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::Settings;

/// The objective's name.
pub const NAME: &str = "tag";

/// A sentence, ready to be fed.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// One, or several where it is long.
    pub sequences: Vec<Sequence>,
    /// Words of the sentence.
    pub words: usize,
    /// The label of each word, where it has tags.
    pub labels: Option<Vec<usize>>,
}

impl Example for Item {
    fn count(&self) -> usize {
        self.sequences.len()
    }

    fn row(&self, n: usize) -> Row<'_> {
        Row { ids: &self.sequences[n].ids, types: &self.sequences[n].types }
    }
}

/// The objective of a head on words.
pub struct Tag {
    networks: [Network; 1],
    task: TagFile,
    /// Of the hidden states before the head.
    dropout: f32,
    data: Data<Item>,
}

impl Tag {
    /// Sentences with tags, to learn and to validate.
    pub fn new(config: Config, task: TagFile, settings: &Settings, both: (Vec<Item>, Vec<Item>)) -> Tag {
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let data = Data::new(both, task.longest);
        Tag { networks, task, dropout: settings.dropout, data }
    }

    /// Lengths that sequences are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.data.buckets.0
    }
}

/// Scores (B * T, tags) of each token of rows of one length.
fn scores(g: &mut Graph, model: &Model, shape: (usize, usize), labels: usize, dropout: f32) -> Tensor {
    let x = encoded::states(g, model, shape, dropout);
    let weight = model.task_head(g, CLASSIFIER[0], &[labels, model.config.width]);
    let bias = model.parameter(g, CLASSIFIER[1], &[labels], Initial::Zeros);
    g.apply(Matmul { tb: true, bias: true, ..Matmul::default() }, &[x, weight, bias])
}

impl Objective for Tag {
    fn name(&self) -> &str {
        NAME
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_encoders(&self) -> bool {
        true
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.data.shapes(batch)
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        let labels = self.task.labels.names().len();
        let scores = scores(g, &models[0], (shape.batch, shape.length), labels, self.dropout);
        let targets = g.input("targets", Shape::u32(&[shape.batch, shape.length]));
        models[0].loss_of_logits(g, scores, targets, 1.0).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let scores = scores(g, &models[0], (shape.batch, shape.length), self.task.labels.names().len(), 0.0);
        g.output("scores", scores);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.data.epoch(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let (rows, length) = self.data.fill(number, self.networks[0].config(), batch);
        let mut targets = vec![IGNORED; batch.size * length];
        for (n, row) in rows.into_iter().enumerate() {
            let (Item { sequences, labels, .. }, place) = self.data.training.of(row);
            let Some(labels) = labels else { continue };
            for first in &sequences[place].firsts {
                targets[n * length + first.position] = labels[first.word] as u32;
            }
        }
        batch.set("targets", &targets);
        Ok(())
    }

    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let (labels, items) = (&self.task.labels, &self.data.validation.items);
        if items.is_empty() {
            return Ok(None);
        }
        let mut gathered = Gathered::new(items);
        let of = (self.networks[0].config(), &self.data.buckets);
        encoded::evaluate(programs, of, &rows(items), &mut |row, found| {
            take(&mut gathered, items, labels, row, &found)
        })?;
        Ok(measured(labels, items, &scores_of(gathered)).map(|(scores, loss)| Evaluation {
            loss,
            value: Some(scores.micro.f1),
            scalars: vec![("f1", scores.micro.f1)],
            text: scores.to_string(),
        }))
    }

    fn has_head(&self) -> bool {
        true
    }

    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let tokenizer = tokenizer.expect("sentences have a tokenizer");
        folder::save(folder, self.networks[0].config(), &self.task, tokenizer, parameters)
    }
}

/// Keeps the scores of each word's first piece in a row.
fn take(gathered: &mut Gathered<Vec<Vec<f32>>>, items: &[Item], labels: &Labels, row: usize, found: &Found) {
    let ((item, n), labels) = (gathered.place(row), labels.names().len());
    let of = |position: usize| (found.place * found.length + position) * labels;
    let firsts = items[item].sequences[n].firsts.iter();
    gathered.set(row, firsts.map(|first| found.values[of(first.position)..][..labels].to_vec()).collect());
}

/// The scores of each word's first piece, by sentence.
fn scores_of(gathered: Gathered<Vec<Vec<f32>>>) -> Vec<Vec<Vec<f32>>> {
    gathered.by_example().into_iter().map(|rows| rows.concat()).collect()
}

/// The figures of entities and the mean loss, in nats per word, of the sentences that have tags; none if none has. `scores` are those of
/// each sentence's first pieces.
pub fn measured(labels: &Labels, items: &[Item], scores: &[Vec<Vec<f32>>]) -> Option<(EntityScores, f64)> {
    let (mut counts, mut loss, mut words) = (EntityCounts::default(), 0.0, 0u64);
    for (item, scores) in items.iter().zip(scores) {
        let Some(truth) = &item.labels else { continue };
        let predicted: Vec<usize> = scores.iter().map(|scores| best(scores)).collect();
        let names: Vec<&str> = truth.iter().map(|label| labels.names()[*label].as_str()).collect();
        counts.add(&names, &tags(item.words, &item.sequences, &predicted, labels));
        let firsts = item.sequences.iter().flat_map(|sequence| &sequence.firsts);
        for (first, scores) in firsts.zip(scores) {
            loss -= probabilities(scores)[truth[first.word]].ln();
            words += 1;
        }
    }
    (words > 0).then(|| (counts.scores(), loss / words as f64))
}
