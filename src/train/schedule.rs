//! Learning rates over a run: a linear warmup, then one of four shapes. And how many micro-batches steps have.

use serde::{Deserialize, Serialize};

/// How the learning rate goes on after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Half a cosine from the peak down to the minimum (Loshchilov and Hutter, 2017, without restarts).
    #[default]
    Cosine,
    /// A straight line from the peak down to the minimum.
    Linear,
    /// The peak to the end.
    Constant,
    /// Warmup, stable, decay: the peak, then a straight line to the minimum in the last fifth of the steps.
    Wsd,
}

/// The learning rate as a function of the step, and of nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub kind: ScheduleKind,
    /// The learning rate at the end of the warmup.
    pub peak: f32,
    /// Where the decay ends; unused by [`ScheduleKind::Constant`].
    pub min: f32,
    /// Steps of warmup.
    pub warmup: u64,
    /// Steps until the decay has ended.
    pub steps: u64,
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    ///
    /// The warmup gives `peak * (step + 1) / (warmup + 1)`, so that the first step already learns. At `steps` and
    /// beyond, every decaying kind gives `min`.
    pub fn learning_rate(&self, step: u64) -> f32 {
        let (peak, min) = (f64::from(self.peak), f64::from(self.min));
        if step < self.warmup {
            return (peak * (step + 1) as f64 / (self.warmup as f64 + 1.0)) as f32;
        }
        // The part of the peak above the minimum that is left, from 1 to 0.
        let left = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * self.progress(self.warmup, step)).cos()),
            ScheduleKind::Linear => 1.0 - self.progress(self.warmup, step),
            ScheduleKind::Wsd => {
                let decay_start = self.warmup.max(self.steps - self.steps / 5);
                1.0 - self.progress(decay_start, step)
            }
        };
        (min + left * (peak - min)) as f32
    }

    /// How far `step` is on the way from `start` to the last step, from 0 to 1.
    fn progress(&self, start: u64, step: u64) -> f64 {
        if step >= self.steps {
            return 1.0;
        }
        // A decay that has no steps of its own starts where it has ended.
        if step <= start { 0.0 } else { (step - start) as f64 / (self.steps - start) as f64 }
    }
}

/// Micro-batches of each step: as many in all steps, or growing linearly from 1 (Brown et al. 2020, "Language Models are Few-Shot
/// Learners", appendix B), as a function of the step, and of nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accumulation {
    /// Once they have grown.
    pub most: u64,
    /// Steps until then.
    pub warmup: u64,
}

impl Accumulation {
    /// Micro-batches of a step, counted from 0.
    pub fn at(&self, step: u64) -> u64 {
        if step >= self.warmup { self.most } else { 1 + (self.most - 1) * step / self.warmup }
    }

    /// Micro-batches of all steps before one.
    pub fn before(&self, step: u64) -> u64 {
        let growing = step.min(self.warmup);
        let grown = floor_sum(growing, self.warmup.max(1), self.most - 1);
        (growing + grown).saturating_add((step - growing).saturating_mul(self.most))
    }

    /// The least number of steps that have so many micro-batches together, at least one.
    pub fn steps(&self, micro_batches: u64) -> u64 {
        let grown = self.before(self.warmup);
        if micro_batches >= grown {
            return (self.warmup + (micro_batches - grown).div_ceil(self.most)).max(1);
        }
        let (mut too_few, mut enough) = (0, self.warmup);
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            *if self.before(middle) < micro_batches { &mut too_few } else { &mut enough } = middle;
        }
        enough
    }
}

/// The sum of floor(a i / m) over i from 0 to n - 1, by Euclid's algorithm: lattice points under a line, counted from its other side
/// where it is flat.
fn floor_sum(n: u64, m: u64, a: u64) -> u64 {
    let (mut n, mut m, mut a, mut b) = (u128::from(n), u128::from(m), u128::from(a), 0u128);
    let mut sum = 0u128;
    while n > 0 {
        sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        (a, b) = (a % m, b % m);
        let top = a * n + b;
        if top < m {
            break;
        }
        (n, b) = (top / m, top % m);
        (m, a) = (a, m);
    }
    u64::try_from(sum).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decay_too_short_for_a_step_leaves_the_peak_to_the_end() {
        let schedule = Schedule { kind: ScheduleKind::Wsd, peak: 1e-3, min: 1e-4, warmup: 0, steps: 4 };
        assert_eq!([0, 3, 4].map(|step| schedule.learning_rate(step)), [1e-3, 1e-3, 1e-4]);
    }

    #[test]
    fn micro_batches_grow_linearly_and_are_counted() {
        for (most, warmup) in [(1, 0), (1, 9), (4, 0), (8, 3), (5, 23), (64, 100), (7, 7)] {
            let accumulation = Accumulation { most, warmup };
            let sizes: Vec<u64> = (0..150).map(|step| accumulation.at(step)).collect();
            assert!(sizes.windows(2).all(|pair| pair[0] <= pair[1]) && sizes[149] == most, "{sizes:?}");
            assert!(warmup == 0 || sizes[0] == 1, "{sizes:?}");
            for (step, size) in sizes.iter().enumerate().take(warmup as usize) {
                let line = 1.0 + (most - 1) as f64 * step as f64 / warmup as f64;
                assert!((0.0..1.0).contains(&(line - *size as f64)), "step {step} has {size}, the line {line}");
            }
            for step in 0..150 {
                let before = sizes[..step].iter().sum::<u64>();
                assert_eq!(accumulation.before(step as u64), before, "{accumulation:?}, step {step}");
                let least = (1..).find(|steps| accumulation.before(*steps) >= before).unwrap();
                assert_eq!(accumulation.steps(before), least, "{accumulation:?}, {before} micro-batches");
            }
        }
    }
}
