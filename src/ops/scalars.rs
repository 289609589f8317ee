//! scalars: the named numbers that an objective reports, summed over a step's micro-batches and published with its report.
//!
//! [`AddScalar`]:      value (1);  sums (n), in place: sums[index] += value
//! [`ReportScalars`]:  report (8 + n), in place, whose words from 8 on become sums / micro-batches * growth;  sums (n), in place, set to 0
//!
//! Cost: next to nothing.

use super::case::{Case, Draw};
use super::global_norm::report;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// Scalars of an objective, at most.
pub const MOST_SCALARS: usize = 64;

/// sums[index] += value.
#[derive(Debug)]
pub struct AddScalar {
    pub index: usize,
}

impl Op for AddScalar {
    fn name(&self) -> &'static str {
        "add_scalar"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 2 && inputs[0].len() == 1 && self.index < inputs[1].len();
        assert!(fits, "add_scalar {} does not fit {inputs:?}", self.index);
        vec![inputs[1].clone()]
    }

    fn dispatch(&self, _shapes: &Shapes, _limits: &Limits) -> Vec<Dispatch> {
        vec![Dispatch::new(shader!("add_scalar")).constant("INDEX", self.index).read(0).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0][self.index] += inputs[0][0];
    }

    fn cost(&self, _shapes: &Shapes) -> Cost {
        Cost { flops: 1, size_bytes: 12 }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 1)]
    }
}

/// The means of the sums, as words of the report.
#[derive(Debug)]
pub struct ReportScalars {
    pub micro_batches: usize,
}

impl Op for ReportScalars {
    fn name(&self) -> &'static str {
        "report_scalars"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let [report, sums] = inputs else { panic!("report_scalars takes a report and sums, not {inputs:?}") };
        let fits = report.len() == report::LEN + sums.len() && sums.len() <= MOST_SCALARS;
        assert!(fits, "report_scalars does not fit {inputs:?}");
        vec![(*report).clone(), (*sums).clone()]
    }

    fn dispatch(&self, shapes: &Shapes, _limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("report_scalars")).constant("N", shapes.inputs[1].len());
        vec![d.constant("FIRST", report::LEN).constant("MICRO_BATCHES", self.micro_batches).write(0).write(1).step()]
    }

    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step) {
        let [report, sums] = outputs else { unreachable!("report_scalars has two outputs") };
        for (word, sum) in report[report::LEN..].iter_mut().zip(sums) {
            *word = std::mem::take(sum) / self.micro_batches as f32 * step.growth;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.inputs[1].len() as u64, size_bytes: 3 * shapes.inputs[1].size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![(0, 0), (1, 1)]
    }
}

pub const CASES: &[Case] = &[
    Case {
        name: "add_scalar 2 of 5",
        op: || Arc::new(AddScalar { index: 2 }),
        inputs: &[(&[1], Draw::Uniform(1.0)), (&[5], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 1e-7,
        reason: "one addition, the same on both sides",
    },
    Case {
        name: "report_scalars of 3",
        op: || Arc::new(ReportScalars { micro_batches: 3 }),
        inputs: &[(&[report::LEN + 3], Draw::Report), (&[3], Draw::Uniform(1.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 2.5e-7,
        reason: "one division, which WGSL lets be off by 2.5 units in the last place",
    },
];
