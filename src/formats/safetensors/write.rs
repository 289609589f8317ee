//! Writing safetensors: streamed, with sorted names, so that the same tensors give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ::safetensors::tensor::{Dtype, TensorInfo};
use half::f16;

use super::LENGTH_BYTES;
use crate::error::Result;
use crate::fail;
use crate::files::{HashingWriter, write_atomic};
use crate::formats::tensor_file::{CHECKSUM_KEY, PIECE};

/// Name, shape and values of one tensor to write; the values are in row-major order.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

/// The type in which weights are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WeightType {
    /// Every bit is kept.
    #[default]
    F32,
    /// Half the size; values are rounded to the nearest, ties to even.
    F16,
}

impl WeightType {
    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::F32 => "float32",
            WeightType::F16 => "float16",
        }
    }

    fn dtype(self) -> Dtype {
        match self {
            WeightType::F32 => Dtype::F32,
            WeightType::F16 => Dtype::F16,
        }
    }

    fn size_bytes(self) -> usize {
        self.dtype().bitsize() / 8
    }

    /// Writes values in this type.
    fn write(self, w: &mut dyn Write, values: &[f32]) -> io::Result<()> {
        match self {
            WeightType::F32 => w.write_all(bytemuck::cast_slice(values)),
            WeightType::F16 => values.chunks(PIECE).try_for_each(|piece| {
                let halves: Vec<u16> = piece.iter().map(|&value| f16::from_f32(value).to_bits()).collect();
                w.write_all(bytemuck::cast_slice(&halves))
            }),
        }
    }
}

/// Writes a model's `model.safetensors` atomically; names are those of the file ([`Config::stored`]). Refuses finite values
/// that the type cannot hold.
///
/// [`Config::stored`]: crate::models::config::Config::stored
pub fn write_weights(
    path: &Path,
    tensors: &[NamedTensor],
    metadata: &[(&str, String)],
    weights: WeightType,
) -> Result<()> {
    let too_large =
        |value: &f32| value.is_finite() && weights == WeightType::F16 && f16::from_f32(*value).is_infinite();
    for (name, _, values) in tensors {
        if let Some(value) = values.iter().find(|value| too_large(value)) {
            fail!(Input, "{name} holds {value}, which is beyond f16's largest number, 65504; write the model in f32");
        }
    }
    write_atomic(path, |w| write_typed(w, tensors, metadata, weights))
}

/// Writes tensors under their own names in f32, streaming: no copy of the values is made. Same tensors and metadata give
/// the same bytes.
///
/// Panics if a shape does not match its number of values, or if a name comes twice.
pub fn write_tensors_to(w: &mut impl Write, tensors: &[NamedTensor], metadata: &[(&str, String)]) -> io::Result<()> {
    write_typed(w, tensors, metadata, WeightType::F32)
}

fn write_typed(
    writer: &mut impl Write,
    tensors: &[NamedTensor],
    metadata: &[(&str, String)],
    weights: WeightType,
) -> io::Result<()> {
    let values_to = |w: &mut dyn Write| tensors.iter().try_for_each(|(_, _, values)| weights.write(w, values));
    let mut hashing = HashingWriter::new(io::sink());
    values_to(&mut hashing)?;
    // Sorted maps, so that the bytes do not depend on a hash map's order.
    let mut notes: BTreeMap<_, _> = metadata.iter().map(|(key, value)| (*key, value.clone())).collect();
    notes.insert("format", "pt".into());
    notes.insert(CHECKSUM_KEY, hashing.finish());
    let mut header = BTreeMap::from([("__metadata__".to_string(), serde_json::to_value(&notes)?)]);
    let mut end = 0;
    for (name, shape, values) in tensors {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}: shape {shape:?} against number of values");
        let start = end;
        end += values.len() * weights.size_bytes();
        let info = TensorInfo { dtype: weights.dtype(), shape: shape.clone(), data_offsets: (start, end) };
        let twice = header.insert(name.clone(), serde_json::to_value(info)?);
        assert!(twice.is_none(), "the tensor {name} comes twice");
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' '); // aligns the values for readers that map
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    values_to(writer)
}
