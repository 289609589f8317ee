//! Token ids in numbered files, `train_000000.bin` and so on, in llm.c's layout (see `tokens`).

use std::{
    fs::{File, OpenOptions},
    io::{BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    shards::write_ids,
    tokens::{HEADER_BYTES, Width},
};
use crate::{
    error::{Error, Result},
    fail,
    files::fault::{Step, point},
};

/// Names have six digits, and are read in the order of the names.
const MOST_SHARDS: usize = 1_000_000;

/// A file of ids.
#[derive(Clone, Debug, Serialize)]
pub struct Shard {
    pub name: String,
    pub tokens: u64,
}

/// Writes ids to numbered files in llm.c's layout.
pub(super) struct ShardWriter<'a> {
    folder: &'a Path,
    stem: &'static str,
    width: Width,
    shard_tokens: u64,
    finished: Vec<Shard>,
    current: Option<(PathBuf, BufWriter<File>, Shard)>,
}

impl ShardWriter<'_> {
    pub fn new<'a>(folder: &'a Path, stem: &'static str, width: Width, shard_tokens: u64) -> ShardWriter<'a> {
        ShardWriter { folder, stem, width, shard_tokens, finished: Vec::new(), current: None }
    }

    pub fn append(&mut self, mut ids: &[u32]) -> Result<()> {
        while !ids.is_empty() {
            let mut open = match self.current.take() {
                Some(open) => open,
                None => self.create()?,
            };
            let (path, file, shard) = &mut open;
            let room = (self.shard_tokens - shard.tokens).min(ids.len() as u64);
            let (now, later) = ids.split_at(room as usize);
            write_ids(file, self.width, now).map_err(Error::io("write", path))?;
            shard.tokens += room;
            ids = later;
            let full = shard.tokens == self.shard_tokens;
            self.current = Some(open);
            if full {
                self.end_shard()?;
            }
        }
        Ok(())
    }

    fn create(&self) -> Result<(PathBuf, BufWriter<File>, Shard)> {
        if self.finished.len() == MOST_SHARDS {
            fail!(
                Usage,
                "--shard-tokens {} gives more than {MOST_SHARDS} shards; give a larger one",
                self.shard_tokens
            );
        }
        let name = format!("{}_{:06}.bin", self.stem, self.finished.len());
        let path = self.folder.join(&name);
        let file = point(Step::Write).and_then(|()| File::create_new(&path)).map_err(Error::io("create", &path))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&self.width.header(0)).map_err(Error::io("write", &path))?;
        Ok((path, file, Shard { name, tokens: 0 }))
    }

    fn end_shard(&mut self) -> Result<()> {
        let Some((path, file, shard)) = self.current.take() else { return Ok(()) };
        let file = file.into_inner().map_err(|cause| Error::io("write", &path)(cause.into_error()))?;
        put_header(file, self.width, shard.tokens).map_err(Error::io("write", &path))?;
        self.finished.push(shard);
        Ok(())
    }

    pub fn finish(mut self) -> Result<Vec<Shard>> {
        self.end_shard()?;
        Ok(self.finished)
    }
}

fn put_header(mut file: File, width: Width, tokens: u64) -> std::io::Result<()> {
    point(Step::Write)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&width.header(tokens))?;
    file.sync_all()
}

/// Leaves the first ids of a shard.
pub(super) fn shorten(path: &Path, width: Width, tokens: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let shortened = file.and_then(|file| {
        file.set_len(HEADER_BYTES + tokens * width.bytes())?;
        put_header(file, width, tokens)
    });
    shortened.map_err(Error::io("write", path))
}
