//! How long steps take, seen from reports that come late and in bunches.

use std::collections::VecDeque;
use std::time::Instant;

/// Steps whose mean time is told.
const WINDOW: usize = 8;

/// When the last reports arrived, oldest first, and before them the start of the first step after a pause. Empty while nothing
/// is queued: work between two steps does not count as a step's time.
#[derive(Debug, Default)]
pub struct StepClock {
    arrivals: VecDeque<Instant>,
}

impl StepClock {
    /// A step is about to be queued.
    pub fn start(&mut self) {
        if self.arrivals.is_empty() {
            self.arrivals.push_back(Instant::now());
        }
    }

    /// Mean milliseconds of the last few steps, of which `count` have just arrived.
    pub fn step_ms(&mut self, count: usize) -> f32 {
        let now = Instant::now();
        self.arrivals.extend(std::iter::repeat_n(now, count));
        while self.arrivals.len() > WINDOW + 1 {
            self.arrivals.pop_front();
        }
        let span = self.arrivals.front().map_or(0.0, |first| (now - *first).as_secs_f32());
        span * 1e3 / (self.arrivals.len().max(2) - 1) as f32
    }

    /// Nothing is queued any more.
    pub fn pause(&mut self) {
        self.arrivals.clear();
    }
}
