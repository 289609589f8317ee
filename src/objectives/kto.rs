//! Preferences from completions that are judged one by one: "KTO: Model Alignment as Prospect Theoretic Optimization" (Ethayarajh et al.
//! 2024), as trl 1.16 computes it, with the loss of [`crate::ops::kto_loss`].
//!
//!   loss of a micro-batch = mean over its completions of w (1 - s(y beta (lp - ref - z))), y = 1 where desirable, or -1
//!   z = max(0, mean over its mismatched completions of lp - ref), an estimate of the divergence, without a gradient
//!
//! lp is the sum of the log-probabilities of a completion's tokens, ref the same of the model that the run started from. The reference
//! is computed once, before the first step, and its parameters are freed again.
//!
//! Micro-batches are trl's: B completions in the order of their file, the same in every epoch, and the last of an epoch has what is
//! left. Mismatched are the micro-batch's own completions, moved on by one: each follows the next prompt, and the last the first prompt;
//! as prompt and completion they are cut to the longest length. Where one completion is left, its mismatched one is itself.
//! A step's loss is the mean over its micro-batches of their losses, as with trl's accumulation: each has a z of its own, so that two
//! micro-batches of 4 are another step than one of 8. (Where trl ends an epoch with fewer micro-batches in the last step, a step
//! here goes on with those of the next epoch.)

use std::cmp::Ordering;
use std::ops::Range;

use super::reference::{REFERENCE, Reference};
use super::rows::{Inputs, NAMES, Names, Rows, log_probs};
use super::sft;
use crate::data::buckets::Buckets;
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;
use crate::formats::folder::Weights;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::kto_loss::KtoLoss;
use crate::ops::row_dot::RowDot;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// trl's recipe for KTO.
pub const RECIPE: Recipe = Recipe { lr: 1e-6, ..sft::RECIPE };

/// Rows that the reference sees at a time.
const REFERENCE_ROWS: usize = 8;

/// Inputs of mismatched completions.
const MISMATCHED: Names = Names { ids: "mismatched_ids", targets: "mismatched_targets", weights: "mismatched_weights" };

/// Completions with their prompts, of which they are learned, and whether each is desirable.
pub type Examples = Vec<(Encoded, bool)>;

/// The objective of Kahneman-Tversky optimisation.
pub struct Kto {
    networks: [Network; 1],
    loss: KtoLoss,
    buckets: Buckets,
    /// Micro-batches of a step.
    accumulate: u64,
    training: Completions,
    validation: Completions,
    /// The model that the run started from, until its log-probabilities are known.
    start: Option<Reference>,
    inputs: MicroBatch,
}

/// Completions in micro-batches.
struct Completions {
    /// Of n completions each after its own prompt, then the n mismatched ones.
    rows: Rows,
    /// Of the rows, so that micro-batches are slices.
    indices: Vec<usize>,
    is_desirable: Vec<bool>,
    /// Completions of a micro-batch.
    size: usize,
    /// Log-probabilities of the rows of the model that the run started from.
    reference: Vec<f32>,
}

impl Completions {
    /// Micro-batches of `size` completions, with their prompts of at most `longest` tokens.
    fn new(examples: Examples, size: usize, longest: usize) -> Completions {
        let (mut rows, is_desirable): (Vec<Encoded>, Vec<bool>) = examples.into_iter().unzip();
        let mismatched: Vec<Encoded> = rows.chunks(size).flat_map(mismatched).collect();
        rows.extend(mismatched);
        rows.iter_mut().for_each(|row| _ = row.cut(longest));
        let indices = (0..rows.len()).collect();
        Completions { rows: Rows::new(rows, None), indices, is_desirable, size, reference: vec![] }
    }

    fn len(&self) -> usize {
        self.is_desirable.len()
    }

    /// Number of micro-batches.
    fn batches(&self) -> usize {
        self.len().div_ceil(self.size)
    }

    /// The completions of a micro-batch.
    fn members(&self, batch: usize) -> Range<usize> {
        batch * self.size..self.len().min((batch + 1) * self.size)
    }

    /// Tokens of the longest row of a micro-batch.
    fn length(&self, batch: usize) -> usize {
        let rows = self.members(batch).flat_map(|own| [own, self.len() + own]);
        rows.map(|row| self.rows.fed(row)).max().expect("a micro-batch has completions")
    }

    /// How many completions of a micro-batch are desirable, and how many are not.
    fn counts(&self, batch: usize) -> (usize, usize) {
        let members = self.members(batch);
        let desirable = self.is_desirable[members.clone()].iter().filter(|is| **is).count();
        (desirable, members.len() - desirable)
    }
}

/// The completions of a micro-batch, each after the prompt of the next; the last after the first prompt.
fn mismatched(batch: &[Encoded]) -> Vec<Encoded> {
    let before = batch.iter().cycle().skip(batch.len() - 1);
    let pair = |(own, other): (&Encoded, &Encoded)| {
        let (prompt, from) = (own.first_learned(), other.first_learned());
        let ids = [&own.ids[..prompt], &other.ids[from..]].concat();
        let learned = [&own.learned[..prompt], &other.learned[from..]].concat();
        Encoded { ids, learned, parted: false }
    };
    batch.iter().zip(before).map(pair).collect()
}

/// The inputs of a micro-batch, filled again for each.
struct MicroBatch {
    own: Inputs,
    mismatched: Inputs,
    reference: Vec<f32>,
    labels: Vec<f32>,
    /// Factors of each completion's reward in a scalar.
    shares: Vec<f32>,
}

impl MicroBatch {
    fn set(&mut self, all: &Completions, number: usize, length: usize, batch: &mut Batch) {
        let (members, count) = (all.members(number), all.len());
        let (own, mismatched) = all.indices.split_at(count);
        self.own.set(&all.rows, &own[members.clone()], (batch.size, length), &|_| 1.0, batch);
        self.mismatched.set(&all.rows, &mismatched[members.clone()], (batch.size, length), &|_| 1.0, batch);
        for (values, count) in [(&mut self.reference, 2 * batch.size), (&mut self.labels, batch.size)] {
            values.clear();
            values.resize(count, 0.0);
        }
        for (place, own) in members.enumerate() {
            self.reference[place] = all.reference[own];
            self.reference[batch.size + place] = all.reference[count + own];
            self.labels[place] = if all.is_desirable[own] { 1.0 } else { -1.0 };
        }
        batch.set_f32("reference", &self.reference);
        batch.set_f32("labels", &self.labels);
    }

    /// Sets the factors of a scalar: one for each desirable completion, one for each other.
    fn share(&mut self, name: &'static str, (desirable, undesirable): (f32, f32), batch: &mut Batch) {
        let share = |label: &f32| match label.total_cmp(&0.0) {
            Ordering::Greater => desirable,
            Ordering::Less => undesirable,
            Ordering::Equal => 0.0,
        };
        self.shares.clear();
        self.shares.extend(self.labels.iter().map(share));
        batch.set_f32(name, &self.shares);
    }
}

impl Kto {
    /// Examples are those of training and of validation, each with a token that is learned among its first `longest`, to which it is cut,
    /// as the mismatched ones are. `start` is the model that the run starts from, the reference. Fails where a micro-batch has one example.
    pub fn new(
        config: Config,
        settings: &Settings,
        loss: KtoLoss,
        (training, validation): (Examples, Examples),
        longest: usize,
        start: (Config, Weights),
    ) -> Result<Kto> {
        if settings.batch < 2 {
            fail!(
                Usage,
                "kto needs other completions in a micro-batch to estimate the divergence: give --batch 2 or more"
            );
        }
        let [training, validation] =
            [training, validation].map(|examples| Completions::new(examples, settings.batch, longest));
        let all =
            [&training, &validation].into_iter().flat_map(|set| (0..set.batches()).map(|batch| set.length(batch)));
        let buckets = Buckets::fit(all, super::labelled::BUCKETS, config.context);
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let (own, mismatched) = (Inputs::default(), Inputs::named(MISMATCHED));
        let start = Reference::new(start, REFERENCE, REFERENCE_ROWS).of_policy(&networks[0]);
        Ok(Kto {
            networks,
            loss,
            buckets,
            accumulate: settings.accumulate as u64,
            training,
            validation,
            start: Some(start),
            inputs: MicroBatch { own, mismatched, reference: vec![], labels: vec![], shares: vec![] },
        })
    }

    /// The loss of a micro-batch; its estimate of the divergence and its rewards are in slots 1 and 2.
    fn built(&self, g: &mut Graph, model: &Model, shape: ShapeKey) -> Tensor {
        let dims = (shape.batch, shape.length);
        // In front, so that what this pass computes is gone when the other begins, of which much is kept for the gradient. Its model
        // is not the one that trains: there is no dropout, and routers have losses of the own completions alone.
        let estimating = self.networks[0].evaluation(model.compute);
        let (mismatched, _) = log_probs(g, &estimating, MISMATCHED, dims);
        let (own, _) = log_probs(g, model, NAMES, dims);
        let reference = g.input("reference", Shape::f32(&[2, shape.batch]));
        let labels = g.input("labels", Shape::f32(&[shape.batch]));
        g.apply(self.loss, &[own, mismatched, reference, labels])
    }

    /// The factors of a completion's reward in the scalars of micro-batch `number`: those of desirable and of other ones, for the mean
    /// reward of desirable ones, of others, and the difference of these. A step's scalar is the mean over the micro-batches that
    /// have it, as in trl, and 0 where none has.
    fn shares(&self, number: u64) -> [(f32, f32); 3] {
        let counts = |number: u64| self.training.counts((number % self.training.batches() as u64) as usize);
        let first = number / self.accumulate * self.accumulate;
        let (mut having, mut both) = ((0, 0), 0);
        for (desirable, undesirable) in (first..first + self.accumulate).map(counts) {
            having.0 += usize::from(desirable > 0);
            having.1 += usize::from(undesirable > 0);
            both += usize::from(desirable > 0 && undesirable > 0);
        }
        let (desirable, undesirable) = counts(number);
        // The step takes the mean over all its micro-batches.
        let share = |count: usize, having: usize| self.accumulate as f32 / (count.max(1) * having.max(1)) as f32;
        let margin = match desirable > 0 && undesirable > 0 {
            true => (share(desirable, both), -share(undesirable, both)),
            false => (0.0, 0.0),
        };
        [(share(desirable, having.0), 0.0), (0.0, share(undesirable, having.1)), margin]
    }
}

/// Scalars of rewards, and the inputs of their factors.
const REWARDS: [(&str, &str); 3] = [
    ("rewards_chosen", "chosen_shares"),
    ("rewards_rejected", "rejected_shares"),
    ("rewards_margins", "margin_shares"),
];

impl Objective for Kto {
    fn name(&self) -> &str {
        "kto"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_batch_warmup(&self) -> bool {
        false
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 2, length }).collect()
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        let loss = self.built(g, &models[0], shape);
        let [kl, rewards] = [1, 2].map(|slot| Tensor { node: loss.node, slot });
        let reward = |(name, shares): (&'static str, &'static str)| {
            let shares = g.input(shares, Shape::f32(&[shape.batch]));
            (name, g.apply(RowDot { rows: 1 }, &[rewards, shares]))
        };
        let scalars = REWARDS.map(reward).into_iter().chain([("kl", kl)]).collect();
        Loss { minimised: loss, reported: loss, scalars }
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = self.built(g, &models[0], shape);
        for (slot, name) in ["loss", "kl", "rewards"].into_iter().enumerate() {
            g.output(name, Tensor { node: loss.node, slot });
        }
    }

    fn epoch(&self, _batch: usize) -> u64 {
        self.training.batches() as u64
    }

    fn inference_graphs(&self, _batch: usize) -> Vec<Graph> {
        self.start.iter().flat_map(|start| start.graphs(&self.buckets.0)).collect()
    }

    fn prepare(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let Some(mut start) = self.start.take() else { return Ok(()) };
        for set in [&mut self.training, &mut self.validation] {
            let of_batches = (0..set.batches()).flat_map(|batch| vec![set.length(batch); set.members(batch).len()]);
            let lengths = of_batches.collect::<Vec<_>>().repeat(2);
            set.reference = start.sums(executor, &set.rows, (&self.buckets, &lengths), &|_| 1.0)?;
        }
        start.free(executor);
        Ok(())
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let nth = (number % self.training.batches() as u64) as usize;
        let shares = self.shares(number);
        let set = &self.training;
        batch.shape = self.buckets.of(set.length(nth));
        self.inputs.set(set, nth, self.buckets.0[batch.shape], batch);
        for ((_, name), shares) in REWARDS.into_iter().zip(shares) {
            self.inputs.share(name, shares, batch);
        }
        batch.tokens = set.members(nth).map(|own| set.rows.fed(own)).sum();
        Ok(())
    }

    /// The mean loss of completions, the mean of the estimates, and the mean rewards of desirable completions and of others.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let set = &self.validation;
        if set.len() == 0 {
            return Ok(None);
        }
        let mut batch = Batch::new(set.size, 0);
        let (mut loss, mut kl) = (0.0, 0.0);
        // Of desirable completions, and of others: the sum of rewards, and their number.
        let mut sums = [(0.0, 0.0); 2];
        for nth in 0..set.batches() {
            batch.clear();
            batch.shape = self.buckets.of(set.length(nth));
            self.inputs.set(set, nth, self.buckets.0[batch.shape], &mut batch);
            let program = programs.run(&batch)?;
            let share = set.members(nth).len() as f64 / set.len() as f64;
            loss += share * f64::from(programs.executor.read(program, "loss")?[0]);
            kl += share * f64::from(programs.executor.read(program, "kl")?[0]);
            for (own, reward) in set.members(nth).zip(programs.executor.read(program, "rewards")?) {
                let (sum, count) = &mut sums[usize::from(!set.is_desirable[own])];
                *sum += f64::from(reward);
                *count += 1.0;
            }
        }
        let rewards = ["val_rewards_chosen", "val_rewards_rejected"].into_iter().zip(sums);
        let rewards = rewards.filter(|(_, (_, count))| *count > 0.0).map(|(name, (sum, count))| (name, sum / count));
        let scalars: Vec<_> = rewards.chain([("val_kl", kl)]).collect();
        let text: Vec<String> =
            scalars.iter().map(|(name, value)| format!("{} {value:.3}", name.trim_start_matches("val_"))).collect();
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars, text: text.join(", ") }))
    }
}
