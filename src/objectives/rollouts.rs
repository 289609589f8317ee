//! Roll-outs: answers that the policy draws to prompts, with their rewards and the reference's log-probabilities, between the steps of
//! a run. Which prompts come, and the seed of each answer, are functions of the run's seed and the roll-out's number alone.

mod answer;
mod schedule;

use std::time::Instant;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::answer::Answer;
use self::answer::measures;
pub use self::schedule::Schedule;

use super::reference::{REFERENCE, Reference};
use super::rewards::{Candidate, Rewards};
use super::rows::{NAMES, Rows, log_probs};
use crate::data::buckets::{Buckets, Epochs, epoch_len};
use crate::data::dialogues::{Encoded, Part};
use crate::data::prompts::Prompt;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::fail;
use crate::formats::folder::Weights;
use crate::generate::{Generator, MOST_ROWS, Request, SamplingParams, generation_graphs};
use crate::graph::{Graph, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::scale::Scale;
use crate::ops::squared_error::SquaredError;
use crate::train::objective::{Evaluation, RollOut, ShapeKey};

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
    /// Of these, how many steps learn from.
    pub learned: usize,
    /// Tokens that end an answer, and are its last.
    pub ends: Vec<u32>,
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

    /// The same, with the base of `policy` as the reference where the policy trains nothing but adapters.
    pub fn of_policy(mut self, policy: &Network) -> RollOuts {
        self.reference = self.reference.of_policy(policy);
        self
    }

    /// The graphs that draw answers for micro-batches of `batch`, reward them and tell the reference's log-probabilities.
    pub fn inference_graphs(&self, policy: &Network, batch: usize) -> Vec<Graph> {
        let longest = self.questions.iter().chain(&self.validation).map(|q| q.ids.len()).max().unwrap_or(1);
        let vocabulary = self.vocabulary(policy);
        let mut graphs = generation_graphs(policy, (vocabulary, self.rows(batch)), longest);
        graphs.extend(self.reference.graphs(&self.buckets.0));
        graphs.extend(self.rewards.graphs());
        graphs
    }

    /// Answers that are drawn for micro-batches of `batch`.
    fn answers_of_roll_out(&self, batch: usize) -> usize {
        (batch * self.schedule.micro_batches() as usize).div_ceil(self.drawing.learned) * self.drawing.generations
    }

    /// Answers that are drawn at a time.
    fn rows(&self, batch: usize) -> usize {
        self.answers_of_roll_out(batch).min(MOST_ROWS)
    }

    /// Ids below it may be drawn.
    fn vocabulary(&self, policy: &Network) -> usize {
        self.tokenizer.vocabulary_size().min(policy.config().vocab_size)
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
        epoch_len(self.questions.len() * self.drawing.learned, batch) * self.schedule.iterations
    }

    /// The shape of a micro-batch of some rows, and its length.
    pub(super) fn shape(&self, rows: &Rows, members: &[usize]) -> (usize, usize) {
        let shape = self.buckets.of(members.iter().map(|row| rows.fed(*row)).max().unwrap_or(0));
        (shape, self.buckets.0[shape])
    }

    /// The answers of roll-out `number` of a run, at a temperature, for micro-batches of `batch`: `generations` to each prompt, one after
    /// another.
    pub fn draw(
        &mut self,
        executor: &mut dyn Executor,
        network: &Network,
        (number, batch): (u64, usize),
        temperature: f32,
    ) -> Result<(Vec<Answer>, RollOut)> {
        let start = Instant::now();
        let (seed, generations) = (self.schedule.seed, self.drawing.generations);
        let prompts = (self.answers_of_roll_out(batch) / generations) as u64;
        let first = number * prompts;
        let chosen: Vec<usize> = (first..first + prompts).map(|n| self.passes.group(n, 1, seed).examples[0]).collect();
        let asked: Vec<usize> =
            chosen.iter().flat_map(|question| std::iter::repeat_n(*question, generations)).collect();
        let first_seed = (number as u32).wrapping_mul(asked.len() as u32).wrapping_add(seed_of(seed));
        let mut answers = self.answers(executor, network, (false, &asked), (temperature, first_seed))?;
        let drawn_ms = start.elapsed().as_secs_f32() * 1e3;
        self.reward(executor, false, &mut answers)?;
        self.refer(executor, false, &mut answers)?;
        let mut rolled = measures(&answers);
        rolled.scalars.push(("generation_ms", drawn_ms));
        rolled.scalars.push(("rollout_ms", start.elapsed().as_secs_f32() * 1e3));
        rolled.sample = answers.first().map(|answer| self.shown(answer)).transpose()?;
        Ok((answers, rolled))
    }

    /// Answers to the first validation prompts, at most `most`, at a temperature, with their rewards: `generations` to each.
    pub fn try_out(
        &mut self,
        executor: &mut dyn Executor,
        network: &Network,
        most: usize,
        (temperature, first_seed): (f32, u32),
    ) -> Result<Vec<Answer>> {
        let (questions, generations) = (self.validation.len().min(most), self.drawing.generations);
        let asked: Vec<usize> =
            (0..questions).flat_map(|question| std::iter::repeat_n(question, generations)).collect();
        let mut answers = self.answers(executor, network, (true, &asked), (temperature, first_seed))?;
        self.reward(executor, true, &mut answers)?;
        Ok(answers)
    }

    /// The rewards of one answer to each validation prompt; nothing where there are none.
    pub fn evaluate(&mut self, executor: &mut dyn Executor, network: &Network) -> Result<Option<Evaluation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        Ok(Some(measures(&self.validate(executor, network, 0)?).evaluation()))
    }

    /// An answer to each validation prompt, with its reward and the reference's log-probabilities.
    pub fn validate(&mut self, executor: &mut dyn Executor, network: &Network, first_seed: u32) -> Result<Vec<Answer>> {
        let asked: Vec<usize> = (0..self.validation.len()).collect();
        let mut answers =
            self.answers(executor, network, (true, &asked), (self.drawing.params.temperature, first_seed))?;
        self.reward(executor, true, &mut answers)?;
        self.refer(executor, true, &mut answers)?;
        Ok(answers)
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
        (temperature, first_seed): (f32, u32),
    ) -> Result<Vec<Answer>> {
        let vocabulary = self.vocabulary(network);
        let mut generator = match self.generator.take() {
            Some(generator) => generator,
            // Always as many rows, so that a resumed run draws with the same kernels.
            None => Generator::of_store(executor, network, vocabulary, self.rows(self.schedule.batch))?,
        };
        let mut answers: Vec<Answer> = asked.iter().copied().map(Answer::to).collect();
        let (questions, Drawing { params, tokens, ends, .. }) = (self.set(validation), &self.drawing);
        let params = SamplingParams { temperature, ..*params };
        let request = |(n, question): (usize, &usize)| Request {
            prompt: questions[*question].ids.clone(),
            tokens: *tokens,
            seed: first_seed.wrapping_add(n as u32),
            params,
            best: 0,
        };
        generator.generate(executor, &mut asked.iter().enumerate().map(request), &mut |n, token| {
            let answer = &mut answers[n];
            answer.ids.push(token.id);
            answer.log_probs.push(token.log_probability.to_bits());
            answer.ended = ends.contains(&token.id);
            Ok(!answer.ended)
        })?;
        self.generator = Some(generator);
        Ok(answers)
    }

    /// Sets the rewards of answers.
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
        Ok(())
    }

    /// Sets the reference's log-probabilities of answers.
    fn refer(&mut self, executor: &mut dyn Executor, validation: bool, answers: &mut [Answer]) -> Result<()> {
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
    pub fn text(&self, answer: &Answer) -> Result<String> {
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

/// The graph that policies are evaluated with: the log-probabilities of answers.
pub(super) fn evaluation(g: &mut Graph, policy: &Model, shape: ShapeKey) {
    let (_, of_tokens) = log_probs(g, policy, NAMES, (shape.batch, shape.length));
    g.output("log_probs", of_tokens);
}

/// How far a policy has moved from the one that drew: half the mean square of the difference of log-probabilities, as PPO's code has it.
pub(super) fn approx_kl(g: &mut Graph, log_probs: Tensor, old: Tensor, weights: Tensor) -> Tensor {
    let squares = g.apply(SquaredError, &[log_probs, old, weights]);
    g.apply(Scale { factor: 0.5 }, &[squares])
}

/// The run's seed, as the first of its answers' seeds.
pub(super) fn seed_of(seed: u64) -> u32 {
    (seed as u32).wrapping_mul(0x9e37_79b9)
}

/// What a checkpoint keeps of an objective, as the objective has it.
pub(super) fn kept<T: DeserializeOwned>(state: &Value) -> Result<Option<T>> {
    let damaged = |why| Error::Input(format!("trainer.json is damaged ({why}): restore it from a copy"));
    serde_json::from_value(state.clone()).map_err(damaged)
}
