//! Files of a checkpoint: written and hashed, linked, listed, removed.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};

use crate::files::fault::{Step, point};
use crate::files::{HashingWriter, TEMPORARY_PREFIX, write_synced};

pub type Hashing<'a> = HashingWriter<&'a mut BufWriter<File>>;

/// Writes and syncs a file; its SHA-256.
pub fn write_hashed(path: &Path, write: &mut dyn FnMut(&mut Hashing) -> io::Result<()>) -> io::Result<String> {
    let mut sum = String::new();
    write_synced(File::create(path)?, |buffered| {
        let mut hashing = HashingWriter::new(buffered);
        write(&mut hashing)?;
        sum = hashing.finish();
        Ok(())
    })?;
    Ok(sum)
}

pub fn hash_file(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mut hashing = HashingWriter::new(io::sink());
    io::copy(&mut io::BufReader::with_capacity(1 << 20, file), &mut hashing)?;
    Ok(hashing.finish())
}

/// Gives a large file a second name, or a copy where the file system has no hard links, replacing `to` in one rename.
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let temporary = to.with_file_name(format!("{TEMPORARY_PREFIX}{name}"));
    remove_if_present(&temporary)?;
    if fs::hard_link(from, &temporary).is_err() {
        let copied = fs::copy(from, &temporary).and_then(|_| File::options().write(true).open(&temporary)?.sync_all());
        if let Err(error) = copied {
            let _ = fs::remove_file(&temporary); // the reason to report is the first one
            return Err(error);
        }
    }
    point(Step::Rename)?;
    fs::rename(&temporary, to)?;
    // Renaming one link of a file over another does nothing and leaves both.
    remove_if_present(&temporary)
}

pub fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Names in a folder that are text; no name of ours is anything else.
pub fn entry_names(directory: &Path) -> io::Result<Vec<String>> {
    let names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
