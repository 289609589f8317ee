//! `wgpt align --method ppo`: answers of the model's own, with a critic.

use super::rollouts::{Prompts, policy_loss};
use super::{Context, Rows, kept, positive, reference};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::models::lora::Lora;
use wgpt::objectives::labelled::folder::open;
use wgpt::objectives::ppo::{Critic, Ppo, PpoOptions, RECIPE};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::ops::value_loss::ValueLoss;
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

#[derive(Serialize, clap::Args)]
pub struct PpoFlags {
    /// A reward model's folder that the critic starts from [default: that of --reward-model, or the model itself]
    #[arg(long, value_name = "DIR", help_heading = "Task")]
    value_model: Option<PathBuf>,
    /// Weight of the critic's loss [default: 0.1]
    #[arg(long, value_name = "WEIGHT", help_heading = "Task")]
    value_weight: Option<f32>,
    /// How far a value may move from the one before the steps and still count [default: 0.2]
    #[arg(long, value_name = "C", help_heading = "Task")]
    value_clip: Option<f32>,
    /// Nats per answer to which --beta is steered [default: --beta stays]
    #[arg(long, value_name = "NATS", help_heading = "Task")]
    target_kl: Option<f32>,
    /// Discount of later rewards [default: 1]
    #[arg(long, help_heading = "Task")]
    gamma: Option<f32>,
    /// Lambda of generalised advantages: 0 trusts the critic alone, 1 the rewards alone [default: 0.95]
    #[arg(long, help_heading = "Task")]
    lambda: Option<f32>,
    /// Subtracted from the reward of an answer that does not end by itself [default: 0]
    #[arg(long, value_name = "REWARD", help_heading = "Task")]
    missing_end: Option<f32>,
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    beta: f32,
    value_model: Option<PathBuf>,
    value_weight: f32,
    value_clip: f32,
    target_kl: Option<f32>,
    gamma: f32,
    lambda: f32,
    missing_end: f32,
}

impl PpoFlags {
    pub fn resolved(&self, beta: Option<f32>) -> Result<Own> {
        let from_0 = |flag: &str, value: f32| {
            if !(value.is_finite() && value >= 0.0) {
                fail!(Usage, "--{flag} {value} is not a number from 0 up: give one");
            }
            Ok(value)
        };
        let share = |flag: &str, value: f32| {
            if !(0.0..=1.0).contains(&value) {
                fail!(Usage, "--{flag} {value} must be from 0 to 1");
            }
            Ok(value)
        };
        Ok(Own {
            beta: from_0("beta", beta.unwrap_or(0.05))?,
            value_model: self.value_model.clone(),
            value_weight: from_0("value-weight", self.value_weight.unwrap_or(0.1))?,
            value_clip: positive("value-clip", self.value_clip.unwrap_or(0.2))?,
            target_kl: self.target_kl.map(|target| positive("target-kl", target)).transpose()?,
            gamma: share("gamma", self.gamma.unwrap_or(1.0))?,
            lambda: share("lambda", self.lambda.unwrap_or(0.95))?,
            missing_end: from_0("missing-end", self.missing_end.unwrap_or(0.0))?,
        })
    }
}

struct Answered {
    own: Own,
    clip: PolicyLoss,
    prompts: Prompts,
    /// Where it is not the model that the run starts from.
    critic: Option<Critic>,
}

pub fn read(own: &Value, context: &Context) -> Result<Box<dyn Rows>> {
    let (prompts, clip) = (Prompts::read(own, context)?, policy_loss(own)?);
    let own: Own = kept(own)?;
    let critic = match own.value_model.as_deref().or(prompts.reward_model()) {
        None => None,
        Some(folder) => {
            let model = open(&context.global.model(Some(folder))?)?;
            if model.tokenizer.json() != context.tokenizer.json() && model.config.vocab_size < context.config.vocab_size
            {
                fail!(
                    Input,
                    "the model in {} has other tokens than the one that is trained, whose states it is to value: give another with \
                     --value-model",
                    folder.display()
                );
            }
            if model.config.context < context.longest {
                let (folder, context, longest) = (folder.display(), model.config.context, context.longest);
                fail!(
                    Input,
                    "the model in {folder} has a context of {context} tokens, and prompts with answers have up to {longest}: lower \
                     --max-length"
                );
            }
            Some(Critic {
                config: model.config,
                weights: model.weights,
                score: model.head.into_iter().next().map(|(_, _, values)| values),
            })
        }
    };
    Ok(Box::new(Answered { own, clip, prompts, critic }))
}

impl Rows for Answered {
    fn recipe(&self) -> Recipe {
        RECIPE
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.prompts.epoch(batch)
    }

    fn summary(&self) -> String {
        self.prompts.summary()
    }

    fn title(&self) -> &'static str {
        "proximal policy optimisation"
    }

    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>> {
        let Own { beta, value_weight, value_clip, target_kl, gamma, lambda, missing_end, .. } = self.own;
        let options = PpoOptions {
            loss: self.clip,
            value: ValueLoss { clip: value_clip },
            value_weight,
            beta,
            target_kl,
            gamma,
            lambda,
            missing_end,
        };
        let critic = match self.critic {
            Some(critic) => critic,
            None => {
                let (config, weights) = reference(start)?;
                Critic { config, weights, score: None }
            }
        };
        let critic = adapted(critic, &config, settings)?;
        Ok(Box::new(Ppo::new(config, settings, options, self.prompts.rollouts(settings, start)?, critic)))
    }
}

/// The critic with adapters of the policy's rank and targets, where the policy has adapters.
fn adapted(critic: Critic, policy: &Config, settings: &Settings) -> Result<Critic> {
    let Some(lora) = policy.lora.clone().filter(|_| critic.config.lora.is_none()) else { return Ok(critic) };
    let lora = Lora { saved: vec![], base: None, ..lora }.check(&critic.config);
    let lora = lora.map_err(|why| Error::Usage(format!("adapters of the critic: {why}")))?;
    Ok(Critic { config: settings.quantised(Config { lora: Some(lora), ..critic.config }), ..critic })
}
