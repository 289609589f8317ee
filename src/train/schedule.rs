//! Learning rates over a run: a linear warmup, then one of four shapes.

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
        step.saturating_sub(start) as f64 / (self.steps - start) as f64
    }
}
