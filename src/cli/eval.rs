//! `wgpt eval`: loss, perplexity and bits per byte of data as JSON; or the logits of given token ids.

use super::Global;
use serde_json::json;
use std::path::{Path, PathBuf};
use wgpt::data::IGNORED;
use wgpt::data::corpus::tokens;
use wgpt::data::source::Source;
use wgpt::data::story;
use wgpt::data::tokens::Tokens;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::write_atomic;
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::config::Config;
use wgpt::models::folder::{Weights, write_tensors_to};
use wgpt::models::model::Model;
use wgpt::models::source::ModelSource;
use wgpt::models::upload::upload;

/// Text of the built-in stories that is evaluated where no data is named.
const STORY_BYTES: usize = 64 << 10;

#[derive(clap::Args)]
pub struct Eval {
    /// Model folder, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// A file or folder of .txt, .jsonl or .bin to evaluate; without it, built-in stories that no model was trained on
    #[arg(long)]
    data: Option<PathBuf>,
    /// Sequences evaluated at once
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// A JSON file of token ids, [[...], ...], all sequences of one length
    #[arg(long, requires = "logits", conflicts_with = "data")]
    ids: Option<PathBuf>,
    /// Where to write the logits of --ids, a safetensors file with one tensor `logits`
    #[arg(long, requires = "ids")]
    logits: Option<PathBuf>,
}

impl Eval {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        let model = global.model(self.model.as_deref())?;
        let config = model.config()?;
        let weights = model.weights(&config)?;
        match (&self.ids, &self.logits) {
            (Some(ids), Some(logits)) => dump_logits(global, &config, &weights, ids, logits),
            _ => self.evaluate(global, &model, &config, &weights),
        }
    }

    /// Mean loss of all tokens but the first, in windows of the context that follow each other.
    fn evaluate(&self, global: &Global, model: &ModelSource, config: &Config, weights: &Weights) -> Result<()> {
        if self.batch == 0 {
            fail!(Usage, "--batch 0 does nothing: give 1 or more");
        }
        let source = match &self.data {
            Some(data) => Source::open(data)?,
            None => Source::from_text("held-out stories", story::validation_text(0, STORY_BYTES)),
        };
        let tokenizer = if source.is_text() { Some(model.tokenizer()?) } else { None };
        let tokens = tokens(&source, tokenizer.as_ref(), config.vocab_size, &super::cache_folder())?;
        if tokens.len() < 2 {
            fail!(Input, "{} holds {} tokens and at least 2 are needed to predict one", source.name(), tokens.len());
        }
        let mut executor = global.open()?;
        let mut g = Graph::new();
        let loss = Model { config, training: false }.loss(&mut g, self.batch, config.context);
        g.output("loss", loss);
        let plan = Plan::new(&g, executor.limits())?;
        let program = executor.load(&g, plan)?;
        upload(executor.as_mut(), weights)?;
        let mut sum = 0.0;
        let mut at = 0;
        while at + 1 < tokens.len() {
            let (ids, targets, counted) = windows(&tokens, at, self.batch, config.context)?;
            executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
            executor.write(program, "targets", bytemuck::cast_slice(&targets))?;
            executor.run(program, 0, &Step::default())?;
            sum += f64::from(executor.read(program, "loss")?[0]) * counted as f64;
            at += counted;
        }
        let predicted = tokens.len() - 1;
        let loss = sum / predicted as f64;
        let bytes = tokens.text_bytes().map(|bytes| bytes as f64 / tokens.len() as f64 * predicted as f64);
        let bits_per_byte = bytes.map(|bytes| sum / std::f64::consts::LN_2 / bytes);
        let result = json!({
            "loss": loss,
            "perplexity": loss.exp(),
            "bits_per_byte": bits_per_byte,
            "tokens": predicted,
            "context": config.context,
        });
        println!("{result:#}");
        Ok(())
    }
}

/// The next `batch` windows from `at`: ids, targets, and how many targets count. Past the end nothing counts.
fn windows(tokens: &Tokens, at: u64, batch: usize, context: usize) -> Result<(Vec<u32>, Vec<u32>, u64)> {
    let size = batch * context;
    let counted = (tokens.len() - 1 - at).min(size as u64);
    let mut text = vec![0; counted as usize + 1];
    tokens.read(at, &mut text)?;
    let (mut ids, mut targets) = (text[..counted as usize].to_vec(), text[1..].to_vec());
    ids.resize(size, 0);
    targets.resize(size, IGNORED);
    Ok((ids, targets, counted))
}

/// Writes logits (B, T, V) of the ids in a file.
fn dump_logits(global: &Global, config: &Config, weights: &Weights, path: &Path, out: &Path) -> Result<()> {
    let ids = read_ids(path, config)?;
    let (batch, time) = (ids.len(), ids[0].len());
    let mut executor = global.open()?;
    let mut g = Graph::new();
    let input = g.input("ids", Shape::u32(&[batch, time]));
    let logits = Model { config, training: false }.logits(&mut g, input);
    g.output("logits", logits);
    let plan = Plan::new(&g, executor.limits())?;
    let program = executor.load(&g, plan)?;
    upload(executor.as_mut(), weights)?;
    executor.write(program, "ids", bytemuck::cast_slice(&ids.concat()))?;
    executor.run(program, 0, &Step::default())?;
    let values = executor.read(program, "logits")?;
    let dump = [("logits".into(), vec![batch, time, config.vocab_size], values.as_slice())];
    write_atomic(out, |file| write_tensors_to(file, &dump, &[]))
}

fn read_ids(path: &Path, config: &Config) -> Result<Vec<Vec<u32>>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let Ok(ids) = serde_json::from_str::<Vec<Vec<u32>>>(&text) else {
        fail!(Input, "{} is not a JSON list of lists of token ids, such as [[1, 2], [3, 4]]", path.display());
    };
    let length = ids.first().map_or(0, Vec::len);
    if length == 0 || length > config.context || ids.iter().any(|row| row.len() != length) {
        let context = config.context;
        fail!(Input, "{}: every sequence must have the same length, from 1 to the model's {context}", path.display());
    }
    if let Some(id) = ids.iter().flatten().find(|id| **id as usize >= config.vocab_size) {
        fail!(Input, "{}: token id {id} is beyond the model's vocabulary of {}", path.display(), config.vocab_size);
    }
    Ok(ids)
}
