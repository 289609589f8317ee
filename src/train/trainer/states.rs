//! The states of a run on its device: which a checkpoint holds, and which a model.

use super::{Owned, Trainer};
use crate::error::Result;
use crate::graph::Parameter;
use crate::ops::global_norm::report;
use crate::train::graph::REPORT;

impl Trainer {
    /// States beside parameters: moments of trained parameters, the report, and those of the objective. Gradients are zero between
    /// steps, and are not among them.
    pub fn optimizer_states(&self) -> Vec<(String, Vec<usize>)> {
        let moments =
            |p: &Parameter| [".exp_avg", ".exp_avg_sq"].map(|suffix| (format!("{}{suffix}", p.name), p.dims.clone()));
        let graph = &self.loaded().graph;
        let moments = graph.trained().iter().flat_map(moments);
        let report = (REPORT.to_string(), vec![report::LEN + graph.scalars.len()]);
        moments.chain([report]).chain(self.objective.states()).collect()
    }

    /// Every parameter: of the networks, and of heads on them.
    pub fn parameters(&self) -> &[Parameter] {
        self.loaded().graph.parameters()
    }

    /// Parameters that are trained.
    pub fn trained(&self) -> &[Parameter] {
        self.loaded().graph.trained()
    }

    /// Names and shapes of the first network's parameters and of those of heads on it; where it has adapters, of those in place of
    /// its own.
    pub fn network_states(&self) -> Vec<(String, Vec<usize>)> {
        // Further networks have prefixes, which heads on them have, too.
        let others = &self.objective.networks()[1..];
        self.states(|p| !self.network().freezes(p) && !others.iter().any(|n| p.name.starts_with(n.prefix())))
    }

    /// Names and shapes of all parameters but those of frozen networks, and of networks with adapters.
    pub fn saved_states(&self) -> Vec<(String, Vec<usize>)> {
        self.states(|p| !self.objective.networks().iter().any(|n| n.freezes(p)))
    }

    fn states(&self, is_wanted: impl Fn(&Parameter) -> bool) -> Vec<(String, Vec<usize>)> {
        let wanted = self.parameters().iter().filter(|p| is_wanted(p));
        wanted.map(|p| (p.name.clone(), p.dims.clone())).collect()
    }

    /// Current values of states, which are waited for.
    pub fn read(&mut self, states: Vec<(String, Vec<usize>)>) -> Result<Vec<Owned>> {
        let read = |(name, dims): (String, Vec<usize>)| {
            let values = self.executor().read_state(&name)?;
            Ok((name, dims, values))
        };
        states.into_iter().map(read).collect()
    }
}
