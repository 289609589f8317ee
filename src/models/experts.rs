//! A feed-forward part of several experts, of which each token uses a few: "Mixtral of Experts" (Jiang et al. 2024), section 2.1.
//!
//! A router gives each token its `top` most likely experts, each a SwiGLU of its own; their outputs are summed with the router's
//! weights. No token is dropped, whatever the load: tokens are sorted by expert, and the experts' layers are grouped matmuls.
//!
//! A layer's experts are two parameters, `gate_up_proj` (E, 2 * inner, C) and `down_proj` (E, C, inner). Files hold a tensor for
//! each expert: `w1` and `w3`, which are gate and up, and `w2`, which is down.

use super::blocks::{Model, Routed};
use super::config::{Config, Experts};
use crate::graph::{Graph, Initial, Tensor};
use crate::ops::combine::Combine;
use crate::ops::expert_groups::ExpertGroups;
use crate::ops::glu::{Gate, Glu};
use crate::ops::grouped_matmul::GroupedMatmul;
use crate::ops::matmul::Matmul;
use crate::ops::router::Router;

/// Name of the layer's module in files.
const MODULE: &str = "block_sparse_moe";
const GATE_UP: &str = "experts.gate_up_proj.weight";
const DOWN: &str = "experts.down_proj.weight";

impl Experts {
    /// Names and shapes of the parameters of a layer's feed-forward part.
    fn parameters(&self, config: &Config) -> [(String, Vec<usize>); 3] {
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
}

impl Model<'_> {
    /// The feed-forward part of x (B, T, C) in the layer `layer`.
    pub(super) fn experts(&self, g: &mut Graph, x: Tensor, layer: &str, experts: Experts) -> Tensor {
        let std = f64::from(self.config.initializer_range);
        let [gate, gate_up, down] = experts.parameters(self.config).map(|(name, dims)| {
            let scale = if name.ends_with(DOWN) { self.residual_scale() } else { 1.0 };
            self.parameter(g, &format!("{layer}.{name}"), &dims, Initial::Normal { std: std * scale })
        });
        let logits = g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, gate]); // (B, T, E)
        let weights = g.apply(Router { top: experts.top, renormalise: true }, &[logits]);
        let ids = Tensor { slot: 1, ..weights };
        let groups = ExpertGroups { experts: experts.count }.apply(g, ids);
        let (order, position, offsets) = (groups.order, groups.position, groups.offsets);
        let y = g.apply(GroupedMatmul { gather: true, tb: true }, &[x, gate_up, offsets, order, position]); // gate | up
        let y = g.apply(Glu { gate: Gate::Silu }, &[y]);
        let y = g.apply(GroupedMatmul { gather: false, tb: true }, &[y, down, offsets]);
        self.routed.borrow_mut().push(Routed { logits, offsets });
        g.apply(Combine { weighted: true }, &[y, position, weights, order])
    }
}
