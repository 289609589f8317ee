//! The shape of a GPT-2 model, and its Hugging Face `config.json`.
//!
//! Source of sizes and names: "Language Models are Unsupervised Multitask Learners" (Radford et al., 2019), table 2.

mod json;

pub(super) use json::one_or_list;

use crate::error::{Error, Result};
use crate::fail;
use crate::files::one_line;

/// Everything that fixes a GPT-2 model's parameters and its forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpt2Config {
    /// V, rows of the embedding table.
    pub vocab_size: usize,
    /// T, the longest sequence the model can see (`n_positions`).
    pub context: usize,
    /// L, transformer blocks (`n_layer`).
    pub layers: usize,
    /// NH, attention heads per block (`n_head`).
    pub heads: usize,
    /// C, channels (`n_embd`).
    pub width: usize,
    /// Channels inside a block's MLP (`n_inner`); 4C in GPT-2.
    pub inner: usize,
    /// Whether the embedding table is also the output projection (`tie_word_embeddings`); otherwise that is `lm_head.weight`.
    pub tied: bool,
    /// Added to the variance in every layernorm.
    pub layer_norm_epsilon: f32,
    pub activation: Activation,
    pub dropout: Dropout,
    /// Standard deviation of the initial weights.
    pub initializer_range: f32,
    /// Token that starts a text, where the model names one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: none, one, or several.
    pub eos_token_id: Vec<u32>,
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

/// The parameter of an untied output projection.
pub const HEAD: &str = "lm_head.weight";

// Far beyond any GPT-2, and low enough that no product of sizes overflows 64 bits.
const MOST_LAYERS: usize = 1 << 10;
const MOST_WIDTH: usize = 1 << 16;
const MOST_INNER: usize = 4 * MOST_WIDTH;
const MOST_CONTEXT: usize = 1 << 20;
const MOST_VOCABULARY: usize = 1 << 24;
/// Attention kernels load heads as vectors of four and keep one row in registers.
const MOST_HEAD_SIZE: usize = 128;

impl Gpt2Config {
    /// A model of these sizes with GPT-2's inner width, epsilon, activation and tied head, no dropout and no special tokens.
    pub fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Self {
        Self {
            vocab_size,
            context,
            layers,
            heads,
            width,
            inner: 4 * width,
            tied: true,
            layer_norm_epsilon: 1e-5,
            activation: Activation::GeluTanh,
            dropout: Dropout::default(),
            initializer_range: 0.02,
            bos_token_id: None,
            eos_token_id: vec![],
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

    /// Number of trainable values; an output projection that is the embedding table counts once.
    pub fn parameter_count(&self) -> u64 {
        let [v, t, l, c, inner] =
            [self.vocab_size, self.context, self.layers, self.width, self.inner].map(|n| n as u64);
        let tables = if self.tied { 1 } else { 2 };
        // Per block: 4CC attention and 2C*inner MLP weights, their biases, 4C of two layernorms. At the end 2C more.
        tables * v * c + t * c + l * (4 * c * c + 2 * c * inner + inner + 9 * c) + 2 * c
    }

    /// Name and shape of every parameter in Hugging Face's order, without the `transformer.` prefix. Weights of linear
    /// layers are (inputs, outputs), that of an untied head (V, C).
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let (c, inner) = (self.width, self.inner);
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
            add("mlp.c_fc.weight", &[c, inner]);
            add("mlp.c_fc.bias", &[inner]);
            add("mlp.c_proj.weight", &[inner, c]);
            add("mlp.c_proj.bias", &[c]);
        }
        all.push(("ln_f.weight".into(), vec![c]));
        all.push(("ln_f.bias".into(), vec![c]));
        if !self.tied {
            all.push((HEAD.into(), vec![self.vocab_size, c]));
        }
        all
    }

    /// What is wrong with the values, and what to do, or nothing.
    fn problem(&self) -> Option<String> {
        let bounded = [
            ("layers (n_layer)", self.layers, MOST_LAYERS),
            ("width (n_embd)", self.width, MOST_WIDTH),
            ("inner width (n_inner)", self.inner, MOST_INNER),
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
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Some(format!("initializer_range is {}, but must be a number from 0 up", self.initializer_range));
        }
        let Dropout { embedding, attention, residual } = self.dropout;
        let dropouts = [("embd_pdrop", embedding), ("attn_pdrop", attention), ("resid_pdrop", residual)];
        let (name, value) = dropouts.into_iter().find(|(_, p)| !(0.0..1.0).contains(p))?;
        Some(format!("dropout {name} is {value}, but must be at least 0 and less than 1"))
    }
}
