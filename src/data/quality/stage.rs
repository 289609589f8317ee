//! Reading documents: blocks of them go through the filters on all cores, and are then decided on in their order.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use ahash::AHashSet;
use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde_json::json;

use super::counts::{Looked, SourceCounts};
use super::document::Document;
use super::filter::LineCounts;
use super::work::{Log, Position, State, numbers};
use super::{Kept, Origin, Rules, exact, language};
use crate::data::pieces::Pieces;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::sha256_hex;

/// Text and documents that are looked at together.
pub(super) const BLOCK_BYTES: usize = 8 << 20;
const BLOCK_DOCUMENTS: usize = 4096;
/// Rejected documents that are compressed together.
const REJECTED_DOCUMENTS: usize = 256;

/// Dropped documents with their reasons, in the work folder and in the folder of shards.
pub const REJECTED: &str = "rejected.jsonl.gz";
pub(super) const MARKS: &str = "marks";
const EXACT: &str = "exact";
const PARAGRAPHS: &str = "paragraphs";

/// Documents on their way through the rules.
pub struct Stage<'a> {
    pub origins: &'a [Origin],
    pub rules: Arc<Rules>,
    /// The text of the rules, to tell them from others.
    pub description: &'a str,
    /// Folder for what is kept.
    pub work: &'a Path,
    /// Go on with what is in the folder.
    pub resume: bool,
    pub overwrite: bool,
    /// Set to stop; what is done is kept.
    pub interrupted: Arc<AtomicBool>,
}

impl Stage<'_> {
    /// Refuses what cannot be carried out before any text is read.
    pub fn check(&self) -> Result<()> {
        let work = self.work.display();
        if self.resume && !State::is_in(self.work) {
            fail!(Usage, "there is no unfinished preparation in {work}: leave out --resume");
        }
        if !self.resume && !self.overwrite && State::is_in(self.work) {
            fail!(Usage, "{work} holds an unfinished preparation: go on with --resume, or begin anew with --overwrite");
        }
        if let Some(origin) = self.origins.iter().find(|origin| !origin.source.is_text()) {
            fail!(Usage, "{} holds token ids, and filters look at text; give the text", origin.source.name());
        }
        Ok(())
    }

    /// Reads all documents; `progress` is called with the bytes that are read. The documents that stay.
    pub fn run(&self, progress: &mut dyn FnMut(u64)) -> Result<Kept> {
        self.check()?;
        let mut pass = self.begin()?;
        let mut reader = Reader::at(self.origins, pass.state.position)?;
        while !pass.state.is_complete {
            if self.interrupted.load(Ordering::SeqCst) {
                fail!(Input, "interrupted: what is done is in {}; go on with --resume", self.work.display());
            }
            let block = reader.block()?;
            pass.state.is_complete = block.is_empty();
            pass.take(self.origins, &self.rules, block)?;
            pass.state.position = reader.position;
            pass.save(self.work)?;
            progress(reader.bytes_read());
        }
        for (origin, counts) in self.origins.iter().zip(&pass.state.counts.sources) {
            if counts.read.tally.documents == 0 {
                fail!(Input, "{} has no documents in it", origin.source.name());
            }
        }
        Kept::new(self.origins, Arc::clone(&self.rules), self.work.to_path_buf(), pass.state)
    }

    fn begin(&self) -> Result<Pass> {
        let key = self.key()?;
        let state = if self.resume {
            State::read(self.work, &key)?
        } else {
            if State::is_in(self.work) {
                fs::remove_dir_all(self.work).map_err(Error::io("remove", self.work))?;
            }
            fs::create_dir_all(self.work).map_err(Error::io("create the folder", self.work))?;
            let mut state = State { key, ..State::default() };
            let counts =
                |origin: &Origin| SourceCounts { name: origin.name.clone(), share: origin.share, ..Default::default() };
            state.counts.sources = self.origins.iter().map(counts).collect();
            state
        };
        Pass::open(self.work, self.origins.len(), state)
    }

    /// A hash of the rules and of the files' names, sizes and times.
    fn key(&self) -> Result<String> {
        let mut text = self.description.to_string();
        for origin in self.origins {
            text += &format!("\n{}", origin.name);
            for path in origin.source.files() {
                let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
                let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                text += &format!("\n{} {} {changed:?}", path.display(), metadata.len());
            }
        }
        Ok(sha256_hex(text.as_bytes()))
    }
}

/// Reads the documents of all sources, from any place on.
struct Reader<'a> {
    origins: &'a [Origin],
    position: Position,
    pieces: Option<Pieces<'a>>,
    /// Bytes of files that are behind.
    passed_bytes: u64,
}

/// A document that was read.
struct Read {
    origin: u16,
    place: String,
    text: String,
}

impl<'a> Reader<'a> {
    fn at(origins: &'a [Origin], position: Position) -> Result<Reader<'a>> {
        let start = Position { documents: 0, ..position };
        let mut reader = Reader { origins, position: start, pieces: None, passed_bytes: 0 };
        let files = |origin: &'a Origin| origin.source.files();
        let behind = origins[..position.origin].iter().flat_map(files);
        let beside = origins.get(position.origin).map_or(&[][..], |origin| &files(origin)[..position.file]);
        reader.passed_bytes = behind.chain(beside).map(size_bytes).sum();
        while reader.position.documents < position.documents {
            if reader.next()?.is_none() {
                fail!(Input, "the data is not as it was: start again with --overwrite in place of --resume");
            }
        }
        Ok(reader)
    }

    fn bytes_read(&self) -> u64 {
        self.passed_bytes + self.pieces.as_ref().map_or(0, Pieces::bytes_read)
    }

    fn next(&mut self) -> Result<Option<Read>> {
        loop {
            let Some(origin) = self.origins.get(self.position.origin) else { return Ok(None) };
            let files = origin.source.files();
            if self.position.file == files.len() {
                self.position = Position { origin: self.position.origin + 1, ..Position::default() };
                continue;
            }
            let pieces = self.pieces.get_or_insert_with(|| origin.source.documents_of_file(self.position.file));
            if let Some(document) = pieces.next_document()? {
                self.position.documents += 1;
                let (origin, place) = (self.position.origin as u16, document.place());
                return Ok(Some(Read { origin, place, text: document.text }));
            }
            self.pieces = None;
            self.passed_bytes += size_bytes(&files[self.position.file]);
            self.position = Position { file: self.position.file + 1, documents: 0, ..self.position };
        }
    }

    /// The next documents; none at the end.
    fn block(&mut self) -> Result<Vec<Read>> {
        let (mut block, mut bytes) = (vec![], 0);
        while bytes < BLOCK_BYTES && block.len() < BLOCK_DOCUMENTS {
            let Some(read) = self.next()? else { break };
            bytes += read.text.len();
            block.push(read);
        }
        Ok(block)
    }
}

fn size_bytes(path: &PathBuf) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// A document after the filters.
struct Filtered {
    read: Read,
    looked: Looked,
    lines: LineCounts,
    /// The text, which filters may have changed, or the reason to drop it.
    verdict: std::result::Result<String, &'static str>,
    exact: u64,
    paragraphs: Vec<Option<u64>>,
}

impl Filtered {
    fn of(read: Read, rules: &Rules) -> Filtered {
        let mut document = Document::new(read.text.clone());
        let mentions = rules.mentions.as_ref().map(|groups| groups.count(&read.text)).unwrap_or_default();
        let language = rules.languages.then(|| language::code(document.language().map(|(language, _)| language)));
        let mut lines = LineCounts::new();
        let reason = rules.filters.iter().find_map(|filter| filter.check(&mut document, &mut lines));
        let reason = reason.or_else(|| document.text().is_empty().then_some("empty"));
        let text = document.into_text();
        let (mut exact_hash, mut paragraphs) = (0, vec![]);
        if reason.is_none() {
            exact_hash = if rules.dedup.exact { exact::document(&text) } else { 0 };
            paragraphs = rules.dedup.paragraphs.as_ref().map_or(vec![], |found| found.hashes(&text));
        }
        let verdict = reason.map_or(Ok(text), Err);
        Filtered { read, looked: Looked { language, mentions }, lines, verdict, exact: exact_hash, paragraphs }
    }
}

/// The files that are written, and what is known of the documents before.
struct Pass {
    state: State,
    exact: AHashSet<u64>,
    paragraphs: AHashSet<u64>,
    kept: Vec<Log>,
    logs: [Log; 4],
}

const LOGS: [&str; 4] = [REJECTED, MARKS, EXACT, PARAGRAPHS];
const REJECTED_LOG: usize = 0;
const MARKS_LOG: usize = 1;
const EXACT_LOG: usize = 2;
const PARAGRAPHS_LOG: usize = 3;

/// The file of the documents of a source that stay.
pub(super) fn kept_name(origin: usize) -> String {
    format!("kept-{origin:03}")
}

impl Pass {
    fn open(work: &Path, origins: usize, state: State) -> Result<Pass> {
        let log = |name: &str| Log::open(work, name, state.lengths.get(name).copied().unwrap_or(0));
        let kept = (0..origins).map(|origin| log(&kept_name(origin))).collect::<Result<Vec<_>>>()?;
        let logs = [log(LOGS[0])?, log(LOGS[1])?, log(LOGS[2])?, log(LOGS[3])?];
        let exact = numbers(work, EXACT)?.into_iter().collect();
        let paragraphs = numbers(work, PARAGRAPHS)?.into_iter().collect();
        Ok(Pass { state, exact, paragraphs, kept, logs })
    }

    fn save(&mut self, work: &Path) -> Result<()> {
        let names = (0..self.kept.len()).map(kept_name).chain(LOGS.map(str::to_string));
        for (name, log) in names.zip(self.kept.iter_mut().chain(&mut self.logs)) {
            log.flush()?;
            self.state.lengths.insert(name, log.length);
        }
        self.state.write(work)
    }

    /// Takes a block of documents through the rules.
    fn take(&mut self, origins: &[Origin], rules: &Rules, block: Vec<Read>) -> Result<()> {
        let mut block: Vec<Filtered> = block.into_par_iter().map(|read| Filtered::of(read, rules)).collect();
        let stays: Vec<Vec<bool>> =
            block.iter_mut().map(|document| self.known(document, rules)).collect::<Result<_>>()?;
        let signatures: Vec<_> = block
            .par_iter_mut()
            .zip(stays)
            .map(|(document, stays)| {
                if let Ok(text) = &mut document.verdict
                    && stays.contains(&false)
                {
                    *text = exact::without(text, &stays);
                    if text.trim().is_empty() {
                        document.verdict = Err("duplicate_paragraphs");
                    }
                }
                let text = document.verdict.as_ref().ok()?;
                rules.dedup.minhash.as_ref().and_then(|minhash| minhash.signature(text))
            })
            .collect();
        for (document, signature) in block.iter().zip(signatures) {
            if let Ok(text) = &document.verdict {
                let bands = rules.dedup.minhash.as_ref().map_or(0, |minhash| minhash.bands());
                let origin = document.read.origin;
                self.logs[MARKS_LOG].append(&Mark::bytes(origin, text, &document.read.place, signature, bands))?;
                self.kept[usize::from(origin)].append(document.read.place.as_bytes())?;
                self.kept[usize::from(origin)].append(text.as_bytes())?;
            }
        }
        self.count(&mut block);
        let rejected = block.into_iter().filter_map(|document| Some((document.verdict.err()?, document.read)));
        let rejected: Vec<_> = rejected
            .map(|(reason, read)| {
                rejected_line(&origins[usize::from(read.origin)].name, &read.place, reason, None, &read.text)
            })
            .collect();
        append_rejected(&mut self.logs[REJECTED_LOG], &rejected)
    }

    /// Drops a document that was there before; which of its lines stay.
    fn known(&mut self, document: &mut Filtered, rules: &Rules) -> Result<Vec<bool>> {
        if document.verdict.is_err() {
            return Ok(vec![]);
        }
        if rules.dedup.exact {
            if !self.exact.insert(document.exact) {
                document.verdict = Err("exact_duplicate");
                return Ok(vec![]);
            }
            self.logs[EXACT_LOG].append(&document.exact.to_le_bytes())?;
        }
        let (stays, new) = exact::unseen(&mut self.paragraphs, &document.paragraphs);
        for hash in new {
            self.logs[PARAGRAPHS_LOG].append(&hash.to_le_bytes())?;
        }
        let counts = &mut self.state.counts.sources[usize::from(document.read.origin)];
        counts.paragraphs += stays.iter().filter(|stays| !**stays).count() as u64;
        Ok(stays)
    }

    fn count(&mut self, block: &mut [Filtered]) {
        for document in block {
            let Read { origin, place, text } = &document.read;
            let counts = &mut self.state.counts;
            let source = &mut counts.sources[usize::from(*origin)];
            source.read.add(text, std::mem::take(&mut document.looked));
            for (reason, count) in &document.lines {
                *source.lines.entry(reason.to_string()).or_default() += count;
            }
            if let Err(reason) = document.verdict {
                counts.drop(*origin, reason, text, place, None);
            }
        }
    }
}

/// A record of fixed size for each document that stays: its source, the bytes of its place and text, and its keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub origin: u16,
    pub place_bytes: u32,
    pub text_bytes: u32,
    pub has_keys: bool,
}

impl Mark {
    /// Bytes before the keys.
    pub const HEAD_BYTES: usize = 11;

    fn bytes(origin: u16, text: &str, place: &str, keys: Option<Vec<u64>>, bands: usize) -> Vec<u8> {
        let mut bytes = origin.to_le_bytes().to_vec();
        bytes.extend((place.len() as u32).to_le_bytes());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.push(u8::from(keys.is_some()));
        keys.unwrap_or_else(|| vec![0; bands]).iter().for_each(|key| bytes.extend(key.to_le_bytes()));
        bytes
    }

    pub fn read(bytes: &[u8]) -> Mark {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let origin = u16::from_le_bytes([bytes[0], bytes[1]]);
        Mark { origin, place_bytes: word(2), text_bytes: word(6), has_keys: bytes[10] == 1 }
    }
}

/// A dropped document as a line of JSON.
pub(super) fn rejected_line(source: &str, place: &str, reason: &str, duplicate_of: Option<&str>, text: &str) -> String {
    let mut row = json!({"source": source, "place": place, "reason": reason, "text": text});
    if let Some(other) = duplicate_of {
        row["duplicate_of"] = other.into();
    }
    format!("{row}\n")
}

/// Appends lines, compressed by all cores.
pub(super) fn append_rejected(log: &mut Log, lines: &[String]) -> Result<()> {
    let packed = lines.par_chunks(REJECTED_DOCUMENTS).map(|lines| {
        let mut packed = GzEncoder::new(vec![], Compression::fast());
        lines.iter().try_for_each(|line| packed.write_all(line.as_bytes()))?;
        packed.finish()
    });
    let packed = packed.collect::<std::io::Result<Vec<_>>>();
    let packed = packed.map_err(Error::io("compress", Path::new(REJECTED)))?;
    packed.iter().try_for_each(|member| log.append(member))
}
