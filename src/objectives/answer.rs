//! Span answers, as "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al. 2019), section
//! 4.2, has them: each token of a context may begin the answer, or end it; the token that comes first stands for no answer.
//!
//!   loss = (cross-entropy(starts, start) + cross-entropy(ends, end)) / 2, softmax over the tokens of a window
//!   starts, ends = W h + b of each token; W is `qa_outputs.weight` (2, C)
//!
//! Padding is left out of both softmaxes. The best model has the highest F1 of answers on validation data.

pub mod folder;
pub mod predict;

use std::path::Path;

use self::folder::AnswerFile;
use crate::data::answers::Question;
use crate::data::answers::windows::{Window, Windows};
use crate::data::buckets::{Buckets, Epochs};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::evaluate::spans::{Found as FoundSpans, Search};
use crate::evaluate::squad::{Judged, SquadScores, scores as squad};
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Initial, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{Config, SPANS};
use crate::models::network::Network;
use crate::objectives::encoded::{self, Found, Row};
use crate::objectives::labelled::BUCKETS;
use crate::ops::add::Add;
use crate::ops::class_loss::ClassLoss;
use crate::ops::matmul::Matmul;
use crate::ops::scale::Scale;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::Settings;

/// The objective's name.
pub const NAME: &str = "answer";
/// What is added to the scores of padding: its probability is 0.
const PADDING: f32 = -1e30;
/// The search of a run's validations: the best answer, of 30 tokens at most, as BERT's.
pub const SEARCH: Search = Search { best: 1, longest: 30 };

/// A question, ready to be fed.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub question: Question,
    pub windows: Windows,
}

/// The objective of a head on spans.
pub struct Answer {
    networks: [Network; 1],
    task: AnswerFile,
    /// Of the hidden states before the head.
    dropout: f32,
    buckets: Buckets,
    epochs: Epochs,
    training: Vec<Item>,
    /// Windows of the training data, by question and place in it.
    places: Vec<(usize, usize)>,
    validation: Vec<Item>,
}

impl Answer {
    /// Questions with answers, to learn and to validate.
    pub fn new(
        config: Config,
        task: AnswerFile,
        settings: &Settings,
        (training, validation): (Vec<Item>, Vec<Item>),
    ) -> Answer {
        let lengths: Vec<usize> = lengths(&training).chain(lengths(&validation)).collect();
        let buckets = Buckets::fit(lengths.into_iter(), BUCKETS, task.longest);
        let epochs = epochs(&training, &buckets);
        let (networks, places) =
            ([Network::new(Config { dropout: settings.dropout(), ..config })], places(&training).collect());
        Answer { networks, task, dropout: settings.dropout, buckets, epochs, training, places, validation }
    }

    /// Micro-batches of so many windows in an epoch over the questions.
    pub fn epoch_len(training: &[Item], longest: usize, batch: usize) -> u64 {
        epochs(training, &Buckets::fit(lengths(training), BUCKETS, longest)).len(batch)
    }

    /// Lengths that windows are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.buckets.0
    }
}

fn epochs(items: &[Item], buckets: &Buckets) -> Epochs {
    Epochs::new(lengths(items).map(|length| buckets.of(length)).collect())
}

/// Every window, by its question and its place in it.
fn places(items: &[Item]) -> impl Iterator<Item = (usize, usize)> {
    items.iter().enumerate().flat_map(|(item, of)| (0..of.windows.windows.len()).map(move |n| (item, n)))
}

fn lengths(items: &[Item]) -> impl Iterator<Item = usize> {
    items.iter().flat_map(|item| item.windows.windows.iter().map(|window| window.ids.len()))
}

fn row(window: &Window) -> Row<'_> {
    Row { ids: &window.ids, types: &window.types }
}

/// Scores (B, T, 2) of each token of rows of one length as the first and the last of the answer.
fn scores(g: &mut Graph, model: &Model, shape: (usize, usize), dropout: f32) -> Tensor {
    let x = encoded::states(g, model, shape, dropout);
    let weight = model.task_head(g, SPANS[0], &[2, model.config.width]);
    let bias = model.parameter(g, SPANS[1], &[2], Initial::Zeros);
    g.apply(Matmul { tb: true, bias: true, ..Matmul::default() }, &[x, weight, bias])
}

impl Objective for Answer {
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

    fn loss(&self, g: &mut Graph, models: &[Model], ShapeKey { batch, length, .. }: ShapeKey) -> Loss {
        let scores = scores(g, &models[0], (batch, length), self.dropout);
        let padding = g.input("padding", Shape::f32(&[batch, length, 1]));
        let weights = g.input("weights", Shape::f32(&[batch]));
        let mut side = |column: &str, targets: &str| {
            // The column of starts or of ends, by a product with 1 and 0.
            let column = g.input(column, Shape::f32(&[2, 1]));
            let of = g.apply(Matmul::default(), &[scores, column]); // (B, T, 1)
            let of = g.apply(Add, &[of, padding]);
            let targets = g.input(targets, Shape::u32(&[batch]));
            g.apply(ClassLoss, &[of, targets, weights])
        };
        let (start, end) = (side("start_column", "starts"), side("end_column", "ends"));
        let sum = g.apply(Add, &[start, end]);
        g.apply(Scale { factor: 0.5 }, &[sum]).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let scores = scores(g, &models[0], (shape.batch, shape.length), 0.0);
        g.output("scores", scores);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, batch.size, batch.seed);
        let (size, length) = (batch.size, self.buckets.0[group.bucket]);
        let (mut rows, mut padding) = (vec![], vec![PADDING; size * length]);
        let (mut starts, mut ends, mut weights) = (vec![0; size], vec![0; size], vec![0.0; size]);
        for (n, (item, place)) in group.examples.iter().map(|at| self.places[*at]).enumerate() {
            let Item { question, windows } = &self.training[item];
            let window = &windows.windows[place];
            rows.push(row(window));
            padding[n * length..][..window.ids.len()].fill(0.0);
            let gold = question.answers.as_ref().and_then(|answers| answers.first());
            let [start, end] = windows.target(window, gold);
            (starts[n], ends[n], weights[n]) = (start as u32, end as u32, 1.0);
        }
        // Rows that are not there weigh nothing, and have one token, whose softmax is defined.
        (rows.len()..size).for_each(|n| padding[n * length] = 0.0);
        encoded::set_inputs(&rows, self.networks[0].config(), (size, length), batch);
        batch.set_f32("padding", &padding);
        batch.set_f32("weights", &weights);
        batch.set_f32("start_column", &[1.0, 0.0]);
        batch.set("starts", &starts);
        batch.set_f32("end_column", &[0.0, 1.0]);
        batch.set("ends", &ends);
        (batch.shape, batch.tokens) = (group.bucket, size * length);
        Ok(())
    }

    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let mut gathered = Gathered::new(&self.validation);
        let rows = gathered.rows();
        let of = (self.networks[0].config(), &self.buckets);
        encoded::evaluate(programs, of, &rows, &mut |row, found| gathered.take(row, &found))?;
        let logits = gathered.logits();
        let found = found(&self.validation, &logits, SEARCH);
        // Below SQuAD 2.0's best threshold an answer is given; without questions that have none, always.
        Ok(measured(&self.validation, &found, None).map(|scores| Evaluation {
            loss: loss(&self.validation, &logits),
            value: Some(scores.best_f1.value),
            scalars: vec![("exact", scores.all.exact), ("f1", scores.all.f1), ("best_f1", scores.best_f1.value)],
            text: scores.to_string(),
        }))
    }

    fn has_head(&self) -> bool {
        true
    }

    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let tokenizer = tokenizer.expect("questions have a tokenizer");
        folder::save(folder, self.networks[0].config(), &self.task, tokenizer, parameters)
    }
}

/// Logits of starts and of ends of each window of a question.
pub type Logits = Vec<(Vec<f32>, Vec<f32>)>;

/// The logits of every window, gathered from batches.
struct Gathered<'a> {
    items: &'a [Item],
    places: Vec<(usize, usize)>,
    of_rows: Vec<(Vec<f32>, Vec<f32>)>,
}

impl<'a> Gathered<'a> {
    fn new(items: &'a [Item]) -> Gathered<'a> {
        let places: Vec<(usize, usize)> = places(items).collect();
        Gathered { items, of_rows: vec![(vec![], vec![]); places.len()], places }
    }

    fn window(&self, row: usize) -> &'a Window {
        let (item, n) = self.places[row];
        &self.items[item].windows.windows[n]
    }

    fn rows(&self) -> Vec<Row<'a>> {
        (0..self.places.len()).map(|at| row(self.window(at))).collect()
    }

    fn take(&mut self, row: usize, found: &Found) {
        let (first, count) = (found.place * found.length, self.window(row).ids.len());
        self.of_rows[row] = found.values[2 * first..][..2 * count].chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    }

    /// By question.
    fn logits(self) -> Vec<Logits> {
        let mut all = vec![vec![]; self.items.len()];
        self.places.iter().zip(self.of_rows).for_each(|((item, _), logits)| all[*item].push(logits));
        all
    }
}

/// The best answers of every question.
pub fn found(items: &[Item], logits: &[Logits], search: Search) -> Vec<FoundSpans> {
    let of = |(item, logits): (&Item, &Logits)| {
        let logits: Vec<(&[f32], &[f32])> = logits.iter().map(|(starts, ends)| (&starts[..], &ends[..])).collect();
        search.find(&item.question.context, &item.windows, &logits)
    };
    items.iter().zip(logits).map(of).collect()
}

/// The figures of the questions that say their answers; none if none does. An answer is given where the difference to none is not above
/// the threshold, or always without one.
pub fn measured(items: &[Item], found: &[FoundSpans], threshold: Option<f64>) -> Option<SquadScores> {
    let known = items.iter().zip(found).filter(|(item, _)| item.question.answers.is_some());
    let judged: Vec<Judged> = known
        .map(|(item, found)| Judged {
            golds: item.question.texts(),
            answer: found.text(None),
            no_answer: found.difference,
        })
        .collect();
    (!judged.is_empty()).then(|| squad(&judged, threshold.unwrap_or(f64::INFINITY)))
}

/// The mean loss of windows, in nats, as in training.
fn loss(items: &[Item], logits: &[Logits]) -> f64 {
    let (mut sum, mut count) = (0.0, 0u64);
    for (item, logits) in items.iter().zip(logits) {
        let Some(answers) = &item.question.answers else { continue };
        for (window, (starts, ends)) in item.windows.windows.iter().zip(logits) {
            let [start, end] = item.windows.target(window, answers.first());
            sum += 0.5 * (cross_entropy(starts, start) + cross_entropy(ends, end));
            count += 1;
        }
    }
    sum / count.max(1) as f64
}

fn cross_entropy(logits: &[f32], target: usize) -> f64 {
    let most = logits.iter().fold(f32::MIN, |m, logit| m.max(*logit));
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    sum.ln() - f64::from(logits[target] - most)
}
