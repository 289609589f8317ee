//! Rejection sampling: "Llama 2: Open Foundation and Fine-Tuned Chat Models" (Touvron et al. 2023, section 3.2.3).
//!
//! In each round the policy draws K answers to each prompt, and the steps of the round learn the one with the highest reward as
//! supervised fine-tuning does:
//!
//!   loss = -sum of the log-probabilities of the best answers' tokens / their number, over all micro-batches of a step
//!
//! The more varied answers are, the better is the best of them, up to a point which moves as the policy learns. So each round first draws
//! K answers to some validation prompts at every temperature of a list, and takes the one whose best answers have the highest mean reward.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rollouts::{Answer, RollOuts, evaluation, kept, seed_of};
use super::rows::{Inputs, Rows};
use super::sft;
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;
use crate::graph::Graph;
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, RollOut, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// That of supervised fine-tuning.
pub const RECIPE: Recipe = sft::RECIPE;

/// Validation prompts that temperatures are tried on, at most.
const TRIED_PROMPTS: usize = 64;

/// A round under way.
struct Round {
    number: u64,
    /// The best answer to each prompt.
    answers: Vec<Answer>,
    rows: Rows,
    /// A pass over the answers, and the order in which its micro-batches take them.
    order: (u64, Vec<usize>),
}

/// What a checkpoint keeps of a round that further steps learn from.
#[derive(Serialize, Deserialize)]
struct Kept {
    round: u64,
    answers: Vec<Answer>,
}

/// The mean rewards that answers have at a temperature: of all, and of the best to each prompt.
struct Tried {
    temperature: f32,
    mean: f64,
    best: f64,
}

/// The objective of rejection sampling.
pub struct Rejection {
    networks: [Network; 1],
    rollouts: RollOuts,
    /// Temperatures that each round tries.
    temperatures: Vec<f32>,
    round: Option<Round>,
    inputs: Inputs,
}

impl Rejection {
    /// Without temperatures to try, each round draws at that of the roll-outs. Steps learn one answer to each prompt.
    pub fn new(config: Config, settings: &Settings, rollouts: RollOuts, temperatures: Vec<f32>) -> Rejection {
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let rollouts = rollouts.of_policy(&networks[0]);
        Rejection { networks, rollouts, temperatures, round: None, inputs: Inputs::default() }
    }

    /// Draws answers to validation prompts at each temperature before round `number`: their mean rewards.
    fn tried(&mut self, executor: &mut dyn Executor, number: u64) -> Result<Vec<Tried>> {
        let (mut all, seed) = (vec![], seed_of(!self.rollouts.schedule.seed).wrapping_add(number as u32));
        for &temperature in &self.temperatures {
            let answers = self.rollouts.try_out(executor, &self.networks[0], TRIED_PROMPTS, (temperature, seed))?;
            let rewards: Vec<f64> = answers.iter().filter_map(Answer::reward).map(f64::from).collect();
            let best = best_of_each(&answers, self.rollouts.drawing.generations);
            let best: Vec<f64> = best.iter().filter_map(|answer| answer.reward()).map(f64::from).collect();
            all.push(Tried { temperature, mean: mean(&rewards), best: mean(&best) });
        }
        Ok(all)
    }

    /// A round whose answers have been drawn and chosen, ready to be learned.
    fn prepared(&self, number: u64, answers: Vec<Answer>) -> Round {
        let encoded = |answer: &Answer| {
            let mut encoded = self.rollouts.encoded(false, answer);
            if answer.reward().is_none() {
                encoded.learned.fill(false);
            }
            encoded
        };
        let rows = Rows::new(answers.iter().map(encoded).collect(), None);
        let pass = number * self.rollouts.schedule.iterations;
        let order = (pass, self.rollouts.schedule.order(answers.len(), pass));
        Round { number, answers, rows, order }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of each `generations` answers to one prompt the one with the highest reward, of equal ones the first; where none has a reward, the first.
fn best_of_each(answers: &[Answer], generations: usize) -> Vec<&Answer> {
    let reward = |answer: &Answer| answer.reward().unwrap_or(f32::NEG_INFINITY);
    let better = |best, answer| if reward(answer) > reward(best) { answer } else { best };
    answers.chunks(generations).filter_map(|group| group.iter().reduce(better)).collect()
}

/// The rewards by temperature as a table, the chosen one marked.
fn table(number: u64, generations: usize, tried: &[Tried], chosen: f32) -> String {
    let row = |t: &Tried| {
        let mark = if t.temperature == chosen { ", chosen" } else { "" };
        format!("\n{:>13} {:>13.4} {:>13.4}{mark}", t.temperature, t.mean, t.best)
    };
    let best = format!("best of {generations}");
    let head = format!("round {}:\n{:>13} {:>13} {best:>13}", number + 1, "temperature", "mean reward");
    tried.iter().map(row).fold(head, |text, row| text + &row)
}

impl Objective for Rejection {
    fn name(&self) -> &str {
        "rejection"
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_batch_warmup(&self) -> bool {
        false
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        self.rollouts.shapes(batch)
    }

    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        sft::weighted(g, &models[0], shape, false).into()
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        evaluation(g, &models[0], shape);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.rollouts.epoch(batch)
    }

    fn prepare(&mut self, _executor: &mut dyn Executor) -> Result<()> {
        self.rollouts.forget();
        Ok(())
    }

    fn inference_graphs(&self, batch: usize) -> Vec<Graph> {
        self.rollouts.inference_graphs(&self.networks[0], batch)
    }

    fn wants_roll_out(&self, step: u64) -> bool {
        self.round.as_ref().is_none_or(|round| round.number != self.rollouts.schedule.roll_out(step))
    }

    fn roll_out(&mut self, executor: &mut dyn Executor, step: u64, batch: usize) -> Result<RollOut> {
        let number = self.rollouts.schedule.roll_out(step);
        let generations = self.rollouts.drawing.generations;
        let (mut temperature, mut note) = (self.rollouts.drawing.params.temperature, None);
        let tried = self.tried(executor, number)?;
        // Where no answer has a reward the mean is NaN, and the temperature is not chosen.
        let known = tried.iter().filter(|tried| !tried.best.is_nan());
        if let Some(chosen) = known.reduce(|best, tried| if tried.best > best.best { tried } else { best }) {
            temperature = chosen.temperature;
            note = Some(table(number, generations, &tried, temperature));
        }
        let (answers, mut rolled) = self.rollouts.draw(executor, &self.networks[0], (number, batch), temperature)?;
        let best: Vec<Answer> = best_of_each(&answers, generations).into_iter().cloned().collect();
        let rewards: Vec<f64> = best.iter().filter_map(Answer::reward).map(f64::from).collect();
        if rewards.is_empty() {
            fail!(Input, "no answer of round {} has a reward, so that there is nothing to learn", number + 1);
        }
        rolled.scalars.push(("best_reward", mean(&rewards) as f32));
        rolled.scalars.push(("temperature", temperature));
        self.round = Some(self.prepared(number, best));
        Ok(RollOut { note, ..rolled })
    }

    fn state(&self) -> Value {
        self.round.as_ref().map_or(Value::Null, |Round { number, answers, .. }| {
            json!(Kept { round: *number, answers: answers.clone() })
        })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        if let Some(Kept { round, answers }) = kept(state)? {
            self.round = Some(self.prepared(round, answers));
        }
        Ok(())
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let schedule = self.rollouts.schedule;
        let (pass, nth) = (number / schedule.micro_batches(), (number % schedule.micro_batches()) as usize);
        let round = self.round.as_mut().expect("a round before its steps");
        if round.order.0 != pass {
            round.order = (pass, schedule.order(round.answers.len(), pass));
        }
        let (round, accumulate) = (&*round, schedule.accumulate as usize);
        let first = nth / accumulate * accumulate;
        let all = round.rows.targets(&round.order.1[first * batch.size..(first + accumulate) * batch.size]);
        let members = &round.order.1[nth * batch.size..(nth + 1) * batch.size];
        let length;
        (batch.shape, length) = self.rollouts.shape(&round.rows, members);
        // The step takes the mean over its micro-batches.
        let weight = -(accumulate as f32) / all.max(1) as f32;
        self.inputs.set(&round.rows, members, (batch.size, length), &|_| weight, batch);
        batch.tokens = members.iter().map(|answer| round.rows.fed(*answer)).sum();
        Ok(())
    }

    /// The mean reward of an answer to each validation prompt, at the temperature of the roll-outs.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        self.rollouts.evaluate(programs.executor, &self.networks[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_each_group_is_the_first_of_the_highest_rewards() {
        let answer = |(question, reward): (usize, Option<f32>)| {
            let reward = reward.map(f32::to_bits);
            let answer = json!({"question": question, "ids": [1], "log_probs": [0], "references": [0], "ended": true, "reward": reward});
            serde_json::from_value::<Answer>(answer).unwrap()
        };
        let rewards = [None, Some(-2.0), Some(-1.0), None, None, None, Some(3.0), Some(3.0), Some(1.0)];
        let answers: Vec<Answer> = rewards.into_iter().enumerate().map(answer).collect();
        let best: Vec<usize> = best_of_each(&answers, 3).into_iter().map(|answer| answer.question).collect();
        assert_eq!(best, [2, 3, 6]);
    }

    #[test]
    fn the_table_marks_the_temperature_that_was_chosen() {
        let tried =
            [(0.5, 1.25, 2.0), (1.0, 1.0, 2.5)].map(|(temperature, mean, best)| Tried { temperature, mean, best });
        let text = table(1, 4, &tried, 1.0);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "round 2:");
        assert_eq!(lines[1], "  temperature   mean reward     best of 4");
        assert_eq!(lines[2], "          0.5        1.2500        2.0000");
        assert_eq!(lines[3], "            1        1.0000        2.5000, chosen");
    }
}
