//! `wgpt merge`: a model and its adapters as one model: W + alpha / r B A in place of W.

use super::Global;
use super::export::{Dtype, Export, Format};
use std::path::PathBuf;
use wgpt::error::Result;
use wgpt::fail;

#[derive(clap::Args)]
pub struct Merge {
    /// Model folder, GGUF file, or ORG/NAME on the Hugging Face hub [default: the model that the adapters are of]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder of adapters, from --lora or from peft
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The model folder to write
    #[arg(long)]
    out: PathBuf,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Replace the model in --out
    #[arg(long)]
    overwrite: bool,
}

impl Merge {
    pub fn run(&self, global: &Global) -> Result<()> {
        if let Some(name) = self.dtype.of_gguf() {
            fail!(Usage, "--dtype {name} is a GGUF type: merge to f32 or f16, and export that with wgpt export");
        }
        let Merge { adapter, out, dtype, overwrite, .. } = self;
        let export = Export {
            model: self.model.clone().unwrap_or_default(),
            adapter: Some(adapter.clone()),
            out: Some(out.clone()),
            web: None,
            format: Some(Format::HuggingFace),
            dtype: *dtype,
            overwrite: *overwrite,
        };
        export.check_target(Format::HuggingFace)?;
        let source = global.adapted_model(self.model.as_deref(), Some(adapter))?;
        if source.config()?.lora.is_none() {
            fail!(Input, "{} is a model and not a folder of adapters: give one for --adapter", adapter.display());
        }
        export.write(global, &source, Format::HuggingFace)
    }
}
