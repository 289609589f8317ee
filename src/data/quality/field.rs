//! Arithmetic modulo the Mersenne prime 2^61 - 1, for hashes.

pub const PRIME: u64 = (1 << 61) - 1;

/// A number modulo the prime.
pub fn reduced(number: u64) -> u64 {
    let sum = (number & PRIME) + (number >> 61);
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// The product of two numbers below the prime, modulo it.
pub fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    reduced((product as u64 & PRIME) + (product >> 61) as u64)
}
