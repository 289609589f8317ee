//! expert_load: how many rows each expert has had, counted up in a state that the host reads some steps late.
//!
//!   offsets (E + 1) u32, from [`super::expert_groups`];  load (layers, E) u32, in place
//!
//! Counts wrap and are never reset: the host takes the difference of two readings.
//! Cost: next to nothing.

use super::case::{Case, Draw};
use crate::graph::op::as_ids;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// load[layer] += the lengths of the groups.
#[derive(Debug)]
pub struct ExpertLoad {
    pub layer: usize,
}

impl Op for ExpertLoad {
    fn name(&self) -> &'static str {
        "expert_load"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [offsets, load] = inputs else { panic!("expert_load takes offsets and load, not {inputs:?}") };
        let fits = offsets.len() == load.columns() + 1 && self.layer < load.rows();
        assert!(fits, "expert_load of layer {} does not fit {inputs:?}", self.layer);
        vec![(*load).clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let experts = shapes.inputs[1].columns();
        let dispatch = Dispatch::new(shader!("expert_load"))
            .constant("E", experts)
            .constant("LAYER", self.layer)
            .read(0)
            .write(0)
            .groups(limits.fold(experts.div_ceil(64)));
        vec![dispatch]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let experts = shapes.inputs[1].columns();
        let row = &mut outputs[0][self.layer * experts..][..experts];
        for (load, ends) in row.iter_mut().zip(as_ids(inputs[0]).windows(2)) {
            *load = f32::from_bits(load.to_bits().wrapping_add(ends[1] - ends[0]));
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 0, size_bytes: 3 * shapes.inputs[0].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "expert_load of 3 experts, layer 1 of 2",
        op: || Arc::new(ExpertLoad { layer: 1 }),
        inputs: &[(&[4], Draw::Words(|| vec![0, 5, 5, 12])), (&[2, 3], Draw::Exact(1000))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: "whole numbers",
    },
    Case {
        name: "expert_load of 130 experts",
        op: || Arc::new(ExpertLoad { layer: 0 }),
        inputs: &[(&[131], Draw::Words(|| (0..131).map(|e| e * e).collect())), (&[1, 130], Draw::Exact(u32::MAX))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 0.0,
        reason: "whole numbers",
    },
];
