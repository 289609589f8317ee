//! Mixtures of sources: which window of which source is drawn when. Everything is a function of the seed and the window's number, so that a
//! resumed run draws what an unbroken one does.
//!
//! In each round of 1000 windows a source has its share of them, in an order that changes from round to round. The windows of a source
//! are drawn without replacement: an epoch of it goes through all of them in a random order. In a round in which an epoch of a source
//! ends, its last windows and the first of the next epoch come in a mixed order.

use std::ops::Range;

use super::tokens::Portion;
use crate::{error::Result, fail};

/// Windows of a round: shares are exact to a thousandth.
const ROUND: u64 = 1000;
/// Rounds of a Feistel network; four make a permutation that looks random (Luby and Rackoff 1988).
const FEISTEL_ROUNDS: u64 = 4;

/// Draws windows from several sources.
#[derive(Clone, Debug)]
pub struct Mixture {
    seed: u64,
    context: u64,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    name: String,
    range: Range<u64>,
    /// Its windows, which do not overlap, in an epoch.
    windows: u64,
    /// Its windows in a round.
    slots: Range<u64>,
}

/// Refuses sources that have no window.
pub fn check(parts: &[Portion], context: usize) -> Result<()> {
    let needed = context as u64 + 1;
    if let Some(part) = parts.iter().find(|part| part.range.end - part.range.start < needed) {
        let (name, length) = (&part.name, part.range.end - part.range.start);
        fail!(
            Input,
            "{name} has {length} tokens, but a context of {context} needs at least {needed}; leave it out or give more of it"
        );
    }
    Ok(())
}

impl Mixture {
    pub fn new(portions: &[Portion], context: usize, seed: u64) -> Result<Mixture> {
        check(portions, context)?;
        let (mut share, mut first, mut parts) = (0.0, 0, vec![]);
        for (number, portion) in portions.iter().enumerate() {
            share += portion.share;
            let end = if number + 1 == portions.len() { ROUND } else { (share * ROUND as f64).round() as u64 };
            if end == first {
                let name = &portion.name;
                fail!(
                    Usage,
                    "the share of {name} is less than one window in {ROUND}: give it a larger one, or leave it out"
                );
            }
            let windows = (portion.range.end - portion.range.start - 1) / context as u64;
            parts.push(Part { name: portion.name.clone(), range: portion.range.clone(), windows, slots: first..end });
            first = end;
        }
        Ok(Mixture { seed, context: context as u64, parts })
    }

    /// The first token of a window, by its number.
    pub fn start(&self, number: u64) -> u64 {
        let (part, drawn) = self.draw(number);
        let Part { range, windows, .. } = &self.parts[part];
        let (epoch, nth) = (drawn / windows, drawn % windows);
        let key = mixed(self.seed ^ mixed((part as u64) << 48 ^ epoch));
        let room = range.end - range.start - 1 - windows * self.context;
        let offset = mixed(key ^ 1) % (room + 1);
        range.start + offset + permuted(key, *windows, nth) * self.context
    }

    /// How often each source has been gone through after so many windows.
    pub fn epochs(&self, windows: u64) -> Vec<(&str, f64)> {
        let (rounds, rest) = (windows / ROUND, windows % ROUND);
        let mut counts: Vec<u64> = self.parts.iter().map(|part| rounds * (part.slots.end - part.slots.start)).collect();
        (0..rest).for_each(|number| counts[self.draw(rounds * ROUND + number).0] += 1);
        self.parts
            .iter()
            .zip(counts)
            .map(|(part, count)| (part.name.as_str(), count as f64 / part.windows as f64))
            .collect()
    }

    /// The source of a window, and how many of its windows are drawn before it, but for the order within a round.
    fn draw(&self, number: u64) -> (usize, u64) {
        let round = number / ROUND;
        let slot = permuted(mixed(self.seed.wrapping_add(mixed(round))), ROUND, number % ROUND);
        let part = self.parts.iter().position(|part| part.slots.contains(&slot)).unwrap_or(0);
        let slots = &self.parts[part].slots;
        (part, round * (slots.end - slots.start) + slot - slots.start)
    }
}

/// A place in a permutation of `0..size`: a Feistel network over the next power of four, walked until it falls into the range.
fn permuted(key: u64, size: u64, place: u64) -> u64 {
    let half = (u64::BITS - size.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1 << half) - 1;
    let mut at = place;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..FEISTEL_ROUNDS {
            (left, right) = (right, left ^ (mixed(key ^ mixed(right << 3 ^ round)) & mask));
        }
        at = left << half | right;
        if at < size {
            return at;
        }
    }
}

/// A number whose bits all depend on all of another's (SplitMix64, Steele et al. 2014).
fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
