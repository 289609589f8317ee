//! Where data comes from: files of text or of token ids, found by path and told apart by their names.
//!
//! - `.txt`: UTF-8 text, one document.
//! - `.jsonl`: one JSON object per line, whose `text` field is a document; other fields and empty lines are ignored.
//! - `.parquet`: rows, whose `text` column is a document (built with the feature `parquet`).
//! - `.bin`: token ids, as nanoGPT and llm.c write them (see `tokens`).
//!
//! A folder is searched for these, folders in it included, in sorted order. Names that begin with a dot are left out.
//! `.bin` files of a folder whose names have the word `val` in them, and those beside a `train` file, are held out for
//! validation: `train.bin` and `val.bin`, `fineweb_train_000001.bin` and `fineweb_val_000000.bin`.
//! A `tokenizer.json` beside them is the one that they were made with, as `wgpt data prepare` leaves it.
//!
//! Text is read in pieces of bounded size (see `pieces`), so a corpus may be larger than memory.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{pieces::Pieces, tokenizer};
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
}

#[derive(Clone, Debug)]
enum Kind {
    Memory(Arc<str>),
    Text(Vec<PathBuf>),
    Ids { files: Vec<PathBuf>, validation: Vec<PathBuf> },
}

impl Source {
    /// Finds the files of `path`, a file or a folder.
    pub fn open(path: &Path) -> Result<Source> {
        let name = path.display().to_string();
        let metadata = match fs::metadata(path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                fail!(
                    Input,
                    "there is no data at {name}; give a .txt, .jsonl, .parquet or .bin file, or a folder of them"
                )
            }
            other => other.map_err(Error::io("read the data", path))?,
        };
        let kind = if metadata.is_dir() { folder(path)? } else { file(path)? };
        Ok(Source { name, kind, column: TEXT_COLUMN.into() })
    }

    /// Text in memory, one document; `name` is for messages.
    pub fn from_text(name: &str, text: impl Into<Arc<str>>) -> Source {
        Source { name: name.to_string(), kind: Kind::Memory(text.into()), column: TEXT_COLUMN.into() }
    }

    /// The same with another field of `.jsonl` lines, or column of `.parquet` files, than `text`.
    pub fn with_column(self, column: &str) -> Source {
        Source { column: column.into(), ..self }
    }

    /// What messages call it: its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is text, which needs a tokenizer; otherwise it is token ids.
    pub fn is_text(&self) -> bool {
        !matches!(self.kind, Kind::Ids { .. })
    }

    /// The files that are read, in order; none for text in memory.
    pub fn files(&self) -> &[PathBuf] {
        match &self.kind {
            Kind::Memory(_) => &[],
            Kind::Text(files) | Kind::Ids { files, .. } => files,
        }
    }

    /// The `val` files that lie beside the `.bin` files of this source.
    pub fn validation(&self) -> Option<Source> {
        match &self.kind {
            Kind::Ids { validation, .. } if !validation.is_empty() => {
                let name = match &validation[..] {
                    [file] => file.display().to_string(),
                    files => format!("{} and {} more", files[0].display(), files.len() - 1),
                };
                let kind = Kind::Ids { files: validation.clone(), validation: Vec::new() };
                Some(Source { name, kind, column: self.column.clone() })
            }
            _ => None,
        }
    }

    /// The `tokenizer.json` that lies beside the `.bin` files of this source, if any.
    pub fn tokenizer_file(&self) -> Option<PathBuf> {
        let Kind::Ids { files, .. } = &self.kind else { return None };
        let file = files.first()?.with_file_name(tokenizer::FILE_NAME);
        file.is_file().then_some(file)
    }

    /// The bytes of all its files, or of its text in memory: what progress is measured against.
    pub fn size_bytes(&self) -> u64 {
        match &self.kind {
            Kind::Memory(text) => text.len() as u64,
            _ => self.files().iter().filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum(),
        }
    }

    /// Every character of the text, and the newline that separates documents if there are several.
    pub fn alphabet(&self) -> Result<BTreeSet<char>> {
        if !self.is_text() {
            let remedy = "give the tokenizer.json that they were made with";
            fail!(Usage, "{} holds token ids, not text to take characters from; {remedy}", self.name);
        }
        let mut seen = vec![false; char::MAX as usize + 1];
        let mut documents = 0;
        for piece in self.pieces(1 << 20) {
            let piece = piece?;
            documents += usize::from(piece.starts_document);
            piece.text.chars().for_each(|c| seen[c as usize] = true);
        }
        seen['\n' as usize] |= documents > 1;
        Ok((0..).zip(seen).filter(|(_, seen)| *seen).filter_map(|(code, _)| char::from_u32(code)).collect())
    }

    /// The text, in order, in pieces of at most `size_bytes`, which end where tokens end as far as can be told.
    /// Empty documents are left out. A source of token ids has no pieces.
    pub fn pieces(&self, size_bytes: usize) -> Pieces<'_> {
        match &self.kind {
            Kind::Memory(text) => Pieces::of_reader(&self.name, Box::new(text.as_bytes()), size_bytes),
            Kind::Text(files) => Pieces::of_files(files, &self.column, size_bytes),
            Kind::Ids { .. } => Pieces::of_files(&[], &self.column, size_bytes),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Format {
    Text,
    Lines,
    Parquet,
    Ids,
}

/// What a file's extension says that it holds.
pub(super) fn format(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "txt" => Some(Format::Text),
        "jsonl" => Some(Format::Lines),
        "parquet" => Some(Format::Parquet),
        "bin" => Some(Format::Ids),
        _ => None,
    }
}

fn file(path: &Path) -> Result<Kind> {
    match format(path) {
        None => fail!(Input, "{} is neither .txt, .jsonl, .parquet nor .bin; rename or convert it", path.display()),
        Some(Format::Ids) => Ok(Kind::Ids { files: vec![path.to_path_buf()], validation: validation_beside(path)? }),
        Some(_) => Ok(Kind::Text(vec![path.to_path_buf()])),
    }
}

fn folder(path: &Path) -> Result<Kind> {
    let mut files = Vec::new();
    find(path, &mut HashSet::new(), &mut files)?;
    files.sort();
    let (ids, text): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| format(file) == Some(Format::Ids));
    match (ids.first(), text.first()) {
        (None, None) => fail!(Input, "{} has no .txt, .jsonl, .parquet or .bin files in it", path.display()),
        (None, _) => Ok(Kind::Text(text)),
        (Some(ids), Some(text)) => {
            let (ids, text) = (ids.display(), text.display());
            fail!(Input, "{} mixes token ids ({ids}) and text ({text}); keep one kind of them", path.display())
        }
        (_, None) => {
            let (validation, files): (Vec<_>, Vec<_>) = ids.into_iter().partition(|file| words(file).contains(&"val"));
            // A folder of nothing but validation files is what somebody wants to evaluate on.
            Ok(if files.is_empty() {
                Kind::Ids { files: validation, validation: files }
            } else {
                Kind::Ids { files, validation }
            })
        }
    }
}

fn find(dir: &Path, visited: &mut HashSet<PathBuf>, files: &mut Vec<PathBuf>) -> Result<()> {
    // Links may lead to a folder that is already being read.
    if !visited.insert(dir.canonicalize().map_err(Error::io("read the folder", dir))?) {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
        let entry = entry.map_err(Error::io("read the folder", dir))?;
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => find(&path, visited, files)?,
            Ok(_) if format(&path).is_some() => files.push(path),
            Err(cause) if format(&path).is_some() => return Err(Error::io("read", &path)(cause)),
            _ => {}
        }
    }
    Ok(())
}

/// The `.bin` files in the same folder that are named like this one up to the word `train`, and `val` from there on.
fn validation_beside(path: &Path) -> Result<Vec<PathBuf>> {
    let own = words(path);
    let Some(at) = own.iter().position(|&word| word == "train") else { return Ok(Vec::new()) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
        let file = entry.map_err(Error::io("read the folder", dir))?.path();
        let other = words(&file);
        if format(&file) == Some(Format::Ids) && other.get(at) == Some(&"val") && other[..at] == own[..at] {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// The words of a file's name: `fineweb_train_000001.bin` has `fineweb`, `train` and `000001`.
fn words(path: &Path) -> Vec<&str> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem.split(|c: char| !c.is_ascii_alphanumeric()).collect()
}
