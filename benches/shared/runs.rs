//! Runs of `wgpt` in a folder: the one that is given, or a temporary one.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use wgpt::error::{Error, Result};

pub struct Runs {
    folder: PathBuf,
    device: String,
    /// Removed in the end.
    _temporary: TempDir,
}

impl Runs {
    /// Makes the folder; `device` is `--device` of the commands that have one.
    pub fn new(folder: Option<&Path>, device: &str) -> Result<Runs> {
        let temporary = tempfile::tempdir().map_err(|why| Error::Input(format!("no temporary folder: {why}")))?;
        let folder = folder.unwrap_or(temporary.path()).to_path_buf();
        std::fs::create_dir_all(&folder).map_err(|why| Error::Input(format!("{}: {why}", folder.display())))?;
        Ok(Runs { folder, device: device.into(), _temporary: temporary })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program with these arguments in the folder; what it wrote to standard output, and to standard error.
    pub fn wgpt(&self, arguments: &str) -> Result<(String, String)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
        command.current_dir(&self.folder).args(arguments.split_whitespace()).args(["--device", &self.device]);
        let output = command.output().map_err(|why| Error::Input(format!("wgpt: {why}")))?;
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !output.status.success() {
            return Err(Error::Input(format!("wgpt {arguments}: {err}")));
        }
        Ok((out, err))
    }
}
