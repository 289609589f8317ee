//! Roll-outs: answers that the policy draws to prompts, with their rewards and the reference's log-probabilities, between the steps of
//! a run. Which prompts come, and the seed of each answer, are functions of the run's seed and the roll-out's number alone.

use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reference::{REFERENCE, Reference};
use super::rewards::{Candidate, Rewards};
use super::rows::Rows;
use crate::data::buckets::{Buckets, Epochs, epoch_len};
use crate::data::dialogues::{Encoded, Part};
use crate::data::prompts::Prompt;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::fail;
use crate::formats::folder::Weights;
use crate::generate::{Generator, MOST_ROWS, Request, SamplingParams};
use crate::graph::{Graph, Tensor};
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::scale::Scale;
use crate::ops::squared_error::SquaredError;
use crate::train::objective::{Evaluation, RollOut, ShapeKey};
use crate::train::settings::Settings;

/// Answers that the reference sees at a time.
const REFERENCE_ROWS: usize = 8;
/// Lengths that prompts with their answers are padded to.
const LENGTHS: usize = 3;

/// A prompt that is ready to be answered.
pub struct Question {
    pub prompt: Prompt,
    pub text: String,
    pub ids: Vec<u32>,
}

/// How answers are drawn.
#[derive(Clone, Debug)]
pub struct Drawing {
    pub params: SamplingParams,
    /// Tokens of an answer, at most.
    pub tokens: usize,
    /// Answers to each prompt.
    pub generations: usize,
    /// Tokens that end an answer, and are its last.
    pub ends: Vec<u32>,
}

/// Which steps learn from which roll-out.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Steps that one roll-out is drawn for, each of which sees a share of its answers.
    pub steps_per_rollout: u64,
    /// How often each answer is seen.
    pub iterations: u64,
    /// Micro-batches of a step.
    pub accumulate: u64,
    /// The run's.
    pub seed: u64,
}

impl Schedule {
    /// The schedule of a run with these settings.
    pub fn new(settings: &Settings, steps_per_rollout: u64, iterations: u64) -> Schedule {
        Schedule { steps_per_rollout, iterations, accumulate: settings.accumulate as u64, seed: settings.seed }
    }

    /// Steps that learn from one roll-out.
    pub fn steps(&self) -> u64 {
        self.steps_per_rollout * self.iterations
    }

    /// Micro-batches that see each answer of a roll-out once.
    pub fn micro_batches(&self) -> u64 {
        self.steps_per_rollout * self.accumulate
    }

    /// The order in which micro-batches take `count` answers, the `pass`th time: that of the answers where one takes all.
    pub fn order(&self, count: usize, pass: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        if self.micro_batches() > 1 {
            order.shuffle(&mut Pcg64::seed_from_u64(self.seed ^ pass.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
        order
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub question: usize,
    pub ids: Vec<u32>,
    /// The policy's log-probabilities of the tokens when they were drawn, as bits: JSON does not keep every one.
    log_probs: Vec<u32>,
    /// The reference's.
    references: Vec<u32>,
    /// Whether it ended by itself.
    pub ended: bool,
    reward: Option<u32>,
}

impl Answer {
    /// Log-probabilities of its tokens when they were drawn, in nats.
    pub fn log_probs(&self) -> impl Iterator<Item = f32> {
        self.log_probs.iter().map(|bits| f32::from_bits(*bits))
    }

    /// Those of the reference.
    pub fn references(&self) -> impl Iterator<Item = f32> {
        self.references.iter().map(|bits| f32::from_bits(*bits))
    }

    /// None where its source gave none.
    pub fn reward(&self) -> Option<f32> {
        self.reward.map(f32::from_bits)
    }

    /// The sum over its tokens of the difference between both log-probabilities: an estimate of the KL divergence of the policy from its
    /// reference, in nats per answer.
    pub fn log_ratio(&self) -> f64 {
        self.log_probs().zip(self.references()).map(|(own, reference)| f64::from(own) - f64::from(reference)).sum()
    }
}

/// Draws answers and has them rewarded.
pub struct RollOuts {
    pub questions: Vec<Question>,
    pub validation: Vec<Question>,
    pub drawing: Drawing,
    pub schedule: Schedule,
    rewards: Box<dyn Rewards>,
    /// The questions of a run, pass by pass.
    passes: Epochs,
    tokenizer: Tokenizer,
    reference: Reference,
    generator: Option<Generator>,
    pub buckets: Buckets,
}

impl RollOuts {
    /// `start` is the model that the run started from, the reference.
    pub fn new(
        (questions, validation): (Vec<Question>, Vec<Question>),
        (drawing, schedule): (Drawing, Schedule),
        rewards: Box<dyn Rewards>,
        tokenizer: Tokenizer,
        start: (Config, Weights),
    ) -> RollOuts {
        let longest = questions.iter().chain(&validation).map(|q| q.ids.len()).max().unwrap_or(1) + drawing.tokens;
        let mut lengths: Vec<usize> =
            (1..=LENGTHS).map(|part| (longest * part).div_ceil(LENGTHS).next_multiple_of(8).min(longest)).collect();
        lengths.dedup();
        let reference = Reference::new(start, REFERENCE, REFERENCE_ROWS);
        let (buckets, passes) = (Buckets(lengths), Epochs::new(vec![0; questions.len()]));
        RollOuts {
            questions,
            validation,
            drawing,
            schedule,
            rewards,
            passes,
            tokenizer,
            reference,
            generator: None,
            buckets,
        }
    }

    /// Forgets what is on a device that is no longer there.
    pub fn forget(&mut self) {
        self.generator = None;
        self.reference.forget();
        self.rewards.forget();
    }

    /// Shapes of micro-batches of `batch` answers with their prompts.
    pub fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences: 1, length }).collect()
    }

    /// Micro-batches of `batch` answers in one pass over the prompts.
    pub fn epoch(&self, batch: usize) -> u64 {
        epoch_len(self.questions.len() * self.drawing.generations, batch) * self.schedule.iterations
    }

    /// The shape of a micro-batch of some rows, and its length.
    pub(super) fn shape(&self, rows: &Rows, members: &[usize]) -> (usize, usize) {
        let shape = self.buckets.of(members.iter().map(|row| rows.fed(*row)).max().unwrap_or(0));
        (shape, self.buckets.0[shape])
    }

    /// The answers of roll-out `number` of a run, for micro-batches of `batch`: `generations` to each prompt, one after another.
    pub fn draw(
        &mut self,
        executor: &mut dyn Executor,
        network: &Network,
        (number, batch): (u64, usize),
    ) -> Result<(Vec<Answer>, RollOut)> {
        let start = Instant::now();
        let (seed, count) = (self.schedule.seed, batch * self.schedule.micro_batches() as usize);
        let prompts = (count / self.drawing.generations) as u64;
        let first = number * prompts;
        let chosen: Vec<usize> = (first..first + prompts).map(|n| self.passes.group(n, 1, seed).examples[0]).collect();
        let asked: Vec<usize> =
            chosen.iter().flat_map(|question| std::iter::repeat_n(*question, self.drawing.generations)).collect();
        let first = (number as u32).wrapping_mul(count as u32).wrapping_add(seed_of(seed));
        let mut answers = self.answers(executor, network, (false, &asked), first)?;
        let drawn_ms = start.elapsed().as_secs_f32() * 1e3;
        self.reward(executor, false, &mut answers)?;
        let mut rolled = measures(&answers);
        rolled.scalars.push(("generation_ms", drawn_ms));
        rolled.scalars.push(("rollout_ms", start.elapsed().as_secs_f32() * 1e3));
        rolled.sample = answers.first().map(|answer| self.shown(answer)).transpose()?;
        Ok((answers, rolled))
    }

    /// The rewards of one answer to each validation prompt; nothing where there are none.
    pub fn evaluate(&mut self, executor: &mut dyn Executor, network: &Network) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let asked: Vec<usize> = (0..self.validation.len()).collect();
        let mut answers = self.answers(executor, network, (true, &asked), 0)?;
        self.reward(executor, true, &mut answers)?;
        Ok(Some(measures(&answers).evaluation()))
    }

    fn set(&self, validation: bool) -> &[Question] {
        if validation { &self.validation } else { &self.questions }
    }

    /// Draws an answer for each question that is asked, by the parameters in the store.
    fn answers(
        &mut self,
        executor: &mut dyn Executor,
        network: &Network,
        (validation, asked): (bool, &[usize]),
        first_seed: u32,
    ) -> Result<Vec<Answer>> {
        let vocabulary = self.tokenizer.vocabulary_size().min(network.config().vocab_size);
        let mut generator = match self.generator.take() {
            Some(generator) => generator,
            None => Generator::of_store(executor, network, vocabulary, MOST_ROWS.min(asked.len()))?,
        };
        let empty = |question: &usize| Answer {
            question: *question,
            ids: vec![],
            log_probs: vec![],
            references: vec![],
            ended: false,
            reward: None,
        };
        let mut answers: Vec<Answer> = asked.iter().map(empty).collect();
        let (questions, Drawing { params, tokens, ends, .. }) = (self.set(validation), &self.drawing);
        let request = |(n, question): (usize, &usize)| Request {
            prompt: questions[*question].ids.clone(),
            tokens: *tokens,
            seed: first_seed.wrapping_add(n as u32),
        };
        generator.generate(executor, &mut asked.iter().enumerate().map(request), params, &mut |n, token| {
            let answer = &mut answers[n];
            answer.ids.push(token.id);
            answer.log_probs.push(token.log_probability.to_bits());
            answer.ended = ends.contains(&token.id);
            Ok(!answer.ended)
        })?;
        self.generator = Some(generator);
        Ok(answers)
    }

    /// Sets the rewards and the reference's log-probabilities of answers.
    fn reward(&mut self, executor: &mut dyn Executor, validation: bool, answers: &mut [Answer]) -> Result<()> {
        let mut texts = vec![];
        for answer in answers.iter() {
            texts.push(self.text(answer)?);
        }
        let questions = if validation { &self.validation } else { &self.questions };
        let judged = answers.iter().zip(&texts).map(|(answer, text)| {
            let Question { prompt, .. } = &questions[answer.question];
            let whole = prompt.answered(text, &self.tokenizer)?;
            let rendered = matches!(prompt.prompt, Part::Messages(_));
            Ok(Candidate {
                row: &prompt.row,
                line: prompt.line,
                whole,
                rendered,
                answer: text,
                tokens: answer.ids.len(),
            })
        });
        let rewards = self.rewards.of(executor, &judged.collect::<Result<Vec<_>>>()?)?;
        if let Some(n) = rewards.iter().position(|reward| reward.is_some_and(|reward| !reward.is_finite())) {
            fail!(Input, "the reward of answer {} of {} is not a number: {:?}", n + 1, rewards.len(), texts[n]);
        }
        answers.iter_mut().zip(rewards).for_each(|(answer, reward)| answer.reward = reward.map(f32::to_bits));
        let rows = Rows::new(answers.iter().map(|answer| self.encoded(validation, answer)).collect(), None);
        let lengths: Vec<usize> = (0..rows.len()).map(|row| rows.fed(row)).collect();
        let of_tokens = self.reference.of_tokens(executor, &rows, (&self.buckets, &lengths))?;
        for (answer, values) in answers.iter_mut().zip(of_tokens) {
            let first = values.len() - answer.ids.len();
            answer.references = values[first..].iter().map(|value| value.to_bits()).collect();
        }
        Ok(())
    }

    /// A prompt with an answer, which is learned.
    pub fn encoded(&self, validation: bool, answer: &Answer) -> Encoded {
        let prompt = &self.set(validation)[answer.question].ids;
        let ids: Vec<u32> = prompt.iter().chain(&answer.ids).copied().collect();
        let learned = (0..ids.len()).map(|at| at >= prompt.len()).collect();
        Encoded { ids, learned, parted: false }
    }

    /// An answer's text, without the token that ends it.
    fn text(&self, answer: &Answer) -> Result<String> {
        let ids = &answer.ids[..answer.ids.len() - usize::from(answer.ended)];
        self.tokenizer.decode(ids)
    }

    /// A prompt with an answer and its reward, for people.
    fn shown(&self, answer: &Answer) -> Result<String> {
        let (prompt, text) = (&self.questions[answer.question].text, self.text(answer)?);
        let reward = answer.reward().map_or("no reward".to_string(), |reward| format!("reward {reward:.3}"));
        Ok(format!("{}[{}] {reward}", prompt.trim_start(), text.trim_end()))
    }
}

/// How far a policy has moved from the one that drew: half the mean square of the difference of log-probabilities, as PPO's code has it.
pub(super) fn approx_kl(g: &mut Graph, log_probs: Tensor, old: Tensor, weights: Tensor) -> Tensor {
    let squares = g.apply(SquaredError, &[log_probs, old, weights]);
    g.apply(Scale { factor: 0.5 }, &[squares])
}

/// The run's seed, as the first of its answers' seeds.
fn seed_of(seed: u64) -> u32 {
    (seed as u32).wrapping_mul(0x9e37_79b9)
}

/// What a checkpoint keeps of an objective, as the objective has it.
pub(super) fn kept<T: DeserializeOwned>(state: &Value) -> Result<Option<T>> {
    let damaged = |why| Error::Input(format!("trainer.json is damaged ({why}): restore it from a copy"));
    serde_json::from_value(state.clone()).map_err(damaged)
}

/// What answers say of a policy.
fn measures(answers: &[Answer]) -> RollOut {
    let count = answers.len() as f64;
    let mean = |of: &dyn Fn(&Answer) -> f64| (answers.iter().map(of).sum::<f64>() / count) as f32;
    let tokens: usize = answers.iter().map(|answer| answer.ids.len()).sum();
    let drawn: f64 = answers.iter().flat_map(Answer::log_probs).map(f64::from).sum();
    let rewards: Vec<f64> = answers.iter().filter_map(Answer::reward).map(f64::from).collect();
    let reward = rewards.iter().sum::<f64>() / (rewards.len() as f64).max(1.0);
    let spread = rewards.iter().map(|r| (r - reward).powi(2)).sum::<f64>() / (rewards.len() as f64 - 1.0).max(1.0);
    let scalars = vec![
        ("reward", reward as f32),
        ("reward_std", spread.sqrt() as f32),
        ("kl", mean(&Answer::log_ratio)),
        // What a token was drawn at says its entropy, on average.
        ("entropy", (-drawn / tokens.max(1) as f64) as f32),
        ("answer_tokens", mean(&|answer| answer.ids.len() as f64)),
        ("ended", mean(&|answer| f64::from(u8::from(answer.ended)))),
    ];
    RollOut { scalars, sample: None }
}
