//! Span corruption, as "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (Raffel et al. 2020) pretrains:
//! an encoder reads a text of which spans are left out, and a decoder writes these; see [`crate::data::span_corruption`].
//!
//!   loss = mean over the tokens of targets of -log p(token | input, targets before it)

use std::sync::Arc;

use rand_pcg::Pcg64;

use super::draws::of_micro_batch;
use super::loss_sum::{add_loss, mean_loss};
use crate::data::batches::Batches;
use crate::data::corpus::Corpus;
use crate::data::span_corruption::{Lengths, Sentinels};
use crate::error::Result;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};

/// The objective's name.
pub const NAME: &str = "span corruption";
/// The seed of validation's spans, which no run has.
const VALIDATION_SEED: u64 = 0x0075_9a11_da7e;
/// Parts the random numbers of spans from those of windows, which have the run's seed.
const SPANS: u64 = 0x5b9a_2c01;

/// The objective of an encoder's and decoder's pretraining: mean cross-entropy of the spans' tokens, in nats.
pub struct Span {
    networks: [Network; 1],
    lengths: Lengths,
    data: Option<Data>,
}

struct Data {
    corpus: Corpus,
    sentinels: Sentinels,
    /// The first token of the decoder.
    start: u32,
    /// Of the training data; made for the micro-batch's size when first asked.
    windows: Option<Batches>,
    rows: Rows,
}

/// The inputs of a micro-batch.
#[derive(Default)]
struct Rows {
    windows: Vec<u32>,
    unused: Vec<u32>,
    ids: Vec<u32>,
    outputs: Vec<u32>,
    targets: Vec<u32>,
}

impl Span {
    /// Inputs of at most `context` tokens of a corpus.
    pub fn new(config: Config, context: usize, corpus: Corpus, sentinels: Sentinels) -> Result<Span> {
        let start = config.must_read_and_write("write what was left out of a text")?.start;
        let lengths = Lengths::fit(context)?;
        let data = Data { corpus, sentinels, start, windows: None, rows: Rows::default() };
        Ok(Span { networks: [Network::new(config)], lengths, data: Some(data) })
    }

    /// To plan a run, and to profile a step.
    pub fn without_data(config: Config, context: usize) -> Span {
        let lengths = Lengths::fit(context.max(4)).expect("a context of four tokens or more has room");
        Span { networks: [Network::new(config)], lengths, data: None }
    }

    fn data(&mut self) -> &mut Data {
        self.data.as_mut().expect("a run has data")
    }

    /// Reads the inputs `ids` (B, S), `outputs` and `targets` (B, T).
    fn mean(&self, g: &mut Graph, model: &Model, batch: usize) -> Tensor {
        let ids = g.input("ids", Shape::u32(&[batch, self.lengths.inputs()]));
        let encoded = model.source(g, ids, None);
        let dims = [batch, self.lengths.targets()];
        let outputs = g.input("outputs", Shape::u32(&dims));
        let x = model.hidden_after(g, outputs, encoded, None);
        let targets = g.input("targets", Shape::u32(&dims));
        model.token_loss(g, x, targets, 1.0)
    }
}

impl Data {
    /// Sets the inputs of a micro-batch to the next windows, with spans drawn by `random`.
    fn set(&mut self, windows: &mut Batches, lengths: Lengths, mut random: Pcg64, batch: &mut Batch) -> Result<()> {
        let Rows { windows: text, unused, ids, outputs, targets } = &mut self.rows;
        [&mut *text, unused].into_iter().for_each(|words| words.resize(batch.size * lengths.text, 0));
        windows.next(text, unused)?;
        [&mut *ids, outputs, targets].into_iter().for_each(|words| words.clear());
        for text in text.chunks(lengths.text) {
            let first = targets.len();
            lengths.corrupt(text, &self.sentinels, &mut random, (ids, targets));
            outputs.push(self.start);
            outputs.extend(&targets[first..targets.len() - 1]);
        }
        batch.set("ids", ids);
        batch.set("outputs", outputs);
        batch.set("targets", targets);
        (batch.shape, batch.tokens) = (0, batch.size * lengths.text);
        Ok(())
    }
}

impl Objective for Span {
    fn name(&self) -> &str {
        NAME
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_encoder_decoders(&self) -> bool {
        true
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        vec![ShapeKey { batch, sequences: 1, length: self.lengths.inputs() }]
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        self.mean(g, &models[0], shape.batch).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = self.mean(g, &models[0], shape.batch);
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        let tokens = self.data.as_ref().map_or(0, |data| data.corpus.training.len());
        tokens.div_ceil((batch * self.lengths.text) as u64).max(1)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let lengths = self.lengths;
        let data = self.data();
        let mut windows = match data.windows.take() {
            Some(windows) => windows,
            None => Batches::new(Arc::clone(&data.corpus.training), batch.size, lengths.text, batch.seed)?,
        };
        windows.seek(number);
        data.set(&mut windows, lengths, random(batch.seed, number), batch)?;
        data.windows = Some(windows);
        Ok(())
    }

    /// The mean over validation texts at even distances, with the same spans every time.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let (lengths, count) = (self.lengths, programs.settings.eval_batches);
        let data = self.data();
        let validation = Arc::clone(&data.corpus.validation);
        let mut windows = Batches::evenly(validation, programs.settings.batch, lengths.text, count)?;
        mean_loss(programs, &mut |number, batch| {
            data.set(&mut windows, lengths, random(VALIDATION_SEED, number), batch)
        })
    }
}

/// Draws the spans of a micro-batch, as a function of the run's seed and its number.
fn random(seed: u64, number: u64) -> Pcg64 {
    of_micro_batch(seed ^ SPANS, number)
}
