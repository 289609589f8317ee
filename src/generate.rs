//! Generation: next-token logits from the full forward pass, and how a token is chosen from them.

use crate::error::Result;
use crate::executor::{Executor, Program};
use crate::graph::{Graph, Plan, Shape, Step, Tensor};
use crate::models::config::Gpt2Config;
use crate::models::folder::Weights;
use crate::models::gpt2::Gpt2;
use crate::models::upload::upload;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// Tokens that the smallest program sees.
const SHORTEST_WINDOW: usize = 16;

/// Logits of a model on a device whose store holds its parameters.
pub struct Generator {
    config: Gpt2Config,
    /// Programs for windows of growing length, made when first needed.
    windows: Vec<(usize, Program)>,
}

impl Generator {
    pub fn new(config: &Gpt2Config) -> Generator {
        Generator { config: config.clone(), windows: vec![] }
    }

    /// Writes a model's weights to the device's store.
    pub fn load(&mut self, executor: &mut dyn Executor, weights: &Weights) -> Result<()> {
        self.program(executor, self.config.context.min(SHORTEST_WINDOW))?; // allocates the store
        upload(executor, weights)
    }

    /// Logits (V) of the token after `ids`. Of more than the model's context, the last tokens that fit are seen.
    pub fn next_logits(&mut self, executor: &mut dyn Executor, ids: &[u32]) -> Result<Vec<f32>> {
        let seen = &ids[ids.len().saturating_sub(self.config.context)..];
        let window = self.config.context.min(seen.len().next_power_of_two().max(SHORTEST_WINDOW));
        let program = self.program(executor, window)?;
        // Positions after the last are causal: what stands there changes nothing before.
        let padded: Vec<u32> = seen.iter().copied().chain(std::iter::repeat(0)).take(window).collect();
        executor.write(program, "ids", bytemuck::cast_slice(&padded))?;
        let step = Step { position: seen.len() as u32 - 1, ..Step::default() };
        executor.run(program, 0, &step)?;
        executor.read(program, "logits")
    }

    /// Frees the programs' buffers.
    pub fn free(self, executor: &mut dyn Executor) {
        self.windows.into_iter().for_each(|(_, program)| executor.unload(program));
    }

    fn program(&mut self, executor: &mut dyn Executor, window: usize) -> Result<Program> {
        if let Some((_, program)) = self.windows.iter().find(|(w, _)| *w == window) {
            return Ok(*program);
        }
        let mut g = Graph::new();
        let ids = g.input("ids", Shape::u32(&[1, window]));
        let logits: Tensor = Gpt2 { config: &self.config, training: false }.next_logits(&mut g, ids);
        g.output("logits", logits);
        let plan = Plan::new(&g, executor.limits())?;
        let program = executor.load(&g, plan)?;
        self.windows.push((window, program));
        Ok(program)
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strategy {
    /// The most likely token; the smallest id of equals.
    Greedy,
    /// A random token, by softmax(logits / temperature) over the `top_k` most likely ones (all if 0).
    Sample { temperature: f32, top_k: usize },
}

/// Chooses tokens, seeded.
pub struct Sampler {
    strategy: Strategy,
    rng: Pcg64,
}

impl Sampler {
    pub fn new(strategy: Strategy, seed: u64) -> Sampler {
        Sampler { strategy, rng: Pcg64::seed_from_u64(seed) }
    }

    /// The id chosen from logits (V).
    pub fn choose(&mut self, logits: &[f32]) -> u32 {
        // Ties go to the smaller id, as the sort is stable; non-finite logits of a broken model sort last.
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |id: u32| if logits[id as usize].is_finite() { logits[id as usize] } else { f32::MIN };
        order.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)));
        match self.strategy {
            Strategy::Greedy | Strategy::Sample { temperature: 0.0, .. } => order[0],
            Strategy::Sample { temperature, top_k } => {
                let kept = if top_k == 0 { &order[..] } else { &order[..top_k.min(order.len())] };
                let largest = logit(kept[0]);
                let weight = |id: &u32| (f64::from(logit(*id) - largest) / f64::from(temperature)).exp();
                let mut left = self.rng.random_range(0.0..1.0) * kept.iter().map(weight).sum::<f64>();
                let chosen = kept.iter().find(|id| {
                    left -= weight(id);
                    left < 0.0
                });
                *chosen.unwrap_or(&kept[0])
            }
        }
    }
}
