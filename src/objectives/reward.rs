//! Reward models from preferences: "Training language models to follow instructions with human feedback" (Ouyang et al. 2022,
//! sections 3.4 and 3.5) with the margins of "Llama 2" (Touvron et al. 2023, section 3.2.2).
//!
//!   loss = mean of -log sigmoid(r_c - r_r - margin), plus centre * mean of (r_c + r_r)^2
//!
//! r is a head of one output, `score.weight` (1, C), on the last token of prompt and answer. A ranking of K answers is all its pairs of
//! different ranks, a pair a ranking of two. All answers of a ranking are in one micro-batch, each once, and so are its pairs: a
//! micro-batch of B pairs has 2 B rows for answers, which as many rankings fill as fit. Each pair of a micro-batch weighs the same.
//!
//! The loss of a pair is the cross-entropy of a choice between two, the chosen answer first.

use std::collections::BTreeMap;
use std::path::Path;

use super::labelled::batch::{Item, LabelledBatch};
use super::labelled::folder::{self, TaskFile};
use super::labelled::head::Head;
use super::labelled::scorer;
use super::sft;
use crate::data::buckets::{Buckets, Epochs, group};
use crate::data::labelled::Task;
use crate::data::labelled::target::Target;
use crate::data::rankings::Pair;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::IGNORED;
use crate::ops::add::Add;
use crate::ops::class_loss::ClassLoss;
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
    training: Rankings,
    validation: Rankings,
}

/// A ranking whose answers are tokens, at least one each.
#[derive(Clone, Debug)]
pub struct Ranked {
    pub answers: Vec<Vec<u32>>,
    /// Pairs of answers that are not ties, by their places here.
    pub pairs: Vec<Pair>,
}

/// Rankings that are ready to be fed.
#[derive(Clone, Default)]
pub struct Rankings {
    /// All answers, a sequence in each.
    answers: Vec<Item>,
    /// By ranking: its first answer, how many it has, and its pairs.
    rankings: Vec<(usize, usize, Vec<Pair>)>,
}

impl Rankings {
    pub fn new(all: Vec<Ranked>) -> Rankings {
        let mut rankings = Rankings::default();
        for Ranked { answers, pairs } in all {
            rankings.rankings.push((rankings.answers.len(), answers.len(), pairs));
            let item = |ids: Vec<u32>| Item { ids: vec![ids], answer: None, weight: 1.0 };
            rankings.answers.extend(answers.into_iter().map(item));
        }
        rankings
    }

    /// Rankings, pairs among them.
    pub fn len(&self) -> usize {
        self.rankings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rankings.is_empty()
    }

    /// Pairs of all rankings.
    pub fn pairs(&self) -> usize {
        self.rankings.iter().map(|(_, _, pairs)| pairs.len()).sum()
    }

    /// Answers of the largest ranking, at least two.
    pub fn most_answers(&self) -> usize {
        self.rankings.iter().map(|(_, count, _)| *count).max().unwrap_or(0).max(2)
    }

    /// Tokens of each ranking's longest answer.
    fn lengths(&self) -> impl Iterator<Item = usize> {
        let of =
            |&(first, count, _): &(usize, usize, _)| self.answers[first..first + count].iter().map(Item::length).max();
        self.rankings.iter().map(move |ranking| of(ranking).unwrap_or(0))
    }

    /// Sets the inputs of a micro-batch of some rankings, with room for the answers of a head and so many pairs; its number of tokens.
    fn set(&self, members: &[usize], head: &Head, (length, pairs): (usize, usize), batch: &mut Batch) -> usize {
        let (mut answers, mut rows, mut margins) = (vec![], vec![IGNORED; 2 * pairs], vec![0.0; 2 * pairs]);
        let (mut weights, mut pair) = (vec![0.0; pairs], 0);
        for &(first, count, ref all) in members.iter().map(|&i| &self.rankings[i]) {
            for &Pair { chosen, rejected, margin } in all {
                (rows[2 * pair], rows[2 * pair + 1]) =
                    ((answers.len() + chosen) as u32, (answers.len() + rejected) as u32);
                // What is subtracted from r_c - r_r is added to r_r.
                (margins[2 * pair + 1], weights[pair]) = (margin, 1.0);
                pair += 1;
            }
            answers.extend(&self.answers[first..first + count]);
        }
        let made = LabelledBatch::new(head, &answers, length);
        made.set_inputs(batch);
        batch.set("pairs", &rows);
        batch.set_f32("margins", &margins);
        batch.set("classes", &vec![0; pairs]);
        batch.set_f32("weights", &weights);
        made.ids.len()
    }
}

/// The lengths that answers are padded to, and the micro-batches of an epoch.
fn planned(context: usize, training: &Rankings, validation: &Rankings) -> (Buckets, Epochs) {
    let lengths = training.lengths().chain(validation.answers.iter().map(Item::length));
    let buckets = Buckets::fit(lengths, super::labelled::BUCKETS, context);
    let sizes = training.rankings.iter().map(|(_, count, _)| *count).collect();
    let epochs = Epochs::with_sizes(training.lengths().map(|length| buckets.of(length)).collect(), sizes);
    (buckets, epochs)
}

/// Micro-batches of `batch` pairs in one epoch of training.
pub fn epoch_len(context: usize, (training, validation): (&Rankings, &Rankings), batch: usize) -> u64 {
    planned(context, training, validation).1.len(2 * batch)
}

impl Reward {
    /// Rankings have at most two answers for each pair of a micro-batch ([`Rankings::most_answers`]).
    pub fn new(
        config: Config,
        (centre, pad): (f32, u32),
        settings: &Settings,
        (training, validation): (Rankings, Rankings),
    ) -> Reward {
        assert!(training.most_answers() <= 2 * settings.batch, "a ranking is in one micro-batch");
        let (buckets, epochs) = planned(config.context, &training, &validation);
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        Reward { networks, centre, pad, buckets, epochs, training, validation }
    }

    /// The head on the answers of a micro-batch of so many pairs.
    fn head(&self, batch: usize) -> Head {
        let width = self.networks[0].config().width;
        Head { task: Task::Classify, target: Target::Grade, width, batch: 2 * batch, dropout: 0.0, encoder: None }
    }

    /// The most pairs that 2 `batch` answers can make: K of them make at most K (K - 1) / 2.
    fn most_pairs(&self, batch: usize) -> usize {
        batch * (self.training.most_answers() - 1)
    }
}

/// The loss of `scores`, one for each answer, in `most` pairs at most, and the pairwise part of it as a scalar where there is centring.
/// Reads the inputs `pairs` and `margins` (2 for each pair), `classes` and `weights`, and where there is centring `chosen`, `rejected`
/// and `zeros`.
pub fn loss(g: &mut Graph, scores: Tensor, most: usize, centre: f32) -> Loss {
    g.scope("score");
    let pairs = g.input("pairs", Shape::u32(&[2 * most]));
    let scores = g.apply(GatherRows, &[scores, pairs]); // (2 P, 1): r_c, r_r, r_c, ...
    let dims = g.shape(scores).dims.clone();
    let margins = g.input("margins", Shape::f32(&dims));
    let widened = g.apply(Add, &[scores, margins]);
    let (classes, weights) = (g.input("classes", Shape::u32(&[most])), g.input("weights", Shape::f32(&[most])));
    let pairwise = g.apply(ClassLoss, &[widened, classes, weights]);
    if centre == 0.0 {
        return pairwise.into();
    }
    let [chosen, rejected] = ["chosen", "rejected"].map(|rows| {
        let rows = g.input(rows, Shape::u32(&[most]));
        g.apply(GatherRows, &[scores, rows])
    });
    let sums = g.apply(Add, &[chosen, rejected]); // r_c + r_r
    let zeros = g.input("zeros", Shape::f32(&[most]));
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
        let x = head.hidden(g, &models[0], shape.length);
        let scores = head.scores(g, &models[0], x);
        loss(g, scores, self.most_pairs(shape.batch), self.centre)
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        scorer::build(g, &models[0], &self.head(shape.batch), shape.length);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(2 * batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, 2 * batch.size, batch.seed);
        let most = self.most_pairs(batch.size);
        batch.tokens =
            self.training.set(&group.examples, &self.head(batch.size), (self.buckets.0[group.bucket], most), batch);
        batch.shape = group.bucket;
        if self.centre > 0.0 {
            let rows = |first: u32| (0..most as u32).map(|pair| 2 * pair + first).collect::<Vec<_>>();
            let (chosen, rejected) = (rows(0), rows(1));
            batch.set("chosen", &chosen);
            batch.set("rejected", &rejected);
            batch.set_f32("zeros", &vec![0.0; most]);
        }
        Ok(())
    }

    /// Accuracy: the share of pairs whose chosen answer has the higher reward, overall and for each margin.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let (size, answers) = (programs.settings.batch, &self.validation.answers);
        let order: Vec<usize> = (0..answers.len()).collect();
        let bucket_of: Vec<usize> = answers.iter().map(|answer| self.buckets.of(answer.length())).collect();
        let (head, mut scores) = (self.head(size), vec![vec![]; answers.len()]);
        let mut batch = Batch::new(size, 0);
        // Each answer is scored by itself.
        for group in group(&bucket_of, &order, head.batch) {
            batch.clear();
            let items: Vec<&Item> = group.examples.iter().map(|&i| &answers[i]).collect();
            LabelledBatch::new(&head, &items, self.buckets.0[group.bucket]).set_inputs(&mut batch);
            batch.shape = group.bucket;
            let program = programs.run(&batch)?;
            scorer::scores_of(programs.executor, program, &head, &group, &mut scores)?;
        }
        let of = |(first, _, pairs): &(usize, usize, Vec<Pair>)| {
            let reward = |answer: usize| f64::from(scores[first + answer][0]);
            pairs.iter().map(|pair| (reward(pair.chosen) - reward(pair.rejected), pair.margin)).collect::<Vec<_>>()
        };
        Ok(Some(evaluation(&self.validation.rankings.iter().flat_map(of).collect::<Vec<_>>())))
    }

    fn has_head(&self) -> bool {
        true
    }

    /// A classifier of one label, as `transformers` has reward models.
    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let config = self.networks[0].config();
        let (task, target, columns) = (Task::Classify, Target::Grade, BTreeMap::new());
        let pad = Some(self.pad);
        let task = TaskFile { task, target, special: None, longest: config.context, columns, pad, separator: None };
        folder::save(folder, config, &task, tokenizer.expect("texts have a tokenizer"), parameters)
    }
}

/// What differences of rewards, r_c - r_r, with the margins of their pairs say.
fn evaluation(pairs: &[(f64, f32)]) -> Evaluation {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let loss = pairs.iter().map(|(d, margin)| softplus(f64::from(*margin) - d)).sum::<f64>() / pairs.len() as f64;
    let share = |of: &[f64]| of.iter().filter(|d| **d > 0.0).count() as f64 / of.len() as f64;
    let accuracy = share(&pairs.iter().map(|(d, _)| *d).collect::<Vec<_>>());
    // Thirds are written with more digits or fewer.
    let rounded = |margin: f32| (f64::from(margin) * 1e3).round() / 1e3 + 0.0;
    let mut grades: Vec<f64> = pairs.iter().map(|(_, margin)| rounded(*margin)).collect();
    grades.sort_by(f64::total_cmp);
    grades.dedup();
    let of_grade = |grade: &f64| {
        let of = pairs.iter().filter(|(_, margin)| rounded(*margin) == *grade).map(|(d, _)| *d).collect::<Vec<_>>();
        format!("{:.3} of {} with margin {grade}", share(&of), of.len())
    };
    let by_grade = match grades.len() {
        0 | 1 => String::new(),
        _ => format!(" ({})", grades.iter().map(of_grade).collect::<Vec<_>>().join(", ")),
    };
    let text = format!("accuracy {accuracy:.3}{by_grade}");
    Evaluation { loss, value: Some(accuracy), scalars: vec![("accuracy", accuracy)], text }
}
