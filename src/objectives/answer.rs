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
use crate::data::answers::windows::Windows;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::evaluate::spans::{Found as FoundSpans, Search};
use crate::evaluate::squad::{Judged, SquadScores, scores as squad};
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Initial, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{Config, SPANS};
use crate::models::network::Network;
use crate::objectives::encoded::{self, Data, Example, Found, Gathered, Row, rows};
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

impl Example for Item {
    fn count(&self) -> usize {
        self.windows.windows.len()
    }

    fn row(&self, n: usize) -> Row<'_> {
        Row { ids: &self.windows.windows[n].ids, types: &self.windows.windows[n].types }
    }
}

/// The objective of a head on spans.
pub struct Answer {
    networks: [Network; 1],
    task: AnswerFile,
    /// Of the hidden states before the head.
    dropout: f32,
    data: Data<Item>,
}

impl Answer {
    /// Questions with answers, to learn and to validate.
    pub fn new(config: Config, task: AnswerFile, settings: &Settings, both: (Vec<Item>, Vec<Item>)) -> Answer {
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let data = Data::new(both, task.longest);
        Answer { networks, task, dropout: settings.dropout, data }
    }

    /// Lengths that windows are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.data.buckets.0
    }
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
        self.data.shapes(batch)
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
        self.data.epoch(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let (rows, length) = self.data.fill(number, self.networks[0].config(), batch);
        let (size, mut padding) = (batch.size, vec![PADDING; batch.size * length]);
        let (mut starts, mut ends, mut weights) = (vec![0; size], vec![0; size], vec![0.0; size]);
        for (n, row) in rows.iter().enumerate() {
            let (Item { question, windows }, place) = self.data.training.of(*row);
            let window = &windows.windows[place];
            padding[n * length..][..window.ids.len()].fill(0.0);
            let gold = question.answers.as_ref().and_then(|answers| answers.first());
            let [start, end] = windows.target(window, gold);
            (starts[n], ends[n], weights[n]) = (start as u32, end as u32, 1.0);
        }
        // Rows that are not there weigh nothing, and have one token, whose softmax is defined.
        (rows.len()..size).for_each(|n| padding[n * length] = 0.0);
        batch.set_f32("padding", &padding);
        batch.set_f32("weights", &weights);
        batch.set_f32("start_column", &[1.0, 0.0]);
        batch.set("starts", &starts);
        batch.set_f32("end_column", &[0.0, 1.0]);
        batch.set("ends", &ends);
        Ok(())
    }

    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let items = &self.data.validation.items;
        if items.is_empty() {
            return Ok(None);
        }
        let mut gathered = Gathered::new(items);
        let of = (self.networks[0].config(), &self.data.buckets);
        encoded::evaluate(programs, of, &rows(items), &mut |row, found| take(&mut gathered, items, row, &found))?;
        let logits = gathered.by_example();
        let found = found(items, &logits, SEARCH);
        // Below SQuAD 2.0's best threshold an answer is given; without questions that have none, always.
        Ok(measured(items, &found, None).map(|scores| Evaluation {
            loss: loss(items, &logits),
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

/// Keeps the logits of a window's tokens.
fn take(gathered: &mut Gathered<(Vec<f32>, Vec<f32>)>, items: &[Item], row: usize, found: &Found) {
    let (item, n) = gathered.place(row);
    let (first, count) = (found.place * found.length, items[item].windows.windows[n].ids.len());
    gathered.set(row, found.values[2 * first..][..2 * count].chunks(2).map(|pair| (pair[0], pair[1])).unzip());
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
