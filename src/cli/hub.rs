//! Models of the Hugging Face hub: where a command fetches one, with a bar for each file.

use super::{Global, console};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;
use wgpt::error::Result;
use wgpt::formats::hub::{Download, Hub};

/// The folder of a model on the hub, downloaded where it is not cached.
pub fn fetch(global: &Global, name: &str) -> Result<PathBuf> {
    let hub = Hub::from_env()?;
    let folder = hub.model(name, &mut Bars { global, name, file: String::new(), bar: None })?;
    global.detail(&format!("{name}: {}", folder.display()));
    Ok(folder)
}

struct Bars<'a> {
    global: &'a Global,
    name: &'a str,
    file: String,
    bar: Option<ProgressBar>,
}

impl Download for Bars<'_> {
    fn start(&mut self, file: &str, bytes: u64) {
        if self.file != file {
            self.file = file.into();
            self.global.say(&format!("downloading {file} of {} ({})", self.name, size(bytes)));
        }
        let style = ProgressStyle::with_template("{bar:24} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar = Some(ProgressBar::with_draw_target(Some(bytes), console::bars(self.global.quiet)).with_style(style));
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
