//! `wgpt align --method kto`: completions that are judged one by one, desirable or not.

use super::{Context, Rows, kept, positive, reference};
use crate::cli::examples::{check_kept, encoder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;
use wgpt::data::{judged, lines};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::models::config::Config;
use wgpt::objectives::kto::{Examples, Kto, RECIPE};
use wgpt::ops::kto_loss::KtoLoss;
use wgpt::train::objective::Objective;
use wgpt::train::settings::{Recipe, Settings};

#[derive(Serialize, clap::Args)]
pub struct KtoOptions {
    /// Weight of the losses of desirable completions, for --method kto [default: 1]
    #[arg(long, value_name = "WEIGHT", help_heading = "Task")]
    desirable_weight: Option<f32>,
    /// Weight of the losses of undesirable completions, for --method kto [default: 1]
    #[arg(long, value_name = "WEIGHT", help_heading = "Task")]
    undesirable_weight: Option<f32>,
}

/// The options, with defaults.
#[derive(Serialize, Deserialize)]
pub struct Own {
    beta: f32,
    desirable_weight: f32,
    undesirable_weight: f32,
}

impl KtoOptions {
    pub fn resolved(&self, beta: Option<f32>) -> Result<Own> {
        let weight = |flag: &str, given: Option<f32>| {
            let weight = given.unwrap_or(1.0);
            if !(weight.is_finite() && weight >= 0.0) {
                fail!(Usage, "--{flag} {weight} is not a number from 0 up: give one");
            }
            Ok(weight)
        };
        Ok(Own {
            beta: positive("beta", beta.unwrap_or(0.1))?,
            desirable_weight: weight("desirable-weight", self.desirable_weight)?,
            undesirable_weight: weight("undesirable-weight", self.undesirable_weight)?,
        })
    }
}

struct Completions {
    own: Own,
    longest: usize,
    training: Examples,
    validation: Examples,
}

/// Training and validation completions, saying how many were dropped, and how many will be cut.
pub fn read(own: &Value, context: &Context) -> Result<Box<dyn Rows>> {
    let Context { global, data, validation, longest, config, tokenizer } = *context;
    let template = tokenizer.chat_template()?;
    let encoder = encoder(config, tokenizer, template.as_ref());
    let read = |path: &Path| {
        let (mut kept, mut dropped, mut cut) = (Examples::new(), 0, 0);
        for row in judged::read(path)? {
            let place = lines::place(path, row.line);
            let encoded = encoder.encode(&row.form).map_err(|error| error.in_place(&place))?;
            if encoded.learned.iter().take(longest).skip(1).any(|learned| *learned) {
                cut += usize::from(encoded.ids.len() > longest);
                kept.push((encoded, row.is_desirable));
            } else {
                dropped += 1;
            }
        }
        let why = format!("do not begin within {longest} tokens");
        let advice = "allow longer prompts with --max-length";
        check_kept(global, path, (kept.len(), dropped), ("completions", &why, advice))?;
        if cut > 0 {
            let (all, path) = (kept.len() + dropped, path.display());
            global.say(&format!(
                "warning: {cut} of {all} completions of {path} end beyond {longest} tokens and were cut there"
            ));
        }
        Ok(kept)
    };
    let (training, validation) = (read(data)?, validation.map_or(Ok(vec![]), read)?);
    Ok(Box::new(Completions { own: kept(own)?, longest, training, validation }))
}

impl Rows for Completions {
    fn recipe(&self) -> Recipe {
        RECIPE
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.training.len().div_ceil(batch) as u64
    }

    fn summary(&self) -> String {
        let desirable = self.training.iter().filter(|(_, is_desirable)| *is_desirable).count();
        let (training, validation) = (self.training.len(), self.validation.len());
        format!("{training} training ({desirable} of them desirable), {validation} validation completions")
    }

    fn title(&self) -> &'static str {
        "Kahneman-Tversky optimisation"
    }

    fn objective(
        self: Box<Self>,
        config: Config,
        settings: &Settings,
        start: &ModelSource,
    ) -> Result<Box<dyn Objective>> {
        let Own { beta, desirable_weight: desirable, undesirable_weight: undesirable } = self.own;
        let loss = KtoLoss { beta, desirable, undesirable };
        let sets = (self.training, self.validation);
        Ok(Box::new(Kto::new(config, settings, loss, sets, self.longest, reference(start)?)?))
    }
}
