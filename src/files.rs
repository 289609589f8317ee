//! Writing files so that a reader sees the old content or the new one, whatever happens in between.

pub mod fault;
pub mod replacement;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use fault::{Step, point};

/// Bytes buffered before a write reaches the operating system.
const BUFFER_BYTES: usize = 1 << 20;

/// Replaces `path` by the output of `write`: temporary file in the same folder, sync, rename, sync of the folder.
///
/// On any failure (a full disk, an error from `write`) the file from before is untouched and the temporary one is
/// removed. The new file has ordinary permissions (0666 less the umask on Unix), as [`File::create`] gives.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    try_write_atomic(path, write).map_err(|source| {
        let kept = if path.exists() { " (the file from before is kept)" } else { "" };
        Error::Io { action: format!("write {}{kept}", path.display()), source }
    })
}

/// [`write_atomic`] of bytes that are at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomic(path, |file| file.write_all(bytes))
}

/// Runs `write` on `file`, then flushes and syncs, so that an error that only appears late is not lost.
pub fn write_synced(file: File, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    point(Step::Write)?;
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, file);
    if let Err(error) = write(&mut buffered) {
        let _unwritten = buffered.into_parts(); // dropping the buffer would try to write the rest
        return Err(error);
    }
    buffered.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Makes renames and new names in a folder survive a power loss; only Unix can and needs to.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(());
    }
    match File::open(directory)?.sync_all() {
        // Some network and FUSE file systems cannot sync a folder.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Foreign text (a tensor name, a parser's message) made fit for a one-line message: no control characters, and at
/// most 160 characters.
pub fn one_line(text: &str) -> String {
    const MOST: usize = 160;
    let line: String = text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MOST).is_some() { line + "…" } else { line }
}

/// SHA-256 of `bytes` as 64 hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// A writer that also hashes its bytes.
pub struct HashingWriter<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> HashingWriter<W> {
    /// Starts with the hash of nothing.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// SHA-256 of everything written so far, as 64 hexadecimal digits.
    pub fn finish(self) -> String {
        hex(self.hasher.finalize().as_slice())
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn try_write_atomic(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The closed file is renamed, not the open one: Windows refuses to rename over some open files.
    let (file, temporary) = temporary_builder().tempfile_in(folder)?.into_parts();
    write_synced(file, write)?;
    point(Step::Rename)?;
    temporary.persist(path).map_err(|failed| failed.error)?;
    sync_directory(folder)
}

#[cfg(unix)]
fn temporary_builder() -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    // The default of 0600 would make a shared model unreadable for others; the umask still applies.
    builder.prefix(TEMPORARY_PREFIX).permissions(std::fs::Permissions::from_mode(0o666));
    builder
}

#[cfg(not(unix))]
fn temporary_builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    builder
}

/// Prefix of temporary files, so that leftovers of a killed process can be recognised.
pub const TEMPORARY_PREFIX: &str = ".wgpt-tmp-";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
