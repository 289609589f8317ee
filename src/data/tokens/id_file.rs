//! A mapped file of token ids, in the layouts that `tokens` names.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use super::{Digest, Hasher};
use crate::{
    error::{Error, Result},
    fail,
};

/// Of llm.c's shards.
pub(crate) const HEADER_BYTES: u64 = 256 * 4;
const MAGIC_U16: i32 = 20_240_520;
const MAGIC_U32: i32 = 20_240_801;
const VERSION_U16: i32 = 1;
const VERSION_U32: i32 = 7;
/// llm.c's multiple-choice evaluation sets, which hold more than ids.
const MAGIC_EVALUATION: i32 = 20_240_522;

/// The upper halves of ids of four bytes are less than this: no vocabulary is beyond a million.
const HIGH_HALVES: u32 = 16;
/// Fewer ids tell nothing.
const FEWEST_SUSPECTED: u64 = 16;

/// How an id is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Width {
    U16,
    U32,
}

impl Width {
    /// The narrowest that holds every id below `vocabulary_size`.
    pub fn for_vocabulary(vocabulary_size: usize) -> Width {
        if vocabulary_size <= 1 << 16 { Width::U16 } else { Width::U32 }
    }

    pub fn bytes(self) -> u64 {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }

    /// llm.c's header of a shard of so many ids, at most `i32::MAX`.
    pub fn header(self, count: u64) -> Vec<u8> {
        let (magic, version) = match self {
            Width::U16 => (MAGIC_U16, VERSION_U16),
            Width::U32 => (MAGIC_U32, VERSION_U32),
        };
        let mut header: Vec<u8> = [magic, version, count as i32].iter().flat_map(|word| word.to_le_bytes()).collect();
        header.resize(HEADER_BYTES as usize, 0);
        header
    }
}

/// A mapped file of ids.
#[derive(Debug)]
pub(crate) struct IdFile {
    pub path: PathBuf,
    map: Mmap,
    offset_bytes: u64,
    width: Width,
    pub count: u64,
}

impl IdFile {
    /// Maps a nanoGPT or llm.c file.
    pub fn open_bin(path: &Path) -> Result<IdFile> {
        let (map, size_bytes) = map(path)?;
        let name = path.display();
        let integer = |index: usize| Some(i32::from_le_bytes(map.get(index * 4..index * 4 + 4)?.try_into().ok()?));
        let (width, version) = match integer(0) {
            Some(MAGIC_U16) => (Width::U16, VERSION_U16),
            Some(MAGIC_U32) => (Width::U32, VERSION_U32),
            Some(MAGIC_EVALUATION) => {
                fail!(Input, "{name} is an llm.c evaluation set, not a text; give a train or val shard")
            }
            _ if size_bytes == 0 => fail!(Input, "{name} is empty; write token ids to it or remove it"),
            _ if size_bytes % 2 == 1 => {
                fail!(Input, "{name} has an odd length of {size_bytes} bytes, but u16 ids have two each; write it anew")
            }
            _ => {
                return Ok(IdFile {
                    path: path.into(),
                    map,
                    offset_bytes: 0,
                    width: Width::U16,
                    count: size_bytes / 2,
                });
            }
        };
        if integer(1) != Some(version) {
            let found = integer(1).map_or("no version".to_string(), |found| format!("version {found}"));
            fail!(Input, "{name} has an llm.c header of {found}, but {version} is expected; convert it anew");
        }
        let header = size_bytes >= HEADER_BYTES;
        let count = integer(2).filter(|_| header).and_then(|count| u64::try_from(count).ok());
        let Some(count) = count else {
            fail!(Input, "{name} has a broken llm.c header; convert it anew");
        };
        let expected = HEADER_BYTES + count * width.bytes();
        if expected != size_bytes {
            let claim = format!("its header says {count} tokens, which is {expected} bytes");
            fail!(Input, "{name} is {size_bytes} bytes long, but {claim}; copy or convert it anew");
        }
        if count == 0 {
            fail!(Input, "{name} is empty: its header says 0 tokens; write token ids to it or remove it");
        }
        Ok(IdFile { path: path.into(), map, offset_bytes: HEADER_BYTES, width, count })
    }

    /// Maps a file of nothing but `count` ids; None if its length differs.
    pub fn open_raw(path: &Path, width: Width, count: u64) -> Result<Option<IdFile>> {
        let (map, size_bytes) = map(path)?;
        let fits = count.checked_mul(width.bytes()) == Some(size_bytes);
        Ok(fits.then(|| IdFile { path: path.into(), map, offset_bytes: 0, width, count }))
    }

    pub fn width(&self) -> Width {
        self.width
    }

    /// The largest id in the file, and the digest of all.
    pub fn look_through(&self) -> (u32, Digest) {
        let (mut max_id, mut hasher) = (0, Hasher::default());
        let mut ids = vec![0; 1 << 16];
        let mut at = 0;
        while at < self.count {
            let ids = &mut ids[..(self.count - at).min(1 << 16) as usize];
            self.copy(at, ids);
            max_id = max_id.max(ids.iter().copied().max().unwrap_or(0));
            hasher.update(ids);
            at += ids.len() as u64;
        }
        (max_id, hasher.finish())
    }

    /// A warning about a file without a header that looks like four bytes for an id: two of them are zeros.
    pub fn suspicion(&self) -> Option<String> {
        if self.offset_bytes > 0 || self.width != Width::U16 || self.count < FEWEST_SUSPECTED {
            return None;
        }
        let mut ids = vec![0; self.count.min(1 << 16) as usize / 2 * 2];
        self.copy(0, &mut ids);
        let largest = |first: usize| ids.iter().skip(first).step_by(2).copied().max().unwrap_or(0);
        let (low, high) = (largest(0), largest(1));
        let what = if high == 0 { "0".to_string() } else { format!("{high} or less") };
        (high < HIGH_HALVES && low >= 16 * (high + 1)).then(|| {
            format!(
                "every other id of {} is {what}: ids of four bytes that are read as ids of two? Without a header they cannot \
                 be told apart; write them with llm.c's header (magic 20240801, version 7), as `wgpt data prepare` does",
                self.path.display()
            )
        })
    }

    /// The first id that a vocabulary of this size does not have, and its position.
    pub fn first_beyond(&self, vocabulary_size: usize) -> Option<(u64, u32)> {
        let bytes = self.bytes_from(0);
        let beyond = |(_, id): &(u64, u32)| *id as usize >= vocabulary_size;
        match self.width {
            Width::U16 => (0..).zip(u16_ids(bytes)).find(beyond),
            Width::U32 => (0..).zip(u32_ids(bytes)).find(beyond),
        }
    }

    pub fn copy(&self, start: u64, out: &mut [u32]) {
        let bytes = self.bytes_from(start);
        match self.width {
            Width::U16 => out.iter_mut().zip(u16_ids(bytes)).for_each(|(out, id)| *out = id),
            Width::U32 => out.iter_mut().zip(u32_ids(bytes)).for_each(|(out, id)| *out = id),
        }
    }

    fn bytes_from(&self, start: u64) -> &[u8] {
        &self.map[(self.offset_bytes + start * self.width.bytes()) as usize..]
    }
}

fn u16_ids(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(2).map(|id| u32::from(u16::from_le_bytes([id[0], id[1]])))
}

fn u32_ids(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]))
}

fn map(path: &Path) -> Result<(Mmap, u64)> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    // SAFETY: the map is only read, as bytes, for which every value is valid. Nothing here writes to a file after it
    // has its final name. Should someone else overwrite it, other ids are read, and `Tokens::read` checks those; should
    // someone shorten it, the system ends the process at the next read, as for every program that maps files.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
    let size_bytes = map.len() as u64;
    Ok((map, size_bytes))
}
