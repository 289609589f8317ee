//! `wgpt eval` of a text: loss, perplexity and bits per byte.

use super::super::{Global, console};
use super::{Eval, progress};
use serde_json::{Value, json};
use wgpt::data::corpora::story;
use wgpt::data::corpus::tokens;
use wgpt::data::source::Source;
use wgpt::data::tokens::Tokens;
use wgpt::error::Result;
use wgpt::evaluate::perplexity;
use wgpt::evaluate::scorer::Scorer;
use wgpt::evaluate::segments::by_position;
use wgpt::evaluate::stride;
use wgpt::executor::{Executor, tuned_plan};
use wgpt::fail;
use wgpt::formats::folder::Weights;
use wgpt::formats::source::ModelSource;
use wgpt::formats::upload::upload;
use wgpt::graph::{Graph, Step};
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::ops::IGNORED;

/// Text of the built-in stories that is evaluated where no data is named.
pub const STORY_BYTES: usize = 64 << 10;

/// Prints the mean loss of all tokens but the first, perplexity and bits per byte.
pub fn evaluate(eval: &Eval, global: &Global, model: &ModelSource, config: &Config, weights: &Weights) -> Result<()> {
    if let Some(stride) = eval.stride.filter(|stride| !(1..config.context).contains(stride)) {
        let most = config.context - 1;
        fail!(Usage, "--stride {stride} must be from 1 to {most}, less than the model's context of {}", most + 1);
    }
    config.must_decode("say how likely a text is")?;
    let source = match &eval.data {
        Some(data) => Source::open_with(data, &eval.ext.clone().unwrap_or_default())?,
        None => Source::from_text("held-out stories", story::validation_text(0, STORY_BYTES)),
    };
    let own = || model.tokenizer()?.for_model(config.vocab_size, &model.path(""));
    let tokenizer = if source.is_text() { Some(own()?) } else { None };
    let tokens = tokens(&source, tokenizer.as_ref(), config.vocab_size, &super::super::cache_folder())?;
    source.notes().iter().for_each(|note| global.say(&format!("note: {note}")));
    tokens.warnings().iter().for_each(|warning| global.say(&format!("warning: {warning}")));
    if tokens.len() < 2 {
        fail!(Input, "{} holds {} tokens and at least 2 are needed to predict one", source.name(), tokens.len());
    }
    let mut executor = global.open()?;
    if config.recurrence.is_some() {
        return segments(eval, global, config, weights, &tokens, executor.as_mut());
    }
    let sum = match eval.stride {
        None => consecutive(executor.as_mut(), config, weights, &tokens, eval.batch)?,
        Some(stride) => {
            let bar = progress(global, stride::windows(tokens.len(), config.context, stride));
            let network = Network::new(config.clone());
            let mut scorer = Scorer::new(executor.as_mut(), &network, weights, eval.batch);
            let sum = stride::strided(&mut scorer, &tokens, stride, &mut |windows| bar.inc(windows as u64))?;
            bar.finish_and_clear();
            sum
        }
    };
    let predicted = tokens.len() - 1;
    let mut result = result(&tokens, (sum, predicted), config)?;
    if let Some(stride) = eval.stride {
        result["stride"] = stride.into();
    }
    console::line(format_args!("{result:#}"))
}

/// The figures of a sum of losses of so many tokens.
fn result(tokens: &Tokens, (sum, predicted): (f64, u64), config: &Config) -> Result<Value> {
    let loss = sum / predicted as f64;
    let bytes = tokens.text_bytes().map(|bytes| bytes as f64 / tokens.len() as f64 * predicted as f64);
    let bits_per_byte = bytes.map(|bytes| sum / std::f64::consts::LN_2 / bytes);
    Ok(json!({
        "loss": loss,
        "perplexity": perplexity(loss)?,
        "bits_per_byte": bits_per_byte,
        "tokens": predicted,
        "context": config.context,
    }))
}

/// Prints the same of a model that passes texts in segments, and the losses of an eighth of a segment each.
fn segments(
    eval: &Eval,
    global: &Global,
    config: &Config,
    weights: &Weights,
    tokens: &Tokens,
    executor: &mut dyn Executor,
) -> Result<()> {
    let bar = progress(global, (tokens.len().saturating_sub(1) / config.context as u64).max(1));
    let network = Network::new(config.clone());
    let mut done = |segments: usize| bar.inc(segments as u64);
    let found = by_position(executor, &network, weights, tokens, eval.batch, &mut done)?;
    bar.finish_and_clear();
    let mut result = result(tokens, found.total(), config)?;
    result["memory"] = config.recurrence.map_or(0, |recurrence| recurrence.memory).into();
    let part = |(from, to, loss): (usize, usize, f64)| json!({ "from": from, "to": to, "loss": loss });
    result["loss_by_position"] = found.parts(8).into_iter().map(part).collect();
    console::line(format_args!("{result:#}"))
}

/// The sum of losses in windows of the context that follow each other.
fn consecutive(
    executor: &mut dyn Executor,
    config: &Config,
    weights: &Weights,
    tokens: &Tokens,
    batch: usize,
) -> Result<f64> {
    let mut g = Graph::new();
    let network = Network::new(config.clone());
    let loss = network.inference().loss(&mut g, batch, config.context);
    g.output("loss", loss);
    let plan = tuned_plan(executor, &g)?;
    let program = executor.load(&g, plan)?;
    upload(executor, &network, weights)?;
    let mut sum = 0.0;
    let mut at = 0;
    while at + 1 < tokens.len() {
        let (ids, targets, counted) = windows(tokens, at, batch, config.context)?;
        executor.write(program, "ids", bytemuck::cast_slice(&ids))?;
        executor.write(program, "targets", bytemuck::cast_slice(&targets))?;
        executor.run(program, 0, &Step::default())?;
        sum += f64::from(executor.read(program, "loss")?[0]) * counted as f64;
        at += counted;
    }
    Ok(sum)
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
