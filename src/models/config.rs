//! The shape of a GPT-2 model, and its Hugging Face `config.json`.
//!
//! Source of sizes and names: "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), table 2.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// Everything that fixes a GPT-2 model's parameters and its forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// V, rows of the embedding table, which is also the output projection.
    pub vocab_size: usize,
    /// T, the longest sequence the model can see (`n_positions`).
    pub context: usize,
    /// L, transformer blocks (`n_layer`).
    pub layers: usize,
    /// NH, attention heads per block (`n_head`).
    pub heads: usize,
    /// C, channels (`n_embd`).
    pub width: usize,
    /// Added to the variance in every layernorm.
    pub layer_norm_epsilon: f32,
    pub activation: Activation,
    pub dropout: Dropout,
    /// Token that starts a text, where the model names one.
    pub bos_token_id: Option<u32>,
    /// Token that ends a text, where the model names one.
    pub eos_token_id: Option<u32>,
}

/// The nonlinearity between the two linear layers of a block's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The tanh approximation, `gelu_new` in Hugging Face's names; what GPT-2 was trained with.
    GeluTanh,
    /// The exact form with erf, `gelu` in Hugging Face's names.
    GeluErf,
}

/// Probabilities of dropping a value in training, each in `0..1`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dropout {
    /// On the sum of token and position embeddings (`embd_pdrop`).
    pub embedding: f32,
    /// On the attention weights (`attn_pdrop`).
    pub attention: f32,
    /// On what each block's attention and MLP add to the residual stream (`resid_pdrop`).
    pub residual: f32,
}

/// A model size with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub context: usize,
    pub vocab_size: usize,
}

/// The named sizes. Their vocabulary is a default: the tokenizer in use decides.
pub const PRESETS: [Preset; 6] = [
    Preset { name: "demo", layers: 4, heads: 8, width: 64, context: 128, vocab_size: 256 },
    Preset { name: "char", layers: 6, heads: 6, width: 384, context: 256, vocab_size: 256 },
    Preset { name: "gpt2", layers: 12, heads: 12, width: 768, context: 1024, vocab_size: 50257 },
    Preset { name: "gpt2-medium", layers: 24, heads: 16, width: 1024, context: 1024, vocab_size: 50257 },
    Preset { name: "gpt2-large", layers: 36, heads: 20, width: 1280, context: 1024, vocab_size: 50257 },
    Preset { name: "gpt2-xl", layers: 48, heads: 25, width: 1600, context: 1024, vocab_size: 50257 },
];

// Far beyond any GPT-2, and low enough that no product of sizes overflows 64 bits.
const MOST_LAYERS: usize = 1 << 10;
const MOST_WIDTH: usize = 1 << 16;
const MOST_CONTEXT: usize = 1 << 20;
const MOST_VOCABULARY: usize = 1 << 24;
/// Attention kernels load heads as vectors of four and keep one row in registers.
const MOST_HEAD_SIZE: usize = 128;

impl Gpt2Config {
    /// A model of these sizes with GPT-2's epsilon and activation, no dropout and no special tokens.
    pub fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Self {
        Self {
            vocab_size,
            context,
            layers,
            heads,
            width,
            layer_norm_epsilon: 1e-5,
            activation: Activation::GeluTanh,
            dropout: Dropout::default(),
            bos_token_id: None,
            eos_token_id: None,
        }
    }

    /// The model of a [`Preset`]; an unknown name is a usage error that lists the known ones.
    pub fn preset(name: &str) -> Result<Self> {
        let Some(p) = PRESETS.iter().find(|preset| preset.name == name) else {
            let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
            fail!(Usage, "there is no preset {:?}; choose one of {}", one_line(name), known.join(", "));
        };
        Ok(Self::new(p.vocab_size, p.context, p.layers, p.heads, p.width))
    }

    /// Channels per attention head, C / NH.
    pub fn head_size(&self) -> usize {
        self.width / self.heads
    }

    /// Refuses sizes that make no model or that the kernels do not cover, as a usage error that says what to change.
    pub fn validate(&self) -> Result<()> {
        self.problem().map_or(Ok(()), |problem| Err(Error::Usage(problem)))
    }

    /// Number of trainable values; the output projection is the embedding table and counts once.
    pub fn parameter_count(&self) -> u64 {
        let [v, t, l, c] = [self.vocab_size, self.context, self.layers, self.width].map(|n| n as u64);
        // Per block: 4CC attention + 8CC MLP weights, 9C biases, 4C of two layernorms. At the end: 2C of a layernorm.
        v * c + t * c + l * (12 * c * c + 13 * c) + 2 * c
    }

    /// Name and shape of every parameter in Hugging Face's order, without the `transformer.` prefix. Weights of linear
    /// layers are (inputs, outputs).
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let c = self.width;
        let mut all =
            vec![("wte.weight".into(), vec![self.vocab_size, c]), ("wpe.weight".into(), vec![self.context, c])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| all.push((format!("h.{layer}.{name}"), shape.to_vec()));
            add("ln_1.weight", &[c]);
            add("ln_1.bias", &[c]);
            add("attn.c_attn.weight", &[c, 3 * c]);
            add("attn.c_attn.bias", &[3 * c]);
            add("attn.c_proj.weight", &[c, c]);
            add("attn.c_proj.bias", &[c]);
            add("ln_2.weight", &[c]);
            add("ln_2.bias", &[c]);
            add("mlp.c_fc.weight", &[c, 4 * c]);
            add("mlp.c_fc.bias", &[4 * c]);
            add("mlp.c_proj.weight", &[4 * c, c]);
            add("mlp.c_proj.bias", &[c]);
        }
        all.push(("ln_f.weight".into(), vec![c]));
        all.push(("ln_f.bias".into(), vec![c]));
        all
    }

    /// Reads a Hugging Face `config.json`; `origin` is the file that errors name. Absent optional keys take the
    /// values that `transformers` gives them; sizes must be present. Anything that would change the model's arithmetic
    /// and is not implemented is refused by name.
    pub fn from_json(text: &str, origin: &Path) -> Result<Self> {
        let at = |problem: String| Error::Input(format!("{}: {problem}", origin.display()));
        let config = Self::parse(text).map_err(at)?;
        config.problem().map_or(Ok(config), |problem| Err(at(problem)))
    }

    /// The `config.json` that `transformers` loads as `GPT2LMHeadModel`.
    pub fn to_json(&self) -> String {
        let written = ConfigJson {
            activation_function: self.activation.name(),
            architectures: ["GPT2LMHeadModel"],
            attn_pdrop: self.dropout.attention,
            bos_token_id: self.bos_token_id,
            embd_pdrop: self.dropout.embedding,
            eos_token_id: self.eos_token_id,
            initializer_range: 0.02,
            layer_norm_epsilon: self.layer_norm_epsilon,
            model_type: "gpt2",
            n_ctx: self.context,
            n_embd: self.width,
            n_head: self.heads,
            n_inner: None,
            n_layer: self.layers,
            n_positions: self.context,
            resid_pdrop: self.dropout.residual,
            tie_word_embeddings: true,
            torch_dtype: "float32",
            vocab_size: self.vocab_size,
        };
        serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
    }

    /// What is wrong with the values, and what to do, or nothing.
    fn problem(&self) -> Option<String> {
        let bounded = [
            ("layers (n_layer)", self.layers, MOST_LAYERS),
            ("width (n_embd)", self.width, MOST_WIDTH),
            ("heads (n_head)", self.heads, MOST_WIDTH),
            ("context (n_positions)", self.context, MOST_CONTEXT),
            ("vocabulary (vocab_size)", self.vocab_size, MOST_VOCABULARY),
        ];
        if let Some((name, value, most)) = bounded.into_iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            return Some(format!("{name} is {value}, but must be from 1 to {most}"));
        }
        if !self.width.is_multiple_of(self.heads) {
            return Some(format!(
                "{} heads (n_head) do not divide a width (n_embd) of {}; choose a width that is a multiple of \
                 the heads",
                self.heads, self.width
            ));
        }
        if !self.head_size().is_multiple_of(4) || self.head_size() > MOST_HEAD_SIZE {
            return Some(format!(
                "width {} over {} heads gives a head size of {}, but it must be a multiple of 4 up to \
                 {MOST_HEAD_SIZE}; change the heads or the width",
                self.width,
                self.heads,
                self.head_size()
            ));
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Some(format!("layer_norm_epsilon is {}, but must lie between 0 and 1", self.layer_norm_epsilon));
        }
        let Dropout { embedding, attention, residual } = self.dropout;
        let dropouts = [("embd_pdrop", embedding), ("attn_pdrop", attention), ("resid_pdrop", residual)];
        let (name, value) = dropouts.into_iter().find(|(_, p)| !(0.0..1.0).contains(p))?;
        Some(format!("dropout {name} is {value}, but must be at least 0 and less than 1"))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let object: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| format!("not a JSON object ({}); is this a config.json?", one_line(&error.to_string())))?;
        let keys = Keys(&object);
        keys.only("model_type", &Value::from("gpt2"))?;
        let config = Self {
            vocab_size: keys.size("vocab_size", MOST_VOCABULARY)?,
            context: keys.size("n_positions", MOST_CONTEXT)?,
            layers: keys.size("n_layer", MOST_LAYERS)?,
            heads: keys.size("n_head", MOST_WIDTH)?,
            width: keys.size("n_embd", MOST_WIDTH)?,
            layer_norm_epsilon: keys.number("layer_norm_epsilon", 1e-5)?,
            activation: keys.activation()?,
            dropout: Dropout {
                embedding: keys.number("embd_pdrop", 0.1)?,
                attention: keys.number("attn_pdrop", 0.1)?,
                residual: keys.number("resid_pdrop", 0.1)?,
            },
            bos_token_id: keys.token("bos_token_id"),
            eos_token_id: keys.token("eos_token_id"),
        };
        keys.only("n_ctx", &Value::from(config.context))?;
        keys.only("n_inner", &Value::from(4 * config.width))?;
        keys.only("tie_word_embeddings", &Value::from(true))?;
        keys.only("scale_attn_weights", &Value::from(true))?;
        keys.only("scale_attn_by_inverse_layer_idx", &Value::from(false))?;
        keys.only("reorder_and_upcast_attn", &Value::from(false))?;
        keys.only("add_cross_attention", &Value::from(false))?;
        Ok(config)
    }
}

impl Activation {
    /// Hugging Face's name for `activation_function`.
    pub fn name(self) -> &'static str {
        match self {
            Activation::GeluTanh => "gelu_new",
            Activation::GeluErf => "gelu",
        }
    }
}

/// What is written, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
#[derive(Serialize)]
struct ConfigJson {
    activation_function: &'static str,
    architectures: [&'static str; 1],
    attn_pdrop: f32,
    bos_token_id: Option<u32>,
    embd_pdrop: f32,
    eos_token_id: Option<u32>,
    initializer_range: f32,
    layer_norm_epsilon: f32,
    model_type: &'static str,
    n_ctx: usize,
    n_embd: usize,
    n_head: usize,
    n_inner: Option<usize>,
    n_layer: usize,
    n_positions: usize,
    resid_pdrop: f32,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    vocab_size: usize,
}

/// Typed access to the keys of a `config.json`; every error names its key. A null counts as absent.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str, most: usize) -> std::result::Result<usize, String> {
        let value = self.get(key).ok_or_else(|| format!("the key {key} is missing; a GPT-2 configuration needs it"))?;
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| (1..=most).contains(size));
        size.ok_or_else(|| format!("{key} is {}, but must be a whole number from 1 to {most}", shown(value)))
    }

    fn number(&self, key: &str, default: f32) -> std::result::Result<f32, String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().map(|number| number as f32).ok_or_else(|| format!("{key} is {}, not a number", shown(value)))
    }

    /// A token id. One outside 32 bits (or a list of several) can never be the one id, so it counts as none.
    fn token(&self, key: &str) -> Option<u32> {
        self.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
    }

    fn activation(&self) -> std::result::Result<Activation, String> {
        match self.get("activation_function").map(|value| value.as_str().unwrap_or("")) {
            None | Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Activation::GeluTanh),
            Some("gelu") => Ok(Activation::GeluErf),
            Some(other) => Err(format!(
                "activation_function {:?} is not supported; use gelu_new, gelu_pytorch_tanh or gelu",
                one_line(other)
            )),
        }
    }

    /// Refuses a key whose value is not the only one that is implemented; absent is fine.
    fn only(&self, key: &str, supported: &Value) -> std::result::Result<(), String> {
        match self.get(key) {
            Some(value) if value != supported => {
                Err(format!("{key} is {}, but only {supported} is supported here", shown(value)))
            }
            _ => Ok(()),
        }
    }
}

fn shown(value: &Value) -> String {
    one_line(&value.to_string())
}
