//! A model folder as Hugging Face lays it out: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! Tensor files are read through a memory map. A safetensors file is the header's length (u64, little-endian), a JSON
//! header and the tensors back to back; files from here carry a SHA-256 of the tensor part in their metadata.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::{Error, Result};
use crate::fail;
use crate::files::{HashingWriter, one_line, sha256_hex, write_atomic};
use crate::models::config::Gpt2Config;

/// Name, shape and values of one tensor to write; the values are in row-major order.
pub type NamedTensor<'a> = (String, Vec<usize>, &'a [f32]);

pub const CONFIG_FILE: &str = "config.json";
pub const WEIGHTS_FILE: &str = "model.safetensors";
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Metadata key of the SHA-256 over all tensor bytes in file order.
const CHECKSUM_KEY: &str = "wgpt_sha256";
const PREFIX: &str = "transformer.";
/// Bytes of the header's length at the front of a safetensors file.
const LENGTH_BYTES: usize = 8;

// Tensor bytes are little-endian on disk and are used as they are.
const _: () = assert!(cfg!(target_endian = "little"), "big-endian machines are not supported");

/// Reads and checks the `config.json` of a model folder.
pub fn read_config(folder: &Path) -> Result<Gpt2Config> {
    let path = folder.join(CONFIG_FILE);
    let bytes = std::fs::read(&path).map_err(|error| not_a_model(folder, CONFIG_FILE, error))?;
    let Ok(text) = String::from_utf8(bytes) else { fail!(Input, "{} is not UTF-8 text", path.display()) };
    Gpt2Config::from_json(&text, &path)
}

/// Writes a model's `model.safetensors` atomically, with names as `transformers` has them (`transformer.` in front).
pub fn write_weights(path: &Path, tensors: &[NamedTensor], metadata: &[(&str, String)]) -> Result<()> {
    write_atomic(path, |writer| write_weights_to(writer, tensors, metadata))
}

/// As [`write_weights`], to any writer.
pub fn write_weights_to(w: &mut impl Write, tensors: &[NamedTensor], metadata: &[(&str, String)]) -> io::Result<()> {
    write_prefixed(w, PREFIX, tensors, metadata)
}

/// Writes tensors under their own names as safetensors, streaming: no copy of the values is made. Same tensors and
/// metadata give the same bytes.
///
/// Panics if a shape does not match its number of values, or if a name comes twice.
pub fn write_tensors_to(w: &mut impl Write, tensors: &[NamedTensor], metadata: &[(&str, String)]) -> io::Result<()> {
    write_prefixed(w, "", tensors, metadata)
}

/// The weights of a GPT-2 model folder: every parameter that the configuration asks for, and nothing else.
#[derive(Debug)]
pub struct Weights {
    file: TensorFile,
    /// Parameter name without prefix, to the name in the file.
    names: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors` in `folder` and checks names, shapes, types and (in files from here) the checksum.
    ///
    /// Buffers that old checkpoints carry (`attn.bias`, `attn.masked_bias`) are ignored, and so is an `lm_head.weight`
    /// that equals the embedding table.
    pub fn open(folder: &Path, config: &Gpt2Config) -> Result<Self> {
        let path = folder.join(WEIGHTS_FILE);
        if let Err(error) = std::fs::metadata(&path) {
            return Err(not_a_model(folder, WEIGHTS_FILE, error));
        }
        let file = TensorFile::open(&path)?;
        file.verify()?;
        Self::from_file(file, config)
    }

    /// Takes the weights from an open file; everything that [`Weights::open`] checks, except the checksum.
    pub fn from_file(file: TensorFile, config: &Gpt2Config) -> Result<Self> {
        let names = parameter_names(&file)?;
        let expected = config.parameters();
        let missing: Vec<_> =
            expected.iter().map(|(name, _)| name.as_str()).filter(|name| !names.contains_key(*name)).collect();
        if !missing.is_empty() {
            fail!(Input, "{} lacks {}, which config.json asks for", file.path.display(), list(&missing));
        }
        if names.len() > expected.len() {
            let known: HashSet<_> = expected.iter().map(|(name, _)| name).collect();
            let mut extra: Vec<_> = names.keys().filter(|name| !known.contains(name)).map(String::as_str).collect();
            extra.sort_unstable();
            fail!(Input, "{} holds {}, which config.json does not ask for", file.path.display(), list(&extra));
        }
        for (name, shape) in &expected {
            file.check(&names[name], shape)?;
        }
        Ok(Self { file, names })
    }

    /// The values of a parameter by its name without prefix; borrowed from the map where the file has aligned f32.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [f32]>> {
        self.file.read(self.names.get(name).map_or(name, String::as_str))
    }
}

/// A memory-mapped safetensors file with a checked header.
///
/// While one is open, Windows refuses to delete or replace the file; drop it before saving over it.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    map: Mmap,
    header: Metadata,
    /// Where the tensor part starts in the map.
    data_start: usize,
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
        let (header, data_start) = parse_header(&map).map_err(|problem| {
            Error::Input(format!(
                "{} is damaged or not a safetensors file ({}); copy it again",
                path.display(),
                one_line(&problem)
            ))
        })?;
        Ok(Self { path: path.to_path_buf(), map, header, data_start })
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
        let info = self.info(name)?;
        let bytes = self.bytes(info);
        match info.dtype {
            Dtype::F32 => Ok(match bytemuck::try_cast_slice(bytes) {
                Ok(values) => Cow::Borrowed(values),
                // A header whose length is not a multiple of four, which the format allows.
                Err(_) => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
            }),
            Dtype::F16 => Ok(convert_16_bit(bytes, f16_to_f32)),
            Dtype::BF16 => Ok(convert_16_bit(bytes, |bits| f32::from_bits(u32::from(bits) << 16))),
            other => Err(self.unsupported(name, other)),
        }
    }

    /// Fails unless the tensor exists in a readable type with this shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let info = self.info(name)?;
        if info.shape != shape {
            fail!(
                Input,
                "{}: {} has shape {:?}, but {shape:?} is expected; config.json does not belong to it",
                self.path.display(),
                one_line(name),
                info.shape
            );
        }
        match info.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
            other => Err(self.unsupported(name, other)),
        }
    }

    /// Compares the tensor bytes with the checksum in the metadata; a file without one passes.
    pub fn verify(&self) -> Result<()> {
        match self.metadata(CHECKSUM_KEY) {
            Some(expected) if sha256_hex(&self.map[self.data_start..]) != expected => {
                fail!(Input, "{} is damaged (its checksum does not match); restore it from a copy", self.path.display())
            }
            _ => Ok(()),
        }
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

    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        // In range: `parse_header` found the offsets contiguous and their end equal to the file's.
        &self.map[self.data_start..][info.data_offsets.0..info.data_offsets.1]
    }

    fn unsupported(&self, name: &str, dtype: Dtype) -> Error {
        Error::Input(format!(
            "{}: {} has type {dtype:?}, but only F32, F16 and BF16 can be read; convert the model",
            self.path.display(),
            one_line(name)
        ))
    }
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

/// Maps parameter names without prefix to the names in the file, leaving out what carries no parameter of its own.
fn parameter_names(file: &TensorFile) -> Result<HashMap<String, String>> {
    let mut names = HashMap::new();
    for raw in file.names() {
        let name = raw.strip_prefix(PREFIX).unwrap_or(&raw);
        if is_buffer(name) || name == "lm_head.weight" {
            continue;
        }
        if let Some(other) = names.insert(name.to_string(), raw.clone()) {
            fail!(Input, "{} holds both {} and {}", file.path.display(), one_line(&other), one_line(&raw));
        }
    }
    let head = [format!("{PREFIX}lm_head.weight"), "lm_head.weight".into()];
    if let (Some(head), Some(table)) = (head.iter().find_map(|name| file.header.info(name)), names.get("wte.weight")) {
        let table = file.info(table)?;
        if (head.dtype, &head.shape) != (table.dtype, &table.shape) || file.bytes(head) != file.bytes(table) {
            fail!(
                Input,
                "{}: lm_head.weight differs from wte.weight; only models that share the two are supported",
                file.path.display()
            );
        }
    }
    Ok(names)
}

/// Whether a name is one of the causal-mask buffers `h.N.attn.bias` and `h.N.attn.masked_bias`.
fn is_buffer(name: &str) -> bool {
    let Some((layer, rest)) = name.strip_prefix("h.").and_then(|rest| rest.split_once('.')) else { return false };
    layer.bytes().all(|byte| byte.is_ascii_digit()) && matches!(rest, "attn.bias" | "attn.masked_bias")
}

fn write_prefixed(
    writer: &mut impl Write,
    prefix: &str,
    tensors: &[NamedTensor],
    metadata: &[(&str, String)],
) -> io::Result<()> {
    let values_to = |writer: &mut dyn Write| {
        tensors.iter().try_for_each(|(_, _, values)| writer.write_all(bytemuck::cast_slice(values)))
    };
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
        end += size_of_val(*values);
        let info = TensorInfo { dtype: Dtype::F32, shape: shape.clone(), data_offsets: (start, end) };
        let twice = header.insert(format!("{prefix}{name}"), serde_json::to_value(info)?);
        assert!(twice.is_none(), "the tensor {name} comes twice");
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(LENGTH_BYTES), b' '); // aligns the values for readers that map
    writer.write_all(&(header.len() as u64).to_le_bytes())?;
    writer.write_all(&header)?;
    values_to(writer)
}

fn convert_16_bit(bytes: &[u8], convert: impl Fn(u16) -> f32) -> Cow<'static, [f32]> {
    bytes.as_chunks::<2>().0.iter().map(|&pair| convert(u16::from_le_bytes(pair))).collect()
}

/// IEEE half to single, exact. The half's exponent and fraction, moved to the single's place, read as the value times
/// 2^-112 (the difference of the two exponent biases), subnormals included.
fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let shifted = u32::from(bits & 0x7fff) << 13;
    let infinite_or_nan = bits & 0x7c00 == 0x7c00;
    let magnitude =
        if infinite_or_nan { shifted | 0x7f80_0000 } else { (f32::from_bits(shifted) * 2f32.powi(112)).to_bits() };
    f32::from_bits(sign | magnitude)
}

fn not_a_model(folder: &Path, file: &str, error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound {
        return Error::Io { action: format!("read {}", folder.join(file).display()), source: error };
    }
    let folder = folder.display();
    Error::Input(format!("{folder} is not a model folder: it has no {file}; give a folder in Hugging Face's layout"))
}

/// "h.0.ln_1.weight and 11 more"
fn list(names: &[&str]) -> String {
    match names {
        [] => "nothing".into(),
        [one] => one_line(one),
        [first, rest @ ..] => format!("{} and {} more", one_line(first), rest.len()),
    }
}
