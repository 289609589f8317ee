//! Preferences: pairs of answers of which one is better, as trl has them.
//!
//! `.jsonl` or `.parquet`, one object per row: `prompt` (optional), `chosen`, `rejected`, all texts, and `margin` (optional), a number that is
//! larger the better the chosen answer is. Lines are counted from 1; empty lines are skipped.

use std::path::Path;

use serde::Deserialize;

use super::lines::{self, Row};
use crate::error::Result;
use crate::fail;

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

const ROW: Row = Row { one: "preference", many: "preferences", form: "an object with `chosen` and `rejected` texts" };

/// All pairs of a file; errors name the line.
pub fn read(path: &Path) -> Result<Vec<Preference>> {
    lines::read(path, ROW)?.into_iter().map(|(line, pair)| checked(path, line, pair)).collect()
}

fn checked(path: &Path, line: usize, pair: Preference) -> Result<Preference> {
    let place = lines::place(path, line);
    if pair.chosen == pair.rejected {
        fail!(Input, "{place}: the chosen and the rejected answer are the same; remove the pair");
    }
    if !pair.margin.is_finite() {
        fail!(Input, "{place}: the margin {} is not a number", pair.margin);
    }
    Ok(Preference { line, ..pair })
}
