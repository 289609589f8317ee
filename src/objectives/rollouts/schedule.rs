//! Which steps learn from which roll-out.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use crate::train::settings::Settings;

/// Which steps learn from which roll-out.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Steps that one roll-out is drawn for, each of which sees a share of its answers.
    pub steps_per_rollout: u64,
    /// How often each answer is seen.
    pub iterations: u64,
    /// Answers of a micro-batch, and micro-batches of a step.
    pub batch: usize,
    pub accumulate: u64,
    /// The run's.
    pub seed: u64,
}

impl Schedule {
    /// The schedule of a run with these settings.
    pub fn new(settings: &Settings, steps_per_rollout: u64, iterations: u64) -> Schedule {
        let Settings { batch, seed, .. } = *settings;
        Schedule { steps_per_rollout, iterations, batch, accumulate: settings.accumulate as u64, seed }
    }

    /// Steps that learn from one roll-out.
    pub fn steps(&self) -> u64 {
        self.steps_per_rollout * self.iterations
    }

    /// The number of the roll-out that step `step` learns from.
    pub fn roll_out(&self, step: u64) -> u64 {
        step / self.steps()
    }

    /// Micro-batches that see each answer of a roll-out once.
    pub fn micro_batches(&self) -> u64 {
        self.steps_per_rollout * self.accumulate
    }

    /// The order in which micro-batches take `count` answers, the `pass`th time: that of the answers where one takes all.
    pub fn order(&self, count: usize, pass: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        if self.micro_batches() > 1 {
            order.shuffle(&mut Pcg64::seed_from_u64(self.seed ^ pass.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        }
        order
    }
}
