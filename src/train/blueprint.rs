//! The plan of a run before anything is allocated: its graphs, and the memory that they need.

use super::graph::TrainingGraph;
use super::objective::{Objective, ShapeKey};
use super::settings::Settings;
use crate::error::Result;
use crate::executor::Executor;
use crate::fail;
use crate::graph::memory::Class;
use crate::graph::{Graph, Limits, Plan};
use crate::models::network::Network;
use std::collections::{BTreeMap, HashSet};

/// The graphs of a run, one pair for each shape, and the buffers they need.
pub struct Blueprint {
    pub(super) shapes: Vec<ShapeKey>,
    pub(super) training: Vec<(TrainingGraph, Plan)>,
    pub(super) evaluation: Vec<(Graph, Plan)>,
    /// Plans that the objective loads when it needs them.
    inference: Vec<Plan>,
}

impl Blueprint {
    /// Plans a run for a device's limits, before anything is allocated.
    pub fn new(objective: &dyn Objective, settings: &Settings, limits: &Limits) -> Result<Blueprint> {
        check_precision(settings, limits)?;
        let (shapes, networks) = (objective.shapes(settings.batch), objective.networks());
        check_prefixes(networks)?;
        if settings.batch_warmup > 0 && !objective.takes_batch_warmup() {
            let name = objective.name();
            fail!(
                Usage,
                "--batch-warmup changes how many micro-batches a step has, which {name} does not take: leave it out"
            );
        }
        let what = format!("learn {}", objective.name());
        let fits = |network: &Network| match network.config() {
            config if objective.takes_encoder_decoders() => config.must_read_and_write(&what).map(|_| ()),
            config if objective.takes_encoders() => config.must_be_one_stack(&what),
            config => config.must_decode(&what),
        };
        networks.iter().try_for_each(fits)?;
        if !objective.takes_recurrence() {
            networks.iter().try_for_each(|network| network.config().must_not_recur(&what))?;
        }
        let (compute, optimizer) = (settings.compute(), settings.optimizer());
        let (mut training, mut evaluation) = (vec![], vec![]);
        for &shape in &shapes {
            let graph = TrainingGraph::new(networks, compute, &optimizer, |g, models| objective.loss(g, models, shape));
            let plan = Plan::new(&graph.graph, limits)?;
            training.push((graph, plan));
            let mut graph = Graph::new();
            let models: Vec<_> = networks.iter().map(|network| network.evaluation(compute)).collect();
            objective.evaluation(&mut graph, &models, shape);
            let plan = Plan::new(&graph, limits)?;
            evaluation.push((graph, plan));
        }
        let inference = objective.inference_graphs(settings.batch);
        let inference = inference.iter().map(|graph| Plan::new(graph, limits)).collect::<Result<_>>()?;
        Ok(Blueprint { shapes, training, evaluation, inference })
    }

    /// Has the executor choose good variants for these graphs, which may take it some seconds, and plans them with those.
    pub fn tuned(mut self, executor: &mut dyn Executor) -> Result<Blueprint> {
        let graphs: Vec<&Graph> = self.graphs().collect();
        executor.tune(&graphs)?;
        for (graph, plan) in &mut self.training {
            *plan = Plan::new(&graph.graph, executor.limits())?;
        }
        for (graph, plan) in &mut self.evaluation {
            *plan = Plan::new(graph, executor.limits())?;
        }
        Ok(self)
    }

    /// The variants of its graphs by class.
    pub fn variants(&self, limits: &Limits) -> BTreeMap<String, String> {
        self.graphs().flat_map(|graph| graph.variants(limits)).collect()
    }

    /// Bytes that this run allocates: each state once, and each plan's own buffers.
    pub fn memory_bytes(&self) -> u64 {
        let (mut known, mut size_bytes) = (HashSet::new(), 0);
        let plans = self.training.iter().map(|(_, plan)| plan).chain(self.evaluation.iter().map(|(_, plan)| plan));
        for plan in plans.chain(&self.inference) {
            size_bytes += plan.size_bytes(|class| *class != Class::State);
            for (i, buffer) in plan.buffers.iter().enumerate().filter(|(_, buffer)| buffer.class == Class::State) {
                let states = plan.states.iter().filter(|state| state.buffer == i).map(|state| &state.name);
                let count = known.len();
                let names = states.clone().count();
                known.extend(states);
                // A buffer that an earlier plan allocates has states that are known.
                if known.len() == count + names {
                    size_bytes += buffer.size_bytes;
                }
            }
        }
        size_bytes
    }

    /// The plan of the first shape's step.
    pub fn training_plan(&self) -> &Plan {
        &self.training[0].1
    }

    /// The training graph of the first shape.
    pub fn training_graph(&self) -> &TrainingGraph {
        &self.training[0].0
    }

    pub(super) fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.training.iter().map(|(graph, _)| &graph.graph).chain(self.evaluation.iter().map(|(graph, _)| graph))
    }
}

/// Fails where two networks have one prefix.
fn check_prefixes(networks: &[Network]) -> Result<()> {
    for (i, network) in networks.iter().enumerate() {
        if networks[..i].iter().any(|other| other.prefix() == network.prefix()) {
            fail!(Usage, "two networks have the prefix `{}`: give each one of its own", network.prefix());
        }
    }
    Ok(())
}

/// Fails where a device cannot compute in the run's precision.
pub fn check_precision(settings: &Settings, limits: &Limits) -> Result<()> {
    if settings.is_mixed() && !limits.f16 {
        fail!(Device, "--precision mixed needs half precision (f16), which this device has not: use --precision f32");
    }
    Ok(())
}
