//! Preferences: pairs of answers of which one is better, as trl has them.
//!
//! `.jsonl`, one object per line: `prompt` (optional), `chosen`, `rejected`, all texts, and `margin` (optional), a number that is
//! larger the better the chosen answer is. Lines are counted from 1; empty lines are skipped.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// One pair.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Preference {
    /// Where it is in its file.
    #[serde(skip)]
    pub line: usize,
    #[serde(default)]
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
    #[serde(default)]
    pub margin: f32,
}

/// All pairs of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Preference>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read the preferences", path))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let pairs = lines.map(|(line, text)| pair(path, line, text)).collect::<Result<Vec<_>>>()?;
    if pairs.is_empty() {
        fail!(Input, "{} has no preferences in it", path.display());
    }
    Ok(pairs)
}

fn pair(path: &Path, line: usize, text: &str) -> Result<Preference> {
    let place = format!("line {line} of {}", path.display());
    let pair: Preference = serde_json::from_str(text).map_err(|why| {
        let why = one_line(&why.to_string());
        Error::Input(format!("{place} is no preference ({why}): write an object with `chosen` and `rejected` texts"))
    })?;
    if pair.chosen == pair.rejected {
        fail!(Input, "{place}: the chosen and the rejected answer are the same; remove the pair");
    }
    if !pair.margin.is_finite() {
        fail!(Input, "{place}: the margin {} is not a number", pair.margin);
    }
    Ok(Preference { line, ..pair })
}
