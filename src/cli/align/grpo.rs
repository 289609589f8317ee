//! `wgpt align --method grpo` and `rloo`: groups of answers of the model's own.

use super::rollouts::{Prompts, policy_loss};
use super::{Context, Rows, kept};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::grpo::{GroupOptions, GroupPolicy, Method, Normalisation, RECIPE, Scaling};
use wgpt::ops::policy_loss::PolicyLoss;
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

#[derive(Serialize, clap::Args)]
pub struct GrpoOptions {
    /// How the losses of tokens become that of a step [default: dapo]
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Task")]
    normalisation: Option<Normalisation>,
    /// By what the advantages of a group are divided [default: group]
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Task")]
    scale_rewards: Option<Scaling>,
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    beta: f32,
    normalisation: Normalisation,
    scale_rewards: Scaling,
}

impl GrpoOptions {
    pub fn resolved(&self, is_rloo: bool, beta: Option<f32>) -> Result<Own> {
        let beta = beta.unwrap_or(if is_rloo { 0.05 } else { 0.0 });
        if !(beta.is_finite() && beta >= 0.0) {
            fail!(Usage, "--beta {beta} is not a number from 0 up: give one");
        }
        let normalisation = self.normalisation.unwrap_or(Normalisation::Dapo);
        Ok(Own { beta, normalisation, scale_rewards: self.scale_rewards.unwrap_or(Scaling::Group) })
    }
}

struct Groups {
    own: Own,
    clip: PolicyLoss,
    prompts: Prompts,
    is_rloo: bool,
}

pub fn read(own: &Value, is_rloo: bool, context: &Context) -> Result<Box<dyn Rows>> {
    Ok(Box::new(Groups { own: kept(own)?, clip: policy_loss(own)?, prompts: Prompts::read(own, context)?, is_rloo }))
}

impl Rows for Groups {
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
        if self.is_rloo { "REINFORCE leave-one-out" } else { "group relative policy optimisation" }
    }

    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>> {
        let Own { beta, normalisation, scale_rewards } = self.own;
        let method = if self.is_rloo { Method::Rloo } else { Method::Grpo { normalisation, scaling: scale_rewards } };
        // The KL divergence of RLOO is a part of its reward.
        let loss = PolicyLoss { beta: if self.is_rloo { 0.0 } else { beta }, ..self.clip };
        let options = GroupOptions { method, loss, beta };
        Ok(Box::new(GroupPolicy::new(config, settings, options, self.prompts.rollouts(settings, start)?)))
    }
}
