//! `wgpt sample`: generates text from a model folder, streaming it as it is decoded.

mod fill;
mod prompt;
pub(super) mod settings;
mod texts;

use super::Global;
use prompt::Prompt;
use settings::Choices;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use texts::{Writer, Written};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::Result;
use wgpt::formats::folder::Weights;
use wgpt::formats::generation_config::GenerationConfig;
use wgpt::generate::Generator;
use wgpt::graph::Quantisation;
use wgpt::models::config::{Config, Heads};
use wgpt::models::network::Network;

#[derive(clap::Args)]
pub struct Sample {
    /// Model folder (config.json, model.safetensors, tokenizer.json), GGUF file, or ORG/NAME on the Hugging Face hub; without it, the
    /// small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Text to continue, or a text with [MASK]s for an encoder to fill in; without it, standard input, or prompts that are typed at a terminal
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// File of prompts, .jsonl with a `prompt` in each object: prints one JSON object per text, in the order of the file
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["prompt", "prompt_file"])]
    prompts: Option<PathBuf>,
    /// Positions that the cache holds, of a model with rotary positions [default: the model's context, at most 4096]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    #[command(flatten)]
    choices: Choices,
    /// Print one JSON object per text: prompt, text, ids, log_probabilities, finish_reason, seed or score
    #[arg(long)]
    json: bool,
}

/// Positions that a cache holds unless more are asked for.
const MOST_CONTEXT: usize = 4096;

/// A model's files, read but not on a device yet.
pub(super) struct Files {
    pub config: Config,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
    pub generation: GenerationConfig,
}

impl Sample {
    pub fn run(&self, global: &Global) -> Result<()> {
        self.choices.check()?;
        super::check_device(&global.device)?;
        let files = Files::open(global, (self.model.as_deref(), self.adapter.as_deref()), (self.context, self.base))?;
        if files.config.encoder.is_some() {
            return fill::run(self, global, files);
        }
        // Tokens that pad the vocabulary have no text.
        let vocabulary = files.tokenizer.vocabulary_size();
        let settings = self.choices.settle(&files.generation, &files.ends(), vocabulary)?;
        let prompt = Prompt::of(self)?;
        let mut executor = global.open()?;
        let Files { config, weights, tokenizer, .. } = files;
        let network = Network::new(config);
        let prompts = if let Prompt::Many(prompts) = &prompt { prompts.len() } else { 1 };
        let rows = settings.rows(prompts);
        let generator = Generator::new(executor.as_mut(), &network, &weights, vocabulary, rows)?;
        drop(weights);
        let interrupted = Arc::new(AtomicBool::new(false));
        let seed = settings.seed;
        let json = self.json || matches!(prompt, Prompt::Many(_));
        // An encoder's input is no part of the text that is written.
        let echo = matches!(prompt, Prompt::Text(_)) && network.config().encoder_decoder.is_none();
        let mut writer =
            Writer { executor, generator, tokenizer, settings, json, echo, interrupted: interrupted.clone() };
        match prompt {
            Prompt::Text(text) => writer.write(&[text.into()], seed).map(|_| ()),
            Prompt::Many(prompts) => {
                let start = Instant::now();
                let Written { texts, tokens } = writer.write(&prompts, seed)?;
                let seconds = start.elapsed().as_secs_f64();
                let speed = tokens as f64 / seconds;
                global.say(&format!(
                    "{texts} texts, {tokens} tokens in {seconds:.1} s, {rows} at a time: {speed:.0} tokens/s"
                ));
                Ok(())
            }
            Prompt::Typed => {
                stop_at_interrupt(global, interrupted);
                prompt::converse(global, &mut writer)
            }
        }
    }
}

impl Files {
    /// The files of a model for generation, with at most `context` positions in its cache. Settings that are not implemented are
    /// warned of.
    pub fn open(
        global: &Global,
        (model, adapter): (Option<&Path>, Option<&Path>),
        (context, quantisation): (Option<usize>, Option<Quantisation>),
    ) -> Result<Files> {
        let source = global.adapted_model(model, adapter)?;
        let config = match source.config()? {
            // Of an encoder's heads the prediction of masked tokens is wanted, where it is there.
            config if config.encoder.is_some() => {
                let heads = config.heads_of_encoder().shared(Heads::Masked);
                config.with_heads(heads)
            }
            config => config,
        };
        let generation = source.generation_config()?;
        let tokenizer = source.tokenizer()?.for_model(config.vocab_size, &source.path(""))?;
        tokenizer.warnings().iter().for_each(|warning| global.say(&format!("warning: {warning}")));
        for key in &generation.unsupported {
            global
                .say(&format!("warning: the model's generation_config.json asks for {key}, which is not implemented"));
        }
        let weights = source.weights(&config)?;
        let config = Config { quantisation, ..config.within_context(context, MOST_CONTEXT)? };
        Ok(Files { config, weights, tokenizer, generation })
    }

    /// The tokens that end a text.
    pub fn ends(&self) -> Vec<u32> {
        let mut ends = self.generation.eos_token_id.clone();
        if ends.is_empty() {
            ends.extend(&self.config.eos_token_id);
        }
        ends.extend(self.tokenizer.end_of_text());
        ends
    }
}

/// The name of a model: that of its folder, dots and all, or of its GGUF file without the ending.
pub(super) fn model_name(place: &Path) -> String {
    let place = place.canonicalize().unwrap_or(place.into());
    let name: String = place.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    name.strip_suffix(".gguf").unwrap_or(&name).to_string()
}

/// Ctrl-C ends the text under way; a second one before that happens ends the process.
pub(super) fn stop_at_interrupt(global: &Global, interrupted: Arc<AtomicBool>) {
    let handler = ctrlc::set_handler(move || {
        if interrupted.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    });
    if handler.is_err() {
        global.say("warning: Ctrl-C cannot be caught here, and will end the program");
    }
}
