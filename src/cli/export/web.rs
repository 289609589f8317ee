//! A page that runs a model in a browser.

use super::{Dtype, Export};
use crate::cli::Global;
use crate::cli::sample::settings::drawn_by;
use crate::cli::sample::{Files, model_name};
use std::fs;
use std::path::Path;
use wgpt::error::{Error, Result};
use wgpt::fail;
use wgpt::files::replacement::Replacement;
use wgpt::files::write_bytes;
use wgpt::graph::Quantisation;
use wgpt::web::{self, Page};

/// The file of a page's folder that makes it one.
const MANIFEST: &str = "manifest.json";

impl Export {
    /// Writes the page.
    pub(super) fn page(&self, global: &Global, out: &Path) -> Result<()> {
        let single = out.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("html"));
        self.check_page(out, single)?;
        let quantisation = match self.dtype {
            Dtype::F32 => None,
            Dtype::F16 => Some(Quantisation::F16),
            Dtype::Q8_0 => Some(Quantisation::Q8_0),
            Dtype::Q4_0 => Some(Quantisation::Q4_0),
        };
        let files = Files::open(global, (Some(&self.model), self.adapter.as_deref()), (None, quantisation))?;
        let page = Page {
            name: model_name(&self.model),
            params: drawn_by(&files.generation),
            stop_tokens: files.ends(),
            config: files.config.clone(),
            weights: &files.weights,
            tokenizer: &files.tokenizer,
        };
        let written = web::files(&page)?;
        let bytes = if single {
            let page = web::single(&written)?;
            write_bytes(out, &page)?;
            page.len()
        } else {
            let folder = Replacement::begin(out)?;
            for (name, bytes) in &written {
                let path = folder.path().join(name);
                let parent = path.parent().unwrap_or(folder.path());
                fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
                write_bytes(&path, bytes)?;
            }
            folder.commit(&|_| false)?;
            written.iter().map(|(_, bytes)| bytes.len()).sum()
        };
        let how = if single { "open it in a browser" } else { "`wgpt serve --web`, or any web server, shows it" };
        global.say(&format!("wrote {}: {}; {how}", out.display(), indicatif::HumanBytes(bytes as u64)));
        Ok(())
    }

    /// Refuses a target that holds something else, before any work.
    fn check_page(&self, out: &Path, single: bool) -> Result<()> {
        let shown = out.display();
        if single && out.is_dir() {
            fail!(Usage, "--web {shown} is a folder: leave out .html");
        }
        if !single && out.exists() && !out.is_dir() {
            fail!(Usage, "--web {shown} is a file: give a folder, or a file that ends in .html");
        }
        let is_empty = !out.exists() || (out.is_dir() && super::is_empty(out)?);
        if !is_empty && !self.overwrite {
            fail!(Usage, "{shown} is there already: give another --web, or --overwrite to replace it");
        }
        if !is_empty && !single && !out.join(MANIFEST).exists() {
            fail!(Usage, "{shown} is no page of ours (it has no {MANIFEST}): give another --web");
        }
        Ok(())
    }
}
