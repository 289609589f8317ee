//! `wgpt data render`: dialogues as a model sees them in training and in `wgpt chat`.

use super::Global;
use super::console;
use super::examples::{encoder, files, for_dialogues};
use serde_json::json;
use std::path::PathBuf;
use wgpt::data::dialogues;
use wgpt::data::lines;
use wgpt::error::Result;

#[derive(clap::Args)]
pub struct Render {
    /// Examples as for `wgpt sft`: a .jsonl or .parquet file, or a folder of them
    #[arg(long, value_name = "FILE|DIR")]
    data: PathBuf,
    /// Model folder or GGUF file whose tokenizer and chat template are taken, or ORG/NAME on the Hugging Face hub; without it, the
    /// small demo model that is built in
    #[arg(long)]
    model: Option<PathBuf>,
    /// Chat template: chatml, plain, lines, or a file [default: the model folder's]
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
    /// Examples to render
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    count: usize,
}

impl Render {
    pub fn run(&self, global: &Global) -> Result<()> {
        let source = global.model(self.model.as_deref())?;
        let (config, tokenizer) = for_dialogues(&source, source.config()?, self.template.as_deref())?;
        let template = tokenizer.chat_template()?;
        let encoder = encoder(&config, &tokenizer, template.as_ref());
        let mut left = self.count;
        for file in files(&self.data)? {
            for example in dialogues::read(&file)?.iter().take(left) {
                let place = lines::place(&file, example.line);
                let encoded = encoder.encode(&example.form).map_err(|error| error.in_place(&place))?;
                let text = tokenizer.decode(&encoded.ids)?;
                let learned: Vec<u8> = encoded.learned.iter().map(|learned| (*learned).into()).collect();
                console::line(json!({"text": text, "ids": encoded.ids, "learned": learned}))?;
                left -= 1;
            }
        }
        Ok(())
    }
}
