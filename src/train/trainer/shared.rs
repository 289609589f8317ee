//! A run that several ranks share: agreement on its end, and weights that are brought together.

use std::sync::Arc;

use super::Trainer;
use crate::error::Result;
use crate::ranks::Ranks;
use crate::train::exchange::Exchange;

impl Trainer {
    /// Shares the micro-batches of each step with other ranks, which train the same with the same settings.
    pub fn share(&mut self, ranks: Arc<Ranks>) {
        self.exchange = Exchange::new(Arc::clone(&ranks), &self.loaded().graph.groups);
        self.ranks = ranks;
    }

    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Whether the run stops here; `own` is whether this rank wants to. Several ranks agree on it during a step.
    pub fn stops(&mut self, own: bool) -> bool {
        self.stop = own;
        if self.ranks.are_several() { self.agreed } else { own }
    }

    /// With local steps: takes the weights as they are for those that all ranks have. `momentum` tells the outer optimiser's by its name.
    pub fn anchor(&mut self, momentum: impl FnMut(&str) -> Result<Option<Vec<f32>>>) -> Result<()> {
        if self.settings.sync_every == 0 {
            return Ok(());
        }
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        self.exchange.anchor(loaded.executor.as_mut(), momentum)
    }

    /// The outer optimiser's momenta, by their names.
    pub fn momenta(&self) -> impl Iterator<Item = (String, &[f32])> {
        self.exchange.momenta()
    }

    /// With local steps: gives all ranks the same weights, where they have not the same already.
    pub fn synchronise(&mut self) -> Result<()> {
        if self.settings.sync_every == 0 || self.synchronised == self.step {
            return Ok(());
        }
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        let said = self.exchange.synchronise(loaded.executor.as_mut(), self.settings.wire(), self.stop)?;
        (self.agreed, self.synchronised) = (said.stop, self.step);
        Ok(())
    }

    /// Gives all ranks the same states, so that a checkpoint of one is that of all: the objective's, and with local steps weights,
    /// moments and report.
    pub fn share_all(&mut self) -> Result<()> {
        self.synchronise()?;
        if self.settings.sync_every > 0 {
            let loaded = self.loaded.as_mut().expect("a run is on a device");
            self.exchange.share_moments(loaded.executor.as_mut())?;
        }
        self.share_states()
    }

    /// Gives all ranks the parts of the objective's states that the others' micro-batches have written.
    fn share_states(&mut self) -> Result<()> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let own = self.ranks.part(self.settings.accumulate as u64);
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        for (name, _) in self.objective.states() {
            let mut values = loaded.executor.read_state(&name)?;
            let part = values.len() / self.settings.accumulate;
            // Added to -0 every value keeps its bits.
            values[..own.start as usize * part].fill(-0.0);
            values[own.end as usize * part..].fill(-0.0);
            loaded.executor.write_state(&name, &self.ranks.sum(values))?;
        }
        Ok(())
    }
}
