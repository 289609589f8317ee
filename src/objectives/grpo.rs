//! Policies from groups of answers: "DeepSeekMath" (Shao et al. 2024, section 4.1), GRPO, with the normalisations of "DAPO" (Yu et al.
//! 2025) and "Understanding R1-Zero-Like Training" (Liu et al. 2025); and "Back to Basics" (Ahmadian et al. 2024), RLOO.
//!
//!   GRPO: A = (reward - mean of the group) / (standard deviation of the group + 1e-4), and each token has a loss of its own
//!   RLOO: reward' = reward - beta * sum(log p - log p_ref), A = reward' - mean of the others of the group; a loss for each answer
//!   loss: see [`crate::ops::policy_loss`]
//!
//! Answers are drawn between steps (see [`super::rollouts`]), for one or several steps, which see them once or several times.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::rollouts::{Answer, RollOuts, approx_kl, evaluation, kept};
use super::rows::{Inputs, NAMES, Rows, log_probs};
use super::sft;
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::policy_loss::PolicyLoss;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, RollOut, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// trl's recipe for GRPO and RLOO.
pub const RECIPE: Recipe = Recipe { lr: 1e-6, ..sft::RECIPE };

/// What is added to a group's standard deviation.
const LEAST_DEVIATION: f64 = 1e-4;

/// How the losses of tokens become that of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// The mean over all tokens of a step
    Dapo,
    /// The mean over answers of their tokens' means
    Grpo,
    /// The sum, divided by answers times the most tokens of an answer
    #[value(name = "dr_grpo")]
    DrGrpo,
    /// The mean over the tokens of each micro-batch
    Bnpo,
}

/// By what a group's advantages are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Scaling {
    /// The standard deviation of the group's rewards
    Group,
    /// The standard deviation of all rewards of a roll-out
    Batch,
    /// Nothing
    None,
}

/// How rewards become a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    Grpo { normalisation: Normalisation, scaling: Scaling },
    Rloo,
}

/// What the objective is made of beside its roll-outs.
#[derive(Clone, Copy, Debug)]
pub struct GroupOptions {
    pub method: Method,
    pub loss: PolicyLoss,
    /// Factor of the KL divergence: in the loss of GRPO, in the rewards of RLOO.
    pub beta: f32,
}

/// A roll-out under way.
struct Drawn {
    number: u64,
    answers: Vec<Answer>,
    /// The order in which micro-batches take the answers.
    order: Vec<usize>,
    advantages: Vec<f64>,
    rows: Rows,
}

/// What a checkpoint keeps of a roll-out that further steps learn from.
#[derive(Serialize, Deserialize)]
struct Kept {
    rollout: u64,
    answers: Vec<Answer>,
}

/// The objective of GRPO and RLOO.
pub struct GroupPolicy {
    networks: [Network; 1],
    options: GroupOptions,
    rollouts: RollOuts,
    drawn: Option<Drawn>,
    inputs: Inputs,
    /// Filled again for every micro-batch: numbers of tokens, or of answers.
    old: Vec<f32>,
    references: Vec<f32>,
    advantages: Vec<f32>,
}

impl GroupPolicy {
    pub fn new(config: Config, settings: &Settings, options: GroupOptions, rollouts: RollOuts) -> GroupPolicy {
        let networks = [Network::new(Config { dropout: settings.dropout(), ..config })];
        let rollouts = rollouts.of_policy(&networks[0]);
        GroupPolicy {
            networks,
            options,
            rollouts,
            drawn: None,
            inputs: Inputs::default(),
            old: vec![],
            references: vec![],
            advantages: vec![],
        }
    }

    /// A roll-out that has been drawn, ready to be learned from.
    fn prepared(&self, number: u64, answers: Vec<Answer>) -> Drawn {
        let advantages = advantages(self.options, self.rollouts.drawing.generations, &answers);
        let order = self.rollouts.schedule.order(answers.len(), number);
        let rows = Rows::new(answers.iter().map(|answer| self.rollouts.encoded(false, answer)).collect(), None);
        Drawn { number, answers, order, advantages, rows }
    }

    /// Whether each token has a loss of its own.
    fn is_by_token(&self) -> bool {
        self.options.method != Method::Rloo
    }
}

/// The advantage of each answer; 0 for those without a reward.
pub fn advantages(options: GroupOptions, generations: usize, answers: &[Answer]) -> Vec<f64> {
    let rewards: Vec<Option<f64>> = answers
        .iter()
        .map(|answer| {
            let reward = f64::from(answer.reward()?);
            match options.method {
                Method::Grpo { .. } => Some(reward),
                Method::Rloo => Some(reward - f64::from(options.beta) * answer.log_ratio()),
            }
        })
        .collect();
    of_groups(options.method, generations, &rewards)
}

/// Advantages of rewards, `generations` of which are of one prompt.
fn of_groups(method: Method, generations: usize, rewards: &[Option<f64>]) -> Vec<f64> {
    let mut advantages = vec![];
    for group in rewards.chunks(generations) {
        let known: Vec<f64> = group.iter().copied().flatten().collect();
        let (count, sum) = (known.len() as f64, known.iter().sum::<f64>());
        let advantage = |reward: f64| match method {
            Method::Rloo if known.len() < 2 => 0.0,
            Method::Rloo => reward - (sum - reward) / (count - 1.0),
            Method::Grpo { scaling, .. } => {
                let deviation = match scaling {
                    Scaling::Group => deviation(&known),
                    Scaling::Batch => deviation(&rewards.iter().copied().flatten().collect::<Vec<_>>()),
                    Scaling::None => return reward - sum / count,
                };
                (reward - sum / count) / (deviation + LEAST_DEVIATION)
            }
        };
        advantages.extend(group.iter().map(|reward| reward.map_or(0.0, advantage)));
    }
    advantages
}

/// The standard deviation of a sample: its squares are divided by one less than its number.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() as f64 - 1.0)).sqrt() }
}

impl Objective for GroupPolicy {
    fn name(&self) -> &str {
        if self.is_by_token() { "grpo" } else { "rloo" }
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
        let (sums, of_tokens) = log_probs(g, &models[0], NAMES, (shape.batch, shape.length));
        let tokens = [shape.batch, shape.length];
        let (log_probs, dims, weights) = match self.is_by_token() {
            true => (of_tokens, &tokens[..], "weights"),
            false => (sums, &tokens[..1], "answer_weights"),
        };
        let [old, references, advantages, weights] =
            ["old", "references", "advantages", weights].map(|name| g.input(name, Shape::f32(dims)));
        let loss = g.apply(self.options.loss, &[log_probs, old, references, advantages, weights]);
        let [kl, clipped] = [1, 2].map(|slot| Tensor { node: loss.node, slot });
        let moved = approx_kl(g, log_probs, old, weights);
        let mut scalars = vec![("clipped", clipped), ("approx_kl", moved)];
        if self.is_by_token() {
            scalars.push(("kl_of_tokens", kl));
        }
        Loss { minimised: loss, reported: loss, scalars }
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
        self.drawn.as_ref().is_none_or(|drawn| drawn.number != self.rollouts.schedule.roll_out(step))
    }

    fn roll_out(&mut self, executor: &mut dyn Executor, step: u64, batch: usize) -> Result<RollOut> {
        let number = self.rollouts.schedule.roll_out(step);
        let temperature = self.rollouts.drawing.params.temperature;
        let (answers, rolled) = self.rollouts.draw(executor, &self.networks[0], (number, batch), temperature)?;
        self.drawn = Some(self.prepared(number, answers));
        Ok(rolled)
    }

    fn state(&self) -> Value {
        match &self.drawn {
            // A roll-out that one step learns from is drawn again.
            Some(Drawn { number, answers, .. }) if self.rollouts.schedule.steps() > 1 => {
                json!(Kept { rollout: *number, answers: answers.clone() })
            }
            _ => Value::Null,
        }
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        if let Some(Kept { rollout, answers }) = kept(state)? {
            self.drawn = Some(self.prepared(rollout, answers));
        }
        Ok(())
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let nth = (number % self.rollouts.schedule.micro_batches()) as usize;
        let drawn = self.drawn.as_ref().expect("a roll-out before its steps");
        let members = &drawn.order[nth * batch.size..(nth + 1) * batch.size];
        let length;
        (batch.shape, length) = self.rollouts.shape(&drawn.rows, members);
        let all: usize = drawn.answers.iter().map(|answer| answer.ids.len()).sum();
        let own: usize = members.iter().map(|answer| drawn.answers[*answer].ids.len()).sum();
        let (size, most) = (batch.size as f32, self.rollouts.drawing.tokens as f32);
        let micro_batches = self.rollouts.schedule.micro_batches() as f32;
        let weight = |answer: &Encoded| match self.options.method {
            Method::Rloo => 1.0,
            Method::Grpo { normalisation, .. } => match normalisation {
                Normalisation::Dapo => micro_batches / all as f32,
                Normalisation::Grpo => 1.0 / (size * answer.targets() as f32),
                Normalisation::DrGrpo => 1.0 / (size * most),
                Normalisation::Bnpo => 1.0 / own as f32,
            },
        };
        self.inputs.set(&drawn.rows, members, (batch.size, length), &weight, batch);
        let numbers = if self.is_by_token() { batch.size * length } else { batch.size };
        for values in [&mut self.old, &mut self.references, &mut self.advantages] {
            values.clear();
            values.resize(numbers, 0.0);
        }
        for (row, &answer) in members.iter().enumerate() {
            let (of, advantage) = (&drawn.answers[answer], drawn.advantages[answer] as f32);
            if self.is_by_token() {
                let first = row * length + drawn.rows.fed(answer) - of.ids.len();
                for (at, (old, reference)) in of.log_probs().zip(of.references()).enumerate() {
                    (self.old[first + at], self.references[first + at]) = (old, reference);
                    self.advantages[first + at] = advantage;
                }
            } else {
                self.old[row] = of.log_probs().map(f64::from).sum::<f64>() as f32;
                self.references[row] = of.references().map(f64::from).sum::<f64>() as f32;
                self.advantages[row] = advantage;
            }
        }
        batch.set_f32("old", &self.old);
        batch.set_f32("references", &self.references);
        batch.set_f32("advantages", &self.advantages);
        if !self.is_by_token() {
            self.old.fill(1.0 / size);
            batch.set_f32("answer_weights", &self.old);
        }
        batch.tokens = members.iter().map(|answer| drawn.rows.fed(*answer)).sum();
        Ok(())
    }

    /// The mean reward of an answer to each validation prompt.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        self.rollouts.evaluate(programs.executor, &self.networks[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_against_the_group_and_none_moves_nothing() {
        let rewards = [Some(1.0), Some(0.0), None, Some(5.0), Some(5.0), Some(5.0)];
        let grpo = |scaling| Method::Grpo { normalisation: Normalisation::Dapo, scaling };
        let close = |method, wanted: [f64; 6]| {
            let got = of_groups(method, 3, &rewards);
            assert!(got.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9), "{got:?} {wanted:?}");
        };
        let by = 0.5 / (0.5f64.sqrt() + 1e-4);
        close(grpo(Scaling::Group), [by, -by, 0.0, 0.0, 0.0, 0.0]);
        close(grpo(Scaling::None), [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]);
        // Mean 3.2, squares 4.84 + 10.24 + 3 * 3.24, divided by 4.
        let by = 0.5 / (6.2f64.sqrt() + 1e-4);
        close(grpo(Scaling::Batch), [by, -by, 0.0, 0.0, 0.0, 0.0]);
        close(Method::Rloo, [1.0, -1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(of_groups(Method::Rloo, 2, &[Some(3.0), None]), [0.0, 0.0]);
    }
}
