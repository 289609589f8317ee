//! Where data comes from: files of text or of token ids, found by path and told apart by their names.
//!
//! - `.txt`: UTF-8 text, one document; so is any file that is named and is UTF-8 text, and any with an extension that is
//!   asked for ([`Extensions`]).
//! - `.jsonl`: one JSON object per line, whose `text` field is a document; other fields and empty lines are ignored.
//! - `.parquet`: rows, whose `text` column is a document (built with the feature `parquet`).
//! - `.wet`: text that was extracted from the pages of a crawl, in records of WARC; each page is a document (see `wet`).
//! - `.bin`: token ids, as nanoGPT and llm.c write them (see `tokens`).
//! - `.txt.gz`, `.jsonl.zst` and the like: the same, compressed.
//!
//! A folder is searched for these, folders in it included, in sorted order. Names that begin with a dot are left out, and
//! other files that are left out are listed in [`Source::notes`].
//!
//! Files that say that they are for validation are held out: `.bin` files of a folder whose names have the word `val` in
//! them; beside a file or folder called `train` those called `val`, `valid`, `validation` or `dev`, and those called
//! `test` are left out. `train.bin` and `val.bin`, `fineweb_train_000001.bin` and `fineweb_val_000000.bin`, `train.txt` and
//! `valid.txt`, `train/` and `val/`.
//! A `tokenizer.json` beside `.bin` files is the one that they were made with, as `wgpt data prepare` leaves it.
//!
//! Text is read in pieces of bounded size (see `pieces`), so a corpus may be larger than memory.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

pub use super::found::Extensions;
use super::found::{self, Format, Found};
use super::{
    pieces::{Documents, Pieces},
    tokenizer,
};
use crate::{
    error::{Error, Result},
    fail,
};

/// The field of a `.jsonl` line, and the column of a `.parquet` file, that holds the text.
pub const TEXT_COLUMN: &str = "text";

/// Data to train or evaluate on, not read yet.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    kind: Kind,
    column: Arc<str>,
    notes: Vec<String>,
}

#[derive(Clone, Debug)]
enum Kind {
    Memory(Arc<str>),
    Files(Found),
    Made(Arc<dyn Make>),
}

/// Documents that are made of others as they are read.
pub(super) trait Make: std::fmt::Debug + Send + Sync {
    /// Begins with the first; `read` counts the bytes that are read, of [`Make::size_bytes`].
    fn documents(&self, read: Arc<AtomicU64>) -> Result<Box<dyn Documents>>;

    fn size_bytes(&self) -> u64;
}

impl Source {
    /// Finds the files of `path`, a file or a folder.
    pub fn open(path: &Path) -> Result<Source> {
        Source::open_with(path, &Extensions::default())
    }

    /// The same, with the extensions of the files that a folder is searched for.
    pub fn open_with(path: &Path, extensions: &Extensions) -> Result<Source> {
        let name = path.display().to_string();
        let metadata = match fs::metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                fail!(Input, "there is no data at {name}; give a file of text or of token ids, or a folder of them")
            }
            other => other.map_err(Error::io("read the data", path))?,
        };
        let (found, notes) =
            if metadata.is_dir() { found::folder(path, extensions)? } else { (found::file(path)?, vec![]) };
        Ok(Source { name, kind: Kind::Files(found), column: TEXT_COLUMN.into(), notes })
    }

    /// Text in memory, one document; `name` is for messages.
    pub fn from_text(name: &str, text: impl Into<Arc<str>>) -> Source {
        Source { name: name.to_string(), kind: Kind::Memory(text.into()), column: TEXT_COLUMN.into(), notes: vec![] }
    }

    /// Documents that are made as they are read; `name` is for messages.
    pub(super) fn made(name: &str, make: Arc<dyn Make>) -> Source {
        Source { name: name.to_string(), kind: Kind::Made(make), column: TEXT_COLUMN.into(), notes: vec![] }
    }

    /// The same with another field of `.jsonl` lines, or column of `.parquet` files, than `text`, if one is named.
    pub fn with_column(self, column: Option<&str>) -> Source {
        let column = column.map_or(self.column, Arc::from);
        Source { column, ..self }
    }

    /// Whether there are files with named fields or columns.
    pub fn has_columns(&self) -> bool {
        self.files().iter().any(|file| matches!(found::format(file), Some(Format::Lines | Format::Parquet)))
    }

    /// Its name in messages: its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Files of a folder that are not read, one sentence each, to tell the user.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether it is text, which needs a tokenizer; otherwise it is token ids.
    pub fn is_text(&self) -> bool {
        !matches!(&self.kind, Kind::Files(Found { are_ids: true, .. }))
    }

    /// The files that are read, in order; none for text in memory.
    pub fn files(&self) -> &[PathBuf] {
        match &self.kind {
            Kind::Memory(_) | Kind::Made(_) => &[],
            Kind::Files(found) => &found.files,
        }
    }

    /// The files for validation that lie beside the files of this source.
    pub fn validation(&self) -> Option<Source> {
        let Kind::Files(Found { validation, are_ids, .. }) = &self.kind else { return None };
        let name = match &validation[..] {
            [] => return None,
            [file] => file.display().to_string(),
            files => format!("{} and {} more", files[0].display(), files.len() - 1),
        };
        let found = Found { files: validation.clone(), validation: Vec::new(), are_ids: *are_ids };
        Some(Source { name, kind: Kind::Files(found), column: self.column.clone(), notes: vec![] })
    }

    /// The `tokenizer.json` that lies beside the `.bin` files of this source, if any.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        let file = self.files().first().filter(|_| !self.is_text())?.with_file_name(tokenizer::FILE_NAME);
        file.is_file().then_some(file)
    }

    /// The bytes of all its files, or of its text in memory: the whole that progress is a share of.
    pub fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Memory(text) => text.len() as u64,
            Kind::Made(make) => make.size_bytes(),
            _ => self.files().iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum(),
        }
    }

    /// Every character of the text and of validation files beside it, and the newline that separates documents if there are
    /// several.
    pub fn alphabet(&self) -> Result<BTreeSet<char>> {
        if !self.is_text() {
            let remedy = "give the tokenizer.json that they were made with";
            fail!(Usage, "{} holds token ids, not text to take characters from; {remedy}", self.name);
        }
        let mut seen = vec![false; char::MAX as usize + 1];
        let mut documents = 0;
        let beside = self.validation();
        for piece in self.pieces(1 << 20).chain(beside.iter().flat_map(|beside| beside.pieces(1 << 20))) {
            let piece = piece?;
            documents += usize::from(piece.starts_document);
            piece.text.chars().for_each(|c| seen[c as usize] = true);
        }
        seen['\n' as usize] |= documents > 1;
        Ok((0..).zip(seen).filter(|(_, seen)| *seen).filter_map(|(code, _)| char::from_u32(code)).collect())
    }

    /// The documents of one of its files, by its number.
    pub(super) fn documents_of_file(&self, number: usize) -> Pieces<'_> {
        Pieces::of_files(&self.files()[number..=number], &self.column, 1 << 20)
    }

    /// The text, in order, in pieces of at most `size_bytes`, which end where tokens end as far as can be told.
    /// Empty documents are left out. A source of token ids has no pieces.
    pub fn pieces(&self, size_bytes: usize) -> Pieces<'_> {
        match &self.kind {
            Kind::Memory(text) => Pieces::of_reader(&self.name, Box::new(text.as_bytes()), size_bytes),
            Kind::Made(make) => Pieces::of_made(make, size_bytes),
            Kind::Files(found) if found.are_ids => Pieces::of_files(&[], &self.column, size_bytes),
            Kind::Files(found) => Pieces::of_files(&found.files, &self.column, size_bytes),
        }
    }
}
