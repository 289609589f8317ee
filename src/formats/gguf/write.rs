//! Writing GGUF: names, metadata and layout are those of llama.cpp's own converter.
//!
//! One-dimensional tensors, tables of positions and routers are always f32, as in llama.cpp's quantiser; so are, in q8_0 and
//! q4_0, matrices whose rows are not a multiple of 32 values.

use std::io::{self, Write};
use std::path::Path;

use half::f16;

use super::container::{ALIGNMENT, Description, Value, write_head, write_padding};
use super::names::{ROPE_FACTORS, ROPE_KEYS, Tensor, architecture, rope_factors, tensors};
use super::vocabulary::{Algorithm, Vocabulary};
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::fail;
use crate::files::write_atomic;
use crate::formats::blocks;
use crate::formats::folder::Weights;
use crate::formats::tensor_file::{Layout, ValueType};
use crate::graph::quantisation::{BLOCK, Q8_MOST};
use crate::models::config::{Config, FeedForward, Position};
use crate::ops::gelu::Form;
use crate::ops::rope::Scaling;

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    /// 8.5 bits per value: blocks of 32 share a scale, and each value is off by at most half of it.
    Q8_0,
    /// 4.5 bits per value.
    Q4_0,
}

/// Values gathered before they are encoded and written.
const CHUNK_VALUES: usize = 1 << 18;

/// A tensor and how it is stored.
struct Written {
    tensor: Tensor,
    description: Description,
}

/// Writes a model as GGUF, atomically. Of the weights, one matrix at a time is in memory (none where they are mapped f32), and a
/// chunk of a megabyte.
///
/// Models that llama.cpp cannot express are refused, and so are values that the precision cannot hold. Returns notes on
/// differences between the file and the model.
pub fn write(
    path: &Path,
    config: &Config,
    weights: &Weights,
    tokenizer: &Tokenizer,
    precision: Precision,
) -> Result<Vec<String>> {
    let refused = |reason: String| {
        Error::Input(format!("the model cannot be written as GGUF: {reason}; export it with --format hugging-face"))
    };
    let architecture = expressed(config).map_err(refused)?;
    let vocabulary = Vocabulary::from_json(tokenizer.json(), config.vocab_size).map_err(|reason| {
        refused(format!("its tokenizer {reason}, and llama.cpp has BPE like GPT-2's, SmolLM's, Llama 3's, Qwen2's and SentencePiece's"))
    })?;
    let tensors = tensors(config).map_err(|name| refused(format!("llama.cpp has no tensor for {name}")))?;
    let written: Vec<Written> = tensors.into_iter().map(|tensor| describe(tensor, precision)).collect();
    for Written { tensor, description } in &written {
        let check =
            |part: &String| weights.read_pieces(part, |_, values| check_range(part, &description.value_type, values));
        tensor.parts.iter().try_for_each(check)?;
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let template = tokenizer.chat_template_text();
    let facts =
        Facts { config, architecture, vocabulary: &vocabulary, tokenizer, template: template.as_deref(), name: &name };
    let metadata = facts.metadata(precision)?;
    let factors = rope_factors(config);
    let of_rope = factors.as_ref().map(|factors| Description {
        name: ROPE_FACTORS.into(),
        shape: vec![factors.len()],
        value_type: ValueType::F32,
    });
    let descriptions: Vec<_> = written.iter().map(|written| &written.description).chain(&of_rope).collect();
    write_atomic(path, |file| {
        write_head(file, &metadata, &descriptions)?;
        written.iter().try_for_each(|tensor| write_tensor(file, tensor, weights))?;
        let Some((factors, of_rope)) = factors.as_ref().zip(of_rope.as_ref()) else { return Ok(()) };
        write_values(file, &ValueType::F32, factors)?;
        write_padding(file, of_rope.size_bytes())
    })?;
    Ok(notes(&written, &vocabulary, config, precision))
}

/// The architecture of a model that llama.cpp computes as it is here; the error is what it cannot express.
fn expressed(config: &Config) -> std::result::Result<&'static str, String> {
    let known = architecture(config).filter(|_| config.family().foreign(config).is_none());
    let Some(architecture) = known else { return Err("only GPT-2 and the LLaMA family can".into()) };
    if config.feed_forward == FeedForward::Gelu(Form::Erf) {
        return Err("its activation_function is gelu, and llama.cpp's GPT-2 has gelu_new only".into());
    }
    if config.window.is_some_and(|window| window < config.context) {
        return Err(format!("it has a sliding window, and llama.cpp's {architecture} has none"));
    }
    if architecture != "llama" && config.experts().is_some() {
        return Err(format!("it has experts, and llama.cpp's {architecture} has none"));
    }
    if architecture == "qwen3" && config.attention_bias != (false, false) {
        return Err("it has biases beside norms of heads, and llama.cpp's qwen3 has none".into());
    }
    Ok(architecture)
}

/// How a tensor is stored in a precision.
fn describe(tensor: Tensor, precision: Precision) -> Written {
    let shape = tensor.shape();
    let is_block = shape.last().is_some_and(|columns| columns.is_multiple_of(BLOCK));
    let value_type = match precision {
        Precision::F16 if tensor.is_narrow() => ValueType::F16,
        Precision::Q8_0 if tensor.is_narrow() && is_block => ValueType::Q8_0,
        Precision::Q4_0 if tensor.is_narrow() && is_block => ValueType::Q4_0,
        _ => ValueType::F32,
    };
    let description = Description { name: tensor.name.clone(), shape, value_type };
    Written { tensor, description }
}

fn notes(written: &[Written], vocabulary: &Vocabulary, config: &Config, precision: Precision) -> Vec<String> {
    let mut notes = Vec::new();
    let is_wide = |written: &&Written| written.tensor.is_narrow() && written.description.value_type == ValueType::F32;
    let kept = written.iter().filter(is_wide).count();
    if matches!(precision, Precision::Q8_0 | Precision::Q4_0) && kept > 0 {
        notes.push(format!("{kept} matrices stay f32, because their rows are not a multiple of {BLOCK} values"));
    }
    if vocabulary.composes {
        notes.push("the tokenizer normalises text to NFC, and llama.cpp does not: give it text that is NFC".into());
    }
    match vocabulary.end_of_text(end_token(config)) {
        Some((_, true)) => {}
        Some((id, false)) => notes.push(format!(
            "the model names no end-of-text token, and llama.cpp needs one: it is token {id}, which no text has"
        )),
        None => notes.push(
            "the model names no end-of-text token, and llama.cpp takes token 11 for it: a text may end early".into(),
        ),
    }
    notes
}

/// What the metadata is made of.
struct Facts<'a> {
    config: &'a Config,
    architecture: &'static str,
    vocabulary: &'a Vocabulary,
    tokenizer: &'a Tokenizer,
    template: Option<&'a str>,
    /// The model's name: the file's.
    name: &'a str,
}

impl<'a> Facts<'a> {
    fn metadata(&self, precision: Precision) -> Result<Vec<(String, Value<'a>)>> {
        let file_type = match precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Q4_0 => 2,
            Precision::Q8_0 => 7,
        };
        let general = [
            ("architecture", Value::Text(self.architecture)),
            ("type", Value::Text("model")),
            ("name", Value::Text(self.name)),
            ("alignment", Value::U32(ALIGNMENT as u32)),
            ("file_type", Value::U32(file_type)),
            ("quantization_version", Value::U32(2)),
        ];
        let named = |group: &'static str| move |(key, value): (&str, Value<'a>)| (format!("{group}.{key}"), value);
        let mut all: Vec<_> = general.into_iter().map(named("general")).collect();
        all.extend(self.shape().into_iter().map(named(self.architecture)));
        all.extend(self.tokens()?.into_iter().map(named("tokenizer.ggml")));
        all.extend(self.template.map(|template| ("tokenizer.chat_template".to_string(), Value::Text(template))));
        Ok(all)
    }

    /// The model's sizes and numbers.
    fn shape(&self) -> Vec<(&'static str, Value<'a>)> {
        let config = self.config;
        let number = |size: usize| Value::U32(size as u32); // sizes of a valid configuration fit
        let mut all = vec![
            ("context_length", number(config.context)),
            ("embedding_length", number(config.width)),
            ("feed_forward_length", number(config.inner)),
            ("block_count", number(config.layers)),
            ("attention.head_count", number(config.heads)),
        ];
        let Position::Rope { base, scaling } = config.position else {
            all.push(("attention.layer_norm_epsilon", Value::F32(config.norm_epsilon)));
            return all;
        };
        all.extend([
            ("attention.head_count_kv", number(config.kv_heads)),
            ("attention.key_length", number(config.head_size)),
            ("attention.value_length", number(config.head_size)),
            ("attention.layer_norm_rms_epsilon", Value::F32(config.norm_epsilon)),
            ("rope.dimension_count", number(config.head_size)),
            ("rope.freq_base", Value::F32(base)),
            ("vocab_size", number(config.vocab_size)),
        ]);
        if let Scaling::Linear { factor } = scaling {
            all.extend([("rope.scaling.type", Value::Text("linear")), ("rope.scaling.factor", Value::F32(factor))]);
        }
        if let Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling {
            // llama.cpp reads the factors that come of these alone.
            let [of_factor, low, high, original] = ROPE_KEYS;
            all.extend([
                (of_factor, Value::F32(factor)),
                (low, Value::F32(low_freq_factor)),
                (high, Value::F32(high_freq_factor)),
                (original, number(original_context)),
            ]);
        }
        if let Some(experts) = config.experts() {
            all.extend([("expert_count", number(experts.count)), ("expert_used_count", number(experts.top))]);
        }
        all
    }

    /// The tokenizer.
    fn tokens(&self) -> Result<Vec<(&'static str, Value<'a>)>> {
        let (config, vocabulary) = (self.config, self.vocabulary);
        let mut all = match &vocabulary.algorithm {
            Algorithm::ByteLevel { pre, merges } => {
                vec![("model", Value::Text("gpt2")), ("pre", Value::Text(pre)), ("merges", Value::Texts(merges))]
            }
            Algorithm::SentencePiece { scores, adds_space, unknown } => {
                let mut all = vec![
                    ("model", Value::Text("llama")),
                    ("pre", Value::Text("default")),
                    ("scores", Value::Numbers(scores)),
                    ("add_space_prefix", Value::Bool(*adds_space)),
                ];
                all.extend(unknown.map(|id| ("unknown_token_id", Value::U32(id))));
                all
            }
        };
        // The tokens that go around every text.
        let around = self.tokenizer.encode_prompt("")?;
        let end = vocabulary.end_of_text(end_token(config)).map(|(id, _)| id);
        let start = around.first().copied().or(config.bos_token_id).filter(|&id| vocabulary.is_token(id)).or(end);
        let begins = around.first().is_some_and(|id| Some(*id) == start);
        let ends = around.len() > usize::from(begins) && around.last().copied() == end;
        all.extend([
            ("tokens", Value::Texts(&vocabulary.tokens)),
            ("token_type", Value::Integers(&vocabulary.kinds)),
            ("add_bos_token", Value::Bool(begins)),
        ]);
        all.extend(ends.then_some(("add_eos_token", Value::Bool(true))));
        all.extend(start.map(|id| ("bos_token_id", Value::U32(id))));
        all.extend(end.map(|id| ("eos_token_id", Value::U32(id))));
        Ok(all)
    }
}

/// The first, where the model names several: llama.cpp has room for one.
fn end_token(config: &Config) -> Option<u32> {
    config.eos_token_id.first().copied()
}

/// Refuses values that would become infinite, or already are where a scale is made of them.
fn check_range(name: &str, value_type: &ValueType, values: &[f32]) -> Result<()> {
    let divisor = match value_type {
        ValueType::Q8_0 => Q8_MOST,
        ValueType::Q4_0 => 8.0,
        ValueType::F16 => 1.0,
        _ => return Ok(()),
    };
    if values.iter().any(|value| !f16::from_f32(value / divisor).is_finite()) {
        fail!(
            Input,
            "{name} holds a value that is not finite or too large for this --dtype; export the model with --dtype f32"
        );
    }
    Ok(())
}

fn write_tensor(w: &mut impl Write, written: &Written, weights: &Weights) -> io::Result<()> {
    let Written { tensor, description } = written;
    for part in &tensor.parts {
        write_part(w, part, tensor, &description.value_type, weights)?;
    }
    write_padding(w, description.size_bytes())
}

/// Writes a tensor from here: all of one there, or the matrix of one expert.
fn write_part(
    w: &mut impl Write,
    part: &str,
    tensor: &Tensor,
    value_type: &ValueType,
    weights: &Weights,
) -> io::Result<()> {
    if tensor.layout == Layout::Rows {
        let mut write =
            |values: &[f32]| write_values(w, value_type, values).map_err(Error::io("write", Path::new(part)));
        let pieces = weights.read_pieces(part, |_, piece| piece.chunks(CHUNK_VALUES).try_for_each(&mut write));
        return pieces.map_err(io_error);
    }
    let values = weights.read(part).map_err(io_error)?;
    let (rows, columns) = match (&tensor.layout, &*tensor.part_shape) {
        (Layout::Transposed, &[rows, columns]) => (columns, rows), // of the file
        (_, &[rows, ref rest @ ..]) => (rows, rest.iter().product()),
        _ => unreachable!("a matrix or a vector"),
    };
    let mut gathered = Vec::new();
    let most = (CHUNK_VALUES / columns).max(1);
    for first in (0..rows).step_by(most) {
        gathered.clear();
        for row in first..rows.min(first + most) {
            match tensor.layout {
                Layout::Transposed => gathered.extend(values.iter().skip(row).step_by(rows)),
                layout => {
                    let from = layout.row(row, rows) * columns;
                    gathered.extend_from_slice(&values[from..from + columns]);
                }
            }
        }
        write_values(w, value_type, &gathered)?;
    }
    Ok(())
}

/// The cause of an error, below a message that says where it happened.
fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

fn write_values(w: &mut impl Write, value_type: &ValueType, values: &[f32]) -> io::Result<()> {
    fn encoded<const BYTES: usize>(values: &[f32], block: fn(&[f32; BLOCK]) -> [u8; BYTES]) -> Vec<u8> {
        let (blocks, rest) = values.as_chunks::<BLOCK>();
        assert!(rest.is_empty(), "values come in whole blocks");
        blocks.iter().flat_map(block).collect()
    }
    match value_type {
        ValueType::F32 => w.write_all(bytemuck::cast_slice(values)),
        ValueType::F16 => {
            let halves: Vec<[u8; 2]> = values.iter().map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            w.write_all(halves.as_flattened())
        }
        ValueType::Q8_0 => w.write_all(&encoded(values, blocks::q8_0_bytes)),
        ValueType::Q4_0 => w.write_all(&encoded(values, blocks::q4_0_bytes)),
        ValueType::BF16 | ValueType::Q6K | ValueType::Other(_) => unreachable!("a type that is not written"),
    }
}
