//! A run from its first step to its last, whatever its objective: steps, records, validation, the best model, samples,
//! checkpoints, early stopping, going on where a run was interrupted or its device was lost.

mod shared;
mod state;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::checkpoint::{Checkpoint, RunFolder};
use super::memory::check_memory;
use super::objective::{Evaluation, RollOut};
use super::record::Record;
use super::settings::{Cadence, Settings};
use super::sinks::Sink;
use super::trainer::{Owned, Trainer};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::executor::Executor;
use crate::fail;
use crate::files::write_bytes;
use crate::formats::folder::{NamedTensor, holds_model};
use crate::formats::generation_config::GenerationConfig;
use crate::generate::{Generator, SamplingParams};

use state::other_states;
pub use state::{Evaluated, RunState, restore, run_state, saved_tokenizer};

/// Times that a lost device is opened again before a run gives up.
const MOST_LOSSES: usize = 2;
/// The file of each validation's measures, beside the best model.
pub const METRICS_FILE: &str = "metrics.json";
/// Tokens of a sample text.
const SAMPLE_TOKENS: usize = 100;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Done,
    /// Some validations in a row were no better.
    Early,
    Interrupted,
}

/// Opens a device: the first time, and again where one is lost.
pub type Open<'a> = dyn FnMut() -> Result<(Box<dyn Executor>, Option<u64>)> + 'a;

/// A run under way.
pub struct Run {
    pub trainer: Trainer,
    pub state: RunState,
    pub folder: RunFolder,
    /// Where the best model goes, as a folder that others load; in the command's folder unless it is absolute.
    pub best: PathBuf,
    pub tokenizer: Option<Tokenizer>,
    pub sinks: Vec<Box<dyn Sink>>,
    /// Steps before which the device is lost, to prove that a run survives it.
    pub faults: Vec<u64>,
}

impl Run {
    /// Trains to the end, or until `interrupted` after the step under way, with a checkpoint either way. Where the device is
    /// lost the run goes on from its last checkpoint on the device that `open` opens.
    pub fn go(&mut self, interrupted: &AtomicBool, open: &mut Open) -> Result<End> {
        let mut losses = 0;
        loop {
            let outcome = self.steps(interrupted);
            // Records that have arrived are kept whatever ended the run.
            self.sinks.iter_mut().try_for_each(|sink| sink.sync())?;
            match outcome {
                Err(Error::DeviceLost(why)) if losses < MOST_LOSSES && !self.trainer.ranks().are_several() => {
                    losses += 1;
                    let what = why.split(';').next().unwrap_or_default();
                    self.note(&format!(
                        "warning: {what}; going on from the last checkpoint, {losses} of {MOST_LOSSES} times"
                    ));
                    self.reopen(why, open)?;
                }
                other => return other,
            }
        }
    }

    /// Continues on a device that is opened anew, from the last checkpoint.
    fn reopen(&mut self, why: String, open: &mut Open) -> Result<()> {
        let Some(checkpoint) = self.folder.latest()? else { return Err(Error::DeviceLost(why)) };
        let state = run_state(&checkpoint)?;
        self.trainer.reload(|objective| {
            let (mut executor, available_bytes) = open()?;
            state.variants.settle(executor.as_mut());
            let blueprint = check_memory(objective, &state.settings, executor.limits(), available_bytes)?;
            let blueprint = blueprint.tuned(executor.as_mut())?;
            Ok((executor, blueprint))
        })?;
        restore(&mut self.trainer, &checkpoint)?;
        self.note(&format!("resuming after step {}", state.step));
        self.state = RunState { variants: self.trainer.variants().clone(), ..state };
        let step = self.state.step;
        self.sinks.iter_mut().try_for_each(|sink| sink.resume(step))
    }

    /// The loop: step, record, validate, sample, save.
    fn steps(&mut self, interrupted: &AtomicBool) -> Result<End> {
        let Settings { steps, eval_every, save_every, sample_every, .. } = self.trainer.settings().clone();
        // What a roll-out drew, which is shown in place of a sample.
        let mut shown = None;
        loop {
            if self.trainer.steps_done() >= steps {
                self.settle(true)?;
                return Ok(End::Done);
            }
            if self.is_stale() {
                if self.state.step != self.trainer.steps_done() {
                    self.save()?;
                }
                self.settle(true)?;
                return Ok(End::Early);
            }
            if self.trainer.stops(interrupted.load(Ordering::SeqCst)) {
                let records = self.trainer.finish()?;
                self.record(records)?;
                self.save()?;
                self.settle(true)?;
                return Ok(End::Interrupted);
            }
            self.lose_device();
            match self.trainer.roll_out() {
                Ok(RollOut { sample, note, .. }) => {
                    note.into_iter().for_each(|note| self.note(&note));
                    shown = sample.or(shown);
                }
                Err(error @ Error::DeviceLost(_)) => return Err(error),
                Err(error) => return self.failed(error),
            }
            let mut records = self.trainer.step()?;
            let (done, epoch) = (self.trainer.steps_done(), self.trainer.epoch_ended());
            let due = |every: Cadence| match every {
                _ if done == steps => true,
                Cadence::Steps(every) => every > 0 && done.is_multiple_of(every),
                Cadence::Epoch => epoch.is_some(),
            };
            let sampling = sample_every > 0 && due(Cadence::Steps(sample_every));
            let (evaluating, saving) = (due(eval_every), due(save_every));
            // Validations that do not go by passes over the data are named by their step.
            let epoch = epoch.filter(|_| eval_every == Cadence::Epoch);
            let mut evaluation = None;
            if evaluating || saving || sampling {
                self.trainer.synchronise()?;
                records.extend(self.trainer.finish()?);
                if let Some(why) = self.broken(records.last()) {
                    self.record(records)?;
                    // A step that was skipped may be followed by good ones, but nothing of a model in doubt is measured or kept.
                    if done == steps || self.trainer.is_hopeless() {
                        return self.give_up(&why);
                    }
                    continue;
                }
                evaluation = match evaluating.then(|| self.evaluate()).transpose() {
                    Ok(evaluation) => evaluation.flatten(),
                    Err(error) => {
                        self.record(records)?;
                        return Err(error);
                    }
                };
                if let (true, Some(last)) = (evaluating, records.last_mut()) {
                    last.expert_load = self.trainer.expert_load()?;
                    last.val_loss = evaluation.as_ref().map(|e| e.loss as f32);
                    let scalars = evaluation.iter().flat_map(|e| &e.scalars);
                    last.scalars.extend(scalars.map(|(name, value)| (name.to_string(), *value as f32)));
                }
            }
            self.record(records)?;
            if evaluating {
                self.evaluated(evaluation, epoch)?;
            }
            match shown.take_if(|_| sampling) {
                Some(text) => self.drawn(&text)?,
                None if sampling => self.sample()?,
                None => {}
            }
            if saving {
                self.save()?;
            }
            if self.trainer.is_hopeless() {
                let records = self.trainer.finish()?;
                let why = records.iter().rev().find_map(|r| r.skipped.clone());
                let is_sound = records.last().is_some_and(|last| last.loss.is_finite());
                self.record(records)?;
                // Skipped steps leave the weights as they were: good ones where their loss is a number. With local steps they are one
                // rank's alone.
                let is_shared = self.trainer.settings().sync_every == 0;
                if is_sound && is_shared && !self.folder.replaces() {
                    self.save()?;
                }
                let why = why.unwrap_or_else(|| "a value is not finite".into());
                return self.give_up(&format!("five steps in a row were skipped because {why}"));
            }
        }
    }

    /// Ends a run whose roll-out failed: a checkpoint keeps all that was learned.
    fn failed(&mut self, error: Error) -> Result<End> {
        if self.trainer.ranks().are_several() {
            return Err(error); // the others are in the middle of a step
        }
        let records = self.trainer.finish()?;
        self.record(records)?;
        if self.trainer.steps_done() > 0 {
            self.save()?;
            self.settle(true)?;
        }
        Err(error)
    }

    /// Ends a run that has diverged; nothing of it is saved beyond its last checkpoint.
    fn give_up(&self, why: &str) -> Result<End> {
        let or = if self.trainer.settings().is_mixed() { ", or --precision f32" } else { "" };
        let saved = match self.folder.steps()?.first() {
            _ if self.folder.replaces() => "nothing was saved, and the run from before is as it was".to_string(),
            Some(step) => format!("the last checkpoint, of step {step}, is kept in {}", self.folder.path().display()),
            None => "nothing was saved".to_string(),
        };
        fail!(Training, "{why}, so that the run has diverged: {saved}; use a lower --lr{or}");
    }

    /// Puts a run that replaces another in its place once both its first checkpoint and a model that others load stand there,
    /// or, at its end, with the checkpoint alone.
    fn settle(&mut self, is_end: bool) -> Result<()> {
        if (is_end || holds_model(self.folder.out())) && self.folder.settle()? {
            self.sinks.iter_mut().for_each(|sink| sink.moved(&self.folder));
        }
        Ok(())
    }

    /// The folder of the best model.
    pub fn best_folder(&self) -> PathBuf {
        match self.best.as_os_str().is_empty() {
            true => self.folder.out().to_path_buf(),
            false => self.folder.out().join(&self.best),
        }
    }

    /// Hands records to the sinks.
    fn record(&mut self, records: Vec<Record>) -> Result<()> {
        for record in &records {
            self.sinks.iter_mut().try_for_each(|sink| sink.record(record))?;
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.sinks.iter_mut().for_each(|sink| sink.note(text));
    }

    /// Records a validation, and keeps the model where it is the best so far: the lowest loss, or the highest of another measure.
    /// Without validation data the newest is the best.
    fn evaluated(&mut self, evaluation: Option<Evaluation>, epoch: Option<u64>) -> Result<()> {
        let Some(Evaluation { loss, value, text, .. }) = evaluation else { return self.keep() };
        let value = value.filter(|value| value.is_finite() && loss.is_finite());
        let before = self.state.evaluations.iter().filter_map(|e| e.value).fold(f64::NEG_INFINITY, f64::max);
        let best = value.is_some_and(|value| value > before);
        let step = self.trainer.steps_done();
        if !text.is_empty() {
            let place = epoch.map_or(format!("step {step}"), |epoch| format!("epoch {epoch}"));
            let mark = if best { ", the best so far" } else { "" };
            self.note(&format!("{place}: loss {loss:.4}, {text}{mark}"));
        }
        self.state.evaluations.push(Evaluated { step, epoch, loss, value, best });
        if best { self.keep() } else { Ok(()) }
    }

    /// Whether so many validations in a row were no better as the run has patience for.
    fn is_stale(&self) -> bool {
        let waited = self.state.evaluations.iter().rev().take_while(|e| !e.best).count() as u64;
        let patience = self.trainer.settings().patience;
        patience > 0 && waited >= patience
    }

    /// Writes the model as it is to the folder of the best.
    fn keep(&mut self) -> Result<()> {
        if !self.trainer.ranks().is_first() {
            return Ok(());
        }
        let prefix = self.trainer.network().prefix().to_string();
        let of_network = self.trainer.network_states();
        let mut tensors = self.trainer.read(of_network)?;
        tensors.iter_mut().for_each(|(name, ..)| *name = name.strip_prefix(&prefix).unwrap_or(name).to_string());
        self.trainer.objective().save(&self.best_folder(), &borrowed(&tensors), self.tokenizer.as_ref())
    }

    /// Saves a checkpoint of the steps done, which must be finished. The first rank writes it, and all know that it is written.
    pub fn save(&mut self) -> Result<()> {
        self.trainer.share_all()?;
        self.state.step = self.trainer.steps_done();
        self.state.kept = self.trainer.objective().state();
        self.state.ranks = self.trainer.ranks().count();
        if self.trainer.ranks().is_first() {
            self.write()?;
        }
        self.trainer.ranks().meet();
        self.settle(false)
    }

    /// Writes a checkpoint.
    fn write(&mut self) -> Result<()> {
        self.sinks.iter_mut().try_for_each(|sink| sink.sync())?;
        let network = self.trainer.network().clone();
        let saved = network.parameters().iter().filter(|p| !network.freezes(p));
        let names = saved.map(|p| (p.name.clone(), p.dims.clone())).collect();
        let mut parameters = self.trainer.read(names)?;
        let prefix = network.prefix();
        parameters.iter_mut().for_each(|(name, ..)| *name = name.strip_prefix(prefix).unwrap_or(name).to_string());
        let mut others = self.trainer.read(other_states(&self.trainer))?;
        others.extend(self.trainer.momenta().map(|(name, values)| (name, vec![values.len()], values.to_vec())));
        self.folder.save(&Checkpoint {
            step: self.state.step,
            config: network.config(),
            tokenizer: self.tokenizer.as_ref().map_or(&b""[..], Tokenizer::json),
            parameters: &borrowed(&parameters),
            optimizer: &borrowed(&others),
            trainer: &self.state,
        })?;
        if let Some(tokenizer) = &self.tokenizer {
            tokenizer.save(self.folder.path())?;
        }
        let has_own = self.tokenizer.as_ref().is_some_and(Tokenizer::has_generation_config);
        if !has_own && network.config().lora.is_none() {
            GenerationConfig::of(network.config()).save(self.folder.path())?;
        }
        let best = self.best_folder();
        if holds_model(&best) {
            let evaluations = serde_json::to_string_pretty(&self.state.evaluations).expect("numbers serialise") + "\n";
            write_bytes(&best.join(METRICS_FILE), evaluations.as_bytes())?;
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.saved())
    }

    /// Draws a short text from the model as it is.
    fn sample(&mut self) -> Result<()> {
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| self.trainer.ranks().is_first()) else {
            return Ok(());
        };
        let network = self.trainer.network().clone();
        let vocabulary = tokenizer.vocabulary_size().min(network.config().vocab_size);
        let prompt = tokenizer.encode("\n").ok().filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![0]);
        let draw = SamplingParams { temperature: 0.8, ..SamplingParams::GREEDY };
        let (seed, executor) = (self.trainer.steps_done() as u32, self.trainer.executor());
        let mut generator = Generator::of_store(executor, &network, vocabulary, 1)?;
        let mut ids = vec![];
        generator.sample(executor, &prompt, SAMPLE_TOKENS, &draw, seed, &mut |_, token| {
            ids.push(token.id);
            Ok(true)
        })?;
        generator.free(executor);
        let text = tokenizer.decode(&ids)?;
        self.drawn(text.trim())
    }

    /// Tells a text that the model has drawn.
    fn drawn(&mut self, text: &str) -> Result<()> {
        self.note(&format!("sample: {text}"));
        let step = self.trainer.steps_done();
        self.sinks.iter_mut().try_for_each(|sink| sink.sample(step, text))
    }

    fn lose_device(&mut self) {
        let next = self.trainer.steps_done() + 1;
        if let Some(at) = self.faults.iter().position(|step| *step == next) {
            self.faults.remove(at);
            self.trainer.executor().lose();
        }
    }

    /// The best evaluation so far.
    pub fn best_evaluation(&self) -> Option<&Evaluated> {
        self.state.evaluations.iter().rev().find(|evaluated| evaluated.best)
    }
}

fn borrowed(tensors: &[Owned]) -> Vec<NamedTensor<'_>> {
    tensors.iter().map(|(name, dims, values)| (name.clone(), dims.clone(), values.as_slice())).collect()
}

/// A path so that a run can be resumed from elsewhere.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
