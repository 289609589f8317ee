//! `wgpt finetune`: trains a pre-trained model with a head on labelled data.

pub mod options;

use super::Global;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use options::{Choices, Columns};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use wgpt::data::labelled::{self, Form, Task};
use wgpt::error::Result;
use wgpt::fail;
use wgpt::finetune::batches::Item;
use wgpt::finetune::folder::TaskFile;
use wgpt::finetune::head::Head;
use wgpt::finetune::prepare::prepare;
use wgpt::finetune::run::{self, End, Event, Run, RunState};
use wgpt::finetune::sequences::{Encoder, Special};
use wgpt::finetune::settings::Settings;
use wgpt::finetune::task::{Target, form};
use wgpt::finetune::trainer::{Trainer, trained};
use wgpt::models::config::{Config, Dropout};
use wgpt::train::log::console_line;
use wgpt::train::trainer::mib;

#[derive(clap::Args)]
pub struct Finetune {
    /// Model folder to start from, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long, conflicts_with = "resume")]
    model: Option<PathBuf>,
    /// Folder for the fine-tuned model; its checkpoints and log go to training/ in it
    #[arg(long)]
    out: PathBuf,
    /// What is asked: classify, entail, similar or choose
    #[arg(long, value_parser = task_named, required_unless_present = "resume")]
    task: Option<Task>,
    /// Labelled training data: .jsonl, .csv or .tsv with named columns
    #[arg(long, required_unless_present = "resume")]
    data: Option<PathBuf>,
    /// Labelled validation data: the model of the best epoch is kept; without it, that of the last
    #[arg(long)]
    val: Option<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    #[command(flatten)]
    choices: Choices,
    /// Continue the run in --out exactly where its last checkpoint left it
    #[arg(long)]
    resume: bool,
    /// Replace the run in --out
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
}

pub(super) fn task_named(name: &str) -> std::result::Result<Task, String> {
    Task::named(name).map_err(|error| error.to_string())
}

/// Training and validation data, ready to be fed.
struct Material {
    training: Vec<Item>,
    validation: Vec<Item>,
    target: Target,
}

impl Finetune {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        let mut run = if self.resume { self.resume(global)? } else { self.start(global)? };
        let interrupted = super::interrupts(global);
        let (steps, done) = run.trainer.steps();
        let bar = progress_bar(global, steps, done);
        let end = run.go(&interrupted, &mut |event| tell(global, &bar, steps, event));
        bar.finish_and_clear();
        self.report(global, &run, end?);
        Ok(())
    }

    fn start(&self, global: &Global) -> Result<Run> {
        let (Some(task), Some(data)) = (self.task, self.data.as_deref()) else {
            fail!(Usage, "--task and --data say what to learn: give both");
        };
        let settings = self.choices.settings();
        let source = global.model(self.model.as_deref())?;
        let pretrained = source.config()?;
        let (weights, tokenizer) = (source.weights(&pretrained)?, source.tokenizer()?);
        let columns = self.columns.names();
        let form = form(task, &columns)?;
        let examples = labelled::read(data, &form, true)?;
        let target = Target::of(task, self.choices.grades, &examples, data)?;
        settings.check(&pretrained, &target)?;
        let (config, special) =
            with_special(&pretrained, TaskFile::read(&source)?.and_then(|task| task.special), &settings)?;
        let longest = settings.longest(&config);
        let encoder = Encoder { tokenizer: &tokenizer, task, special: Some(special), longest, pad: None };
        let material = material(global, &encoder, &form, &settings, target, (data, self.val.as_deref()))?;
        let folder = run::create_folder(&self.out, self.overwrite)?;
        let task = TaskFile { task, target: material.target, special: Some(special), longest, columns, pad: None };
        let state = RunState {
            step: 0,
            settings: settings.clone(),
            task,
            data: absolute(data),
            validation: self.val.as_deref().map(absolute),
            epochs: vec![],
            variants: Default::default(),
        };
        let items = (material.training, &material.validation[..]);
        let mut trainer = trainer(global, config, &state, items)?;
        if settings.from_scratch {
            trainer.initialise()?
        } else {
            trainer.start_from(&weights)?
        }
        drop(weights);
        Run::new(&self.out, folder, trainer, material.validation, tokenizer, state)
    }

    fn resume(&self, global: &Global) -> Result<Run> {
        let choices = self.choices.settings() != Settings::default() || self.choices.grades;
        if choices || self.data.is_some() || self.task.is_some() || self.columns != Columns::default() {
            fail!(Usage, "--resume takes everything from the run in {}: leave out the rest", self.out.display());
        }
        let (folder, checkpoint, state, tokenizer) = run::open_folder(&self.out)?;
        checkpoint.warnings.iter().for_each(|warning| global.say(&format!("warning: {warning}")));
        let TaskFile { task, special, longest, .. } = state.task;
        let form = form(task, &state.task.columns)?;
        let encoder = Encoder { tokenizer: &tokenizer, task, special, longest, pad: None };
        let places = (state.data.as_path(), state.validation.as_deref());
        let material = material(global, &encoder, &form, &state.settings, state.task.target.clone(), places)?;
        let items = (material.training, &material.validation[..]);
        let mut trainer = trainer(global, checkpoint.config.clone(), &state, items)?;
        run::restore(&mut trainer, &checkpoint)?;
        global.say(&format!("resuming after step {}", state.step));
        drop(checkpoint); // some systems refuse to replace a file that is mapped
        Run::new(&self.out, folder, trainer, material.validation, tokenizer, state)
    }

    fn report(&self, global: &Global, run: &Run, end: End) {
        let out = self.out.display();
        match end {
            End::Interrupted => {
                let (steps, done) = run.trainer.steps();
                global.say(&format!(
                    "stopped after step {done} of {steps}; go on with: wgpt finetune --out {out} --resume"
                ));
                return;
            }
            End::Early => global.say("stopped early: the validation has not become better"),
            End::Done => {}
        }
        if let Some(best) = run.state.epochs.iter().rev().find(|epoch| epoch.best) {
            let value = best.value.map_or("undefined".into(), |value| format!("{value:.4}"));
            global.say(&format!("the best epoch is {}, with {value}", best.epoch));
        }
        global.say(&format!("model in {out}; try: wgpt predict --model {out} --data FILE"));
    }
}

/// The model's shape with dropout and the added tokens, and those; a model that has some keeps them.
fn with_special(pretrained: &Config, known: Option<Special>, settings: &Settings) -> Result<(Config, Special)> {
    let mut config = pretrained.clone();
    config.dropout = Dropout::of(settings.dropout);
    let special = known.unwrap_or_else(|| {
        config.vocab_size += Special::COUNT;
        Special::after(pretrained.vocab_size)
    });
    config.validate()?;
    Ok((config, special))
}

fn material(
    global: &Global,
    encoder: &Encoder,
    form: &Form,
    settings: &Settings,
    target: Target,
    (data, val): (&Path, Option<&Path>),
) -> Result<Material> {
    let read = |path: &Path| {
        let prepared = prepare(encoder, &target, &labelled::read(path, form, true)?, path)?;
        if prepared.cut > 0 {
            let (cut, all, longest) = (prepared.cut, prepared.items.len(), encoder.longest);
            global.say(&format!(
                "warning: {cut} of {all} rows of {} are longer than {longest} tokens and were cut",
                path.display()
            ));
        }
        Result::Ok(prepared.items)
    };
    let mut training = read(data)?;
    settings.class_weights.apply(&target, &mut training)?;
    let validation = val.map_or(Ok(vec![]), read)?;
    Ok(Material { training, validation, target })
}

/// Loads a run's programs, saying what they take.
fn trainer(global: &Global, config: Config, state: &RunState, items: (Vec<Item>, &[Item])) -> Result<Trainer> {
    let RunState { settings, task, .. } = state;
    let head = Head { dropout: settings.dropout, ..task.head(&config, settings.batch) };
    let values =
        |parameters: &[(String, Vec<usize>)]| parameters.iter().map(|(_, d)| d.iter().product::<usize>()).sum();
    let (trains, all): (usize, u64) = (values(&trained(&config, &head, settings.freeze)), config.parameter_count());
    let (training, validation) = (items.0.len(), items.1.len());
    let mut executor = global.open()?;
    state.variants.settle(executor.as_mut());
    let available = super::host_memory(executor.as_ref());
    let mut trainer = Trainer::new(executor, config, head, settings.clone(), items, available)?;
    let bytes = trainer.executor().allocated_bytes();
    global.say(&format!(
        "{}: {training} training, {validation} validation examples, padded to {:?} tokens; {trains} values are trained, of \
         {all} in the model; memory: {} on the device",
        task.task.name(),
        trainer.lengths(),
        mib(bytes),
    ));
    global.detail(&format!("settings: {settings:?}"));
    Ok(trainer)
}

/// Shows progress: every epoch, and now and then a step.
fn tell(global: &Global, bar: &ProgressBar, steps: u64, event: Event) {
    match event {
        Event::Step(record) => {
            let line = console_line(record, steps);
            bar.set_position(record.step);
            bar.set_message(line.clone());
            let shown = record.step == 1 || record.skipped.is_some() || record.step.is_multiple_of((steps / 20).max(1));
            if shown {
                bar.suspend(|| global.say(&line));
            }
        }
        Event::Epoch(epoch, metrics) => {
            let best = if epoch.best { ", the best so far" } else { "" };
            bar.suspend(|| global.say(&format!("epoch {}: loss {:.4}, {metrics}{best}", epoch.epoch, epoch.loss)));
        }
    }
}

fn progress_bar(global: &Global, steps: u64, done: u64) -> ProgressBar {
    let visible = !global.quiet && std::io::stderr().is_terminal();
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{bar:24} {eta:>4} left  {msg}");
    ProgressBar::with_draw_target(Some(steps), target)
        .with_position(done)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// So that a run can be resumed from elsewhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}
