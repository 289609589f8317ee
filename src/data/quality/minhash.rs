//! Near-duplicates by MinHash with bands (Broder 1997; Leskovec et al., "Mining of Massive Datasets", chapter 3), with datatrove's numbers:
//! shingles of 5 words, 14 bands of 8 hashes. Documents that are alike in all hashes of a band are duplicates, and so are those that a
//! chain of such pairs joins. The first of each group stays.
//!
//! Two documents that share a part s of their shingles are found with probability 1 - (1 - s^8)^14: 0.92 at 0.8, half at about 0.7.

use ahash::AHashMap;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;
use twox_hash::XxHash64;

use super::field::{PRIME, reduced};
use super::filter::Parameters;
use super::simplify::n_grams;
use crate::error::Result;
use crate::fail;

/// Hashes of a signature, at most: each takes time on every shingle.
const MOST_HASHES: usize = 100_000;

/// The hash functions of signatures.
pub struct MinHash {
    n_grams: usize,
    bands: usize,
    rows: usize,
    /// Factor and summand of each function.
    functions: Vec<(u64, u64)>,
}

impl MinHash {
    /// Sizes under datatrove's names.
    pub fn new(given: &mut Parameters) -> Result<MinHash> {
        let n_grams = given.count("n-grams", 5, 1)?;
        let (bands, rows) = (given.count("num-buckets", 14, 1)?, given.count("hashes-per-bucket", 8, 1)?);
        if bands.saturating_mul(rows) > MOST_HASHES {
            fail!(
                Usage,
                "--dedup minhash: num-buckets={bands} times hashes-per-bucket={rows} is more than {MOST_HASHES} hashes; give fewer"
            );
        }
        let mut random = Pcg64::seed_from_u64(1);
        let function = |_| (1 + random.next_u64() % (PRIME - 1), random.next_u64() % PRIME);
        Ok(MinHash { n_grams, bands, rows, functions: (0..bands * rows).map(function).collect() })
    }

    /// Keys in a signature.
    pub fn bands(&self) -> usize {
        self.bands
    }

    /// A key for each band; none of a text with fewer words than a shingle, which has no duplicates.
    pub fn signature(&self, text: &str) -> Option<Vec<u64>> {
        let shingles = n_grams(text, self.n_grams);
        if shingles.is_empty() {
            return None;
        }
        let least = |(a, b): &(u64, u64)| {
            // As datatrove has it, in 64 bits that overflow.
            let hash = |x: &u64| reduced(x.wrapping_mul(*a).wrapping_add(*b));
            shingles.iter().map(hash).min().unwrap_or(0)
        };
        let hashes: Vec<u64> = self.functions.iter().map(least).collect();
        let key = |(band, hashes): (usize, &[u64])| {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
            XxHash64::oneshot(band as u64, &bytes)
        };
        Some(hashes.chunks(self.rows).enumerate().map(key).collect())
    }
}

/// For each document the first one of its group: itself, where it stays. `key` gives the key of a document in a band, where it has one.
pub fn groups(documents: usize, bands: usize, key: impl Fn(usize, usize) -> Option<u64>) -> Vec<u32> {
    let mut first: Vec<u32> = (0..documents as u32).collect();
    for band in 0..bands {
        let mut seen: AHashMap<u64, u32> = AHashMap::new();
        for document in 0..documents {
            let Some(key) = key(document, band) else { continue };
            let other = *seen.entry(key).or_insert(document as u32);
            let (a, b) = (root(&mut first, document as u32), root(&mut first, other));
            first[a.max(b) as usize] = a.min(b);
        }
    }
    (0..documents as u32).map(|document| root(&mut first, document)).collect()
}

/// The first document of a group, with shorter ways to it from then on.
fn root(first: &mut [u32], mut document: u32) -> u32 {
    while first[document as usize] != document {
        first[document as usize] = first[first[document as usize] as usize];
        document = first[document as usize];
    }
    document
}
