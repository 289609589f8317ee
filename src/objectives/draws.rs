//! Random numbers of micro-batches, so that a resumed run draws what an uninterrupted one does.

use rand::SeedableRng;
use rand_pcg::Pcg64;

/// The random numbers of micro-batch `number`: a function of the two alone. No two micro-batches of a seed share any.
pub(super) fn of_micro_batch(seed: u64, number: u64) -> Pcg64 {
    let mut random = Pcg64::seed_from_u64(seed);
    // Far more numbers than a micro-batch takes.
    random.advance(u128::from(number) << 40);
    random
}
