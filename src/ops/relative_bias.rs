//! relative_bias: attention's bias by head and distance from a table by bucket and head, as in T5: Raffel et al. 2020, section
//! 2.1. bias[h, d] = table[bucket(relative position of d), h]
//!
//!   table (buckets, NH), f32;  bias (NH, TQ + TK - 1), element j - i + TQ - 1 for query i and key j, which the last query standing
//!   at the last key puts at the relative position d - (TK - 1)
//!
//! The first half of the buckets of a side hold one distance each, the others ranges whose ends grow logarithmically up to
//! `max_distance`; the last holds all beyond. With `bidirectional`, half of the buckets are for keys after the query; without,
//! those keys count as at distance 0.
//! Backward adds the distances of a bucket in order. Cost: table and bias are moved once.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::op::Constant;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// bias = table by buckets of distances.
#[derive(Clone, Debug)]
pub struct RelativeBias {
    pub queries: usize,
    pub keys: usize,
    /// `relative_attention_num_buckets` of T5.
    pub buckets: usize,
    /// `relative_attention_max_distance`.
    pub max_distance: usize,
    /// Whether keys after the query have buckets of their own: in encoders.
    pub bidirectional: bool,
}

impl RelativeBias {
    /// Buckets for one sign of the relative position.
    fn side(&self) -> usize {
        if self.bidirectional { self.buckets / 2 } else { self.buckets }
    }

    fn distances(&self) -> usize {
        self.queries + self.keys - 1
    }

    /// The bucket of a relative position: that of the key less that of the query. f32 as in transformers.
    pub fn bucket(&self, relative: i64) -> usize {
        let (side, after) = (self.side(), self.bidirectional && relative > 0);
        let length = if after { relative } else { (-relative).max(0) } as usize;
        let exact = side / 2;
        let bucket = if length < exact {
            length
        } else {
            let ratio = (self.max_distance as f64 / exact as f64).ln() as f32;
            let log = (length as f32 / exact as f32).ln() / ratio;
            (exact + (log * (side - exact) as f32) as usize).min(side - 1)
        };
        bucket + usize::from(after) * side
    }

    /// The smallest distance of each bucket of a side; no distance for those that are empty at the end.
    fn starts(&self) -> Arc<[f32]> {
        let most = self.distances() as i64;
        let start = |n: usize| (0..most).find(|length| self.bucket(-length) >= n).unwrap_or(most) as f32;
        (0..self.side()).map(start).collect()
    }

    fn constants(&self, shader: Shader, len: usize, heads: usize, limits: &Limits) -> Dispatch {
        elementwise(shader, len, limits)
            .constant("NH", heads)
            .constant("KEYS", self.keys)
            .constant("DISTANCES", self.distances())
            .constant("SIDE", self.side())
            .constant("BOTH", self.bidirectional)
            .constant("STARTS", Constant::Table(self.starts()))
    }

    /// The bucket of each distance.
    fn bucket_of(&self, distance: usize) -> usize {
        self.bucket(distance as i64 - (self.keys as i64 - 1))
    }
}

impl Op for RelativeBias {
    fn name(&self) -> &'static str {
        "relative_bias"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].dims.len() == 2 && inputs[0].dims[0] == self.buckets;
        assert!(fits, "relative_bias takes a table of {} buckets by heads, not {inputs:?}", self.buckets);
        let exact = self.side() / 2;
        let whole = exact > 0 && self.side() * self.buckets.div_ceil(self.side()) == self.buckets;
        assert!(whole && self.max_distance > exact, "relative_bias cannot share out buckets: {self:?}");
        assert!(self.queries > 0 && self.keys > 0, "relative_bias of no distance: {self:?}");
        vec![Shape::f32(&[inputs[0].dims[1], self.distances()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let heads = shapes.outputs[0].dims[0];
        let d = self.constants(shader!("relative_bias"), shapes.outputs[0].len(), heads, limits);
        vec![d.read(0).write(0)]
    }

    fn vjp(&self, g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(RelativeBiasBackward { forward: self.clone() }, &[dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let heads = shapes.outputs[0].dims[0];
        for (i, to) in outputs[0].iter_mut().enumerate() {
            let (head, distance) = (i / self.distances(), i % self.distances());
            *to = inputs[0][self.bucket_of(distance) * heads + head];
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: shapes.size_bytes() }
    }
}

/// dtable from dbias.
#[derive(Clone, Debug)]
pub struct RelativeBiasBackward {
    pub forward: RelativeBias,
}

impl Op for RelativeBiasBackward {
    fn name(&self) -> &'static str {
        "relative_bias_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].columns() == self.forward.distances();
        assert!(fits, "relative_bias_backward takes the gradient of a bias, not {inputs:?}");
        vec![Shape::f32(&[self.forward.buckets, inputs[0].dims[0]])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let heads = shapes.inputs[0].dims[0];
        let len = shapes.outputs[0].len();
        let d = self.forward.constants(shader!("relative_bias_backward"), len, heads, limits);
        vec![d.read(0).write(0)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let heads = shapes.inputs[0].dims[0];
        let mut sums = vec![0.0f64; outputs[0].len()];
        for (i, d) in inputs[0].iter().enumerate() {
            let (head, distance) = (i / self.forward.distances(), i % self.forward.distances());
            sums[self.forward.bucket_of(distance) * heads + head] += f64::from(*d);
        }
        outputs[0].iter_mut().zip(sums).for_each(|(to, sum)| *to = sum as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

macro_rules! case {
    ($name:literal, $queries:literal, $keys:literal, $buckets:literal, $most:literal, $both:literal) => {
        Case {
            name: $name,
            op: || {
                let (queries, keys, buckets, max_distance) = ($queries, $keys, $buckets, $most);
                Arc::new(RelativeBias { queries, keys, buckets, max_distance, bidirectional: $both })
            },
            inputs: &[(&[$buckets, 3], Draw::Uniform(1.0))],
            gradient: true,
            position: 0,
            atol: 1e-4,
            rtol: 1e-6,
            reason: "the bias is copied; up to 700 numbers below 1 are added in f32, each sum off by up to 6e-8 of one below 40",
        }
    };
}

pub const CASES: &[Case] = &[
    case!("relative_bias as in T5's encoder, 150 queries and keys", 150, 150, 32, 128, true),
    case!("relative_bias as in T5's decoder, 300 queries and keys", 300, 300, 32, 128, false),
    case!("relative_bias of 3 queries after 400 keys, both sides", 3, 400, 32, 128, true),
    case!("relative_bias of 70 queries and 9 keys, one side of 6 buckets", 70, 9, 6, 20, false),
    case!("relative_bias of one query and key", 1, 1, 4, 3, true),
];
