//! The container of GGUF version 3: a header, typed metadata, descriptions of tensors, and their bytes, all little-endian.
//!
//! Source: docs/gguf.md of <https://github.com/ggml-org/ggml>.

use std::io::{self, Write};

use crate::graph::quantisation::BLOCK;

/// Tensor data and every tensor in it start at multiples of this many bytes.
pub const ALIGNMENT: u64 = 32;
const VERSION: u32 = 3;

/// A value of the metadata.
pub enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Integers(&'a [i32]),
    Texts(&'a [String]),
}

/// How a tensor's values are stored, with ggml's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    F32 = 0,
    F16 = 1,
    /// Blocks of 32 values: their scale as f16, then 32 signed bytes.
    Q8_0 = 8,
}

impl TensorType {
    /// Bytes of `values` values; for q8_0 these are whole blocks.
    pub fn size_bytes(self, values: usize) -> u64 {
        let values = values as u64;
        match self {
            TensorType::F32 => 4 * values,
            TensorType::F16 => 2 * values,
            TensorType::Q8_0 => values / BLOCK as u64 * (2 + BLOCK as u64),
        }
    }
}

/// A tensor's entry in the file.
pub struct Description {
    pub name: String,
    /// Row-major shape, the last one contiguous; the file lists it the other way round.
    pub shape: Vec<usize>,
    pub tensor_type: TensorType,
}

impl Description {
    /// Bytes of the tensor without the padding after it.
    pub fn size_bytes(&self) -> u64 {
        self.tensor_type.size_bytes(self.shape.iter().product())
    }
}

/// Writes everything in front of the tensor bytes, padding included.
pub fn write_head(w: &mut impl Write, metadata: &[(&str, Value)], tensors: &[&Description]) -> io::Result<()> {
    let mut w = Counting { inner: w, written: 0 };
    w.write_all(b"GGUF")?;
    w.write_all(&VERSION.to_le_bytes())?;
    w.write_all(&(tensors.len() as u64).to_le_bytes())?;
    w.write_all(&(metadata.len() as u64).to_le_bytes())?;
    for (key, value) in metadata {
        write_text(&mut w, key)?;
        write_value(&mut w, value)?;
    }
    let mut offset = 0;
    for tensor in tensors {
        write_text(&mut w, &tensor.name)?;
        w.write_all(&(tensor.shape.len() as u32).to_le_bytes())?;
        for &size in tensor.shape.iter().rev() {
            w.write_all(&(size as u64).to_le_bytes())?;
        }
        w.write_all(&(tensor.tensor_type as u32).to_le_bytes())?;
        w.write_all(&u64::to_le_bytes(offset))?;
        offset += tensor.size_bytes().next_multiple_of(ALIGNMENT);
    }
    let written = w.written;
    write_padding(&mut w, written)
}

/// Zeros up to the next aligned place after `bytes` bytes.
pub fn write_padding(w: &mut impl Write, bytes: u64) -> io::Result<()> {
    let zeros = [0; ALIGNMENT as usize];
    w.write_all(&zeros[..(bytes.next_multiple_of(ALIGNMENT) - bytes) as usize])
}

/// A value after the number of its type; an array says its elements' type and how many there are.
fn write_value(w: &mut impl Write, value: &Value) -> io::Result<()> {
    const UINT32: u32 = 4;
    const INT32: u32 = 5;
    const FLOAT32: u32 = 6;
    const BOOL: u32 = 7;
    const STRING: u32 = 8;
    const ARRAY: u32 = 9;
    let mut types = |numbers: &[u32]| w.write_all(bytemuck::cast_slice(numbers));
    match value {
        Value::U32(value) => types(&[UINT32]).and_then(|()| w.write_all(&value.to_le_bytes())),
        Value::F32(value) => types(&[FLOAT32]).and_then(|()| w.write_all(&value.to_le_bytes())),
        Value::Bool(value) => types(&[BOOL]).and_then(|()| w.write_all(&[u8::from(*value)])),
        Value::Text(value) => types(&[STRING]).and_then(|()| write_text(w, value)),
        Value::Integers(values) => {
            types(&[ARRAY, INT32])?;
            w.write_all(&(values.len() as u64).to_le_bytes())?;
            w.write_all(bytemuck::cast_slice(values))
        }
        Value::Texts(values) => {
            types(&[ARRAY, STRING])?;
            w.write_all(&(values.len() as u64).to_le_bytes())?;
            values.iter().try_for_each(|text| write_text(w, text))
        }
    }
}

fn write_text(w: &mut impl Write, text: &str) -> io::Result<()> {
    w.write_all(&(text.len() as u64).to_le_bytes())?;
    w.write_all(text.as_bytes())
}

/// Counts the bytes that pass through.
struct Counting<'a, W> {
    inner: &'a mut W,
    written: u64,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
