//! `wgpt sample`: generates text from a model folder, streaming it as it is decoded.

use super::Global;
use std::io::Write;
use std::path::PathBuf;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::generate::{Generator, Sampler, Strategy};
use wgpt::models::config::Gpt2Config;
use wgpt::models::folder::{Weights, read_config};

#[derive(clap::Args)]
pub struct Sample {
    /// Model folder (config.json, model.safetensors, tokenizer.json), or ORG/NAME on the Hugging Face hub
    #[arg(long)]
    model: PathBuf,
    /// Text to continue
    #[arg(long, default_value = "\n")]
    prompt: String,
    /// Tokens to generate
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// How the next token is chosen
    #[arg(long, value_enum, default_value_t = Choice::Sample)]
    strategy: Choice,
    /// Below 1 is more likely text, above 1 more varied
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Choose among the most likely tokens only; 0 for all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// End at this text; \n stands for a line break
    #[arg(long)]
    stop: Option<String>,
    /// Texts to generate
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Seed of the first text; each further one has the next
    #[arg(long, default_value_t = 1337)]
    seed: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Choice {
    Greedy,
    Sample,
}

/// A model on a device, with its tokenizer.
struct Loaded {
    executor: Box<dyn Executor>,
    generator: Generator,
    tokenizer: Tokenizer,
    config: Gpt2Config,
}

impl Sample {
    pub fn run(&self, global: &Global) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            fail!(Usage, "--temperature {} is not a number from 0 up: give one", self.temperature);
        }
        super::check_device(&global.device)?;
        let mut loaded = self.load(global)?;
        let prompt = loaded.tokenizer.encode(&self.prompt)?;
        if prompt.is_empty() {
            fail!(Usage, "--prompt is empty: give at least one character to continue");
        }
        for n in 0..self.count {
            self.text(&mut loaded, &prompt, self.seed.wrapping_add(n))?;
        }
        Ok(())
    }

    fn load(&self, global: &Global) -> Result<Loaded> {
        let model = global.model_folder(&self.model)?;
        let config = read_config(&model)?;
        let weights = Weights::open(&model, &config)?;
        let tokenizer = Tokenizer::load(&model)?;
        if tokenizer.vocabulary_size() > config.vocab_size {
            let (has, wants) = (config.vocab_size, tokenizer.vocabulary_size());
            fail!(
                Input,
                "{}: its tokenizer has {wants} tokens and its model {has}: they do not belong together",
                self.model.display()
            );
        }
        let mut executor = global.open()?;
        let mut generator = Generator::new(&config);
        generator.load(executor.as_mut(), &weights)?;
        Ok(Loaded { executor, generator, tokenizer, config })
    }

    /// Generates one text to stdout, ending with a newline.
    fn text(&self, loaded: &mut Loaded, prompt: &[u32], seed: u64) -> Result<()> {
        let strategy = match self.strategy {
            Choice::Greedy => Strategy::Greedy,
            Choice::Sample => Strategy::Sample { temperature: self.temperature, top_k: self.top_k },
        };
        let mut sampler = Sampler::new(strategy, seed);
        let mut stream = loaded.tokenizer.stream();
        let mut ids = prompt.to_vec();
        let stop = self.stop.as_ref().map(|stop| stop.replace("\\n", "\n"));
        let mut out = Printer { stop: stop.as_deref().filter(|s| !s.is_empty()), held: String::new() };
        out.print(self.prompt.trim_start_matches('\n'))?;
        let mut stopped = false;
        for _ in 0..self.tokens {
            let logits = loaded.generator.next_logits(loaded.executor.as_mut(), &ids)?;
            // Tokens that pad the vocabulary have no text.
            let id = sampler.choose(&logits[..loaded.tokenizer.vocabulary_size().min(loaded.config.vocab_size)]);
            if loaded.tokenizer.end_of_text() == Some(id) {
                break;
            }
            ids.push(id);
            if out.push(&stream.push(id)?)? {
                stopped = true;
                break;
            }
        }
        if !stopped {
            let rest = stream.finish()?;
            out.push(&rest)?;
            out.flush_held()?;
        }
        out.print("\n")
    }
}

/// Prints text as it comes, holding back what may be the start of the stop text.
struct Printer<'a> {
    stop: Option<&'a str>,
    held: String,
}

impl Printer<'_> {
    /// True once the stop text has come; what stands before it has been printed.
    fn push(&mut self, text: &str) -> Result<bool> {
        self.held.push_str(text);
        let Some(stop) = self.stop else {
            self.flush_held()?;
            return Ok(false);
        };
        if let Some(at) = self.held.find(stop) {
            self.held.truncate(at);
            self.flush_held()?;
            return Ok(true);
        }
        let keep = (1..=stop.len().min(self.held.len()))
            .rev()
            .find(|n| stop.is_char_boundary(*n) && self.held.ends_with(&stop[..*n]))
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        self.flush_held()?;
        self.held = rest;
        Ok(false)
    }

    fn flush_held(&mut self) -> Result<()> {
        let text = std::mem::take(&mut self.held);
        self.print(&text)
    }

    fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|source| Error::Io { action: "write to standard output".into(), source })
    }
}
