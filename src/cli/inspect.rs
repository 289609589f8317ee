//! `wgpt inspect`: a page that shows what is inside a model for one text.

use super::Global;
use super::sample::Files;
use base64::Engine;
use serde_json::{Value, json};
use std::path::PathBuf;
use wgpt::error::{Error, Result};
use wgpt::evaluate::inspect::{Block, inspect};
use wgpt::executor::tuned_plan;
use wgpt::fail;
use wgpt::files::write_bytes;
use wgpt::formats::upload::upload;
use wgpt::graph::{Graph, Quantisation};
use wgpt::models::network::Network;

#[derive(clap::Args)]
pub struct Inspect {
    /// Model folder, GGUF file, or ORG/NAME on the Hugging Face hub; without it, the small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters on the model, from --lora or from peft; without --model, on the model that they are of
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// How matrices are kept on the device, in less memory than f32
    #[arg(long, value_enum)]
    base: Option<Quantisation>,
    /// Text to look at
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_file")]
    prompt: Option<String>,
    /// File with the text to look at
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE.html")]
    out: PathBuf,
    /// Likeliest tokens to tell after each block
    #[arg(long, value_name = "N", default_value_t = 5)]
    best: usize,
    /// Replace the page
    #[arg(long)]
    overwrite: bool,
}

/// Tokens that are looked at, at most: attention grows with their square.
const MOST_TOKENS: usize = 512;

const PAGE: &str = include_str!("../../web/inspect.html");
const STYLE: &str = include_str!("../../web/style.css");
const LOOK: &str = include_str!("../../web/look.js");

impl Inspect {
    pub fn run(&self, global: &Global) -> Result<()> {
        super::check_device(&global.device)?;
        if self.out.exists() && !self.overwrite {
            fail!(Usage, "{} exists: give another --out, or --overwrite to replace it", self.out.display());
        }
        if !(1..=100).contains(&self.best) {
            fail!(Usage, "--best {} is not from 1 to 100", self.best);
        }
        let text = match (&self.prompt, &self.prompt_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => std::fs::read_to_string(path).map_err(Error::io("read", path))?,
            (None, None) => String::new(),
        };
        let files = Files::open(global, (self.model.as_deref(), self.adapter.as_deref()), (None, self.base))?;
        let (tokenizer, vocabulary) = (&files.tokenizer, files.tokenizer.vocabulary_size());
        let ids = tokenizer.encode_prompt(&text)?;
        let most = MOST_TOKENS.min(files.config.context);
        if ids.is_empty() || ids.len() > most {
            fail!(Input, "the text has {} tokens, and 1 to {most} can be looked at: give another", ids.len());
        }
        let mut executor = global.open()?;
        let network = Network::new(files.config.clone());
        let mut g = Graph::new();
        network.declare(&mut g);
        let plan = tuned_plan(executor.as_mut(), &g)?;
        executor.load(&g, plan)?;
        upload(executor.as_mut(), &network, &files.weights)?;
        let blocks = inspect(executor.as_mut(), &network, (vocabulary, self.best), &ids)?;
        let shown = |id: u32| tokenizer.decode(&[id]).unwrap_or_default();
        let data = json!({
            "tokens": ids.iter().map(|id| shown(*id)).collect::<Vec<_>>(),
            "ids": ids,
            "own": files.config.encoder.is_some(),
            "blocks": blocks.iter().map(|block| told(block, &shown)).collect::<Vec<_>>(),
        });
        // Nothing in a text may end the element that holds it.
        let data = data.to_string().replace('<', "\\u003c");
        let name = self.model.as_ref().map_or("demo".into(), |model| model.display().to_string());
        let name = name.replace('&', "&amp;").replace('<', "&lt;");
        let page = PAGE.replace("/* style */", STYLE).replace("/* look */", LOOK).replace("{{name}}", &name);
        write_bytes(&self.out, page.replace("{{data}}", &data).as_bytes())?;
        let (out, count, layers) = (self.out.display(), ids.len(), blocks.len());
        global.say(&format!("wrote {out}: {count} tokens, {layers} blocks; open it in a browser"));
        Ok(())
    }
}

/// A block as the page reads it: attention as 16 bits for each number from 0 to 1.
fn told(block: &Block, shown: &dyn Fn(u32) -> String) -> Value {
    let words = block.attention.iter().flat_map(|p| ((p * 65535.0).round() as u16).to_le_bytes());
    let pairs = |pairs: &Vec<(u32, f32)>| pairs.iter().map(|(id, p)| json!([shown(*id), p, id])).collect::<Vec<_>>();
    json!({
        "heads": block.heads,
        "attention": base64::engine::general_purpose::STANDARD.encode(words.collect::<Vec<u8>>()),
        "best": block.best.iter().map(pairs).collect::<Vec<_>>(),
        "logProbs": block.log_probs,
    })
}
