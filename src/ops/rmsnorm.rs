//! rmsnorm: y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), of whole rows or of each head in them (Zhang and
//! Sennrich 2019).
//!
//!   x, y (..., groups * C), each f32 or f16;  weight (C);  rstd (rows, normalised groups), kept for backward
//!
//! Backward, with n = x * rstd and g = dy * weight:
//!   dx = rstd * (g - n * mean(g * n)),  dweight = sum over all groups of dy * n
//! Cost: about 4 FLOPs per element forward and 10 backward; every tensor moved once at least.

use super::case::{Case, Draw};
use super::elementwise::{bytes, bytes_of};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::ops::Range;
use std::sync::Arc;

/// y = rmsnorm(x, weight).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub eps: f32,
    /// Which groups of `weight`'s length in a row are normalised, such as the heads of q in q | k | v; the others are copied.
    /// All of them if `None`.
    pub groups: Option<Range<usize>>,
    /// Type of y.
    pub output: Dtype,
}

/// Sizes of the tensors.
struct Size {
    rows: usize,
    /// Groups of a row, and those that are normalised.
    groups: usize,
    normalised: Range<usize>,
    /// Columns of a group.
    c: usize,
}

impl RmsNorm {
    /// Panics unless `weight` divides the rows of `x`.
    fn size(&self, x: &Shape, weight: &Shape) -> Size {
        let c = weight.len();
        let fits = weight.dims == [c] && c > 0 && c.is_multiple_of(4) && x.columns().is_multiple_of(c);
        assert!(fits, "rmsnorm takes a weight of 4, 8, .. columns that divides rows, not {weight:?} for {x:?}");
        let groups = x.columns() / c;
        let normalised = self.groups.clone().unwrap_or(0..groups);
        assert!(
            !normalised.is_empty() && normalised.end <= groups,
            "rmsnorm of groups {normalised:?} does not fit {groups} groups of {c} columns in {x:?}"
        );
        Size { rows: x.rows(), groups, normalised, c }
    }
}

impl Size {
    /// The part that both kernels over groups share, for the rows `rows`.
    fn kernel(&self, shader: crate::graph::Shader, rows: &Range<usize>, limits: &Limits) -> Dispatch {
        let threads = limits.row_threads().min((self.c as u32 / 4).next_power_of_two());
        self.constants(Dispatch::new(shader), rows)
            .reducing(threads, limits)
            .groups(limits.fold(rows.len() * self.groups))
    }

    fn constants(&self, dispatch: Dispatch, rows: &Range<usize>) -> Dispatch {
        dispatch
            .constant("ROWS", rows.len())
            .constant("GROUPS", self.groups)
            .constant("FIRST", self.normalised.start)
            .constant("COUNT", self.normalised.len())
            .constant("C", self.c)
    }

    fn columns(&self) -> usize {
        self.groups * self.c
    }

    fn strips(&self) -> usize {
        (self.rows * self.normalised.len()).div_ceil(STRIP_ROWS)
    }

    /// The place in rstd of the `i`-th group of x, if it is normalised.
    fn statistic(&self, i: usize) -> Option<usize> {
        let group = i % self.groups;
        self.normalised
            .contains(&group)
            .then(|| i / self.groups * self.normalised.len() + group - self.normalised.start)
    }
}

impl Op for RmsNorm {
    fn name(&self) -> &'static str {
        "rmsnorm"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        assert!(inputs.len() == 2, "rmsnorm takes x and weight, not {inputs:?}");
        let size = self.size(inputs[0], inputs[1]);
        vec![inputs[0].with_dtype(self.output), Shape::f32(&[size.rows, size.normalised.len()])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.size(shapes.inputs[0], shapes.inputs[1]);
        let (x, y) = (shapes.inputs[0].dtype, self.output);
        let piece = |rows: Range<usize>| {
            size.kernel(shader!("rmsnorm"), &rows, limits)
                .constant("EPS", self.eps)
                .element("X_TYPE", x)
                .element("Y_TYPE", y)
                .read_range(0, bytes_of(x, &rows, size.columns()))
                .read(1)
                .write_range(0, bytes_of(y, &rows, size.columns()))
                .write_range(1, bytes(&rows, size.normalised.len()))
        };
        limits.row_chunks(size.rows, size.columns() as u64 * 4).into_iter().map(piece).collect()
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let inputs = &g.nodes()[node].inputs;
        let (x, weight, rstd) = (inputs[0], inputs[1], Tensor { node, slot: 1 });
        let backward = RmsNormBackward { forward: self.clone(), frozen: !needed[1], accumulate: vec![] };
        let dx = g.apply(backward, &[x, weight, rstd, dy]);
        (0..2).map(|slot| needed[slot].then_some(Tensor { slot, ..dx })).collect()
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let size = self.size(shapes.inputs[0], shapes.inputs[1]);
        for (i, x) in inputs[0].chunks(size.c).enumerate() {
            let y = &mut outputs[0][i * size.c..][..size.c];
            let Some(statistic) = size.statistic(i) else {
                y.copy_from_slice(x);
                continue;
            };
            let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let rstd = 1.0 / (squares / size.c as f64 + f64::from(self.eps)).sqrt();
            for (c, y) in y.iter_mut().enumerate() {
                *y = (f64::from(x[c]) * rstd * f64::from(inputs[1][c])) as f32;
            }
            outputs[1][statistic] = rstd as f32;
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 4 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx and dweight; slot 2 holds the partial sums of dweight over strips of groups. dx alone where the weight is frozen.
#[derive(Clone, Debug)]
pub struct RmsNormBackward {
    pub forward: RmsNorm,
    /// Whether the weight has no gradient.
    pub frozen: bool,
    /// Slots that are added into the inputs from the fifth on, in this order.
    pub accumulate: Vec<usize>,
}

/// Groups summed by one thread before the second stage.
const STRIP_ROWS: usize = 64;

impl Op for RmsNormBackward {
    fn name(&self) -> &'static str {
        "rmsnorm_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let size = self.forward.size(inputs[0], inputs[1]);
        assert!(inputs[3].dims == inputs[0].dims, "rmsnorm_backward takes dy of x's shape, not {inputs:?}");
        match self.frozen {
            true => vec![inputs[0].clone()],
            false => vec![inputs[0].clone(), inputs[1].clone(), Shape::f32(&[size.strips(), size.c])],
        }
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let size = self.forward.size(shapes.inputs[0], shapes.inputs[1]);
        let (columns, count) = (size.columns(), size.normalised.len());
        let (x, dy) = (shapes.inputs[0].dtype, shapes.inputs[3].dtype);
        let mut dispatches = vec![];
        for rows in limits.row_chunks(size.rows, columns as u64 * 4) {
            // The sums over rows come first: dx may be written over the buffers that they read.
            let strips = (rows.len() * count).div_ceil(STRIP_ROWS);
            let parameters = (!self.frozen).then(|| {
                size.constants(Dispatch::new(shader!("rmsnorm_backward_parameters")), &rows)
                    .constant("STRIP_ROWS", STRIP_ROWS)
                    .constant("FIRST_STRIP", rows.start * count / STRIP_ROWS)
                    .element("X_TYPE", x)
                    .element("Y_TYPE", dy)
                    .read_range(0, bytes_of(x, &rows, columns))
                    .read_range(2, bytes(&rows, count))
                    .read_range(3, bytes_of(dy, &rows, columns))
                    .write(2)
                    .groups(limits.fold(strips * (size.c / 4).div_ceil(64)))
            });
            dispatches.extend(parameters);
            dispatches.push(
                size.kernel(shader!("rmsnorm_backward"), &rows, limits)
                    .constant("ACCUMULATE", self.accumulate.contains(&0))
                    .element("X_TYPE", x)
                    .element("Y_TYPE", dy)
                    .read_range(0, bytes_of(x, &rows, columns))
                    .read(1)
                    .read_range(2, bytes(&rows, count))
                    .read_range(3, bytes_of(dy, &rows, columns))
                    .write_range(0, bytes_of(x, &rows, columns)),
            );
        }
        dispatches.extend((!self.frozen).then(|| {
            Dispatch::new(shader!("column_sum_final"))
                .constant("STRIPS", size.strips())
                .constant("C", size.c)
                .constant("ACCUMULATE", self.accumulate.contains(&1))
                .read_back(2)
                .write(1)
                .groups(limits.fold(size.c.div_ceil(64)))
        }));
        dispatches
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let size = self.forward.size(shapes.inputs[0], shapes.inputs[1]);
        let mut dweight = vec![0.0f64; size.c];
        let add = |y: &mut f32, value: f64, slot: usize| {
            *y = if self.accumulate.contains(&slot) { *y } else { 0.0 } + value as f32;
        };
        for (i, (x, dy)) in inputs[0].chunks(size.c).zip(inputs[3].chunks(size.c)).enumerate() {
            let dx = &mut outputs[0][i * size.c..][..size.c];
            let Some(statistic) = size.statistic(i) else {
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| add(dx, f64::from(*dy), 0));
                continue;
            };
            let rstd = f64::from(inputs[2][statistic]);
            let n = |c: usize| f64::from(x[c]) * rstd;
            let g = |c: usize| f64::from(dy[c]) * f64::from(inputs[1][c]);
            let mean_gn = (0..size.c).map(|c| g(c) * n(c)).sum::<f64>() / size.c as f64;
            for c in 0..size.c {
                add(&mut dx[c], rstd * (g(c) - n(c) * mean_gn), 0);
                dweight[c] += f64::from(dy[c]) * n(c);
            }
        }
        if !self.frozen {
            outputs[1].iter_mut().zip(dweight).for_each(|(y, value)| add(y, value, 1));
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let (x, dy) = (shapes.inputs[0], shapes.inputs[3]);
        let times = 2 + u64::from(self.accumulate.contains(&0));
        Cost { flops: 10 * x.len() as u64, size_bytes: times * x.size_bytes() + dy.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        self.accumulate.iter().enumerate().map(|(i, slot)| (*slot, 4 + i)).collect()
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let accumulate = self.accumulate.iter().copied().chain([slot]).collect();
        (slot < 2 && !self.accumulate.contains(&slot))
            .then(|| Arc::new(RmsNormBackward { accumulate, ..self.clone() }) as Arc<dyn Op>)
    }

    fn scratch(&self) -> usize {
        usize::from(!self.frozen)
    }
}

const ROW: &str = "sums of C numbers near 1 in f32, divided by their root mean square near 1; dweight sums R rows";

const HALF: &str = "nearly the same f32 may round to either of two neighbours in f16, which differ by up to 9.8e-4";

/// x and weight at a shape, in f32 or to f16.
macro_rules! case {
    ($name:literal, $groups:expr, $rows:expr, $c:literal, $gradient:literal, $atol:literal) => {
        Case {
            name: $name,
            op: || Arc::new(RmsNorm { eps: 1e-5, groups: $groups, output: Dtype::F32 }),
            inputs: &[(&$rows, Draw::Uniform(2.0)), (&[$c], Draw::Between(0.5, 1.5))],
            gradient: $gradient,
            position: 0,
            atol: $atol,
            rtol: 4e-6,
            reason: ROW,
        }
    };
    ($name:literal, $groups:expr, $rows:expr, $c:literal, $draw:expr) => {
        Case {
            name: $name,
            op: || Arc::new(RmsNorm { eps: 1e-5, groups: $groups, output: Dtype::F16 }),
            inputs: &[(&$rows, $draw), (&[$c], Draw::Between(0.5, 1.5))],
            gradient: true,
            position: 0,
            atol: 1e-4,
            rtol: 1e-3,
            reason: HALF,
        }
    };
}

pub const CASES: &[Case] = &[
    case!("rmsnorm 1x4", None, [1, 4], 4, true, 2e-5),
    case!("rmsnorm 3x5x68", None, [3, 5, 68], 68, true, 1e-5),
    case!("rmsnorm 67x260", None, [67, 260], 260, true, 1e-5),
    case!("rmsnorm 2x2048", None, [2, 2048], 2048, true, 1e-5),
    case!("rmsnorm of 5 heads of 12, 27 rows", None, [27, 60], 12, true, 1e-5),
    case!("rmsnorm of heads 2 to 4 of 6 heads of 16, 3x43 rows", Some(2..5), [3, 43, 96], 16, true, 1e-5),
    case!("rmsnorm to f16, 3x5x68", None, [3, 5, 68], 68, Draw::Uniform(2.0)),
    case!("rmsnorm of f16 heads 2 to 4 of 6 heads of 16, 3x43 rows", Some(2..5), [3, 43, 96], 16, Draw::Half(2.0)),
    case!("rmsnorm, SmolLM2's 128x576", None, [1, 128, 576], 576, true, 2e-5),
    case!("rmsnorm 65601x8", None, [65601, 8], 8, false, 2e-5),
    case!("rmsnorm, beyond one binding: 3147x768, the last 4 of 12 heads", Some(8..12), [3147, 768], 64, false, 2e-5),
];
