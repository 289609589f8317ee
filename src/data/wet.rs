//! Text that was extracted from the pages of a crawl, as Common Crawl's `.warc.wet.gz` files have it: records of WARC (ISO 28500), of which
//! those of the type `conversion` are documents. Bytes that are no UTF-8 become U+FFFD, because a crawl is what it is.

use std::{
    io::{BufRead, Read},
    path::{Path, PathBuf},
};

use super::pieces::{Document, Documents, Place};
use crate::{
    error::{Error, Result},
    fail,
};

/// Lines of a header, and their bytes, that are read at most.
const MOST_HEADER_LINES: usize = 1000;
const LONGEST_LINE_BYTES: u64 = 64 << 10;
/// A document is held in memory as a whole.
const MOST_RECORD_BYTES: u64 = 256 << 20;

/// The records of a file, one after the other.
pub(super) struct Records<R> {
    input: R,
    path: PathBuf,
    /// Of the record that was read last, counted from one.
    number: u64,
}

/// The lines of a header that matter here.
#[derive(Default)]
struct Header {
    kind: String,
    length: Option<u64>,
}

impl<R: BufRead> Records<R> {
    pub fn new(input: R, path: &Path) -> Records<R> {
        Records { input, path: path.to_path_buf(), number: 0 }
    }

    /// A line without its end; nothing at the end of the file.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = vec![];
        let read = self.input.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line);
        let count = read.map_err(Error::io("read", &self.path))?;
        Ok((count > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_string()))
    }

    /// The next header; nothing at the end of the file.
    fn header(&mut self) -> Result<Option<Header>> {
        // Empty lines end the record before.
        let first = loop {
            match self.line()? {
                None => return Ok(None),
                Some(line) if line.is_empty() => {}
                Some(line) => break line,
            }
        };
        self.number += 1;
        let (number, file) = (self.number, self.path.display().to_string());
        if !first.starts_with("WARC/") {
            fail!(Input, "record {number} of {file} does not begin as one of WARC does; unpack or download it anew");
        }
        let mut header = Header::default();
        for _ in 0..MOST_HEADER_LINES {
            match self.line()? {
                None => fail!(Input, "{file} ends within the header of record {number}; download it anew"),
                Some(line) if line.is_empty() => return Ok(Some(header)),
                Some(line) => header.take(&line),
            }
        }
        fail!(Input, "the header of record {number} of {file} does not end; download it anew")
    }
}

impl Header {
    fn take(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else { return };
        match name.to_ascii_lowercase().as_str() {
            "warc-type" => self.kind = value.trim().to_ascii_lowercase(),
            "content-length" => self.length = value.trim().parse().ok(),
            _ => {}
        }
    }
}

impl<R: BufRead> Documents for Records<R> {
    fn next_document(&mut self) -> Result<Option<Document>> {
        while let Some(header) = self.header()? {
            let (number, file) = (self.number, self.path.display());
            let Some(length) = header.length.filter(|length| *length <= MOST_RECORD_BYTES) else {
                fail!(
                    Input,
                    "record {number} of {file} has no Content-Length up to {MOST_RECORD_BYTES}; download it anew"
                );
            };
            let mut content = vec![];
            let read =
                self.input.by_ref().take(length).read_to_end(&mut content).map_err(Error::io("read", &self.path))?;
            if (read as u64) < length {
                fail!(Input, "{file} ends within record {number}; download it anew");
            }
            if header.kind == "conversion" && !content.is_empty() {
                let text = String::from_utf8_lossy(&content).into_owned();
                return Ok(Some(Document::new(text, Place::record(&self.path, "record", number))));
            }
        }
        Ok(None)
    }
}
