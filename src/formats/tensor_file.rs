//! A file of named tensors, whatever its container: where each tensor's bytes are, and how they become f32.
//!
//! A file is read through a memory map or from bytes compiled in. [`super::safetensors`] and [`super::gguf`] read headers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::Mmap;

use super::blocks;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::{HashingWriter, one_line};

/// Metadata key of the SHA-256 over all tensor bytes in file order.
pub(super) const CHECKSUM_KEY: &str = "wgpt_sha256";
/// Values that are converted and handed on at a time: 4 MiB of f32, and whole blocks of every type.
pub(super) const PIECE: usize = 1 << 20;

// Tensor bytes are little-endian on disk and are used as they are.
const _: () = assert!(cfg!(target_endian = "little"), "big-endian machines are not supported");

/// A file of tensors with a checked header.
///
/// While one is mapped, Windows refuses to delete or replace the file; drop it before saving over it.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    table: Table,
}

/// The header of a file: what it holds and where.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub tensors: HashMap<String, Entry>,
    pub metadata: HashMap<String, String>,
    /// Where the tensor part starts in the bytes.
    pub data_start: usize,
}

/// A tensor of a file.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub value_type: ValueType,
    /// Row-major shape, the last one contiguous.
    pub shape: Vec<usize>,
    /// Its bytes in the file: those of its values, within the file.
    pub range: Range<usize>,
    pub layout: Layout,
}

/// How the values of a tensor are stored. Names are those of safetensors, and of ggml.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q6K,
    /// One that is not read, by its name.
    Other(String),
}

/// In which order a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Row by row.
    Rows,
    /// Column by column.
    Transposed,
    /// Row by row, but the two halves of so many heads' rows alternate: rows 0, HS / 2, 1, HS / 2 + 1, ... of each head.
    Interleaved(usize),
}

impl ValueType {
    /// Values of a block, and its bytes; none where the type is not read.
    pub fn block(&self) -> Option<(usize, usize)> {
        match self {
            ValueType::F32 => Some((1, 4)),
            ValueType::F16 | ValueType::BF16 => Some((1, 2)),
            ValueType::Q8_0 => Some((blocks::Q8_0, blocks::Q8_0_BYTES)),
            ValueType::Q4_0 => Some((blocks::Q4_0, blocks::Q4_0_BYTES)),
            ValueType::Q6K => Some((blocks::Q6_K, blocks::Q6_K_BYTES)),
            ValueType::Other(_) => None,
        }
    }

    /// Bytes of so many values, which are whole blocks; nothing where they are not, or are too many to count.
    pub fn size_bytes(&self, values: usize) -> Option<usize> {
        let (block, bytes) = self.block()?;
        if values.is_multiple_of(block) { (values / block).checked_mul(bytes) } else { None }
    }
}

impl Layout {
    /// The row of a matrix of `rows` rows that is stored as row number `stored`. Not for [`Layout::Transposed`].
    pub fn row(self, stored: usize, rows: usize) -> usize {
        match self {
            Layout::Rows | Layout::Transposed => stored,
            Layout::Interleaved(heads) => {
                let size = rows / heads;
                let (head, place) = (stored / size, stored % size);
                head * size + place % 2 * (size / 2) + place / 2
            }
        }
    }

    /// The values of a tensor in rows, from those that are stored.
    fn to_rows(self, stored: &[f32], shape: &[usize]) -> Vec<f32> {
        let rows = shape.first().copied().unwrap_or(1);
        let columns = stored.len().checked_div(rows).unwrap_or(0);
        if self == Layout::Transposed {
            return (0..stored.len()).map(|i| stored[i % columns * rows + i / columns]).collect();
        }
        let mut values = vec![0.0; stored.len()];
        for (i, from) in stored.chunks_exact(columns.max(1)).enumerate() {
            let row = self.row(i, rows) * columns;
            values[row..row + columns].copy_from_slice(from);
        }
        values
    }
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl TensorFile {
    /// A file whose header is read: ranges in the table are within the bytes.
    pub(super) fn new(path: &Path, bytes: Bytes, table: Table) -> Self {
        Self { path: path.to_path_buf(), bytes, table }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors in the order of their bytes.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.table.tensors.iter().collect();
        names.sort_by_key(|(name, entry)| (entry.range.start, entry.range.end, *name));
        names.into_iter().map(|(name, _)| name.clone()).collect()
    }

    /// The shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.table.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A value of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.table.metadata.get(key).map(String::as_str)
    }

    /// The values of a tensor in row-major order: borrowed where they are aligned f32, converted from other types.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        let entry = self.readable(name)?;
        let bytes = &self.bytes.all()[entry.range.clone()];
        let stored = match (&entry.value_type, bytemuck::try_cast_slice(bytes)) {
            (ValueType::F32, Ok(values)) => Cow::Borrowed(values),
            _ => {
                let mut values = vec![];
                convert(&entry.value_type, bytes, &mut values);
                Cow::Owned(values)
            }
        };
        match entry.layout {
            Layout::Rows => Ok(stored),
            layout => Ok(layout.to_rows(&stored, &entry.shape).into()),
        }
    }

    /// As [`TensorFile::read`], piece by piece: `take` gets the index of each piece's first value and the values. Pages
    /// that have been read no longer count as this process's memory. A tensor in another order than rows is one piece.
    pub fn read_pieces(&self, name: &str, mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let entry = self.readable(name)?;
        if entry.layout != Layout::Rows {
            let values = self.read(name)?;
            self.bytes.release(&entry.range);
            return take(0, &values);
        }
        let mut converted = vec![];
        let bytes_of_piece = entry.value_type.size_bytes(PIECE).expect("a type that is read");
        for (i, piece) in split(entry.range.clone(), bytes_of_piece).enumerate() {
            self.bytes.will_need(&piece);
            let bytes = &self.bytes.all()[piece.clone()];
            match (&entry.value_type, bytemuck::try_cast_slice(bytes)) {
                (ValueType::F32, Ok(values)) => take(i * PIECE, values)?,
                (value_type, _) => {
                    convert(value_type, bytes, &mut converted);
                    take(i * PIECE, &converted)?;
                }
            }
            self.bytes.release(&piece);
        }
        Ok(())
    }

    /// Where a tensor's bytes start in the file, if it has the tensor.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.table.tensors.get(name).map(|entry| entry.range.start)
    }

    /// Fails unless the tensor exists in a readable type with this shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = &self.readable(name)?.shape;
        if found != shape {
            fail!(
                Input,
                "{}: {} has shape {:?}, but {shape:?} is expected; config.json does not belong to it",
                self.path.display(),
                one_line(name),
                found
            );
        }
        Ok(())
    }

    /// Compares the tensor bytes with the checksum in the metadata; a file without one passes.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = self.metadata(CHECKSUM_KEY) else { return Ok(()) };
        let mut hashing = HashingWriter::new(io::sink());
        for piece in split(self.table.data_start..self.bytes.all().len(), 4 * PIECE) {
            hashing.write_all(&self.bytes.all()[piece.clone()]).map_err(Error::io("read", &self.path))?;
            self.bytes.release(&piece);
        }
        if hashing.finish() != expected {
            fail!(Input, "{} is damaged (its checksum does not match); restore it from a copy", self.path.display());
        }
        Ok(())
    }

    /// Whether two tensors, possibly of two files, have the same type, shape and bytes.
    pub fn same(&self, name: &str, other: &TensorFile, others_name: &str) -> Result<bool> {
        let (a, b) = (self.entry(name)?, other.entry(others_name)?);
        if (&a.value_type, &a.shape, a.layout) != (&b.value_type, &b.shape, b.layout) {
            return Ok(false);
        }
        let mut pieces = split(a.range.clone(), 4 * PIECE).zip(split(b.range.clone(), 4 * PIECE));
        Ok(pieces.all(|(a, b)| {
            let same = self.bytes.all()[a.clone()] == other.bytes.all()[b.clone()];
            self.bytes.release(&a);
            other.bytes.release(&b);
            same
        }))
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.table.tensors.get(name).ok_or_else(|| {
            Error::Input(format!(
                "{} has no tensor {:?}; it is from something else",
                self.path.display(),
                one_line(name)
            ))
        })
    }

    /// A tensor whose type can be read.
    fn readable(&self, name: &str) -> Result<&Entry> {
        let entry = self.entry(name)?;
        if let ValueType::Other(other) = &entry.value_type {
            fail!(
                Input,
                "{}: {} has type {other}, but only F32, F16 and BF16 can be read; convert the model",
                self.path.display(),
                one_line(name)
            );
        }
        Ok(entry)
    }
}

impl Bytes {
    /// Maps a file.
    pub fn map(path: &Path) -> Result<Self> {
        let is_file = std::fs::metadata(path).map_err(Error::io("open", path))?.is_file();
        if !is_file {
            fail!(Input, "{} is not a file", path.display());
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is only read, and the files from here are replaced by rename and never changed in place. If
        // another program truncates the file meanwhile, the process ends by a signal; no portable guard exists.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Bytes::Mapped(map))
    }

    pub fn all(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Embedded(bytes) => bytes,
        }
    }

    /// Advises the system that a range, and then the one after it, is about to be read. A failure changes nothing.
    #[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix takes advice"))]
    fn will_need(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self
            && !range.is_empty()
        {
            use memmap2::Advice;
            let next = range.end..(range.end + range.len()).min(map.len());
            if !next.is_empty() {
                let _ = map.advise_range(Advice::WillNeed, next.start, next.len());
            }
            // All pages at once, rather than a fault for every few.
            #[cfg(target_os = "linux")]
            let _ = map.advise_range(Advice::PopulateRead, range.start, range.len());
        }
    }

    /// Lets go of the memory that a range took; it is read again from the file where it is needed again.
    #[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix takes advice"))]
    fn release(&self, range: &Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = self
            && !range.is_empty()
        {
            // SAFETY: the map is never written, so its pages equal the file's and come back as they were.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }
}

/// Consecutive ranges of at most `size` that make up `range`.
fn split(range: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(size).map(move |start| start..range.end.min(start + size))
}

/// Replaces `values` by those that the bytes mean. F32 comes here only where it is not aligned, which the format allows.
fn convert(value_type: &ValueType, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    match value_type {
        ValueType::F16 => match bytemuck::try_cast_slice::<u8, u16>(bytes) {
            Ok(halves) => {
                values.resize(halves.len(), 0.0);
                halves.reinterpret_cast::<f16>().convert_to_f32_slice(values); // many at once
            }
            Err(_) => values.extend(bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32())),
        },
        ValueType::BF16 => values.extend(bytes.as_chunks().0.iter().map(|&[a, b]| f32::from_le_bytes([0, 0, a, b]))),
        ValueType::Q8_0 => bytes.as_chunks().0.iter().for_each(|block| values.extend(blocks::q8_0_values(block))),
        ValueType::Q4_0 => bytes.as_chunks().0.iter().for_each(|block| values.extend(blocks::q4_0_values(block))),
        ValueType::Q6K => bytes.as_chunks().0.iter().for_each(|block| values.extend(blocks::q6_k_values(block))),
        ValueType::F32 => values.extend(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four))),
        ValueType::Other(_) => unreachable!("a type that is not read"),
    }
}
