//! The values that parameters start from.

use rand::SeedableRng;
use rand_distr::{Distribution, Normal, Uniform};
use rand_pcg::Pcg64;

use crate::graph::{Initial, Parameter};

/// A parameter's initial values. Each tensor has a random stream of its own under `seed`, picked by its name.
pub fn initial_values(parameter: &Parameter, seed: u64) -> Vec<f32> {
    let len = parameter.len();
    // FNV-1a of the name picks the stream.
    let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    let stream = parameter.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, fnv);
    let mut rng = Pcg64::seed_from_u64(seed ^ stream);
    match parameter.initial {
        Initial::Zeros => vec![0.0; len],
        Initial::Ones => vec![1.0; len],
        Initial::Normal { std } => {
            let normal = normal(std);
            (0..len).map(|_| normal.sample(&mut rng) as f32).collect()
        }
        Initial::Thirds { stds } => {
            let normals = stds.map(normal);
            (0..len).map(|i| normals[i / (len / 3)].sample(&mut rng) as f32).collect()
        }
        Initial::Uniform { bound } => {
            let uniform = Uniform::new_inclusive(-bound, bound).expect("a finite bound");
            (0..len).map(|_| uniform.sample(&mut rng) as f32).collect()
        }
    }
}

fn normal(std: f64) -> Normal<f64> {
    Normal::new(0.0, std).expect("a finite standard deviation")
}
