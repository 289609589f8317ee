//! Rows of tokens that a model learns in part: an example in each, or several that are put together by best fit.

use std::collections::BTreeMap;

use crate::data::dialogues::Encoded;
use crate::graph::{Graph, Shape, Tensor};
use crate::models::blocks::Model;
use crate::ops::IGNORED;
use crate::ops::row_dot::RowDot;
use crate::train::objective::Batch;

/// Examples, and those of each row.
pub struct Rows {
    examples: Vec<Encoded>,
    rows: Vec<Vec<usize>>,
    /// The length of rows that hold several examples.
    packed: Option<usize>,
}

impl Rows {
    /// A row for each example; or, with a length, as many in each row as fit it. Examples have at least one target that is learned.
    pub fn new(examples: Vec<Encoded>, packed: Option<usize>) -> Rows {
        let lengths = examples.iter().map(fed);
        let rows = match packed {
            None => (0..examples.len()).map(|example| vec![example]).collect(),
            Some(longest) => best_fit(&lengths.collect::<Vec<_>>(), longest),
        };
        Rows { examples, rows, packed }
    }

    /// The length of rows that hold several examples.
    pub fn packed(&self) -> Option<usize> {
        self.packed
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn examples(&self) -> &[Encoded] {
        &self.examples
    }

    /// Tokens that a row feeds.
    pub(super) fn fed(&self, row: usize) -> usize {
        self.rows[row].iter().map(|example| fed(&self.examples[*example])).sum()
    }

    pub(super) fn lengths(&self) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).map(|row| self.fed(row))
    }

    /// Targets of rows that are learned.
    pub(super) fn targets(&self, rows: &[usize]) -> usize {
        rows.iter().flat_map(|row| &self.rows[*row]).map(|example| self.examples[*example].targets()).sum()
    }
}

/// Which lengths share a row of `longest`: from the longest to the shortest, each goes where the least room is left.
fn best_fit(lengths: &[usize], longest: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut rows: Vec<Vec<usize>> = vec![];
    // Rows by the room that is left in them.
    let mut room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for i in order {
        let found = room.range_mut(lengths[i]..).next().map(|(left, rows)| (*left, rows.pop()));
        let (left, row) = match found {
            Some((left, Some(row))) => {
                room.retain(|_, rows| !rows.is_empty());
                (left, row)
            }
            _ => {
                rows.push(vec![]);
                (longest, rows.len() - 1)
            }
        };
        rows[row].push(i);
        room.entry(left - lengths[i]).or_default().push(row);
    }
    rows
}

/// Names of the inputs of some rows, a program's own for each set of rows that it takes.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub ids: &'static str,
    pub targets: &'static str,
    pub weights: &'static str,
}

/// The names where a program takes one set of rows, or for the first of two.
pub(super) const NAMES: Names = Names { ids: "ids", targets: "targets", weights: "weights" };

/// The log-probabilities of as many rows with an example in each, set by [`Inputs::set`]: of each row the weighted sum over its learned
/// targets (rows), and those of all targets (rows * length), 0 where they are not learned.
pub(super) fn log_probs(
    g: &mut Graph,
    model: &Model,
    names: Names,
    (rows, length): (usize, usize),
) -> (Tensor, Tensor) {
    let dims = [rows, length];
    let ids = g.input(names.ids, Shape::u32(&dims));
    let x = model.hidden(g, ids);
    let targets = g.input(names.targets, Shape::u32(&dims));
    let of_tokens = model.token_log_probs(g, x, targets);
    g.scope("loss");
    let weights = g.input(names.weights, Shape::f32(&dims));
    (g.apply(RowDot { rows }, &[of_tokens, weights]), of_tokens)
}

/// The inputs of a micro-batch.
pub(super) struct Inputs {
    names: Names,
    ids: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    starts: Vec<u32>,
}

impl Default for Inputs {
    fn default() -> Inputs {
        Inputs::named(NAMES)
    }
}

impl Inputs {
    pub(super) fn named(names: Names) -> Inputs {
        let (ids, targets, weights) = (vec![], vec![], vec![]);
        Inputs { names, ids, targets, weights, positions: vec![], starts: vec![] }
    }

    /// Sets the inputs to some rows; each target of an example that is learned has the weight that `weight` gives the example. There
    /// are as many rows as sequences in the batch.
    pub(super) fn set(
        &mut self,
        all: &Rows,
        rows: &[usize],
        (sequences, length): (usize, usize),
        weight: &dyn Fn(&Encoded) -> f32,
        batch: &mut Batch,
    ) {
        let places = sequences * length;
        for words in [&mut self.ids, &mut self.positions] {
            words.clear();
            words.resize(places, 0);
        }
        self.targets.clear();
        self.targets.resize(places, IGNORED);
        self.weights.clear();
        self.weights.resize(places, 0.0);
        self.starts.clear();
        // Places behind the examples of a row are documents of one token.
        self.starts.extend((0..places).map(|place| (place % length) as u32));
        for (n, row) in rows.iter().enumerate() {
            let mut start = 0;
            for example in &all.rows[*row] {
                let example = &all.examples[*example];
                let (Encoded { ids, learned, .. }, weight) = (example, weight(example));
                for at in 0..ids.len() - 1 {
                    let place = n * length + start + at;
                    self.ids[place] = ids[at];
                    (self.positions[place], self.starts[place]) = (at as u32, start as u32);
                    if learned[at + 1] {
                        (self.targets[place], self.weights[place]) = (ids[at + 1], weight);
                    }
                }
                start += ids.len() - 1;
            }
        }
        batch.set(self.names.ids, &self.ids);
        if all.packed.is_some() {
            batch.set("positions", &self.positions);
            batch.set("starts", &self.starts);
        }
        batch.set(self.names.targets, &self.targets);
        batch.set_f32(self.names.weights, &self.weights);
    }

    /// Sets the ids of some rows with an example in each, and nothing else.
    pub(super) fn set_ids(
        &mut self,
        all: &Rows,
        rows: &[usize],
        (sequences, length): (usize, usize),
        batch: &mut Batch,
    ) {
        self.ids.clear();
        self.ids.resize(sequences * length, 0);
        for (n, row) in rows.iter().enumerate() {
            let (ids, fed) = (&all.examples[all.rows[*row][0]].ids, all.fed(*row));
            self.ids[n * length..n * length + fed].copy_from_slice(&ids[..fed]);
        }
        batch.set(self.names.ids, &self.ids);
    }

    /// `weight` for every learned target of the even rows, those of chosen answers, and 0 for others.
    pub(super) fn of_even_rows(&self, length: usize, weight: f32) -> impl Iterator<Item = f32> {
        let is_learned = move |place: usize| (place / length).is_multiple_of(2) && self.targets[place] != IGNORED;
        (0..self.targets.len()).map(move |place| if is_learned(place) { weight } else { 0.0 })
    }
}

/// Tokens that an example feeds: its last is a target only.
fn fed(example: &Encoded) -> usize {
    example.ids.len() - 1
}

#[cfg(test)]
mod tests {
    use super::best_fit;

    #[test]
    fn the_longest_come_first_and_each_goes_where_the_least_room_is_left() {
        let rows = |lengths: &[usize]| best_fit(lengths, 10);
        assert_eq!(rows(&[3, 7, 5, 5, 2, 1]), [vec![1, 0], vec![2, 3], vec![4, 5]]);
        // 2 goes to the row with 8, not to that with 6.
        assert_eq!(rows(&[6, 8, 2]), [vec![1, 2], vec![0]]);
        assert_eq!(rows(&[10, 10]), [vec![0], vec![1]]);
        assert!(rows(&[]).is_empty());
    }
}
