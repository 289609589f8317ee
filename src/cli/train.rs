//! `wgpt train`: pretrains a model, prints progress, keeps checkpoints, log and plot.

use super::Global;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::corpus::{Corpus, tokens};
use wgpt::data::source::Source;
use wgpt::data::story;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::generate::{Draw, Generator};
use wgpt::graph::Limits;
use wgpt::models::config::Config;
use wgpt::models::folder::{Weights, read_config};
use wgpt::models::generation_config::GenerationConfig;
use wgpt::train::checkpoint::{LoadedCheckpoint, Mode, RunFolder};
use wgpt::train::log::{self, Log, Record, console_line};
use wgpt::train::plot::{self, Plot};
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::{Blueprint, Trainer, TrainerState, check_memory, mib, trainer_state};

/// Bytes of the built-in corpus: training, and held out.
const STORY_BYTES: (usize, usize) = (2 << 20, 200 << 10);

#[derive(clap::Args)]
pub struct Train {
    /// Folder for the model, checkpoints, log and plot
    #[arg(long)]
    out: PathBuf,
    /// A file or folder of .txt, .jsonl (with a text field) or .bin token shards [default: the built-in stories]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Validation data [default: the last tenth of the data]
    #[arg(long)]
    val: Option<PathBuf>,
    /// A TOML file with any of the choices below; flags win over it
    #[arg(long)]
    config: Option<PathBuf>,
    /// Start from the model in this folder, or ORG/NAME on the Hugging Face hub
    #[arg(long, conflicts_with = "resume")]
    init: Option<PathBuf>,
    /// Continue the run in --out exactly where its last checkpoint left it
    #[arg(long)]
    resume: bool,
    /// Replace the run in --out
    #[arg(long, conflicts_with = "resume")]
    overwrite: bool,
    /// Lose the device before this step, once for each time it is given
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, value_name = "STEP")]
    lose_device_at: Vec<u64>,
    #[command(flatten)]
    choices: Choices,
}

/// Times that a lost device is opened again before a run gives up.
const MOST_LOSSES: usize = 2;

/// What is trained on.
struct Material {
    corpus: Corpus,
    tokenizer: Option<Tokenizer>,
    /// The least loss that is possible, in nats per token, where it is known.
    floor: Option<f64>,
}

impl Train {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.resume { self.resume(global) } else { self.start(global) }
    }

    /// A new run.
    fn start(&self, global: &Global) -> Result<()> {
        let init = self.init.as_deref().map(|dir| global.model_folder(dir)).transpose()?;
        let init = init.as_deref().map(|dir| Ok::<_, Error>((dir, read_config(dir)?))).transpose()?;
        let choices = match &self.config {
            Some(path) => self.choices.clone().or(read_choices(path)?),
            None => self.choices.clone(),
        };
        let settings = choices.resolve(init.as_ref().map(|(_, config)| config))?;
        settings.config(1)?; // refuse an impossible model before reading any data
        let known = init.as_ref().map(|(dir, _)| Tokenizer::load(dir)).transpose()?;
        let material = open_material(self.data.as_deref(), self.val.as_deref(), &settings, known)?;
        let config = model_config(&settings, &material, init.as_ref().map(|(_, config)| config))?;
        let mode = if self.overwrite { Mode::Overwrite } else { Mode::Fresh };
        let plan = planned(global, &config, &settings, &material)?;
        let folder = RunFolder::create(&self.out, mode)?;
        let mut trainer = allocated(plan, config, settings, &material)?;
        match &init {
            Some((dir, config)) => trainer.start_from(&Weights::open(dir, config)?)?,
            None => trainer.initialise()?,
        }
        let log = Log::create(&folder.log_path())?;
        let places = (path_text(self.data.as_deref()), path_text(self.val.as_deref()));
        self.run_to_end(Run { global, out: &self.out, folder, log, trainer, material, places, faults: self.faults() })
    }

    /// Goes on from the last checkpoint, with its settings; only --steps may change.
    fn resume(&self, global: &Global) -> Result<()> {
        let others = Choices { steps: None, ..self.choices.clone() };
        if others != Choices::default() || self.config.is_some() || self.data.is_some() || self.val.is_some() {
            fail!(
                Usage,
                "--resume takes everything but --steps from the run in {}: leave out the rest",
                self.out.display()
            );
        }
        let folder = RunFolder::open(&self.out)?;
        let Some(checkpoint) = folder.latest()? else {
            fail!(Input, "{} holds no checkpoint to resume: start it again with --overwrite", self.out.display());
        };
        checkpoint.warnings.iter().for_each(|w| global.say(&format!("warning: {w}")));
        let state = trainer_state(&checkpoint)?;
        let mut settings = state.settings.clone();
        settings.steps = self.choices.steps.unwrap_or(settings.steps);
        let known = saved_tokenizer(&checkpoint)?;
        let (data, val) = (state.data.as_deref().map(Path::new), state.validation.as_deref().map(Path::new));
        let material = open_material(data, val, &settings, known)?;
        if material.corpus.vocabulary_size != checkpoint.config.vocab_size {
            fail!(Input, "the data has another vocabulary than the checkpoint: it changed since the run was started");
        }
        let plan = planned(global, &checkpoint.config, &settings, &material)?;
        let mut trainer = allocated(plan, checkpoint.config.clone(), settings, &material)?;
        let log = go_on(global, &mut trainer, &checkpoint, &state, &folder)?;
        let places = (state.data.clone(), state.validation.clone());
        drop(checkpoint); // some systems refuse to replace a file that is mapped
        self.run_to_end(Run { global, out: &self.out, folder, log, trainer, material, places, faults: self.faults() })
    }

    /// Trains, on another device where one is lost: the same adapter after its driver came back, or the next best.
    fn run_to_end(&self, mut run: Run) -> Result<()> {
        let interrupted = super::interrupts(run.global);
        let mut losses = 0;
        loop {
            match run.go(&interrupted) {
                Err(Error::DeviceLost(why)) if losses < MOST_LOSSES => {
                    losses += 1;
                    let what = why.split(';').next().unwrap_or_default();
                    let note = format!("{what}; going on from the last checkpoint, {losses} of {MOST_LOSSES} times");
                    run.global.say(&format!("warning: {note}"));
                    run = run.on_new_device(why)?;
                }
                other => return other,
            }
        }
    }

    /// Steps before which the device is lost, to prove that a run survives it.
    fn faults(&self) -> Vec<u64> {
        #[cfg(debug_assertions)]
        return self.lose_device_at.clone();
        #[cfg(not(debug_assertions))]
        vec![]
    }
}

/// A device, and the plan of a run on it. Nothing is allocated yet.
type Planned = (Box<dyn Executor>, Blueprint);

/// Opens the device, and says what the run is and takes.
fn planned(global: &Global, config: &Config, settings: &Settings, material: &Material) -> Result<Planned> {
    let executor = global.open()?;
    let blueprint = check_memory(config, settings, executor.limits(), super::host_memory(executor.as_ref()))?;
    announce(global, config, settings, material, &blueprint, executor.limits());
    Ok((executor, blueprint))
}

fn allocated(planned: Planned, config: Config, settings: Settings, material: &Material) -> Result<Trainer> {
    let tokens = (material.corpus.training.clone(), material.corpus.validation.clone());
    Trainer::new(planned.0, planned.1, config, settings, tokens)
}

/// Puts a trainer where a checkpoint left it; the log, cut to there.
fn go_on(
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
struct Run<'a> {
    global: &'a Global,
    out: &'a Path,
    folder: RunFolder,
    log: Log,
    trainer: Trainer,
    material: Material,
    places: (Option<String>, Option<String>),
    /// Steps before which the device is lost.
    faults: Vec<u64>,
}

impl Run<'_> {
    /// This run on a device that is opened anew, from its last checkpoint.
    fn on_new_device(self, why: String) -> Result<Self> {
        let Run { global, out, folder, log, trainer, material, places, faults } = self;
        let (config, settings) = (trainer.config().clone(), trainer.settings().clone());
        drop((trainer, log)); // what the old device holds must be free before the new one takes as much
        let Some(checkpoint) = folder.latest()? else { return Err(Error::DeviceLost(why)) };
        let state = trainer_state(&checkpoint)?;
        let plan = planned(global, &config, &settings, &material)?;
        let mut trainer = allocated(plan, config, settings, &material)?;
        let log = go_on(global, &mut trainer, &checkpoint, &state, &folder)?;
        Ok(Run { global, out, folder, log, trainer, material, places, faults })
    }

    fn go(&mut self, interrupted: &AtomicBool) -> Result<()> {
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
                fail!(
                    Training,
                    "five steps in a row were skipped because {why}: the last good weights are saved in {}; use a lower --lr",
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

fn path_text(path: Option<&Path>) -> Option<String> {
    // Absolute, so that a run can be resumed from elsewhere.
    path.map(|p| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf()).display().to_string())
}

fn read_choices(path: &Path) -> Result<Choices> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        let what = e.message().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::Usage(format!(
            "{}, line {line}: {what}; keys are the flags of wgpt train without the dashes",
            path.display()
        ))
    })
}

fn saved_tokenizer(checkpoint: &LoadedCheckpoint) -> Result<Option<Tokenizer>> {
    if checkpoint.tokenizer.is_empty() {
        return Ok(None);
    }
    let folder =
        tempfile::tempdir().map_err(|source| Error::Io { action: "make a temporary folder".into(), source })?;
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, &checkpoint.tokenizer).map_err(Error::io("write", &path))?;
    Tokenizer::load(&path).map(Some)
}

/// Opens the data with the tokenizer that is known, or the one that the settings name.
fn open_material(
    data: Option<&Path>,
    val: Option<&Path>,
    settings: &Settings,
    known: Option<Tokenizer>,
) -> Result<Material> {
    let Some(path) = data else { return open_stories(val, settings, known) };
    let source = Source::open(path)?;
    let val = val.map(Source::open).transpose()?;
    let tokenizer = match known {
        Some(tokenizer) => Some(tokenizer),
        // Token shards have their tokenizer beside them, or none, unless one is named.
        None if !source.is_text() && matches!(settings.tokenizer.as_str(), "char" | "bytes") => {
            source.tokenizer_file().as_deref().map(Tokenizer::load).transpose()?
        }
        None => Some(Tokenizer::choose(&settings.tokenizer, &source)?),
    };
    let corpus = Corpus::open(&source, val.as_ref(), tokenizer.as_ref(), None, &super::cache_folder())?;
    Ok(Material { corpus, tokenizer, floor: None })
}

/// The built-in corpus; validation from a disjoint range of seeds.
fn open_stories(val: Option<&Path>, settings: &Settings, known: Option<Tokenizer>) -> Result<Material> {
    let source = Source::from_text("the built-in stories", story::training_text(settings.seed, STORY_BYTES.0));
    let is_per_character = known.is_none() && matches!(settings.tokenizer.as_str(), "char" | "bytes");
    let tokenizer = match known {
        Some(tokenizer) => tokenizer,
        None => Tokenizer::choose(&settings.tokenizer, &source)?,
    };
    let held_out = match val {
        Some(path) => Source::open(path)?,
        None => Source::from_text("held-out stories", story::validation_text(settings.seed, STORY_BYTES.1)),
    };
    let vocabulary_size = tokenizer.vocabulary_size();
    let open =
        |source: &Source| tokens(source, Some(&tokenizer), vocabulary_size, &super::cache_folder()).map(Arc::new);
    let corpus = Corpus { training: open(&source)?, validation: open(&held_out)?, vocabulary_size, notes: vec![] };
    let floor = (is_per_character && val.is_none()).then(|| story::entropy().nats_per_character());
    Ok(Material { corpus, tokenizer: Some(tokenizer), floor })
}

/// The model for the data's vocabulary; a continued model keeps its own shape and numbers.
fn model_config(settings: &Settings, material: &Material, init: Option<&Config>) -> Result<Config> {
    let vocabulary_size = material.corpus.vocabulary_size;
    let Some(init) = init else {
        let mut config = settings.config(vocabulary_size)?;
        config.eos_token_id = material.tokenizer.as_ref().and_then(Tokenizer::end_of_text).into_iter().collect();
        return Ok(config);
    };
    if vocabulary_size > init.vocab_size {
        let (has, wants) = (init.vocab_size, vocabulary_size);
        fail!(
            Input,
            "the tokenizer has {wants} tokens and the model {has}: use the tokenizer the model was trained with"
        );
    }
    Ok(Config { dropout: settings.dropout(), ..init.clone() })
}

fn announce(
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
    let other = |recompute: bool, batch: usize| {
        let other = Settings { recompute, batch, ..settings.clone() };
        Blueprint::new(config, &other, limits).map_or("no memory at all".into(), |b| mib(b.memory_bytes()))
    };
    let mut others = vec![];
    if !settings.recompute {
        others.push(format!("{} with --recompute", other(true, settings.batch)));
    }
    if settings.batch > 1 {
        let (batch, accumulate) =
            (settings.batch / 2, (settings.batch * settings.accumulate).div_ceil(settings.batch / 2));
        others.push(format!("{} with --batch {batch} --accumulate {accumulate}", other(settings.recompute, batch)));
    }
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    global.say(&format!("memory: {} on the device{others}", mib(blueprint.memory_bytes())));
    global.detail(&format!("settings: {settings:?}"));
}
