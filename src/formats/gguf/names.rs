//! llama.cpp's names of tensors and architectures, and in which order it stores matrices.
//!
//! A linear layer's weight is a row of inputs per output, so GPT-2's, which is (inputs, outputs) here, is transposed. The
//! architecture `llama` turns neighbouring elements of a head by RoPE, not element i and i + HS / 2: the rows of q and k alternate.
//! All experts of a layer are one tensor.

use crate::formats::tensor_file::Layout;
use crate::models::config::{Config, HEAD, Position};
use crate::models::{gpt2, llama};
use crate::ops::rope::Scaling;

/// What the inverse frequencies of RoPE are divided by: (HS / 2), f32. Of Llama 3.1.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Keys, known to wgpt alone, of the numbers that those come of.
pub const ROPE_KEYS: [&str; 4] = [
    "rope.llama3.factor",
    "rope.llama3.low_freq_factor",
    "rope.llama3.high_freq_factor",
    "rope.llama3.original_context_length",
];

/// A tensor of a GGUF file.
#[derive(Debug)]
pub struct Tensor {
    /// llama.cpp's name.
    pub name: String,
    /// The tensors here that it is, one after another: one for each expert, or one.
    pub parts: Vec<String>,
    /// The row-major shape of each part here.
    pub part_shape: Vec<usize>,
    pub layout: Layout,
}

impl Tensor {
    /// Row-major shape in the file, the last one contiguous.
    pub fn shape(&self) -> Vec<usize> {
        let mut shape = self.part_shape.clone();
        if self.layout == Layout::Transposed {
            shape.reverse();
        }
        if self.name.contains("_exps.") {
            shape.insert(0, self.parts.len());
        }
        shape
    }

    /// Whether it is a matrix, or several, that may be stored in fewer bits: llama.cpp keeps tables of positions and routers in f32.
    pub fn is_narrow(&self) -> bool {
        self.part_shape.len() == 2 && !["position_embd.", "ffn_gate_inp."].iter().any(|part| self.name.contains(part))
    }
}

/// llama.cpp's architecture of a model, where it has one.
pub fn architecture(config: &Config) -> Option<&'static str> {
    match config.family {
        gpt2::NAME => Some("gpt2"),
        llama::NAME if config.head_norm => Some("qwen3"),
        llama::NAME if config.attention_bias == (true, false) => Some("qwen2"),
        llama::NAME => Some("llama"),
        _ => None,
    }
}

/// Every tensor of a model in the order of its parameters, or the name of the first that llama.cpp has none for.
pub fn tensors(config: &Config) -> Result<Vec<Tensor>, String> {
    let mut all: Vec<Tensor> = vec![];
    for (parameter, dims) in config.parameters() {
        for (part, part_shape) in config.parts(&parameter, &dims) {
            let Some((name, layout)) = place(config, &part, &part_shape) else { return Err(part) };
            match all.iter_mut().rev().take(3).find(|tensor| tensor.name == name) {
                Some(tensor) => tensor.parts.push(part),
                None => all.push(Tensor { name, parts: vec![part], part_shape, layout }),
            }
        }
    }
    Ok(all)
}

/// llama.cpp's name of a tensor, and its order there.
fn place(config: &Config, name: &str, shape: &[usize]) -> Option<(String, Layout)> {
    let (stem, kind) = name.rsplit_once('.')?;
    if config.family == gpt2::NAME {
        let name = format!("{}.{kind}", of_gpt2(stem)?);
        let transposed = shape.len() == 2 && stem.starts_with("h.");
        return Some((name, if transposed { Layout::Transposed } else { Layout::Rows }));
    }
    let name = format!("{}.{kind}", of_llama(stem)?);
    let interleaved = architecture(config) == Some("llama");
    let layout = match stem.rsplit_once('.') {
        Some((_, "q_proj")) if interleaved => Layout::Interleaved(config.heads),
        Some((_, "k_proj")) if interleaved => Layout::Interleaved(config.kv_heads),
        _ => Layout::Rows,
    };
    Some((name, layout))
}

fn of_gpt2(stem: &str) -> Option<String> {
    let whole = match stem {
        "wte" => "token_embd",
        "wpe" => "position_embd",
        "ln_f" => "output_norm",
        "lm_head" => "output",
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
            return Some(format!("blk.{layer}.{part}"));
        }
    };
    Some(whole.into())
}

fn of_llama(stem: &str) -> Option<String> {
    let whole = match stem {
        "embed_tokens" => "token_embd",
        "norm" => "output_norm",
        _ if Some(stem) == HEAD.strip_suffix(".weight") => "output",
        _ => {
            let (layer, part) = stem.strip_prefix("layers.")?.split_once('.')?;
            let part = match part {
                "input_layernorm" => "attn_norm",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "post_attention_layernorm" => "ffn_norm",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" => "ffn_up",
                "mlp.down_proj" => "ffn_down",
                "block_sparse_moe.gate" => "ffn_gate_inp",
                _ => match part.strip_prefix("block_sparse_moe.experts.")?.split_once('.')?.1 {
                    "w1" => "ffn_gate_exps",
                    "w2" => "ffn_down_exps",
                    "w3" => "ffn_up_exps",
                    _ => return None,
                },
            };
            return Some(format!("blk.{layer}.{part}"));
        }
    };
    Some(whole.into())
}

/// The values of [`ROPE_FACTORS`], where the model's scaling of RoPE needs them.
pub fn rope_factors(config: &Config) -> Option<Vec<f32>> {
    let Position::Rope { base, scaling: scaling @ Scaling::Llama3 { .. } } = config.position else { return None };
    let plain = Scaling::None.inverse_frequencies(base, config.head_size);
    let scaled = scaling.inverse_frequencies(base, config.head_size);
    Some(plain.iter().zip(scaled).map(|(plain, scaled)| plain / scaled).collect())
}
