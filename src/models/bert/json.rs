//! BERT's `config.json`, and those of its kin.

use super::NAME;
use super::dialect::Dialect;
use crate::files::one_line;
use crate::models::config::*;
use crate::models::keys::{Found, Keys, shown};
use crate::ops::gelu::Form;
use serde::Serialize;
use serde_json::Value;

/// Classes of `transformers`, and the heads that they have as a part of the model; of those with equal heads the first is written.
const CLASSES: [(&str, Heads); 18] = [
    ("BertForMaskedLM", Heads::Masked),
    ("BertForPreTraining", Heads::Pretraining),
    ("BertModel", Heads::Pooler),
    ("BertForSequenceClassification", Heads::Pooler),
    ("BertForMultipleChoice", Heads::Pooler),
    ("BertForNextSentencePrediction", Heads::Pooler),
    ("BertForTokenClassification", Heads::None),
    ("BertForQuestionAnswering", Heads::None),
    ("RobertaForMaskedLM", Heads::Masked),
    ("RobertaModel", Heads::Pooler),
    ("RobertaForSequenceClassification", Heads::Pooler),
    ("RobertaForMultipleChoice", Heads::Pooler),
    ("RobertaForTokenClassification", Heads::None),
    ("RobertaForQuestionAnswering", Heads::None),
    ("DistilBertForMaskedLM", Heads::Masked),
    ("DistilBertModel", Heads::None),
    ("DistilBertForTokenClassification", Heads::None),
    ("DistilBertForQuestionAnswering", Heads::None),
];

/// Keys that have other names in a `config.json` of DistilBERT.
struct Names {
    layers: &'static str,
    heads: &'static str,
    width: &'static str,
    inner: &'static str,
    activation: &'static str,
    dropout: &'static str,
    attention_dropout: &'static str,
}

const BERT: Names = Names {
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    width: "hidden_size",
    inner: "intermediate_size",
    activation: "hidden_act",
    dropout: "hidden_dropout_prob",
    attention_dropout: "attention_probs_dropout_prob",
};
const DISTILBERT: Names = Names {
    layers: "n_layers",
    heads: "n_heads",
    width: "dim",
    inner: "hidden_dim",
    activation: "activation",
    dropout: "dropout",
    attention_dropout: "attention_dropout",
};

pub(super) fn read(keys: &Keys) -> Found<Config> {
    let is = |name: &str| keys.get("model_type").is_some_and(|model_type| model_type == name);
    let dialect = match () {
        // RoBERTa's positions start behind that of padding.
        () if is("roberta") => {
            Dialect::Roberta { first_position: keys.whole("pad_token_id", 0..=MOST_CONTEXT)?.unwrap_or(1) + 1 }
        }
        () if is("distilbert") => Dialect::DistilBert,
        () => Dialect::Bert,
    };
    let names = if dialect == Dialect::DistilBert { DISTILBERT } else { BERT };
    let needed = keys.needed(NAME);
    let vocab_size = needed("vocab_size", MOST_VOCABULARY)?;
    let positions = needed("max_position_embeddings", MOST_CONTEXT)?;
    let context = positions.saturating_sub(dialect.first_position());
    let layers = needed(names.layers, MOST_LAYERS)?;
    let heads = needed(names.heads, MOST_WIDTH)?;
    let width = needed(names.width, MOST_WIDTH)?;
    keys.only("is_decoder", &Value::from(false))?;
    keys.only("add_cross_attention", &Value::from(false))?;
    keys.only("is_encoder_decoder", &Value::from(false))?;
    keys.only("pruned_heads", &Value::Object(Default::default()))?;
    keys.only("position_embedding_type", &Value::from("absolute"))?;
    keys.only("tie_word_embeddings", &Value::from(true))?;
    keys.only("sinusoidal_pos_embds", &Value::from(false))?;
    let (heads_there, form) = (heads_of(keys, dialect)?, activation(keys, names.activation)?);
    // RoBERTa's prediction of masked tokens has gelu, whatever the blocks have.
    if matches!(dialect, Dialect::Roberta { .. }) && heads_there.predicts() && form != Form::Erf {
        return Err(format!(
            "{} of a RoBERTa that predicts masked tokens must be gelu, as its head has that",
            names.activation
        ));
    }
    let hidden = keys.number(names.dropout)?.unwrap_or(0.1);
    let attention = keys.number(names.attention_dropout)?.unwrap_or(0.1);
    let token_types = match dialect {
        Dialect::DistilBert => 1,
        _ => keys.whole("type_vocab_size", 1..=MOST_VOCABULARY)?.unwrap_or(2),
    };
    Ok(Config {
        family: NAME,
        inner: needed(names.inner, MOST_INNER)?,
        feed_forward: FeedForward::Gelu(form),
        norm_epsilon: keys.number("layer_norm_eps")?.unwrap_or(1e-12),
        scaled_residual: false,
        dropout: Dropout { embedding: hidden, attention, residual: hidden },
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        bos_token_id: keys.tokens("bos_token_id").first().copied(),
        eos_token_id: keys.tokens("eos_token_id"),
        encoder: Some(Encoder { token_types, heads: heads_there, dialect }),
        ..Config::new(vocab_size, context, layers, heads, width)
    })
}

/// The heads of the class that wrote the file.
fn heads_of(keys: &Keys, dialect: Dialect) -> Found<Heads> {
    let body = if dialect == Dialect::DistilBert { Heads::None } else { Heads::Pooler };
    let Some(value) = keys.get("architectures") else { return Ok(body) };
    let names = value.as_array().map_or(&[][..], Vec::as_slice);
    let known = names.iter().find_map(|name| CLASSES.iter().find(|(class, _)| name == class));
    match known {
        Some((_, heads)) => Ok(*heads),
        None if names.is_empty() => Ok(body),
        None => {
            let classes = CLASSES.map(|(class, _)| class).join(", ");
            Err(format!("architectures is {}, but only {classes} are supported here", shown(value)))
        }
    }
}

fn activation(keys: &Keys, key: &str) -> Found<Form> {
    match keys.get(key).map(|value| value.as_str().unwrap_or("")) {
        None | Some("gelu") => Ok(Form::Erf),
        Some("gelu_new" | "gelu_pytorch_tanh") => Ok(Form::Tanh),
        Some(other) => Err(format!("{key} {:?} is not supported; use gelu or gelu_new", one_line(other))),
    }
}

pub(super) fn write(config: &Config, dtype: &'static str) -> String {
    let encoder = config.encoder.expect("a BERT is an encoder");
    let (class, _) = *CLASSES.iter().find(|(_, heads)| *heads == encoder.heads).expect("every kind has a class");
    let written = ConfigJson {
        architectures: [class],
        attention_probs_dropout_prob: config.dropout.attention,
        dtype,
        hidden_act: match config.feed_forward {
            FeedForward::Gelu(Form::Tanh) => "gelu_new",
            _ => "gelu",
        },
        hidden_dropout_prob: config.dropout.residual,
        hidden_size: config.width,
        initializer_range: config.initializer_range,
        intermediate_size: config.inner,
        layer_norm_eps: config.norm_epsilon,
        max_position_embeddings: config.context,
        model_type: "bert",
        num_attention_heads: config.heads,
        num_hidden_layers: config.layers,
        tie_word_embeddings: true,
        torch_dtype: dtype,
        type_vocab_size: encoder.token_types,
        vocab_size: config.vocab_size,
    };
    serde_json::to_string_pretty(&written).expect("a struct of numbers and strings always serialises") + "\n"
}

/// The written keys, in the alphabetical order of `transformers`. Typed so that floats keep their short f32 form.
#[derive(Serialize)]
struct ConfigJson {
    architectures: [&'static str; 1],
    attention_probs_dropout_prob: f32,
    dtype: &'static str,
    hidden_act: &'static str,
    hidden_dropout_prob: f32,
    hidden_size: usize,
    initializer_range: f32,
    intermediate_size: usize,
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    model_type: &'static str,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    tie_word_embeddings: bool,
    torch_dtype: &'static str,
    type_vocab_size: usize,
    vocab_size: usize,
}
