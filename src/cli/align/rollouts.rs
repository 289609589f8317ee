//! What all methods have that draw answers of the model's own: prompts, how answers are drawn, what rewards them.

use super::{Context, kept, reference};
use crate::cli::examples::check_kept;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use wgpt::data::buckets::epoch_len;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::{lines, prompts};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::generate::SamplingParams;
use wgpt::objectives::labelled::folder::open;
use wgpt::objectives::rewards::Rewards;
use wgpt::objectives::rewards::column::{ByColumn, Rule};
use wgpt::objectives::rewards::command::ByCommand;
use wgpt::objectives::rewards::model::ByModel;
use wgpt::objectives::rollouts::{Drawing, Question, RollOuts, Schedule};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::train::settings::Settings;

#[derive(Serialize, clap::Args)]
pub struct RollOutOptions {
    /// Answers to each prompt [default: 8, ppo 1]
    #[arg(long, value_name = "N", help_heading = "Answers")]
    generations: Option<usize>,
    /// Tokens of an answer, at most [default: 512, or half of the model's context]
    #[arg(long, value_name = "N", help_heading = "Answers")]
    tokens: Option<usize>,
    /// Above 0: how varied answers are [default: 1]
    #[arg(long, help_heading = "Answers")]
    temperature: Option<f32>,
    /// Steps that learn from the answers of one roll-out, each from its share of them [default: 1; rejection: a pass over
    /// the prompts]
    #[arg(long, value_name = "N", help_heading = "Answers")]
    steps_per_rollout: Option<u64>,
    /// How often each answer is learned from [default: 1, ppo 4]
    #[arg(long, value_name = "N", help_heading = "Answers")]
    iterations: Option<u64>,
    /// Rewards by a rule over --reward-column
    #[arg(long, value_enum, value_name = "RULE", help_heading = "Rewards")]
    reward: Option<Rule>,
    /// The column of the prompts' rows for --reward
    #[arg(long, value_name = "NAME", requires = "reward", help_heading = "Rewards")]
    reward_column: Option<String>,
    /// Rewards by a model: a folder of `wgpt reward`, or a classifier of one label that transformers saved
    #[arg(long, value_name = "DIR", conflicts_with_all = ["reward", "reward_command"], help_heading = "Rewards")]
    reward_model: Option<PathBuf>,
    /// Rewards by a command: it reads a JSON object a line, the row with its `completion`, and writes a number for each
    #[arg(long, value_name = "CMD", conflicts_with = "reward", help_heading = "Rewards")]
    reward_command: Option<String>,
    /// Seconds that the command may take for the answers of a roll-out [default: 60]
    #[arg(long, value_name = "SECONDS", requires = "reward_command", help_heading = "Rewards")]
    reward_timeout: Option<f32>,
}

#[derive(Serialize, clap::Args)]
pub struct ClipOptions {
    /// How far the ratio of new to old probabilities may fall below 1 and still count [default: 0.2]
    #[arg(long, value_name = "SHARE", help_heading = "Task")]
    epsilon: Option<f32>,
    /// How far it may rise above 1 [default: that of --epsilon]
    #[arg(long, value_name = "SHARE", help_heading = "Task")]
    epsilon_high: Option<f32>,
}

/// The range of the ratio of new to old probabilities, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Clip {
    epsilon: f32,
    epsilon_high: f32,
}

impl ClipOptions {
    pub fn resolved(&self) -> Result<Clip> {
        let epsilon = super::positive("epsilon", self.epsilon.unwrap_or(0.2))?;
        let epsilon_high = super::positive("epsilon-high", self.epsilon_high.unwrap_or(epsilon))?;
        Ok(Clip { epsilon, epsilon_high })
    }
}

/// The policy's loss of a checkpoint's options, without a KL divergence.
pub fn policy_loss(own: &Value) -> Result<PolicyLoss> {
    let Clip { epsilon, epsilon_high } = kept(own)?;
    Ok(PolicyLoss { low: epsilon, high: epsilon_high, beta: 0.0 })
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    generations: usize,
    tokens: Option<usize>,
    temperature: f32,
    steps_per_rollout: Option<u64>,
    iterations: u64,
    reward: Option<Rule>,
    reward_column: Option<String>,
    reward_model: Option<PathBuf>,
    reward_command: Option<String>,
    reward_timeout: f32,
}

impl RollOutOptions {
    /// With defaults of methods that compare the answers of a group, or of those that do not.
    pub fn resolved(&self, is_of_groups: bool) -> Result<Own> {
        let RollOutOptions { tokens, reward, reward_column, reward_model, reward_command, .. } = self;
        let (usual, least, passes) = if is_of_groups { (8, 2, 1) } else { (1, 1, 4) };
        let generations = self.generations.unwrap_or(usual);
        if !(least..=1024).contains(&generations) {
            fail!(Usage, "--generations {generations} must be from {least} to 1024: give such a number");
        }
        if *tokens == Some(0) {
            fail!(Usage, "--tokens 0 leaves no answer: give a number from 1 up");
        }
        let temperature = super::positive("temperature", self.temperature.unwrap_or(1.0))?;
        let reward_timeout = super::positive("reward-timeout", self.reward_timeout.unwrap_or(60.0))?;
        let (steps_per_rollout, iterations) = (self.steps_per_rollout, self.iterations.unwrap_or(passes));
        for (flag, value) in [("steps-per-rollout", steps_per_rollout.unwrap_or(1)), ("iterations", iterations)] {
            if !(1..=1 << 20).contains(&value) {
                fail!(Usage, "--{flag} {value} must be from 1 to 1048576: give such a number");
            }
        }
        if reward.is_none() && reward_model.is_none() && reward_command.is_none() {
            fail!(Usage, "answers need rewards: give --reward-model DIR, --reward-command CMD, or --reward RULE");
        }
        if reward.is_some() && reward_column.is_none() {
            fail!(Usage, "--reward is made from a column of the prompts' rows: name it with --reward-column");
        }
        let (reward_column, reward_command) = (reward_column.clone(), reward_command.clone());
        let (tokens, reward, reward_model) = (*tokens, *reward, reward_model.clone());
        Ok(Own {
            generations,
            tokens,
            temperature,
            steps_per_rollout,
            iterations,
            reward,
            reward_column,
            reward_model,
            reward_command,
            reward_timeout,
        })
    }
}

/// Prompts of both sets, with how they are answered and rewarded.
pub struct Prompts {
    pub training: Vec<Question>,
    pub validation: Vec<Question>,
    own: Own,
    drawing: Drawing,
    rewards: Box<dyn Rewards>,
    tokenizer: Tokenizer,
    /// Whether a roll-out is a pass over the prompts, unless the user says otherwise.
    has_rounds: bool,
}

impl Prompts {
    /// Reads them, and says how many are too long.
    pub fn read(own: &Value, context: &Context) -> Result<Prompts> {
        let own: Own = kept(own)?;
        let Context { global, data, validation, longest, config, tokenizer } = *context;
        let tokens = own.tokens.unwrap_or(512.min(longest / 2));
        if tokens >= longest {
            fail!(Usage, "--tokens {tokens} leaves no room for a prompt: --max-length, with the prompt, is {longest}");
        }
        let read = |path: &Path| {
            let (mut kept, mut dropped) = (vec![], 0);
            for prompt in prompts::read(path)? {
                let place = lines::place(path, prompt.line);
                let (text, ids) = prompt.opened(tokenizer).map_err(|error| error.in_place(&place))?;
                if ids.len() + tokens <= longest {
                    kept.push(Question { prompt, text, ids });
                } else {
                    dropped += 1;
                }
            }
            let why = format!("are longer than {} tokens", longest - tokens);
            let advice = "allow longer ones with --max-length, or shorter answers with --tokens";
            check_kept(global, path, (kept.len(), dropped), ("prompts", &why, advice))?;
            Ok(kept)
        };
        let (training, validation) = (read(data)?, validation.map_or(Ok(vec![]), read)?);
        let rewards: Box<dyn Rewards> = match (own.reward, &own.reward_column, &own.reward_command, &own.reward_model) {
            (Some(rule), Some(column), ..) => Box::new(ByColumn { rule, column: column.clone() }),
            (_, _, Some(command), _) => Box::new(ByCommand::new(command, own.reward_timeout)),
            (.., Some(folder)) => Box::new(ByModel::new(open(&global.model(Some(folder))?)?)?),
            _ => fail!(Input, "trainer.json names no reward: start a new run"),
        };
        let params = SamplingParams { temperature: own.temperature, ..SamplingParams::GREEDY };
        let ends: Vec<u32> = config.eos_token_id.iter().copied().chain(tokenizer.end_of_text()).collect();
        let drawing = Drawing { params, tokens, generations: own.generations, learned: own.generations, ends };
        Ok(Prompts { training, validation, own, drawing, rewards, tokenizer: tokenizer.clone(), has_rounds: false })
    }

    /// The same for rejection sampling: steps learn one answer to each prompt, and a roll-out is a pass over the prompts.
    pub fn of_the_best(mut self) -> Prompts {
        self.drawing.learned = 1;
        self.has_rounds = true;
        self
    }

    pub fn summary(&self) -> String {
        format!("{} training, {} validation prompts", self.training.len(), self.validation.len())
    }

    /// The folder of the reward model, where one gives the rewards.
    pub fn reward_model(&self) -> Option<&Path> {
        self.own.reward_model.as_deref()
    }

    /// Micro-batches of `batch` answers in a pass over the prompts.
    pub fn epoch(&self, batch: usize) -> u64 {
        epoch_len(self.training.len() * self.drawing.learned, batch) * self.own.iterations
    }

    /// Refuses settings whose roll-outs do not consist of whole groups; `start` is the model that the run started from.
    pub fn rollouts(self, settings: &Settings, start: &ModelSource) -> Result<RollOuts> {
        let Settings { batch, accumulate, .. } = *settings;
        if settings.sync_every > 0 && settings.ranks > 1 {
            fail!(
                Usage,
                "roll-outs are drawn for the steps of all ranks, and --sync-every gives each rank its own: leave it out, or take --method dpo \
                 or kto"
            );
        }
        let Own { generations, iterations, .. } = self.own;
        let learned = self.drawing.learned;
        let round = if self.has_rounds { self.training.len().div_ceil(batch * accumulate) as u64 } else { 1 };
        let steps_per_rollout = self.own.steps_per_rollout.unwrap_or(round);
        let schedule = Schedule::new(settings, steps_per_rollout, iterations);
        let answers = batch * schedule.micro_batches() as usize;
        if !answers.is_multiple_of(learned) {
            fail!(
                Usage,
                "a roll-out of {answers} answers (--batch {batch} times --accumulate {accumulate} times --steps-per-rollout \
                 {steps_per_rollout}) does not consist of groups of --generations {generations}: change one of them"
            );
        }
        let (sets, drawing) = ((self.training, self.validation), (self.drawing, schedule));
        Ok(RollOuts::new(sets, drawing, self.rewards, self.tokenizer, reference(start)?))
    }
}
