//! Files of named tensors: the header's length (u64, little-endian), a JSON header, the tensors back to back.
//!
//! A file is read through a memory map or from bytes compiled in. Files from here carry a SHA-256 of the tensor part in
//! their metadata.

mod write;

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, Metadata, TensorInfo};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::fail;
use crate::files::{HashingWriter, one_line};

pub use write::{NamedTensor, WeightType, write_tensors_to, write_weights};

/// Metadata key of the SHA-256 over all tensor bytes in file order.
const CHECKSUM_KEY: &str = "wgpt_sha256";
/// Bytes of the header's length at the front of a file.
const LENGTH_BYTES: usize = 8;
/// Values that are converted and handed on at a time: 4 MiB of f32.
const PIECE: usize = 1 << 20;

// Tensor bytes are little-endian on disk and are used as they are.
const _: () = assert!(cfg!(target_endian = "little"), "big-endian machines are not supported");

/// A safetensors file with a checked header.
///
/// While one is mapped, Windows refuses to delete or replace the file; drop it before saving over it.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Bytes,
    header: Metadata,
    /// Where the tensor part starts in the bytes.
    data_start: usize,
}

/// Where a file's bytes are.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

impl TensorFile {
    /// Maps a file and checks that its header is sound and describes exactly the bytes that follow.
    pub fn open(path: &Path) -> Result<Self> {
        let is_file = std::fs::metadata(path).map_err(Error::io("open", path))?.is_file();
        if !is_file {
            fail!(Input, "{} is not a file", path.display());
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the map is only read, and the files from here are replaced by rename and never changed in place. If
        // another program truncates the file meanwhile, the process ends by a signal; no portable guard exists.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Self::from_bytes(path, Bytes::Mapped(map))
    }

    /// Takes a file that is compiled in; `name` is its name in errors.
    pub fn embedded(name: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::from_bytes(name, Bytes::Embedded(bytes))
    }

    fn from_bytes(path: &Path, bytes: Bytes) -> Result<Self> {
        let (header, data_start) = parse_header(bytes.all()).map_err(|problem| {
            Error::Input(format!(
                "{} is damaged or not a safetensors file ({}); copy it again",
                path.display(),
                one_line(&problem)
            ))
        })?;
        Ok(Self { path: path.to_path_buf(), bytes, header, data_start })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors in the order of their bytes.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// The shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// A value of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The values of a tensor in row-major order: borrowed where they are aligned f32, converted from f16 and bf16.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        let info = self.readable(name)?;
        let bytes = &self.bytes.all()[self.range(info)];
        if let (Dtype::F32, Ok(values)) = (info.dtype, bytemuck::try_cast_slice(bytes)) {
            return Ok(Cow::Borrowed(values));
        }
        let mut values = vec![];
        convert(info.dtype, bytes, &mut values);
        Ok(values.into())
    }

    /// As [`TensorFile::read`], piece by piece: `take` gets the index of each piece's first value and the values. Pages
    /// that have been read no longer count as this process's memory.
    pub fn read_pieces(&self, name: &str, mut take: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
        let info = self.readable(name)?;
        let range = self.range(info);
        let mut converted = vec![];
        for (i, piece) in split(range, PIECE * info.dtype.bitsize() / 8).enumerate() {
            self.bytes.will_need(&piece);
            let bytes = &self.bytes.all()[piece.clone()];
            match (info.dtype, bytemuck::try_cast_slice(bytes)) {
                (Dtype::F32, Ok(values)) => take(i * PIECE, values)?,
                _ => {
                    convert(info.dtype, bytes, &mut converted);
                    take(i * PIECE, &converted)?;
                }
            }
            self.bytes.release(&piece);
        }
        Ok(())
    }

    /// Where a tensor's bytes start in the file, if it has the tensor.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.header.info(name).map(|info| self.range(info).start)
    }

    /// Fails unless the tensor exists in a readable type with this shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let info = self.readable(name)?;
        if info.shape != shape {
            fail!(
                Input,
                "{}: {} has shape {:?}, but {shape:?} is expected; config.json does not belong to it",
                self.path.display(),
                one_line(name),
                info.shape
            );
        }
        Ok(())
    }

    /// Compares the tensor bytes with the checksum in the metadata; a file without one passes.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = self.metadata(CHECKSUM_KEY) else { return Ok(()) };
        let mut hashing = HashingWriter::new(io::sink());
        for piece in split(self.data_start..self.bytes.all().len(), 4 * PIECE) {
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
        let (a, b) = (self.info(name)?, other.info(others_name)?);
        if (a.dtype, &a.shape) != (b.dtype, &b.shape) {
            return Ok(false);
        }
        let mut pieces = split(self.range(a), 4 * PIECE).zip(split(other.range(b), 4 * PIECE));
        Ok(pieces.all(|(a, b)| {
            let same = self.bytes.all()[a.clone()] == other.bytes.all()[b.clone()];
            self.bytes.release(&a);
            other.bytes.release(&b);
            same
        }))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| {
            Error::Input(format!(
                "{} has no tensor {:?}; it is from something else",
                self.path.display(),
                one_line(name)
            ))
        })
    }

    /// A tensor whose type can be read.
    fn readable(&self, name: &str) -> Result<&TensorInfo> {
        let info = self.info(name)?;
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            fail!(
                Input,
                "{}: {} has type {:?}, but only F32, F16 and BF16 can be read; convert the model",
                self.path.display(),
                one_line(name),
                info.dtype
            );
        }
        Ok(info)
    }

    /// In range: `parse_header` found the offsets contiguous and their end equal to the file's.
    fn range(&self, info: &TensorInfo) -> Range<usize> {
        self.data_start + info.data_offsets.0..self.data_start + info.data_offsets.1
    }
}

impl Bytes {
    fn all(&self) -> &[u8] {
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

/// The header and where the tensor part starts. The crate checks names, types, shapes and that offsets are contiguous;
/// the comparison with the file's length is made here, because the crate's own can overflow on hostile headers.
fn parse_header(bytes: &[u8]) -> std::result::Result<(Metadata, usize), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!("it has only {} bytes", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
        format!("its header should have {length} bytes, but only {} bytes follow; it may be truncated", rest.len())
    })?;
    let metadata: Metadata = serde_json::from_slice(header).map_err(|error| format!("bad header: {error}"))?;
    let (expected, found) = (metadata.data_len(), rest.len() - header.len());
    if expected != found {
        return Err(format!("the header describes {expected} bytes of tensors, but {found} follow"));
    }
    Ok((metadata, LENGTH_BYTES + header.len()))
}

/// Replaces `values` by those that the bytes mean. F32 comes here only where it is not aligned, which the format allows.
fn convert(dtype: Dtype, bytes: &[u8], values: &mut Vec<f32>) {
    values.clear();
    match dtype {
        Dtype::F16 => match bytemuck::try_cast_slice::<u8, u16>(bytes) {
            Ok(halves) => {
                values.resize(halves.len(), 0.0);
                halves.reinterpret_cast::<f16>().convert_to_f32_slice(values); // many at once
            }
            Err(_) => values.extend(bytes.as_chunks().0.iter().map(|&two| f16::from_le_bytes(two).to_f32())),
        },
        Dtype::BF16 => values.extend(bytes.as_chunks().0.iter().map(|&[a, b]| f32::from_le_bytes([0, 0, a, b]))),
        _ => values.extend(bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four))),
    }
}
