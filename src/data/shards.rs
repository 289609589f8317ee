//! Token ids of a source, made once: text is tokenised into memory-mapped shard files, and used again as long as the
//! source and the tokenizer stay the same.
//!
//! A folder in the cache, `tokens-<what>-<state>`, holds `000000.ids`, `000001.ids`, ... (little-endian u16 or u32 ids,
//! nothing else) and `index.json`. `<what>` is a hash of the files' paths and the tokenizer, `<state>` one of their
//! lengths and times of change and of the format's version. The folder is written under a temporary name, synced and
//! renamed, so it is either complete or not there. When a source has changed, its former folder is removed.
//!
//! `.bin` files are mapped where they are. Their ids are looked through once, and `ids-<what>-<state>.json` remembers
//! the largest and a digest of all.
//!
//! The tokens between documents are described in `encode`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    encode::encode,
    source::Source,
    tokenizer::Tokenizer,
    tokens::{Digest, Hasher, IdFile, Tokens, Width},
};
use crate::{
    error::{Error, Result},
    fail,
    files::fault::{Step, point},
    files::write_bytes,
};

pub use super::encode::Sizes;

const FORMAT_VERSION: u64 = 3;
const INDEX: &str = "index.json";

/// Tokenises text into the folder `cache`, or finds it there from last time. Text in memory stays in memory.
pub fn tokenise(source: &Source, tokenizer: &Tokenizer, cache: &Path, sizes: Sizes) -> Result<Tokens> {
    let tokens = if source.files().is_empty() {
        let mut ids = Vec::new();
        let encoded = encode(source, tokenizer, sizes, |more, _| {
            ids.extend_from_slice(more);
            Ok(())
        })?;
        Tokens::from_ids(ids).with_text_bytes(Some(encoded.text_bytes))
    } else {
        from_cache(source, tokenizer, cache, sizes)?
    };
    Ok(tokens.named(source.name()))
}

/// Maps the `.bin` files of a source and checks that every id is below the vocabulary's size.
pub fn map(source: &Source, vocabulary_size: usize, cache: &Path) -> Result<Tokens> {
    let mut max_id = 0;
    let mut files = Vec::new();
    let mut digest = Sha256::new();
    let mut warnings = Vec::new();
    for path in source.files() {
        let file = IdFile::open_bin(path)?;
        let Seen { max_id: largest, sha256 } = look_through(&file, cache)?;
        warnings.extend(file.suspicion());
        if largest as usize >= vocabulary_size {
            let (position, id) = file.first_beyond(vocabulary_size).unwrap_or((0, largest));
            let what = format!("token id {id} at position {position} of {}", path.display());
            let remedy = "give the tokenizer that the file was made with";
            fail!(Input, "{what} is beyond the vocabulary of {vocabulary_size}; {remedy}");
        }
        max_id = max_id.max(largest);
        digest.update(file.count.to_le_bytes());
        digest.update(sha256);
        files.push(file);
    }
    Ok(Tokens::from_files(files, max_id, digest.finalize().into()).named(source.name()).with_warnings(warnings))
}

/// The content of a folder of shards.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    width: Option<Width>,
    /// Ids in each shard.
    shards: Vec<u64>,
    max_id: u32,
    text_bytes: u64,
    sha256: Digest,
}

fn from_cache(source: &Source, tokenizer: &Tokenizer, cache: &Path, sizes: Sizes) -> Result<Tokens> {
    fs::create_dir_all(cache).map_err(Error::io("create the folder", cache))?;
    let key = Key::of("tokens", source.files(), &tokenizer.hash())?;
    let folder = cache.join(key.name());
    if let Some(tokens) = open(&folder, tokenizer.vocabulary_size())? {
        return Ok(tokens);
    }
    let temporary = tempfile::Builder::new().prefix(".tokens-").tempdir_in(cache);
    let temporary = temporary.map_err(Error::io("create a folder in", cache))?;
    write(source, tokenizer, temporary.path(), sizes)?;
    if Key::of("tokens", source.files(), &tokenizer.hash())? != key {
        fail!(Input, "{} was changed while it was read; start again", source.name());
    }
    publish(temporary, &folder, tokenizer.vocabulary_size())?;
    key.remove_former(cache);
    match open(&folder, tokenizer.vocabulary_size())? {
        Some(tokens) => Ok(tokens),
        None => fail!(Input, "{} was changed while in use; start again", folder.display()),
    }
}

/// The tokens of a folder of shards; None if it is not there or not whole.
fn open(folder: &Path, vocabulary_size: usize) -> Result<Option<Tokens>> {
    let Ok(index) = fs::read(folder.join(INDEX)) else { return Ok(None) };
    let Ok(Index { width: Some(width), shards, max_id, text_bytes, sha256 }) = serde_json::from_slice(&index) else {
        return Ok(None);
    };
    let mut files = Vec::new();
    for (number, count) in shards.into_iter().enumerate() {
        let path = shard_path(folder, number);
        match path.exists().then(|| IdFile::open_raw(&path, width, count)).transpose()?.flatten() {
            Some(file) => files.push(file),
            None => return Ok(None),
        }
    }
    let usable = (max_id as usize) < vocabulary_size;
    Ok(usable.then(|| Tokens::from_files(files, max_id, sha256).with_text_bytes(Some(text_bytes))))
}

fn write(source: &Source, tokenizer: &Tokenizer, folder: &Path, sizes: Sizes) -> Result<()> {
    let width = Width::for_vocabulary(tokenizer.vocabulary_size());
    let shard_tokens = sizes.shard_tokens.max(1);
    let mut writer = ShardWriter { folder, width, shard_tokens, counts: Vec::new(), current: None };
    let (mut max_id, mut hasher) = (0, Hasher::default());
    let encoded = encode(source, tokenizer, sizes, |ids, _| {
        hasher.update(ids);
        max_id = max_id.max(ids.iter().copied().max().unwrap_or(0));
        writer.append(ids)
    })?;
    writer.end_shard()?;
    let (text_bytes, sha256) = (encoded.text_bytes, hasher.finish());
    let index = Index { width: Some(width), shards: writer.counts, max_id, text_bytes, sha256 };
    let path = folder.join(INDEX);
    let json = serde_json::to_vec_pretty(&index).map_err(|cause| Error::io("write", &path)(cause.into()))?;
    write_bytes(&path, &json)
}

/// Gives a finished folder its name, unless another process has made the same one meanwhile.
fn publish(temporary: tempfile::TempDir, folder: &Path, vocabulary_size: usize) -> Result<()> {
    if folder.exists() && open(folder, vocabulary_size)?.is_none() {
        fs::remove_dir_all(folder).map_err(Error::io("replace the damaged", folder))?;
    }
    match point(Step::Rename).and_then(|()| fs::rename(temporary.path(), folder)) {
        // The folder has moved, so there is nothing left to clean up under its old name.
        Ok(()) => drop(temporary.keep()),
        Err(cause) if open(folder, vocabulary_size)?.is_none() => return Err(Error::io("write", folder)(cause)),
        Err(_) => {}
    }
    // The rename itself reaches the disk with its folder; not every system lets a folder be opened for that.
    if let Some(parent) = folder.parent().and_then(|parent| File::open(parent).ok()) {
        let _ = parent.sync_all();
    }
    Ok(())
}

struct ShardWriter<'a> {
    folder: &'a Path,
    width: Width,
    shard_tokens: u64,
    /// Ids in each shard that is finished.
    counts: Vec<u64>,
    current: Option<OpenShard>,
}

struct OpenShard {
    path: PathBuf,
    file: BufWriter<File>,
    count: u64,
}

impl ShardWriter<'_> {
    fn append(&mut self, mut ids: &[u32]) -> Result<()> {
        while !ids.is_empty() {
            let shard = match &mut self.current {
                Some(shard) => shard,
                None => self.current.insert(OpenShard::create(shard_path(self.folder, self.counts.len()))?),
            };
            let room = (self.shard_tokens - shard.count).min(ids.len() as u64);
            let (now, later) = ids.split_at(room as usize);
            write_ids(&mut shard.file, self.width, now).map_err(Error::io("write", &shard.path))?;
            shard.count += room;
            ids = later;
            if shard.count == self.shard_tokens {
                self.end_shard()?;
            }
        }
        Ok(())
    }

    fn end_shard(&mut self) -> Result<()> {
        let Some(mut shard) = self.current.take() else { return Ok(()) };
        self.counts.push(shard.count);
        let synced =
            point(Step::Write).and_then(|()| shard.file.flush()).and_then(|()| shard.file.get_ref().sync_all());
        synced.map_err(Error::io("write", &shard.path))
    }
}

impl OpenShard {
    fn create(path: PathBuf) -> Result<OpenShard> {
        let file = point(Step::Write).and_then(|()| File::create_new(&path)).map_err(Error::io("create", &path))?;
        Ok(OpenShard { path, file: BufWriter::with_capacity(1 << 20, file), count: 0 })
    }
}

/// Writes little-endian ids.
pub(super) fn write_ids(file: &mut impl Write, width: Width, ids: &[u32]) -> std::io::Result<()> {
    match width {
        Width::U16 => ids.iter().try_for_each(|&id| file.write_all(&(id as u16).to_le_bytes())),
        Width::U32 => ids.iter().try_for_each(|&id| file.write_all(&id.to_le_bytes())),
    }
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:06}.ids"))
}

/// Counts of a `.bin` file.
#[derive(Serialize, Deserialize)]
struct Seen {
    max_id: u32,
    sha256: Digest,
}

/// Counts the ids of a `.bin` file, or takes the counts of it in the cache.
fn look_through(file: &IdFile, cache: &Path) -> Result<Seen> {
    fs::create_dir_all(cache).map_err(Error::io("create the folder", cache))?;
    let key = Key::of("ids", std::slice::from_ref(&file.path), &[])?;
    let note = cache.join(format!("{}.json", key.name()));
    if let Some(seen) = fs::read(&note).ok().and_then(|json| serde_json::from_slice(&json).ok()) {
        return Ok(seen);
    }
    let (max_id, sha256) = file.look_through();
    let seen = Seen { max_id, sha256 };
    let json = serde_json::to_vec(&seen).map_err(|cause| Error::io("write", &note)(cause.into()))?;
    write_bytes(&note, &json)?;
    key.remove_former(cache);
    Ok(seen)
}

/// The source of a cached result.
#[derive(PartialEq)]
struct Key {
    /// Kind and hash of the source; a later state of the same source replaces it.
    what: String,
    state: String,
}

impl Key {
    fn of(kind: &str, files: &[PathBuf], tokenizer: &[u8]) -> Result<Key> {
        let mut what = Sha256::new_with_prefix(tokenizer);
        let mut state = Sha256::new_with_prefix(FORMAT_VERSION.to_le_bytes());
        for path in files {
            let whole = path.canonicalize().map_err(Error::io("read", path))?;
            let metadata = fs::metadata(path).map_err(Error::io("read", path))?;
            let changed = metadata.modified().map_err(Error::io("read", path))?;
            // Before 1970 only the distance matters.
            let age = changed.duration_since(UNIX_EPOCH).unwrap_or_else(|early| early.duration());
            let path = whole.as_os_str().as_encoded_bytes();
            what.update((path.len() as u64).to_le_bytes());
            what.update(path);
            state.update(metadata.len().to_le_bytes());
            state.update(age.as_nanos().to_le_bytes());
        }
        Ok(Key { what: format!("{kind}-{}", hex(what)), state: hex(state) })
    }

    fn name(&self) -> String {
        format!("{}-{}", self.what, self.state)
    }

    /// Removes results for an earlier state. One that cannot be removed, because it is in use, only takes up space.
    fn remove_former(&self, cache: &Path) {
        let Ok(entries) = fs::read_dir(cache) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let state = name.strip_prefix(&self.what).and_then(|rest| rest.strip_prefix('-'));
            if state.is_some_and(|state| !state.starts_with(&self.state)) {
                let path = entry.path();
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
