//! `wgpt data prepare`: text to token shards, filtered, deduplicated and mixed where that is asked for.

use super::super::{Global, check_column, check_extensions, progress_of_bytes};
use super::quality::{QualityChoices, named};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::data::prepare::{Beside, Part, Preparation, Prepared, Validation};
use wgpt::data::quality::{Kept, Origin};
use wgpt::data::source::{Extensions, Source};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::error::{Error, Result};
use wgpt::fail;

#[derive(clap::Args)]
pub struct Prepare {
    /// A file of text, .jsonl, .parquet or .wet, or a folder of them; may be given several times
    #[arg(long, required = true)]
    data: Vec<PathBuf>,
    /// Extensions of the files that a folder is searched for, such as md,py [default: txt,jsonl,parquet,wet]
    #[arg(long, value_name = "LIST")]
    ext: Option<Extensions>,
    /// The field of .jsonl lines, or the column of .parquet files, that holds the text [default: text]
    #[arg(long)]
    column: Option<String>,
    /// A tokenizer.json, a folder that holds one, char (one token per character of the data), or bytes
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: String,
    /// Folder for the shards
    #[arg(long)]
    out: PathBuf,
    /// Tokens in one shard
    #[arg(long, value_name = "N", default_value_t = 100_000_000)]
    shard_tokens: u64,
    /// The part of the tokens, at the end, to hold out for validation [default: 0.1, or the val files of a folder]
    #[arg(long, value_name = "FRACTION", conflicts_with = "val")]
    val_fraction: Option<f64>,
    /// Validation data, instead of a part of the data; it is not filtered
    #[arg(long)]
    val: Option<PathBuf>,
    /// Replace the shards in --out, and what an unfinished preparation of them left
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    quality: QualityChoices,
}

impl Prepare {
    pub fn run(&self, global: &Global) -> Result<()> {
        let paths: Vec<Option<&Path>> =
            self.data.iter().map(PathBuf::as_path).map(Some).chain([self.val.as_deref()]).collect();
        check_extensions(self.ext.as_ref(), &paths)?;
        let origins = self.origins()?;
        let named = self.val.as_deref().map(|path| self.open(path)).transpose()?;
        check_column(self.column.as_deref(), origins.iter().map(|origin| &origin.source).chain(&named))?;
        let notes = origins.iter().map(|origin| &origin.source).chain(&named).flat_map(Source::notes);
        notes.for_each(|note| global.say(&format!("note: {note}")));
        let held_out = self.held_out(&origins, named)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let job = Job { own: self, global, held_out, interrupted };
        let is_filtered = self.quality.are_given() || origins.len() > 1;
        if is_filtered { job.filtered(&origins) } else { job.tokenised(&origins[0].source, None) }
    }

    fn open(&self, path: &Path) -> Result<Source> {
        let extensions = self.ext.clone().unwrap_or_default();
        Ok(Source::open_with(path, &extensions)?.with_column(self.column.as_deref()))
    }

    /// The sources: those of `--data`, or the parts of the one folder that `--mix` names.
    fn origins(&self) -> Result<Vec<Origin>> {
        let shares = self.quality.shares()?;
        let open =
            |(name, path, share): (String, PathBuf, Option<f64>)| Ok(Origin { name, source: self.open(&path)?, share });
        named(&self.data, &shares)?.into_iter().map(open).collect()
    }

    /// The validation data that is named, or lies beside the data.
    fn held_out(&self, origins: &[Origin], named: Option<Source>) -> Result<Option<Source>> {
        let mut beside = origins.iter().filter_map(|origin| origin.source.validation()).filter(|_| named.is_none());
        let first = beside.next();
        if let (Some(first), Some(_)) = (&first, self.val_fraction) {
            fail!(
                Usage,
                "{} is for validation by its name: leave out --val-fraction, or name files with --data",
                first.name()
            );
        }
        if let (Some(first), true) = (&first, origins.len() > 1) {
            fail!(
                Usage,
                "{} is for validation by its name, of one of several sources: name it with --val",
                first.name()
            );
        }
        Ok(named.or(first))
    }
}

/// A preparation under way.
struct Job<'a> {
    own: &'a Prepare,
    global: &'a Global,
    held_out: Option<Source>,
    interrupted: Arc<AtomicBool>,
}

impl Job<'_> {
    /// Filters the documents, then tokenises those that stay.
    fn filtered(&self, origins: &[Origin]) -> Result<()> {
        self.preparation(&origins[0].source, None).check()?;
        if self.own.tokenizer != "char" {
            // A tokenizer that cannot be opened is an error before the documents are read, which may take hours.
            Tokenizer::choose(&self.own.tokenizer, &origins[0].source)?;
        }
        let (quality, global) = (&self.own.quality, self.global);
        let work = quality.work(&self.own.out);
        let description = quality.description(self.own.column.as_deref())?;
        let stage = quality.stage(global, origins, &work, (&description, self.own.overwrite), &self.interrupted)?;
        self.catch();
        let bar = progress_of_bytes(global, origins.iter().map(|origin| origin.source.size_bytes()).sum());
        bar.set_message("filtering: ");
        let kept = stage.run(&mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        let kept = kept?;
        let name = if origins.len() == 1 { origins[0].source.name() } else { "the documents that stay" };
        self.tokenised(&kept.source(name), Some(&kept)).inspect_err(|_| {
            global.say(&format!("note: what was filtered is in {}; --resume goes on from there", work.display()));
        })?;
        std::fs::remove_dir_all(&work).map_err(Error::io("remove", &work))
    }

    /// Tokenises a source into shards.
    fn tokenised(&self, source: &Source, kept: Option<&Kept>) -> Result<()> {
        let quality = |folder: &Path, prepared: &Prepared| match kept {
            Some(kept) => self.own.quality.write(self.global, kept, folder, prepared),
            None => Ok(()),
        };
        let mut preparation = self.preparation(source, Some(&quality));
        preparation.check()?;
        let tokenizer = match (&self.held_out, kept) {
            // Files beside the data are not beside the documents that stay.
            (Some(held_out), Some(_)) if self.own.tokenizer == "char" && held_out.is_text() => {
                Tokenizer::from_alphabet(source.alphabet()?.into_iter().chain(held_out.alphabet()?).collect())?
            }
            _ => Tokenizer::choose(&self.own.tokenizer, source)?,
        };
        if kept.is_none() {
            self.catch();
        }
        let bytes = source.size_bytes() + self.held_out.as_ref().map_or(0, Source::size_bytes);
        let bar = progress_of_bytes(self.global, bytes);
        let prepared = preparation.run(&tokenizer, &mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        self.tell(&prepared?);
        Ok(())
    }

    fn preparation<'a>(&'a self, data: &'a Source, beside: Option<&'a Beside<'a>>) -> Preparation<'a> {
        let validation = match &self.held_out {
            Some(source) => Validation::Source(source),
            None => Validation::Fraction(self.own.val_fraction.unwrap_or(0.1)),
        };
        Preparation {
            data,
            validation,
            shard_tokens: self.own.shard_tokens,
            out: &self.own.out,
            overwrite: self.own.overwrite,
            interrupted: Arc::clone(&self.interrupted),
            beside,
        }
    }

    /// Has Ctrl-C end the work in order; a second one ends the process at once.
    fn catch(&self) {
        let interrupted = Arc::clone(&self.interrupted);
        let handler = ctrlc::set_handler(move || {
            if interrupted.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        });
        if handler.is_err() {
            self.global.say("warning: Ctrl-C cannot be caught here, and would leave a hidden temporary folder behind");
        }
    }

    fn tell(&self, prepared: &Prepared) {
        let global = self.global;
        prepared.notes.iter().for_each(|note| global.say(&format!("note: {note}")));
        let out = self.own.out.display();
        global.say(&format!(
            "{} documents, {} bytes of text, {} tokens of {} bytes each",
            prepared.documents,
            prepared.text_bytes,
            prepared.training.tokens + prepared.validation.tokens,
            prepared.id_bytes
        ));
        let part = |name: &str, part: &Part| {
            global.say(&format!("{name}: {} tokens, {} bytes in {} files", part.tokens, part.bytes, part.files.len()));
        };
        part("training", &prepared.training);
        part("validation", &prepared.validation);
        global.say(&format!("train with: wgpt train --data {out} --out DIR"));
    }
}
