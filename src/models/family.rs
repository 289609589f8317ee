//! The trait of a model family; everything else is the same for all of them.

use std::borrow::Cow;
use std::fmt::Debug;

use serde_json::Value;

use super::blocks::{CacheMode, Model};
use super::config::{Config, HEAD, SCORE};
use super::encoder_decoder::Source;
use super::keys::{Found, Keys, shown};
use crate::graph::{Graph, Tensor};

/// A model file: parameters, graph, and how Hugging Face writes it down.
pub trait Family: Debug + Sync {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Values of `model_type` in a `config.json`, that of new models first.
    fn model_types(&self) -> &'static [&'static str];

    /// Reads a `config.json`. Absent optional keys take the values that `transformers` gives them; sizes must be present.
    /// A key that asks for arithmetic that is not implemented is refused by name; keys that are unknown there and
    /// here are ignored.
    fn read(&self, keys: &Keys) -> Found<Config>;

    /// The `config.json` that `transformers` loads, for weights of type `dtype`, as PyTorch calls it.
    fn write(&self, config: &Config, dtype: &'static str) -> String;

    /// Why `transformers` has no such model, where it has none.
    fn foreign(&self, _config: &Config) -> Option<&'static str> {
        None
    }

    /// Whether its norm, positions and feed-forward part can be exchanged, one at a time.
    fn is_exchangeable(&self) -> bool {
        false
    }

    /// Whether attention may have a window, in all layers or in some.
    fn takes_windows(&self) -> bool {
        false
    }

    /// Whether several heads may share keys and values.
    fn shares_heads(&self) -> bool {
        false
    }

    /// The tensors that a parameter has in files where it has not one of its own name and shape; see [`Config::parts`].
    fn parts(&self, _config: &Config, _name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        None
    }

    /// The layers that have adapters unless others are named, as in peft.
    fn lora_targets(&self) -> &'static [&'static str];

    /// Whether the weights of its linear layers are stored as (inputs, outputs): GPT-2's `Conv1D`.
    fn is_transposed(&self) -> bool {
        false
    }

    /// The prefix that `transformers` gives every tensor but the head's.
    fn prefix(&self) -> &'static str;

    /// Name of the token embedding.
    fn embedding(&self) -> &'static str;

    /// Whether a tensor in a file is a constant that old versions of `transformers` saved.
    fn is_buffer(&self, name: &str) -> bool;

    /// Name of the output projection where it is not the token embedding, and in files where it is both.
    fn output(&self) -> &'static str {
        HEAD
    }

    /// The tensors of tasks' heads in files, which are no parameters of the model itself.
    fn task_heads(&self) -> &'static [&'static str] {
        &[SCORE]
    }

    /// The classes of `transformers` for this model with a head on whole texts, on each of several choices, on tokens, and on spans.
    fn classes_with_heads(&self, language_model: &str) -> [Option<String>; 4] {
        [classifier(language_model), None, None, None]
    }

    /// Whether a tensor belongs to a head, which a file may hold beside what the configuration asks for.
    fn is_head(&self, _name: &str) -> bool {
        false
    }

    /// Whether a tensor's name in files starts with [`Family::prefix`].
    fn is_prefixed(&self, name: &str) -> bool {
        name != HEAD && name != SCORE
    }

    /// The name here of a tensor of an old file, or of one of the family's kin.
    fn renamed<'a>(&self, _config: &Config, name: &'a str) -> Cow<'a, str> {
        name.into()
    }

    /// Rows of a tensor in files that come before those of the parameter.
    fn rows_before(&self, _config: &Config, _name: &str) -> usize {
        0
    }

    /// Whether a tensor that a file lacks is one of zeros.
    fn is_zero(&self, _config: &Config, _name: &str) -> bool {
        false
    }

    /// Whether other keys of the `config.json` that a configuration is from are written again.
    fn keeps_keys(&self, _config: &Config) -> bool {
        true
    }

    /// What the output projection takes, of hidden states (.., C).
    fn before_output(&self, _model: &Model, _g: &mut Graph, x: Tensor) -> Tensor {
        x
    }

    /// The bias of the output projection, where it has one.
    fn output_bias(&self) -> Option<&'static str> {
        None
    }

    /// An encoder's pooler, of the hidden states (N, C) of first tokens.
    fn pooled(&self, _model: &Model, _g: &mut Graph, _first: Tensor) -> Tensor {
        unreachable!("{} has no pooler", self.name())
    }

    /// Logits (N, 2) that the second text of a pair follows the first, and that it does not, of the pooler's outputs (N, C).
    fn follows(&self, _model: &Model, _g: &mut Graph, _pooled: Tensor) -> Tensor {
        unreachable!("{} has no pairs of texts", self.name())
    }

    /// Hidden states (B, S, C) of the input of an encoder and decoder; see [`Model::source`].
    fn source(&self, _model: &Model, _g: &mut Graph, _ids: Tensor, _lengths: Option<Tensor>) -> Tensor {
        unreachable!("{} has no encoder beside a decoder", self.name())
    }

    /// Hidden states (B, T, C) of a decoder that attends to a source.
    fn hidden_after(&self, _m: &Model, _g: &mut Graph, _ids: Tensor, _cache: CacheMode, _source: Source) -> Tensor {
        unreachable!("{} has no encoder beside a decoder", self.name())
    }

    /// Keys and values (B, S, k | v) of the encoder's hidden states, for a layer of the decoder.
    fn keys_values(&self, _model: &Model, _g: &mut Graph, _encoded: Tensor, _layer: usize) -> Tensor {
        unreachable!("{} has no encoder beside a decoder", self.name())
    }

    /// Hidden states (B, T, C) of ids (B, T) after the last norm. Declares every parameter but that of an untied head, in the
    /// order of their use.
    fn hidden(&self, model: &Model, g: &mut Graph, ids: Tensor, cache: CacheMode) -> Tensor;
}

/// Refuses a `config.json` for another head over the body than a language model's or a classifier's; `bodies` are the names
/// of the others whose tensors are the same.
pub(super) fn architectures(keys: &Keys, model: &str, bodies: &[&str]) -> Found<()> {
    let classifier = classifier(model).unwrap_or_default();
    let known = |name: &Value| name == model || *name == classifier || bodies.iter().any(|body| name == body);
    match keys.get("architectures") {
        Some(value @ Value::Array(names)) if !names.is_empty() && !names.iter().any(known) => {
            Err(format!("architectures is {}, but only {model} is supported here", shown(value)))
        }
        _ => Ok(()),
    }
}

/// The class of `transformers` for the classifier over the body of a language model.
pub fn classifier(language_model: &str) -> Option<String> {
    let stem = language_model.strip_suffix("LMHeadModel").or_else(|| language_model.strip_suffix("ForCausalLM"))?;
    Some(format!("{stem}ForSequenceClassification"))
}

/// Token ids as Hugging Face writes them: nothing, one, or a list.
pub fn one_or_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => Value::from(*id),
        ids => Value::from(ids),
    }
}
