//! Places at which a test has a write fail, or the process end: in debug builds `WGPT_FAULT=N:MODE` takes effect at the N-th
//! place that is passed, counted from 0. `fail`: that step fails. `full`: that and all later writes fail as on a full disk.
//! `kill`: the process ends there, as by a power loss.

use std::io;

/// The kind of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Needs room on the disk.
    Write,
    /// Renames, removes or syncs.
    Rename,
}

/// Passes a place; an error is the fault that was asked for.
pub fn point(step: Step) -> io::Result<()> {
    if cfg!(debug_assertions) { wanted::point(step) } else { Ok(()) }
}

mod wanted {
    use super::Step;
    use std::io::{self, Error, ErrorKind};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static WANTED: OnceLock<Option<(u64, String)>> = OnceLock::new();

    pub fn point(step: Step) -> io::Result<()> {
        let wanted = WANTED.get_or_init(|| {
            let text = std::env::var("WGPT_FAULT").ok()?;
            let (number, mode) = text.split_once(':')?;
            Some((number.parse().ok()?, mode.to_string()))
        });
        let Some((number, mode)) = wanted else { return Ok(()) };
        let passed = PASSED.fetch_add(1, Ordering::SeqCst);
        match mode.as_str() {
            "full" if passed >= *number && step == Step::Write => Err(ErrorKind::StorageFull.into()),
            "fail" if passed == *number => Err(Error::other("a fault that was asked for")),
            "kill" if passed == *number => std::process::abort(),
            _ => Ok(()),
        }
    }
}
