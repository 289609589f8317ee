//! Length buckets: examples are padded to one of a few lengths, each of which is a program, and batches hold examples of one
//! bucket.
//!
//! Examples may take several rows of a batch each, such as the answers of a ranking: then as many are put together as fit.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

/// Lengths are multiples of this.
const STEP: usize = 8;

/// The lengths to which sequences are padded, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets(pub Vec<usize>);

impl Buckets {
    /// At most `most` lengths that hold sequences of these lengths with the fewest padded tokens; none is beyond `longest`.
    pub fn fit(lengths: impl Iterator<Item = usize>, most: usize, longest: usize) -> Self {
        let mut counts = std::collections::BTreeMap::<usize, usize>::new();
        for length in lengths {
            assert!(length <= longest, "{length} tokens are more than the longest sequence, {longest}");
            *counts.entry(length.next_multiple_of(STEP).clamp(1, longest)).or_default() += 1;
        }
        let (ends, counts): (Vec<usize>, Vec<usize>) = counts.into_iter().unzip();
        // best[i]: tokens of, and ends chosen for, the shortest i lengths; one more end with each round.
        let mut best: Vec<Option<(usize, Vec<usize>)>> = vec![None; ends.len() + 1];
        best[0] = Some((0, vec![]));
        for _ in 0..most {
            let earlier = best.clone();
            for i in 1..=ends.len() {
                let with_last_from = |j: usize| {
                    let (tokens, chosen) = earlier[j].as_ref()?;
                    let added = counts[j..i].iter().sum::<usize>() * ends[i - 1];
                    Some((tokens + added, [&chosen[..], &[ends[i - 1]]].concat()))
                };
                best[i] = (0..i).filter_map(with_last_from).chain(best[i].clone()).min();
            }
        }
        Buckets(best.pop().flatten().map_or(vec![], |(_, chosen)| chosen))
    }

    /// The first bucket that holds a length.
    pub fn of(&self, length: usize) -> usize {
        self.0.partition_point(|&bucket| bucket < length)
    }
}

/// Which examples make up a batch, and the bucket they are padded to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub bucket: usize,
    /// Indices of at most a batch's examples.
    pub examples: Vec<usize>,
}

/// Groups examples, given each one's bucket and an order. The remainder of a bucket goes to the next longer one, so that
/// only one group is not full.
pub fn group(buckets: &[usize], order: &[usize], batch: usize) -> Vec<Group> {
    let mut groups = vec![];
    let mut left: Vec<usize> = vec![];
    for bucket in 0..=buckets.iter().copied().max().unwrap_or(0) {
        left.extend(order.iter().filter(|&&i| buckets[i] == bucket));
        let full = left.len() / batch * batch;
        groups.extend(left[..full].chunks(batch).map(|examples| Group { bucket, examples: examples.to_vec() }));
        left.drain(..full);
        // Longer buckets may hold nothing that comes after.
        if !left.is_empty() && !buckets.iter().any(|&b| b > bucket) {
            groups.push(Group { bucket, examples: std::mem::take(&mut left) });
        }
    }
    groups
}

/// As [`group`], of examples that take `sizes` rows each, in batches of `rows`: the largest of a bucket come first, and each goes where
/// the least room is left. Of a bucket's groups that are not full, the one with the most room takes examples of the next longer one.
///
/// How many groups there are does not depend on the order. An example of more than `rows` has a group of its own.
pub fn group_sized(buckets: &[usize], sizes: &[usize], order: &[usize], rows: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = vec![];
    // Groups by the room that is left in them.
    let mut open = BTreeMap::<usize, Vec<usize>>::new();
    for bucket in 0..=buckets.iter().copied().max().unwrap_or(0) {
        let mut members: Vec<usize> = order.iter().copied().filter(|&i| buckets[i] == bucket).collect();
        members.sort_by_key(|&i| Reverse(sizes[i]));
        for i in members {
            let found = open.range(sizes[i]..).next().map(|(room, _)| *room);
            let place = found.and_then(|room| Some((room, open.get_mut(&room)?.pop()?)));
            open.retain(|_, groups| !groups.is_empty());
            let (room, place) = place.unwrap_or_else(|| {
                groups.push(Group { bucket, examples: vec![] });
                (rows, groups.len() - 1)
            });
            groups[place].bucket = bucket;
            groups[place].examples.push(i);
            open.entry(room.saturating_sub(sizes[i])).or_default().push(place);
        }
        let roomiest = open.pop_last().and_then(|(room, mut groups)| Some((room, groups.pop()?)));
        open = roomiest.into_iter().map(|(room, place)| (room, vec![place])).collect();
    }
    groups
}

/// The groups of one epoch, shuffled: a function of the seed and the epoch alone.
pub fn epoch(buckets: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<Group> {
    shuffled(buckets.len(), (seed, epoch), |order| group(buckets, order, batch))
}

/// Shuffled groups of an order that is shuffled.
fn shuffled(examples: usize, (seed, epoch): (u64, u64), group: impl Fn(&[usize]) -> Vec<Group>) -> Vec<Group> {
    let mut rng = Pcg64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch);
    let mut order: Vec<usize> = (0..examples).collect();
    order.shuffle(&mut rng);
    let mut groups = group(&order);
    groups.shuffle(&mut rng);
    groups
}

/// Micro-batches of one epoch over so many examples: all are full but the last.
pub fn epoch_len(examples: usize, batch: usize) -> u64 {
    examples.div_ceil(batch).max(1) as u64
}

/// The groups of a run, epoch by epoch.
#[derive(Debug)]
pub struct Epochs {
    /// The bucket of each example.
    bucket_of: Vec<usize>,
    /// The rows of each example; none where all have one.
    sizes: Vec<usize>,
    /// The number of groups for a size of batch, once it is known.
    counted: Cell<Option<(usize, u64)>>,
    /// The epoch whose groups these are, and the size of a batch.
    made: Option<(u64, usize, Vec<Group>)>,
}

impl Epochs {
    pub fn new(bucket_of: Vec<usize>) -> Epochs {
        Epochs::with_sizes(bucket_of, vec![])
    }

    /// Of examples that take so many rows of a batch each.
    pub fn with_sizes(bucket_of: Vec<usize>, sizes: Vec<usize>) -> Epochs {
        Epochs { bucket_of, sizes, counted: Cell::new(None), made: None }
    }

    /// Micro-batches of one epoch.
    pub fn len(&self, batch: usize) -> u64 {
        if self.sizes.is_empty() {
            return epoch_len(self.bucket_of.len(), batch);
        }
        let counted = self.counted.get().filter(|(of, _)| *of == batch);
        let counted = counted.unwrap_or_else(|| {
            let order: Vec<usize> = (0..self.sizes.len()).collect();
            (batch, group_sized(&self.bucket_of, &self.sizes, &order, batch).len().max(1) as u64)
        });
        self.counted.set(Some(counted));
        counted.1
    }

    pub fn is_empty(&self) -> bool {
        self.bucket_of.is_empty()
    }

    /// Group `number` of a run: a function of the seed and the number alone.
    pub fn group(&mut self, number: u64, batch: usize, seed: u64) -> Group {
        let (of, nth) = (number / self.len(batch), (number % self.len(batch)) as usize);
        let made = self.made.take().filter(|(epoch, size, _)| (*epoch, *size) == (of, batch));
        let made = made.unwrap_or_else(|| (of, batch, self.epoch(batch, seed, of)));
        self.made.insert(made).2[nth].clone()
    }

    fn epoch(&self, batch: usize, seed: u64, of: u64) -> Vec<Group> {
        if self.sizes.is_empty() {
            return epoch(&self.bucket_of, batch, seed, of);
        }
        let group = |order: &[usize]| group_sized(&self.bucket_of, &self.sizes, order, batch);
        shuffled(self.sizes.len(), (seed, of), group)
    }
}

#[cfg(test)]
mod tests {
    use super::{Epochs, Group, group, group_sized};

    #[test]
    fn examples_of_one_row_are_grouped_as_without_sizes() {
        let buckets: Vec<usize> = (0..53).map(|i| i * 7 % 4).collect();
        let order: Vec<usize> = (0..53).map(|i| i * 10 % 53).collect();
        for rows in [1, 3, 8, 60] {
            let sized = group_sized(&buckets, &[1; 53], &order, rows);
            assert_eq!(sized, group(&buckets, &order, rows), "{rows} rows");
        }
    }

    #[test]
    fn each_example_is_in_one_group_that_holds_it_and_every_epoch_has_as_many() {
        let sizes: Vec<usize> = (0..40).map(|i| 2 + i * i % 6).collect();
        let buckets: Vec<usize> = (0..40).map(|i| i % 3).collect();
        let mut epochs = Epochs::with_sizes(buckets.clone(), sizes.clone());
        let len = epochs.len(8);
        for epoch in 0..5 {
            let groups: Vec<Group> =
                (epoch * len..(epoch + 1) * len).map(|number| epochs.group(number, 8, 3)).collect();
            let mut seen: Vec<usize> = groups.iter().flat_map(|group| group.examples.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..40).collect::<Vec<_>>());
            for Group { bucket, examples } in groups {
                assert!(examples.iter().map(|&i| sizes[i]).sum::<usize>() <= 8);
                assert!(examples.iter().all(|&i| buckets[i] <= bucket));
            }
        }
        assert_ne!(epochs.group(0, 8, 3), epochs.group(len, 8, 3), "an epoch has an order of its own");
    }

    #[test]
    fn the_largest_come_first_and_what_is_left_goes_to_the_next_bucket() {
        let group = |bucket, examples: &[usize]| Group { bucket, examples: examples.to_vec() };
        let groups = group_sized(&[0, 0, 0, 1], &[2, 5, 3, 3], &[0, 1, 2, 3], 7);
        assert_eq!(groups, [group(0, &[1, 0]), group(1, &[2, 3])]);
        assert_eq!(group_sized(&[0, 0], &[9, 2], &[0, 1], 7), [group(0, &[0]), group(0, &[1])]);
    }
}
