//! Sources by name, and their shares in a mixture.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use wgpt::error::Result;
use wgpt::fail;

/// Data and its share, where it has one: `books/`, or `books/=0.6`.
#[derive(Clone, Debug)]
pub struct Portion {
    pub path: PathBuf,
    pub share: Option<f64>,
}

impl Portion {
    /// The portions that are given: one, or several with shares and different names.
    pub fn parse(given: &[String]) -> Result<Vec<Portion>> {
        let one = |text: &String| match Path::new(text).exists() || !text.contains('=') {
            true => Ok(Portion { path: text.into(), share: None }),
            false => share("--data", text).map(|(path, share)| Portion { path: path.into(), share: Some(share) }),
        };
        let portions = given.iter().map(one).collect::<Result<Vec<_>>>()?;
        if let (true, Some(portion)) = (portions.len() > 1, portions.iter().find(|portion| portion.share.is_none())) {
            let path = portion.path.display();
            fail!(Usage, "--data {path} is one of several and has no share: write --data {path}=0.5");
        }
        check_names(portions.iter().map(|portion| source_name(&portion.path)))?;
        Ok(portions)
    }
}

/// A name and its share: `books=0.6`.
pub fn share(flag: &str, text: &str) -> Result<(String, f64)> {
    let Some((name, share)) = text.rsplit_once('=') else {
        fail!(Usage, "{flag} {text} has no share: write {text}=0.5");
    };
    match share.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok((name.trim().to_string(), number)),
        _ => fail!(Usage, "{flag} {text}: {share} is no share; give a number above 0"),
    }
}

/// The name of a source: that of its folder, or of its file without extensions.
pub fn source_name(path: &Path) -> String {
    let last = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    if path.is_dir() { last } else { last.split('.').next().unwrap_or_default().to_string() }
}

/// Refuses two sources of the same name.
pub fn check_names<T: Into<String>>(names: impl Iterator<Item = T>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for name in names.map(Into::into) {
        if seen.contains(&name) {
            fail!(Usage, "two sources are called {name}: give them different names");
        }
        seen.insert(name);
    }
    Ok(())
}
