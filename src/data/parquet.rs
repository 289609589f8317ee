//! The rows of a `.parquet` file: one column of strings as documents, or whole rows as JSON objects. Needs the feature `parquet`,
//! because the crate that reads the format and its compressions takes longer to build than all other data formats together.
//!
//! Of documents, rows without a value are passed over, as empty documents are, and a batch of rows is held in memory at a time.

use std::{
    fs::File,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use serde_json::Value;

use super::pieces::Documents;
use crate::{error::Result, fail};

/// Whether a file is Parquet by its name.
pub(super) fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "parquet")
}

/// Says how to get a program that reads the format.
#[cfg(not(feature = "parquet"))]
fn unavailable<T>(path: &Path) -> Result<T> {
    let remedy = "build it with `cargo build --release --features parquet`, or convert the file to .jsonl";
    fail!(Input, "{} cannot be read: this wgpt was built without Parquet; {remedy}", path.display())
}

#[cfg(not(feature = "parquet"))]
pub(super) fn open(_: File, path: &Path, _: &Arc<str>, _: Arc<AtomicU64>) -> Result<Box<dyn Documents>> {
    unavailable(path)
}

#[cfg(not(feature = "parquet"))]
pub(super) fn objects(path: &Path) -> Result<Vec<Value>> {
    unavailable(path)
}

/// All rows as JSON objects, a list of groups as an array of objects.
#[cfg(feature = "parquet")]
pub(super) fn objects(path: &Path) -> Result<Vec<Value>> {
    rows::objects(path)
}

/// The documents of a column. `read` counts the file's bytes, in proportion to its rows.
#[cfg(feature = "parquet")]
pub(super) fn open(file: File, path: &Path, column: &Arc<str>, read: Arc<AtomicU64>) -> Result<Box<dyn Documents>> {
    rows::Rows::open(file, path, column, read).map(|rows| Box::new(rows) as Box<dyn Documents>)
}

#[cfg(feature = "parquet")]
mod rows {
    use std::{path::PathBuf, sync::atomic::Ordering::Relaxed, vec::IntoIter};

    use parquet::{
        basic::Type,
        column::reader::{ColumnReader, ColumnReaderImpl},
        data_type::{ByteArray, ByteArrayType},
        errors::ParquetError,
        file::reader::{FileReader, SerializedFileReader},
        schema::types::ColumnDescriptor,
    };

    use super::*;
    use crate::{
        data::pieces::{Document, Place},
        error::Error,
        files::one_line,
    };

    /// Rows that are decoded at a time.
    const BATCH: usize = 256;

    pub struct Rows {
        reader: SerializedFileReader<File>,
        path: PathBuf,
        column: usize,
        max_level: i16,
        next_group: usize,
        group: Option<ColumnReaderImpl<ByteArrayType>>,
        /// Values of rows that are decoded; None where a row has none.
        batch: IntoIter<Option<ByteArray>>,
        /// Of the row handed out last, counted from one.
        number: u64,
        read: Arc<AtomicU64>,
        row_bytes: f64,
        start_bytes: u64,
    }

    impl Rows {
        pub fn open(file: File, path: &Path, column: &str, read: Arc<AtomicU64>) -> Result<Rows> {
            let size_bytes = file.metadata().map_err(Error::io("read", path))?.len();
            let reader = SerializedFileReader::new(file).map_err(|cause| damaged(path, &cause))?;
            let metadata = reader.metadata().file_metadata();
            let columns = metadata.schema_descr().columns();
            let found = columns.iter().position(|descriptor| descriptor.path().parts() == [column]);
            let Some(column) = found.filter(|&index| is_text(&columns[index])) else {
                let names: Vec<_> = columns.iter().filter(|c| is_text(c)).map(|c| c.path().string()).collect();
                let has = if names.is_empty() { "none at all".to_string() } else { one_line(&names.join(", ")) };
                fail!(Input, "{} has no column `{column}` of text, but {has}; give --column NAME", path.display());
            };
            let (max_level, rows) = (columns[column].max_def_level(), metadata.num_rows().max(1));
            Ok(Rows {
                path: path.to_path_buf(),
                column,
                max_level,
                next_group: 0,
                group: None,
                batch: Vec::new().into_iter(),
                number: 0,
                row_bytes: size_bytes as f64 / rows as f64,
                start_bytes: read.load(Relaxed),
                read,
                reader,
            })
        }

        /// Decodes the next rows; false at the end.
        fn next_batch(&mut self) -> std::result::Result<bool, ParquetError> {
            loop {
                if let Some(group) = &mut self.group {
                    let (mut levels, mut values) = (Vec::new(), Vec::new());
                    let (rows, _, _) = group.read_records(BATCH, Some(&mut levels), None, &mut values)?;
                    if rows > 0 {
                        let mut values = values.into_iter();
                        let value = |row: usize| {
                            let is_there = self.max_level == 0 || levels.get(row) == Some(&self.max_level);
                            if is_there { values.next() } else { None }
                        };
                        self.batch = (0..rows).map(value).collect::<Vec<_>>().into_iter();
                        return Ok(true);
                    }
                    self.group = None;
                }
                if self.next_group == self.reader.num_row_groups() {
                    return Ok(false);
                }
                let group = self.reader.get_row_group(self.next_group)?;
                self.next_group += 1;
                match group.get_column_reader(self.column)? {
                    ColumnReader::ByteArrayColumnReader(reader) => self.group = Some(reader),
                    _ => return Err(ParquetError::General("the column is not the same in all row groups".into())),
                }
            }
        }
    }

    impl Documents for Rows {
        fn next_document(&mut self) -> Result<Option<Document>> {
            loop {
                let Some(value) = self.batch.next() else {
                    if !self.next_batch().map_err(|cause| damaged(&self.path, &cause))? {
                        return Ok(None);
                    }
                    continue;
                };
                self.number += 1;
                self.read.store(self.start_bytes + (self.row_bytes * self.number as f64) as u64, Relaxed);
                let Some(value) = value else { continue };
                let number = self.number;
                let text = String::from_utf8(value.data().to_vec()).map_err(|cause| {
                    let (at, file) = (cause.utf8_error().valid_up_to(), self.path.display());
                    Error::Input(format!(
                        "there is no valid UTF-8 at byte {at} of row {number} of {file}; give a column of text"
                    ))
                })?;
                return Ok(Some(Document::new(text, Place::record(&self.path, "row", number))));
            }
        }
    }

    pub fn objects(path: &Path) -> Result<Vec<Value>> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let reader = SerializedFileReader::new(file).map_err(|cause| damaged(path, &cause))?;
        let rows = reader.get_row_iter(None).map_err(|cause| damaged(path, &cause))?;
        rows.map(|row| row.map(|row| row.to_json_value()).map_err(|cause| damaged(path, &cause))).collect()
    }

    /// Whether a column holds one string per row.
    fn is_text(column: &ColumnDescriptor) -> bool {
        column.physical_type() == Type::BYTE_ARRAY && column.max_rep_level() == 0
    }

    fn damaged(path: &Path, cause: &ParquetError) -> Error {
        let cause = one_line(&cause.to_string());
        Error::Input(format!("{} cannot be read as Parquet ({cause}); write it anew", path.display()))
    }
}
