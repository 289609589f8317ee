//! Policies from a reward model, with a critic: "Training language models to follow instructions with human feedback" (Ouyang et al. 2022,
//! section 3.5), PPO as trl 1.12 has it.
//!
//!   r_t = -beta (log p - log p_ref), plus the reward of the answer behind its last token
//!   A = GAE of r and the critic's values (Schulman et al. 2015), gamma and lambda, whitened over all tokens of a roll-out;  R = A + V
//!   loss = mean over tokens of the clipped policy loss, plus c * mean over states of the clipped squared error of V
//!
//! An answer that ended by itself has one state more than tokens, the one behind its end, where its reward comes. The critic is a network
//! of its own with a head on every state, and starts from the reward model.

mod advantages;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use self::advantages::PpoOptions;
use self::advantages::{moments, states};
use super::rollouts::{Answer, RollOuts, approx_kl, evaluation, kept};
use super::rows::{Inputs, NAMES, Rows, log_probs};
use super::sft;
use crate::data::dialogues::Encoded;
use crate::error::Result;
use crate::executor::Executor;
use crate::executor::programs::Programs;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Shape, Step, Tensor};
use crate::models::blocks::Model;
use crate::models::config::{Config, SCORE};
use crate::models::network::Network;
use crate::ops::add::Add;
use crate::ops::matmul::Matmul;
use crate::ops::scale::Scale;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, RollOut, ShapeKey};
use crate::train::settings::{Recipe, Settings};

/// trl's recipe for PPO.
pub const RECIPE: Recipe = Recipe { lr: 3e-6, ..sft::RECIPE };

/// Prefix of the critic's states.
pub const VALUE: &str = "value.";
/// Answers that the critic sees at a time, before the steps.
const VALUE_ROWS: usize = 8;

/// A model that critics start from: its shape, its weights, and its head (1, C), where it has one.
pub struct Critic {
    pub config: Config,
    pub weights: Weights,
    pub score: Option<Vec<f32>>,
}

/// A roll-out under way: numbers of states and of tokens for each answer.
struct Drawn {
    number: u64,
    answers: Vec<Answer>,
    values: Vec<Vec<f32>>,
    advantages: Vec<Vec<f32>>,
    returns: Vec<Vec<f32>>,
    rows: Rows,
    /// A pass over the answers, and the order in which its micro-batches take them.
    order: (u64, Vec<usize>),
}

/// What a checkpoint keeps of a roll-out that further steps learn from, numbers as bits.
#[derive(Serialize, Deserialize)]
struct Kept {
    rollout: u64,
    answers: Vec<Answer>,
    values: Vec<Vec<u32>>,
    /// The factor of the KL divergence with which rewards were made, and which the next roll-out has.
    beta: u32,
    next_beta: u32,
}

/// The objective of PPO.
pub struct Ppo {
    networks: [Network; 2],
    options: PpoOptions,
    rollouts: RollOuts,
    critic: Critic,
    /// The factor of the KL divergence in the next roll-out's rewards.
    next_beta: f32,
    beta: f32,
    drawn: Option<Drawn>,
    programs: Programs<usize>,
    inputs: Inputs,
    /// Filled again for every micro-batch: numbers of tokens and of states.
    numbers: Numbers,
}

#[derive(Default)]
struct Numbers {
    old: Vec<f32>,
    references: Vec<f32>,
    advantages: Vec<f32>,
    values: Vec<f32>,
    returns: Vec<f32>,
    value_weights: Vec<f32>,
}

impl Ppo {
    pub fn new(config: Config, settings: &Settings, options: PpoOptions, rollouts: RollOuts, critic: Critic) -> Ppo {
        let dropout = settings.dropout();
        let policy = Network::new(Config { dropout, ..config });
        let rollouts = rollouts.of_policy(&policy);
        let networks = [policy, Network::with_prefix(Config { dropout, ..critic.config.clone() }, VALUE)];
        Ppo {
            networks,
            options,
            rollouts,
            critic,
            next_beta: options.beta,
            beta: options.beta,
            drawn: None,
            programs: Programs::default(),
            inputs: Inputs::default(),
            numbers: Numbers::default(),
        }
    }

    /// A prompt with an answer, and one token more where the answer's last is a state.
    fn encoded(&self, answer: &Answer) -> Encoded {
        let mut encoded = self.rollouts.encoded(false, answer);
        if answer.ended {
            encoded.ids.push(0);
            encoded.learned.push(false);
        }
        encoded
    }

    /// The critic's values of the states of each answer.
    fn critic_values(&mut self, executor: &mut dyn Executor, answers: &[Answer]) -> Result<Vec<Vec<f32>>> {
        let rows = Rows::new(answers.iter().map(|answer| self.encoded(answer)).collect(), None);
        let (mut values, mut batch) = (vec![], Batch::new(VALUE_ROWS, 0));
        let order: Vec<usize> = (0..answers.len()).collect();
        for members in order.chunks(VALUE_ROWS) {
            let (_, length) = self.rollouts.shape(&rows, members);
            let critic = &self.networks[1];
            let program = self.programs.get(executor, length, || values_graph(critic, length))?;
            batch.clear();
            self.inputs.set_ids(&rows, members, (VALUE_ROWS, length), &mut batch);
            batch.write(executor, program)?;
            executor.run(program, 0, &Step::default())?;
            let read = executor.read(program, "values")?;
            for (row, &answer) in members.iter().enumerate() {
                let (fed, states) = (rows.fed(answer), states(&answers[answer]));
                values.push(read[row * length + fed - states..row * length + fed].to_vec());
            }
        }
        Ok(values)
    }

    /// A roll-out with its advantages and returns.
    fn prepared(&self, number: u64, answers: Vec<Answer>, values: Vec<Vec<f32>>) -> Drawn {
        let (mut advantages, mut returns) = (vec![], vec![]);
        for (answer, values) in answers.iter().zip(&values) {
            let of_answer = self.options.advantages(self.beta, answer, values);
            returns.push(of_answer.iter().zip(values).map(|(a, v)| (a + f64::from(*v)) as f32).collect());
            advantages.push(of_answer);
        }
        // Only tokens are learned from: the state behind an answer's end has no action.
        let of_tokens = advantages.iter().zip(&answers).flat_map(|(of, answer)| of[..answer.ids.len()].iter().copied());
        let (mean, deviation) = moments(&of_tokens.collect::<Vec<f64>>());
        let whitened = |of: Vec<f64>| of.into_iter().map(|a| ((a - mean) / deviation) as f32).collect();
        let advantages = advantages.into_iter().map(whitened).collect();
        let rows = Rows::new(answers.iter().map(|answer| self.encoded(answer)).collect(), None);
        let pass = number * self.rollouts.schedule.iterations;
        let order = (pass, self.rollouts.schedule.order(answers.len(), pass));
        Drawn { number, answers, values, advantages, returns, rows, order }
    }
}

/// The value (B T, 1) of each state of token ids (B, T).
fn of_states(g: &mut Graph, critic: &Model, ids: Tensor) -> Tensor {
    let x = critic.hidden_f32(g, ids);
    g.scope("value");
    let weight = critic.task_head(g, SCORE, &[1, critic.config.width]);
    g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, weight])
}

/// The critic's values of the states of rows of a length.
fn values_graph(critic: &Network, length: usize) -> Graph {
    let mut g = Graph::new();
    let ids = g.input(NAMES.ids, Shape::u32(&[VALUE_ROWS, length]));
    let values = of_states(&mut g, &critic.inference(), ids);
    g.output("values", values);
    g
}

impl Objective for Ppo {
    fn name(&self) -> &str {
        "ppo"
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
        let dims = [shape.batch, shape.length];
        let (_, of_tokens) = log_probs(g, &models[0], NAMES, (shape.batch, shape.length));
        let [old, references, advantages, weights] =
            ["old", "references", "advantages", NAMES.weights].map(|name| g.input(name, Shape::f32(&dims)));
        let policy = g.apply(self.options.loss, &[of_tokens, old, references, advantages, weights]);
        let moved = approx_kl(g, of_tokens, old, weights);
        let ids = g.input(NAMES.ids, Shape::u32(&dims));
        let values = of_states(g, &models[1], ids);
        let [old, returns, weights] =
            ["values", "returns", "value_weights"].map(|name| g.input(name, Shape::f32(&dims)));
        let value = g.apply(self.options.value, &[values, old, returns, weights]);
        let scaled = g.apply(Scale { factor: self.options.value_weight }, &[value]);
        let sum = g.apply(Add, &[policy, scaled]);
        let slot = |node: usize, slot: usize| Tensor { node, slot };
        let scalars = vec![
            ("policy_loss", policy),
            ("value_loss", value),
            ("clipped", slot(policy.node, 2)),
            ("approx_kl", moved),
            ("value_clipped", slot(value.node, 1)),
        ];
        Loss { minimised: sum, reported: sum, scalars }
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        evaluation(g, &models[0], shape);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.rollouts.epoch(batch)
    }

    fn initialise(&mut self, executor: &mut dyn Executor) -> Result<()> {
        let Critic { config, weights, score } = &self.critic;
        if config.lora.is_none() {
            upload(executor, &self.networks[1], weights)?;
        }
        let score = score.clone().unwrap_or_else(|| vec![0.0; config.width]);
        executor.write_state(&format!("{VALUE}{SCORE}"), &score)
    }

    fn prepare(&mut self, executor: &mut dyn Executor) -> Result<()> {
        if self.critic.config.lora.is_some() {
            // A checkpoint holds the critic's adapters and head alone: its base comes from the model's files.
            upload(executor, &self.networks[1], &self.critic.weights)?;
        }
        self.programs = Programs::default();
        self.rollouts.forget();
        Ok(())
    }

    fn inference_graphs(&self, batch: usize) -> Vec<Graph> {
        let mut graphs = self.rollouts.inference_graphs(&self.networks[0], batch);
        graphs.extend(self.rollouts.buckets.0.iter().map(|length| values_graph(&self.networks[1], *length)));
        graphs
    }

    fn wants_roll_out(&self, step: u64) -> bool {
        self.drawn.as_ref().is_none_or(|drawn| drawn.number != self.rollouts.schedule.roll_out(step))
    }

    fn roll_out(&mut self, executor: &mut dyn Executor, step: u64, batch: usize) -> Result<RollOut> {
        let number = self.rollouts.schedule.roll_out(step);
        let temperature = self.rollouts.drawing.params.temperature;
        let (answers, mut rolled) = self.rollouts.draw(executor, &self.networks[0], (number, batch), temperature)?;
        let values = self.critic_values(executor, &answers)?;
        self.beta = self.next_beta;
        if let Some(target) = self.options.target_kl {
            let kl = answers.iter().map(Answer::log_ratio).sum::<f64>() / answers.len() as f64;
            let error = (kl / f64::from(target) - 1.0).clamp(-0.2, 0.2);
            self.next_beta = (f64::from(self.beta) * (1.0 + 0.1 * error)) as f32;
        }
        rolled.scalars.push(("beta", self.beta));
        self.drawn = Some(self.prepared(number, answers, values));
        Ok(rolled)
    }

    fn state(&self) -> Value {
        let Some(Drawn { number, answers, values, .. }) = &self.drawn else { return Value::Null };
        let bits = |values: &Vec<f32>| values.iter().map(|value| value.to_bits()).collect();
        json!(Kept {
            rollout: *number,
            answers: answers.clone(),
            values: values.iter().map(bits).collect(),
            beta: self.beta.to_bits(),
            next_beta: self.next_beta.to_bits(),
        })
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        if let Some(Kept { rollout, answers, values, beta, next_beta }) = kept(state)? {
            (self.beta, self.next_beta) = (f32::from_bits(beta), f32::from_bits(next_beta));
            let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect();
            self.drawn = Some(self.prepared(rollout, answers, values.into_iter().map(floats).collect()));
        }
        Ok(())
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let micro_batches = self.rollouts.schedule.micro_batches();
        let (pass, nth) = (number / micro_batches, (number % micro_batches) as usize);
        let drawn = self.drawn.as_mut().expect("a roll-out before its steps");
        if drawn.order.0 != pass {
            // Another order each time.
            drawn.order = (pass, self.rollouts.schedule.order(drawn.answers.len(), pass));
        }
        let drawn = &*drawn;
        let members = &drawn.order.1[nth * batch.size..(nth + 1) * batch.size];
        let length;
        (batch.shape, length) = self.rollouts.shape(&drawn.rows, members);
        let tokens: usize = members.iter().map(|answer| drawn.answers[*answer].ids.len()).sum();
        let all_states: usize = members.iter().map(|answer| states(&drawn.answers[*answer])).sum();
        self.inputs.set(&drawn.rows, members, (batch.size, length), &|_| 1.0 / tokens as f32, batch);
        let Numbers { old, references, advantages, values, returns, value_weights } = &mut self.numbers;
        for numbers in [&mut *old, references, advantages, values, returns, value_weights] {
            numbers.clear();
            numbers.resize(batch.size * length, 0.0);
        }
        for (row, &answer) in members.iter().enumerate() {
            let of = &drawn.answers[answer];
            let first = row * length + drawn.rows.fed(answer) - states(of);
            for (at, (own, reference)) in of.log_probs().zip(of.references()).enumerate() {
                (old[first + at], references[first + at]) = (own, reference);
            }
            let here = first..first + of.ids.len();
            advantages[here].copy_from_slice(&drawn.advantages[answer][..of.ids.len()]);
            let here = first..first + states(of);
            values[here.clone()].copy_from_slice(&drawn.values[answer]);
            returns[here.clone()].copy_from_slice(&drawn.returns[answer]);
            value_weights[here].fill(1.0 / all_states as f32);
        }
        let named = [
            ("old", &*old),
            ("references", references),
            ("advantages", advantages),
            ("values", values),
            ("returns", returns),
            ("value_weights", value_weights),
        ];
        named.into_iter().for_each(|(name, numbers)| batch.set_f32(name, numbers));
        batch.tokens = members.iter().map(|answer| drawn.rows.fed(*answer)).sum();
        Ok(())
    }

    /// The mean reward of an answer to each validation prompt.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        self.rollouts.evaluate(programs.executor, &self.networks[0])
    }
}
