//! The values that parameters start from.

use rand::SeedableRng;
use rand_distr::{Distribution, Normal};
use rand_pcg::Pcg64;

use super::config::Config;

/// GPT-2's initial values of one parameter, for every family: normal with standard deviation `std` (0.02 in GPT-2), the
/// projections onto the residual stream scaled by 1 / sqrt(2 * layers), biases 0, norms' weights 1. Each tensor has a stream
/// of its own under `seed`.
pub fn initial_values(config: &Config, name: &str, len: usize, std: f32, seed: u64) -> Vec<f32> {
    if name.ends_with(".bias") {
        return vec![0.0; len];
    }
    if name.contains("ln_") || name.ends_with("norm.weight") {
        return vec![1.0; len];
    }
    let onto_residual = ["c_proj.weight", "o_proj.weight", "down_proj.weight"].iter().any(|end| name.ends_with(end));
    let scale = if onto_residual { 1.0 / (2.0 * config.layers as f64).sqrt() } else { 1.0 };
    let normal = Normal::new(0.0, f64::from(std) * scale).expect("a finite standard deviation");
    // FNV-1a of the name picks the stream.
    let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Pcg64::seed_from_u64(seed ^ stream);
    (0..len).map(|_| normal.sample(&mut rng) as f32).collect()
}
