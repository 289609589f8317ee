//! The checksums that the hub names files by.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The expected hash of a file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-256 of a large file's bytes.
    Sha256(String),
    /// Git's name of a small file: SHA-1 of `blob <size>`, a zero byte, and the bytes.
    Git(String),
}

impl Checksum {
    /// The hexadecimal digits, which are also the file's name among the cache's blobs.
    pub fn digits(&self) -> &str {
        match self {
            Checksum::Sha256(digits) | Checksum::Git(digits) => digits,
        }
    }

    /// Whether the file has this content; reads it once, in pieces.
    pub fn matches(&self, path: &Path) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let found = match self {
            Checksum::Sha256(_) => hash(&mut file, Sha256::new())?,
            Checksum::Git(_) => {
                let head = format!("blob {}\0", file.metadata()?.len());
                hash(&mut file, Sha1::new().chain_update(head))?
            }
        };
        Ok(found.eq_ignore_ascii_case(self.digits()))
    }
}

fn hash<D: Digest>(file: &mut File, mut hasher: D) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
