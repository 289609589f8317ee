//! kto_loss: the loss of completions that are each desirable or not, from their log-probabilities and those of a reference: "KTO: Model
//! Alignment as Prospect Theoretic Optimization" (Ethayarajh et al. 2024, section 4.1).
//!
//!   log_probs (B): of completions;  mismatched (B): of completions after prompts of other rows;  reference (2, B): of the same two
//!   labels y (B): 1 desirable, -1 undesirable, 0 leaves a row out
//!   n = the rows that are not left out;  r = log_probs - reference_0
//!   kl (1) = z = max(0, sum_b |y_b| (mismatched_b - reference_1b) / n)
//!   loss (1) = sum_b |y_b| w_b (1 - s(y_b beta (r_b - z))) / n, w_b the weight of rows of that label
//!   rewards (B) = beta r;  count (1): n, kept for backward
//!
//! z carries no gradient, as in the paper. Backward: dlog_probs_b = -y_b w_b beta s(x) s(-x) dloss / n, x = y_b beta (r_b - z).
//! Cost: some 20 FLOPs a row.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// The mean loss of completions.
#[derive(Clone, Copy, Debug)]
pub struct KtoLoss {
    pub beta: f32,
    /// Weights of desirable and of undesirable completions.
    pub desirable: f32,
    pub undesirable: f32,
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl KtoLoss {
    /// The kernels' constants.
    fn constants(&self, d: Dispatch) -> Dispatch {
        d.constant("BETA", self.beta).constant("DESIRABLE", self.desirable).constant("UNDESIRABLE", self.undesirable)
    }

    /// The factor of a row's loss: 0 where it is left out.
    fn weight(&self, label: f32) -> f64 {
        f64::from(label.abs() * if label > 0.0 { self.desirable } else { self.undesirable })
    }
}

impl Op for KtoLoss {
    fn name(&self) -> &'static str {
        "kto_loss"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let rows = inputs[0].len();
        let fits = inputs.len() == 4 && inputs.iter().zip([1, 1, 2, 1]).all(|(shape, each)| shape.len() == each * rows);
        assert!(fits, "kto_loss takes two log-probabilities, two references and a label for each row, not {inputs:?}");
        vec![Shape::f32(&[1]), Shape::f32(&[1]), Shape::f32(&[rows]), Shape::f32(&[1])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(shader!("kto_loss"))
            .constant("ROWS", shapes.inputs[0].len())
            .constant("THREADS", limits.row_threads());
        let d = (0..4).fold(self.constants(d), |d, input| d.read(input));
        vec![(0..4).fold(d, |d, output| d.write(output))]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [log_probs, _, reference, labels] = g.nodes()[node].inputs[..] else { unreachable!("four inputs") };
        let [kl, count] = [1, 3].map(|slot| Tensor { node, slot });
        let inputs = [log_probs, reference, labels, kl, count, dy];
        vec![needed[0].then(|| g.apply(KtoLossBackward(*self), &inputs)), None, None, None]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let [log_probs, mismatched, reference, labels] = inputs[..] else { unreachable!("four inputs") };
        let (own, others) = reference.split_at(labels.len());
        let ratio = |of: &[f32], reference: &[f32], row: usize| f64::from(of[row]) - f64::from(reference[row]);
        let rows = 0..labels.len();
        let count: f64 = labels.iter().map(|label| f64::from(label.abs())).sum::<f64>().max(1.0);
        let of_others = rows.clone().map(|row| f64::from(labels[row].abs()) * ratio(mismatched, others, row));
        let kl = (of_others.sum::<f64>() / count).max(0.0);
        let mut loss = 0.0;
        for row in rows {
            let reward = f64::from(self.beta) * ratio(log_probs, own, row);
            let x = f64::from(labels[row]) * (reward - f64::from(self.beta) * kl);
            loss += self.weight(labels[row]) * sigmoid(-x);
            outputs[2][row] = reward as f32;
        }
        (outputs[0][0], outputs[1][0], outputs[3][0]) = ((loss / count) as f32, kl as f32, count as f32);
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dlog_probs.
#[derive(Debug)]
pub struct KtoLossBackward(KtoLoss);

impl Op for KtoLossBackward {
    fn name(&self) -> &'static str {
        "kto_loss_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let d = elementwise(shader!("kto_loss_backward"), shapes.inputs[0].len(), limits);
        vec![(0..6).fold(self.0.constants(d), |d, input| d.read(input)).write(0)]
    }

    fn reference(&self, _shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let [log_probs, reference, labels, kl, count, dloss] = inputs[..] else { unreachable!("six inputs") };
        let beta = f64::from(self.0.beta);
        let scale = beta * f64::from(dloss[0]) / f64::from(count[0]);
        for (row, d) in outputs[0].iter_mut().enumerate() {
            let label = f64::from(labels[row]);
            let x = label * beta * (f64::from(log_probs[row]) - f64::from(reference[row]) - f64::from(kl[0]));
            *d = (-label * self.0.weight(labels[row]) * sigmoid(x) * sigmoid(-x) * scale) as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 20 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

const SUM: &str = "exponentials of numbers below 4, up to 67 of them summed in another order";

/// A case of some weights.
const fn case(name: &'static str, op: fn() -> Arc<dyn Op>, inputs: &'static [(&'static [usize], Draw)]) -> Case {
    Case { name, op, inputs, gradient: true, position: 0, atol: 2e-6, rtol: 4e-6, reason: SUM }
}

pub const CASES: &[Case] = &[
    case(
        "kto_loss of 67",
        || Arc::new(KtoLoss { beta: 0.3, desirable: 1.0, undesirable: 1.0 }),
        &[
            (&[67], Draw::Uniform(3.0)),
            (&[67], Draw::Between(-2.0, 3.0)),
            (&[2, 67], Draw::Uniform(3.0)),
            (&[67], Draw::Whole(1)),
        ],
    ),
    case(
        "kto_loss with weights",
        || Arc::new(KtoLoss { beta: 0.5, desirable: 1.5, undesirable: 0.75 }),
        &[
            (&[7], Draw::Uniform(3.0)),
            (&[7], Draw::Between(2.0, 4.0)),
            (&[2, 7], Draw::Uniform(1.0)),
            (&[7], Draw::Whole(1)),
        ],
    ),
    case(
        "kto_loss with an estimate below 0",
        || Arc::new(KtoLoss { beta: 0.4, desirable: 1.0, undesirable: 2.0 }),
        &[
            (&[5], Draw::Uniform(3.0)),
            (&[5], Draw::Between(-4.0, -2.0)),
            (&[2, 5], Draw::Uniform(1.0)),
            (&[5], Draw::Whole(1)),
        ],
    ),
];
