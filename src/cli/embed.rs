//! `wgpt embed`: embeddings of texts, and how alike the texts of pairs are.

use super::{Global, console};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use wgpt::data::labelled::target::form;
use wgpt::data::labelled::{self, Task};
use wgpt::error::Result;
use wgpt::evaluate::embed::{Pooling, cosine, embed};
use wgpt::fail;
use wgpt::files::write_bytes;
use wgpt::formats::folder::{WeightType, write_weights};
use wgpt::models::config::Heads;
use wgpt::models::network::Network;

#[derive(clap::Args)]
pub struct Embed {
    /// Model folder or GGUF file, or ORG/NAME on the Hugging Face hub
    #[arg(long)]
    model: PathBuf,
    /// .jsonl, .csv or .tsv with a text in each row, or two with --pairs
    #[arg(long)]
    data: PathBuf,
    /// Column of the texts [default: text]
    #[arg(long, value_name = "COLUMN", conflicts_with = "pairs")]
    text: Option<String>,
    /// Columns of two texts, such as first,second: prints the cosine similarity of each pair in place of embeddings
    #[arg(long, value_name = "COLUMNS", conflicts_with = "out")]
    pairs: Option<String>,
    /// How the states of a text's tokens become one vector
    #[arg(long, value_enum, default_value = "mean")]
    pooling: Pooling,
    /// .safetensors file with a matrix `embeddings` (texts, width), or .jsonl file [default: standard output, one JSON object per line]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Texts at once
    #[arg(long, default_value_t = 32)]
    batch: usize,
}

impl Embed {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if !(1..=1 << 16).contains(&self.batch) {
            fail!(Usage, "--batch is {}, but must be from 1 to 65536", self.batch);
        }
        let extension = self.out.as_ref().map(|out| out.extension().and_then(|e| e.to_str()).unwrap_or_default());
        if let (Some(out), false) = (&self.out, matches!(extension, None | Some("safetensors" | "jsonl"))) {
            fail!(Usage, "--out {} is neither .safetensors nor .jsonl: name it by its format", out.display());
        }
        let columns = self.columns()?;
        let task = if self.pairs.is_some() { Task::Similar } else { Task::Classify };
        let examples = labelled::read(&self.data, &form(task, &columns)?, false)?;
        let source = global.model(Some(&self.model))?;
        let own = source.config()?;
        own.must_be_one_stack("embed texts")?;
        let config = if own.encoder.is_some() { own.with_heads(Heads::None) } else { own };
        let (weights, tokenizer) = (source.weights(&config)?, source.tokenizer()?);
        let tokenizer = tokenizer.for_model(config.vocab_size, &source.path(""))?;
        if self.pooling == Pooling::Cls && config.encoder.is_none() {
            fail!(
                Usage,
                "--pooling cls takes the first token, which has seen nothing else in a {}: take mean",
                config.family
            );
        }
        let (mut texts, mut cut) = (vec![], 0);
        for example in &examples {
            for text in &example.texts {
                let (ids, is_cut) = tokenizer.encode_within(text, config.context)?;
                if ids.is_empty() {
                    let (line, data) = (example.line, self.data.display());
                    fail!(Input, "line {line} of {data}: the tokenizer leaves nothing of the text");
                }
                cut += usize::from(is_cut);
                texts.push(ids);
            }
        }
        if cut > 0 {
            let (all, longest) = (texts.len(), config.context);
            global.say(&format!("warning: {cut} of {all} texts are longer than {longest} tokens and were cut"));
        }
        let network = Network::new(config);
        let mut executor = global.open()?;
        let vectors = embed(executor.as_mut(), (&network, &weights), &texts, (self.pooling, self.batch))?;
        if self.pairs.is_some() {
            for (example, pair) in examples.iter().zip(vectors.chunks(2)) {
                console::line(json!({"similarity": rounded(cosine(&pair[0], &pair[1])), "line": example.line}))?;
            }
            return Ok(());
        }
        let object = |(example, vector): (&labelled::Example, &Vec<f32>)| -> Value {
            json!({"embedding": vector, "line": example.line})
        };
        let mut objects = examples.iter().zip(&vectors).map(object);
        match (&self.out, extension) {
            (Some(out), Some("safetensors")) => {
                let values = vectors.concat();
                let dims = vec![vectors.len(), network.config().width];
                write_weights(out, &[("embeddings".into(), dims, &values)], &[], WeightType::F32)
            }
            (Some(out), _) => {
                let text: String = objects.map(|object| format!("{object}\n")).collect();
                write_bytes(out, text.as_bytes())
            }
            (None, _) => objects.try_for_each(console::line),
        }
    }

    /// Names of columns by the options of the task that has as many texts.
    fn columns(&self) -> Result<BTreeMap<String, String>> {
        let of = |option: &str, name: &str| (option.to_string(), name.trim().to_string());
        let Some(pairs) = &self.pairs else { return Ok(self.text.iter().map(|name| of("text", name)).collect()) };
        match pairs.split_once(',') {
            Some((first, second)) if !second.contains(',') => Ok([of("first", first), of("second", second)].into()),
            _ => fail!(Usage, "--pairs {pairs} must name two columns with a comma between, such as first,second"),
        }
    }
}

fn rounded(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}
