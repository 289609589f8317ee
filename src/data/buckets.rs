//! Length buckets: examples are padded to one of a few lengths, each of which is a program, and batches hold examples of one
//! bucket.

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

/// The groups of one epoch, shuffled: a function of the seed and the epoch alone.
pub fn epoch(buckets: &[usize], batch: usize, seed: u64, epoch: u64) -> Vec<Group> {
    let mut rng = Pcg64::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ epoch);
    let mut order: Vec<usize> = (0..buckets.len()).collect();
    order.shuffle(&mut rng);
    let mut groups = group(buckets, &order, batch);
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
    /// The epoch whose groups these are, and the size of a batch.
    made: Option<(u64, usize, Vec<Group>)>,
}

impl Epochs {
    pub fn new(bucket_of: Vec<usize>) -> Epochs {
        Epochs { bucket_of, made: None }
    }

    /// Micro-batches of one epoch.
    pub fn len(&self, batch: usize) -> u64 {
        epoch_len(self.bucket_of.len(), batch)
    }

    pub fn is_empty(&self) -> bool {
        self.bucket_of.is_empty()
    }

    /// Group `number` of a run: a function of the seed and the number alone.
    pub fn group(&mut self, number: u64, batch: usize, seed: u64) -> Group {
        let (of, nth) = (number / self.len(batch), (number % self.len(batch)) as usize);
        let made = self.made.take().filter(|(epoch, size, _)| (*epoch, *size) == (of, batch));
        let made = made.unwrap_or_else(|| (of, batch, epoch(&self.bucket_of, batch, seed, of)));
        self.made.insert(made).2[nth].clone()
    }
}
