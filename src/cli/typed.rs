//! Lines that somebody types at a terminal.

use super::{Global, cache_folder, console};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Behavior, Config, Editor};
use std::sync::atomic::{AtomicBool, Ordering};
use wgpt::error::{Error, Result};

/// Lines that the history keeps.
const MOST_HISTORY: usize = 1000;

/// Hands on lines and their numbers as they are typed, until the end of input or `/quit`. A line with which nothing can be done
/// is no reason to end. `interrupted` is false before each line.
pub fn lines(
    global: &Global,
    hint: &str,
    interrupted: &AtomicBool,
    take: &mut dyn FnMut(u32, String) -> Result<()>,
) -> Result<()> {
    let failed = |error: ReadlineError| match error {
        ReadlineError::Io(source) => Error::Io { action: "read what is typed".into(), source },
        other => Error::Input(format!("cannot read what is typed: {other}; give it on standard input")),
    };
    // Where texts go to a file, the prompt line still goes to the terminal.
    let behavior = if console::shows_data() { Behavior::Stdio } else { Behavior::PreferTerm };
    let config = Config::builder().behavior(behavior).auto_add_history(true).max_history_size(MOST_HISTORY);
    let mut editor = Editor::<(), FileHistory>::with_config(config.map_err(failed)?.build()).map_err(failed)?;
    let history = cache_folder().join("prompts.txt");
    // A history that cannot be read or written is missed by nobody who can do without one.
    let _ = std::fs::create_dir_all(cache_folder());
    let _ = editor.load_history(&history);
    global.say(hint);
    for n in 0u32.. {
        match editor.readline("> ") {
            Ok(line) if line.trim() == "/quit" => break,
            Ok(line) if line.is_empty() => {}
            Ok(line) => {
                let _ = editor.append_history(&history);
                interrupted.store(false, Ordering::SeqCst);
                match take(n, line) {
                    Err(Error::Input(problem)) => console::message(format_args!("error: {problem}")),
                    other => other?,
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}
