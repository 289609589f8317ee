//! The user's choices of a new model: flags, and the same as keys of a configuration file.

use serde::{Deserialize, Serialize};

use super::config::{Config, FeedForward, Heads, MOST_LAYERS, Norm, Position, quads};
use crate::error::Result;
use crate::fail;
use crate::ops::rope::Scaling;

/// How a model of this program's own knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PositionKind {
    /// A learned vector per position.
    Learned,
    /// Rotary embedding of queries and keys, base 10,000.
    Rope,
}

/// The nonlinearity of a feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum FeedForwardKind {
    Gelu,
    /// Of two thirds of the channels, so that the parameters stay as many.
    SwiGlu,
}

/// How projections onto the residual stream start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ResidualInit {
    /// Divided by sqrt(2 layers).
    Scaled,
    /// As any other matrix.
    Plain,
}

/// Every choice of a new model, each a flag and a key of the configuration file; the preset has the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case")]
#[command(next_help_heading = "Model")]
pub struct ModelChoices {
    /// Named model: demo, char, gpt2, gpt2-medium, gpt2-large, gpt2-xl, gpt3-125m,
    /// gpt3-350m, gpt3-760m, gpt3-1.3b, gpt3-2.7b, gpt3-6.7b, gpt3-13b, gpt3-175b, gpt, gpt-mini, llama-mini, mixtral, smollm2-135m,
    /// smollm2-360m, tinyllama-1.1b, bert-mini, bert-base, bert-large, t5-mini, t5-small, t5-base, transfo-xl-mini, transfo-xl-wt103
    /// [default: demo]
    #[arg(long)]
    pub preset: Option<String>,
    /// Transformer blocks; of a t5 preset those of the encoder, and as many of the decoder
    #[arg(long)]
    pub layers: Option<usize>,
    /// Attention heads per block
    #[arg(long)]
    pub heads: Option<usize>,
    /// Heads of keys and values in a llama preset, each shared by several attention heads
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// Channels of the residual stream
    #[arg(long)]
    pub width: Option<usize>,
    /// Tokens per sequence
    #[arg(long)]
    pub context: Option<usize>,
    /// Norm of a GPT-2 preset [default: layernorm]
    #[arg(long, value_enum)]
    pub norm: Option<Norm>,
    /// Positions of a GPT-2 preset [default: learned]
    #[arg(long, value_enum)]
    pub position: Option<PositionKind>,
    /// Feed-forward part of a GPT-2 preset [default: gelu]
    #[arg(long, value_enum)]
    pub feed_forward: Option<FeedForwardKind>,
    /// Positions that attention sees at most, the newest included, in a GPT-2, GPT-3 or LLaMA preset
    #[arg(long, value_name = "N")]
    pub attention_window: Option<usize>,
    /// The first layer and every K-th after it see all positions although there is a window: 2 for all and window in turn, as GPT-3
    #[arg(long, value_name = "K")]
    pub window_every: Option<usize>,
    /// Experts of each layer in a mixtral preset
    #[arg(long)]
    pub experts: Option<usize>,
    /// Experts that a token uses
    #[arg(long)]
    pub experts_per_token: Option<usize>,
    /// Coefficient of the loss that balances the experts' load
    #[arg(long)]
    pub router_balance: Option<f32>,
    /// Coefficient of the loss that keeps routers' logits small
    #[arg(long)]
    pub router_z: Option<f32>,
    /// Standard deviation of initial weights; of a t5 preset a factor of the paper's [default: 0.02, as GPT-2; the small presets, t5, and
    /// sizes without one, have their own]
    #[arg(long)]
    pub init_std: Option<f32>,
    /// Initial weights of projections onto the residual stream: scaled divides their standard deviation by sqrt(2 layers), as
    /// GPT-2 does [default: scaled for GPT, GPT-2 and the small presets, plain for other LLaMAs]
    #[arg(long, value_enum)]
    pub residual_init: Option<ResidualInit>,
    /// char, bytes, wordpiece or unigram (made of the data), or a Hugging Face tokenizer.json
    #[arg(long)]
    pub tokenizer: Option<String>,
    /// Share of the tokens that a bert preset predicts [default: 0.15]
    #[arg(long, value_name = "SHARE", help_heading = "Masked tokens")]
    pub mask_share: Option<f32>,
    /// Mask all pieces of a word together
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false", help_heading = "Masked tokens")]
    pub whole_words: Option<bool>,
    /// Predict, too, whether the second of two texts follows the first
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "true|false", help_heading = "Masked tokens")]
    pub next_sentence: Option<bool>,
}

impl ModelChoices {
    /// The preset whose recipe applies: none for sizes without a preset.
    pub fn recipe(&self) -> Option<&str> {
        let sized = self.layers.is_some() || self.heads.is_some() || self.width.is_some();
        self.preset.as_deref().or((!sized).then_some("demo"))
    }

    fn preset(&self) -> &str {
        self.preset.as_deref().unwrap_or("demo")
    }

    /// Whether the preset is an encoder.
    pub fn is_encoder(&self) -> Result<bool> {
        Ok(Config::preset(self.preset())?.encoder.is_some())
    }

    /// The size of a vocabulary that is made for the preset.
    pub fn vocabulary_size(&self) -> Result<usize> {
        Ok(Config::preset(self.preset())?.vocab_size)
    }

    /// Refuses choices of masks for a model that has none.
    pub fn check_masks(&self, is_encoder: bool) -> Result<()> {
        let given = self.mask_share.is_some() || self.whole_words.is_some() || self.next_sentence.is_some();
        if given && !is_encoder {
            fail!(
                Usage,
                "--mask-share, --whole-words and --next-sentence are for encoders: give a bert preset, or leave them out"
            );
        }
        Ok(())
    }

    /// The heads of an encoder that is pretrained.
    pub fn heads(&self) -> Heads {
        if self.next_sentence == Some(true) { Heads::Pretraining } else { Heads::Masked }
    }

    /// The model for a vocabulary, with initial weights of standard deviation `std` unless one is given, and its tokens per
    /// sequence.
    pub fn config(&self, vocab_size: usize, std: f32) -> Result<Config> {
        let base = Config::preset(self.preset())?;
        let (layers, heads) = (self.layers.unwrap_or(base.layers), self.heads.unwrap_or(base.heads));
        let (width, context) = (self.width.unwrap_or(base.width), self.context.unwrap_or(base.context));
        let mut config = base.resized(layers, heads, width);
        (config.vocab_size, config.context) = (vocab_size, context);
        config.initializer_range = self.init_std.unwrap_or(std);
        let scaled = self.residual_init.map(|init| init == ResidualInit::Scaled);
        config.scaled_residual = scaled.unwrap_or(config.scaled_residual);
        self.exchange(&mut config)?;
        if config.encoder.is_some() {
            config = config.with_heads(self.heads());
        }
        config.validate()?;
        Ok(config)
    }

    /// Tokens per sequence of a run that goes on with the model `init`; refuses choices that differ from it.
    pub fn check_init(&self, init: &Config) -> Result<usize> {
        let differs = |choice: Option<usize>, own: usize| choice.is_some_and(|choice| choice != own);
        let context = self.context.unwrap_or(init.context);
        let sizes = differs(self.layers, init.layers) || differs(self.heads, init.heads);
        if sizes || differs(self.width, init.width) || !(1..=init.context).contains(&context) {
            fail!(
                Usage,
                "the model given with --init has {} layers, {} heads, width {} and context {}: leave out options that differ",
                init.layers,
                init.heads,
                init.width,
                init.context
            );
        }
        let parts = [self.norm.is_some(), self.position.is_some(), self.feed_forward.is_some()];
        let windows = self.attention_window.is_some() || self.window_every.is_some();
        if parts.contains(&true) || windows || self.kv_heads.is_some() || self.changes_experts() {
            fail!(
                Usage,
                "the model given with --init has its own parts: leave out --norm, --position, --feed-forward, \
                 --attention-window, --window-every, --kv-heads, --experts, --experts-per-token, --router-balance, --router-z"
            );
        }
        if self.init_std.is_some() || self.residual_init.is_some() {
            fail!(Usage, "the model given with --init has its own weights: leave out --init-std, --residual-init");
        }
        Ok(context)
    }

    /// Puts in the parts that are not the preset's.
    fn exchange(&self, config: &mut Config) -> Result<()> {
        let parts = [self.norm.is_some(), self.position.is_some(), self.feed_forward.is_some()];
        let preset = self.preset();
        if !config.family().is_exchangeable() && parts.contains(&true) {
            fail!(Usage, "--norm, --position and --feed-forward are for GPT-2 presets: {preset} has its own parts");
        }
        match &mut config.feed_forward {
            FeedForward::Experts(experts) => {
                experts.count = self.experts.unwrap_or(experts.count);
                experts.top = self.experts_per_token.unwrap_or(experts.top);
                experts.balance = self.router_balance.unwrap_or(experts.balance);
                experts.z = self.router_z.unwrap_or(experts.z);
            }
            _ if self.changes_experts() => {
                fail!(
                    Usage,
                    "--experts, --experts-per-token, --router-balance and --router-z are for mixtral: {preset} has no \
                     experts"
                );
            }
            _ => {}
        }
        config.kv_heads = self.kv_heads.unwrap_or(config.kv_heads);
        config.norm = self.norm.unwrap_or(config.norm);
        if self.position == Some(PositionKind::Rope) {
            config.position = Position::Rope { base: 10_000.0, scaling: Scaling::None };
        }
        if self.feed_forward == Some(FeedForwardKind::SwiGlu) {
            config.feed_forward = FeedForward::SwiGlu;
            config.inner = quads(config.inner.saturating_mul(2).div_ceil(3));
        }
        self.put_windows(config)
    }

    /// Puts in the window of attention, and the layers that have none; a GPT-3 preset's are every second one, however many there are.
    fn put_windows(&self, config: &mut Config) -> Result<()> {
        let given = self.attention_window.is_some() || self.window_every.is_some();
        if given && !config.family().takes_windows() {
            let preset = self.preset();
            fail!(
                Usage,
                "--attention-window and --window-every are for GPT-2, GPT-3 and LLaMA presets: {preset} has its own attention"
            );
        }
        config.window = self.attention_window.or(config.window);
        if self.window_every.is_some() && config.window.is_none() {
            fail!(Usage, "--window-every is about the layers of a window: give --attention-window as well");
        }
        if let Some(every @ (0 | 1)) = self.window_every {
            fail!(Usage, "--window-every {every} is no choice between layers: give 2 or more, or leave it out");
        }
        let own = (!config.full_layers.is_empty()).then_some(2);
        if let Some(every) = self.window_every.or(own) {
            config.full_layers = (0..config.layers.min(MOST_LAYERS)).step_by(every).collect();
        }
        // One layer, which sees all positions.
        if config.full_layers.len() >= config.layers {
            (config.window, config.full_layers) = (None, vec![]);
        }
        Ok(())
    }

    fn changes_experts(&self) -> bool {
        let counts = self.experts.is_some() || self.experts_per_token.is_some();
        counts || self.router_balance.is_some() || self.router_z.is_some()
    }
}
