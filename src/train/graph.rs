//! The training step as a graph of two segments.
//!
//! `accumulate` runs once per micro-batch: forward, backward, gradients added in place. `update` runs once per step: global
//! norm, clip, AdamW. Loss, norm, clip factor, counters and named scalars stay on the device, in the state [`REPORT`].

use super::groups::{Group, groups};
use super::rates::Rates;
use crate::graph::gradient::gradient;
use crate::graph::{Graph, PLACE, Parameter, Tensor};
use crate::models::blocks::{Compute, Model};
use crate::models::network::Network;
use crate::ops::adamw::AdamW;
use crate::ops::add::{Add, AddInPlace, add_in_place};
use crate::ops::expert_load::ExpertLoad;
use crate::ops::fill::Fill;
use crate::ops::global_norm::{GlobalNorm, PLACES, SquaredSum, report, sums};
use crate::ops::loss_scale::{GROW_AFTER, LossScale};
use crate::ops::scalars::{AddScalar, ReportScalars};

/// The segment that runs once per micro-batch.
pub const ACCUMULATE: &str = "accumulate";
/// The segment that runs once per step.
pub const UPDATE: &str = "update";
/// State: the last step's report (see [`report`]), then the objective's scalars.
pub const REPORT: &str = "step.report";
/// State of models with experts: how many choices went to each (layers, experts) so far, as u32 that wrap.
pub const EXPERT_LOAD: &str = "step.expert_load";
pub(super) const LOSS_SUM: &str = "step.loss_sum";
pub(super) const SCALAR_SUMS: &str = "step.scalar_sums";
const SQUARES: &str = "step.squared_sums";

/// A loss of an objective, and the scalars that it reports.
pub struct Loss {
    /// One number, whose gradient is taken. The losses of routers are added to it.
    pub minimised: Tensor,
    /// One number that is logged as `loss`.
    pub reported: Tensor,
    /// Numbers (1) that are logged under these names, each the mean over a step's micro-batches.
    pub scalars: Vec<(&'static str, Tensor)>,
}

impl From<Tensor> for Loss {
    fn from(loss: Tensor) -> Loss {
        Loss { minimised: loss, reported: loss, scalars: vec![] }
    }
}

/// Settings of the optimiser that are fixed when the graph is made; the learning rate comes with each step.
#[derive(Clone, Copy, Debug)]
pub struct Optimizer {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f32,
    /// Of parameters that decay: matrices and tables.
    pub weight_decay: f32,
    /// Largest gradient norm; 0 for no clipping.
    pub max_norm: f32,
    /// Micro-batches per step.
    pub accumulate: usize,
    /// Which parameters are trained, and how fast.
    pub rates: Rates,
    /// In mixed precision, fine steps after which the loss scale doubles.
    pub grow_after: u32,
}

impl Default for Optimizer {
    fn default() -> Optimizer {
        Optimizer {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            max_norm: 1.0,
            accumulate: 1,
            rates: Rates::default(),
            grow_after: GROW_AFTER,
        }
    }
}

/// A training step's graph.
pub struct TrainingGraph {
    pub graph: Graph,
    /// Names of the scalars in the report, in their order there.
    pub scalars: Vec<&'static str>,
    /// The buffers of parameters that are updated together, and their numbers of values; gradients have the suffix `.grad`.
    pub groups: Vec<(String, usize)>,
    /// Trained parameters, in the order of their declaration.
    trained: Vec<Parameter>,
    /// For each trained parameter the end of its places in the sums of squares, to name a tensor from one of them.
    place_ends: Vec<(String, usize)>,
}

impl TrainingGraph {
    /// The graph that `build` makes of the networks' models, extended by the backward pass and the update of the parameters that
    /// are trained. `build` runs twice: the first time to learn which parameters there are.
    pub fn new<L: Into<Loss>>(
        networks: &[Network],
        compute: Compute,
        optimizer: &Optimizer,
        build: impl Fn(&mut Graph, &[Model]) -> L,
    ) -> Self {
        let models = || networks.iter().map(|network| network.training(compute)).collect::<Vec<_>>();
        let (declared, scalar_count) = declared(networks, &models(), &build);
        let frozen = |p: &Parameter| networks.iter().any(|n| n.freezes(p));
        let rate = |p: &Parameter| if frozen(p) { None } else { optimizer.rates.of(p, &declared) };
        let (trained, rates): (Vec<_>, Vec<_>) = declared.iter().filter_map(|p| Some((p.clone(), rate(p)?))).unzip();

        let mut g = Graph::new();
        networks.iter().for_each(|network| network.declare(&mut g));
        let values: Vec<Tensor> = trained.iter().map(|p| g.state(&p.name, &p.dims)).collect();
        let state = |g: &mut Graph, suffix: &str| -> Vec<Tensor> {
            trained.iter().map(|p| g.state(&format!("{}{suffix}", p.name), &p.dims)).collect()
        };
        let gradients = state(&mut g, ".grad");
        let loss_sum = g.state(LOSS_SUM, &[1]);
        let reported = g.state(REPORT, &[report::LEN + scalar_count]);

        g.segment(ACCUMULATE);
        if compute.recompute {
            g.recompute_regions();
        }
        g.scope("gradient");
        let share = 1.0 / optimizer.accumulate as f32;
        let seed = match compute.mixed {
            true => g.apply(LossScale { factor: share }, &[reported]),
            false => g.apply(Fill { value: share }, &[]),
        };
        g.set_seed(seed);
        let models = models();
        let loss: Loss = build(&mut g, &models).into();
        let sum = g.apply(AddInPlace, &[loss_sum, loss.reported]);
        let mut minimised = loss.minimised;
        for model in models.iter().zip(networks).filter(|(_, n)| !n.is_frozen()).map(|(model, _)| model) {
            if let Some(routers) = model.router_loss(&mut g) {
                minimised = g.apply(Add, &[minimised, routers]);
            }
            count_choices(&mut g, model);
        }
        let scalar_sums = scalar_sums(&mut g, &loss);
        let wanted: Vec<_> = values.iter().copied().zip(gradients.iter().copied()).collect();
        let totals = gradient(&mut g, minimised, seed, &wanted, &add_in_place(), optimizer.accumulate > 1);

        g.segment(UPDATE);
        let groups = groups(&trained, &rates);
        let moments = [".exp_avg", ".exp_avg_sq"].map(|suffix| (suffix, state(&mut g, suffix)));
        let values = together(&mut g, &groups, "", &values);
        let gradients = together(&mut g, &groups, ".grad", &totals);
        let [first, second] = moments.map(|(suffix, tensors)| together(&mut g, &groups, suffix, &tensors));
        let squares = squared_sums(&mut g, &groups, &gradients);
        g.scope("step");
        let grow_after = compute.mixed.then_some(optimizer.grow_after);
        let norm = GlobalNorm { max_norm: optimizer.max_norm, micro_batches: optimizer.accumulate, grow_after };
        let mut reported = g.apply(norm, &[squares, reported, sum]);
        if let Some(sums) = scalar_sums {
            reported = g.apply(ReportScalars { micro_batches: optimizer.accumulate }, &[reported, sums]);
        }
        for (i, group) in groups.iter().enumerate() {
            g.scope(group.name.as_str());
            let weight_decay = if group.decays { optimizer.weight_decay } else { 0.0 };
            let Optimizer { beta1, beta2, eps, .. } = *optimizer;
            let update = AdamW { beta1, beta2, eps, weight_decay, rate: group.rate };
            g.apply(update, &[values[i], gradients[i], first[i], second[i], reported]);
        }
        let place_ends = place_ends(&trained, &groups);
        let groups = groups.iter().zip(&gradients).map(|(group, t)| (group.name.clone(), g.shape(*t).len())).collect();
        TrainingGraph {
            groups,
            graph: g,
            scalars: loss.scalars.iter().map(|(name, _)| *name).collect(),
            trained,
            place_ends,
        }
    }

    /// Parameters that are trained.
    pub fn trained(&self) -> &[Parameter] {
        &self.trained
    }

    /// Every parameter: of the networks, and of heads on them.
    pub fn parameters(&self) -> &[Parameter] {
        self.graph.parameters()
    }

    /// The tensor that was not finite, by the report's place of it.
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

/// Every parameter, those of the networks, then those of heads, and the number of the objective's scalars: found by building
/// its loss in a graph that is thrown away.
fn declared<L: Into<Loss>>(
    networks: &[Network],
    models: &[Model],
    build: &impl Fn(&mut Graph, &[Model]) -> L,
) -> (Vec<Parameter>, usize) {
    let mut g = Graph::new();
    networks.iter().for_each(|network| network.declare(&mut g));
    let seed = g.apply(Fill { value: 1.0 }, &[]);
    g.set_seed(seed);
    let loss: Loss = build(&mut g, models).into();
    (g.parameters().to_vec(), loss.scalars.len())
}

/// Adds the micro-batch's scalars to their sums; the sums, where there are scalars.
fn scalar_sums(g: &mut Graph, loss: &Loss) -> Option<Tensor> {
    if loss.scalars.is_empty() {
        return None;
    }
    g.scope("scalars");
    let mut sums = g.state(SCALAR_SUMS, &[loss.scalars.len()]);
    for (index, (_, value)) in loss.scalars.iter().enumerate() {
        sums = g.apply(AddScalar { index }, &[*value, sums]);
    }
    Some(sums)
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
fn place_ends(parameters: &[Parameter], groups: &[Group]) -> Vec<(String, usize)> {
    let (mut ends, mut first) = (vec![], 0);
    for group in groups {
        let mut places = 0;
        for parameter in group.members.iter().map(|&i| &parameters[i]) {
            places += parameter.len().div_ceil(PLACE);
            ends.push((parameter.name.clone(), first * PLACES + places));
        }
        first += sums(places * PLACE);
    }
    ends
}

/// Counts the choices of every layer with experts.
fn count_choices(g: &mut Graph, model: &Model) {
    let routed = model.routed.borrow();
    let Some(first) = routed.first() else { return };
    let experts = g.shape(first.offsets).len() - 1;
    let mut load = g.state_u32(&format!("{}{EXPERT_LOAD}", model.prefix), &[routed.len(), experts]);
    for (layer, routed) in routed.iter().enumerate() {
        load = g.apply(ExpertLoad { layer }, &[routed.offsets, load]);
    }
}
