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
use crate::data::buckets::{Buckets, Epochs};
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
use crate::objectives::encoded::{self, Found, Row};
use crate::objectives::labelled::BUCKETS;
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

/// The objective of a head on words.
pub struct Tag {
    networks: [Network; 1],
    task: TagFile,
    /// Of the hidden states before the head.
    dropout: f32,
    buckets: Buckets,
    epochs: Epochs,
    training: Vec<Item>,
    /// Sequences of the training data, by item and place in it.
    places: Vec<(usize, usize)>,
    validation: Vec<Item>,
}

impl Tag {
    /// Sentences with tags, to learn and to validate.
    pub fn new(
        config: Config,
        task: TagFile,
        settings: &Settings,
        (training, validation): (Vec<Item>, Vec<Item>),
    ) -> Tag {
        let lengths: Vec<usize> = lengths(&training).chain(lengths(&validation)).collect();
        let buckets = Buckets::fit(lengths.into_iter(), BUCKETS, task.longest);
        let epochs = epochs(&training, &buckets);
        let (networks, places) =
            ([Network::new(Config { dropout: settings.dropout(), ..config })], places(&training).collect());
        Tag { networks, task, dropout: settings.dropout, buckets, epochs, training, places, validation }
    }

    /// Micro-batches of so many sequences in an epoch over the sentences.
    pub fn epoch_len(training: &[Item], longest: usize, batch: usize) -> u64 {
        epochs(training, &Buckets::fit(lengths(training), BUCKETS, longest)).len(batch)
    }

    /// Lengths that sequences are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.buckets.0
    }
}

fn epochs(items: &[Item], buckets: &Buckets) -> Epochs {
    Epochs::new(lengths(items).map(|length| buckets.of(length)).collect())
}

/// Every sequence, by its item and its place in it.
fn places(items: &[Item]) -> impl Iterator<Item = (usize, usize)> {
    items.iter().enumerate().flat_map(|(item, sentence)| (0..sentence.sequences.len()).map(move |n| (item, n)))
}

fn lengths(items: &[Item]) -> impl Iterator<Item = usize> {
    items.iter().flat_map(|item| item.sequences.iter().map(|sequence| sequence.ids.len()))
}

fn row(sequence: &Sequence) -> Row<'_> {
    Row { ids: &sequence.ids, types: &sequence.types }
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
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 1, length }).collect()
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
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, batch.size, batch.seed);
        let (size, length) = (batch.size, self.buckets.0[group.bucket]);
        let (mut rows, mut targets) = (vec![], vec![IGNORED; size * length]);
        for (n, (item, place)) in group.examples.iter().map(|at| self.places[*at]).enumerate() {
            let Item { sequences, labels, .. } = &self.training[item];
            rows.push(row(&sequences[place]));
            for first in labels.iter().flat_map(|_| &sequences[place].firsts) {
                let labels = labels.as_ref().expect("there are some");
                targets[n * length + first.position] = labels[first.word] as u32;
            }
        }
        encoded::set_inputs(&rows, self.networks[0].config(), (size, length), batch);
        batch.set("targets", &targets);
        (batch.shape, batch.tokens) = (group.bucket, size * length);
        Ok(())
    }

    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let labels = &self.task.labels;
        let mut gathered = Gathered::new(&self.validation, labels.names().len());
        let rows = gathered.rows();
        let of = (self.networks[0].config(), &self.buckets);
        encoded::evaluate(programs, of, &rows, &mut |row, found| gathered.take(row, &found))?;
        Ok(measured(labels, &self.validation, &gathered.scores()).map(|(scores, loss)| Evaluation {
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

/// The scores of each word's first piece, gathered from batches.
struct Gathered<'a> {
    items: &'a [Item],
    places: Vec<(usize, usize)>,
    labels: usize,
    of_rows: Vec<Vec<Vec<f32>>>,
}

impl<'a> Gathered<'a> {
    fn new(items: &'a [Item], labels: usize) -> Gathered<'a> {
        let places: Vec<(usize, usize)> = places(items).collect();
        Gathered { items, labels, of_rows: vec![vec![]; places.len()], places }
    }

    fn sequence(&self, row: usize) -> &'a Sequence {
        let (item, n) = self.places[row];
        &self.items[item].sequences[n]
    }

    fn rows(&self) -> Vec<Row<'a>> {
        (0..self.places.len()).map(|at| row(self.sequence(at))).collect()
    }

    fn take(&mut self, row: usize, found: &Found) {
        let of = |position: usize| (found.place * found.length + position) * self.labels;
        let firsts = self.sequence(row).firsts.iter();
        self.of_rows[row] = firsts.map(|first| found.values[of(first.position)..][..self.labels].to_vec()).collect();
    }

    /// By sentence.
    fn scores(self) -> Vec<Vec<Vec<f32>>> {
        let mut all = vec![vec![]; self.items.len()];
        self.places.iter().zip(self.of_rows).for_each(|((item, _), scores)| all[*item].extend(scores));
        all
    }
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
