//! `wgpt align --method rejection`: the best of several answers of the model's own, in rounds.

use super::rollouts::Prompts;
use super::{Context, Rows, kept, positive};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::rejection::{RECIPE, Rejection};
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

#[derive(Serialize, clap::Args)]
pub struct RejectionOptions {
    /// Temperatures that each round tries on up to 64 prompts of --val: it draws its answers at the one whose best answers have the
    /// highest mean reward [default: 0.4,0.7,1,1.3 with --val]
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "Answers")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    temperatures: Vec<f32>,
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    temperatures: Vec<f32>,
}

impl RejectionOptions {
    pub fn resolved(&self, has_validation: bool) -> Result<Own> {
        if !self.temperatures.is_empty() && !has_validation {
            fail!(Usage, "--temperatures are tried on validation prompts: give some with --val, or one --temperature");
        }
        let usual = if has_validation { vec![0.4, 0.7, 1.0, 1.3] } else { vec![] };
        let temperatures = if self.temperatures.is_empty() { usual } else { self.temperatures.clone() };
        let temperatures = temperatures.into_iter().map(|value| positive("temperatures", value));
        Ok(Own { temperatures: temperatures.collect::<Result<_>>()? })
    }
}

struct Rounds {
    own: Own,
    prompts: Prompts,
}

pub fn read(own: &Value, context: &Context) -> Result<Box<dyn Rows>> {
    Ok(Box::new(Rounds { own: kept(own)?, prompts: Prompts::read(own, context)?.of_the_best() }))
}

impl Rows for Rounds {
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
        "rejection sampling"
    }

    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>> {
        let rollouts = self.prompts.rollouts(settings, start)?;
        Ok(Box::new(Rejection::new(config, settings, rollouts, self.own.temperatures)))
    }
}
