//! One checkpoint's folder: which files it has, how they are written, checked, read and removed.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use super::files::{Hashing, hash_file, remove_if_present, write_hashed};
use super::{Checkpoint, LoadedCheckpoint, OPTIMIZER_FILE, TRAINER_FILE};
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{one_line, sync_directory, write_synced};
use crate::formats::adapter::{self, ADAPTER_CONFIG_FILE, ADAPTER_FILE};
use crate::formats::folder::{self, CONFIG_FILE, TOKENIZER_FILE, TensorFile, WEIGHTS_FILE, Weights};
use crate::formats::source::ModelSource;

/// Hashes of a checkpoint's files in the format of `sha256sum -c`; written last.
pub const SUMS_FILE: &str = "SHA256SUMS";
pub const STATE_FILES: [&str; 5] = [CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE, OPTIMIZER_FILE, TRAINER_FILE];
/// Those of a model with adapters, which are saved without the model.
pub const ADAPTER_FILES: [&str; 5] = [ADAPTER_CONFIG_FILE, ADAPTER_FILE, TOKENIZER_FILE, OPTIMIZER_FILE, TRAINER_FILE];

pub fn write_checkpoint<T: Serialize>(directory: &Path, checkpoint: &Checkpoint<T>) -> io::Result<()> {
    let Checkpoint { step, config, tokenizer, parameters, optimizer, trainer } = checkpoint;
    fs::create_dir(directory)?;
    let notes = [("step", step.to_string())];
    let mut trainer = serde_json::to_vec_pretty(trainer)?;
    trainer.push(b'\n');
    let mut sums = String::new();
    let mut add = |name: &str, write: &mut dyn FnMut(&mut Hashing) -> io::Result<()>| {
        let sum = write_hashed(&directory.join(name), write)?;
        sums += &format!("{sum}  {name}\n");
        io::Result::Ok(())
    };
    let (settings, tensors) = match &config.lora {
        Some(lora) => (adapter::config_json(config, lora, false), adapter::stored(config, parameters)),
        None => (config.to_json(), config.stored(parameters)),
    };
    let [settings_file, weights_file, ..] = if config.lora.is_some() { ADAPTER_FILES } else { STATE_FILES };
    add(settings_file, &mut |w| w.write_all(settings.as_bytes()))?;
    add(weights_file, &mut |w| folder::write_tensors_to(w, &tensors, &notes))?;
    add(TOKENIZER_FILE, &mut |w| w.write_all(tokenizer))?;
    add(OPTIMIZER_FILE, &mut |w| folder::write_tensors_to(w, optimizer, &notes))?;
    add(TRAINER_FILE, &mut |w| w.write_all(&trainer))?;
    write_synced(File::create(directory.join(SUMS_FILE))?, |w| w.write_all(sums.as_bytes()))?;
    sync_directory(directory)
}

/// Opens a checkpoint whose files are verified.
pub fn load_checkpoint(directory: &Path, step: u64) -> Result<LoadedCheckpoint> {
    let source = ModelSource::open(directory)?;
    let config = source.config()?;
    let read = |name| {
        let path = directory.join(name);
        fs::read(&path).map_err(Error::io("read", &path))
    };
    let trainer = serde_json::from_slice(&read(TRAINER_FILE)?).map_err(|error| {
        let text = one_line(&error.to_string());
        Error::Input(format!("{} is not valid JSON ({text})", directory.join(TRAINER_FILE).display()))
    })?;
    let weights = match config.lora {
        Some(_) => source.weights(&config)?,
        None => Weights::from_file(TensorFile::open(&directory.join(WEIGHTS_FILE))?, &config)?,
    };
    let optimizer = TensorFile::open(&directory.join(OPTIMIZER_FILE))?;
    // Parameters that are not trained have none.
    for (name, shape) in config.parameters() {
        for moment in ["exp_avg", "exp_avg_sq"].map(|suffix| format!("{name}.{suffix}")) {
            if optimizer.shape(&moment).is_some() {
                optimizer.check(&moment, &shape)?;
            }
        }
    }
    let tokenizer = read(TOKENIZER_FILE)?;
    Ok(LoadedCheckpoint { step, config, tokenizer, weights, optimizer, trainer, warnings: Vec::new() })
}

/// Compares every file of a checkpoint with its recorded hash.
pub fn verify(directory: &Path) -> Result<()> {
    let path = directory.join(SUMS_FILE);
    let sums = fs::read(&path).map_err(Error::io("read", &path))?;
    let sums = String::from_utf8_lossy(&sums);
    for name in files_of(directory) {
        let path = directory.join(name);
        let sum = hash_file(&path).map_err(Error::io("read", &path))?;
        if !sums.lines().any(|line| line.split_once("  ") == Some((&sum, name))) {
            fail!(Input, "{} is damaged (its checksum does not match)", path.display());
        }
    }
    Ok(())
}

/// Deletes a checkpoint's own files and its folder, if present. A folder with foreign files stays, with those alone.
pub fn remove_checkpoint(directory: &Path) -> io::Result<()> {
    for name in STATE_FILES.into_iter().chain(ADAPTER_FILES).chain([SUMS_FILE]) {
        remove_if_present(&directory.join(name))?;
    }
    match fs::remove_dir(directory) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => Err(error),
        _ => Ok(()),
    }
}

/// The files of a checkpoint beside its checksums.
pub fn files_of(directory: &Path) -> [&'static str; 5] {
    if adapter::is_adapter(directory) { ADAPTER_FILES } else { STATE_FILES }
}

/// Whether a name is of a file of checkpoints.
pub fn is_state(name: &str) -> bool {
    STATE_FILES.contains(&name) || ADAPTER_FILES.contains(&name)
}
