//! A feed-forward part of several experts, of which each token uses a few: "Mixtral of Experts" (Jiang et al. 2024), section 2.1.
//!
//! A router gives each token its `top` most likely experts, each a SwiGLU of its own; what they make is added up by the router's
//! weights. No token is dropped, whatever the load: tokens are sorted by expert, and the experts' layers are grouped matmuls.
//!
//! A layer's experts are two parameters, `gate_up_proj` (E, 2 * inner, C) and `down_proj` (E, C, inner). Files hold a tensor for
//! each expert: `w1` and `w3`, which are gate and up, and `w2`, which is down.

use super::config::{Config, FeedForward};
use super::model::Model;
use crate::graph::{Graph, Tensor};
use crate::ops::combine::Combine;
use crate::ops::expert_groups::ExpertGroups;
use crate::ops::grouped_matmul::GroupedMatmul;
use crate::ops::matmul::Matmul;
use crate::ops::router::Router;
use crate::ops::swiglu::SwiGlu;

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

/// What a layer's router has decided.
#[derive(Clone, Copy)]
pub struct Routed {
    /// (B, T, E)
    pub logits: Tensor,
    /// Where each expert's group of choices begins, (E + 1) u32.
    pub offsets: Tensor,
}

/// Name of the layer's module in files.
const MODULE: &str = "block_sparse_moe";
const GATE_UP: &str = "experts.gate_up_proj.weight";
const DOWN: &str = "experts.down_proj.weight";

impl Experts {
    /// The parameters of a layer's feed-forward part.
    pub(super) fn parameters(&self, config: &Config) -> [(String, Vec<usize>); 3] {
        let Config { width: c, inner, .. } = *config;
        [
            (format!("{MODULE}.gate.weight"), vec![self.count, c]),
            (format!("{MODULE}.{GATE_UP}"), vec![self.count, 2 * inner, c]),
            (format!("{MODULE}.{DOWN}"), vec![self.count, c, inner]),
        ]
    }

    /// The tensors of which files make an experts' parameter; nothing for others.
    pub(super) fn parts(&self, config: &Config, name: &str) -> Option<Vec<(String, Vec<usize>)>> {
        let Config { width: c, inner, .. } = *config;
        let of = |module: &str, parts: &[(&str, [usize; 2])]| {
            let part = |e: usize, (name, dims): &(&str, [usize; 2])| {
                (format!("{module}experts.{e}.{name}.weight"), dims.to_vec())
            };
            (0..self.count).flat_map(|e| parts.iter().map(move |p| part(e, p)).collect::<Vec<_>>()).collect()
        };
        if let Some(module) = name.strip_suffix(GATE_UP) {
            return Some(of(module, &[("w1", [inner, c]), ("w3", [inner, c])]));
        }
        name.strip_suffix(DOWN).map(|module| of(module, &[("w2", [c, inner])]))
    }

    /// What is wrong with the numbers, or nothing.
    pub(super) fn problem(&self) -> Option<String> {
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

impl Config {
    /// The experts, where the feed-forward part has some.
    pub fn experts(&self) -> Option<Experts> {
        match self.feed_forward {
            FeedForward::Experts(experts) => Some(experts),
            _ => None,
        }
    }
}

impl Model<'_> {
    /// The feed-forward part of x (B, T, C) in the layer `layer`, and what its router has decided.
    pub(super) fn experts(&self, g: &mut Graph, x: Tensor, layer: &str, experts: Experts) -> (Tensor, Routed) {
        let names = experts.parameters(self.config);
        let [gate, gate_up, down] = names.map(|(name, dims)| g.state(&format!("{layer}.{name}"), &dims));
        let logits = g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, gate]); // (B, T, E)
        let weights = g.apply(Router { top: experts.top, renormalise: true }, &[logits]);
        let ids = Tensor { slot: 1, ..weights };
        let groups = ExpertGroups { experts: experts.count }.apply(g, ids);
        let (order, position, offsets) = (groups.order, groups.position, groups.offsets);
        let y = g.apply(GroupedMatmul { gather: true, tb: true }, &[x, gate_up, offsets, order, position]); // gate | up
        let y = g.apply(SwiGlu, &[y]);
        let y = g.apply(GroupedMatmul { gather: false, tb: true }, &[y, down, offsets]);
        (g.apply(Combine { weighted: true }, &[y, position, weights, order]), Routed { logits, offsets })
    }
}
