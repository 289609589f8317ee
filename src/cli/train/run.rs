//! A run under way: its device, the loop, what is printed and saved.

use super::super::{Global, host_memory};
use super::material::Material;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::formats::generation_config::GenerationConfig;
use wgpt::generate::{Draw, Generator};
use wgpt::graph::Limits;
use wgpt::models::config::Config;
use wgpt::train::checkpoint::{LoadedCheckpoint, RunFolder};
use wgpt::train::log::{self, Log, Record, console_line};
use wgpt::train::memory::{SUGGESTED_ROWS, check_memory, chunked};
use wgpt::train::plot::{self, Plot};
use wgpt::train::settings::{Precision, Settings};
use wgpt::train::trainer::{Blueprint, Trainer, TrainerState, mib, trainer_state};

/// A device, and the plan of a run on it. Nothing is allocated yet.
pub(super) type Planned = (Box<dyn Executor>, Blueprint);

/// Opens the device, and says what the run is and takes.
/// `before` is what a run that goes on ran until now.
pub(super) fn planned(
    global: &Global,
    config: &Config,
    settings: &Settings,
    material: &Material,
    before: Option<&TrainerState>,
) -> Result<Planned> {
    let mut executor = global.open()?;
    if let Some(state) = before {
        state.variants.settle(executor.as_mut());
    }
    let blueprint = check_memory(config, settings, executor.limits(), host_memory(executor.as_ref()))?;
    announce(global, config, settings, material, &blueprint, executor.limits());
    let blueprint = blueprint.tuned(executor.as_mut())?;
    Ok((executor, blueprint))
}

pub(super) fn allocated(planned: Planned, config: Config, settings: Settings, material: &Material) -> Result<Trainer> {
    let tokens = (material.corpus.training.clone(), material.corpus.validation.clone());
    Trainer::new(planned.0, planned.1, config, settings, tokens)
}

/// Puts a trainer where a checkpoint left it; the log, cut to there.
pub(super) fn go_on(
    global: &Global,
    trainer: &mut Trainer,
    checkpoint: &LoadedCheckpoint,
    state: &TrainerState,
    folder: &RunFolder,
) -> Result<Log> {
    trainer.restore(checkpoint, state)?;
    global.say(&format!("resuming after step {}", state.step));
    Log::resume(&folder.log_path(), state.step)
}

/// A run under way.
pub(super) struct Run<'a> {
    pub global: &'a Global,
    pub out: &'a Path,
    pub folder: RunFolder,
    pub log: Log,
    pub trainer: Trainer,
    pub material: Material,
    pub places: (Option<String>, Option<String>),
    /// Steps before which the device is lost.
    pub faults: Vec<u64>,
}

impl Run<'_> {
    /// This run on a device that is opened anew, from its last checkpoint.
    pub fn on_new_device(self, why: String) -> Result<Self> {
        let Run { global, out, folder, log, trainer, material, places, faults } = self;
        let (config, settings) = (trainer.config().clone(), trainer.settings().clone());
        drop((trainer, log)); // what the old device holds must be free before the new one takes as much
        let Some(checkpoint) = folder.latest()? else { return Err(Error::DeviceLost(why)) };
        let state = trainer_state(&checkpoint)?;
        let plan = planned(global, &config, &settings, &material, Some(&state))?;
        let mut trainer = allocated(plan, config, settings, &material)?;
        let log = go_on(global, &mut trainer, &checkpoint, &state, &folder)?;
        Ok(Run { global, out, folder, log, trainer, material, places, faults })
    }

    pub fn go(&mut self, interrupted: &AtomicBool) -> Result<()> {
        let steps = self.trainer.settings().steps;
        let bar = self.progress_bar(steps);
        let outcome = self.steps(&bar, interrupted);
        bar.finish_and_clear();
        // Records that have arrived are kept whatever ended the run.
        self.log.sync()?;
        outcome?;
        self.report()?;
        if self.trainer.steps_done() < steps {
            let (done, out) = (self.trainer.steps_done(), self.out.display());
            self.global
                .say(&format!("stopped after step {done} of {steps}; go on with: wgpt train --out {out} --resume"));
        }
        Ok(())
    }

    /// The loop: step, log, validate, save.
    fn steps(&mut self, bar: &ProgressBar, interrupted: &AtomicBool) -> Result<()> {
        let Settings { steps, eval_every, save_every, sample_every, .. } = *self.trainer.settings();
        while self.trainer.steps_done() < steps && !interrupted.load(Ordering::SeqCst) {
            let next = self.trainer.steps_done() + 1;
            if let Some(at) = self.faults.iter().position(|step| *step == next) {
                self.faults.remove(at);
                self.trainer.executor().lose();
            }
            let mut records = self.trainer.step()?;
            let done = self.trainer.steps_done();
            let due = |every: u64| done == steps || (every > 0 && done.is_multiple_of(every));
            let sampling = sample_every > 0 && due(sample_every);
            let mut val = None;
            let mut load = None;
            if due(eval_every) || due(save_every) || sampling {
                records.extend(self.trainer.finish()?);
                if due(eval_every) {
                    val = Some(self.trainer.validate()?);
                    load = self.trainer.expert_load()?;
                }
            }
            self.note_with(&records, val, load, bar)?;
            if sampling {
                self.sample(bar)?;
            }
            if due(save_every) {
                self.save()?;
            }
            if self.trainer.is_hopeless() {
                let records = self.trainer.finish()?;
                self.note(&records, bar)?;
                self.save()?;
                let why =
                    records.last().and_then(|r| r.skipped.clone()).unwrap_or_else(|| "a value is not finite".into());
                let or = if self.trainer.settings().is_mixed() { ", or --precision f32" } else { "" };
                fail!(
                    Training,
                    "five steps in a row were skipped because {why}: the last good weights are saved in {}; use a lower \
                     --lr{or}",
                    self.out.display()
                );
            }
        }
        if self.trainer.steps_done() < steps {
            let records = self.trainer.finish()?;
            self.note(&records, bar)?;
            self.save()?;
        }
        Ok(())
    }

    fn note(&mut self, records: &[Record], bar: &ProgressBar) -> Result<()> {
        self.note_with(records, None, None, bar)
    }

    /// Logs records; `val` and `load` belong to the last of them.
    fn note_with(
        &mut self,
        records: &[Record],
        val: Option<f32>,
        load: Option<Vec<Vec<f32>>>,
        bar: &ProgressBar,
    ) -> Result<()> {
        let steps = self.trainer.settings().steps;
        for (i, record) in records.iter().enumerate() {
            let last = i + 1 == records.len();
            let expert_load = load.clone().filter(|_| last);
            let record = Record { val_loss: val.filter(|_| last), expert_load, ..record.clone() };
            self.log.append(&record)?;
            let line = console_line(&record, steps);
            let shown = record.val_loss.is_some() || record.skipped.is_some() || record.step == 1;
            bar.set_position(record.step);
            bar.set_message(line.clone());
            if shown || record.step.is_multiple_of((steps / 20).max(1)) {
                bar.suspend(|| self.global.say(&line));
            }
        }
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        self.log.sync()?;
        let tokenizer = self.material.tokenizer.as_ref();
        let json = tokenizer.map_or(&b""[..], Tokenizer::json);
        let (data, val) = (self.places.0.as_deref(), self.places.1.as_deref());
        self.trainer.save(&self.folder, json, data, val)?;
        if let Some(tokenizer) = tokenizer {
            tokenizer.save(self.out)?;
        }
        GenerationConfig::of(self.trainer.config()).save(self.out)?;
        self.draw()
    }

    fn draw(&self) -> Result<()> {
        let records = log::read(&self.folder.log_path())?;
        let config = self.trainer.config();
        let Config { family, layers, width, context, .. } = config;
        let title = format!("{}, {layers} layers, {width} wide, {context} context", family.name());
        let floor = self.material.floor.map(|nats| (nats, "entropy of the corpus"));
        plot::write(&self.folder.plot_path(), &Plot { title: &title, records: &records, floor })
    }

    /// Prints a short text from the model as it is.
    fn sample(&mut self, bar: &ProgressBar) -> Result<()> {
        let Some(tokenizer) = &self.material.tokenizer else { return Ok(()) };
        let config = self.trainer.config().clone();
        let vocabulary = tokenizer.vocabulary_size().min(config.vocab_size);
        let prompt = tokenizer.encode("\n").ok().filter(|ids| !ids.is_empty()).unwrap_or_else(|| vec![0]);
        let draw = Draw { temperature: 0.8, ..Draw::GREEDY };
        let (seed, executor) = (self.trainer.steps_done() as u32, self.trainer.executor());
        let mut generator = Generator::of_store(executor, &config, vocabulary, 1)?;
        let mut ids = vec![];
        generator.sample(executor, &prompt, 100, &draw, seed, &mut |_, token| {
            ids.push(token.id);
            Ok(true)
        })?;
        generator.free(executor);
        let text = tokenizer.decode(&ids)?;
        bar.suspend(|| self.global.say(&format!("sample: {}", text.trim())));
        Ok(())
    }

    /// The closing lines: the loss beside the floor, and where things are.
    fn report(&self) -> Result<()> {
        let records = log::read(&self.folder.log_path())?;
        let Some(val) = records.iter().rev().find_map(|r| r.val_loss) else { return Ok(()) };
        match self.material.floor {
            Some(floor) => self.global.say(&format!(
                "validation loss {val:.3} nats per token; the corpus's entropy is {floor:.3}, which no model can beat"
            )),
            None => self.global.say(&format!("validation loss {val:.3} nats per token")),
        }
        if let Some(scale) = records.last().and_then(|r| r.loss_scale) {
            let skipped = records.iter().filter(|r| r.skipped.is_some()).count();
            self.global.say(&format!("loss scale {scale} at the end; {skipped} of {} steps skipped", records.len()));
        }
        let out = self.out.display();
        self.global
            .say(&format!("model in {out}, curve in {out}/loss.svg; try: wgpt sample --model {out} --prompt \"...\""));
        Ok(())
    }

    fn progress_bar(&self, steps: u64) -> ProgressBar {
        let visible = !self.global.quiet && std::io::stderr().is_terminal();
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_position(self.trainer.steps_done());
        let style = ProgressStyle::with_template("{bar:24} {eta:>4} left  {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }
}

pub(super) fn announce(
    global: &Global,
    config: &Config,
    settings: &Settings,
    material: &Material,
    blueprint: &Blueprint,
    limits: &Limits,
) {
    material.corpus.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
    global.say(&format!(
        "model: {} parameters ({} layers, {} heads, {} wide, {} context, {} tokens); data: {} training, {} validation tokens",
        config.parameter_count(),
        config.layers,
        config.heads,
        config.width,
        config.context,
        config.vocab_size,
        material.corpus.training.len(),
        material.corpus.validation.len(),
    ));
    // What the other choices would take; planning them is quick.
    let other = |other: Settings| {
        Blueprint::new(config, &other, limits).map_or("no memory at all".into(), |b| mib(b.memory_bytes()))
    };
    let mut others = vec![];
    if let Some(chunked) = chunked(settings) {
        others.push(format!("{} with --classifier-rows {SUGGESTED_ROWS}", other(chunked)));
    }
    if !settings.recompute {
        others.push(format!("{} with --recompute", other(Settings { recompute: true, ..settings.clone() })));
    }
    if settings.batch > 1 {
        let (batch, accumulate) =
            (settings.batch / 2, (settings.batch * settings.accumulate).div_ceil(settings.batch / 2));
        let smaller = other(Settings { batch, ..settings.clone() });
        others.push(format!("{smaller} with --batch {batch} --accumulate {accumulate}"));
    }
    if !settings.is_mixed() && limits.f16 {
        let mixed = other(Settings { precision: Precision::Mixed, ..settings.clone() });
        others.push(format!("{mixed} with --precision mixed"));
    }
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    global.say(&format!("memory: {} on the device{others}", mib(blueprint.memory_bytes())));
    global.detail(&format!("settings: {settings:?}"));
}
