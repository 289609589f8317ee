//! Rows of a file of examples: `.jsonl`, a JSON object on each line, or `.parquet`. Lines and rows are counted from 1; empty lines
//! are skipped.

use std::path::Path;

use serde::de::DeserializeOwned;

use super::parquet;
use super::pieces::BYTE_ORDER_MARK;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// Names of a file's rows, for errors.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub one: &'static str,
    pub many: &'static str,
    /// The form of a row: "an object with ...".
    pub form: &'static str,
}

/// All rows of a file with their lines, at least one; errors name the line.
pub fn read<T: DeserializeOwned>(path: &Path, row: Row) -> Result<Vec<(usize, T)>> {
    let refused = |line: usize, why: &str| {
        Error::Input(format!("{} is no {} ({why}): write {}", place(path, line), row.one, row.form))
    };
    let rows = if parquet::is_parquet(path) {
        let rows = (1..).zip(parquet::objects(path)?);
        let read = |(line, value)| match serde_json::from_value(value) {
            Ok(value) => Ok((line, value)),
            Err(why) => Err(refused(line, &one_line(&why.to_string()))),
        };
        rows.map(read).collect::<Result<Vec<_>>>()?
    } else {
        lines(path, row, &refused)?
    };
    if rows.is_empty() {
        fail!(Input, "{} has no {} in it", path.display(), row.many);
    }
    Ok(rows)
}

/// The rows of a `.jsonl` file.
fn lines<T: DeserializeOwned>(
    path: &Path,
    row: Row,
    refused: &dyn Fn(usize, &str) -> Error,
) -> Result<Vec<(usize, T)>> {
    let text = text(path, row.many)?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(line, text): (usize, &str)| match serde_json::from_str(text) {
        Ok(value) => Ok((line, value)),
        Err(why) => {
            // A row is one line, and the error names that of the file.
            let why = one_line(&why.to_string()).replace(" at line 1 column ", ", column ");
            Err(refused(line, &why))
        }
    };
    lines.map(read).collect()
}

/// The text of a file of `many` rows, without a byte order mark; an error names the first line that is not UTF-8.
pub fn text(path: &Path, many: &str) -> Result<String> {
    let bytes = std::fs::read(path).map_err(Error::io(&format!("read the {many}"), path))?;
    let mut text = String::from_utf8(bytes).map_err(|cause| {
        let valid = &cause.as_bytes()[..cause.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        Error::Input(format!("line {line} of {} is not UTF-8 text; convert the file", path.display()))
    })?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    Ok(text)
}

/// The name of a line, or of a row, in errors.
pub fn place(path: &Path, line: usize) -> String {
    let unit = if parquet::is_parquet(path) { "row" } else { "line" };
    format!("{unit} {line} of {}", path.display())
}
