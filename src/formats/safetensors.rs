//! safetensors: the header's length (u64, little-endian), a JSON header, the tensors back to back.
//!
//! Files from here carry a SHA-256 of the tensor part in their metadata.

mod write;

use std::path::Path;

use ::safetensors::tensor::{Dtype, Metadata};

pub use super::tensor_file::TensorFile;
use super::tensor_file::{Bytes, Entry, Layout, Table, ValueType};
use crate::error::{Error, Result};
use crate::files::one_line;

pub use write::{NamedTensor, WeightType, write_tensors_to, write_weights};

/// Bytes of the header's length at the front of a file.
const LENGTH_BYTES: usize = 8;

impl TensorFile {
    /// Maps a safetensors file and checks that its header is sound and describes exactly the bytes that follow.
    pub fn open(path: &Path) -> Result<Self> {
        from_bytes(path, Bytes::map(path)?)
    }

    /// Takes a safetensors file that is compiled in; `name` is its name in errors.
    pub fn embedded(name: &Path, bytes: &'static [u8]) -> Result<Self> {
        from_bytes(name, Bytes::Embedded(bytes))
    }
}

fn from_bytes(path: &Path, bytes: Bytes) -> Result<TensorFile> {
    let table = table(bytes.all()).map_err(|problem| {
        Error::Input(format!(
            "{} is damaged or not a safetensors file ({}); copy it again",
            path.display(),
            one_line(&problem)
        ))
    })?;
    Ok(TensorFile::new(path, bytes, table))
}

/// The header. The crate checks names, types, shapes and that offsets are contiguous; the comparison with the file's length is
/// made here, because the crate's own can overflow on hostile headers.
fn table(bytes: &[u8]) -> std::result::Result<Table, String> {
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
    let data_start = LENGTH_BYTES + header.len();
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let value_type = match info.dtype {
            Dtype::F32 => ValueType::F32,
            Dtype::F16 => ValueType::F16,
            Dtype::BF16 => ValueType::BF16,
            other => ValueType::Other(format!("{other:?}")),
        };
        let range = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
        (name, Entry { value_type, shape: info.shape.clone(), range, layout: Layout::Rows })
    });
    let tensors = tensors.collect();
    Ok(Table { tensors, metadata: metadata.metadata().clone().unwrap_or_default(), data_start })
}
