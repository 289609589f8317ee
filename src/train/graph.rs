//! The training step as a graph of two segments, and the graph that only evaluates.
//!
//! `accumulate` runs once per micro-batch: forward, backward, gradients added in place. `update` runs once per step: global
//! norm, clip, AdamW. Loss, norm, clip factor and counters stay on the device, in the state [`REPORT`].

use super::groups::{Group, groups};
use crate::graph::gradient::gradient;
use crate::graph::{Graph, PLACE, Tensor};
use crate::models::model::Objective;
use crate::ops::adamw::AdamW;
use crate::ops::add::{AddInPlace, add_in_place};
use crate::ops::expert_load::ExpertLoad;
use crate::ops::fill::Fill;
use crate::ops::global_norm::{GlobalNorm, PLACES, SquaredSum, report, sums};
use crate::ops::loss_scale::LossScale;

/// The segment that runs once per micro-batch.
pub const ACCUMULATE: &str = "accumulate";
/// The segment that runs once per step.
pub const UPDATE: &str = "update";
/// State: what the last step reports (see [`report`]).
pub const REPORT: &str = "step.report";
/// State of models with experts: how many choices went to each (layers, experts) so far, as u32 that wrap.
pub const EXPERT_LOAD: &str = "step.expert_load";
const LOSS_SUM: &str = "step.loss_sum";
const SQUARES: &str = "step.squared_sums";

/// What the optimiser needs to know when the graph is made; the learning rate comes with each step.
#[derive(Clone, Copy, Debug)]
pub struct Optimizer {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f32,
    /// On matrices; biases and norms have none.
    pub weight_decay: f32,
    /// Largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// Micro-batches per step.
    pub accumulate: usize,
}

/// A training step's graph.
pub struct TrainingGraph {
    pub graph: Graph,
    /// For each parameter the end of its places in the sums of squares, to name a tensor from one of them.
    place_ends: Vec<(String, usize)>,
}

impl TrainingGraph {
    /// Extends the graph that `objective` builds with the backward pass and the update of `parameters` (name, shape).
    pub fn new<T: Into<Objective>>(
        parameters: &[(String, Vec<usize>)],
        optimizer: &Optimizer,
        objective: impl FnOnce(&mut Graph) -> T,
    ) -> Self {
        Self::scaled(parameters, optimizer, None, objective)
    }

    /// As [`TrainingGraph::new`], with a loss scale, for gradients in half precision, that doubles after so many fine steps.
    pub fn scaled<T: Into<Objective>>(
        parameters: &[(String, Vec<usize>)],
        optimizer: &Optimizer,
        grow_after: Option<u32>,
        objective: impl FnOnce(&mut Graph) -> T,
    ) -> Self {
        let mut g = Graph::new();
        let state = |g: &mut Graph, suffix: &str| -> Vec<Tensor> {
            parameters.iter().map(|(name, dims)| g.state(&format!("{name}{suffix}"), dims)).collect()
        };
        let values = state(&mut g, "");
        let gradients = state(&mut g, ".grad");
        let loss_sum = g.state(LOSS_SUM, &[1]);

        let reported = g.state(REPORT, &[report::LEN]);

        g.segment(ACCUMULATE);
        g.scope("gradient");
        let share = 1.0 / optimizer.accumulate as f32;
        let seed = match grow_after {
            Some(_) => g.apply(LossScale { factor: share }, &[reported]),
            None => g.apply(Fill { value: share }, &[]),
        };
        g.set_seed(seed);
        let objective: Objective = objective(&mut g).into();
        let sum = g.apply(AddInPlace, &[loss_sum, objective.reported]);
        count_choices(&mut g, &objective.groups);
        let wanted: Vec<_> = values.iter().copied().zip(gradients.iter().copied()).collect();
        let totals = gradient(&mut g, objective.minimised, seed, &wanted, &add_in_place());

        g.segment(UPDATE);
        let groups = groups(parameters);
        let moments = [".exp_avg", ".exp_avg_sq"].map(|suffix| (suffix, state(&mut g, suffix)));
        let values = together(&mut g, &groups, "", &values);
        let gradients = together(&mut g, &groups, ".grad", &totals);
        let [first, second] = moments.map(|(suffix, tensors)| together(&mut g, &groups, suffix, &tensors));
        let squares = squared_sums(&mut g, &groups, &gradients);
        g.scope("step");
        let norm = GlobalNorm { max_norm: optimizer.max_norm, micro_batches: optimizer.accumulate, grow_after };
        let reported = g.apply(norm, &[squares, reported, sum]);
        for (i, group) in groups.iter().enumerate() {
            g.scope(group.name.as_str());
            let weight_decay = if group.decays { optimizer.weight_decay } else { 0.0 };
            let Optimizer { beta1, beta2, eps, .. } = *optimizer;
            let update = AdamW { beta1, beta2, eps, weight_decay };
            g.apply(update, &[values[i], gradients[i], first[i], second[i], reported]);
        }
        TrainingGraph { graph: g, place_ends: place_ends(parameters, &groups) }
    }

    /// What was not finite, given the report's word about it.
    pub fn culprit(&self, bad: u32) -> Option<String> {
        match bad {
            report::FINE => None,
            report::LOSS_BAD => Some("the loss is not finite".into()),
            index => {
                let name = self.place_ends.iter().find(|(_, end)| index as usize <= *end).map(|(name, _)| name);
                Some(format!("the gradient of {} is not finite", name.map_or("an unknown tensor", String::as_str)))
            }
        }
    }
}

/// Every group's part of `tensors`, one for each parameter, in one buffer.
fn together(g: &mut Graph, groups: &[Group], suffix: &str, tensors: &[Tensor]) -> Vec<Tensor> {
    let all = |group: &Group| {
        let members: Vec<Tensor> = group.members.iter().map(|&i| tensors[i]).collect();
        g.together(&format!("{}{suffix}", group.name), &members)
    };
    groups.iter().map(all).collect()
}

/// The list of sums of squares of all groups' gradients.
fn squared_sums(g: &mut Graph, groups: &[Group], gradients: &[Tensor]) -> Tensor {
    let parts: Vec<usize> = gradients.iter().map(|gradients| sums(g.shape(*gradients).len())).collect();
    let mut squares = g.state(SQUARES, &[parts.iter().sum(), 2]);
    let mut first = 0;
    for ((group, gradients), part) in groups.iter().zip(gradients).zip(parts) {
        g.scope(group.name.as_str());
        squares = g.apply(SquaredSum { first }, &[*gradients, squares]);
        first += part;
    }
    squares
}

/// Each parameter with the end of its places in that list.
fn place_ends(parameters: &[(String, Vec<usize>)], groups: &[Group]) -> Vec<(String, usize)> {
    let (mut ends, mut first) = (vec![], 0);
    for group in groups {
        let mut places = 0;
        for (name, dims) in group.members.iter().map(|&i| &parameters[i]) {
            places += dims.iter().product::<usize>().div_ceil(PLACE);
            ends.push((name.clone(), first * PLACES + places));
        }
        first += sums(places * PLACE);
    }
    ends
}

/// Counts the choices of every layer's groups.
fn count_choices(g: &mut Graph, groups: &[Tensor]) {
    let Some(first) = groups.first() else { return };
    let experts = g.shape(*first).len() - 1;
    let mut load = g.state_u32(EXPERT_LOAD, &[groups.len(), experts]);
    for (layer, offsets) in groups.iter().enumerate() {
        load = g.apply(ExpertLoad { layer }, &[*offsets, load]);
    }
}
