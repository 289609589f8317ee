//! Roll-outs: answers that the policy draws to prompts, with their rewards and the reference's log-probabilities, between the steps of
//! a run. Which prompts come, and the seed of each answer, are functions of the run's seed and the roll-out's number alone.

use std::time::Instant;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::reference::{REFERENCE, Reference};
use super::rewards::{Judged, Rewards};
use super::rows::Rows;
use crate::data::buckets::Buckets;
use crate::data::dialogues::{Encoded, Part};
use crate::data::prompts::Prompt;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;
use crate::formats::folder::Weights;
use crate::generate::{Generator, MOST_ROWS, Request, SamplingParams};
use crate::graph::{Graph, Tensor};
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::scale::Scale;
use crate::ops::squared_error::SquaredError;
use crate::train::objective::RollOut;

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

    /// None where it could not be judged.
    pub fn reward(&self) -> Option<f32> {
        self.reward.map(f32::from_bits)
    }

    /// The sum over its tokens of the difference between both log-probabilities: an estimate of the KL divergence of the policy from its
    /// reference, in nats per answer.
    pub fn log_ratio(&self) -> f64 {
        self.log_probs().zip(self.references()).map(|(own, reference)| f64::from(own) - f64::from(reference)).sum()
    }
}

/// What draws answers, and has them judged.
pub struct RollOuts {
    pub questions: Vec<Question>,
    pub validation: Vec<Question>,
    pub drawing: Drawing,
    pub rewards: Box<dyn Rewards>,
    tokenizer: Tokenizer,
    reference: Reference,
    generator: Option<Generator>,
    pub buckets: Buckets,
}

impl RollOuts {
    /// `start` is the model that the run started from, the reference.
    pub fn new(
        (questions, validation): (Vec<Question>, Vec<Question>),
        drawing: Drawing,
        rewards: Box<dyn Rewards>,
        tokenizer: Tokenizer,
        start: (Config, Weights),
    ) -> RollOuts {
        let longest = questions.iter().chain(&validation).map(|q| q.ids.len()).max().unwrap_or(1) + drawing.tokens;
        let mut lengths: Vec<usize> =
            (1..=LENGTHS).map(|part| (longest * part).div_ceil(LENGTHS).next_multiple_of(8).min(longest)).collect();
        lengths.dedup();
        let reference = Reference::new(start, REFERENCE, REFERENCE_ROWS);
        let buckets = Buckets(lengths);
        RollOuts { questions, validation, drawing, rewards, tokenizer, reference, generator: None, buckets }
    }

    /// Forgets what is on a device that is no longer there.
    pub fn forget(&mut self) {
        self.generator = None;
        self.reference.forget();
        self.rewards.forget();
    }

    /// `count` answers for roll-out `number` of a run: `generations` for each prompt, those of one prompt after another.
    pub fn draw(
        &mut self,
        executor: &mut dyn Executor,
        network: &Network,
        (number, count): (u64, usize),
        seed: u64,
    ) -> Result<(Vec<Answer>, RollOut)> {
        let start = Instant::now();
        let prompts = count / self.drawing.generations;
        let chosen: Vec<usize> =
            (0..prompts as u64).map(|n| nth(number * prompts as u64 + n, self.questions.len(), seed)).collect();
        let asked: Vec<usize> =
            chosen.iter().flat_map(|question| std::iter::repeat_n(*question, self.drawing.generations)).collect();
        let first = (number as u32).wrapping_mul(count as u32).wrapping_add(seed_of(seed));
        let mut answers = self.answers(executor, network, (false, &asked), first)?;
        let drawn_ms = start.elapsed().as_secs_f32() * 1e3;
        self.judge(executor, false, &mut answers)?;
        let mut rolled = measures(&answers);
        rolled.scalars.push(("generation_ms", drawn_ms));
        rolled.scalars.push(("rollout_ms", start.elapsed().as_secs_f32() * 1e3));
        rolled.sample = answers.first().map(|answer| self.shown(answer)).transpose()?;
        Ok((answers, rolled))
    }

    /// One answer to each validation prompt, judged, and what they say of the policy.
    pub fn validate(&mut self, executor: &mut dyn Executor, network: &Network) -> Result<RollOut> {
        let asked: Vec<usize> = (0..self.validation.len()).collect();
        let mut answers = self.answers(executor, network, (true, &asked), 0)?;
        self.judge(executor, true, &mut answers)?;
        Ok(measures(&answers))
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
    fn judge(&mut self, executor: &mut dyn Executor, validation: bool, answers: &mut [Answer]) -> Result<()> {
        let mut texts = vec![];
        for answer in answers.iter() {
            texts.push(self.text(answer)?);
        }
        let questions = if validation { &self.validation } else { &self.questions };
        let judged = answers.iter().zip(&texts).map(|(answer, text)| {
            let Question { prompt, .. } = &questions[answer.question];
            let whole = prompt.answered(text, &self.tokenizer)?;
            let rendered = matches!(prompt.prompt, Part::Messages(_));
            Ok(Judged { row: &prompt.row, line: prompt.line, whole, rendered, answer: text, tokens: answer.ids.len() })
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

/// The question at place `n` of a run that goes through `count` questions again and again, each time in another order.
fn nth(n: u64, count: usize, seed: u64) -> usize {
    let (pass, place) = (n / count as u64, (n % count as u64) as usize);
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut Pcg64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ pass));
    order[place]
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

#[cfg(test)]
mod tests {
    use super::nth;

    #[test]
    fn each_question_comes_once_a_pass_in_another_order() {
        let passes: Vec<Vec<usize>> = (0..3).map(|pass| (0..7).map(|n| nth(7 * pass + n, 7, 5)).collect()).collect();
        for pass in &passes {
            let mut sorted = pass.clone();
            sorted.sort();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert!(passes[0] != passes[1] && passes[1] != passes[2]);
    }
}
