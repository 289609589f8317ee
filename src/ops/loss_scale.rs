//! loss_scale: the seed of a backward pass in mixed precision, a factor times the loss scale that the device keeps.
//!
//!   report (8) of the step before;  seed (1) = factor * scale, where a scale of 0 is one that is not set yet
//!
//! Small gradients are 0 in f16. A loss that is scaled up scales all gradients, and the update divides by as much (Micikevicius
//! et al. 2018, "Mixed Precision Training", section 3.2). The scale is in the report: [`super::global_norm`] halves it where a
//! gradient is not finite, and leaves the step out, and doubles it after some steps that were fine, as torch.amp.GradScaler does.
//! Cost: nothing worth counting.

use super::case::{Case, Draw};
use super::global_norm::report;
use crate::graph::{Cost, Dispatch, Limits, Op, Shape, Shapes, Step};
use crate::shader;
use std::sync::Arc;

/// The scale before anything is known.
pub const INITIAL: f32 = 65536.0;
/// Bounds of the scale.
pub const LEAST: f32 = 1.0;
pub const MOST: f32 = 16_777_216.0;

/// Fine steps after which the scale doubles, as in torch.amp.GradScaler.
pub const GROW_AFTER: u32 = 2000;

/// The scale that a report's word means.
pub fn scale_of(word: f32) -> f32 {
    if word > 0.0 { word } else { INITIAL }
}

/// seed = factor * scale.
#[derive(Debug)]
pub struct LossScale {
    pub factor: f32,
}

impl Op for LossScale {
    fn name(&self) -> &'static str {
        "loss_scale"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 1 && inputs[0].len() >= report::LEN, "loss_scale takes a report, not {inputs:?}");
        vec![Shape::f32(&[1])]
    }

    fn dispatch(&self, _shapes: &Shapes, _limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("loss_scale")).constant("FACTOR", self.factor).constant("WORD", report::SCALE);
        vec![d.constant("INITIAL", INITIAL).read(0).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0][0] = self.factor * scale_of(inputs[0][report::SCALE]);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 1, size_bytes: shapes.size_bytes() }
    }
}

const EXACT: &str = "one multiplication, the same on both sides";

pub const CASES: &[Case] = &[
    Case {
        name: "loss_scale of 0.5",
        op: || Arc::new(LossScale { factor: 0.25 }),
        inputs: &[(&[report::LEN], Draw::Report)],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 1e-7,
        reason: EXACT,
    },
    Case {
        name: "loss_scale that is not set yet",
        op: || Arc::new(LossScale { factor: 0.25 }),
        inputs: &[(&[report::LEN], Draw::Between(-1.0, 0.0))],
        gradient: false,
        position: 0,
        atol: 0.0,
        rtol: 1e-7,
        reason: EXACT,
    },
];
