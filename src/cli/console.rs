//! Standard output and standard error: the one place that writes to them.
//!
//! Results go to standard output and must arrive: a write that fails is an error, but for a reader that has seen enough, which
//! is a quiet end. Messages go to standard error and never stop the work: one that cannot be written is lost, and a reader that
//! has stopped reading keeps nobody waiting, because a thread of its own writes to pipes and files.

use indicatif::ProgressDrawTarget;
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wgpt::error::{Error, Result};

/// Bytes of messages that wait for a slow reader; later ones are left out, and counted.
const MOST_WAITING: usize = 1 << 20;
/// How long the end of the program waits for a reader of messages that takes none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Set once nobody reads standard output any more.
static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Messages on their way to standard error.
static MESSAGES: Messages = Messages {
    state: Mutex::new(State {
        waiting: VecDeque::new(),
        bytes: 0,
        left_out: 0,
        pieces: 0,
        busy: false,
        has_writer: false,
    }),
    changed: Condvar::new(),
};

struct Messages {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: VecDeque<String>,
    /// Bytes that wait.
    bytes: usize,
    /// Messages for which there was no room.
    left_out: u64,
    /// Messages that were written or could not be.
    pieces: u64,
    /// The thread is writing one.
    busy: bool,
    has_writer: bool,
}

/// Writes text to standard output, all of it and at once.
pub fn data(text: &str) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| {
        READER_GONE.fetch_or(source.kind() == ErrorKind::BrokenPipe, Ordering::SeqCst);
        Error::Io { action: "write to standard output".into(), source }
    })
}

/// Writes a line to standard output.
pub fn line(text: impl Display) -> Result<()> {
    data(&format!("{text}\n"))
}

/// Writes a line to standard error, or loses it.
pub fn message(text: impl Display) {
    let text = format!("{text}\n");
    // A terminal is written to directly, so that messages and bars keep their order.
    if io::stderr().is_terminal() { write_message(&text) } else { MESSAGES.push(text) }
}

/// Where a progress bar is drawn: on standard error, if that is a terminal.
pub fn bars(quiet: bool) -> ProgressDrawTarget {
    if !quiet && io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

/// Whether standard error is a terminal.
pub fn shows_messages() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard output is a terminal.
pub fn shows_data() -> bool {
    io::stdout().is_terminal()
}

/// Prints the error, if there is one, and waits for messages to arrive; the exit code.
pub fn end(result: Result<()>) -> u8 {
    let code = match &result {
        Ok(()) => 0,
        // Whoever reads our output has seen enough.
        Err(Error::Io { source, .. })
            if source.kind() == ErrorKind::BrokenPipe && READER_GONE.load(Ordering::SeqCst) =>
        {
            0
        }
        Err(error) => {
            message(format_args!("error: {error}"));
            error.exit_code()
        }
    };
    MESSAGES.settle();
    code
}

/// Prints help, or the mistake in the command line; the exit code.
pub fn end_of_usage(error: &clap::Error) -> u8 {
    let text = error.render();
    if !error.use_stderr() {
        let shown = if shows_data() { text.ansi().to_string() } else { text.to_string() };
        return end(data(&shown));
    }
    let shown = if io::stderr().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    message(shown.trim_end());
    MESSAGES.settle();
    error.exit_code() as u8
}

/// Writes to standard error. Where that fails there is nobody left to tell.
fn write_message(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

impl Messages {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&'static self, text: String) {
        let mut state = self.state();
        if state.bytes + text.len() > MOST_WAITING {
            state.left_out += 1;
            return;
        }
        state.bytes += text.len();
        state.waiting.push_back(text);
        if !state.has_writer {
            let writer = std::thread::Builder::new().name("messages".into()).spawn(move || self.write());
            state.has_writer = writer.is_ok();
            if writer.is_err() {
                // Without a thread the message is written here.
                state.bytes = 0;
                state.waiting.drain(..).for_each(|text| write_message(&text));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Writes messages as they come, for as long as the process lives.
    fn write(&self) {
        let mut state = self.state();
        loop {
            let Some(mut text) = state.waiting.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.bytes -= text.len();
            if state.waiting.is_empty() && state.left_out > 0 {
                text += &format!("note: {} messages were left out, which nobody had read in time\n", state.left_out);
                state.left_out = 0;
            }
            state.busy = true;
            drop(state);
            write_message(&text);
            state = self.state();
            state.busy = false;
            state.pieces += 1;
            self.changed.notify_all();
        }
    }

    /// Waits until all messages are written, for as long as the reader takes some.
    fn settle(&self) {
        let mut state = self.state();
        while state.has_writer && (state.busy || !state.waiting.is_empty()) {
            let before = state.pieces;
            let woken = self.changed.wait_timeout_while(state, PATIENCE, |now| now.pieces == before);
            let (now, waited) = woken.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                return;
            }
            state = now;
        }
    }
}
