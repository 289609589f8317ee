//! Masked language modelling, as "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al.
//! 2019), section 3.1, has it: a model predicts tokens that were masked from those on both sides, and, where it is to, whether the
//! second of two texts follows the first.
//!
//!   [CLS] text [SEP], or [CLS] A [SEP] B [SEP] with token types 0 and 1: B follows A, or stands elsewhere, as often as not
//!
//! Only masked positions reach the output projection. The two losses have the same weight.

use std::sync::Arc;

use rand::RngExt;
use rand_pcg::Pcg64;

use super::draws::of_micro_batch;
use super::loss_sum::{add_loss, mean_loss};
use crate::data::batches::Batches;
use crate::data::corpus::Corpus;
use crate::data::masking::{Drawn, Masking};
use crate::data::tokens::Tokens;
use crate::error::Result;
use crate::fail;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{Config, Heads};
use crate::models::network::Network;
use crate::objectives::pretrain::epochs;
use crate::ops::IGNORED;
use crate::ops::add::Add;
use crate::ops::class_loss::ClassLoss;
use crate::ops::gather_rows::GatherRows;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};

/// The objective's name.
pub const NAME: &str = "masked language modelling";
/// Seeds of validation, which no run has, and of second texts that stand elsewhere.
const VALIDATION_SEED: u64 = 0x56a1_1da7e;
const ELSEWHERE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The objective of an encoder's pretraining: mean cross-entropy of masked tokens, in nats.
pub struct Masked {
    networks: [Network; 1],
    /// Tokens of a sequence.
    context: usize,
    /// Masked positions of a sequence, at most.
    most: usize,
    data: Option<Data>,
}

struct Data {
    corpus: Corpus,
    masking: Masking,
    rows: Rows,
    /// Of the training data; made for the micro-batch's size when first asked.
    texts: Option<Texts>,
}

/// Where texts are drawn: windows of the tokens, and windows elsewhere for second texts.
struct Texts {
    windows: Batches,
    elsewhere: Option<Batches>,
}

/// The inputs of a micro-batch.
#[derive(Default)]
struct Rows {
    windows: Vec<u32>,
    elsewhere: Vec<u32>,
    unused: Vec<u32>,
    ids: Vec<u32>,
    types: Vec<u32>,
    positions: Vec<u32>,
    targets: Vec<u32>,
    firsts: Vec<u32>,
    follows: Vec<u32>,
    drawn: Drawn,
}

impl Masked {
    /// Sequences of `context` tokens of a corpus.
    pub fn new(config: Config, context: usize, corpus: Corpus, masking: Masking) -> Result<Masked> {
        if context < 8 {
            fail!(Usage, "sequences of {context} tokens leave no room for texts and masks: give --context 8 or more");
        }
        let pairs = config.heads_of_encoder() == Heads::Pretraining;
        let most = masking.most(text_tokens(context, pairs));
        let data = Data { corpus, masking, rows: Rows::default(), texts: None };
        Ok(Masked { networks: [Network::new(config)], context, most, data: Some(data) })
    }

    /// To plan a run, and to profile a step, with a share of 15% masked.
    pub fn without_data(config: Config, context: usize) -> Masked {
        Masked { networks: [Network::new(config)], context, most: masked_positions(context), data: None }
    }

    /// Whether the model also predicts that a text follows another.
    fn has_pairs(&self) -> bool {
        self.networks[0].config().heads_of_encoder() == Heads::Pretraining
    }

    fn data(&mut self) -> &mut Data {
        self.data.as_mut().expect("a run has data")
    }

    /// The losses of masked tokens and, of pairs, of what follows. Reads the inputs `ids`, `positions`, `targets`, and of pairs
    /// `types`, `firsts`, `follows` and `ones`.
    fn losses(&self, g: &mut Graph, model: &Model, batch: usize) -> (Tensor, Option<Tensor>) {
        let dims = [batch, self.context];
        let ids = g.input("ids", Shape::u32(&dims));
        let types = self.has_pairs().then(|| g.input("types", Shape::u32(&dims)));
        let x = model.encoded(g, ids, types, None); // (B, T, C)
        g.scope("masked tokens");
        let positions = g.input("positions", Shape::u32(&[batch * self.most]));
        let targets = g.input("targets", Shape::u32(&[batch * self.most]));
        let masked = g.apply(GatherRows, &[x, positions]); // (B * masked, C)
        let loss = model.token_loss(g, masked, targets, 1.0);
        if !self.has_pairs() {
            return (loss, None);
        }
        let firsts = g.input("firsts", Shape::u32(&[batch]));
        let first = g.apply(GatherRows, &[x, firsts]);
        let family = model.config.family();
        let pooled = family.pooled(model, g, first);
        let scores = family.follows(model, g, pooled);
        let (classes, ones) = (g.input("follows", Shape::u32(&[batch])), g.input("ones", Shape::f32(&[batch])));
        (loss, Some(g.apply(ClassLoss, &[scores, classes, ones])))
    }
}

/// Masked positions of a sequence of `context` tokens, at the paper's share of 15%.
pub fn masked_positions(context: usize) -> usize {
    (context * 15).div_ceil(100)
}

/// Tokens of text in a sequence.
fn text_tokens(context: usize, pairs: bool) -> usize {
    context - if pairs { 3 } else { 2 }
}

impl Texts {
    fn drawn(tokens: &Arc<Tokens>, batch: usize, context: usize, pairs: bool, seed: u64) -> Result<Texts> {
        let text = text_tokens(context, pairs);
        let windows = |seed| Batches::new(Arc::clone(tokens), batch, text, seed);
        Ok(Texts { windows: windows(seed)?, elsewhere: pairs.then(|| windows(seed ^ ELSEWHERE)).transpose()? })
    }

    fn seek(&mut self, number: u64) {
        self.windows.seek(number);
        self.elsewhere.iter_mut().for_each(|elsewhere| elsewhere.seek(number));
    }
}

impl Rows {
    /// Sets the inputs of a micro-batch to the next texts, masked by `random`.
    fn set(
        &mut self,
        texts: &mut Texts,
        masking: &Masking,
        (context, most): (usize, usize),
        mut random: Pcg64,
        batch: &mut Batch,
    ) -> Result<()> {
        let (size, pairs) = (batch.size, texts.elsewhere.is_some());
        let text = text_tokens(context, pairs);
        for words in [&mut self.windows, &mut self.elsewhere, &mut self.unused] {
            words.resize(size * text, 0);
        }
        texts.windows.next(&mut self.windows, &mut self.unused)?;
        if let Some(elsewhere) = &mut texts.elsewhere {
            elsewhere.next(&mut self.elsewhere, &mut self.unused)?;
        }
        for words in [&mut self.ids, &mut self.types, &mut self.positions, &mut self.targets] {
            words.clear();
        }
        self.firsts.clear();
        self.follows.clear();
        let tokens = masking.tokens();
        for row in 0..size {
            let (window, other) = (&self.windows[row * text..][..text], &self.elsewhere[row * text..][..text]);
            let start = self.ids.len();
            self.ids.push(tokens.first);
            match pairs {
                false => self.ids.extend(window),
                true => {
                    let (end, follows) = (random.random_range(1..text), random.random_bool(0.5));
                    self.ids.extend(&window[..end]);
                    self.ids.push(tokens.separator);
                    self.types.resize(self.ids.len(), 0);
                    self.ids.extend(if follows { &window[end..] } else { &other[end..] });
                    // As in transformers: 0 where the second text follows.
                    self.follows.push(u32::from(!follows));
                }
            }
            self.ids.push(tokens.separator);
            self.types.resize(self.ids.len(), u32::from(pairs));
            self.firsts.push(start as u32);
            for (position, id) in masking.mask(&mut self.ids[start..], &mut random, &mut self.drawn) {
                self.positions.push((start + position) as u32);
                self.targets.push(*id);
            }
            self.positions.resize((row + 1) * most, IGNORED);
            self.targets.resize((row + 1) * most, IGNORED);
        }
        batch.set("ids", &self.ids);
        batch.set("positions", &self.positions);
        batch.set("targets", &self.targets);
        if pairs {
            batch.set("types", &self.types);
            batch.set("firsts", &self.firsts);
            batch.set("follows", &self.follows);
            self.unused.clear();
            self.unused.resize(size, 1.0f32.to_bits());
            batch.set("ones", &self.unused);
        }
        (batch.shape, batch.tokens) = (0, size * context);
        Ok(())
    }
}

impl Objective for Masked {
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
        vec![ShapeKey { batch, sequences: 1, length: self.context }]
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        match self.losses(g, &models[0], shape.batch) {
            (masked, None) => masked.into(),
            (masked, Some(follows)) => {
                let sum = g.apply(Add, &[masked, follows]);
                let scalars = vec![("masked_loss", masked), ("next_sentence_loss", follows)];
                Loss { minimised: sum, reported: sum, scalars }
            }
        }
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        let loss = match self.losses(g, &models[0], shape.batch) {
            (masked, None) => masked,
            (masked, Some(follows)) => g.apply(Add, &[masked, follows]),
        };
        add_loss(g, loss);
    }

    fn epoch(&self, batch: usize) -> u64 {
        let tokens = self.data.as_ref().map_or(0, |data| data.corpus.training.len());
        tokens.div_ceil((batch * text_tokens(self.context, self.has_pairs())) as u64).max(1)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let (sizes, pairs) = ((self.context, self.most), self.has_pairs());
        let Data { corpus, masking, rows, texts } = self.data();
        if texts.is_none() {
            *texts = Some(Texts::drawn(&corpus.training, batch.size, sizes.0, pairs, batch.seed)?);
        }
        let texts = texts.as_mut().expect("made");
        texts.seek(number);
        rows.set(texts, masking, sizes, random(batch.seed, number), batch)
    }

    /// Epochs of each source of a mixture.
    fn drawn(&self, micro_batches: u64, _: usize) -> Vec<(String, f32)> {
        let texts = self.data.as_ref().and_then(|data| data.texts.as_ref());
        texts.map_or(vec![], |texts| epochs(&texts.windows, micro_batches))
    }

    /// The mean over validation texts at even distances, masked the same every time, summed on the device.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let (sizes, pairs, count) = ((self.context, self.most), self.has_pairs(), programs.settings.eval_batches);
        let Data { corpus, masking, rows, .. } = self.data();
        let (size, text) = (programs.settings.batch, text_tokens(sizes.0, pairs));
        let windows = Batches::evenly(Arc::clone(&corpus.validation), size, text, count)?;
        let elsewhere =
            pairs.then(|| Batches::new(Arc::clone(&corpus.validation), size, text, VALIDATION_SEED)).transpose()?;
        let mut texts = Texts { windows, elsewhere };
        mean_loss(programs, &mut |number, batch| {
            rows.set(&mut texts, masking, sizes, random(VALIDATION_SEED, number), batch)
        })
    }
}

/// Draws the masks of a micro-batch, as a function of the run's seed and its number.
fn random(seed: u64, number: u64) -> Pcg64 {
    of_micro_batch(seed.wrapping_add(ELSEWHERE), number)
}
