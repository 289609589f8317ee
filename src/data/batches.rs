//! Batches of windows of tokens: inputs, and targets that are the same window one token later.
//!
//! Training windows are random, as in nanoGPT. The state is plain data, a seed and the number of batches drawn: batch
//! `n` depends on these two alone, so `seek` costs no more than drawing one batch and a resumed run sees the
//! batches of an uninterrupted one. The generator is PCG XSL RR 128/64 (O'Neill 2014), which can jump ahead in its
//! sequence and gives the same numbers on every machine.
//!
//! Windows of a mixture are drawn without replacement: a source's windows lie one behind the other, from an offset that changes with each
//! epoch, and come in a random order, each once in an epoch (see `mixture`).
//!
//! Validation windows are spread evenly over the tokens and the same every time.

use std::{ops::Range, sync::Arc};

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use super::mixture::Mixture;
use super::tokens::Tokens;
use crate::{error::Result, fail};

/// Draws batches from tokens.
#[derive(Clone, Debug)]
pub struct Batches {
    tokens: Arc<Tokens>,
    batch: usize,
    context: usize,
    order: Order,
    position: u64,
    /// The context and the one token after it.
    window: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Order {
    Random { start: Pcg64 },
    Even { count: u64 },
    Mixed(Mixture),
}

impl Batches {
    /// Endless random windows of `context` tokens, `batch` at a time; those of a mixture by the shares of its sources.
    pub fn new(tokens: Arc<Tokens>, batch: usize, context: usize, seed: u64) -> Result<Batches> {
        if !tokens.parts().is_empty() {
            let mixture = Mixture::new(tokens.parts(), context, seed)?;
            return Batches::with_order(tokens, batch, context, Order::Mixed(mixture));
        }
        Batches::with_order(tokens, batch, context, Order::Random { start: Pcg64::seed_from_u64(seed) })
    }

    /// `count` batches of windows at even distances, the first and the last token included; then the same again.
    pub fn evenly(tokens: Arc<Tokens>, batch: usize, context: usize, count: u64) -> Result<Batches> {
        if count == 0 {
            fail!(Usage, "evaluation needs at least one batch; give --eval-batches 1 or more");
        }
        Batches::with_order(tokens, batch, context, Order::Even { count })
    }

    /// Fills the next batch: `batch` rows of `context` ids, and for each id the one that follows it.
    pub fn next(&mut self, inputs: &mut [u32], targets: &mut [u32]) -> Result<()> {
        let size = self.batch * self.context;
        assert_eq!((inputs.len(), targets.len()), (size, size), "a batch is {} x {}", self.batch, self.context);
        let mut random = match &self.order {
            Order::Random { start } => Some(at_batch(start, self.position, self.batch)),
            Order::Even { .. } | Order::Mixed(_) => None,
        };
        let rows = inputs.chunks_exact_mut(self.context).zip(targets.chunks_exact_mut(self.context));
        for (row, (inputs, targets)) in (0..).zip(rows) {
            let start = match (&mut random, &self.order) {
                (Some(random), _) => below(random.next_u64(), self.starts()),
                (None, Order::Mixed(mixture)) => mixture.start(self.position.wrapping_mul(self.batch as u64) + row),
                (None, _) => self.even_start(row),
            };
            self.tokens.read(start, &mut self.window)?;
            inputs.copy_from_slice(&self.window[..self.context]);
            targets.copy_from_slice(&self.window[1..]);
        }
        self.position = self.position.wrapping_add(1);
        Ok(())
    }

    /// The sources of a mixture, and how often each has been gone through once so many batches are drawn.
    pub fn epochs(&self, batches: u64) -> Vec<(&str, f64)> {
        match &self.order {
            Order::Mixed(mixture) => mixture.epochs(batches.saturating_mul(self.batch as u64)),
            _ => vec![],
        }
    }

    /// How many batches have been drawn.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes on as if `position` batches had been drawn.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// The tokens that batches are drawn from.
    pub fn tokens(&self) -> &Arc<Tokens> {
        &self.tokens
    }

    fn with_order(tokens: Arc<Tokens>, batch: usize, context: usize, order: Order) -> Result<Batches> {
        if batch == 0 || context == 0 || batch.checked_mul(context).is_none_or(|size| size >= u32::MAX as usize) {
            fail!(Usage, "a batch of {batch} windows of {context} tokens is impossible; change --batch or --context");
        }
        let (name, length, needed) = (tokens.name(), tokens.len(), context as u64 + 1);
        if length < needed {
            let remedy = "give more data or a smaller --context";
            fail!(Input, "{name} has {length} tokens, but a context of {context} needs at least {needed}; {remedy}");
        }
        super::mixture::check(tokens.parts(), context)?;
        Ok(Batches { tokens, batch, context, order, position: 0, window: vec![0; context + 1] })
    }

    /// The number of places where a window can start.
    fn starts(&self) -> u64 {
        self.tokens.len() - self.context as u64
    }

    fn even_start(&self, row: u64) -> u64 {
        let Order::Even { count } = self.order else { return 0 };
        let rows = self.batch as u64;
        let window = u128::from(self.position % count) * u128::from(rows) + u128::from(row);
        let windows = u128::from(count) * u128::from(rows);
        let parts = self.tokens.parts();
        if parts.is_empty() {
            return evenly(0..self.tokens.len(), self.context, window, windows);
        }
        // Each source of a mixture has its share of the windows, one source behind the other.
        let mut share = 0.0;
        let mut first = 0;
        for (number, part) in parts.iter().enumerate() {
            share += part.share;
            let last = number + 1 == parts.len();
            let end = if last { windows } else { (share * windows as f64).round() as u128 };
            if window < end || last {
                return evenly(part.range.clone(), self.context, window - first, end - first);
            }
            first = end;
        }
        0
    }
}

/// The start of one of so many windows at even distances in a range that holds at least one.
fn evenly(range: Range<u64>, context: usize, window: u128, windows: u128) -> u64 {
    let last = u128::from(range.end - range.start - context as u64 - 1);
    range.start + (last * window / windows.saturating_sub(1).max(1)) as u64
}

/// The generator as it is after `position` batches, each of which takes one number per row.
fn at_batch(start: &Pcg64, position: u64, batch: usize) -> Pcg64 {
    let mut random = start.clone();
    random.advance(u128::from(position) * batch as u128);
    random
}

/// Maps a random number to `0..bound`. Unlike drawing again until it fits, this always takes exactly one number; the
/// bias is at most `bound / 2^64`.
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}
