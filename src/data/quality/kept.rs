//! The documents that stay: near-duplicates are left out, sources are mixed, personal information is replaced. A source of text for
//! what comes next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::counts::{Counts, Looked, merge};
use super::document::Document;
use super::stage::{BLOCK_BYTES, MARKS, Mark, REJECTED, append_rejected, kept_name, rejected_line};
use super::work::{Log, State};
use super::{Origin, Rules, language, minhash};
use crate::data::pieces::{self, Documents, Place};
use crate::data::source::{Make, Source};
use crate::error::{Error, Result};
use crate::fail;

/// The reason of documents that are nearly the same as another.
pub(super) const NEAR_DUPLICATE: &str = "near_duplicate";

/// The documents that stay, in the work folder.
#[derive(Clone)]
pub struct Kept(Arc<Inner>);

struct Inner {
    rules: Arc<Rules>,
    work: PathBuf,
    state: State,
    marks: Vec<Mark>,
    /// Where each document begins in its source's file.
    offsets: Vec<u64>,
    /// The first document of each document's group.
    first: Vec<u32>,
    /// The documents that are drawn, in their order; near-duplicates are among them, to be rejected.
    order: Vec<u32>,
    /// Counts before a pass, and those of the last complete one.
    base: Counts,
    counts: Mutex<Counts>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "documents in {}", self.0.work.display())
    }
}

impl Kept {
    pub(super) fn new(origins: &[Origin], rules: Arc<Rules>, work: PathBuf, state: State) -> Result<Kept> {
        let path = work.join(MARKS);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        let bands = rules.dedup.minhash.as_ref().map_or(0, |minhash| minhash.bands());
        let size = Mark::HEAD_BYTES + 8 * bands;
        let records: Vec<&[u8]> = bytes.chunks_exact(size).collect();
        let marks: Vec<Mark> = records.iter().map(|record| Mark::read(record)).collect();
        let key = |document: usize, band: usize| {
            let key = &records[document][Mark::HEAD_BYTES + 8 * band..][..8];
            marks[document].has_keys.then(|| u64::from_le_bytes(key.try_into().expect("eight bytes")))
        };
        let first = minhash::groups(marks.len(), bands, key);
        let mut ends = vec![0; origins.len()];
        let offset = |mark: &Mark| {
            let end: &mut u64 = &mut ends[usize::from(mark.origin)];
            *end += u64::from(mark.place_bytes) + u64::from(mark.text_bytes);
            *end - u64::from(mark.place_bytes) - u64::from(mark.text_bytes)
        };
        let offsets = marks.iter().map(offset).collect();
        let order = order(origins, &marks, &first, &work)?;
        let mut base = state.counts.clone();
        let duplicates = first.iter().zip(0..).filter(|(first, own)| *first != own);
        base.groups = duplicates.map(|(first, _)| first).collect::<BTreeSet<_>>().len() as u64;
        not_drawn(&mut base, &marks, &first, &order);
        let counts = Mutex::new(base.clone());
        Ok(Kept(Arc::new(Inner { rules, work, state, marks, offsets, first, order, base, counts })))
    }

    /// The documents as a source.
    pub fn source(&self, name: &str) -> Source {
        Source::made(name, Arc::new(self.clone()))
    }

    /// Counts, complete once the source was read to its end.
    pub fn counts(&self) -> Counts {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The file of rejected documents, complete once the source was read to its end.
    pub fn rejected(&self) -> PathBuf {
        self.0.work.join(REJECTED)
    }
}

/// The documents that are drawn, in their order: all, or as many of each source as its share of the text is.
fn order(origins: &[Origin], marks: &[Mark], first: &[u32], work: &Path) -> Result<Vec<u32>> {
    let stays = |document: usize| first[document] as usize == document;
    let mut bytes = vec![0.0; origins.len()];
    for (_, mark) in marks.iter().enumerate().filter(|(document, _)| stays(*document)) {
        bytes[usize::from(mark.origin)] += f64::from(mark.text_bytes);
    }
    if bytes.iter().all(|bytes| *bytes == 0.0) {
        fail!(Input, "no document is left: {} has them with the reasons", work.join(REJECTED).display());
    }
    let shares: Option<Vec<f64>> = origins.iter().map(|origin| origin.share).collect();
    let Some(shares) = shares else { return Ok((0..marks.len() as u32).collect()) };
    let all: f64 = shares.iter().sum();
    if let Some((origin, _)) = origins.iter().zip(&bytes).find(|(_, bytes)| **bytes == 0.0) {
        fail!(
            Input,
            "no document of {} is left to mix: {} has them with the reasons",
            origin.name,
            work.join(REJECTED).display()
        );
    }
    // As much as the source allows that is used up first.
    let total = bytes.iter().zip(&shares).map(|(bytes, share)| bytes * all / share).fold(f64::INFINITY, f64::min);
    let mut queues: Vec<Queue> = bytes
        .iter()
        .zip(&shares)
        .map(|(bytes, share)| Queue::new(total * share / all, total * share / all / bytes))
        .collect();
    for (document, mark) in marks.iter().enumerate() {
        queues[usize::from(mark.origin)].offer(document as u32, mark.text_bytes.into(), stays(document));
    }
    if let Some((origin, _)) = origins.iter().zip(&queues).find(|(_, queue)| queue.accepted == 0.0) {
        fail!(
            Input,
            "no document of {} fits its share of the mixture: cut its documents into several, or give it a larger share",
            origin.name
        );
    }
    let mut order = vec![];
    while let Some(queue) =
        queues.iter_mut().filter(|queue| !queue.drawn.is_empty()).min_by(|a, b| a.progress().total_cmp(&b.progress()))
    {
        let (document, bytes) = queue.drawn.pop_front().expect("it is not empty");
        queue.taken += bytes;
        order.push(document);
    }
    Ok(order)
}

/// Counts the documents that stay and have no place in the mixture.
fn not_drawn(counts: &mut Counts, marks: &[Mark], first: &[u32], order: &[u32]) {
    let mut is_drawn = vec![false; marks.len()];
    order.iter().for_each(|document| is_drawn[*document as usize] = true);
    for (document, mark) in marks.iter().enumerate() {
        if first[document] as usize == document && !is_drawn[document] {
            let tally = &mut counts.sources[usize::from(mark.origin)].not_drawn;
            tally.documents += 1;
            tally.bytes += u64::from(mark.text_bytes);
        }
    }
}

/// The documents of a source that are drawn, spread evenly over it.
struct Queue {
    target: f64,
    rate: f64,
    /// Bytes that were offered, and those of drawn documents.
    offered: f64,
    accepted: f64,
    drawn: VecDeque<(u32, f64)>,
    taken: f64,
}

impl Queue {
    fn new(target: f64, rate: f64) -> Queue {
        Queue { target, rate, offered: 0.0, accepted: 0.0, drawn: VecDeque::new(), taken: 0.0 }
    }

    /// Draws a document where that keeps nearest to the rate. A near-duplicate comes along without weight.
    fn offer(&mut self, document: u32, bytes: f64, stays: bool) {
        if !stays {
            return self.drawn.push_back((document, 0.0));
        }
        self.offered += bytes;
        if self.offered * self.rate >= self.accepted + bytes / 2.0 {
            self.accepted += bytes;
            self.drawn.push_back((document, bytes));
        }
    }

    fn progress(&self) -> f64 {
        self.taken / self.target
    }
}

impl Make for Kept {
    fn documents(&self, read: Arc<AtomicU64>) -> Result<Box<dyn Documents>> {
        let Inner { work, state, .. } = &*self.0;
        let origins = state.counts.sources.len();
        let open = |origin: usize| {
            let path = work.join(kept_name(origin));
            File::open(&path).map(BufReader::new).map_err(Error::io("open", &path))
        };
        let files = || (0..origins).map(open).collect::<Result<Vec<_>>>();
        let rejected = Log::open(work, REJECTED, state.lengths.get(REJECTED).copied().unwrap_or(0))?;
        let counts = self.0.base.clone();
        let positions = vec![0; origins];
        let (files, others, block) = (files()?, files()?, VecDeque::new());
        Ok(Box::new(Stream { kept: self.clone(), files, others, positions, at: 0, block, counts, rejected, read }))
    }

    fn size_bytes(&self) -> u64 {
        self.0.order.iter().map(|document| u64::from(self.0.marks[*document as usize].text_bytes)).sum()
    }
}

/// A pass over the documents that stay.
struct Stream {
    kept: Kept,
    /// A file for each source, to read documents, and once more to look up places of others.
    files: Vec<BufReader<File>>,
    others: Vec<BufReader<File>>,
    /// Where each of `files` is.
    positions: Vec<u64>,
    /// The next document in the order.
    at: usize,
    block: VecDeque<pieces::Document>,
    counts: Counts,
    rejected: Log,
    read: Arc<AtomicU64>,
}

/// A document that was read back.
struct Stored {
    origin: u16,
    place: String,
    text: String,
    /// The place of the document that it is a duplicate of.
    duplicate_of: Option<String>,
    looked: Looked,
    redacted: BTreeMap<String, u64>,
}

impl Stored {
    /// Replaces and counts what the rules say.
    fn finished(mut self, rules: &Rules) -> Stored {
        if self.duplicate_of.is_some() {
            return self;
        }
        if let Some(redact) = &rules.redact {
            self.text = redact.replace(self.text, &mut self.redacted);
        }
        self.looked.mentions = rules.mentions.as_ref().map(|groups| groups.count(&self.text)).unwrap_or_default();
        if rules.languages {
            let document = Document::new(self.text);
            self.looked.language = Some(language::code(document.language().map(|(language, _)| language)));
            self.text = document.into_text();
        }
        self
    }
}

impl Stream {
    /// Reads a document; of a near-duplicate also the place of the first document of its group.
    fn stored(&mut self, document: usize) -> Result<Stored> {
        let Inner { marks, offsets, first, state, .. } = &*self.kept.0;
        let Mark { origin, place_bytes, text_bytes, .. } = marks[document];
        let index = usize::from(origin);
        let work = &self.kept.0.work;
        let failed = |number: usize| {
            let path = work.join(kept_name(number));
            move |cause| Error::io("read", &path)(cause)
        };
        if self.positions[index] != offsets[document] {
            self.files[index].seek(SeekFrom::Start(offsets[document])).map_err(failed(index))?;
        }
        let place = string(&mut self.files[index], place_bytes).map_err(failed(index))?;
        let text = string(&mut self.files[index], text_bytes).map_err(failed(index))?;
        self.positions[index] = offsets[document] + u64::from(place_bytes) + u64::from(text_bytes);
        let mut duplicate_of = None;
        let root = first[document] as usize;
        if root != document {
            let other = usize::from(marks[root].origin);
            self.others[other].seek(SeekFrom::Start(offsets[root])).map_err(failed(other))?;
            let place = string(&mut self.others[other], marks[root].place_bytes).map_err(failed(other))?;
            duplicate_of = Some(format!("{place} ({})", state.counts.sources[other].name));
        }
        Ok(Stored { origin, place, text, duplicate_of, looked: Looked::default(), redacted: BTreeMap::new() })
    }

    /// Reads and finishes the next documents.
    fn fill(&mut self) -> Result<()> {
        let (mut stored, mut bytes) = (vec![], 0);
        while bytes < BLOCK_BYTES && self.at < self.kept.0.order.len() {
            let document = self.kept.0.order[self.at] as usize;
            self.at += 1;
            let found = self.stored(document)?;
            bytes += found.text.len();
            stored.push(found);
        }
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        let rules = &self.kept.0.rules;
        let finished: Vec<Stored> = stored.into_par_iter().map(|stored| stored.finished(rules)).collect();
        let mut rejected = vec![];
        for Stored { origin, place, text, duplicate_of, looked, redacted } in finished {
            if let Some(other) = duplicate_of {
                self.counts.drop(origin, NEAR_DUPLICATE, &text, &place, Some(&other));
                let source = &self.counts.sources[usize::from(origin)].name;
                rejected.push(rejected_line(source, &place, NEAR_DUPLICATE, Some(&other), &text));
                continue;
            }
            let source = &mut self.counts.sources[usize::from(origin)];
            source.kept.add(&text, looked);
            merge(&mut source.redacted, redacted);
            self.block.push_back(pieces::Document { text, place: Place::named(&place), origin });
        }
        append_rejected(&mut self.rejected, &rejected)
    }
}

impl Documents for Stream {
    fn next_document(&mut self) -> Result<Option<pieces::Document>> {
        while self.block.is_empty() {
            if self.at == self.kept.0.order.len() {
                self.rejected.flush()?;
                *self.kept.0.counts.lock().unwrap_or_else(PoisonError::into_inner) = self.counts.clone();
                return Ok(None);
            }
            self.fill()?;
        }
        Ok(self.block.pop_front())
    }
}

/// The next bytes of a file, which were written as text.
fn string(file: &mut impl Read, bytes: u32) -> std::io::Result<String> {
    let mut text = vec![0; bytes as usize];
    file.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| std::io::ErrorKind::InvalidData.into())
}
