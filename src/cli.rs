//! The command line: one file per subcommand, and the only place that prints. Data goes to stdout, messages to stderr.

mod align;
mod chat;
mod compare;
pub mod console;
mod data;
mod doctor;
mod embed;
mod eval;
mod examples;
mod export;
mod finetune;
#[cfg(feature = "hub")]
mod hub;
mod inspect;
mod merge;
mod page;
mod plan;
mod predict;
mod prefer;
mod profile;
mod ranks;
mod render;
mod reward;
mod run;
mod sample;
#[cfg(feature = "serve")]
mod serve;
mod sft;
mod shares;
mod tokenizer;
mod train;
mod typed;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use wgpt::data::source::{Extensions, Source};
use wgpt::error::Result;
use wgpt::executor::{Executor, Trial, free_host_memory};
use wgpt::fail;
use wgpt::formats::adapter::is_adapter;
use wgpt::formats::demo;
use wgpt::formats::source::ModelSource;
use wgpt::gpu::tuning::Watch;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::AdapterKind;
use wgpt::ranks::Ranks;
use wgpt::reference::Cpu;

/// Pretrain, evaluate and sample GPT language models with WGSL compute shaders on any Vulkan, Metal or DX12 GPU.
#[derive(Parser)]
#[command(name = "wgpt", version, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where to run: auto (the best GPU), cpu (the reference, slow), or part of an adapter's name; a list of these with commas for the
    /// ranks of a machine in turn
    #[arg(long, global = true, default_value = "auto")]
    device: String,
    /// Measure again which kernels are the fastest on the device; otherwise that is done once
    #[arg(long, global = true)]
    retune: bool,
    /// Say more: the plan, the device
    #[arg(long, short, global = true)]
    verbose: bool,
    /// Say nothing but results and errors
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// The processes that run the command together
    #[arg(skip)]
    ranks: Arc<Ranks>,
}

#[derive(Subcommand)]
enum Command {
    /// Pretrain a model from text or tokens, or continue one
    Train(Box<train::Train>),
    /// Fine-tune a model with a head on labelled data
    Finetune(Box<finetune::Finetune>),
    /// Fine-tune a model on dialogues or completions, with the loss on the answers
    Sft(Box<sft::FineTune>),
    /// Choose between answers of a model, which makes preferences to learn from
    Prefer(Box<prefer::Prefer>),
    /// Train a reward model on preferences
    Reward(Box<reward::RewardModel>),
    /// Train a model on preferences, without a reward model
    Align(Box<align::Align>),
    /// Labels and probabilities of data, by a fine-tuned model
    Predict(predict::Predict),
    /// Embeddings of texts, or how alike pairs of texts are
    Embed(embed::Embed),
    /// Generate text
    Sample(sample::Sample),
    /// Talk with a model through its chat template
    Chat(chat::Chat),
    /// Serve a model over HTTP, with OpenAI's requests and answers and a chat page
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    /// Loss, perplexity and bits per byte of data, or the logits of given token ids
    Eval(eval::Eval),
    /// Look inside a model: a page with attention, predictions after each block, and the loss of each token
    Inspect(inspect::Inspect),
    /// Compare runs: curves, figures, settings and samples, as tables and as a page
    Compare(compare::Compare),
    /// Write a model as a Hugging Face folder, a GGUF file, or a page for browsers
    Export(export::Export),
    /// Add adapters to the weights of their model
    Merge(merge::Merge),
    /// Train a tokenizer, or turn text into token ids and back
    #[command(subcommand)]
    Tokenizer(tokenizer::Command),
    /// Turn text into token shards ahead of training
    #[command(subcommand)]
    Data(data::Command),
    /// Time of each kernel of a step, and its share of the device's ceilings
    Profile(Box<profile::Profile>),
    /// Time of a step on several machines: arithmetic, transfer and idling, and which steps to take
    Plan(plan::Plan),
    /// Adapters, limits, and every op against the reference on this device
    Doctor(doctor::Doctor),
}

impl Command {
    /// Whether ranks that `mpirun` has started run the command together.
    fn is_shared(&self) -> bool {
        matches!(
            self,
            Command::Train(_) | Command::Finetune(_) | Command::Sft(_) | Command::Reward(_) | Command::Align(_)
        )
    }
}

/// Runs the command, by itself or together with other ranks; the exit code.
pub fn run(arguments: &Arguments) -> u8 {
    let mut global = arguments.global.clone();
    if arguments.command.is_shared() {
        match ranks::start() {
            Ok(started) => global.ranks = Arc::new(started),
            Err(code) => return code,
        }
        global.quiet |= !global.ranks.is_first();
    }
    let result = run_command(arguments, &global);
    ranks::end(&global.ranks, result)
}

fn run_command(arguments: &Arguments, global: &Global) -> Result<()> {
    check_device_name(&global.device)?;
    if global.retune && global.device.eq_ignore_ascii_case("cpu") {
        fail!(Usage, "--retune measures the kernels of a GPU: leave it out with --device cpu");
    }
    match &arguments.command {
        Command::Train(train) => train.run(global),
        Command::Finetune(finetune) => finetune.run(global),
        Command::Sft(sft) => sft.run(global),
        Command::Prefer(prefer) => prefer.run(global),
        Command::Reward(reward) => reward.run(global),
        Command::Align(align) => align.run(global),
        Command::Predict(predict) => predict.run(global),
        Command::Embed(embed) => embed.run(global),
        Command::Sample(sample) => sample.run(global),
        Command::Chat(chat) => chat.run(global),
        #[cfg(feature = "serve")]
        Command::Serve(serve) => serve.run(global),
        Command::Eval(eval) => eval.run(global),
        Command::Inspect(inspect) => inspect.run(global),
        Command::Compare(compare) => compare.run(global),
        Command::Export(export) => export.run(global),
        Command::Merge(merge) => merge.run(global),
        Command::Tokenizer(tokenizer) => tokenizer.run(global),
        Command::Data(data) => data.run(global),
        Command::Profile(profile) => profile.run(global),
        Command::Plan(plan) => plan.run(global),
        Command::Doctor(doctor) => doctor.run(global),
    }
}

impl Global {
    /// Opens the device and announces it, with a warning for a software adapter.
    fn open(&self) -> Result<Box<dyn Executor>> {
        if ranks::device_of(&self.device, &self.ranks).0.eq_ignore_ascii_case("cpu") {
            self.say("device: the CPU reference (correct and slow)");
            return Ok(Box::new(Cpu::default()));
        }
        Ok(Box::new(self.open_gpu()?))
    }

    /// Opens a device that is not the reference.
    fn open_gpu(&self) -> Result<Gpu> {
        let (name, nth) = ranks::device_of(&self.device, &self.ranks);
        let mut gpu = Gpu::open_nth(name, nth)?;
        self.prepare(&mut gpu);
        force_variants(&mut gpu);
        let note = if gpu.adapter().is_software() { ": a CPU behind a graphics API, not a GPU" } else { "" };
        self.say(&format!("device: {}{note}", gpu.description()));
        Ok(gpu)
    }

    /// Has a device keep compiled pipelines and measurements on disk.
    fn prepare(&self, gpu: &mut Gpu) {
        gpu.keep_pipelines(&cache_folder());
        gpu.enable_tuning(&cache_folder(), self.retune, progress_of_trials(self));
        wgpt::checks::cooperative::allow_proven(gpu);
    }

    /// The model that is named, or the demo model where none is.
    fn model(&self, name: Option<&Path>) -> Result<ModelSource> {
        self.adapted_model(name, None)
    }

    /// As [`Global::model`], with the adapters in a folder; where no model is named, it is the one that they are of.
    fn adapted_model(&self, name: Option<&Path>, adapter: Option<&Path>) -> Result<ModelSource> {
        if let Some(adapter) = adapter.filter(|adapter| !is_adapter(adapter)) {
            let adapter = adapter.display();
            fail!(Input, "{adapter} holds no adapters: give a folder that peft, or wgpt with --lora, wrote");
        }
        let source = match (name, adapter) {
            (None, None) => return Ok(demo::model()),
            (None, Some(adapter)) => ModelSource::open(adapter)?,
            (Some(name), None) => ModelSource::open(&self.model_folder(name)?)?,
            (Some(name), Some(adapter)) => ModelSource::open(&self.model_folder(name)?)?.adapted(adapter),
        };
        source.warnings()?.iter().for_each(|warning| self.say(&format!("warning: {warning}")));
        Ok(source)
    }

    /// The folder of a model that is named by its path, or, where nothing is there, as ORG/NAME of the Hugging Face hub.
    fn model_folder(&self, name: &Path) -> Result<PathBuf> {
        if name.exists() {
            return Ok(name.into());
        }
        #[cfg(feature = "hub")]
        if let Some(name) = name.to_str().filter(|name| wgpt::formats::hub::is_name(name)) {
            return hub::fetch(self, name);
        }
        #[cfg(not(feature = "hub"))]
        if name.components().count() == 2 {
            let name = name.display();
            wgpt::fail!(
                Input,
                "there is no folder {name}, and this wgpt was built without the Hugging Face hub: build it with \
                 `cargo build --release --features hub`, or give a folder"
            );
        }
        Ok(name.into())
    }

    /// A message for people.
    fn say(&self, message: &str) {
        if !self.quiet {
            console::message(message);
        }
    }

    /// A message for people who want to know more.
    fn detail(&self, message: &str) {
        if self.verbose {
            console::message(message);
        }
    }
}

/// Has a device run the variants that `WGPT_VARIANT` names.
fn force_variants(gpu: &mut Gpu) {
    if let Ok(names) = std::env::var("WGPT_VARIANT") {
        gpu.force_variants(&names);
    }
}

/// Bytes that buffers may take where they are host memory: 90% of the free memory. `None` on a GPU, whose memory wgpu does not
/// tell; there the allocation itself fails with our own error.
fn host_memory(executor: &dyn Executor) -> Option<u64> {
    if executor.limits().adapter != AdapterKind::Software {
        return None;
    }
    free_host_memory()
}

/// Where tokenised data, measurements of kernels and compiled pipelines are kept: `WGPT_CACHE`, or the user's cache folder.
fn cache_folder() -> PathBuf {
    if let Some(path) = std::env::var_os("WGPT_CACHE") {
        return path.into();
    }
    let folders = directories::ProjectDirs::from("", "", "wgpt");
    folders.map_or_else(|| std::env::temp_dir().join("wgpt-cache"), |f| f.cache_dir().to_path_buf())
}

/// Checks a name before anything is opened, so that a wrong one is refused at once. Commands that open a device check that there
/// is one, too.
fn check_device_name(name: &str) -> Result<()> {
    let mut names = name.split(',').map(str::trim);
    names.try_for_each(|name| if name.eq_ignore_ascii_case("auto") { Ok(()) } else { check_device(name) })
}

/// Checks that there is a device of the name.
fn check_device(name: &str) -> Result<()> {
    let mut names = name.split(',').map(str::trim);
    names.try_for_each(|name| if name.eq_ignore_ascii_case("cpu") { Ok(()) } else { choose(name).map(|_| ()) })
}

/// Refuses extensions where no folder is searched for files.
fn check_extensions(extensions: Option<&Extensions>, places: &[Option<&Path>]) -> Result<()> {
    match places.iter().flatten().next() {
        Some(data) if extensions.is_some() && !places.iter().flatten().any(|place| place.is_dir()) => {
            fail!(Usage, "--ext is for folders, and {} is none: leave it out", data.display())
        }
        _ => Ok(()),
    }
}

/// Refuses a column where no file has any.
fn check_column<'a>(column: Option<&str>, sources: impl IntoIterator<Item = &'a Source>) -> Result<()> {
    if column.is_some() && !sources.into_iter().any(Source::has_columns) {
        fail!(Usage, "--column is for .jsonl and .parquet files, and the data has none: leave it out");
    }
    Ok(())
}

/// Set by Ctrl-C; a second one ends the process at once. One for the whole process, however many runs it has.
fn interrupts(global: &Global) -> Arc<AtomicBool> {
    static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(interrupted) = INTERRUPTED.get() {
        return interrupted.clone();
    }
    let interrupted = INTERRUPTED.get_or_init(Arc::default).clone();
    let flag = interrupted.clone();
    let handler = ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if handler.is_err() {
        global.say("warning: Ctrl-C cannot be caught here, and will lose the steps since the last checkpoint");
    }
    interrupted
}

/// A bar over bytes that are read, on standard error if that is a terminal.
fn progress_of_bytes(global: &Global, bytes: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg}{bar:24} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left");
    ProgressBar::with_draw_target(Some(bytes), console::bars(global.quiet))
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A bar over the variants that are measured, on standard error if that is a terminal, and a line when it is done.
fn progress_of_trials(global: &Global) -> Watch {
    let quiet = global.quiet;
    let mut under_way: Option<(ProgressBar, Instant)> = None;
    Box::new(move |Trial { done, total, what }| {
        let (bar, began) = under_way.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("tuning: {bar:24} {pos} of {len} kernels  {msg}");
            let bar = ProgressBar::with_draw_target(Some(total as u64), console::bars(quiet));
            (bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())), Instant::now())
        });
        bar.set_position(done as u64);
        bar.set_message(what.to_string());
        if done == total {
            bar.finish_and_clear();
            if !quiet {
                let seconds = began.elapsed().as_secs_f64();
                console::message(format_args!(
                    "tuning: timed {total} kernels on this device in {seconds:.1} s, once; --retune does it again"
                ));
            }
            under_way = None;
        }
    })
}

/// For work whose end is not known.
fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} ({elapsed})").unwrap_or_else(|_| ProgressStyle::default_spinner())
}
