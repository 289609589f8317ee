//! BERT: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (Devlin et al. 2019), section 3.
//!
//! An encoder: every token sees all tokens of its sequence. GPT's blocks, in which layernorm stands **after** each sum, with the exact
//! GELU; the sum of token, position and token-type embeddings is normalised, too. A token's hidden state predicts what was masked
//! there, and that of the first token, [CLS], passes a pooler before heads on whole sequences.
//!
//!   x = norm(x + attention(x)),  x = norm(x + mlp(x));  pooled = tanh(W h[0] + b)
//!   logits = norm(gelu(W h + b)) wte^T + bias
//!
//! Tensors carry the names and layouts of Hugging Face checkpoints, but for `qkv`, which is made of query, key and value.

pub mod dialect;
mod json;

use self::dialect::Dialect;
use super::blocks::{CacheMode, Model};
use super::config::{CLASSIFIER, Config, Dropout, Encoder, FeedForward, Heads, SPANS};
use super::family::Family;
use super::keys::{Found, Keys};
use super::linear::Stored;
use crate::graph::{Depth, Dtype, Graph, Initial, Shape, Tensor};
use crate::ops::add::Add;
use crate::ops::embedding::Embedding;
use crate::ops::gelu::{Form, Gelu};
use crate::ops::layernorm::LayerNorm;
use crate::ops::matmul::Matmul;
use crate::ops::tanh::Tanh;
use crate::ops::zeros::Zeros;
use std::borrow::Cow;

/// The family's name.
pub const NAME: &str = "BERT";

#[derive(Debug)]
pub struct Bert;

impl Family for Bert {
    /// Hidden states (B, T, C) of the last block.
    fn hidden(&self, m: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor {
        let Config { vocab_size: v, context, width: c, layers, .. } = *m.config;
        g.scope("embeddings");
        g.depth(Depth::Embedding);
        let tokens = m.table(g, self.embedding(), &[v, c]);
        let positions = m.table(g, POSITIONS, &[context, c]);
        let mut x = m.embedding(g, ids, tokens, Some(positions), cache); // (B, T, C)
        x = add_types(m, g, x, ids, cache);
        x = m.norm_to(g, x, "embeddings.LayerNorm", Dtype::F32);
        x = m.drop_embedding(g, x);
        for layer in 0..layers {
            g.depth(Depth::Block(layer));
            x = g.region(|g| block(m, g, x, layer, cache));
        }
        x
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["bert", "roberta", "distilbert"]
    }

    fn read(&self, keys: &Keys) -> Found<Config> {
        json::read(keys)
    }

    fn write(&self, config: &Config, dtype: &'static str) -> String {
        json::write(config, dtype)
    }

    fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let (path, kind) = name.rsplit_once('.')?;
        let module = path.strip_suffix(".qkv")?;
        let c = config.width;
        let shape = || if kind == "bias" { vec![c] } else { vec![c, c] };
        Some(["query", "key", "value"].map(|part| (format!("{module}.{part}.{kind}"), shape())).into())
    }

    fn lora_targets(&self) -> &'static [&'static str] {
        &["query", "value"]
    }

    fn prefix(&self) -> &'static str {
        "bert."
    }

    fn embedding(&self) -> &'static str {
        "embeddings.word_embeddings.weight"
    }

    fn output(&self) -> &'static str {
        "cls.predictions.decoder.weight"
    }

    /// The positions counted up, and the second name of the bias of the predictions.
    fn is_buffer(&self, name: &str) -> bool {
        matches!(name, "embeddings.position_ids" | "embeddings.token_type_ids" | "cls.predictions.decoder.bias")
    }

    fn task_heads(&self) -> &'static [&'static str] {
        const { &[CLASSIFIER[0], CLASSIFIER[1], SPANS[0], SPANS[1]] }
    }

    fn classes_with_heads(&self, _language_model: &str) -> [Option<String>; 4] {
        ["SequenceClassification", "MultipleChoice", "TokenClassification", "QuestionAnswering"]
            .map(|head| Some(format!("BertFor{head}")))
    }

    fn is_head(&self, name: &str) -> bool {
        ["cls.", "pooler.", "classifier.", "qa_outputs."].iter().any(|head| name.starts_with(head))
    }

    fn is_prefixed(&self, name: &str) -> bool {
        !self.is_head(name) || name.starts_with("pooler.")
    }

    /// LayerNorm's parameters are called gamma and beta in files of TensorFlow's time.
    fn renamed<'a>(&self, config: &Config, name: &'a str) -> Cow<'a, str> {
        match name.rsplit_once('.') {
            Some((module, "gamma")) => format!("{module}.weight").into(),
            Some((module, "beta")) => format!("{module}.bias").into(),
            _ => dialect(config).renamed(name),
        }
    }

    fn rows_before(&self, config: &Config, name: &str) -> usize {
        if name == POSITIONS { dialect(config).first_position() } else { 0 }
    }

    fn is_zero(&self, config: &Config, name: &str) -> bool {
        dialect(config) == Dialect::DistilBert && name == TYPES
    }

    fn keeps_keys(&self, config: &Config) -> bool {
        dialect(config) == Dialect::Bert
    }

    fn before_output(&self, m: &Model, g: &mut Graph, x: Tensor) -> Tensor {
        let c = m.config.width;
        g.depth(Depth::Head);
        let x = dense(m, g, x, "cls.predictions.transform.dense", (c, c));
        let x = g.apply(Gelu { form: form(m.config) }, &[x]);
        let [weight, bias] = norm(m, g, "cls.predictions.transform.LayerNorm");
        g.apply(LayerNorm { eps: m.config.norm_epsilon, output: m.activation() }, &[x, weight, bias])
    }

    fn output_bias(&self) -> Option<&'static str> {
        Some("cls.predictions.bias")
    }

    fn pooled(&self, m: &Model, g: &mut Graph, first: Tensor) -> Tensor {
        let c = m.config.width;
        g.scope("pooler");
        g.depth(Depth::Top);
        let x = dense(m, g, first, "pooler.dense", (c, c));
        g.apply(Tanh, &[x])
    }

    fn follows(&self, m: &Model, g: &mut Graph, pooled: Tensor) -> Tensor {
        g.scope("seq_relationship");
        g.depth(Depth::Head);
        dense(m, g, pooled, "cls.seq_relationship", (m.config.width, 2))
    }
}

const POSITIONS: &str = "embeddings.position_embeddings.weight";
const TYPES: &str = "embeddings.token_type_embeddings.weight";

fn dialect(config: &Config) -> Dialect {
    config.encoder.map_or(Dialect::Bert, |encoder| encoder.dialect)
}

/// x plus the embedding of each token's type: the first where the graph has no types.
fn add_types(m: &Model, g: &mut Graph, x: Tensor, ids: Tensor, cache: CacheMode) -> Tensor {
    let Encoder { token_types, .. } = m.config.encoder.expect("a BERT is an encoder");
    let table = m.table(g, TYPES, &[token_types, m.config.width]);
    let types = match cache {
        CacheMode::Encoded { types: Some(types), .. } if token_types > 1 => types,
        _ => {
            let shape = Shape::u32(&g.shape(ids).dims.clone());
            g.apply(Zeros { shape }, &[])
        }
    };
    let types = g.apply(Embedding, &[types, table]);
    g.apply(Add, &[x, types])
}

/// norm(x + attention(x)), then norm(x + mlp(x)). The norms are the residual stream, so that they stay f32.
fn block(m: &Model, g: &mut Graph, x: Tensor, layer: usize, cache: CacheMode) -> Tensor {
    let Config { width: c, inner, .. } = *m.config;
    let h = |name: &str| format!("encoder.layer.{layer}.{name}");

    g.scope(h("attention"));
    let qkv = m.linear(g, x, &h("attention.self.qkv"), (c, 3 * c), Stored::OutIn, true); // (B, T, 3C)
    let y = m.attention(g, qkv, layer, cache); // (B, T, C)
    let y = m.projection(g, y, &h("attention.output.dense"), (c, c), Stored::OutIn, true);
    let sum = m.add_residual(g, x, y, layer, 0);
    let x = m.norm_to(g, sum, &h("attention.output.LayerNorm"), Dtype::F32);

    g.scope(h("mlp"));
    let y = m.linear_gelu(g, x, &h("intermediate.dense"), (c, inner), Stored::OutIn, form(m.config)); // (B, T, inner)
    let y = m.projection(g, y, &h("output.dense"), (inner, c), Stored::OutIn, true);
    let sum = m.add_residual(g, x, y, layer, 1);
    m.norm_to(g, sum, &h("output.LayerNorm"), Dtype::F32)
}

/// W x + b of a head, in f32 whatever the precision.
fn dense(m: &Model, g: &mut Graph, x: Tensor, name: &str, (inputs, outputs): (usize, usize)) -> Tensor {
    let weight = m.table(g, &format!("{name}.weight"), &[outputs, inputs]);
    let bias = m.parameter(g, &format!("{name}.bias"), &[outputs], Initial::Zeros);
    g.apply(Matmul { tb: true, bias: true, ..Matmul::default() }, &[x, weight, bias])
}

fn norm(m: &Model, g: &mut Graph, name: &str) -> [Tensor; 2] {
    let mut parameter = |kind, initial| m.parameter(g, &format!("{name}.{kind}"), &[m.config.width], initial);
    [parameter("weight", Initial::Ones), parameter("bias", Initial::Zeros)]
}

fn form(config: &Config) -> Form {
    match config.feed_forward {
        FeedForward::Gelu(form) => form,
        _ => unreachable!("BERT has a GELU"),
    }
}

/// A BERT of these sizes with the paper's dropout of 0.1 and initial values, which predicts masked tokens.
fn new(vocab_size: usize, context: usize, layers: usize, heads: usize, width: usize) -> Config {
    Config {
        family: NAME,
        feed_forward: FeedForward::Gelu(Form::Erf),
        norm_epsilon: 1e-12,
        scaled_residual: false,
        dropout: Dropout::of(0.1),
        encoder: Some(Encoder { token_types: 2, heads: Heads::Masked, dialect: Dialect::Bert }),
        ..Config::new(vocab_size, context, layers, heads, width)
    }
}

/// As large as the demo.
pub(super) fn mini() -> Config {
    new(512, 128, 4, 8, 64)
}

/// The paper's smaller model: 30,522 pieces of lowercased words.
pub(super) fn base() -> Config {
    new(30_522, 512, 12, 12, 768)
}

/// The paper's larger model.
pub(super) fn large() -> Config {
    new(30_522, 512, 24, 16, 1024)
}
