//! A command that several ranks run together, as `mpirun` starts them: one speaks, each has a device of its machine, all have the
//! first one's run.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::files::sha256_hex;
use wgpt::models::config::Config;
use wgpt::models::lora::Lora;
use wgpt::models::network::Network;
use wgpt::ranks::{OnEnd, Ranks, started_by_mpirun};
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::{CHECKPOINTS, RunFolder};
use wgpt::train::settings::Settings;
use wgpt::train::trainer::ChosenVariants;

use super::console;

/// Set where this process says why all end: that is said once.
static IS_SAID: AtomicBool = AtomicBool::new(false);
/// How long a rank keeps its error to itself: where all have the same, the first says it as its own.
const PATIENCE: Duration = Duration::from_millis(300);

/// The ranks that `mpirun` has started; an exit code where there are none because of an error, which the first process says.
pub fn start() -> std::result::Result<Ranks, u8> {
    let on_end: OnEnd = Box::new(|sentence, code| {
        if let Some(sentence) = sentence.filter(|_| !IS_SAID.swap(true, Ordering::SeqCst)) {
            console::end(Err(Error::Training(sentence.into())));
        }
        std::process::exit(code.into());
    });
    Ranks::start(on_end).map_err(|error| match started_by_mpirun() {
        Some(started) if started.rank > 0 => error.exit_code(),
        _ => console::end(Err(error)),
    })
}

/// Ends a command on all ranks; the exit code.
pub fn end(ranks: &Ranks, result: Result<()>) -> u8 {
    match result {
        Ok(()) => {
            ranks.finish();
            console::end(Ok(()))
        }
        Err(error) if !ranks.are_several() => console::end(Err(error)),
        Err(error) if ranks.is_first() => {
            let code = error.exit_code();
            if !IS_SAID.swap(true, Ordering::SeqCst) {
                console::end(Err(error));
            }
            ranks.fail("", code);
            code
        }
        Err(error) => {
            std::thread::sleep(PATIENCE);
            ranks.fail(&error.to_string(), error.exit_code());
            error.exit_code()
        }
    }
}

/// The part of `--device` that is about this rank, and which of the adapters that it means: ranks of a machine take the names of a
/// list in turn, and of several adapters of one name each another.
pub fn device_of<'a>(device: &'a str, ranks: &Ranks) -> (&'a str, usize) {
    let names: Vec<&str> = device.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let name = |local: usize| names.get(local % names.len().max(1)).copied().unwrap_or("auto");
    let own = name(ranks.local());
    (own, (0..ranks.local()).filter(|local| name(*local) == own).count())
}

/// Has kernels chosen once for each adapter model: by the first rank that has one.
pub fn tuned(ranks: &Ranks, executor: &mut dyn Executor, blueprint: Blueprint) -> Result<Blueprint> {
    if !ranks.are_several() {
        return blueprint.tuned(executor);
    }
    let own = executor.description();
    let all = ranks.gather(own.as_bytes());
    let leader = all.iter().position(|description| description == own.as_bytes()).unwrap_or(ranks.rank());
    let (mut planned, mut chosen) = (Err(blueprint), vec![]);
    if leader == ranks.rank() {
        let blueprint = planned.unwrap_or_else(|blueprint| blueprint).tuned(executor)?;
        let variants = ChosenVariants { device: own, chosen: blueprint.variants(executor.limits()) };
        chosen = serde_json::to_vec(&variants).expect("names serialise");
        planned = Ok(blueprint);
    }
    let all = ranks.gather(&chosen);
    match planned {
        Ok(blueprint) => Ok(blueprint),
        Err(blueprint) => {
            let variants: ChosenVariants = serde_json::from_slice(&all[leader]).map_err(|_| {
                Error::Device("the ranks do not agree on kernels: start them with the same wgpt".into())
            })?;
            variants.settle(executor);
            blueprint.tuned(executor)
        }
    }
}

/// Fails where ranks are not the same program, or do not train the same.
pub fn check_alike(ranks: &Ranks, networks: &[Network], settings: &Settings, arguments: &Value) -> Result<()> {
    if !ranks.are_several() {
        return Ok(());
    }
    let models: Vec<String> = networks.iter().map(|network| described(network.config())).collect();
    let own = json!([program(), settings, arguments["digest"], models, options(arguments)]);
    let all: Vec<Value> = ranks
        .gather(own.to_string().as_bytes())
        .iter()
        .map(|s| serde_json::from_slice(s).unwrap_or_default())
        .collect();
    let what = [
        "is another build of wgpt than rank 0",
        "has other settings than rank 0",
        "has other data than rank 0",
        "has another model than rank 0",
        "has other options than rank 0",
    ];
    for (rank, of_rank) in all.iter().enumerate() {
        if let Some(different) = (0..what.len()).find(|part| of_rank[*part] != all[0][*part]) {
            let what = what[different];
            fail!(Input, "rank {rank} {what}: give all ranks the same program, flags and data");
        }
    }
    Ok(())
}

/// A command's options without its files and folders, whose paths may differ by machine.
fn options(arguments: &Value) -> Value {
    match arguments {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), options(value))).collect(),
        Value::Array(values) => values.iter().map(options).collect(),
        Value::String(text) if Path::new(text).exists() => Value::Null,
        other => other.clone(),
    }
}

/// A model's configuration as text, without the path of the model that its adapters are of.
fn described(config: &Config) -> String {
    let lora = config.lora.clone().map(|lora| Lora { base: None, ..lora });
    format!("{:?}", Config { lora, ..config.clone() })
}

/// Tells a build from others: its size, and the content of both ends of its file, the first of which has the linker's digest.
fn program() -> String {
    const END: usize = 1 << 18;
    let bytes = std::env::current_exe().and_then(std::fs::File::open).and_then(|file| {
        use std::io::{Read, Seek, SeekFrom};
        let (mut file, mut bytes) = (file, vec![]);
        let size = file.metadata()?.len();
        (&mut file).take(END as u64).read_to_end(&mut bytes)?;
        file.seek(SeekFrom::Start(size.saturating_sub(END as u64)))?;
        file.read_to_end(&mut bytes)?;
        bytes.extend(size.to_le_bytes());
        Ok(bytes)
    });
    bytes.map_or_else(|_| env!("CARGO_PKG_VERSION").to_string(), |bytes| sha256_hex(&bytes))
}

/// A folder for a rank that writes no run.
pub fn own_folder() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("wgpt-rank-").tempdir();
    folder.map_err(Error::io("make a folder in", &std::env::temp_dir()))
}

/// The folder of the first rank's run on every rank: of the others one of their own, with a copy of its last checkpoint, whose `step`
/// the first rank tells.
pub fn copied(ranks: &Ranks, first: Option<(&RunFolder, u64)>) -> Result<Option<(RunFolder, TempDir)>> {
    let files = match first {
        Some((folder, step)) => {
            let directory = folder.directory(step);
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let names = std::fs::read_dir(&directory).map_err(Error::io("read", &directory))?;
            let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            (name, names.collect::<Vec<_>>(), Some(directory))
        }
        None => (String::new(), vec![], None),
    };
    let (name, names, directory) = files;
    let list = ranks.broadcast(0, serde_json::to_vec(&(&name, &names)).expect("names serialise"));
    let (name, names): (String, Vec<String>) = serde_json::from_slice(&list).unwrap_or_default();
    let own = if directory.is_none() { Some(own_folder()?) } else { None };
    let target = own.as_ref().map(|own| own.path().join(CHECKPOINTS).join(&name));
    if let Some(target) = &target {
        std::fs::create_dir_all(target).map_err(Error::io("create", target))?;
    }
    for file in names {
        let bytes = match &directory {
            Some(directory) => read(&directory.join(&file))?,
            None => vec![],
        };
        let bytes = ranks.broadcast(0, bytes);
        if let Some(target) = &target {
            let path = target.join(&file);
            std::fs::write(&path, bytes).map_err(Error::io("write", &path))?;
        }
    }
    own.map(|own| Ok((RunFolder::open(own.path())?, own))).transpose()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::io("read", path))
}
