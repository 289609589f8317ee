//! The container of GGUF version 3: a header, typed metadata, descriptions of tensors, and their bytes, all little-endian.
//!
//! Source: docs/gguf.md of <https://github.com/ggml-org/ggml>.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use crate::files::one_line;
use crate::formats::tensor_file::ValueType;

/// Tensor data and every tensor in it start at multiples of this many bytes, unless `general.alignment` says otherwise.
pub const ALIGNMENT: u64 = 32;
const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// Numbers of the types of metadata.
mod kind {
    pub const UINT8: u32 = 0;
    pub const INT8: u32 = 1;
    pub const UINT16: u32 = 2;
    pub const INT16: u32 = 3;
    pub const UINT32: u32 = 4;
    pub const INT32: u32 = 5;
    pub const FLOAT32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const UINT64: u32 = 10;
    pub const INT64: u32 = 11;
    pub const FLOAT64: u32 = 12;
}

/// A value of the metadata, to write.
pub enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Integers(&'a [i32]),
    Numbers(&'a [f32]),
    Texts(&'a [String]),
}

/// A value of the metadata, as it is read.
#[derive(Debug, Clone, PartialEq)]
pub enum Metadatum {
    Integer(i64),
    Number(f64),
    Bool(bool),
    Text(String),
    Integers(Vec<i64>),
    Numbers(Vec<f64>),
    Texts(Vec<String>),
}

/// Everything in front of the tensors' bytes.
#[derive(Debug)]
pub struct Head {
    pub metadata: HashMap<String, Metadatum>,
    pub tensors: HashMap<String, Listed>,
}

/// A tensor of a file.
#[derive(Debug)]
pub struct Listed {
    /// Row-major shape, the last one contiguous.
    pub shape: Vec<usize>,
    pub value_type: ValueType,
    /// Its bytes, within the file; none where the type is not read.
    pub range: Range<usize>,
}

/// ggml's number of a type that is written.
pub fn number(value_type: &ValueType) -> u32 {
    match value_type {
        ValueType::F32 => 0,
        ValueType::F16 => 1,
        ValueType::Q4_0 => 2,
        ValueType::Q8_0 => 8,
        ValueType::Q6K => 14,
        ValueType::BF16 => 30,
        ValueType::Other(_) => unreachable!("a type that is not written"),
    }
}

/// The type of a number of ggml's.
fn value_type(number: u32) -> ValueType {
    const OTHERS: [(u32, &str); 16] = [
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (23, "IQ4_XS"),
        (28, "F64"),
    ];
    match number {
        0 => ValueType::F32,
        1 => ValueType::F16,
        2 => ValueType::Q4_0,
        8 => ValueType::Q8_0,
        14 => ValueType::Q6K,
        30 => ValueType::BF16,
        _ => {
            let name = OTHERS.iter().find(|(known, _)| *known == number).map(|(_, name)| name.to_string());
            ValueType::Other(name.unwrap_or_else(|| format!("number {number} of ggml")))
        }
    }
}

/// A tensor's entry in the file.
pub struct Description {
    pub name: String,
    /// Row-major shape, the last one contiguous; the file lists it the other way round.
    pub shape: Vec<usize>,
    pub value_type: ValueType,
}

impl Description {
    /// Bytes of the tensor without the padding after it.
    pub fn size_bytes(&self) -> u64 {
        self.value_type.size_bytes(self.shape.iter().product()).expect("whole blocks") as u64
    }
}

/// Writes everything in front of the tensor bytes, padding included.
pub fn write_head(w: &mut impl Write, metadata: &[(String, Value)], tensors: &[&Description]) -> io::Result<()> {
    let mut w = Counting { inner: w, written: 0 };
    w.write_all(MAGIC)?;
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
        w.write_all(&number(&tensor.value_type).to_le_bytes())?;
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
    let mut types = |numbers: &[u32]| w.write_all(bytemuck::cast_slice(numbers));
    match value {
        Value::U32(value) => types(&[kind::UINT32]).and_then(|()| w.write_all(&value.to_le_bytes())),
        Value::F32(value) => types(&[kind::FLOAT32]).and_then(|()| w.write_all(&value.to_le_bytes())),
        Value::Bool(value) => types(&[kind::BOOL]).and_then(|()| w.write_all(&[u8::from(*value)])),
        Value::Text(value) => types(&[kind::STRING]).and_then(|()| write_text(w, value)),
        Value::Integers(values) => {
            types(&[kind::ARRAY, kind::INT32])?;
            w.write_all(&(values.len() as u64).to_le_bytes())?;
            w.write_all(bytemuck::cast_slice(values))
        }
        Value::Numbers(values) => {
            types(&[kind::ARRAY, kind::FLOAT32])?;
            w.write_all(&(values.len() as u64).to_le_bytes())?;
            w.write_all(bytemuck::cast_slice(values))
        }
        Value::Texts(values) => {
            types(&[kind::ARRAY, kind::STRING])?;
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

/// Reads everything in front of the tensors' bytes; the error is what is wrong with the file. Nothing is allocated that the file's
/// own bytes do not fill.
pub fn read_head(bytes: &[u8]) -> Result<Head, String> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4).ok() != Some(MAGIC) {
        return Err("it does not begin with GGUF".into());
    }
    match cursor.u32()? {
        2 | VERSION => {}
        version => return Err(format!("it has version {version}, and 2 and {VERSION} can be read")),
    }
    let (tensor_count, pair_count) = (cursor.u64()?, cursor.u64()?);
    let mut metadata = HashMap::new();
    for _ in 0..pair_count {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind).map_err(|problem| format!("{}: {problem}", one_line(&key)))?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("it has {} twice", one_line(&key)));
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(Metadatum::Integer(size)) if *size > 0 && *size % 8 == 0 => *size as u64,
        Some(other) => return Err(format!("general.alignment is {other:?}, and must be a multiple of 8")),
    };
    let mut listed = vec![];
    for _ in 0..tensor_count {
        let name = cursor.text()?;
        let dimensions = cursor.u32()?;
        if dimensions > 4 {
            return Err(format!("{} has {dimensions} dimensions", one_line(&name)));
        }
        let sizes = (0..dimensions).map(|_| cursor.u64()).collect::<Result<Vec<u64>, String>>()?;
        listed.push((name, sizes, cursor.u32()?, cursor.u64()?));
    }
    let start = (cursor.at as u64).next_multiple_of(alignment);
    let mut tensors = HashMap::new();
    for (name, sizes, number, offset) in listed {
        let shown = one_line(&name);
        let size = |n: &u64| usize::try_from(*n).ok();
        let shape: Option<Vec<usize>> = sizes.iter().rev().map(size).collect();
        let values = shape.as_ref().and_then(|shape| shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n)));
        let (Some(shape), Some(values)) = (shape, values) else { return Err(format!("{shown} is too large")) };
        let value_type = value_type(number);
        let range = match value_type.block() {
            None => 0..0,
            Some((block, _)) => {
                if !shape.last().copied().unwrap_or(1).is_multiple_of(block) {
                    return Err(format!("{shown} has rows that are not whole blocks of {block}"));
                }
                let first = start.checked_add(offset).and_then(|first| usize::try_from(first).ok());
                let range =
                    first.zip(value_type.size_bytes(values)).and_then(|(first, n)| Some(first..first.checked_add(n)?));
                range.filter(|range| range.end <= bytes.len()).ok_or_else(|| {
                    format!("{shown} ends beyond the file's {} bytes; it may be truncated", bytes.len())
                })?
            }
        };
        if tensors.insert(name, Listed { shape, value_type, range }).is_some() {
            return Err(format!("it has {shown} twice"));
        }
    }
    let mut ranges: Vec<(&Range<usize>, &String)> =
        tensors.iter().map(|(name, tensor)| (&tensor.range, name)).filter(|(range, _)| !range.is_empty()).collect();
    ranges.sort_by_key(|(range, _)| range.start);
    match ranges.windows(2).find(|pair| pair[0].0.end > pair[1].0.start) {
        Some(pair) => Err(format!("{} and {} overlap", one_line(pair[0].1), one_line(pair[1].1))),
        None => Ok(Head { metadata, tensors }),
    }
}

/// Where the reading is in a file's bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8], String> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or_else(|| format!("it ends at {} bytes, in its header", self.bytes.len()))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N as u64)?.try_into().expect("so many bytes"))
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| "it has a text that is not UTF-8".into())
    }

    /// A value of a type that is a number or a truth value.
    fn scalar(&mut self, kind: u32) -> Result<Metadatum, String> {
        Ok(match kind {
            kind::UINT8 => Metadatum::Integer(self.array().map(u8::from_le_bytes)?.into()),
            kind::INT8 => Metadatum::Integer(self.array().map(i8::from_le_bytes)?.into()),
            kind::UINT16 => Metadatum::Integer(self.array().map(u16::from_le_bytes)?.into()),
            kind::INT16 => Metadatum::Integer(self.array().map(i16::from_le_bytes)?.into()),
            kind::UINT32 => Metadatum::Integer(self.u32()?.into()),
            kind::INT32 => Metadatum::Integer(self.array().map(i32::from_le_bytes)?.into()),
            kind::UINT64 => {
                let value = self.u64()?;
                Metadatum::Integer(value.try_into().map_err(|_| format!("{value} is too large"))?)
            }
            kind::INT64 => Metadatum::Integer(self.array().map(i64::from_le_bytes)?),
            kind::FLOAT32 => Metadatum::Number(self.array().map(f32::from_le_bytes)?.into()),
            kind::FLOAT64 => Metadatum::Number(self.array().map(f64::from_le_bytes)?),
            kind::BOOL => Metadatum::Bool(self.array::<1>()? != [0]),
            other => return Err(format!("type {other} is not known")),
        })
    }

    fn value(&mut self, kind: u32) -> Result<Metadatum, String> {
        if kind == kind::STRING {
            return self.text().map(Metadatum::Text);
        }
        if kind != kind::ARRAY {
            return self.scalar(kind);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind == kind::STRING {
            return (0..count).map(|_| self.text()).collect::<Result<_, _>>().map(Metadatum::Texts);
        }
        let (mut integers, mut numbers) = (vec![], vec![]);
        for _ in 0..count {
            match self.scalar(kind)? {
                Metadatum::Integer(value) => integers.push(value),
                Metadatum::Bool(value) => integers.push(value.into()),
                Metadatum::Number(value) => numbers.push(value),
                _ => unreachable!("no scalar"),
            }
        }
        Ok(if numbers.is_empty() { Metadatum::Integers(integers) } else { Metadatum::Numbers(numbers) })
    }
}
