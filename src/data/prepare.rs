//! Text made into token shards ahead of training, in a folder that `wgpt train --data` and llm.c read as it is:
//!
//! ```text
//! train_000000.bin ...   ids in llm.c's layout (see `tokens`): u16, or u32 for vocabularies beyond 65,536
//! val_000000.bin ...     the same, held out
//! tokenizer.json tokenizer_config.json   the tokenizer of the ids
//! meta.json              sizes, counts and origin of the ids
//! ```
//!
//! The ids are those that training on the text itself would have. The folder is written beside its own place and
//! takes it when it is complete (see `files::replacement`).

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

pub use super::shard_writer::Shard;
use super::{
    encode::{Encoded, Sizes, encode},
    quality::stage::REJECTED,
    shard_writer::{ShardWriter, shorten},
    source::Source,
    tokenizer::{FILE_NAME, Tokenizer},
    tokens::{HEADER_BYTES, IdFile, Tokens, Width},
};
use crate::{
    error::{Error, Result},
    fail,
    files::{TEMPORARY_PREFIX, replacement::Replacement, sync_directory, write_bytes},
};

/// The file that describes the folder.
pub const META_FILE: &str = "meta.json";
/// The file of counts of what was filtered.
pub const QUALITY_FILE: &str = "quality.json";
const FORMAT: &str = "wgpt tokens 1";
const TRAINING: &str = "train";
const VALIDATION: &str = "val";

/// The choices of a preparation.
pub struct Preparation<'a> {
    pub data: &'a Source,
    pub validation: Validation<'a>,
    pub shard_tokens: u64,
    pub out: &'a Path,
    /// Replace an earlier preparation in `out`.
    pub overwrite: bool,
    /// Set to stop; nothing is left behind.
    pub interrupted: Arc<AtomicBool>,
    /// Writes further files into the folder before it takes its place.
    pub beside: Option<&'a Beside<'a>>,
}

/// Writes further files into the folder of shards.
pub type Beside<'a> = dyn Fn(&Path, &Prepared) -> Result<()> + 'a;

/// The part that is held out.
#[derive(Clone, Copy)]
pub enum Validation<'a> {
    /// This part of the tokens, at the end. Training on the text itself holds out 0.1.
    Fraction(f64),
    Source(&'a Source),
}

/// The outcome: sizes and counts of the files.
#[derive(Debug)]
pub struct Prepared {
    pub training: Part,
    pub validation: Part,
    pub documents: u64,
    pub text_bytes: u64,
    /// Training and validation tokens of each source of [`Preparation::data`], where several are mixed.
    pub tokens: Vec<u64>,
    /// Bytes of one id.
    pub id_bytes: u64,
    /// Notes for the user, one sentence each.
    pub notes: Vec<String>,
}

/// The files of one kind.
#[derive(Debug, Default, Serialize)]
pub struct Part {
    pub tokens: u64,
    /// Of the files, headers included.
    pub bytes: u64,
    pub files: Vec<Shard>,
}

#[derive(Serialize)]
struct Meta<'a> {
    format: &'a str,
    vocabulary_size: usize,
    id_bytes: u64,
    end_of_text: Option<u32>,
    tokenizer_sha256: String,
    documents: u64,
    text_bytes: u64,
    train: &'a Part,
    val: &'a Part,
}

impl Preparation<'_> {
    /// Refuses choices that cannot be carried out before any text is read.
    pub fn check(&self) -> Result<()> {
        let sources = match self.validation {
            Validation::Source(source) => [Some(self.data), Some(source)],
            Validation::Fraction(fraction) if (0.0..1.0).contains(&fraction) => [Some(self.data), None],
            Validation::Fraction(fraction) => {
                fail!(Usage, "--val-fraction {fraction} is not a part of the data; give a number from 0 up to below 1")
            }
        };
        if let Some(source) = sources.into_iter().flatten().find(|source| !source.is_text()) {
            fail!(Usage, "{} holds token ids already; give the text, or train on it as it is", source.name());
        }
        if !(1..=i32::MAX as u64).contains(&self.shard_tokens) {
            fail!(Usage, "--shard-tokens {} is not possible; give a number from 1 to {}", self.shard_tokens, i32::MAX);
        }
        let out = self.out.display();
        if self.out.exists() && !self.out.is_dir() {
            fail!(Usage, "{out} is a file; give --out the name of a folder");
        }
        let names = names(self.out)?;
        if !names.is_empty() && !self.overwrite {
            fail!(Usage, "{out} is not empty; choose another --out, or add --overwrite to replace shards in it");
        }
        if let Some(name) = names.iter().find(|name| !is_ours(name)) {
            fail!(Usage, "{out} holds {name}, which `wgpt data prepare` did not write; choose another --out");
        }
        Ok(())
    }

    /// Writes the folder; `progress` is called with the bytes of the sources that are read.
    pub fn run(&mut self, tokenizer: &Tokenizer, progress: &mut dyn FnMut(u64)) -> Result<Prepared> {
        self.check()?;
        let folder = Replacement::begin(self.out)?;
        let prepared = self.write(tokenizer, folder.path(), progress)?;
        self.check()?; // somebody may have written there meanwhile
        folder.commit(&|_| false)?;
        Ok(prepared)
    }

    fn write(&self, tokenizer: &Tokenizer, folder: &Path, progress: &mut dyn FnMut(u64)) -> Result<Prepared> {
        let (data, mut shards) = self.encode(self.data, TRAINING, tokenizer, folder, progress)?;
        let mut notes = Vec::new();
        let (held_out, validation) = match self.validation {
            Validation::Fraction(fraction) => (Encoded::default(), self.hold_out(&mut shards, folder, fraction)?),
            Validation::Source(source) => {
                let before = self.data.size_bytes();
                self.encode(source, VALIDATION, tokenizer, folder, &mut |bytes| progress(before + bytes))?
            }
        };
        let width = Width::for_vocabulary(tokenizer.vocabulary_size());
        let (training, validation) = (Part::of(shards, width), Part::of(validation, width));
        let documents = data.documents + held_out.documents;
        if validation.tokens == 0 {
            notes.push("nothing is held out: training will take the last tenth of it for validation".to_string());
        }
        if tokenizer.end_of_text().is_none() && documents > 1 {
            let between = super::encode::between_documents(tokenizer);
            notes.push(format!("the tokenizer has no <|endoftext|>: {between} is between documents"));
        }
        if width == Width::U32 {
            let size = tokenizer.vocabulary_size();
            notes.push(format!("ids take four bytes, because the vocabulary of {size} is beyond 65536"));
        }
        tokenizer.save_alone(folder)?;
        let prepared = Prepared {
            training,
            validation,
            documents,
            text_bytes: data.text_bytes + held_out.text_bytes,
            tokens: data.tokens,
            id_bytes: width.bytes(),
            notes,
        };
        prepared.describe(tokenizer, folder)?;
        if let Some(beside) = self.beside {
            beside(folder, &prepared)?;
        }
        sync_directory(folder).map_err(Error::io("write to", folder))?;
        Ok(prepared)
    }

    fn encode(
        &self,
        source: &Source,
        stem: &'static str,
        tokenizer: &Tokenizer,
        folder: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Encoded, Vec<Shard>)> {
        let width = Width::for_vocabulary(tokenizer.vocabulary_size());
        let mut writer = ShardWriter::new(folder, stem, width, self.shard_tokens);
        let encoded = encode(source, tokenizer, Sizes::default(), |ids, bytes| {
            self.go_on()?;
            progress(bytes);
            writer.append(ids)
        })?;
        Ok((encoded, writer.finish()?))
    }

    /// Moves the last part of the tokens to shards of their own.
    fn hold_out(&self, shards: &mut Vec<Shard>, folder: &Path, fraction: f64) -> Result<Vec<Shard>> {
        let total: u64 = shards.iter().map(|shard| shard.tokens).sum();
        let held_out = (total as f64 * fraction) as u64;
        let (mut kept, mut start) = (0, 0);
        while kept < shards.len() && start + shards[kept].tokens <= total - held_out {
            start += shards[kept].tokens;
            kept += 1;
        }
        let cut: Vec<Shard> = shards.split_off(kept);
        let Some(first) = cut.first().cloned() else { return Ok(Vec::new()) };
        let files = cut.iter().map(|shard| IdFile::open_bin(&folder.join(&shard.name))).collect::<Result<Vec<_>>>()?;
        let width = files[0].width();
        let tokens = Tokens::from_files(files, u32::MAX, Default::default());
        let mut writer = ShardWriter::new(folder, VALIDATION, width, self.shard_tokens);
        let keep = total - held_out - start;
        let mut at = keep;
        let mut ids = vec![0; 1 << 16];
        while at < tokens.len() {
            self.go_on()?;
            let count = (tokens.len() - at).min(1 << 16) as usize;
            tokens.read(at, &mut ids[..count])?;
            writer.append(&ids[..count])?;
            at += count as u64;
        }
        drop(tokens); // some systems refuse to change a file that is mapped
        let remove = |shard: &Shard| {
            let path = folder.join(&shard.name);
            fs::remove_file(&path).map_err(Error::io("remove", &path))
        };
        cut[1..].iter().try_for_each(remove)?;
        if keep == 0 {
            remove(&first)?;
        } else {
            shorten(&folder.join(&first.name), width, keep)?;
            shards.push(Shard { tokens: keep, ..first });
        }
        writer.finish()
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupted.load(Ordering::SeqCst) {
            fail!(Input, "interrupted: nothing was written to {}; start again", self.out.display());
        }
        Ok(())
    }
}

impl Prepared {
    fn describe(&self, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
        let meta = Meta {
            format: FORMAT,
            vocabulary_size: tokenizer.vocabulary_size(),
            id_bytes: self.id_bytes,
            end_of_text: tokenizer.end_of_text(),
            tokenizer_sha256: tokenizer.hash().iter().map(|byte| format!("{byte:02x}")).collect(),
            documents: self.documents,
            text_bytes: self.text_bytes,
            train: &self.training,
            val: &self.validation,
        };
        let path = folder.join(META_FILE);
        let json = serde_json::to_string_pretty(&meta).map_err(|cause| Error::io("write", &path)(cause.into()))?;
        write_bytes(&path, format!("{json}\n").as_bytes())
    }
}

impl Part {
    fn of(files: Vec<Shard>, width: Width) -> Part {
        let tokens = files.iter().map(|shard| shard.tokens).sum();
        Part { tokens, bytes: tokens * width.bytes() + HEADER_BYTES * files.len() as u64, files }
    }
}

/// The names in a folder; none if it does not exist.
fn names(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let entries = entries.map_err(Error::io("read the folder", folder))?;
    let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.starts_with(TEMPORARY_PREFIX)); // another process is writing it
    names.sort();
    Ok(names)
}

fn is_ours(name: &str) -> bool {
    let number = |stem: &str| name.strip_prefix(stem)?.strip_prefix('_')?.strip_suffix(".bin");
    let shard = number(TRAINING).or_else(|| number(VALIDATION));
    shard.is_some_and(|number| number.len() == 6 && number.bytes().all(|byte| byte.is_ascii_digit()))
        || [FILE_NAME, "tokenizer_config.json", META_FILE, QUALITY_FILE, REJECTED].contains(&name)
}
