//! The files of a path: format and part (training, validation, test), by their names.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{
    prepare::{META_FILE, QUALITY_FILE},
    quality::stage::REJECTED,
    tokenizer::FILE_NAME,
};
use crate::{
    error::{Error, Result},
    fail,
};

/// The files of a source, all of text or all of ids.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub files: Vec<PathBuf>,
    /// Those beside them that are for validation.
    pub validation: Vec<PathBuf>,
    pub are_ids: bool,
}

/// The extensions of the files that a folder is searched for: `md,py`. Those that mean nothing else are text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extensions(Vec<String>);

/// Extensions of known formats.
const KNOWN: [(&str, Format); 5] = [
    ("txt", Format::Text),
    ("jsonl", Format::Lines),
    ("parquet", Format::Parquet),
    ("wet", Format::Wet),
    ("bin", Format::Ids),
];
/// Files that `wgpt data prepare` and others leave beside token ids. [`REJECTED`] is not read as text.
const BESIDE_IDS: [&str; 6] =
    [FILE_NAME, "tokenizer_config.json", "special_tokens_map.json", META_FILE, QUALITY_FILE, REJECTED];
/// Extensions that a note lists.
const MOST_LISTED: usize = 6;
/// Bytes of a named file that are looked at to tell whether it is text.
const SNIFFED_BYTES: u64 = 64 << 10;

impl Default for Extensions {
    fn default() -> Extensions {
        Extensions(KNOWN.iter().map(|(extension, _)| extension.to_string()).collect())
    }
}

impl FromStr for Extensions {
    type Err = String;

    fn from_str(list: &str) -> std::result::Result<Extensions, String> {
        let names = list.split(',').map(|name| name.trim().trim_start_matches("*.").trim_start_matches('.'));
        let names: Vec<String> = names.map(str::to_ascii_lowercase).collect();
        match names.iter().find(|name| name.is_empty() || name.contains(['/', '\\', '*'])) {
            Some(_) => Err("give extensions with commas between them, such as md,py".to_string()),
            None => Ok(Extensions(names)),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    Text,
    Lines,
    Parquet,
    /// Text that was extracted from a crawl's pages.
    Wet,
    Ids,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Compression {
    Gzip,
    Zstandard,
}

/// A file's extension without that of its compression, and the compression.
fn extension(path: &Path) -> (String, Option<Compression>) {
    let last = |path: &Path| path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let compression = match last(path).as_str() {
        "gz" => Compression::Gzip,
        "zst" => Compression::Zstandard,
        plain => return (plain.to_string(), None),
    };
    (last(Path::new(path.file_stem().unwrap_or_default())), Some(compression))
}

/// The format by a file's extension.
pub(super) fn format(path: &Path) -> Option<Format> {
    let extension = extension(path).0;
    KNOWN.iter().find(|(known, _)| *known == extension).map(|(_, format)| *format)
}

/// How a file's extension says that it is compressed.
pub(super) fn compression(path: &Path) -> Option<Compression> {
    extension(path).1
}

/// Opens a file to be read, unpacked if its name says that it is compressed. `count` wraps the reader of the file itself.
pub(super) fn reader<R: Read + 'static>(path: &Path, count: impl FnOnce(File) -> R) -> Result<Box<dyn Read>> {
    let file = count(File::open(path).map_err(Error::io("open", path))?);
    Ok(match compression(path) {
        None => Box::new(file),
        Some(Compression::Gzip) => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some(Compression::Zstandard) => Box::new(super::zstandard::Frames::new(BufReader::new(file))),
    })
}

/// A file that is named.
pub(super) fn file(path: &Path) -> Result<Found> {
    let format = format(path);
    if let (Some(Format::Ids | Format::Parquet), Some(compression)) = (format, compression(path)) {
        let unpack = if compression == Compression::Gzip { "gunzip" } else { "unzstd" };
        fail!(Input, "{} is read in any order, which it cannot be compressed: unpack it with {unpack}", path.display());
    }
    if format.is_none() && !is_text(path)? {
        fail!(
            Input,
            "{} is not UTF-8 text, and neither .jsonl, .parquet nor .bin by its name; rename or convert it",
            path.display()
        );
    }
    Ok(Found {
        files: vec![path.to_path_buf()],
        validation: validation_beside(path)?,
        are_ids: format == Some(Format::Ids),
    })
}

/// Whether a file begins as UTF-8 text does: without a zero, and with characters that are whole as far as can be seen.
fn is_text(path: &Path) -> Result<bool> {
    let mut bytes = vec![];
    let read = reader(path, |file| file)?.take(SNIFFED_BYTES).read_to_end(&mut bytes);
    read.map_err(Error::io("read", path))?;
    let valid = std::str::from_utf8(&bytes).map_or_else(|cause| cause.error_len().is_none(), |_| true);
    Ok(valid && !bytes.contains(&0))
}

/// The files of a folder, and sentences about those that are left out.
pub(super) fn folder(path: &Path, extensions: &Extensions) -> Result<(Found, Vec<String>)> {
    let Search { files, left_out, .. } = Search::of(path, extensions)?;
    let (ids, text): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| format(file) == Some(Format::Ids));
    let mut notes: Vec<String> = left_out_note(path, &left_out).into_iter().collect();
    match (ids.first(), text.first()) {
        (None, None) => {
            let names = extensions.0.iter().map(|name| format!(".{name}")).collect::<Vec<_>>();
            let has = if left_out.is_empty() { String::new() } else { format!(", but {}", listed(&left_out)) };
            let (last, names) = (names.last().cloned().unwrap_or_default(), names[..names.len() - 1].join(", "));
            let names = if names.is_empty() { last } else { format!("{names} or {last}") };
            fail!(
                Input,
                "{} has no {names} files in it{has}; say which extensions to read, such as --ext md,py",
                path.display()
            )
        }
        (Some(ids), Some(text)) => {
            let (ids, text) = (ids.display(), text.display());
            fail!(Input, "{} mixes token ids ({ids}) and text ({text}); keep one kind of them", path.display())
        }
        (None, _) => {
            let role = |file: &PathBuf| role(file.strip_prefix(path).unwrap_or(file));
            if !text.iter().any(|file| role(file) == Some(Role::Training)) {
                return Ok((Found { files: text, validation: vec![], are_ids: false }, notes));
            }
            let (tests, text): (Vec<_>, Vec<_>) = text.into_iter().partition(|file| role(file) == Some(Role::Test));
            let (validation, files) = text.into_iter().partition(|file| role(file) == Some(Role::Validation));
            if let Some(first) = tests.first() {
                let more = if tests.len() > 1 { format!(" and {} more", tests.len() - 1) } else { String::new() };
                notes.push(format!("{}{more} is for testing by its name, and is not read", first.display()));
            }
            Ok((Found { files, validation, are_ids: false }, notes))
        }
        (_, None) => {
            let (validation, files): (Vec<_>, Vec<_>) = ids.into_iter().partition(|file| words(file).contains(&"val"));
            // A folder of nothing but validation files is meant for evaluation.
            let (files, validation) = if files.is_empty() { (validation, files) } else { (files, validation) };
            Ok((Found { files, validation, are_ids: true }, notes))
        }
    }
}

/// The files of text in a folder, in order, whatever part of the data they are for.
pub(super) fn texts(path: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Search::of(path, &Extensions::default())?.files;
    files.retain(|file| format(file) != Some(Format::Ids));
    Ok(files)
}

/// A walk through a folder.
struct Search<'a> {
    extensions: &'a Extensions,
    visited: HashSet<PathBuf>,
    files: Vec<PathBuf>,
    /// Extension, and how many files with it are not read.
    left_out: BTreeMap<String, usize>,
}

impl<'a> Search<'a> {
    /// Goes through a folder; the files are sorted.
    fn of(path: &Path, extensions: &'a Extensions) -> Result<Search<'a>> {
        let mut search = Search { extensions, visited: HashSet::new(), files: vec![], left_out: BTreeMap::new() };
        search.find(path)?;
        search.files.sort();
        Ok(search)
    }

    fn find(&mut self, dir: &Path) -> Result<()> {
        // Links may lead to a folder that is already being read.
        if !self.visited.insert(dir.canonicalize().map_err(Error::io("read the folder", dir))?) {
            return Ok(());
        }
        for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
            let entry = entry.map_err(Error::io("read the folder", dir))?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let is_read = entry.file_name() != REJECTED && self.reads(&path);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => self.find(&path)?,
                Ok(_) if is_read => self.files.push(path),
                Err(cause) if is_read => return Err(Error::io("read", &path)(cause)),
                Ok(_) if !BESIDE_IDS.iter().any(|name| entry.file_name() == *name) => {
                    let last = path.extension().and_then(|last| last.to_str()).unwrap_or_default();
                    *self.left_out.entry(last.to_ascii_lowercase()).or_default() += 1;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn reads(&self, path: &Path) -> bool {
        let (extension, compression) = extension(path);
        let packs = compression.is_some() && matches!(format(path), Some(Format::Ids | Format::Parquet));
        !packs && !extension.is_empty() && self.extensions.0.contains(&extension)
    }
}

fn left_out_note(path: &Path, left_out: &BTreeMap<String, usize>) -> Option<String> {
    let count: usize = left_out.values().sum();
    let files = if count == 1 { "1 file is" } else { &format!("{count} files are") };
    let named = left_out.keys().filter(|name| !name.is_empty()).take(2).cloned().collect::<Vec<_>>();
    let remedy =
        if named.is_empty() { String::new() } else { format!("; --ext {} reads them as text", named.join(",")) };
    (count > 0).then(|| format!("{files} not read in {}: {}{remedy}", path.display(), listed(left_out)))
}

/// "3 .md, 1 without an extension", the most frequent first.
fn listed(left_out: &BTreeMap<String, usize>) -> String {
    let mut all: Vec<(&String, &usize)> = left_out.iter().collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shown = all.iter().take(MOST_LISTED).map(|(name, count)| match name.as_str() {
        "" => format!("{count} without an extension"),
        name => format!("{count} .{name}"),
    });
    let more = all.len().saturating_sub(MOST_LISTED);
    let more = if more > 0 { format!(" and {more} more extensions") } else { String::new() };
    shown.collect::<Vec<_>>().join(", ") + &more
}

/// The part of the data that a file is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Training,
    Validation,
    Test,
}

/// The part that a file's name says, or else the name of the innermost folder that says one.
fn role(path: &Path) -> Option<Role> {
    path.ancestors().find_map(|part| words(part).into_iter().find_map(role_of))
}

fn role_of(word: &str) -> Option<Role> {
    match word.to_ascii_lowercase().as_str() {
        "train" | "training" => Some(Role::Training),
        "val" | "valid" | "validation" | "dev" => Some(Role::Validation),
        "test" | "testing" => Some(Role::Test),
        _ => None,
    }
}

/// The files in the same folder with the same extension that are named like this one up to the word `train`, and for
/// validation from there on.
fn validation_beside(path: &Path) -> Result<Vec<PathBuf>> {
    let own = words(path);
    let Some(at) = own.iter().position(|&word| word == "train") else { return Ok(Vec::new()) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
        let file = entry.map_err(Error::io("read the folder", dir))?.path();
        let other = words(&file);
        let is_held_out = other.get(at).is_some_and(|word| role_of(word) == Some(Role::Validation));
        if is_held_out && other[..at] == own[..at] && extension(&file).0 == extension(path).0 {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// The words of a file's name: `fineweb_train_000001.bin` has `fineweb`, `train` and `000001`.
fn words(path: &Path) -> Vec<&str> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    stem.split(|c: char| !c.is_ascii_alphanumeric()).collect()
}
