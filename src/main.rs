//! Arguments, run, exit code.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    set_runtime_folder();
    ExitCode::from(match cli::Arguments::try_parse() {
        Ok(arguments) => cli::run(&arguments),
        Err(error) => cli::console::end_of_usage(&error),
    })
}

/// Gives graphics drivers the folder for sockets that a desktop's session sets: without one the software driver prints errors
/// of its own, which look like ours.
fn set_runtime_folder() {
    const NAME: &str = "XDG_RUNTIME_DIR";
    if cfg!(unix) && std::env::var_os(NAME).is_none_or(|folder| folder.is_empty()) {
        // SAFETY: this is the first thing that `main` does: there is no other thread that could read the environment.
        unsafe { std::env::set_var(NAME, std::env::temp_dir()) };
    }
}
