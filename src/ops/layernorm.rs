//! layernorm: y = (x - mean) * rstd * weight + bias over the last dimension (Ba, Kiros, Hinton 2016).
//!
//!   x, y (..., C), each f32 or f16;  weight, bias (C);  stats (rows, 2): mean and rstd = 1 / sqrt(var + eps), kept for backward
//!
//! Backward, with n = (x - mean) * rstd and g = dy * weight:
//!   dx = rstd * (g - mean(g) - n * mean(g * n)),  dweight = sum over rows of dy * n,  dbias = sum over rows of dy
//! Cost: about 8 FLOPs per element forward and 16 backward; every tensor moved once at least.

use super::case::{Case, Draw};
use super::elementwise::{bytes, bytes_of};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = layernorm(x, weight, bias).
#[derive(Debug)]
pub struct LayerNorm {
    pub eps: f32,
    /// Type of y.
    pub output: Dtype,
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layernorm"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let c = inputs[0].columns();
        assert!(
            inputs.len() == 3 && c.is_multiple_of(4) && inputs[1].dims == [c] && inputs[2].dims == [c],
            "layernorm takes rows of 4, 8, .. columns, a weight and a bias, not {inputs:?}"
        );
        vec![inputs[0].with_dtype(self.output), Shape::f32(&[inputs[0].rows(), 2])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, columns) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let (x, y) = (shapes.inputs[0].dtype, self.output);
        let piece = |rows: Range<usize>| {
            Dispatch::new(shader!("layernorm"))
                .constant("ROWS", rows.len())
                .constant("C", columns)
                .constant("EPS", self.eps)
                .reducing(limits.row_threads(), limits)
                .element("X_TYPE", x)
                .element("Y_TYPE", y)
                .read_range(0, bytes_of(x, &rows, columns))
                .read(1)
                .read(2)
                .write_range(0, bytes_of(y, &rows, columns))
                .write_range(1, bytes(&rows, 2))
                .groups(limits.fold(rows.len()))
        };
        limits.row_chunks(rows, columns as u64 * 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let inputs = &g.nodes()[node].inputs;
        let (x, weight, stats) = (inputs[0], inputs[1], Tensor { node, slot: 1 });
        let backward = LayerNormBackward { frozen: !needed[1] && !needed[2], accumulate: vec![] };
        let dx = g.apply(backward, &[x, weight, stats, dy]);
        (0..3).map(|slot| needed[slot].then_some(Tensor { slot, ..dx })).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let columns = shapes.inputs[0].columns();
        for (r, row) in inputs[0].chunks(columns).enumerate() {
            let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / columns as f64;
            let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / columns as f64;
            let rstd = 1.0 / (variance + f64::from(self.eps)).sqrt();
            for (c, x) in row.iter().enumerate() {
                let n = (f64::from(*x) - mean) * rstd;
                outputs[0][r * columns + c] = (n * f64::from(inputs[1][c]) + f64::from(inputs[2][c])) as f32;
            }
            (outputs[1][2 * r], outputs[1][2 * r + 1]) = (mean as f32, rstd as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 8 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx, dweight and dbias; slots 3 and 4 are the partial sums of dweight and dbias over strips of rows.
#[derive(Clone, Debug, Default)]
pub struct LayerNormBackward {
    /// Whether weight and bias have no gradients: dx is the only output.
    pub frozen: bool,
    /// Slots that are added into the inputs from the fifth on, in this order.
    pub accumulate: Vec<usize>,
}

/// Rows summed by one thread before the second stage.
const STRIP_ROWS: usize = 64;

impl Op for LayerNormBackward {
    fn name(&self) -> &'static str {
        "layernorm_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (rows, c) = (inputs[0].rows(), inputs[0].columns());
        assert!(inputs[3].dims == inputs[0].dims, "layernorm_backward takes dy of x's shape, not {inputs:?}");
        if self.frozen {
            return vec![inputs[0].clone()];
        }
        let partial = Shape::f32(&[rows.div_ceil(STRIP_ROWS), c]);
        vec![inputs[0].clone(), Shape::f32(&[c]), Shape::f32(&[c]), partial.clone(), partial]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (rows, columns) = (shapes.inputs[0].rows(), shapes.inputs[0].columns());
        let blocks = columns.div_ceil(64);
        let (x, dy) = (shapes.inputs[0].dtype, shapes.inputs[3].dtype);
        let mut dispatches = vec![];
        for rows in limits.row_chunks(rows, columns as u64 * 4) {
            // The sums over rows come first: dx may be written over the buffers that they read.
            let parameters = (!self.frozen).then(|| {
                Dispatch::new(shader!("layernorm_backward_parameters"))
                    .constant("ROWS", rows.len())
                    .constant("C", columns)
                    .constant("STRIP_ROWS", STRIP_ROWS)
                    .constant("FIRST_STRIP", rows.start / STRIP_ROWS)
                    .element("X_TYPE", x)
                    .element("Y_TYPE", dy)
                    .read_range(0, bytes_of(x, &rows, columns))
                    .read_range(2, bytes(&rows, 2))
                    .read_range(3, bytes_of(dy, &rows, columns))
                    .write(3)
                    .write(4)
                    .groups(limits.fold(rows.len().div_ceil(STRIP_ROWS) * (columns / 4).div_ceil(64)))
            });
            dispatches.extend(parameters);
            dispatches.push(
                Dispatch::new(shader!("layernorm_backward"))
                    .constant("ROWS", rows.len())
                    .constant("C", columns)
                    .reducing(limits.row_threads(), limits)
                    .constant("ACCUMULATE", self.accumulate.contains(&0))
                    .element("X_TYPE", x)
                    .element("Y_TYPE", dy)
                    .read_range(0, bytes_of(x, &rows, columns))
                    .read(1)
                    .read_range(2, bytes(&rows, 2))
                    .read_range(3, bytes_of(dy, &rows, columns))
                    .write_range(0, bytes_of(x, &rows, columns))
                    .groups(limits.fold(rows.len())),
            );
        }
        let sums = if self.frozen { &[][..] } else { &[1, 2] };
        for &slot in sums {
            dispatches.push(
                Dispatch::new(shader!("column_sum_final"))
                    .constant("STRIPS", shapes.outputs[3].rows())
                    .constant("C", columns)
                    .constant("ACCUMULATE", self.accumulate.contains(&slot))
                    .read_back(slot + 2)
                    .write(slot)
                    .groups(limits.fold(blocks)),
            );
        }
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let columns = shapes.inputs[0].columns();
        let (x, weight, stats, dy) = (inputs[0], inputs[1], inputs[2], inputs[3]);
        let (mut dweight, mut dbias) = (vec![0.0f64; columns], vec![0.0f64; columns]);
        let add = |y: &mut f32, value: f64, slot: usize| {
            *y = if self.accumulate.contains(&slot) { *y } else { 0.0 } + value as f32;
        };
        for (r, row) in x.chunks(columns).enumerate() {
            let (mean, rstd) = (f64::from(stats[2 * r]), f64::from(stats[2 * r + 1]));
            let n = |c: usize| (f64::from(row[c]) - mean) * rstd;
            let g = |c: usize| f64::from(dy[r * columns + c]) * f64::from(weight[c]);
            let mean_g = (0..columns).map(g).sum::<f64>() / columns as f64;
            let mean_gn = (0..columns).map(|c| g(c) * n(c)).sum::<f64>() / columns as f64;
            for c in 0..columns {
                add(&mut outputs[0][r * columns + c], rstd * (g(c) - mean_g - n(c) * mean_gn), 0);
                dweight[c] += f64::from(dy[r * columns + c]) * n(c);
                dbias[c] += f64::from(dy[r * columns + c]);
            }
        }
        if self.frozen {
            return;
        }
        for c in 0..columns {
            add(&mut outputs[1][c], dweight[c], 1);
            add(&mut outputs[2][c], dbias[c], 2);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (x, dy) = (shapes.inputs[0], shapes.inputs[3]);
        let times = 2 + u64::from(self.accumulate.contains(&0));
        Cost { flops: 16 * x.len() as u64, size_bytes: times * x.size_bytes() + dy.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        self.accumulate.iter().enumerate().map(|(i, slot)| (*slot, 4 + i)).collect()
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let accumulate = self.accumulate.iter().copied().chain([slot]).collect();
        (slot < 3 && !self.accumulate.contains(&slot))
            .then(|| Arc::new(LayerNormBackward { accumulate, ..self.clone() }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        if self.frozen { 0 } else { 2 }
    }
}

const ROW: &str = "sums of C numbers near 1 in f32, divided by a standard deviation near 1; dweight sums R rows";

const HALF: &str = "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4";

/// x, weight, bias at a shape, in f32 or from f32 to f16.
macro_rules! case {
    ($name:literal, $rows:expr, $c:literal, $gradient:literal, $atol:literal) => {
        Case {
            name: $name,
            op: || Arc::new(LayerNorm { eps: 1e-5, output: Dtype::F32 }),
            inputs: &[(&$rows, Draw::Uniform(2.0)), (&[$c], Draw::Between(0.5, 1.5)), (&[$c], Draw::Uniform(1.0))],
            gradient: $gradient,
            position: 0,
            atol: $atol,
            rtol: 4e-6,
            reason: ROW,
        }
    };
    ($name:literal, $rows:expr, $c:literal, $draw:expr, $output:expr) => {
        Case {
            name: $name,
            op: || Arc::new(LayerNorm { eps: 1e-5, output: $output }),
            inputs: &[(&$rows, $draw), (&[$c], Draw::Between(0.5, 1.5)), (&[$c], Draw::Uniform(1.0))],
            gradient: true,
            position: 0,
            atol: 1e-4,
            rtol: 1e-3,
            reason: HALF,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("layernorm 1x4", [1, 4], 4, true, 2e-5),
    case!("layernorm 3x5x68", [3, 5, 68], 68, true, 1e-5),
    case!("layernorm 67x128", [67, 128], 128, true, 1e-5),
    case!("layernorm 2x1600", [2, 1600], 1600, true, 1e-5),
    case!("layernorm to f16, 3x5x68", [3, 5, 68], 68, Draw::Uniform(2.0), Dtype::F16),
    case!("layernorm from f16, 67x132", [67, 132], 132, Draw::Half(2.0), Dtype::F16),
    case!("layernorm 65601x8", [65601, 8], 8, false, 2e-5),
    case!("layernorm, beyond one binding: 3147x768", [3147, 768], 768, false, 2e-5),
];
