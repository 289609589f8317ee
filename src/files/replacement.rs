//! Replacing a folder as a whole: the new one is built beside it and takes its place by one rename once it is complete.

use super::fault::{Step, point};
use super::{TEMPORARY_PREFIX, sync_directory};
use crate::error::{Error, Result};
use crate::fail;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Held by the process that builds; the folder is removed by the next one where nobody holds it.
const LOCK_FILE: &str = ".wgpt-building";
/// The old folder, or its files, between two renames where one cannot do.
const OLD_PREFIX: &str = ".wgpt-old-";

/// Whether an entry of the old folder stays, by its path there: a folder stays whole, or is asked about entry by entry.
pub type Keeps<'a> = dyn Fn(&Path) -> bool + 'a;

/// A folder that is being built, beside the one whose place it will take.
///
/// Until [`Replacement::commit`] returns, and where it fails, the old folder is as it was; dropped before that, the new one is
/// removed. Whatever a killed process leaves behind is hidden, and is cleared by the next one that replaces the same folder.
#[derive(Debug)]
pub struct Replacement {
    /// The folder to replace, links resolved: a link to a folder stays, and leads to the new one.
    target: PathBuf,
    building: PathBuf,
    lock: Option<File>,
    is_done: bool,
}

impl Replacement {
    /// Makes the folder to build in, with the parents of `target`. Refuses a `target` that is a file, and one where nothing
    /// can be written.
    pub fn begin(target: &Path) -> Result<Replacement> {
        if target.exists() && !target.is_dir() {
            fail!(Usage, "{} is a file, and a folder is written: give another name", target.display());
        }
        let action = || Error::io("make a folder beside", target);
        let target = resolved(target).map_err(Error::io("make the folder", target))?;
        recover(&target).map_err(Error::io("clear leftovers of an earlier process beside", &target))?;
        let building = make_building(&target).map_err(action())?;
        let lock = lock(&building.join(LOCK_FILE)).map_err(action())?;
        Ok(Replacement { target, building, lock: Some(lock), is_done: false })
    }

    /// The folder to write the new files into.
    pub fn path(&self) -> &Path {
        &self.building
    }

    /// Where the folder will be, links resolved.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts the new folder in place of the old one, whose entries stay where `keeps` says so and the new one has none of that
    /// name. Files must have been synced as they were written.
    pub fn commit(mut self, keeps: &Keeps) -> Result<()> {
        let swapped = self.swap(keeps).map_err(Error::io("replace the folder", &self.target))?;
        self.is_done = true;
        // The new folder stands; an old one that cannot be removed now is cleared by the next replacement.
        if let Some(old) = swapped {
            let _ = fs::remove_dir_all(old);
        }
        Ok(())
    }

    /// The old folder under its new name, where there was one.
    fn swap(&mut self, keeps: &Keeps) -> io::Result<Option<PathBuf>> {
        let exists = self.target.is_dir();
        let is_inside = self.building.starts_with(&self.target);
        if exists {
            for entry in entries(&self.target)?.iter().filter(|entry| !is_ours(&entry.file_name())) {
                let (name, new) = (entry.file_name(), self.building.join(entry.file_name()));
                // Entries that are replaced within the folder stay where they are, but for those in a folder that is replaced.
                if !is_inside || new.exists() || !keeps(Path::new(&name)) {
                    carry_over(&entry.path(), &new, Path::new(&name), keeps)?;
                }
            }
            fs::set_permissions(&self.building, fs::metadata(&self.target)?.permissions())?;
        }
        if cfg!(not(unix)) {
            self.lock = None; // other systems refuse to rename a folder with an open file
        }
        sync_directory(&self.building)?;
        point(Step::Rename)?;
        if is_inside {
            return self.move_entries(keeps);
        }
        let old = if exists { self.exchange()? } else { fs::rename(&self.building, &self.target).map(|()| None)? };
        // From here on the new folder stands, and nothing may be reported as a failure.
        let _ = remove_file(&self.target.join(LOCK_FILE));
        let _ = sync_directory(parent(&self.target));
        Ok(old)
    }

    /// Exchanges the two folders in one step, or in two where the system cannot.
    fn exchange(&self) -> io::Result<Option<PathBuf>> {
        if exchange(&self.building, &self.target).is_ok() {
            return Ok(Some(self.building.clone()));
        }
        let old = parent(&self.target).join(format!("{OLD_PREFIX}{}", name_of(&self.target)));
        fs::rename(&self.target, &old)?;
        if let Err(error) = point(Step::Rename).and_then(|()| fs::rename(&self.building, &self.target)) {
            fs::rename(&old, &self.target)?;
            return Err(error);
        }
        Ok(Some(old))
    }

    /// Moves the new files into the folder, where nothing can be made beside it. The old ones step aside first, and come back
    /// where a step fails, or by [`recover`] where the process ended in between.
    fn move_entries(&self, keeps: &Keeps) -> io::Result<Option<PathBuf>> {
        let old = self.target.join(format!("{OLD_PREFIX}entries"));
        fs::create_dir(&old)?;
        let mut new_names: Vec<_> = entries(&self.building)?.iter().map(fs::DirEntry::file_name).collect();
        new_names.retain(|name| !is_ours(name));
        let goes = |name: &OsStr| !is_ours(name) && (new_names.iter().any(|n| n == name) || !keeps(Path::new(name)));
        let mut moved = vec![];
        let result = (|| {
            for entry in entries(&self.target)?.iter().filter(|entry| goes(&entry.file_name())) {
                point(Step::Rename)?;
                fs::rename(entry.path(), old.join(entry.file_name()))?;
            }
            for name in &new_names {
                point(Step::Rename)?;
                fs::rename(self.building.join(name), self.target.join(name))?;
                moved.push(self.target.join(name));
            }
            Ok(())
        })();
        if let Err(error) = result {
            moved.iter().for_each(|path| remove_entry(path).unwrap_or_default());
            put_back(&old, &self.target)?;
            return Err(error);
        }
        let _ = sync_directory(&self.target);
        let _ = fs::remove_dir_all(&self.building);
        let done = self.target.join(format!("{TEMPORARY_PREFIX}old"));
        fs::rename(&old, &done)?;
        Ok(Some(done))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.is_done {
            self.lock = None;
            let _ = fs::remove_dir_all(&self.building); // the reason to report is another one
        }
    }
}

/// Puts back the old folder of a process that ended while it replaced `target`, and removes folders that nobody builds any more.
pub fn recover(target: &Path) -> io::Result<()> {
    let folder = parent(target);
    let old = folder.join(format!("{OLD_PREFIX}{}", name_of(target)));
    if old.is_dir() {
        if target.exists() { fs::remove_dir_all(&old)? } else { fs::rename(&old, target)? }
    }
    let aside = target.join(format!("{OLD_PREFIX}entries"));
    if aside.is_dir() {
        put_back(&aside, target)?;
    }
    let beside = building_prefix(target);
    let inside = building_prefix(Path::new(""));
    for (folder, prefix) in [(folder, beside), (target, inside)] {
        let Ok(entries) = entries(folder) else { continue };
        for entry in entries.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix)) {
            // A folder without its lock was complete or is being removed; one whose lock is free has lost its process.
            if lock(&entry.path().join(LOCK_FILE)).is_ok() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    let _ = fs::remove_dir_all(target.join(format!("{TEMPORARY_PREFIX}old")));
    Ok(())
}

/// Moves entries back to where they were.
fn put_back(old: &Path, target: &Path) -> io::Result<()> {
    for entry in entries(old)? {
        let place = target.join(entry.file_name());
        remove_entry(&place)?;
        fs::rename(entry.path(), place)?;
    }
    fs::remove_dir(old)
}

/// Absolute, with links resolved as far as it exists; its parents are made.
fn resolved(target: &Path) -> io::Result<PathBuf> {
    if let Ok(path) = target.canonicalize() {
        return Ok(path);
    }
    // A link to nothing: its target is made.
    if let Ok(to) = fs::read_link(target) {
        return resolved(&parent(target).join(to));
    }
    let path = std::path::absolute(target)?;
    fs::create_dir_all(parent(&path))?;
    Ok(parent(&path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

/// A new folder beside `target`, or within it where it exists and nothing can be put or renamed beside it.
fn make_building(target: &Path) -> io::Result<PathBuf> {
    point(Step::Write)?;
    let beside = !is_mount(target);
    let made = if beside {
        make_folder(parent(target), &building_prefix(target))
    } else {
        Err(ErrorKind::CrossesDevices.into())
    };
    match made {
        Err(_) if target.is_dir() => make_folder(target, &building_prefix(Path::new(""))),
        made => made,
    }
}

/// Makes a folder of ordinary permissions with a name that begins so.
fn make_folder(folder: &Path, prefix: &str) -> io::Result<PathBuf> {
    let mut number = std::process::id();
    loop {
        let path = folder.join(format!("{prefix}{number:x}"));
        match fs::create_dir(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => number = number.wrapping_add(0x1_0001),
            made => return made.map(|()| path),
        }
    }
}

/// Whether a folder is where another file system begins: nothing can be renamed over it.
#[cfg(unix)]
fn is_mount(target: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    target.is_dir() && device(target) != device(parent(target))
}

#[cfg(not(unix))]
fn is_mount(_target: &Path) -> bool {
    false
}

fn building_prefix(target: &Path) -> String {
    format!("{TEMPORARY_PREFIX}{}-", name_of(target))
}

/// Whether an entry is one of these leftovers.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name == LOCK_FILE || name.starts_with(TEMPORARY_PREFIX) || name.starts_with(OLD_PREFIX)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    fs::read_dir(folder)?.collect()
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_entry(path: &Path) -> io::Result<()> {
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { remove_file(path) }
}

/// Locks a file, which is made; fails where another process holds it.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).write(true).truncate(false).open(path)?;
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
        // Some network file systems have no locks; building there is better than refusing.
        Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(file),
    }
}

/// Gives the parts of an entry that stay a second name without moving them, so that the old folder stays whole: hard links, or
/// copies where there are none.
fn carry_over(from: &Path, to: &Path, path: &Path, keeps: &Keeps) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        let stays = keeps(path);
        if stays {
            fs::create_dir_all(to)?;
        }
        for entry in entries(from)? {
            let name = entry.file_name();
            let keeps: &Keeps = if stays { &|_| true } else { keeps };
            carry_over(&entry.path(), &to.join(&name), &path.join(&name), keeps)?;
        }
        return if to.is_dir() { sync_directory(to) } else { Ok(()) };
    }
    if !keeps(path) || fs::symlink_metadata(to).is_ok() {
        return Ok(());
    }
    point(Step::Write)?;
    fs::create_dir_all(parent(to))?;
    if kind.is_symlink() {
        return copy_link(from, to);
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()))
}

#[cfg(unix)]
fn copy_link(from: &Path, to: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(fs::read_link(from)?, to)
}

#[cfg(not(unix))]
fn copy_link(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to).map(|_| ())
}

/// Exchanges two folders in one step.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_a: &Path, _b: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
