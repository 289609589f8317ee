//! `wgpt sample`: generates text from a model folder, streaming it as it is decoded.

use super::Global;
use std::io::Write;
use std::path::PathBuf;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::generate::{Draw, Generator};
use wgpt::models::folder::{Weights, read_config};

#[derive(clap::Args)]
pub struct Sample {
    /// Model folder: config.json, model.safetensors, tokenizer.json
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
        let config = read_config(&self.model)?;
        let weights = Weights::open(&self.model, &config)?;
        let tokenizer = Tokenizer::load(&self.model)?;
        if tokenizer.vocabulary_size() > config.vocab_size {
            let (has, wants) = (config.vocab_size, tokenizer.vocabulary_size());
            fail!(
                Input,
                "{}: its tokenizer has {wants} tokens and its model {has}: they do not belong together",
                self.model.display()
            );
        }
        let mut executor = global.open()?;
        let vocabulary = tokenizer.vocabulary_size();
        let generator = Generator::new(executor.as_mut(), &config, &weights, vocabulary, 1)?;
        Ok(Loaded { executor, generator, tokenizer })
    }

    /// Generates one text to stdout, ending with a newline.
    fn text(&self, loaded: &mut Loaded, prompt: &[u32], seed: u64) -> Result<()> {
        let temperature = match self.strategy {
            Choice::Greedy => 0.0,
            Choice::Sample => self.temperature,
        };
        let draw = Draw { temperature, top_k: self.top_k, ..Draw::GREEDY };
        let mut stream = loaded.tokenizer.stream();
        let stop = self.stop.as_ref().map(|stop| stop.replace("\\n", "\n"));
        let mut out = Printer { stop: stop.as_deref().filter(|s| !s.is_empty()), held: String::new() };
        out.print(self.prompt.trim_start_matches('\n'))?;
        let mut stopped = false;
        let end = loaded.tokenizer.end_of_text();
        loaded.generator.sample(
            loaded.executor.as_mut(),
            prompt,
            self.tokens,
            &draw,
            seed as u32,
            &mut |_, token| {
                if end == Some(token.id) {
                    return Ok(false);
                }
                stopped = out.push(&stream.push(token.id)?)?;
                Ok(!stopped)
            },
        )?;
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
