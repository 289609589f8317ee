//! Token ids for random access: in memory, or memory-mapped files, read as one long sequence.
//!
//! Files are little-endian, whatever the machine:
//!
//! - nanoGPT's `train.bin`: nothing but u16 ids.
//! - llm.c's shards, and those of `prepare`: 256 i32 (magic, version, number of ids, zeros), then the ids: u16 for magic 20240520 version 1,
//!   u32 for magic 20240801 version 7 (its `dev/data/data_common.py`).
//! - the shards in this program's cache (see `shards`): nothing but u16 or u32 ids.
//!
//! The first four bytes tell llm.c's files from nanoGPT's: as u16 they would be ids beyond 50 257.

mod id_file;

use std::{ops::Range, sync::Arc};

use sha2::{Digest as _, Sha256};

pub(crate) use id_file::{HEADER_BYTES, IdFile, Width};

use crate::{error::Result, fail, files::sha256_hex};

/// A read-only sequence of token ids; cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct Tokens {
    name: Arc<str>,
    shards: Arc<[Shard]>,
    /// The part of all shards that this is.
    range: Range<u64>,
    max_id: u32,
    text_bytes: Option<u64>,
    digest: Digest,
    /// Warnings about them, one sentence each.
    warnings: Arc<[String]>,
    /// The sources that they are a mixture of, one behind the other; none where they are of one.
    parts: Arc<[Portion]>,
}

/// The tokens of a source in a mixture.
#[derive(Clone, Debug, PartialEq)]
pub struct Portion {
    pub name: String,
    pub range: Range<u64>,
    /// Its share of the windows that are drawn; the shares of all are 1 together.
    pub share: f64,
}

/// SHA-256 of ids, each as four little-endian bytes.
pub type Digest = [u8; 32];

#[derive(Debug)]
struct Shard {
    /// The position of its first id among those of all shards.
    start: u64,
    ids: Ids,
}

#[derive(Debug)]
enum Ids {
    Memory(Vec<u32>),
    File(IdFile),
    /// A part of a mixture.
    Part(Tokens),
}

impl Tokens {
    /// Ids held in memory.
    pub fn from_ids(ids: Vec<u32>) -> Tokens {
        let max_id = ids.iter().copied().max().unwrap_or(0);
        let range = 0..ids.len() as u64;
        let digest = Hasher::default().add(&ids).finish();
        let shards = [Shard { start: 0, ids: Ids::Memory(ids) }].into();
        Tokens {
            name: "the data".into(),
            shards,
            range,
            max_id,
            text_bytes: None,
            digest,
            warnings: [].into(),
            parts: [].into(),
        }
    }

    /// The tokens of several sources, each drawn from by its share of the windows (see `batches`): names, tokens, and shares above zero.
    pub fn mixed(sources: Vec<(String, Tokens, f64)>) -> Tokens {
        let all: f64 = sources.iter().map(|(.., share)| share).sum();
        let (mut end, mut max_id, mut hasher) = (0, 0, Sha256::new());
        let (mut shards, mut parts, mut warnings) = (vec![], vec![], vec![]);
        let text_bytes = sources.iter().map(|(_, tokens, _)| tokens.text_bytes).sum();
        let name = sources.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(" and ");
        for (name, tokens, share) in sources {
            hasher.update(tokens.digest());
            hasher.update(share.to_le_bytes());
            max_id = max_id.max(tokens.max_id);
            warnings.extend(tokens.warnings.iter().cloned());
            parts.push(Portion { name, range: end..end + tokens.len(), share: share / all });
            let start = end;
            end += tokens.len();
            shards.push(Shard { start, ids: Ids::Part(tokens) });
        }
        Tokens {
            name: name.into(),
            shards: shards.into(),
            range: 0..end,
            max_id,
            text_bytes,
            digest: hasher.finalize().into(),
            warnings: warnings.into(),
            parts: parts.into(),
        }
    }

    /// The sources of a mixture; none where the tokens are of one.
    pub fn parts(&self) -> &[Portion] {
        &self.parts
    }

    /// The ids of the files one after the other, none of them above `max_id`; `digest` tells them from others.
    pub(crate) fn from_files(files: Vec<IdFile>, max_id: u32, digest: Digest) -> Tokens {
        let mut end = 0;
        let shards = files.into_iter().map(|file| {
            let start = end;
            end += file.count;
            Shard { start, ids: Ids::File(file) }
        });
        let shards: Arc<[Shard]> = shards.collect();
        Tokens {
            name: "the data".into(),
            shards,
            range: 0..end,
            max_id,
            text_bytes: None,
            digest,
            warnings: [].into(),
            parts: [].into(),
        }
    }

    /// The same with warnings about them.
    pub(crate) fn with_warnings(mut self, warnings: Vec<String>) -> Tokens {
        self.warnings = warnings.into();
        self
    }

    /// Warnings about them, one sentence each, to tell the user.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Tells these ids from others, in 64 hexadecimal digits, wherever their files are.
    pub fn digest(&self) -> String {
        let part = [self.range.start, self.range.end].map(u64::to_le_bytes).concat();
        sha256_hex(&[&self.digest[..], &part].concat())
    }

    /// The same with a name for messages.
    pub fn named(mut self, name: &str) -> Tokens {
        self.name = name.into();
        self
    }

    /// The same with the number of bytes of text that it stands for.
    pub fn with_text_bytes(mut self, text_bytes: Option<u64>) -> Tokens {
        self.text_bytes = text_bytes;
        self
    }

    /// A part of it. How much text that is, is not known.
    pub fn slice(&self, part: Range<u64>) -> Tokens {
        assert!(part.start <= part.end && part.end <= self.len(), "{part:?} of {} tokens", self.len());
        let range = self.range.start + part.start..self.range.start + part.end;
        Tokens { range, text_bytes: None, parts: [].into(), ..self.clone() }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of ids.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether there are no ids.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// No id is larger.
    pub fn max_id(&self) -> u32 {
        self.max_id
    }

    /// The number of bytes of text that the ids stand for, if known: the divisor of bits per byte.
    pub fn text_bytes(&self) -> Option<u64> {
        self.text_bytes
    }

    /// Counts the bytes of text by those of each id (`Tokenizer::token_bytes`).
    pub fn count_text_bytes(&self, token_bytes: &[u32]) -> Result<u64> {
        let mut ids = vec![0; 1 << 16];
        let mut total = 0;
        let mut at = 0;
        while at < self.len() {
            let ids = &mut ids[..(self.len() - at).min(1 << 16) as usize];
            self.read(at, ids)?;
            total += ids.iter().map(|&id| u64::from(token_bytes.get(id as usize).copied().unwrap_or(0))).sum::<u64>();
            at += ids.len() as u64;
        }
        Ok(total)
    }

    /// Copies the ids from position `start` on; `out` must end within the sequence. Fails only if a mapped file has
    /// been overwritten with ids above `max_id`, which a model's embedding could not look up.
    pub fn read(&self, start: u64, out: &mut [u32]) -> Result<()> {
        let end = start.saturating_add(out.len() as u64);
        assert!(end <= self.len(), "tokens {start}..{end} of {}", self.len());
        let (mut at, mut rest) = (self.range.start + start, out);
        let mut index = self.shards.partition_point(|shard| shard.start <= at).saturating_sub(1);
        while !rest.is_empty() {
            let shard = &self.shards[index];
            let within = at - shard.start;
            let count = (shard.ids.count() - within).min(rest.len() as u64) as usize;
            let (now, later) = rest.split_at_mut(count);
            shard.ids.copy(within, now)?;
            if let Some(id) = now.iter().find(|&&id| id > self.max_id) {
                let remedy = "it was changed while in use; start again";
                fail!(Input, "{} now holds the token id {id}, above its largest {}; {remedy}", self.name, self.max_id);
            }
            (at, rest, index) = (at + count as u64, later, index + 1);
        }
        Ok(())
    }
}

impl Ids {
    fn count(&self) -> u64 {
        match self {
            Ids::Memory(ids) => ids.len() as u64,
            Ids::File(file) => file.count,
            Ids::Part(tokens) => tokens.len(),
        }
    }

    fn copy(&self, start: u64, out: &mut [u32]) -> Result<()> {
        match self {
            Ids::Memory(ids) => out.copy_from_slice(&ids[start as usize..][..out.len()]),
            Ids::File(file) => file.copy(start, out),
            Ids::Part(tokens) => tokens.read(start, out)?,
        }
        Ok(())
    }
}

/// Makes the digest of ids that come in order.
#[derive(Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub fn add(mut self, ids: &[u32]) -> Hasher {
        self.update(ids);
        self
    }

    pub fn update(&mut self, ids: &[u32]) {
        let mut bytes = [0; 4096];
        for ids in ids.chunks(bytes.len() / 4) {
            bytes.chunks_exact_mut(4).zip(ids).for_each(|(bytes, id)| bytes.copy_from_slice(&id.to_le_bytes()));
            self.0.update(&bytes[..4 * ids.len()]);
        }
    }

    pub fn finish(self) -> Digest {
        self.0.finalize().into()
    }
}
