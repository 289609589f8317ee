//! Text in pieces of bounded size: documents read from files of text, of lines of JSON or of rows, or from a pipe.

use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::cuts::{Cuts, MOST_BYTES};
use super::found::{Format, format, reader};
use super::source::Make;
use crate::{
    error::{Error, Result},
    fail,
};

/// A line of a `.jsonl` file is held in memory as a whole, so it must end somewhere.
const LONGEST_LINE_BYTES: u64 = 256 << 20;
/// So is a document where its filters look at it as a whole.
const MOST_DOCUMENT_BYTES: usize = 256 << 20;

/// The byte order mark that some programs put at the beginning of UTF-8 text.
pub const BYTE_ORDER_MARK: &str = "\u{feff}";

/// A stretch of text within one document.
#[derive(Debug)]
pub struct Piece {
    pub text: String,
    /// Whether this is the first piece of a document.
    pub starts_document: bool,
    /// The end of the text before this piece, as far as the tokenizer may look at it; see [`Cuts::context`].
    pub(super) before: String,
    /// The number of the source of its document among several that are mixed.
    pub(super) origin: u16,
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

/// Iterator over the pieces of a source, in order.
pub struct Pieces<'a> {
    files: std::slice::Iter<'a, PathBuf>,
    column: Arc<str>,
    documents: Option<Box<dyn Documents>>,
    text: Option<TextReader<'a>>,
    size_bytes: usize,
    cuts: Cuts,
    read: Arc<AtomicU64>,
}

/// A file of many documents, each held in memory as a whole.
pub(super) trait Documents {
    fn next_document(&mut self) -> Result<Option<Document>>;
}

/// A whole document.
#[derive(Debug)]
pub struct Document {
    pub text: String,
    pub(super) place: Place,
    /// The number of its source among several that are mixed.
    pub(super) origin: u16,
}

impl Document {
    pub(super) fn new(text: String, place: Place) -> Document {
        Document { text, place, origin: 0 }
    }

    /// Where it is: a file, or a line or row of one.
    pub fn place(&self) -> String {
        self.place.name()
    }
}

impl<'a> Pieces<'a> {
    pub(super) fn of_files(files: &'a [PathBuf], column: &Arc<str>, size_bytes: usize) -> Pieces<'a> {
        // A character has up to four bytes, and a piece holds at least one.
        let (files, size_bytes) = (files.iter(), size_bytes.max(4));
        let (cuts, read) = (Cuts::anywhere(), Arc::default());
        Pieces { files, column: column.clone(), documents: None, text: None, size_bytes, cuts, read }
    }

    /// The same in pieces that are cut where a tokenizer allows it; they become longer than was asked for where there is no
    /// such place.
    pub fn cut_at(self, cuts: Cuts) -> Pieces<'a> {
        Pieces { cuts, ..self }
    }

    /// Documents that are made as they are read.
    pub(super) fn of_made(make: &Arc<dyn Make>, size_bytes: usize) -> Pieces<'a> {
        let pieces = Pieces::of_files(&[], &"".into(), size_bytes);
        let documents = Made::Waiting(Arc::clone(make), Arc::clone(&pieces.read));
        Pieces { documents: Some(Box::new(documents)), ..pieces }
    }

    /// The next document as a whole, in place of pieces; empty ones are left out.
    pub fn next_document(&mut self) -> Result<Option<Document>> {
        loop {
            if let Some(documents) = &mut self.documents {
                match documents.next_document()? {
                    None => self.documents = None,
                    Some(document) if document.text.is_empty() => {}
                    document => return Ok(document),
                }
            } else if let Some(mut reader) = self.text.take() {
                let mut text = String::new();
                while let Some(piece) = reader.next_piece(self.size_bytes, &Cuts::anywhere())? {
                    text += &piece.text;
                    if text.len() > MOST_DOCUMENT_BYTES {
                        let (most, place) = (MOST_DOCUMENT_BYTES >> 20, reader.place.name());
                        fail!(
                            Input,
                            "{place} has more than {most} MiB, and filters look at whole documents: cut it into several"
                        );
                    }
                }
                if !text.is_empty() {
                    return Ok(Some(Document { text, place: reader.place, origin: reader.origin }));
                }
            } else if let Some(path) = self.files.next() {
                self.open(path)?;
            } else {
                return Ok(None);
            }
        }
    }

    /// The pieces of one document that is read from anywhere; `name` is for messages.
    pub fn of_reader(name: &str, reader: Box<dyn Read + 'a>, size_bytes: usize) -> Pieces<'a> {
        let pieces = Pieces::of_files(&[], &"".into(), size_bytes);
        let place = Place { file: name.into(), record: None };
        let reader = Box::new(Counted { inner: reader, read: pieces.read.clone() });
        Pieces { text: Some(TextReader::new(reader, place)), ..pieces }
    }

    /// How many bytes have been read from files so far, to show progress.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn advance(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(text) = &mut self.text {
                match text.next_piece(self.size_bytes, &self.cuts)? {
                    None => self.text = None,
                    piece => return Ok(piece),
                }
            } else if let Some(documents) = &mut self.documents {
                match documents.next_document()? {
                    None => self.documents = None,
                    Some(Document { text, place, origin }) => {
                        self.text = Some(TextReader { origin, ..TextReader::new(Box::new(Cursor::new(text)), place) });
                    }
                }
            } else if let Some(path) = self.files.next() {
                self.open(path)?;
            } else {
                return Ok(None);
            }
        }
    }

    fn open(&mut self, path: &Path) -> Result<()> {
        let (column, read) = (self.column.clone(), self.read.clone());
        if format(path) == Some(Format::Parquet) {
            let file = File::open(path).map_err(Error::io("open", path))?;
            self.documents = Some(super::parquet::open(file, path, &column, read)?);
            return Ok(());
        }
        let input = reader(path, |file| Counted { inner: file, read })?;
        if format(path) == Some(Format::Wet) {
            let input = BufReader::new(input);
            self.documents = Some(Box::new(super::wet::Records::new(input, path)));
        } else if format(path) == Some(Format::Lines) {
            let input = BufReader::new(input);
            self.documents = Some(Box::new(LineReader { input, path: path.to_path_buf(), column, number: 0 }));
        } else {
            self.text = Some(TextReader::of_file(input, Place::of(path)));
        }
        Ok(())
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().transpose()
    }
}

/// Documents that are made as they are read, from the first one that is asked for on.
enum Made {
    Waiting(Arc<dyn Make>, Arc<AtomicU64>),
    Begun(Box<dyn Documents>),
}

impl Documents for Made {
    fn next_document(&mut self) -> Result<Option<Document>> {
        if let Made::Waiting(make, read) = self {
            *self = Made::Begun(make.documents(Arc::clone(read))?);
        }
        match self {
            Made::Begun(documents) => documents.next_document(),
            Made::Waiting(..) => Ok(None),
        }
    }
}

/// Where a document is, for messages.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: Arc<str>,
    /// The kind of place of the document in its file, such as a line, and its number, counted from one.
    record: Option<(&'static str, u64)>,
}

impl Place {
    pub fn of(path: &Path) -> Place {
        Place { file: path.display().to_string().into(), record: None }
    }

    /// A document that is a numbered part of its file: a line, a row.
    pub fn record(path: &Path, kind: &'static str, number: u64) -> Place {
        Place { record: Some((kind, number)), ..Place::of(path) }
    }

    /// A document by the name that it had.
    pub fn named(name: &str) -> Place {
        Place { file: name.into(), record: None }
    }

    fn name(&self) -> String {
        match self.record {
            None => self.file.to_string(),
            Some((kind, number)) => format!("{kind} {number} of {}", self.file),
        }
    }

    fn position(&self, offset: u64) -> String {
        match self.record {
            None => format!("at byte {offset} of {}", self.file),
            Some((kind, number)) => format!("at byte {offset} of the text in {kind} {number} of {}", self.file),
        }
    }
}

/// Counts the bytes that pass through it.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Reads one document.
struct TextReader<'a> {
    input: Box<dyn Read + 'a>,
    place: Place,
    origin: u16,
    /// Read but not handed out yet.
    rest: Vec<u8>,
    /// Where `rest` begins in the document.
    offset: u64,
    /// The end of the text that was handed out.
    before: String,
    /// Whether it may begin with a byte order mark, which is not text.
    may_be_marked: bool,
    /// Whether a piece was handed out.
    begun: bool,
}

impl<'a> TextReader<'a> {
    fn new(input: Box<dyn Read + 'a>, place: Place) -> TextReader<'a> {
        let (rest, before) = (Vec::new(), String::new());
        TextReader { input, place, origin: 0, rest, offset: 0, before, may_be_marked: false, begun: false }
    }

    /// Reads a file, without the byte order mark of Unicode that some programs put first.
    fn of_file(input: Box<dyn Read + 'a>, place: Place) -> TextReader<'a> {
        TextReader { may_be_marked: true, ..TextReader::new(input, place) }
    }

    fn next_piece(&mut self, mut size_bytes: usize, cuts: &Cuts) -> Result<Option<Piece>> {
        loop {
            let wanted = size_bytes.saturating_sub(self.rest.len());
            let read = self.input.by_ref().take(wanted as u64).read_to_end(&mut self.rest);
            read.map_err(Error::io("read", Path::new(&*self.place.file)))?;
            let ends = self.rest.len() < size_bytes;
            if std::mem::take(&mut self.may_be_marked) && self.rest.starts_with(BYTE_ORDER_MARK.as_bytes()) {
                self.rest.drain(..BYTE_ORDER_MARK.len());
                self.offset += BYTE_ORDER_MARK.len() as u64;
                if !ends {
                    continue;
                }
            }
            if self.rest.is_empty() {
                return Ok(None);
            }
            let valid = match std::str::from_utf8(&self.rest) {
                Ok(text) => text,
                // A character that continues beyond the bytes that were read.
                Err(cause) if cause.error_len().is_none() && !ends => valid_part(&self.rest, cause.valid_up_to()),
                Err(cause) => {
                    let position = self.place.position(self.offset + cause.valid_up_to() as u64);
                    fail!(Input, "there is no valid UTF-8 {position}; save the text as UTF-8")
                }
            };
            let Some(length) = (if ends { Some(valid.len()) } else { cuts.last(valid) }) else {
                if size_bytes >= MOST_BYTES {
                    let (most, position, why) = (MOST_BYTES >> 20, self.place.position(self.offset), cuts.reason());
                    fail!(
                        Input,
                        "the document has more than {most} MiB {position} that cannot be cut without changing token ids, \
                         because {why}: cut it into documents, such as lines of .jsonl, or use another tokenizer"
                    );
                }
                size_bytes = (2 * size_bytes).min(MOST_BYTES);
                continue;
            };
            let (offset, text) = (self.offset, valid[..length].to_string());
            self.rest.drain(..length);
            self.offset += length as u64;
            let before = std::mem::replace(&mut self.before, cuts.context(&text).to_string());
            let starts_document = !std::mem::replace(&mut self.begun, true);
            let origin = self.origin;
            return Ok(Some(Piece { text, starts_document, before, origin, place: self.place.clone(), offset }));
        }
    }
}

/// Reads the documents of a `.jsonl` file.
struct LineReader {
    input: BufReader<Box<dyn Read>>,
    path: PathBuf,
    column: Arc<str>,
    number: u64,
}

impl Documents for LineReader {
    fn next_document(&mut self) -> Result<Option<Document>> {
        let mut line = Vec::new();
        while line.trim_ascii().is_empty() {
            line.clear();
            let read = self.input.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line);
            if read.map_err(Error::io("read", &self.path))? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.number == 1 && line.starts_with(BYTE_ORDER_MARK.as_bytes()) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
        }
        let (number, file, column) = (self.number, self.path.display(), &*self.column);
        if line.len() as u64 == LONGEST_LINE_BYTES && !line.ends_with(b"\n") {
            fail!(Input, "line {number} of {file} is longer than {LONGEST_LINE_BYTES} bytes; split it");
        }
        let expected = format!("each line must be a JSON object with a `{column}` string");
        let line = std::str::from_utf8(&line).map_err(|cause| {
            let at = cause.valid_up_to();
            Error::Input(format!("there is no valid UTF-8 at byte {at} of line {number} of {file}; {expected}"))
        })?;
        let mut value: Value = serde_json::from_str(line)
            .map_err(|cause| Error::Input(format!("line {number} of {file} is not JSON ({cause}); {expected}")))?;
        let Some(Value::String(text)) = value.get_mut(column).map(Value::take) else {
            fail!(Input, "line {number} of {file} has no `{column}`; {expected}");
        };
        Ok(Some(Document::new(text, Place::record(&self.path, "line", number))))
    }
}

fn valid_part(bytes: &[u8], length: usize) -> &str {
    std::str::from_utf8(&bytes[..length]).unwrap_or_default()
}
