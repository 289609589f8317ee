//! The lock of a run's folder.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fail;

pub const LOCK_FILE: &str = ".wgpt.lock";

/// Keeps other trainers out of a folder.
#[derive(Debug)]
pub struct Lock(Option<File>);

impl Drop for Lock {
    /// Lets go of the folder at once: a process that is being started meanwhile holds copies of all open files for a moment,
    /// and closing ours alone would leave it locked for as long.
    fn drop(&mut self) {
        self.release();
    }
}

impl Lock {
    /// Closes the file as well.
    pub fn release(&mut self) {
        // Where it fails, the lock ends with the last copy.
        let _ = self.0.take().map(|file| file.unlock());
    }
}

/// Locks a run's folder; fails where another process has locked it.
pub fn lock(root: &Path) -> Result<Lock> {
    let path = root.join(LOCK_FILE);
    let open = File::options().create(true).write(true).truncate(false).open(&path);
    let lock = open.map_err(Error::io("write to the folder, which must be writable:", root))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            fail!(Usage, "another process is training in {}; wait for it or choose another folder", root.display())
        }
        // Some network file systems have no locks; training there is better than refusing.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    Ok(Lock(Some(lock)))
}
