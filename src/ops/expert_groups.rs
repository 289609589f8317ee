//! expert_groups: sorts the choices of all tokens by expert, so that each expert's rows lie together (as in MegaBlocks, Gale et
//! al. 2022). Dropless: every choice has its row, whatever an expert's load.
//!
//!   ids (..., k) u32: each token's chosen experts; a pair is a choice of a token, and pair p is choice p % k of token p / k
//!   order (P) u32, slot 0: the pair at each row, P pairs in all    position (..., k) u32, slot 1: the row of each pair
//!   offsets (E + 1) u32, slot 2: expert e has the rows offsets[e] to offsets[e + 1]
//!   counts (blocks, E) u32, scratch
//!
//! The sort is stable and uses no atomics: a thread per expert and block of pairs counts, running sums make places of the
//! counts, and a thread per expert and block places its pairs. It has no gradient.
//! Cost: 2 P E comparisons, which is little next to the experts' matmuls.

use super::case::{Case, Draw};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;

/// order, position and offsets of the pairs sorted by expert.
#[derive(Clone, Debug)]
pub struct ExpertGroups {
    /// How many experts there are; ids are below this.
    pub experts: usize,
}

/// The outputs of [`ExpertGroups`], as other ops take them.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    pub order: Tensor,
    pub position: Tensor,
    pub offsets: Tensor,
}

impl ExpertGroups {
    pub fn apply(self, g: &mut Graph, ids: Tensor) -> Groups {
        let order = g.apply(self, &[ids]);
        let slot = |slot| Tensor { slot, ..order };
        Groups { order, position: slot(1), offsets: slot(2) }
    }
}

/// Pairs counted by one thread.
const BLOCK: usize = 256;

impl Op for ExpertGroups {
    fn name(&self) -> &'static str {
        "expert_groups"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && self.experts > 0, "expert_groups takes ids (..., k), not {inputs:?}");
        let pairs = inputs[0].len();
        let counts = Shape::u32(&[pairs.div_ceil(BLOCK), self.experts]);
        vec![Shape::u32(&[pairs]), inputs[0].clone(), Shape::u32(&[self.experts + 1]), counts]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (pairs, blocks) = (shapes.inputs[0].len(), shapes.outputs[3].rows());
        let walk = |shader: Shader| {
            Dispatch::new(shader)
                .constant("PAIRS", pairs)
                .constant("E", self.experts)
                .constant("BLOCK", BLOCK)
                .constant("BLOCKS", blocks)
                .groups(limits.fold((blocks * self.experts).div_ceil(64)))
        };
        vec![
            walk(shader!("expert_count")).read(0).write(3),
            Dispatch::new(shader!("expert_offsets"))
                .constant("E", self.experts)
                .constant("BLOCKS", blocks)
                .constant("THREADS", limits.row_threads())
                .write(3)
                .write(2),
            walk(shader!("expert_order")).read(0).read_back(3).read_back(2).write(0).write(1),
        ]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let sorted = sort(as_ids(inputs[0]), self.experts);
        for (output, words) in outputs.iter_mut().zip([sorted.order, sorted.position, sorted.offsets]) {
            output.iter_mut().zip(words).for_each(|(y, word)| *y = f32::from_bits(word));
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }

    fn scratch(&self) -> usize {
        1
    }
}

/// The outputs of [`ExpertGroups`] for a list of ids.
pub struct Sorted {
    pub order: Vec<u32>,
    pub position: Vec<u32>,
    pub offsets: Vec<u32>,
}

/// Sorts pairs by expert; those of one expert stay in their order.
pub fn sort(ids: &[u32], experts: usize) -> Sorted {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|pair| ids[*pair as usize]);
    let mut position = vec![0; ids.len()];
    for (row, pair) in order.iter().enumerate() {
        position[*pair as usize] = row as u32;
    }
    let below = |e: usize| ids.iter().filter(|id| (**id as usize) < e).count() as u32;
    Sorted { order, position, offsets: (0..=experts).map(below).collect() }
}

/// Choices for the cases of ops over groups: `top` different experts per token, an uneven load, and the last of more than two
/// experts idle.
pub fn example_ids(tokens: usize, top: usize, experts: usize) -> Vec<u32> {
    let used = if experts > 2 { experts - 1 } else { experts };
    assert!(top <= used, "{top} different experts of {used}");
    let choices = |token: usize| {
        // Squares are uneven modulo most numbers.
        let first = token * token + token / 3;
        (0..top).map(move |j| ((first + j) % used) as u32)
    };
    (0..tokens).flat_map(choices).collect()
}

const EXACT: &str = "whole numbers";

/// k choices of each token among some experts.
macro_rules! case {
    ($name:literal, $dims:expr, $experts:literal) => {
        Case {
            name: $name,
            op: || std::sync::Arc::new(ExpertGroups { experts: $experts }),
            inputs: &[(&$dims, Draw::Ids($experts))],
            gradient: false,
            position: 0,
            atol: 0.0,
            rtol: 0.0,
            reason: EXACT,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("expert_groups 1x1 of 1", [1, 1], 1),
    case!("expert_groups 1x2 of 8", [1, 2], 8),
    case!("expert_groups 3x43x2 of 8", [3, 43, 2], 8),
    case!("expert_groups 257x1 of 3", [257, 1], 3),
    case!("expert_groups 1031x4 of 130", [1031, 4], 130),
    case!("expert_groups 65601x2 of 8", [65601, 2], 8),
];
