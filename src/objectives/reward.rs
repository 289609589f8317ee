//! Reward models from preferences: "Training language models to follow instructions with human feedback" (Ouyang et al. 2022,
//! section 3.4) with the margins of "Llama 2" (Touvron et al. 2023, section 3.2.2).
//!
//!   loss = mean of -log sigmoid(r_c - r_r - margin), plus centre * mean of (r_c + r_r)^2
//!
//! r is a head of one output, `score.weight` (1, C), on the last token of prompt and answer. The loss is the cross-entropy of a
//! choice between two, the chosen answer first, so that a pair is an example of two choices.

use std::collections::BTreeMap;
use std::path::Path;

use super::labelled::batch::{Item, LabelledBatch};
use super::labelled::folder::{self, TaskFile};
use super::labelled::head::Head;
use super::labelled::scorer;
use super::sft;
use crate::data::buckets::{Buckets, Epochs, group};
use crate::data::labelled::Task;
use crate::data::labelled::target::{Answer, Target};
use crate::data::preferences::Preference;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::add::Add;
use crate::ops::gather_rows::GatherRows;
use crate::ops::scale::Scale;
use crate::ops::squared_error::SquaredError;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// trl's recipe for reward models.
pub const RECIPE: Recipe = Recipe { lr: 1e-4, ..sft::RECIPE };

/// The objective of a reward model.
pub struct Reward {
    networks: [Network; 1],
    /// Coefficient of the loss that keeps rewards around 0.
    centre: f32,
    /// The token for padding, which other programs need to know.
    pad: u32,
    buckets: Buckets,
    epochs: Epochs,
    training: Pairs,
    validation: Pairs,
}

/// Pairs that are ready to be fed.
#[derive(Clone, Default)]
pub struct Pairs {
    /// The chosen and the rejected sequence of each.
    items: Vec<Item>,
    margins: Vec<f32>,
    /// Pairs that were left out because a sequence is too long.
    pub dropped: usize,
}

impl Pairs {
    /// Prompt and answer as tokens, with those that the tokenizer puts around every text. Pairs with a sequence of more than
    /// `longest` tokens are dropped.
    pub fn encode(preferences: &[Preference], tokenizer: &Tokenizer, longest: usize) -> Result<Pairs> {
        let mut pairs = Pairs::default();
        for Preference { prompt, chosen, rejected, margin, .. } in preferences {
            let ids = [chosen, rejected].map(|answer| tokenizer.encode_prompt(&format!("{prompt}{answer}")));
            let ids = ids.into_iter().collect::<Result<Vec<Vec<u32>>>>()?;
            if ids.iter().any(|ids| ids.is_empty() || ids.len() > longest) {
                pairs.dropped += 1;
                continue;
            }
            pairs.items.push(Item { ids, answer: Some(Answer::Class(0)), weight: 1.0 });
            pairs.margins.push(*margin);
        }
        Ok(pairs)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Sets the inputs of a batch of these pairs.
    fn set(&self, members: &[usize], length: usize, batch: &mut Batch) -> usize {
        let items: Vec<&Item> = members.iter().map(|&i| &self.items[i]).collect();
        let made = LabelledBatch::new(Task::Choose, &items, batch.size, length);
        made.set_inputs(batch);
        made.set_answers(batch, &PAIR);
        // What is subtracted from r_c - r_r is added to r_r.
        let mut margins = vec![0.0; 2 * batch.size];
        members.iter().enumerate().for_each(|(row, &i)| margins[2 * row + 1] = self.margins[i]);
        batch.set_f32("margins", &margins);
        made.ids.len()
    }
}

/// The chosen answer, then the rejected.
const PAIR: Target = Target::Choices(2);

impl Reward {
    pub fn new(
        config: Config,
        (centre, pad): (f32, u32),
        settings: &Settings,
        (training, validation): (Pairs, Pairs),
    ) -> Reward {
        let lengths = training.items.iter().chain(&validation.items).map(Item::length);
        let buckets = Buckets::fit(lengths, super::labelled::BUCKETS, config.context);
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let epochs = Epochs::new(bucket_of(&buckets, &training));
        Reward { networks, centre, pad, buckets, epochs, training, validation }
    }

    fn head(&self, batch: usize) -> Head {
        let width = self.networks[0].config().width;
        Head { task: Task::Choose, target: PAIR, width, batch, dropout: 0.0 }
    }
}

/// The bucket of each pair.
fn bucket_of(buckets: &Buckets, pairs: &Pairs) -> Vec<usize> {
    pairs.items.iter().map(|item| buckets.of(item.length())).collect()
}

/// The loss of scores, a chosen and a rejected one after the other for each pair, and what it consists of. Reads the inputs
/// `margins` (2 for each pair), `classes` and `weights`, and where there is centring `chosen`, `rejected` and `zeros`.
pub fn loss(g: &mut Graph, head: &Head, scores: Tensor, centre: f32) -> Loss {
    let dims = g.shape(scores).dims.clone();
    let margins = g.input("margins", Shape::f32(&dims));
    let widened = g.apply(Add, &[scores, margins]);
    let pairwise = head.loss(g, widened);
    if centre == 0.0 {
        return pairwise.into();
    }
    let [chosen, rejected] = ["chosen", "rejected"].map(|rows| {
        let rows = g.input(rows, Shape::u32(&[head.batch]));
        g.apply(GatherRows, &[scores, rows])
    });
    let sums = g.apply(Add, &[chosen, rejected]); // r_c + r_r
    let [zeros, weights] = ["zeros", "weights"].map(|name| g.input(name, Shape::f32(&[head.batch])));
    let squares = g.apply(SquaredError, &[sums, zeros, weights]);
    let centring = g.apply(Scale { factor: centre }, &[squares]);
    let sum = g.apply(Add, &[pairwise, centring]);
    Loss { minimised: sum, reported: sum, scalars: vec![("pairwise_loss", pairwise)] }
}

impl Objective for Reward {
    fn name(&self) -> &str {
        "reward"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 2, length }).collect()
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        let head = self.head(shape.batch);
        let ids = g.input("ids", Shape::u32(&[2 * shape.batch, shape.length]));
        let x = models[0].hidden(g, ids);
        let scores = head.scores(g, &models[0], x);
        loss(g, &head, scores, self.centre)
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        scorer::build(g, &models[0], &self.head(shape.batch), shape.length);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, batch.size, batch.seed);
        batch.tokens = self.training.set(&group.examples, self.buckets.0[group.bucket], batch);
        batch.shape = group.bucket;
        if self.centre > 0.0 {
            let rows = |first: u32| (0..batch.size as u32).map(|pair| 2 * pair + first).collect::<Vec<_>>();
            let (chosen, rejected) = (rows(0), rows(1));
            batch.set("chosen", &chosen);
            batch.set("rejected", &rejected);
            batch.set_f32("zeros", &vec![0.0; batch.size]);
        }
        Ok(())
    }

    /// Accuracy: the share of pairs whose chosen answer has the higher reward, overall and for each margin.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let size = programs.settings.batch;
        let order: Vec<usize> = (0..self.validation.len()).collect();
        let (head, mut scores) = (self.head(size), vec![vec![]; order.len()]);
        let mut batch = Batch::new(size, 0);
        for group in group(&bucket_of(&self.buckets, &self.validation), &order, size) {
            batch.clear();
            let items: Vec<&Item> = group.examples.iter().map(|&i| &self.validation.items[i]).collect();
            LabelledBatch::new(Task::Choose, &items, size, self.buckets.0[group.bucket]).set_inputs(&mut batch);
            batch.shape = group.bucket;
            let program = programs.run(&batch)?;
            scorer::scores_of(programs.executor, program, &head, &group, &mut scores)?;
        }
        Ok(Some(evaluation(&scores, &self.validation.margins)))
    }

    fn has_head(&self) -> bool {
        true
    }

    /// A classifier of one label, as `transformers` has reward models.
    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let config = self.networks[0].config();
        let (task, target, columns) = (Task::Classify, Target::Grade, BTreeMap::new());
        let pad = Some(self.pad);
        let task = TaskFile { task, target, special: None, longest: config.context, columns, pad };
        folder::save(folder, config, &task, tokenizer.expect("texts have a tokenizer"), parameters)
    }
}

/// What rewards, a chosen and a rejected one for each pair, say of the pairs.
fn evaluation(scores: &[Vec<f32>], margins: &[f32]) -> Evaluation {
    let differences: Vec<f64> = scores.iter().map(|pair| f64::from(pair[0] - pair[1])).collect();
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let losses = differences.iter().zip(margins).map(|(d, margin)| softplus(f64::from(*margin) - d));
    let loss = losses.sum::<f64>() / scores.len() as f64;
    let share = |of: &[f64]| of.iter().filter(|d| **d > 0.0).count() as f64 / of.len() as f64;
    let accuracy = share(&differences);
    let mut grades: Vec<f32> = margins.to_vec();
    grades.sort_by(f32::total_cmp);
    grades.dedup();
    let of_grade = |grade: &f32| {
        let of = differences.iter().zip(margins).filter(|(_, m)| *m == grade).map(|(d, _)| *d).collect::<Vec<_>>();
        format!("{:.3} of {} with margin {grade}", share(&of), of.len())
    };
    let by_grade = match grades.len() {
        0 | 1 => String::new(),
        _ => format!(" ({})", grades.iter().map(of_grade).collect::<Vec<_>>().join(", ")),
    };
    let text = format!("accuracy {accuracy:.3}{by_grade}");
    Evaluation { loss, value: Some(accuracy), scalars: vec![("accuracy", accuracy)], text }
}
