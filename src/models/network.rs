//! A network: a model with a name of its own in the store, and its graphs, whatever its family.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::blocks::{CacheMode, Compute, Model};
use super::config::{Config, Dropout, Heads};
use super::encoder_decoder::Source;
use super::linear::Linear;
use super::lora::Lora;
use crate::graph::{Depth, Dtype, Graph, Initial, NetworkId, Parameter, Shape, Tensor};
use crate::ops::add::Add;
use crate::ops::cast::cast;
use crate::ops::chunked_classifier::{ChunkedClassifier, ChunkedCrossEntropy};
use crate::ops::chunked_token_log_prob::ChunkedTokenLogProb;
use crate::ops::classifier::Classifier;
use crate::ops::cross_entropy::CrossEntropy;
use crate::ops::matmul::Matmul;
use crate::ops::router_losses::RouterLosses;
use crate::ops::token_log_prob::TokenLogProb;

/// A model whose states have names that start with `prefix`: a policy and its reference are two networks in one store.
#[derive(Clone, Debug)]
pub struct Network {
    config: Arc<Config>,
    prefix: Arc<str>,
    id: NetworkId,
    parameters: Arc<[Parameter]>,
    frozen: bool,
}

impl Network {
    /// The only network of a store, or the first: its states have no prefix.
    pub fn new(config: Config) -> Network {
        Network::with_prefix(config, "")
    }

    /// A network whose states' names start with `prefix`, such as `reference.`.
    pub fn with_prefix(config: Config, prefix: &str) -> Network {
        let mut network = Network {
            config: config.into(),
            prefix: prefix.into(),
            id: NetworkId::new(),
            parameters: [].into(),
            frozen: false,
        };
        // The graph of a forward pass declares every parameter; its sizes do not matter.
        let mut g = Graph::new();
        network.forward(&mut g, &network.inference());
        network.parameters = g.parameters().into();
        network
    }

    fn forward(&self, g: &mut Graph, model: &Model) {
        let ids = g.input("ids", Shape::u32(&[1, 1]));
        if self.config.encoder_decoder.is_some() {
            let encoded = model.source(g, ids, None);
            let outputs = g.input("outputs", Shape::u32(&[1, 1]));
            let x = model.hidden_after(g, outputs, encoded, None);
            model.head(g, x);
            return;
        }
        if self.config.encoder.is_none() {
            model.logits(g, ids);
            return;
        }
        let (x, heads) = (model.hidden(g, ids), self.config.heads_of_encoder());
        if heads.predicts() {
            model.head(g, x);
        }
        if heads.pools() {
            let pooled = self.config.family().pooled(model, g, x);
            if heads == Heads::Pretraining {
                self.config.family().follows(model, g, pooled);
            }
        }
    }

    /// Names of the matrices of the blocks' linear layers, in the order of their use.
    pub fn matrices(&self) -> Vec<String> {
        let model = self.inference();
        self.forward(&mut Graph::new(), &model);
        model.matrices.into_inner()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn id(&self) -> NetworkId {
        self.id
    }

    /// Every parameter, in the order in which the model uses them.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The same network, of which nothing is trained: a reference, a reward model.
    pub fn frozen(self) -> Network {
        Network { frozen: true, ..self }
    }

    /// The model under the adapters, in the same states, frozen and without dropout.
    pub fn base(&self) -> Network {
        let config = Config { lora: None, dropout: Dropout::default(), ..(*self.config).clone() };
        Network { id: self.id, ..Network::with_prefix(config, &self.prefix).frozen() }
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The same network with other dropout: its parameters and their states stay.
    pub fn with_dropout(&self, dropout: Dropout) -> Network {
        Network { config: Config { dropout, ..(*self.config).clone() }.into(), ..self.clone() }
    }

    /// Whether a parameter stays as it is in training: those of a frozen network, and of a network with adapters all but those and
    /// the tables that are saved beside them.
    pub fn freezes(&self, parameter: &Parameter) -> bool {
        let is_adapted = |lora: &Lora| {
            let name = parameter.name.strip_prefix(&*self.prefix).unwrap_or(&parameter.name);
            !parameter.adapter && !lora.saved.iter().any(|saved| saved == name)
        };
        (self.frozen || self.config.lora.as_ref().is_some_and(is_adapted)) && self.parameters.contains(parameter)
    }

    /// Declares every parameter, also those that the graph does not use.
    pub fn declare(&self, g: &mut Graph) {
        self.parameters.iter().for_each(|parameter| _ = g.declare(self.id, parameter));
    }

    /// Builds graphs that sample or evaluate, in f32.
    pub fn inference(&self) -> Model<'_> {
        self.model(false, Compute::default())
    }

    /// Builds graphs that evaluate in the precision and with the logits of a training run.
    pub fn evaluation(&self, compute: Compute) -> Model<'_> {
        self.model(false, compute)
    }

    /// Builds training graphs.
    pub fn training(&self, compute: Compute) -> Model<'_> {
        self.model(true, compute)
    }

    fn model(&self, training: bool, compute: Compute) -> Model<'_> {
        let (config, prefix) = (&*self.config, &*self.prefix);
        let (routed, matrices, adapters) = (RefCell::default(), RefCell::default(), Cell::default());
        Model { config, prefix, network: self.id, training, compute, routed, matrices, adapters }
    }
}

impl Model<'_> {
    /// Mean cross-entropy, in nats per token, of inputs `ids` (B, T) against `targets` (B, T).
    pub fn loss(&self, g: &mut Graph, batch: usize, context: usize) -> Tensor {
        let ids = g.input("ids", Shape::u32(&[batch, context]));
        let x = self.hidden(g, ids);
        let targets = g.input("targets", Shape::u32(&[batch, context]));
        self.token_loss(g, x, targets, 1.0)
    }

    /// As [`Model::loss`], of segments that follow those of the micro-batch `slots` before; see [`Model::segment`].
    pub fn segment_loss(&self, g: &mut Graph, (batch, context): (usize, usize), slots: usize) -> Tensor {
        let ids = g.input("ids", Shape::u32(&[batch, context]));
        let x = self.segment(g, ids, slots);
        let targets = g.input("targets", Shape::u32(&[batch, context]));
        self.token_loss(g, x, targets, 1.0)
    }

    /// `weight` times the mean cross-entropy, in nats per token, of hidden states (B, T, C) against `targets` (B, T). In a
    /// training graph its gradients are made in the forward pass.
    pub fn token_loss(&self, g: &mut Graph, x: Tensor, targets: Tensor, weight: f32) -> Tensor {
        match self.classifier_rows() {
            Some(rows) if rows < g.shape(targets).len() => {
                let (x, table) = (self.config.family().before_output(self, g, x), self.head_weight(g));
                let (x, table) = (cast(g, x, self.activation()), cast(g, table, self.activation()));
                g.scope("lm_head and loss");
                match g.seed() {
                    Some(seed) => {
                        let op = ChunkedClassifier { rows, weight, accumulate: false };
                        g.apply(op, &[x, table, targets, seed])
                    }
                    None => g.apply(ChunkedCrossEntropy { rows }, &[x, table, targets]),
                }
            }
            _ => {
                let logits = self.head(g, x);
                g.scope("loss");
                self.loss_of_logits(g, logits, targets, weight)
            }
        }
    }

    /// As [`Model::token_loss`], of logits (.., V).
    pub fn loss_of_logits(&self, g: &mut Graph, logits: Tensor, targets: Tensor, weight: f32) -> Tensor {
        match g.seed() {
            Some(seed) => g.apply(Classifier { weight }, &[logits, targets, seed]),
            None => g.apply(CrossEntropy, &[logits, targets]),
        }
    }

    /// The log-probability (B*T), in nats, of each target (B, T) of hidden states (B, T, C), 0 where it is ignored; with a gradient
    /// for each.
    pub fn token_log_probs(&self, g: &mut Graph, x: Tensor, targets: Tensor) -> Tensor {
        match self.classifier_rows() {
            Some(rows) if rows < g.shape(targets).len() => {
                let (x, table) = (self.config.family().before_output(self, g, x), self.head_weight(g));
                let (x, table) = (cast(g, x, self.activation()), cast(g, table, self.activation()));
                g.scope("lm_head and log-probabilities");
                g.apply(ChunkedTokenLogProb { rows }, &[x, table, targets])
            }
            _ => {
                let logits = self.head(g, x);
                g.scope("log-probabilities");
                g.apply(TokenLogProb, &[logits, targets])
            }
        }
    }

    /// The losses that keep the routers of this forward pass in order: their mean over the layers with experts, or nothing
    /// where there are none. Mixtral in transformers counts all layers together instead, which lets the imbalance of one layer
    /// make up for that of another.
    pub fn router_loss(&self, g: &mut Graph) -> Option<Tensor> {
        let (experts, routed) = (self.config.experts()?, self.routed.borrow());
        let share = 1.0 / routed.len() as f32;
        let mut sum = None;
        for (layer, r) in routed.iter().enumerate() {
            g.scope(format!("router of layer {layer}"));
            let losses = RouterLosses { balance: experts.balance * share, z: experts.z * share };
            let losses = g.apply(losses, &[r.logits, r.offsets]);
            sum = Some(sum.map_or(losses, |sum| g.apply(Add, &[sum, losses])));
        }
        sum
    }

    /// Logits (B, T, V) of token ids (B, T).
    pub fn logits(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let x = self.hidden(g, ids);
        self.head(g, x)
    }

    /// Hidden states (B, T, C) of token ids (B, T), as the output projection takes them.
    pub fn hidden(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        self.config.family().hidden(self, g, ids, CacheMode::Off)
    }

    /// As [`Model::hidden`], of rows in which documents follow one another, each seen by itself; see [`CacheMode::Documents`].
    pub fn hidden_of_documents(&self, g: &mut Graph, ids: Tensor, positions: Tensor, starts: Tensor) -> Tensor {
        self.config.family().hidden(self, g, ids, CacheMode::Documents { positions, starts })
    }

    /// As [`Model::hidden`], in f32 whatever the precision: for heads, which compute in f32.
    pub fn hidden_f32(&self, g: &mut Graph, ids: Tensor) -> Tensor {
        let x = self.hidden(g, ids);
        cast(g, x, Dtype::F32)
    }

    /// Stores the keys and values of token ids (1, T), positions from 0 on, in row `Step::row` of a cache of `rows` rows. A model that passes
    /// texts in segments adds a segment to the memory of row `Step::micro_batch`.
    pub fn prefill(&self, g: &mut Graph, ids: Tensor, rows: usize) {
        self.config.family().hidden(self, g, ids, CacheMode::Prefill { rows });
    }

    /// Logits (B, 1, V) after one more token of each row, ids (B, 1), at the row's position, positions (B), of a cache of B rows.
    pub fn decode(&self, g: &mut Graph, ids: Tensor, positions: Tensor) -> Tensor {
        let rows = g.shape(ids).rows();
        let x = self.config.family().hidden(self, g, ids, CacheMode::Decode { rows, positions });
        self.head(g, x)
    }

    /// As [`Model::decode`], of a decoder with a source, whose rows are cached up to the key `last` (B).
    pub fn decode_after(&self, g: &mut Graph, ids: Tensor, positions: Tensor, last: Tensor) -> Tensor {
        let rows = g.shape(ids).rows();
        let (cache, source) = (CacheMode::Decode { rows, positions }, Source::Cached { last });
        let x = self.config.family().hidden_after(self, g, ids, cache, source);
        self.head(g, x)
    }

    /// The caches of all layers, each (rows, 2, KVH, T, HS): keys, then values. Of a model that passes texts in segments its memories,
    /// (rows, M, C).
    pub fn caches(&self, g: &mut Graph, rows: usize) -> Vec<Tensor> {
        if self.config.recurrence.is_some() {
            return self.memories(g, rows);
        }
        (0..self.decoder_layers()).map(|layer| self.cache(g, layer, rows)).collect()
    }

    /// Positions whose logits are made at a time, where an output projection without a bias allows that.
    fn classifier_rows(&self) -> Option<usize> {
        self.compute.classifier_rows.filter(|_| self.config.family().output_bias().is_none())
    }

    /// Hidden states (B, T, C) of an encoder's padded rows; see [`CacheMode::Encoded`].
    pub fn encoded(&self, g: &mut Graph, ids: Tensor, types: Option<Tensor>, lengths: Option<Tensor>) -> Tensor {
        self.config.family().hidden(self, g, ids, CacheMode::Encoded { types, lengths })
    }

    /// The output projection x W^T, where W is the token embedding unless the model has a head of its own, of hidden states as the
    /// family prepares them.
    pub fn head(&self, g: &mut Graph, x: Tensor) -> Tensor {
        g.scope("lm_head");
        let family = self.config.family();
        let x = family.before_output(self, g, x);
        let weight = self.head_weight(g);
        let bias = family.output_bias().map(|name| self.parameter(g, name, &[self.config.vocab_size], Initial::Zeros));
        let linear = Linear { weight, bias, tb: true, quantisation: None, adapter: None };
        self.product(g, x, linear, None, Matmul { output: self.activation(), ..Matmul::default() })
    }

    fn head_weight(&self, g: &mut Graph) -> Tensor {
        g.depth(Depth::Head);
        let name = if self.config.tied { self.config.family().embedding() } else { self.config.family().output() };
        self.table(g, name, &[self.config.vocab_size, self.config.width])
    }

    /// A task head's matrix, with the initial values of the model's.
    pub fn task_head(&self, g: &mut Graph, name: &str, dims: &[usize]) -> Tensor {
        g.depth(Depth::Head);
        self.parameter(g, name, dims, Initial::Normal { std: f64::from(self.config.initializer_range) })
    }
}

impl Config {
    /// Number of trainable values; an output projection that is the embedding table counts once.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(|(_, dims)| values(dims)).sum()
    }

    /// Number of values in matrices that a token is multiplied by: all but norms, biases, embeddings and the experts that it
    /// does not use, and the output projection also where it is the embedding table.
    pub fn multiplied_count(&self) -> u64 {
        let network = Network::new(self.clone());
        let matrices = network.parameters().iter().filter(|p| p.dims.len() > 1 && p.depth != Depth::Embedding);
        let in_use = |dims: &[usize]| self.experts().filter(|_| dims.len() == 3).map(|e| (e.top, e.count));
        let sum: u64 = matrices
            .map(|p| match in_use(&p.dims) {
                Some((top, count)) => values(&p.dims) / count as u64 * top as u64,
                None => values(&p.dims),
            })
            .sum();
        if self.tied { sum + (self.vocab_size * self.width) as u64 } else { sum }
    }

    /// The same of the two stacks of an encoder and decoder: what a token of the input is multiplied by, the keys and values of the
    /// decoder's attention to it among that, and what a token of the output is.
    pub fn multiplied_by_stack(&self, decoder_layers: usize) -> (u64, u64) {
        let network = Network::new(self.clone());
        let is_encoder = |depth: Depth| matches!(depth, Depth::Block(layer) if layer < self.layers);
        let matrices = network.parameters().iter().filter(|p| p.dims.len() > 1 && is_encoder(p.depth));
        let encoder: u64 = matrices.map(|p| values(&p.dims)).sum();
        let keys_values = (2 * decoder_layers * self.width * self.heads * self.head_size) as u64;
        (encoder + keys_values, self.multiplied_count() - encoder - keys_values)
    }

    /// Name and shape of every parameter, in the order in which the model uses them. Names and layouts are those of Hugging
    /// Face checkpoints, without their prefix; see [`Config::parts`] for those that consist of several.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let network = Network::new(self.clone());
        network.parameters().iter().map(|p| (p.name.clone(), p.dims.clone())).collect()
    }

    /// Names of the tables that have other rows than those of `base`.
    pub fn tables_beyond(&self, base: &Config) -> Vec<String> {
        let tables = [self.family().embedding()].into_iter().chain((!self.tied).then_some(self.family().output()));
        tables.filter(|_| self.vocab_size != base.vocab_size).map(str::to_string).collect()
    }

    /// The tensors of a checkpoint whose values, one after another, are those of a parameter: name and shape of each.
    pub fn parts(&self, name: &str, dims: &[usize]) -> Vec<(String, Vec<usize>)> {
        let of_adapter = self.lora.as_ref().and_then(|lora| lora.parts(self, name, dims));
        let parts = of_adapter.or_else(|| self.family().parts(self, name));
        parts.unwrap_or_else(|| vec![(name.to_string(), dims.to_vec())])
    }
}

fn values(dims: &[usize]) -> u64 {
    dims.iter().map(|&n| n as u64).product()
}
