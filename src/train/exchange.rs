//! What the ranks of a run exchange: sums of gradients between the micro-batches of a step and its update, or, every so many steps,
//! differences of weights.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::graph::{LOSS_SUM, REPORT, SCALAR_SUMS};
use crate::error::Result;
use crate::executor::Executor;
use crate::ranks::{Piece, Ranks, Wire};

/// Values that travel at a time: the transfer of one piece overlaps the read-back of the next.
pub(super) const PIECE: usize = 1 << 20;
/// Pieces on their way at most.
const UNDER_WAY: usize = 3;
/// Rate and momentum of the outer optimiser ("DiLoCo: Distributed Low-Communication Training of Language Models", Douillard et al.
/// 2023, section 3.1).
const OUTER_RATE: f32 = 0.7;
const OUTER_MOMENTUM: f32 = 0.9;

/// A part of a state.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: usize,
    at: usize,
    len: usize,
}

/// Sums over ranks of states that lie in groups, in pieces whose memory is kept.
pub struct Exchange {
    ranks: Arc<Ranks>,
    /// Names of the groups' states.
    groups: Vec<String>,
    places: Vec<Place>,
    spare: Vec<Vec<f32>>,
    outer: Option<Outer>,
}

/// The outer optimiser's state, by group: weights after the last synchronisation, and the momentum.
#[derive(Default)]
struct Outer {
    anchors: Vec<Vec<f32>>,
    momenta: Vec<Vec<f32>>,
}

/// What ranks said before a step's sums, and how long they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// Tokens of all ranks.
    pub tokens: usize,
    /// Whether a rank wants to stop.
    pub stop: bool,
    /// Milliseconds of waiting for the slowest rank, and of sums.
    pub wait_ms: f32,
    pub transfer_ms: f32,
}

impl Exchange {
    /// For groups of parameters with their numbers of values.
    pub fn new(ranks: Arc<Ranks>, groups: &[(String, usize)]) -> Exchange {
        let pieces = |(group, (_, values)): (usize, &(String, usize))| {
            let values = *values;
            let piece = move |at: usize| Place { group, at, len: PIECE.min(values - at) };
            (0..values).step_by(PIECE).map(piece).collect::<Vec<_>>()
        };
        let places = groups.iter().enumerate().flat_map(pieces).collect();
        let groups = groups.iter().map(|(name, _)| name.clone()).collect();
        Exchange { ranks, groups, places, spare: vec![], outer: None }
    }

    /// Sums gradients, the loss and `scalars` scalars over all ranks, in their order.
    pub fn gradients(
        &mut self,
        executor: &mut dyn Executor,
        wire: Wire,
        scalars: usize,
        (tokens, stop): (usize, bool),
    ) -> Result<Said> {
        let mut head = executor.read_state(LOSS_SUM)?; // waits for the device
        let began = Instant::now();
        if scalars > 0 {
            head.extend(executor.read_state(SCALAR_SUMS)?);
        }
        let said = self.tell(&mut head, (tokens, stop));
        executor.write_state(LOSS_SUM, &head[..1])?;
        if scalars > 0 {
            executor.write_state(SCALAR_SUMS, &head[1..])?;
        }
        let met = Instant::now();
        self.pass(executor, ".grad", wire, |_, _| (), |_, _| ())?;
        let ms = |from: Instant, to: Instant| (to - from).as_secs_f32() * 1e3;
        Ok(Said { wait_ms: ms(began, met), transfer_ms: ms(met, Instant::now()), ..said })
    }

    /// Sums `head` over all ranks, with what each of them says.
    fn tell(&self, head: &mut Vec<f32>, (tokens, stop): (usize, bool)) -> Said {
        let len = head.len();
        let mut values = std::mem::take(head);
        values.extend([tokens as f32, f32::from(stop)]);
        *head = self.ranks.sum(values);
        let said = Said { tokens: head[len] as usize, stop: head[len + 1] > 0.0, ..Said::default() };
        head.truncate(len);
        said
    }

    /// Takes the weights as they are for those after a synchronisation; `momentum` tells each group's by its name, where there is one.
    pub fn anchor(
        &mut self,
        executor: &mut dyn Executor,
        mut momentum: impl FnMut(&str) -> Result<Option<Vec<f32>>>,
    ) -> Result<()> {
        let mut outer = Outer::default();
        for group in &self.groups {
            let weights = executor.read_state(group)?;
            outer.momenta.push(momentum(&momentum_name(group))?.unwrap_or_else(|| vec![0.0; weights.len()]));
            outer.anchors.push(weights);
        }
        self.outer = Some(outer);
        Ok(())
    }

    /// The outer optimiser's momenta, by their names in a checkpoint.
    pub fn momenta(&self) -> impl Iterator<Item = (String, &[f32])> {
        let momenta = self.outer.iter().flat_map(|outer| &outer.momenta);
        self.groups.iter().zip(momenta).map(|(group, values)| (momentum_name(group), values.as_slice()))
    }

    /// Averages over all ranks what the weights have changed since the last synchronisation, and moves them by it: stochastic gradient
    /// descent with Nesterov's momentum, whose gradient is old weights minus new ones. All ranks then have the same weights.
    pub fn synchronise(&mut self, executor: &mut dyn Executor, wire: Wire, stop: bool) -> Result<Said> {
        let said = self.tell(&mut vec![], (0, stop));
        let mut outer = self.outer.take().expect("weights that were anchored");
        let share = 1.0 / self.ranks.count() as f32;
        let Outer { anchors, momenta } = &mut outer;
        // Both sides of a sum look at them, one after the other.
        let anchors = RefCell::new(anchors);
        let before = |Place { group, at, len }: Place, values: &mut [f32]| {
            let anchors = anchors.borrow();
            let old = &anchors[group][at..at + len];
            values.iter_mut().zip(old).for_each(|(value, old)| *value = old - *value);
        };
        let after = |Place { group, at, len }: Place, values: &mut [f32]| {
            let mut anchors = anchors.borrow_mut();
            let old = &mut anchors[group][at..at + len];
            let momentum = &mut momenta[group][at..at + len];
            for ((value, old), momentum) in values.iter_mut().zip(old).zip(momentum) {
                let change = *value * share;
                *momentum = OUTER_MOMENTUM * *momentum + change;
                *old -= OUTER_RATE * (change + OUTER_MOMENTUM * *momentum);
                *value = *old;
            }
        };
        self.pass(executor, "", wire, before, after)?;
        self.outer = Some(outer);
        Ok(said)
    }

    /// Gives all ranks the first one's moments and report, which local steps make different.
    pub fn share_moments(&mut self, executor: &mut dyn Executor) -> Result<()> {
        if !self.ranks.are_several() {
            return Ok(());
        }
        let moments = self.groups.iter().flat_map(|group| [".exp_avg", ".exp_avg_sq"].map(|s| format!("{group}{s}")));
        for name in moments.chain([REPORT.to_string()]) {
            let own = executor.read_state(&name)?;
            let bytes = self.ranks.broadcast(0, bytemuck::cast_slice(&own).to_vec());
            if !self.ranks.is_first() {
                executor.write_state(&name, &bytemuck::pod_collect_to_vec::<u8, f32>(&bytes))?;
            }
        }
        Ok(())
    }

    /// Sums the states with this suffix over all ranks, in pieces: `before` and `after` change a piece's values on both sides of it.
    fn pass(
        &mut self,
        executor: &mut dyn Executor,
        suffix: &str,
        wire: Wire,
        mut before: impl FnMut(Place, &mut [f32]),
        mut after: impl FnMut(Place, &mut [f32]),
    ) -> Result<()> {
        let ranks = Arc::clone(&self.ranks);
        let names: Vec<String> = self.groups.iter().map(|group| format!("{group}{suffix}")).collect();
        let (places, spare) = (&self.places, &mut self.spare);
        let mut take = |executor: &mut dyn Executor, spare: &mut Vec<Vec<f32>>, mut piece: Piece| {
            let place = places[piece.tag];
            after(place, &mut piece.values);
            let written = executor.write_state_at(&names[place.group], place.at, &piece.values);
            spare.push(piece.values);
            written
        };
        let mut under_way = 0;
        for (tag, place) in places.iter().enumerate() {
            while let Some(piece) = (under_way > 0).then(|| ranks.end_sum(under_way == UNDER_WAY)).flatten() {
                under_way -= 1;
                take(executor, spare, piece)?;
            }
            let mut values = spare.pop().unwrap_or_default();
            values.resize(place.len, 0.0);
            executor.read_state_at(&names[place.group], place.at, &mut values)?;
            before(*place, &mut values);
            let piece = Piece { values, tag };
            match ranks.are_several() {
                true => {
                    ranks.begin_sum(piece, wire);
                    under_way += 1;
                }
                false => take(executor, spare, piece)?,
            }
        }
        while let Some(piece) = (under_way > 0).then(|| ranks.end_sum(true)).flatten() {
            under_way -= 1;
            take(executor, spare, piece)?;
        }
        Ok(())
    }
}

fn momentum_name(group: &str) -> String {
    format!("{group}.outer_momentum")
}
