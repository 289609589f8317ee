//! The one error type: cause, place and remedy in one sentence.
//!
//! Graph mistakes (a shape that does not fit) are programming errors and panic with the op's and the tensors' names.
//! Everything that input, files, devices or memory can cause is an [`Error`], and `main` turns it into an exit code.

use std::path::Path;

/// Result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failure that a user can cause or meet. Every message is one line: cause, place, remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration file asks for something impossible. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Data, a model folder or a checkpoint is invalid.
    #[error("{0}")]
    Input(String),
    /// The operating system refused a read or a write.
    #[error("cannot {action}: {source}")]
    Io { action: String, source: std::io::Error },
    /// No adapter, a missing feature, or a driver that failed.
    #[error("{0}")]
    Device(String),
    /// The device went away in the middle of the work.
    #[error("{0}")]
    DeviceLost(String),
    /// An allocation that the device or the host cannot hold.
    #[error("{0}")]
    OutOfMemory(String),
    /// Training itself cannot go on, for example after five non-finite steps in a row.
    #[error("{0}")]
    Training(String),
}

impl Error {
    /// The same with the place in the data where it is wrong, in front of the reason.
    pub fn in_place(self, place: &str) -> Error {
        match self {
            Error::Input(why) => Error::Input(format!("{place}: {why}")),
            other => other,
        }
    }

    /// Exit code of the process: 2 for bad usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            _ => 1,
        }
    }

    /// Wraps an I/O error as `cannot <action> <path>: <cause>`; made for `map_err`.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let action = format!("{action} {}", path.display());
        move |source| Error::Io { action, source }
    }
}

/// Returns early with an [`Error`] of the given variant and a formatted message.
#[macro_export]
macro_rules! fail {
    ($kind:ident, $($message:tt)*) => {
        return Err($crate::error::Error::$kind(format!($($message)*)))
    };
}
