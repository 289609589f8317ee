//! The `tokenizers` crate panics on some damaged files, at loading or only at the first text. Here a panic is an error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Whether this thread's panics are caught, so that nothing need be said about them.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// The value of `work`, or the message of its panic. Values that `work` was changing must then not be used again, except a
/// tokenizer's cache.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static SILENCE: Once = Once::new();
    SILENCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !CAUGHT.get() {
                usual(panic);
            }
        }));
    });
    let before = CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(before);
    outcome.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|text| text.to_string());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        format!("the tokenizers library fails on it ({})", text.unwrap_or_else(|| "no reason given".into()))
    })
}
