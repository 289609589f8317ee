//! `wgpt align --method dpo`: pairs of answers, of which one is better.

use super::{Context, Rows, kept, positive, reference};
use crate::cli::examples::{check_kept, encoder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use wgpt::data::dialogues::Encoded;
use wgpt::data::{lines, preferences};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::dpo::{Dpo, Pairs, RECIPE};
use wgpt::ops::preference_loss::{Form, PreferenceLoss};
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

#[derive(Serialize, clap::Args)]
pub struct DpoOptions {
    /// The loss of a pair, for --method dpo [default: sigmoid]
    #[arg(long, value_enum, help_heading = "Task")]
    loss: Option<Form>,
    /// The share of preferences that are taken to be wrong, for --loss robust
    #[arg(long, value_name = "SHARE", help_heading = "Task")]
    label_smoothing: Option<f32>,
    /// Weight of the loss of chosen answers as in `wgpt sft`, for --method dpo [default: 0]
    #[arg(long, value_name = "WEIGHT", help_heading = "Task")]
    sft_weight: Option<f32>,
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    loss: Form,
    beta: f32,
    label_smoothing: f32,
    sft_weight: f32,
}

impl DpoOptions {
    pub fn resolved(&self, beta: Option<f32>) -> Result<Own> {
        let loss = self.loss.unwrap_or(Form::Sigmoid);
        let beta = positive("beta", beta.unwrap_or(0.1))?;
        let label_smoothing = self.label_smoothing.unwrap_or(0.0);
        if self.label_smoothing.is_some() && loss != Form::Robust {
            fail!(Usage, "--label-smoothing is for --loss robust: leave it out, or add that");
        }
        if !(0.0..0.5).contains(&label_smoothing) {
            fail!(
                Usage,
                "--label-smoothing {label_smoothing} is no share of wrong preferences: give one from 0 to below 0.5"
            );
        }
        let sft_weight = self.sft_weight.unwrap_or(0.0);
        if !(sft_weight.is_finite() && sft_weight >= 0.0) {
            fail!(Usage, "--sft-weight {sft_weight} is not a number from 0 up: give one");
        }
        Ok(Own { loss, beta, label_smoothing, sft_weight })
    }
}

struct Preferences {
    own: Own,
    training: Pairs,
    validation: Pairs,
}

/// Training and validation pairs, saying how many were dropped.
pub fn read(own: &Value, context: &Context) -> Result<Box<dyn Rows>> {
    let Context { global, data, validation, longest, config, tokenizer } = *context;
    let template = tokenizer.chat_template()?;
    let encoder = encoder(config, tokenizer, template.as_ref());
    let read = |path: &Path| {
        let (mut kept, mut dropped): (Vec<[Encoded; 2]>, usize) = (vec![], 0);
        for pair in preferences::read_pairs(path)? {
            let place = lines::place(path, pair.line);
            let encode = |form| encoder.encode(form).map_err(|error| error.in_place(&place));
            let answers = [encode(&pair.chosen)?, encode(&pair.rejected)?];
            if answers.iter().any(|answer| answer.ids.len() > longest || answer.targets() == 0) {
                dropped += 1;
            } else {
                kept.push(answers);
            }
        }
        let why = format!("are longer than {longest} tokens");
        let advice = "allow longer ones with --max-length";
        check_kept(global, path, (kept.len(), dropped), ("pairs", &why, advice))?;
        Ok(Pairs::new(kept))
    };
    let (training, validation) = (read(data)?, validation.map_or(Ok(Pairs::default()), read)?);
    Ok(Box::new(Preferences { own: kept(own)?, training, validation }))
}

impl Rows for Preferences {
    fn recipe(&self) -> Recipe {
        RECIPE
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.training.len().div_ceil(batch) as u64
    }

    fn summary(&self) -> String {
        format!("{} training, {} validation pairs", self.training.len(), self.validation.len())
    }

    fn title(&self) -> &'static str {
        "direct preference optimisation"
    }

    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>> {
        let Own { loss: form, beta, label_smoothing: smoothing, sft_weight } = self.own;
        let losses = (PreferenceLoss { form, beta, smoothing }, sft_weight);
        Ok(Box::new(Dpo::new(config, settings, losses, (self.training, self.validation), reference(start)?)))
    }
}
