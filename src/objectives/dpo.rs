//! Preferences without a reward model: "Direct Preference Optimization: Your Language Model is Secretly a Reward Model" (Rafailov et
//! al. 2023, section 4), with the losses of [`crate::ops::preference_loss`].
//!
//!   loss = mean over pairs of f((lp_c - ref_c) - (lp_r - ref_r)), plus sft * mean of -log p over the tokens of chosen answers
//!
//! lp is the sum of the log-probabilities of an answer's tokens, of ipo their mean; ref is the same of the model that the run started
//! from. The reference is computed once, before the first step, and its parameters are freed again.

use super::reference::{REFERENCE, Reference};
use super::rows::{Inputs, NAMES, Rows, log_probs};
use super::sft;
use crate::data::buckets::{Buckets, Epochs, group};
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::executor::Executor;
use crate::formats::folder::Weights;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::add::Add;
use crate::ops::preference_loss::{Form, PreferenceLoss};
use crate::ops::row_dot::RowDot;
use crate::ops::scale::Scale;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// trl's recipe for DPO.
pub const RECIPE: Recipe = Recipe { lr: 1e-6, ..sft::RECIPE };

/// Pairs that the reference sees at a time.
const REFERENCE_PAIRS: usize = 4;

/// The objective of preference optimisation.
pub struct Dpo {
    networks: [Network; 1],
    loss: PreferenceLoss,
    /// Weight of the loss of chosen answers as in supervised fine-tuning.
    sft: f32,
    buckets: Buckets,
    epochs: Epochs,
    training: Pairs,
    validation: Pairs,
    /// The model that the run started from, until its log-probabilities are known.
    start: Option<Reference>,
    inputs: Inputs,
    /// Filled again for every micro-batch: the reference's log-probabilities, the pairs' weights, those of chosen tokens.
    reference: Vec<f32>,
    pair_weights: Vec<f32>,
    sft_weights: Vec<f32>,
}

/// Pairs of answers to one prompt.
pub struct Pairs {
    /// The chosen answer of each, then the rejected.
    rows: Rows,
    /// Log-probabilities of the answers of the model that the run started from.
    reference: Vec<f32>,
}

impl Default for Pairs {
    fn default() -> Pairs {
        Pairs::new(vec![])
    }
}

impl Pairs {
    /// Pairs of a chosen and a rejected answer, with the tokens of the prompt that both have alike in front. Each has a token that is
    /// learned.
    pub fn new(pairs: Vec<[Encoded; 2]>) -> Pairs {
        let from_the_same = |[mut chosen, mut rejected]: [Encoded; 2]| {
            // Where the tokens of the prompt part at its end, both answers begin where the first parts.
            let start = chosen.first_learned().min(rejected.first_learned());
            for answer in [&mut chosen, &mut rejected] {
                let first = answer.first_learned();
                answer.learned[start..first].fill(true);
            }
            [chosen, rejected]
        };
        let answers: Vec<Encoded> = pairs.into_iter().flat_map(from_the_same).collect();
        Pairs { rows: Rows::new(answers, None), reference: vec![] }
    }

    pub fn len(&self) -> usize {
        self.rows.len() / 2
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Tokens of the longer answer of a pair, with the prompt.
    fn length(&self, pair: usize) -> usize {
        self.rows.fed(2 * pair).max(self.rows.fed(2 * pair + 1))
    }

    fn buckets(&self, buckets: &Buckets) -> Vec<usize> {
        (0..self.len()).map(|pair| buckets.of(self.length(pair))).collect()
    }
}

/// The rows of pairs.
fn answers(pairs: &[usize]) -> Vec<usize> {
    pairs.iter().flat_map(|pair| [2 * pair, 2 * pair + 1]).collect()
}

/// The weight of an answer's tokens in its log-probability: their sum, or of ipo their mean.
fn weight(form: Form) -> impl Fn(&Encoded) -> f32 {
    move |answer| if form == Form::Ipo { 1.0 / answer.targets() as f32 } else { 1.0 }
}

impl Dpo {
    /// `start` is the model that the run starts from, the reference.
    pub fn new(
        config: Config,
        settings: &Settings,
        (loss, sft): (PreferenceLoss, f32),
        (training, validation): (Pairs, Pairs),
        start: (Config, Weights),
    ) -> Dpo {
        let lengths = |pairs: &Pairs| (0..pairs.len()).map(|pair| pairs.length(pair)).collect::<Vec<_>>();
        let all = lengths(&training).into_iter().chain(lengths(&validation));
        let buckets = Buckets::fit(all, super::labelled::BUCKETS, config.context);
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let epochs = Epochs::new(training.buckets(&buckets));
        let start = Some(Reference::new(start, REFERENCE, 2 * REFERENCE_PAIRS).of_policy(&networks[0]));
        let inputs = Inputs::default();
        let (reference, pair_weights, sft_weights) = (vec![], vec![], vec![]);
        Dpo {
            networks,
            loss,
            sft,
            buckets,
            epochs,
            training,
            validation,
            start,
            inputs,
            reference,
            pair_weights,
            sft_weights,
        }
    }

    /// Sets the inputs of some pairs.
    fn set(inputs: &mut Inputs, form: Form, pairs: &Pairs, members: &[usize], length: usize, batch: &mut Batch) {
        inputs.set(&pairs.rows, &answers(members), (2 * batch.size, length), &weight(form), batch);
    }
}

impl Objective for Dpo {
    fn name(&self) -> &str {
        "dpo"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 2, length }).collect()
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        let (log_probs, of_tokens) = log_probs(g, &models[0], NAMES, (2 * shape.batch, shape.length));
        let reference = g.input("reference", Shape::f32(&[2 * shape.batch]));
        let pairs = g.input("pair_weights", Shape::f32(&[shape.batch]));
        let preference = g.apply(self.loss, &[log_probs, reference, pairs]);
        let [chosen, rejected, accuracy] = [2, 3, 4].map(|slot| Tensor { node: preference.node, slot });
        let minus = g.apply(Scale { factor: -1.0 }, &[rejected]);
        let margins = g.apply(Add, &[chosen, minus]);
        let mut scalars = vec![
            ("rewards_chosen", chosen),
            ("rewards_rejected", rejected),
            ("rewards_accuracies", accuracy),
            ("rewards_margins", margins),
        ];
        let mut loss = preference;
        if self.sft > 0.0 {
            let weights = g.input("sft_weights", Shape::f32(&[2 * shape.batch, shape.length]));
            let sft = g.apply(RowDot { rows: 1 }, &[of_tokens, weights]);
            loss = g.apply(Add, &[loss, sft]);
            scalars.push(("sft_loss", sft));
        }
        Loss { minimised: loss, reported: loss, scalars }
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let (log_probs, _) = log_probs(g, &models[0], NAMES, (2 * shape.batch, shape.length));
        g.output("log_probs", log_probs);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn inference_graphs(&self, _batch: usize) -> Vec<Graph> {
        self.start.iter().flat_map(|start| start.graphs(&self.buckets.0)).collect()
    }

    fn prepare(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let Some(mut start) = self.start.take() else { return Ok(()) };
        for pairs in [&mut self.training, &mut self.validation] {
            let lengths: Vec<usize> = (0..pairs.rows.len()).map(|row| pairs.length(row / 2)).collect();
            let weight = weight(self.loss.form);
            pairs.reference = start.sums(executor, &pairs.rows, (&self.buckets, &lengths), &weight)?;
        }
        start.free(executor);
        Ok(())
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, batch.size, batch.seed);
        let length = self.buckets.0[group.bucket];
        let (pairs, form) = (&self.training, self.loss.form);
        Dpo::set(&mut self.inputs, form, pairs, &group.examples, length, batch);
        for (values, count) in [(&mut self.reference, 2 * batch.size), (&mut self.pair_weights, batch.size)] {
            values.clear();
            values.resize(count, 0.0);
        }
        for (place, pair) in group.examples.iter().enumerate() {
            self.reference[2 * place..2 * place + 2].copy_from_slice(&pairs.reference[2 * pair..2 * pair + 2]);
            self.pair_weights[place] = 1.0;
        }
        batch.set_f32("reference", &self.reference);
        batch.set_f32("pair_weights", &self.pair_weights);
        if self.sft > 0.0 {
            let targets: usize = group.examples.iter().map(|pair| pairs.rows.targets(&[2 * pair])).sum();
            self.sft_weights.clear();
            self.sft_weights.extend(self.inputs.of_even_rows(length, -self.sft / targets as f32));
            batch.set_f32("sft_weights", &self.sft_weights);
        }
        batch.tokens = group.examples.iter().map(|pair| pairs.rows.fed(2 * pair) + pairs.rows.fed(2 * pair + 1)).sum();
        batch.shape = group.bucket;
        Ok(())
    }

    /// The mean loss of pairs, and the share whose chosen answer the model prefers more than its reference does.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let order: Vec<usize> = (0..self.validation.len()).collect();
        let mut batch = Batch::new(programs.settings.batch, 0);
        let (mut loss, mut right) = (0.0, 0);
        for group in group(&self.validation.buckets(&self.buckets), &order, batch.size) {
            batch.clear();
            let length = self.buckets.0[group.bucket];
            Dpo::set(&mut self.inputs, self.loss.form, &self.validation, &group.examples, length, &mut batch);
            batch.shape = group.bucket;
            let program = programs.run(&batch)?;
            let log_probs = programs.executor.read(program, "log_probs")?;
            for (pair, log_probs) in group.examples.iter().zip(log_probs.chunks(2)) {
                let of = |answer: usize| {
                    f64::from(log_probs[answer]) - f64::from(self.validation.reference[2 * pair + answer])
                };
                let delta = of(0) - of(1);
                loss += self.loss.of(delta).0;
                right += usize::from(delta > 0.0);
            }
        }
        let pairs = self.validation.len() as f64;
        let (loss, accuracy) = (loss / pairs, right as f64 / pairs);
        let text = format!("accuracy {accuracy:.3}");
        Ok(Some(Evaluation { loss, value: Some(-loss), scalars: vec![("accuracy", accuracy)], text }))
    }
}
