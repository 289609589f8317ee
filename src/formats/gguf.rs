//! GPT-2 as one GGUF file, which llama.cpp and programs built on it load.
//!
//! Names, metadata and layout are those of llama.cpp's `gpt2` architecture. Its graph has the tanh form of GELU only. A
//! linear layer's weight is (inputs, outputs) here and a row of inputs per output there, so it is transposed on the way.
//! One-dimensional tensors and the position table are always f32, as in llama.cpp's own converter and quantiser; so are,
//! in q8_0, matrices whose rows are not a multiple of 32 values.

mod container;
mod vocabulary;

use std::io::{self, Write};
use std::path::Path;

use half::f16;

use crate::error::{Error, Result};
use crate::fail;
use crate::files::write_atomic;
use crate::formats::folder::Weights;
use crate::graph::quantisation::{BLOCK, Q8_MOST, q8_block};
use crate::models::config::{Config, FeedForward};
use crate::models::gpt2;
use crate::ops::gelu::Form;
use container::{ALIGNMENT, Description, TensorType, Value, write_head, write_padding};
use vocabulary::Vocabulary;

/// How matrices are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    /// 8.5 bits per value: blocks of 32 share a scale, and each value is off by at most half of it.
    Q8_0,
}

/// Values gathered before they are encoded and written.
const CHUNK_VALUES: usize = 1 << 18;

/// The position table, which stays f32.
const POSITIONS: &str = "wpe.weight";

/// One tensor of the file.
struct Tensor {
    /// Its name here.
    source: String,
    /// Whether the file has it as (columns, rows).
    transposed: bool,
    description: Description,
}

/// Writes a model as GGUF, atomically; `tokenizer` is the content of its `tokenizer.json`. Of the weights, one matrix at
/// a time is in memory (none where they are mapped f32), and a chunk of a megabyte.
///
/// Models that llama.cpp's GPT-2 cannot express are refused, and so are values that the precision cannot hold. Returns notes on
/// differences between the file and the model.
pub fn write(
    path: &Path,
    config: &Config,
    weights: &Weights,
    tokenizer: &[u8],
    precision: Precision,
) -> Result<Vec<String>> {
    if config.family != gpt2::NAME || config.family().foreign(config).is_some() {
        fail!(Input, "the model cannot be written as GGUF: only GPT-2 can; export it with --format hugging-face");
    }
    if config.feed_forward != FeedForward::Gelu(Form::Tanh) {
        fail!(
            Input,
            "the model cannot be written as GGUF: its activation_function is gelu, and llama.cpp's GPT-2 has gelu_new \
             only; export it with --format hugging-face"
        );
    }
    let vocabulary = Vocabulary::from_json(tokenizer, config.vocab_size).map_err(|reason| {
        Error::Input(format!(
            "the model cannot be written as GGUF: its tokenizer {reason}, and llama.cpp's GPT-2 has byte-level BPE \
             like GPT-2's only; export it with --format hugging-face"
        ))
    })?;
    let tensors = tensors(config, precision)?;
    for tensor in &tensors {
        weights.read_pieces(&tensor.source, |_, values| check_range(tensor, values))?;
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let metadata = metadata(config, &vocabulary, precision, &name);
    let descriptions: Vec<_> = tensors.iter().map(|tensor| &tensor.description).collect();
    write_atomic(path, |file| {
        write_head(file, &metadata, &descriptions)?;
        tensors.iter().try_for_each(|tensor| write_tensor(file, tensor, weights))
    })?;
    Ok(notes(&tensors, &vocabulary, config, precision))
}

fn notes(tensors: &[Tensor], vocabulary: &Vocabulary, config: &Config, precision: Precision) -> Vec<String> {
    let mut notes = Vec::new();
    let cannot_narrow = |tensor: &&Tensor| {
        let Tensor { source, description: Description { shape, .. }, .. } = tensor;
        shape.len() == 2 && source != POSITIONS && !shape[1].is_multiple_of(BLOCK)
    };
    let kept = tensors.iter().filter(cannot_narrow).count();
    if precision == Precision::Q8_0 && kept > 0 {
        notes.push(format!("{kept} matrices stay f32, because their rows are not a multiple of {BLOCK} values"));
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

fn metadata<'a>(
    config: &Config,
    vocabulary: &'a Vocabulary,
    precision: Precision,
    name: &'a str,
) -> Vec<(&'static str, Value<'a>)> {
    let number = |size: usize| Value::U32(size as u32); // sizes of a valid configuration fit
    let file_type = match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::Q8_0 => 7,
    };
    let mut all = vec![
        ("general.architecture", Value::Text("gpt2")),
        ("general.type", Value::Text("model")),
        ("general.name", Value::Text(name)),
        ("general.alignment", Value::U32(ALIGNMENT as u32)),
        ("general.file_type", Value::U32(file_type)),
        ("general.quantization_version", Value::U32(2)),
        ("gpt2.context_length", number(config.context)),
        ("gpt2.embedding_length", number(config.width)),
        ("gpt2.feed_forward_length", number(config.inner)),
        ("gpt2.block_count", number(config.layers)),
        ("gpt2.attention.head_count", number(config.heads)),
        ("gpt2.attention.layer_norm_epsilon", Value::F32(config.norm_epsilon)),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Texts(&vocabulary.tokens)),
        ("tokenizer.ggml.token_type", Value::Integers(&vocabulary.kinds)),
        ("tokenizer.ggml.merges", Value::Texts(&vocabulary.merges)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    let end = vocabulary.end_of_text(end_token(config)).map(|(id, _)| id);
    let start = config.bos_token_id.filter(|&id| vocabulary.is_token(id)).or(end);
    all.extend(start.map(|id| ("tokenizer.ggml.bos_token_id", Value::U32(id))));
    all.extend(end.map(|id| ("tokenizer.ggml.eos_token_id", Value::U32(id))));
    all
}

/// The first, where the model names several: llama.cpp has room for one.
fn end_token(config: &Config) -> Option<u32> {
    config.eos_token_id.first().copied()
}

/// Every tensor in the order of the configuration.
fn tensors(config: &Config, precision: Precision) -> Result<Vec<Tensor>> {
    let parameters = config.parameters().into_iter();
    let tensor = |(source, mut shape): (String, Vec<usize>)| {
        let Some(name) = llama_name(&source) else {
            fail!(Input, "the model cannot be written as GGUF: llama.cpp's GPT-2 has no tensor for {source}");
        };
        let transposed = shape.len() == 2 && source.starts_with("h.");
        if transposed {
            shape.reverse();
        }
        let narrow = shape.len() == 2 && source != POSITIONS;
        let tensor_type = match precision {
            Precision::F16 if narrow => TensorType::F16,
            Precision::Q8_0 if narrow && shape[1].is_multiple_of(BLOCK) => TensorType::Q8_0,
            _ => TensorType::F32,
        };
        Ok(Tensor { source, transposed, description: Description { name, shape, tensor_type } })
    };
    parameters.map(tensor).collect()
}

/// llama.cpp's name of a parameter.
fn llama_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let stem = match stem {
        "wte" => "token_embd".into(),
        "wpe" => "position_embd".into(),
        "ln_f" => "output_norm".into(),
        "lm_head" => "output".into(),
        _ => {
            let (layer, part) = stem.strip_prefix("h.")?.split_once('.')?;
            let part = match part {
                "ln_1" => "attn_norm",
                "attn.c_attn" => "attn_qkv",
                "attn.c_proj" => "attn_output",
                "ln_2" => "ffn_norm",
                "mlp.c_fc" => "ffn_up",
                "mlp.c_proj" => "ffn_down",
                _ => return None,
            };
            format!("blk.{layer}.{part}")
        }
    };
    Some(format!("{stem}.{kind}"))
}

/// Refuses values that would become infinite, or already are where a scale is made of them.
fn check_range(tensor: &Tensor, values: &[f32]) -> Result<()> {
    let divisor = match tensor.description.tensor_type {
        TensorType::F32 => return Ok(()),
        TensorType::F16 => 1.0,
        TensorType::Q8_0 => Q8_MOST,
    };
    if values.iter().any(|value| !f16::from_f32(value / divisor).is_finite()) {
        fail!(
            Input,
            "{} holds a value that is not finite or too large for this --dtype; export the model with --dtype f32",
            tensor.source
        );
    }
    Ok(())
}

fn write_tensor(w: &mut impl Write, tensor: &Tensor, weights: &Weights) -> io::Result<()> {
    let Tensor { source, transposed, description: Description { shape, tensor_type, .. } } = tensor;
    if *transposed {
        let values = weights.read(source).map_err(io_error)?;
        let [columns, rows] = [shape[0], shape[1]]; // of `values`
        let mut gathered = Vec::new();
        let most = (CHUNK_VALUES / rows).max(1);
        for first in (0..columns).step_by(most) {
            let chunk = first..columns.min(first + most);
            gathered.clear();
            gathered.extend(chunk.flat_map(|column| values.iter().skip(column).step_by(columns)));
            write_values(w, *tensor_type, &gathered)?;
        }
    } else {
        let mut write =
            |values: &[f32]| write_values(w, *tensor_type, values).map_err(Error::io("write", Path::new(source)));
        weights
            .read_pieces(source, |_, piece| piece.chunks(CHUNK_VALUES).try_for_each(&mut write))
            .map_err(io_error)?;
    }
    write_padding(w, tensor.description.size_bytes())
}

/// The cause of an error, below a message that says where it happened.
fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

fn write_values(w: &mut impl Write, tensor_type: TensorType, values: &[f32]) -> io::Result<()> {
    match tensor_type {
        TensorType::F32 => w.write_all(bytemuck::cast_slice(values)),
        TensorType::F16 => {
            let halves: Vec<[u8; 2]> = values.iter().map(|&value| f16::from_f32(value).to_le_bytes()).collect();
            w.write_all(halves.as_flattened())
        }
        TensorType::Q8_0 => {
            let (blocks, rest) = values.as_chunks::<BLOCK>();
            assert!(rest.is_empty(), "values come in whole blocks");
            w.write_all(&blocks.iter().flat_map(q8_bytes).collect::<Vec<u8>>())
        }
    }
}

/// A block as the file has it: the scale, then the values.
fn q8_bytes(values: &[f32; BLOCK]) -> [u8; BLOCK + 2] {
    let (scale, quants) = q8_block(values);
    let mut block = [0; BLOCK + 2];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    block[2..].copy_from_slice(bytemuck::cast_slice(&quants));
    block
}
