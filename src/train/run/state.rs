//! What a checkpoint keeps of a run, and a run as a checkpoint left it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::formats::upload::upload;
use crate::train::checkpoint::{LoadedCheckpoint, TRAINER_FILE};
use crate::train::settings::Settings;
use crate::train::trainer::{ChosenVariants, Trainer};

/// The content of `trainer.json`: with the tensors, all that a resume needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub step: u64,
    /// The objective's name.
    pub objective: String,
    pub settings: Settings,
    /// The command's own record, to make the objective again: path of the data, task.
    pub command: serde_json::Value,
    #[serde(default)]
    pub evaluations: Vec<Evaluated>,
    /// The chosen kernels by class, so that a resumed run has the same bits.
    #[serde(default)]
    pub variants: ChosenVariants,
    /// Ranks that have trained it.
    #[serde(default = "one")]
    pub ranks: usize,
    /// What the objective keeps beside the parameters.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub kept: serde_json::Value,
}

fn one() -> usize {
    1
}

impl RunState {
    /// The newest state of the run in a folder.
    pub fn read(run: &Path) -> Result<RunState> {
        let path = run.join(TRAINER_FILE);
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Error::Input(format!("{} is damaged: name another run", path.display())))
    }

    /// Whether a run that goes on with `count` ranks adds up gradients in another order, or has other local steps, than before.
    pub fn differs_with(&self, count: usize) -> bool {
        // Ranks with one micro-batch each add up as one rank does with all of them.
        let is_running_sum = |ranks: usize| ranks == 1 || ranks >= self.settings.accumulate;
        let alike = self.settings.sync_every == 0 && is_running_sum(self.ranks) && is_running_sum(count);
        self.ranks != count && !alike
    }
}

/// Measures of the validation data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    pub step: u64,
    /// Passes over the data that ended with this step, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    pub loss: f64,
    /// The measure of the best model; null where it is not defined.
    pub value: Option<f64>,
    /// Whether no earlier evaluation was as good.
    pub best: bool,
}

/// Reads `trainer.json`.
pub fn run_state(checkpoint: &LoadedCheckpoint) -> Result<RunState> {
    serde_json::from_value(checkpoint.trainer.clone()).map_err(|why| {
        let (step, why) = (checkpoint.step, crate::files::one_line(&why.to_string()));
        Error::Input(format!(
            "trainer.json of step {step} has not the form of this version of wgpt ({why}): start a new run"
        ))
    })
}

/// The tokenizer of a checkpoint, where its data has one.
pub fn saved_tokenizer(checkpoint: &LoadedCheckpoint) -> Result<Option<Tokenizer>> {
    if checkpoint.tokenizer.is_empty() {
        return Ok(None);
    }
    Tokenizer::from_json(checkpoint.tokenizer.clone()).map(Some).map_err(|why| {
        let (step, why) = (checkpoint.step, crate::files::one_line(&why));
        Error::Input(format!("tokenizer.json of step {step} is damaged ({why}): restore it from a copy"))
    })
}

/// Puts a trainer where a checkpoint left it.
pub fn restore(trainer: &mut Trainer, checkpoint: &LoadedCheckpoint) -> Result<()> {
    let network = trainer.network().clone();
    upload(trainer.executor(), &network, &checkpoint.weights)?;
    for (name, _) in other_states(trainer) {
        let values = checkpoint.optimizer.read(&name)?;
        trainer.executor().write_state(&name, &values)?;
    }
    trainer.prepare()?;
    trainer.seek(checkpoint.step, &run_state(checkpoint)?.kept)?;
    trainer.anchor(|name| {
        checkpoint.optimizer.shape(name).map(|_| Ok(checkpoint.optimizer.read(name)?.into_owned())).transpose()
    })
}

/// The tensors of a checkpoint beside the first network: heads, other trained networks, the optimiser.
pub(super) fn other_states(trainer: &Trainer) -> Vec<(String, Vec<usize>)> {
    let network = trainer.network().parameters();
    let is_other = |name: &str| !network.iter().any(|p| p.name == name);
    let trained = trainer.saved_states().into_iter().filter(|(name, _)| is_other(name));
    trained.chain(trainer.optimizer_states()).collect()
}
