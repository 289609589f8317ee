//! The shape of a model, whatever its family: its graph, its parameters and its `config.json` follow from it.

pub use super::encoder::{Encoder, Heads};
pub use super::encoder_decoder::EncoderDecoder;
use super::lora::Lora;
pub use super::transfo_xl::Recurrence;
use crate::error::Result;
use crate::fail;
use crate::graph::Quantisation;
use crate::ops::gelu::Form;
use crate::ops::rope::Scaling;

/// Everything that fixes a model's parameters and its forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the family whose graph, parameter names and `config.json` it has (see [`super::registry`]).
    pub family: &'static str,
    /// V, rows of the embedding table.
    pub vocab_size: usize,
    /// T, the longest sequence the model can see.
    pub context: usize,
    /// L, transformer blocks.
    pub layers: usize,
    /// NH, attention heads per block.
    pub heads: usize,
    /// KVH, heads of keys and values, each shared by NH / KVH heads.
    pub kv_heads: usize,
    /// HS, channels per attention head; NH * HS is C but in a few models.
    pub head_size: usize,
    /// C, channels of the residual stream.
    pub width: usize,
    /// Channels inside a block's feed-forward part.
    pub inner: usize,
    /// Whether the embedding table is also the output projection; otherwise that is `lm_head.weight`.
    pub tied: bool,
    pub norm: Norm,
    /// Added to the variance, or the mean square, in every norm.
    pub norm_epsilon: f32,
    pub position: Position,
    pub feed_forward: FeedForward,
    /// Which of attention's projections have a bias: of q, k and v, and of the output.
    pub attention_bias: (bool, bool),
    /// What attention's scores are multiplied by: 1 / sqrt(HS) if `None`.
    pub attention_scale: Option<f32>,
    /// Whether each head of q and k is normalised.
    pub head_norm: bool,
    /// How many positions attention sees at most, the newest included; all before it if `None`.
    pub window: Option<usize>,
    /// Layers that see all positions before although there is a window, in rising order (`layer_types`).
    pub full_layers: Vec<usize>,
    pub dropout: Dropout,
    /// Standard deviation of the initial weights.
    pub initializer_range: f32,
    /// Whether that of projections onto the residual stream is divided by sqrt(2 * layers), as in GPT-2.
    pub scaled_residual: bool,
    /// Token that starts a text, where the model names one.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text: none, one, or several.
    pub eos_token_id: Vec<u32>,
    /// Other keys of its `config.json`.
    pub kept: Kept,
    /// The adapters that are on it, which are files of their own.
    pub lora: Option<Lora>,
    /// How the matrices of its blocks' linear layers are quantised on a device, where they are: then they are not trained.
    pub quantisation: Option<Quantisation>,
    /// What it has as an encoder, in which every token sees all others; nothing in a decoder.
    pub encoder: Option<Encoder>,
    /// What it has beside its encoder, where it reads one text and writes another.
    pub encoder_decoder: Option<EncoderDecoder>,
    /// What it has where a text passes in segments, each of which sees a memory of those before.
    pub recurrence: Option<Recurrence>,
}

/// Keys of a `config.json` that mean nothing to the model and are written again as they were. They make no difference between
/// two configurations.
#[derive(Clone, Default)]
pub struct Kept(pub serde_json::Map<String, serde_json::Value>);

impl PartialEq for Kept {
    fn eq(&self, _: &Kept) -> bool {
        true
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// How hidden states are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Norm {
    /// To mean 0 and variance 1, then scaled and shifted.
    LayerNorm,
    /// To mean square 1, then scaled.
    RmsNorm,
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// A learned vector per position is added to the token's.
    Learned,
    /// Queries and keys are turned by angles that grow with the position.
    Rope {
        /// `rope_theta` in Hugging Face configurations.
        base: f32,
        scaling: Scaling,
    },
    /// A number is added to scores, by head and by the bucket that the distance of query and key is in: as many buckets, the last for
    /// all distances from `most` on.
    Relative { buckets: usize, most: usize },
}

/// The nonlinearity between the linear layers of a block's feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeedForward {
    /// GELU of `inner` channels.
    Gelu(Form),
    /// max(x, 0) of `inner` channels.
    Relu,
    /// gelu(gate) * up, two linear layers of `inner` channels.
    GeGlu(Form),
    /// silu(gate) * up, two linear layers of `inner` channels.
    SwiGlu,
    /// Some of several SwiGLU parts of `inner` channels each, as a router chooses.
    Experts(Experts),
}

/// How many experts a feed-forward part has, and how their router is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Experts {
    /// E, experts of a layer.
    pub count: usize,
    /// Experts per token.
    pub top: usize,
    /// Coefficient of the load-balancing loss (`router_aux_loss_coef`).
    pub balance: f32,
    /// Coefficient of the router's z-loss, which keeps its logits small.
    pub z: f32,
}

/// Probabilities of dropping a value in training, each in `0..1`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Dropout {
    /// On the sum of token and position embeddings (`embd_pdrop`).
    pub embedding: f32,
    /// On the attention weights (`attn_pdrop`).
    pub attention: f32,
    /// Of the outputs of each block's attention and MLP (`resid_pdrop`).
    pub residual: f32,
}

impl Dropout {
    /// The same probability everywhere.
    pub fn of(p: f32) -> Self {
        Dropout { embedding: p, attention: p, residual: p }
    }
}

/// The parameter of an untied output projection.
pub const HEAD: &str = "lm_head.weight";
/// The head of a classifier, which `transformers` puts on any decoder; no parameter of the model itself.
pub const SCORE: &str = "score.weight";
/// That of an encoder, and its bias.
pub const CLASSIFIER: [&str; 2] = ["classifier.weight", "classifier.bias"];
/// The head of span answers on an encoder.
pub const SPANS: [&str; 2] = ["qa_outputs.weight", "qa_outputs.bias"];

// Far beyond any model that fits a device, and low enough that no product of sizes overflows 64 bits.
pub(super) const MOST_LAYERS: usize = 1 << 10;
pub(super) const MOST_WIDTH: usize = 1 << 16;
pub(super) const MOST_INNER: usize = 4 * MOST_WIDTH;
pub(super) const MOST_CONTEXT: usize = 1 << 20;
pub(super) const MOST_VOCABULARY: usize = 1 << 24;
/// Attention kernels load heads as vectors of four and keep one row in registers.
const MOST_HEAD_SIZE: usize = 128;

/// The next multiple of four; a size beyond any stays one, and is refused by [`Config::validate`].
pub(super) fn quads(size: usize) -> usize {
    size.checked_next_multiple_of(4).unwrap_or(usize::MAX)
}

impl Config {
    /// Whether an output projection of its own is trained: there is one, and it is not under adapters.
    pub fn trains_head(&self) -> bool {
        !self.tied && self.lora.is_none()
    }

    /// The experts, where the feed-forward part has some.
    pub fn experts(&self) -> Option<Experts> {
        match self.feed_forward {
            FeedForward::Experts(experts) => Some(experts),
            _ => None,
        }
    }

    /// A GPT-2 of these sizes with its inner width, epsilon, activation and tied head, no dropout and no special tokens.
    pub fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Self {
        Self {
            family: "GPT-2",
            vocab_size,
            context,
            layers,
            heads,
            kv_heads: heads,
            head_size: if heads > 0 && width.is_multiple_of(heads) { width / heads } else { 0 },
            width,
            inner: width.saturating_mul(4),
            tied: true,
            norm: Norm::LayerNorm,
            norm_epsilon: 1e-5,
            position: Position::Learned,
            feed_forward: FeedForward::Gelu(Form::Tanh),
            attention_bias: (true, true),
            attention_scale: None,
            head_norm: false,
            window: None,
            full_layers: vec![],
            dropout: Dropout::default(),
            initializer_range: 0.02,
            scaled_residual: true,
            bos_token_id: None,
            eos_token_id: vec![],
            kept: Kept::default(),
            lora: None,
            quantisation: None,
            encoder: None,
            encoder_decoder: None,
            recurrence: None,
        }
    }

    /// This model with other sizes: heads share the width, and the feed-forward part keeps its share of it. Heads of keys
    /// and values stay as many where several heads share them and can go on to.
    pub fn resized(self, layers: usize, heads: usize, width: usize) -> Self {
        let sizes = Self::new(self.vocab_size, self.context, layers, heads, width);
        if (layers, heads, width) == (self.layers, self.heads, self.width) {
            return self;
        }
        let inner = quads(self.inner.saturating_mul(width).div_ceil(self.width.max(1)));
        let shared = self.kv_heads < self.heads && heads.is_multiple_of(self.kv_heads);
        let kv_heads = if shared { self.kv_heads } else { heads };
        let encoder_decoder = self.encoder_decoder.map(|both| EncoderDecoder { decoder_layers: layers, ..both });
        Self { layers, heads, width, head_size: sizes.head_size, kv_heads, inner, encoder_decoder, ..self }
    }

    /// This model with a context of `given` positions, or of `most` where nothing is given and its own is longer: a context
    /// of a hundred thousand makes a cache of gigabytes. Learned positions keep the context that their table has.
    pub fn within_context(self, given: Option<usize>, most: usize) -> Result<Self> {
        let own = self.context;
        if self.recurrence.is_some() {
            // Positions are distances: segments may be of any length.
            let config = Self { context: given.unwrap_or(own), ..self };
            config.validate()?;
            return Ok(config);
        }
        let context = match (given, self.position) {
            (Some(given), _) if !(1..=own).contains(&given) => {
                fail!(Usage, "a context of {given} is not within the model's: give 1 to {own}")
            }
            (Some(given), Position::Learned) if given != own => {
                fail!(Usage, "a context of {given} is for rotary positions: this model has learned ones, always {own}")
            }
            (Some(given), _) => given,
            (None, Position::Learned) => own,
            (None, Position::Rope { .. } | Position::Relative { .. }) => own.min(most),
        };
        Ok(Self { context, ..self })
    }

    /// The error in the values, with its remedy, or nothing.
    pub(super) fn problem(&self) -> Option<String> {
        let bounded = [
            ("layers (n_layer)", self.layers, MOST_LAYERS),
            ("width (n_embd)", self.width, MOST_WIDTH),
            ("inner width (n_inner)", self.inner, MOST_INNER),
            ("heads (n_head)", self.heads, MOST_WIDTH),
            ("kv-heads (num_key_value_heads)", self.kv_heads, MOST_WIDTH),
            ("context (n_positions)", self.context, MOST_CONTEXT),
            ("vocabulary (vocab_size)", self.vocab_size, MOST_VOCABULARY),
            ("window (sliding_window)", self.window.unwrap_or(1), usize::MAX),
            // A memory may be empty.
            ("memory (mem_len)", self.recurrence.map_or(1, |r| r.memory.max(1)), MOST_CONTEXT),
        ];
        if let Some((name, value, most)) = bounded.into_iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            return Some(format!("{name} is {value}, but must be from 1 to {most}"));
        }
        if self.head_size == 0 {
            return Some(format!(
                "{} heads (n_head) do not divide a width (n_embd) of {}; choose a width that is a multiple of \
                 the heads",
                self.heads, self.width
            ));
        }
        if !self.head_size.is_multiple_of(4) || self.head_size > MOST_HEAD_SIZE {
            return Some(format!(
                "width {} over {} heads gives a head size of {}, but it must be a multiple of 4 up to \
                 {MOST_HEAD_SIZE}; change the heads or the width",
                self.width, self.heads, self.head_size
            ));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Some(format!(
                "{} heads cannot share {} heads of keys and values (num_key_value_heads) evenly; choose a divisor of \
                 the heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.width.is_multiple_of(4) {
            return Some(format!("width (n_embd, hidden_size) is {}, but must be a multiple of 4", self.width));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            let name = match self.norm {
                Norm::LayerNorm => "layer_norm_epsilon",
                Norm::RmsNorm => "rms_norm_eps",
            };
            return Some(format!("{name} is {}, but must lie between 0 and 1", self.norm_epsilon));
        }
        if self.recurrence.is_some() && !self.width.is_multiple_of(2) {
            return Some(format!("positions of sinusoids take an even width (d_model), not {}", self.width));
        }
        if let Some(EncoderDecoder { start, .. }) = self.encoder_decoder
            && start as usize >= self.vocab_size
        {
            return Some(format!(
                "decoder_start_token_id is {start}, but the vocabulary has {} tokens",
                self.vocab_size
            ));
        }
        if let Position::Rope { base, scaling } = self.position {
            let numbers = match scaling {
                Scaling::None => vec![],
                Scaling::Linear { factor } => vec![factor],
                Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                    if low_freq_factor >= high_freq_factor {
                        return Some("rope's low_freq_factor must be less than its high_freq_factor".into());
                    }
                    vec![factor, low_freq_factor, high_freq_factor]
                }
            };
            if let Some(wrong) = numbers.into_iter().chain([base]).find(|n| !(n.is_finite() && *n > 0.0)) {
                return Some(format!(
                    "a number of the rotary embedding (rope_theta, rope_scaling) is {wrong}, not above 0"
                ));
            }
        }
        if let Some(problem) = self.experts().and_then(|experts| experts.problem()) {
            return Some(problem);
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

impl Experts {
    /// The error in the numbers, or nothing.
    fn problem(&self) -> Option<String> {
        if !(1..=MOST_EXPERTS).contains(&self.count) {
            return Some(format!(
                "experts (num_local_experts) is {}, but must be from 1 to {MOST_EXPERTS}",
                self.count
            ));
        }
        if !(1..=self.count.min(MOST_TOP)).contains(&self.top) {
            let most = self.count.min(MOST_TOP);
            return Some(format!(
                "experts-per-token (num_experts_per_tok) is {}, but must be from 1 to {most} of {} experts",
                self.top, self.count
            ));
        }
        let losses = [("router-balance (router_aux_loss_coef)", self.balance), ("router-z", self.z)];
        let (name, value) = losses.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0))?;
        Some(format!("{name} is {value}, but must be a number from 0 up"))
    }
}

// A workgroup keeps its experts' counts in workgroup memory, and a thread its choices in registers.
const MOST_EXPERTS: usize = 1024;
const MOST_TOP: usize = 32;
