//! Low-rank adapters of linear layers: "LoRA: Low-Rank Adaptation of Large Language Models" (Hu et al. 2021), section 4.1.
//!
//!   y = W x + scale B A dropout(x),  A (r, inputs), B (outputs, r),  scale = alpha / r, or alpha / sqrt(r) (rsLoRA)
//!
//! W stays as it is, and A and B are trained. Of a matrix that is several layers of a checkpoint, such as q, k and v, each has an
//! adapter of its own: their A are one matrix, so that A x is one product for all, and their B are the blocks of a diagonal.

use super::blocks::Model;
use super::config::Config;
use super::network::Network;
use crate::error::Result;
use crate::fail;
use crate::files::one_line;
use crate::graph::{Dtype, Graph, Initial, Tensor};
use crate::ops::block_diagonal::BlockDiagonal;
use crate::ops::cast::cast;
use crate::ops::dropout::Dropout;
use crate::ops::matmul::Matmul;
use rayon::prelude::*;

/// The adapters of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// r, the rank of each adapter's product.
    pub rank: usize,
    pub alpha: f32,
    /// Probability of dropping an input of the adapters in training.
    pub dropout: f32,
    /// Names of the layers that have an adapter, or the ends of their paths: `q_proj`.
    pub targets: Vec<String>,
    /// Whether alpha is divided by sqrt(r) instead of r (Kalajdzievski 2023, "A Rank Stabilization Scaling Factor").
    pub rank_stabilised: bool,
    /// Parameters of the model that are trained and saved beside the adapters: tables that got rows for added tokens.
    pub saved: Vec<String>,
    /// The model that is adapted, as a folder's path; the built-in one where there is none.
    pub base: Option<String>,
}

/// Names of an adapter's two matrices behind the path of its layer.
const A: &str = "lora_A.weight";
const B: &str = "lora_B.weight";
/// The first of the adapters' streams of dropout, beyond those of layers.
const SALT: u32 = 1 << 16;
/// No rank may be larger.
const MOST_RANK: usize = 1024;
/// The target that stands for every linear layer of the blocks.
pub const ALL_LINEAR: &str = "all-linear";

/// The adapters of one matrix: A (n r, inputs) and B (sum of outputs, r) of n layers.
#[derive(Clone)]
pub(super) struct Adapter {
    a: Tensor,
    b: Tensor,
    blocks: Vec<(usize, usize)>,
    outputs: usize,
}

impl Lora {
    /// The factor of B A x.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f32;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Whether the layer of this path has an adapter.
    fn is_target(&self, path: &str) -> bool {
        self.targets.iter().any(|target| path == target || path.ends_with(&format!(".{target}")))
    }

    /// Checks the numbers, and that every target is a layer of the model; [`ALL_LINEAR`] is replaced by their names.
    pub fn check(mut self, config: &Config) -> Result<Lora> {
        let Lora { rank, alpha, dropout, .. } = self;
        if !(1..=MOST_RANK).contains(&rank) {
            fail!(Usage, "--lora {rank} is not a rank from 1 to {MOST_RANK}");
        }
        if !(alpha.is_finite() && alpha > 0.0) {
            fail!(Usage, "--lora-alpha {alpha} is not a number above 0");
        }
        if !(0.0..1.0).contains(&dropout) {
            fail!(Usage, "--lora-dropout {dropout} is not in 0..1: give a number from 0 up to but not including 1");
        }
        let layers = linear_layers(config);
        let mut names: Vec<&str> = layers.iter().map(|path| path.rsplit('.').next().unwrap_or(path)).collect();
        names.sort_unstable();
        names.dedup();
        if self.targets == [ALL_LINEAR] {
            self.targets = names.iter().map(|name| name.to_string()).collect();
        }
        for target in &self.targets {
            let one = Lora { targets: vec![target.clone()], ..self.clone() };
            if !layers.iter().any(|path| one.is_target(path)) {
                let target = one_line(target);
                fail!(
                    Usage,
                    "the model has no linear layer {target} for an adapter: it has {}; or {ALL_LINEAR}",
                    names.join(", ")
                );
            }
        }
        if self.targets.is_empty() {
            fail!(Usage, "--lora-targets names no layer: give some of {}, or {ALL_LINEAR}", names.join(", "));
        }
        Ok(self)
    }

    /// The layers of a matrix (inputs, outputs) that have adapters: path, first output and number of outputs.
    fn layers(&self, config: &Config, matrix: &str, outputs: usize) -> Vec<(String, usize, usize)> {
        let mut start = 0;
        let mut layers = vec![];
        for (name, dims) in config.parts(&format!("{matrix}.weight"), &[outputs]) {
            let path = name.strip_suffix(".weight").unwrap_or(&name);
            if self.is_target(path) {
                layers.push((path.to_string(), start, dims[0]));
            }
            start += dims[0];
        }
        layers
    }

    /// The tensors of files that make an adapter's parameter, one after another; nothing for others.
    pub(super) fn parts(&self, config: &Config, name: &str, dims: &[usize]) -> Option<Vec<(String, Vec<usize>)>> {
        let of = |kind: &'static str| name.strip_suffix(kind)?.strip_suffix('.').map(|matrix| (matrix, kind));
        let (matrix, kind) = of(A).or_else(|| of(B))?;
        let part = |(path, _, outputs): (String, usize, usize)| {
            let dims = if kind == A { vec![self.rank, dims[1]] } else { vec![outputs, self.rank] };
            (format!("{path}.{kind}"), dims)
        };
        Some(self.layers(config, matrix, dims[0]).into_iter().map(part).collect())
    }

    /// Names of A and B on a tensor of the base model's files, where it has an adapter.
    pub fn on(&self, name: &str) -> Option<[String; 2]> {
        let path = name.strip_suffix(".weight").filter(|path| self.is_target(path))?;
        Some([A, B].map(|kind| format!("{path}.{kind}")))
    }

    /// Whether a tensor is an adapter's.
    pub fn is_adapter(name: &str) -> bool {
        [A, B].iter().any(|kind| name.strip_suffix(kind).is_some_and(|path| path.ends_with('.')))
    }

    /// Adds scale B A to a weight (outputs, inputs), or (inputs, outputs) if `transposed`; A (r, inputs), B (outputs, r). Sums in f64.
    pub fn merge(&self, weight: &mut [f32], a: &[f32], b: &[f32], transposed: bool) {
        let (inputs, outputs) = (a.len() / self.rank, b.len() / self.rank);
        let scale = f64::from(self.scale());
        let columns = if transposed { outputs } else { inputs };
        weight.par_chunks_mut(columns).enumerate().for_each(|(row, values)| {
            for (column, value) in values.iter_mut().enumerate() {
                let (output, input) = if transposed { (column, row) } else { (row, column) };
                let product = |r: usize| f64::from(b[output * self.rank + r]) * f64::from(a[r * inputs + input]);
                *value = (f64::from(*value) + scale * (0..self.rank).map(product).sum::<f64>()) as f32;
            }
        });
    }
}

/// Paths of the linear layers of a model's blocks, as files name them.
pub fn linear_layers(config: &Config) -> Vec<String> {
    let network = Network::new(Config { lora: None, quantisation: None, ..config.clone() });
    let parts = |matrix: String| config.parts(&format!("{matrix}.weight"), &[]);
    let path = |(name, _): (String, Vec<usize>)| name.strip_suffix(".weight").unwrap_or(&name).to_string();
    network.matrices().into_iter().flat_map(parts).map(path).collect()
}

impl Model<'_> {
    /// The adapters of a matrix of `sizes` (inputs, outputs), where it has some.
    pub(super) fn adapter(&self, g: &mut Graph, matrix: &str, (inputs, outputs): (usize, usize)) -> Option<Adapter> {
        let lora = self.config.lora.as_ref()?;
        let layers = lora.layers(self.config, matrix, outputs);
        if layers.is_empty() {
            return None;
        }
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut parameter = |kind: &str, dims: [usize; 2], initial| {
            g.adapter_parameter(self.network, &format!("{}{matrix}.{kind}", self.prefix), &dims, initial)
        };
        let a = parameter(A, [layers.len() * lora.rank, inputs], Initial::Uniform { bound });
        let b = parameter(B, [layers.iter().map(|layer| layer.2).sum(), lora.rank], Initial::Zeros);
        let blocks = layers.into_iter().map(|(_, start, outputs)| (start, outputs)).collect();
        Some(Adapter { a, b, blocks, outputs })
    }

    /// y + scale B A dropout(x), y (..., outputs) in f32.
    pub(super) fn adapted(&self, g: &mut Graph, y: Tensor, x: Tensor, adapter: &Adapter, output: Dtype) -> Tensor {
        let lora = self.config.lora.as_ref().expect("a model with adapters");
        let Adapter { a, b, blocks, outputs } = adapter.clone();
        let number = self.adapters.get();
        self.adapters.set(number + 1);
        let x = match self.training && lora.dropout > 0.0 {
            true => g.apply(Dropout { p: lora.dropout, salt: SALT + number }, &[x]),
            false => x,
        };
        let diagonal = BlockDiagonal { blocks, rows: outputs, scale: lora.scale() };
        let b = g.apply(diagonal, &[b]);
        let kind = self.activation();
        let [x, a, b] = [x, a, b].map(|tensor| cast(g, tensor, kind));
        let low = g.apply(Matmul { tb: true, output: kind, ..Matmul::default() }, &[x, a]); // (..., n r)
        g.apply(Matmul { tb: true, residual: true, output, ..Matmul::default() }, &[low, b, y])
    }
}
