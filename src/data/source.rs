//! Where data comes from: files of text or of token ids, found by path and told apart by their names.
//!
//! - `.txt`: UTF-8 text, one document.
//! - `.jsonl`: one JSON object per line, whose `text` field is a document; other fields and empty lines are ignored.
//! - `.bin`: token ids, as nanoGPT and llm.c write them (see `tokens`).
//!
//! A folder is searched for these, folders in it included, in sorted order. Names that begin with a dot are left out.
//! `.bin` files of a folder whose names have the word `val` in them, and those beside a `train` file, are held out for
//! validation: `train.bin` and `val.bin`, `fineweb_train_000001.bin` and `fineweb_val_000000.bin`.
//!
//! Text is read in pieces of bounded size, so a corpus may be larger than memory.

use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    fail,
};

/// A line of a `.jsonl` file is held in memory as a whole, so it must end somewhere.
const LONGEST_LINE_BYTES: u64 = 256 << 20;

/// Data to train or evaluate on, not read yet.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    kind: Kind,
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
                fail!(Input, "there is no data at {name}; give a .txt, .jsonl or .bin file, or a folder of them")
            }
            other => other.map_err(Error::io("read the data", path))?,
        };
        let kind = if metadata.is_dir() { folder(path)? } else { file(path)? };
        Ok(Source { name, kind })
    }

    /// Text in memory, one document; `name` is for messages.
    pub fn from_text(name: &str, text: impl Into<Arc<str>>) -> Source {
        Source { name: name.to_string(), kind: Kind::Memory(text.into()) }
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
                Some(Source { name, kind })
            }
            _ => None,
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
        let text = match &self.kind {
            Kind::Memory(text) => {
                let place = Place { file: self.name.as_str().into(), line: None };
                Some(TextReader::new(Box::new(Cursor::new(text.as_bytes())), place))
            }
            _ => None,
        };
        let files = if self.is_text() { self.files() } else { &[] };
        // A character has up to four bytes, and a piece holds at least one.
        Pieces { files: files.iter(), lines: None, text, size_bytes: size_bytes.max(4) }
    }
}

/// A stretch of text within one document.
#[derive(Debug)]
pub struct Piece {
    pub text: String,
    /// Whether this is the first piece of a document.
    pub starts_document: bool,
    place: Place,
    offset: u64,
}

impl Piece {
    /// Where a byte of the text is, for messages.
    pub fn position(&self, offset: Option<usize>) -> String {
        match offset {
            Some(offset) => self.place.position(self.offset + offset as u64),
            None => self.place.position(self.offset),
        }
    }
}

/// Iterator over the pieces of a source.
pub struct Pieces<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    lines: Option<LineReader>,
    text: Option<TextReader<'a>>,
    size_bytes: usize,
}

impl Pieces<'_> {
    fn advance(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(text) = &mut self.text {
                match text.next_piece(self.size_bytes)? {
                    None => self.text = None,
                    piece => return Ok(piece),
                }
            } else if let Some(lines) = &mut self.lines {
                self.text = lines.next_document()?;
                if self.text.is_none() {
                    self.lines = None;
                }
            } else if let Some(path) = self.files.next() {
                let file = File::open(path).map_err(Error::io("open", path))?;
                if format(path) == Some(Format::Lines) {
                    self.lines = Some(LineReader::new(file, path));
                } else {
                    self.text = Some(TextReader::new(Box::new(file), Place::of(path)));
                }
            } else {
                return Ok(None);
            }
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

#[derive(Clone, Debug)]
struct Place {
    file: Arc<str>,
    /// Counted from one; for a document that is a field of a line.
    line: Option<u64>,
}

impl Place {
    fn of(path: &Path) -> Place {
        Place { file: path.display().to_string().into(), line: None }
    }

    fn position(&self, offset: u64) -> String {
        match self.line {
            None => format!("at byte {offset} of {}", self.file),
            Some(line) => format!("at byte {offset} of the text in line {line} of {}", self.file),
        }
    }
}

/// Reads one document.
struct TextReader<'a> {
    input: Box<dyn Read + 'a>,
    place: Place,
    /// Read but not handed out yet.
    rest: Vec<u8>,
    /// Where `rest` begins in the document.
    offset: u64,
}

impl<'a> TextReader<'a> {
    fn new(input: Box<dyn Read + 'a>, place: Place) -> TextReader<'a> {
        TextReader { input, place, rest: Vec::new(), offset: 0 }
    }

    fn next_piece(&mut self, size_bytes: usize) -> Result<Option<Piece>> {
        let wanted = size_bytes - self.rest.len();
        let read = self.input.by_ref().take(wanted as u64).read_to_end(&mut self.rest);
        read.map_err(Error::io("read", Path::new(&*self.place.file)))?;
        let ends = self.rest.len() < size_bytes;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let valid = match std::str::from_utf8(&self.rest) {
            Ok(text) => text,
            // A character that continues beyond what was read.
            Err(cause) if cause.error_len().is_none() && !ends => valid_part(&self.rest, cause.valid_up_to()),
            Err(cause) => {
                let position = self.place.position(self.offset + cause.valid_up_to() as u64);
                fail!(Input, "there is no valid UTF-8 {position}; save the text as UTF-8")
            }
        };
        let length = if ends { valid.len() } else { cut(valid) };
        let (offset, text) = (self.offset, valid[..length].to_string());
        self.rest.drain(..length);
        self.offset += length as u64;
        Ok(Some(Piece { text, starts_document: offset == 0, place: self.place.clone(), offset }))
    }
}

/// Reads the documents of a `.jsonl` file.
struct LineReader {
    input: BufReader<File>,
    path: PathBuf,
    number: u64,
}

impl LineReader {
    fn new(file: File, path: &Path) -> LineReader {
        LineReader { input: BufReader::new(file), path: path.to_path_buf(), number: 0 }
    }

    fn next_document(&mut self) -> Result<Option<TextReader<'static>>> {
        let mut line = Vec::new();
        while line.trim_ascii().is_empty() {
            line.clear();
            let read = self.input.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line);
            if read.map_err(Error::io("read", &self.path))? == 0 {
                return Ok(None);
            }
            self.number += 1;
        }
        let (number, file) = (self.number, self.path.display());
        if line.len() as u64 == LONGEST_LINE_BYTES && !line.ends_with(b"\n") {
            fail!(Input, "line {number} of {file} is longer than {LONGEST_LINE_BYTES} bytes; split it");
        }
        let expected = "each line must be a JSON object with a `text` string";
        let line = std::str::from_utf8(&line).map_err(|cause| {
            let at = cause.valid_up_to();
            Error::Input(format!("there is no valid UTF-8 at byte {at} of line {number} of {file}; {expected}"))
        })?;
        let mut value: Value = serde_json::from_str(line)
            .map_err(|cause| Error::Input(format!("line {number} of {file} is not JSON ({cause}); {expected}")))?;
        let Some(Value::String(text)) = value.get_mut("text").map(Value::take) else {
            fail!(Input, "line {number} of {file} has no `text`; {expected}");
        };
        let place = Place { line: Some(number), ..Place::of(&self.path) };
        Ok(Some(TextReader::new(Box::new(Cursor::new(text)), place)))
    }
}

/// Where to end a piece so that it and the rest give the same tokens as both together.
///
/// Byte-level and sentence-piece pre-tokenizers never join a word and the space after it, so before a space that
/// follows a word is best. Next is after a single newline between letters or digits: beside punctuation or more white
/// space some pre-tokenizers take the newline as part of what surrounds it. Otherwise anywhere.
fn cut(text: &str) -> usize {
    let before = |at: usize| text[..at].chars().next_back().unwrap_or(' ');
    let after = |at: usize| text[at + 1..].chars().next().unwrap_or(' ');
    let space = text.rmatch_indices(' ').map(|(at, _)| at).find(|&at| !before(at).is_whitespace());
    let newline = || {
        let mut newlines = text.rmatch_indices('\n').map(|(at, _)| at);
        newlines.find(|&at| before(at).is_alphanumeric() && after(at).is_alphanumeric())
    };
    space.or_else(|| newline().map(|at| at + 1)).unwrap_or(text.len())
}

fn valid_part(bytes: &[u8], length: usize) -> &str {
    std::str::from_utf8(&bytes[..length]).unwrap_or_default()
}

#[derive(Clone, Copy, PartialEq)]
enum Format {
    Text,
    Lines,
    Ids,
}

fn format(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "txt" => Some(Format::Text),
        "jsonl" => Some(Format::Lines),
        "bin" => Some(Format::Ids),
        _ => None,
    }
}

fn file(path: &Path) -> Result<Kind> {
    match format(path) {
        None => fail!(Input, "{} is neither .txt, .jsonl nor .bin; rename or convert it", path.display()),
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
        (None, None) => fail!(Input, "{} has no .txt, .jsonl or .bin files in it", path.display()),
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
