//! `wgpt tokenizer encode` and `decode`: from standard input to standard output, with bounded memory, as far as it has
//! come.

use crate::cli::console;
use clap::Args;
use rayon::prelude::*;
use std::io::{self, BufRead, BufReader, Read};
use wgpt::data::cuts::Cuts;
use wgpt::data::encoder::Encoder;
use wgpt::data::pieces::Pieces;
use wgpt::data::source::Source;
use wgpt::data::tokenizer::{TextStream, Tokenizer};
use wgpt::error::{Error, Result};
use wgpt::fail;

const INPUT: &str = "standard input";
/// Text encoded at a time where all of the input is one text.
const PIECE_BYTES: usize = 256 << 10;
/// Lines are taken from a buffer of this size.
const BUFFER_BYTES: usize = 1 << 20;
/// A line is held in memory as a whole.
const LONGEST_LINE_BYTES: u64 = 256 << 20;
/// Ids decoded at a time.
const IDS: usize = 4096;

#[derive(Args)]
pub struct Encode {
    #[command(flatten)]
    choice: Choice,
    /// text: ids separated by spaces; json: an array
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
pub struct Decode {
    #[command(flatten)]
    choice: Choice,
    /// text: as it is; json: a string
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct Choice {
    /// A tokenizer.json, a folder that holds one, or `bytes`
    #[arg(long, value_name = "FILE|DIR")]
    tokenizer: String,
    /// Each line is a text of its own [default: all of the input is one]
    #[arg(long)]
    lines: bool,
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

impl Choice {
    fn open(&self) -> Result<Tokenizer> {
        if self.tokenizer == "char" {
            fail!(Usage, "--tokenizer char depends on the text it was made from; give the tokenizer.json of a model");
        }
        Tokenizer::choose(&self.tokenizer, &Source::from_text(INPUT, ""))
    }
}

impl Encode {
    pub fn run(&self) -> Result<()> {
        let tokenizer = self.choice.open()?;
        if self.choice.lines { self.lines(&tokenizer) } else { self.whole(&tokenizer) }
    }

    fn whole(&self, tokenizer: &Tokenizer) -> Result<()> {
        let (start, between, end) = self.format.marks();
        let mut line = start.to_string();
        let mut first = true;
        let encoder = Encoder::new(tokenizer)?;
        let pieces = Pieces::of_reader(INPUT, Box::new(io::stdin().lock()), PIECE_BYTES);
        for piece in pieces.cut_at(Cuts::of(tokenizer)) {
            for id in encoder.encode(&piece?)? {
                line.push_str(if first { "" } else { between });
                line.push_str(&id.to_string());
                first = false;
            }
            console::data(&line)?;
            line.clear();
        }
        console::data(&format!("{line}{end}"))
    }

    fn lines(&self, tokenizer: &Tokenizer) -> Result<()> {
        let (start, between, end) = self.format.marks();
        let mut lines = Lines { input: BufReader::with_capacity(BUFFER_BYTES, io::stdin()), number: 0 };
        while let Some(block) = lines.next_block()? {
            let encoded = block.par_iter().map(|(number, line)| {
                let what = |cause| Error::Input(format!("line {number} of {INPUT}: {cause}"));
                let ids = tokenizer.encode(line).map_err(what)?;
                let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
                Ok(format!("{start}{}{end}", ids.join(between)))
            });
            let mut text = String::new();
            let mut failure = Ok(());
            for line in encoded.collect::<Vec<Result<String>>>() {
                match line {
                    Ok(line) => text.push_str(&line),
                    Err(cause) => {
                        failure = Err(cause);
                        break;
                    }
                }
            }
            // Lines before one that cannot be encoded are still written.
            console::data(&text)?;
            failure?;
        }
        Ok(())
    }
}

impl Format {
    /// Before, between and after the ids of a text.
    fn marks(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Format::Text => ("", " ", "\n"),
            Format::Json => ("[", ", ", "]\n"),
        }
    }
}

/// Lines of standard input with their numbers, without their ends (LF or CR LF).
struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// All whole lines that are there already, or the next one if there is none.
    fn next_block(&mut self) -> Result<Option<Vec<(u64, String)>>> {
        let mut block = Vec::new();
        loop {
            let mut line = Vec::new();
            let read = self.input.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line);
            if read.map_err(input_failed)? == 0 {
                return Ok((!block.is_empty()).then_some(block));
            }
            self.number += 1;
            let number = self.number;
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            if line.len() as u64 == LONGEST_LINE_BYTES && text.len() == line.len() {
                fail!(Input, "line {number} of {INPUT} is longer than {LONGEST_LINE_BYTES} bytes; leave out --lines");
            }
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = std::str::from_utf8(text).map_err(|cause| {
                let column = String::from_utf8_lossy(&text[..cause.valid_up_to()]).chars().count() + 1;
                Error::Input(format!("line {number} of {INPUT} is not UTF-8 from column {column} on; convert it"))
            })?;
            block.push((number, text.to_string()));
            if !self.input.buffer().contains(&b'\n') {
                return Ok(Some(block));
            }
        }
    }
}

impl Decode {
    pub fn run(&self) -> Result<()> {
        let tokenizer = self.choice.open()?;
        self.decode(&tokenizer)
    }

    fn decode(&self, tokenizer: &Tokenizer) -> Result<()> {
        let lines = self.choice.lines;
        let mut input = BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock());
        let mut scanner = Scanner::default();
        let mut text =
            Text { tokenizer, stream: tokenizer.stream(), ids: Vec::new(), format: self.format, begun: false };
        loop {
            let bytes = input.fill_buf().map_err(input_failed)?;
            let count = bytes.len();
            for &byte in bytes {
                if let Some(id) = scanner.next(byte)? {
                    text.push(id, &scanner)?;
                }
                if lines && scanner.ends_line(byte) {
                    text.end("\n")?;
                }
            }
            text.flush()?;
            input.consume(count);
            if count == 0 {
                break;
            }
        }
        if let Some(id) = scanner.finish()? {
            text.push(id, &scanner)?;
        }
        match lines {
            true if scanner.column == 0 => Ok(()),
            true => text.end("\n"),
            false => text.end(""),
        }
    }
}

/// Finds ids among white space, commas and brackets, and knows where it is.
#[derive(Default)]
struct Scanner {
    /// Lines that are over, and bytes of the current one.
    line: u64,
    column: u64,
    /// The id that is being read.
    id: Option<u64>,
    /// Where the last id began.
    id_at: (u64, u64),
    /// Where the arrays begin that are open.
    open: Vec<(u64, u64)>,
}

impl Scanner {
    /// Arrays within arrays beyond this are no token ids.
    const DEEPEST: usize = 8;

    /// Takes a byte; returns the id that ended before it.
    fn next(&mut self, byte: u8) -> Result<Option<u32>> {
        let at = (self.line + 1, self.column + 1);
        let ended = if byte.is_ascii_digit() { None } else { self.id.take() };
        match byte {
            b'0'..=b'9' => {
                if self.id.is_none() {
                    self.id_at = at;
                }
                let id = self.id.unwrap_or(0) * 10 + u64::from(byte - b'0');
                if id > u64::from(u32::MAX) {
                    fail!(Input, "the token id {} is too large to be one; give ids below 2^32", place(self.id_at));
                }
                self.id = Some(id);
            }
            b'[' if self.open.len() == Self::DEEPEST => fail!(Input, "there are too many brackets {}", place(at)),
            b'[' => self.open.push(at),
            b']' if self.open.pop().is_none() => {
                fail!(Input, "the bracket {} closes nothing; give ids such as 1 2 3 or [1, 2, 3]", place(at))
            }
            b']' | b',' | b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                let what = if byte.is_ascii_graphic() { format!("`{}`", char::from(byte)) } else { "a byte".into() };
                fail!(Input, "{what} {} is not part of a token id; give ids such as 1 2 3 or [1, 2, 3]", place(at))
            }
        }
        (self.line, self.column) = if byte == b'\n' { (self.line + 1, 0) } else { (self.line, self.column + 1) };
        Ok(ended.map(|id| id as u32))
    }

    /// Whether the byte that was taken last ends a line of ids; within an array it is only white space.
    fn ends_line(&self, byte: u8) -> bool {
        byte == b'\n' && self.open.is_empty()
    }

    /// The id that the end of the input ends.
    fn finish(&mut self) -> Result<Option<u32>> {
        if let Some(&at) = self.open.last() {
            fail!(Input, "the array that begins {} does not end; the input is cut off", place(at));
        }
        Ok(self.id.take().map(|id| id as u32))
    }
}

fn place((line, column): (u64, u64)) -> String {
    format!("at line {line}, column {column} of {INPUT}")
}

/// A text that is being decoded.
struct Text<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    /// Not decoded yet.
    ids: Vec<u32>,
    format: Format,
    /// Whether the opening quote is written.
    begun: bool,
}

impl Text<'_> {
    fn push(&mut self, id: u32, scanner: &Scanner) -> Result<()> {
        if !self.tokenizer.knows(id) {
            let (at, size) = (place(scanner.id_at), self.tokenizer.vocabulary_size());
            fail!(Input, "token id {id} {at} is not in the tokenizer's vocabulary of {size}");
        }
        self.ids.push(id);
        if self.ids.len() < IDS { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let text = self.stream.extend(&self.ids)?;
        self.ids.clear();
        self.write(&text)
    }

    /// Writes the rest, and begins the next text.
    fn end(&mut self, after: &str) -> Result<()> {
        self.flush()?;
        let rest = std::mem::replace(&mut self.stream, self.tokenizer.stream()).finish()?;
        self.write(&rest)?;
        self.begun = false;
        console::data(if self.format == Format::Json { "\"\n" } else { after })
    }

    fn write(&mut self, text: &str) -> Result<()> {
        if self.format == Format::Text {
            return console::data(text);
        }
        let quoted = serde_json::Value::from(text).to_string();
        let inner = &quoted[1..quoted.len() - 1];
        let quote = if std::mem::replace(&mut self.begun, true) { "" } else { "\"" };
        console::data(&format!("{quote}{inner}"))
    }
}

fn input_failed(source: io::Error) -> Error {
    Error::Io { action: format!("read {INPUT}"), source }
}
