//! How a segment's commands are handed to the device: in submits, each a bounded amount of work, so that no watchdog fires
//! and a desktop stays responsive. The first replays go by estimated work; one of them is timed, and its time sizes the
//! submits from then on.

use super::pipelines::Pipeline;
use std::ops::Range;
use std::sync::Arc;

/// The target time of a submit, in seconds.
const TARGET: f64 = 0.05;
/// The replay that is timed, counted from 0: drivers compile in the first.
const TIMED: u32 = 1;

pub(super) enum Action {
    Dispatch {
        pipeline: Arc<Pipeline>,
        group: wgpu::BindGroup,
        workgroups: [u32; 3],
    },
    /// Buffers, each with the byte to begin at.
    Copy {
        from: (usize, u64),
        to: (usize, u64),
        size_bytes: u64,
    },
}

/// The commands of a segment, with their estimated work in FLOPs, and the ranges that are submitted together.
pub(super) struct Submits<A = Action> {
    actions: Vec<(A, u64)>,
    ranges: Vec<Range<usize>>,
    replays: u32,
}

impl<A> Submits<A> {
    /// Submits of about `budget` FLOPs each.
    pub fn new(actions: Vec<(A, u64)>, budget: u64) -> Self {
        let work = actions.iter().map(|(_, work)| *work as f64);
        let ranges = bounded(work, budget as f64);
        Submits { actions, ranges, replays: 0 }
    }

    /// All commands in their order.
    pub fn actions(&self) -> impl Iterator<Item = &A> {
        self.actions.iter().map(|(action, _)| action)
    }

    pub fn iter(&self) -> impl Iterator<Item = impl Iterator<Item = &A>> {
        self.ranges.iter().map(|range| self.actions[range.clone()].iter().map(|(action, _)| action))
    }

    /// Counts a replay; whether it is the one to time.
    pub fn is_timed(&mut self) -> bool {
        self.replays = self.replays.saturating_add(1);
        self.replays == TIMED + 1
    }

    /// Cuts the segment anew, from the seconds that each submit took. Work within one is spread as estimated.
    pub fn resize(&mut self, seconds: &[f64]) {
        let mut each = vec![];
        for (range, seconds) in self.ranges.iter().zip(seconds) {
            let work: u64 = self.actions[range.clone()].iter().map(|(_, work)| work).sum();
            let share = |(_, own): &(A, u64)| seconds * *own as f64 / work.max(1) as f64;
            each.extend(self.actions[range.clone()].iter().map(share));
        }
        self.ranges = bounded(each.into_iter(), TARGET);
    }
}

/// Ranges of items in their order, each as long as its sum stays within `most`, and of one item at least.
fn bounded(items: impl Iterator<Item = f64>, most: f64) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = vec![];
    let mut sum = 0.0;
    for (i, item) in items.enumerate() {
        match ranges.last_mut() {
            Some(range) if sum + item <= most => (range.end, sum) = (i + 1, sum + item),
            _ => {
                ranges.push(i..i + 1);
                sum = item;
            }
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submits_follow_measured_times() {
        let mut submits = Submits::new((0..12).map(|i| (i, 10)).collect(), 30);
        let sizes = |s: &Submits<i32>| s.iter().map(Iterator::count).collect::<Vec<_>>();
        assert_eq!(sizes(&submits), [3, 3, 3, 3]);
        let timed: Vec<bool> = (0..4).map(|_| submits.is_timed()).collect();
        assert_eq!(timed, [false, true, false, false]);
        // Three quick submits, and one of 40 ms for each of its commands.
        submits.resize(&[0.003, 0.12, 0.003, 0.003]);
        assert_eq!(sizes(&submits), [4, 1, 7]);
        assert!(submits.actions().copied().eq(0..12) && submits.iter().flatten().copied().eq(0..12));
    }

    #[test]
    fn a_command_beyond_the_target_goes_alone() {
        let mut submits = Submits::new((0..4).map(|i| (i, [1, 1, 1000, 0][i])).collect(), 10);
        submits.resize(&[0.01, 3.0, 0.0]);
        assert_eq!(submits.iter().map(Iterator::count).collect::<Vec<_>>(), [2, 1, 1]);
    }
}
