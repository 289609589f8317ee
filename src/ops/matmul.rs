//! matmul: C = op(A) op(B) (+ bias) (+ residual, or then GELU), or C += op(A) op(B), for all four transpositions.
//!
//!   A (..., K), or (K, M) if `ta`;  B (K, N), or (N, K) if `tb`;  bias (N);  residual, C (..., N)
//!
//! A, B and C may each be f16 (bias and residual are f32); products and sums are f32. Leading dimensions of A and C are rows.
//! With GELU, slot 1 keeps the pre-activation for backward.
//! Backward: dA = dC op(B)^T and dB = op(A)^T dC, each a matmul again, and the bias gets dC's column sums. dA is of A's type; dB,
//! a weight's gradient, is f32. Where A and B are f16, so is the dC that is multiplied.
//! Cost: 2 M N K FLOPs; every matrix moved once at least.
//!
//! B may be quantised (see `graph/quantisation.rs`): words (N, K / values of a word) if `tb`, or (K, N / values of a word), and where
//! blocks have scales those after bias and residual. It is dequantised as it is read, and has no gradient.
//!
//! Matrices larger than a binding are worked on in pieces: of M where C, or an untransposed A, is too large; of N where a
//! transposed B is; of K where a transposed A or an untransposed B is, each further piece adding to the first.

mod cases;
mod tiling;

pub use cases::CASES;

use super::cast::cast;
use super::column_sum::ColumnSum;
use super::elementwise::bytes_of;
use super::gelu::{Form, GeluBackward, gelu};
use crate::graph::op::as_ids;
use crate::graph::quantisation::{BLOCK, Quantisation};
use crate::graph::{Cost, Dispatch, Dtype, Graph, Limits, Op, Shape, Shapes, Step, Tensor, Variants};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use tiling::{Tiling, dequantising};

/// C = op(A) op(B), with an epilogue before it is stored.
#[derive(Clone, Debug, Default)]
pub struct Matmul {
    /// A is stored (K, M).
    pub ta: bool,
    /// B is stored (N, K).
    pub tb: bool,
    /// A third input (N) is added to each row.
    pub bias: bool,
    /// A further input (..., N) is added: the stream that a block's result goes back to.
    pub residual: bool,
    /// C is passed through GELU; slot 1 keeps the pre-activation. Only with a bias.
    pub gelu: Option<Form>,
    /// The last input (M, N) is added to, in place.
    pub accumulate: bool,
    /// Type of C, and of the pre-activation, unless it is added to another tensor.
    pub output: Dtype,
    /// B is quantised so; its scales, where it has some, come after bias and residual.
    pub quantisation: Option<Quantisation>,
}

/// M, N, K.
#[derive(Clone, Copy, Debug)]
struct Size {
    m: usize,
    n: usize,
    k: usize,
}

impl Size {
    /// A product of the same kind with at most `flops`: the longest sides are halved until it is.
    fn at_most(self, flops: u64) -> Size {
        let mut sides = [self.m, self.n, self.k];
        while 2 * sides.iter().map(|side| *side as u64).product::<u64>() > flops {
            let longest = (0..3).max_by_key(|i| sides[*i]).expect("three sides");
            // Even multiples of the largest tile stay whole tiles.
            sides[longest] = sides[longest].div_ceil(2).next_multiple_of(4);
        }
        Size { m: sides[0], n: sides[1], k: sides[2] }
    }
}

impl Matmul {
    fn size(&self, inputs: &[&Shape]) -> Size {
        let (a, b) = (inputs[0], inputs[1]);
        let (m, k) = if self.ta { (a.columns(), a.rows()) } else { (a.rows(), a.columns()) };
        let columns =
            self.quantisation.map_or(b.columns(), |quantisation| b.columns().saturating_mul(quantisation.per_word()));
        let (kb, n) = if self.tb { (columns, b.rows()) } else { (b.rows(), columns) };
        assert!(k == kb, "matmul of {a:?}{} and {b:?}{}: {k} is not {kb}", mark(self.ta), mark(self.tb));
        Size { m, n, k }
    }

    /// The class that a choice of tiling is made for: transpositions, alignment, type, and each size rounded up to a power of two.
    fn class(&self, shapes: &Shapes) -> String {
        let letter = |transposed| if transposed { 't' } else { 'n' };
        let Size { m, n, k } = self.size(&shapes.inputs);
        let dtype = match [0, 1].map(|operand| shapes.inputs[operand].dtype) {
            [Dtype::F16, Dtype::F32 | Dtype::U32] => " f16 by f32",
            [a, _] => a.suffix(),
        };
        let odd = if [m, n, k].iter().all(|length| length % 4 == 0) { "" } else { " odd" };
        let [m, n, k] = [m, n, k].map(usize::next_power_of_two);
        format!("matmul {}{} {m}x{n}x{k}{odd}{dtype}", letter(self.ta), letter(self.tb))
    }

    /// As [`Op::dispatch`], each kernel summing at most `depth` products, and the next adding to it: sums of tens of thousands of
    /// f32 round off less in parts. A multiple of 64.
    pub(super) fn dispatch_in_slabs(&self, shapes: &Shapes, depth: usize, limits: &Limits) -> Vec<Dispatch> {
        let size = self.size(&shapes.inputs);
        // The limit of each dimension: the longest row of a matrix whose rows it counts.
        let (a, b) = (shapes.inputs[0].row_bytes(), shapes.inputs[1].row_bytes());
        let c = size.n as u64 * shapes.outputs[0].dtype.size_bytes();
        let m_row = if self.ta { c } else { c.max(a) };
        let n_row = if self.tb { b } else { 0 };
        let k_row = match (self.ta, self.tb) {
            (true, false) => a.max(b),
            (true, true) => a,
            (false, false) => b,
            (false, true) => 0,
        };
        let slabs = |k: Range<usize>| {
            let end = k.end;
            k.step_by(depth).map(move |start| start..end.min(start.saturating_add(depth)))
        };
        let mut dispatches = vec![];
        for m in limits.row_chunks(size.m, m_row) {
            for n in limits.row_chunks(size.n, n_row) {
                for k in limits.row_chunks(size.k, k_row).into_iter().flat_map(slabs) {
                    dispatches.push(self.piece(shapes, [m.clone(), n.clone(), k], limits));
                }
            }
        }
        dispatches
    }

    /// The kernel for one piece: rows `m`, columns `n`, depth `k` of the product.
    fn piece(&self, shapes: &Shapes, [m, n, k]: [Range<usize>; 3], limits: &Limits) -> Dispatch {
        let Size { m: full_m, n: full_n, k: full_k } = self.size(&shapes.inputs);
        let (a, b, c) = (shapes.inputs[0].dtype, shapes.inputs[1].dtype, shapes.outputs[0].dtype);
        let b_words = |row: usize| self.quantisation.map_or(row, |quantisation| row / quantisation.per_word());
        let (lda, ldb) = (if self.ta { full_m } else { full_k }, if self.tb { full_k } else { full_n });
        let (a_rows, a_column) = if self.ta { (&k, m.start) } else { (&m, k.start) };
        let (b_rows, b_column) = if self.tb { (&n, k.start) } else { (&k, n.start) };
        let mut tilings = Tiling::candidates((m.len(), n.len()), self.ta, (a, b) == (Dtype::F16, Dtype::F16), limits);
        let names: Vec<String> = tilings.iter().map(|t| t.name.clone()).collect();
        let tiling = tilings.swap_remove(limits.choices.pick(&self.class(shapes), &names));
        let tiles = m.len().div_ceil(tiling.tile.0) * n.len().div_ceil(tiling.tile.1);
        let first = k.start == 0;
        let mut d = Dispatch::new(tiling.shader)
            .constant("M", m.len())
            .constant("N", n.len())
            .constant("K", k.len())
            .constant("LDA", lda)
            .constant("LDB", ldb)
            .constant("LDC", full_n)
            .constant("A_COLUMN", a_column)
            .constant("B_COLUMN", b_column)
            .constant("C_COLUMN", n.start)
            .constant("TA", self.ta)
            .constant("TB", self.tb)
            .constant("ACCUMULATE", self.accumulate || !first)
            .element("A_TYPE", a)
            .element("B_TYPE", b)
            .element("C_TYPE", c)
            .read_range(0, bytes_of(a, a_rows, lda))
            .read_range(1, bytes_of(b, b_rows, b_words(ldb)))
            .write_range(0, bytes_of(c, &m, full_n))
            .groups(limits.fold(tiles));
        let aligned = [lda, ldb, a_column, b_column].iter().all(|words| words % 4 == 0);
        match self.quantisation {
            Some(quantisation) => {
                assert!(aligned, "a quantised matrix has whole quads: {shapes:?}");
                d = d.swap(tiling.loads.0, dequantising(quantisation));
            }
            None if !aligned => d = d.swap(tiling.loads.0, tiling.loads.1),
            None => {}
        }
        let plain = !self.bias && !self.residual && c == Dtype::F32;
        let swaps = tiling.swaps(plain, [m.len(), n.len(), full_n, n.start]);
        let in_fours = swaps.iter().any(|(_, taken)| *taken == "width_4");
        for (named, taken) in swaps {
            d = d.swap(named, taken);
        }
        if in_fours {
            d = d.elements("VALUES", Dtype::F32, 4);
        }
        if tiling.quads {
            d = d.element("QUAD_TYPE", if a == b { a } else { Dtype::F32 });
        }
        for (name, value) in tiling.constants {
            d = d.constant(name, value);
        }
        if self.bias {
            d = d.read(2);
        }
        if self.residual {
            d = d.read_range(2 + usize::from(self.bias), bytes_of(Dtype::F32, &m, full_n));
        }
        let epilogue = match (self.bias, self.residual, self.gelu.is_some()) {
            (false, false, _) => None,
            (true, false, false) => Some("store_bias"),
            (true, false, true) => Some("store_bias_gelu"),
            (false, true, _) => Some("store_residual"),
            (true, true, _) => Some("store_bias_residual"),
        };
        if let Some(epilogue) = epilogue {
            d = d.swap("store", epilogue);
        }
        if let Some(form) = self.gelu {
            d = d.write_range(1, bytes_of(c, &m, full_n)).constant("GELU_ERF", form == Form::Erf);
        }
        if self.quantisation.is_some_and(Quantisation::has_scales) {
            // Two bytes for each block of a row.
            let bytes = |row: usize| (row * ldb / BLOCK * 2) as u64;
            let range = bytes(b_rows.start)..bytes(b_rows.end).next_multiple_of(4);
            let next = d.bindings.len();
            d = d.constant("SCALES_BINDING", next).read_range(self.scales(), range);
        }
        d
    }

    /// The input of a quantised matrix's scales.
    fn scales(&self) -> usize {
        2 + usize::from(self.bias) + usize::from(self.residual)
    }

    /// Number of inputs.
    fn inputs(&self) -> usize {
        let scales = self.quantisation.is_some_and(Quantisation::has_scales);
        2 + [self.bias, self.residual, self.accumulate, scales].map(usize::from).iter().sum::<usize>()
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let count = self.inputs();
        assert!(inputs.len() == count, "matmul takes {count} tensors here, not {inputs:?}");
        if let Some(quantisation) = self.quantisation {
            let (b, values) = (inputs[1], inputs[1].len() * quantisation.per_word());
            let scaled =
                !quantisation.has_scales() || *inputs[self.scales()] == Shape::u32(&[quantisation.scale_words(values)]);
            let fits =
                quantisation.fits(b.rows(), b.columns() * quantisation.per_word()) && b.dtype == Dtype::U32 && scaled;
            assert!(fits && !self.ta, "matmul of a quantised matrix does not take {inputs:?}");
        }
        let Size { m, n, .. } = self.size(inputs);
        let c = if self.ta { Shape::f32(&[m, n]) } else { inputs[0].with_columns(n) }.with_dtype(self.output);
        if self.bias {
            assert!(inputs[2].dims == [n], "matmul's bias is ({n}), not {:?}", inputs[2]);
        }
        if self.accumulate {
            let into = inputs[count - 1];
            let fits = !self.bias && !self.residual && into.len() == m.saturating_mul(n);
            assert!(fits, "matmul adds ({m}, {n}) into {into:?}");
            return vec![into.clone()];
        }
        if self.residual {
            let stream = inputs[self.scales() - 1];
            let fits = stream.len() == m.saturating_mul(n) && stream.dtype == Dtype::F32 && self.gelu.is_none();
            assert!(fits, "matmul cannot add the residual {stream:?} to ({m}, {n})");
        }
        assert!(self.gelu.is_none() || self.bias, "matmul's GELU epilogue needs a bias");
        vec![c; 1 + usize::from(self.gelu.is_some())]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        self.dispatch_in_slabs(shapes, usize::MAX, limits)
    }

    fn variants(&self, shapes: &Shapes, limits: &Limits) -> Option<Variants> {
        if self.quantisation.is_some() {
            return None; // those of the same product of numbers
        }
        let size = self.size(&shapes.inputs);
        let half = shapes.inputs[..2].iter().all(|s| s.dtype == Dtype::F16);
        let tilings = Tiling::candidates((size.m, size.n), self.ta, half, limits);
        let Size { m, n, k } = size.at_most(limits.trial_flops());
        let mut inputs: Vec<Shape> = shapes.inputs.iter().map(|s| (*s).clone()).collect();
        inputs[0].dims = if self.ta { vec![k, m] } else { vec![m, k] };
        inputs[1].dims = if self.tb { vec![n, k] } else { vec![k, n] };
        if self.bias {
            inputs[2].dims = vec![n];
        }
        if self.residual || self.accumulate {
            inputs.last_mut().expect("a matmul has inputs").dims = vec![m, n];
        }
        Some(Variants { class: self.class(shapes), names: tilings.into_iter().map(|t| t.name).collect(), inputs })
    }

    fn parts(&self, shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        let Some(quantisation) = self.quantisation else { return vec![] };
        let mut inputs: Vec<Shape> = shapes.inputs.iter().map(|s| (*s).clone()).collect();
        inputs[1] = inputs[1].with_columns(inputs[1].columns() * quantisation.per_word()).with_dtype(Dtype::F32);
        if quantisation.has_scales() {
            inputs.remove(self.scales());
        }
        vec![(Arc::new(Matmul { quantisation: None, ..self.clone() }), inputs)]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let inputs = g.nodes()[node].inputs.clone();
        let (a, b) = (inputs[0], inputs[1]);
        let (a_type, b_type) = (g.shape(a).dtype, g.shape(b).dtype);
        let dc = match self.gelu {
            Some(form) => g.apply(GeluBackward { form }, &[Tensor { node, slot: 1 }, dy]),
            None => dy,
        };
        if let Some(quantisation) = self.quantisation {
            assert!(!needed[1], "a quantised matrix is not trained");
            let op = Matmul { tb: !self.tb, output: a_type, quantisation: self.quantisation, ..Matmul::default() };
            let operands = [dc, b].into_iter().chain(quantisation.has_scales().then(|| inputs[self.scales()]));
            let da = needed[0].then(|| g.apply(op, &operands.collect::<Vec<_>>()));
            let mut grads = vec![da, None];
            grads.extend(self.bias.then(|| needed[2].then(|| g.apply(ColumnSum::default(), &[dc]))));
            grads.extend(self.residual.then(|| Some(cast(g, dy, Dtype::F32))));
            grads.extend(quantisation.has_scales().then_some(None));
            return grads;
        }
        let dc = if a_type == b_type { cast(g, dc, a_type) } else { dc };
        let plain = |ta, tb, output| Matmul { ta, tb, output, ..Matmul::default() };
        // dA = dC op(B)^T, or its transpose op(B) dC^T where A is stored transposed; likewise dB.
        let da = needed[0].then(|| match self.ta {
            false => g.apply(plain(false, !self.tb, a_type), &[dc, b]),
            true => g.apply(plain(self.tb, true, a_type), &[b, dc]),
        });
        let db = needed[1].then(|| match self.tb {
            false => g.apply(plain(!self.ta, false, Dtype::F32), &[a, dc]),
            true => g.apply(plain(true, self.ta, Dtype::F32), &[dc, a]),
        });
        let mut grads = vec![da, db];
        if self.bias {
            grads.push(needed[2].then(|| g.apply(ColumnSum::default(), &[dc])));
        }
        if self.residual || self.accumulate {
            // The stream is f32.
            grads.push(Some(cast(g, dy, Dtype::F32)));
        }
        grads
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let Size { m, n, k } = self.size(&shapes.inputs);
        // Both operands with K innermost, so that a dot product reads contiguous words.
        let a = if self.ta { transpose(inputs[0], k, m) } else { inputs[0].to_vec() };
        let dequantised = self.quantisation.map(|quantisation| {
            let scales = if quantisation.has_scales() { as_ids(inputs[self.scales()]) } else { &[] };
            quantisation.dequantise(as_ids(inputs[1]), scales)
        });
        let b = dequantised.as_deref().unwrap_or(inputs[1]);
        let b = if self.tb { b.to_vec() } else { transpose(b, k, n) };
        let bias = self.bias.then(|| inputs[2]);
        let residual = self.residual.then(|| inputs[2 + usize::from(self.bias)]);
        outputs[0].par_chunks_mut(n).zip(a.par_chunks(k)).enumerate().for_each(|(i, (row, a_row))| {
            for (j, (c, b_row)) in row.iter_mut().zip(b.chunks(k)).enumerate() {
                let dot: f64 = a_row.iter().zip(b_row).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                let added = |values: Option<&[f32]>, at: usize| values.map_or(0.0, |values| f64::from(values[at]));
                // What is added to is added in f32, as kernels do.
                let start = if self.accumulate { *c } else { 0.0 };
                *c = start + (added(bias, j) + added(residual, i * n + j) + dot) as f32;
            }
        });
        if let Some(form) = self.gelu {
            // GELU is applied to the stored sum.
            let kept = shapes.outputs[1].dtype;
            let (c, pre) = outputs.split_at_mut(1);
            pre[0] = c[0].iter().map(|x| kept.round(*x)).collect();
            c[0].iter_mut().zip(&pre[0]).for_each(|(y, x)| *y = gelu(form, f64::from(*x)) as f32);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let Size { m, n, k } = self.size(&shapes.inputs);
        Cost { flops: 2 * m as u64 * n as u64 * k as u64, size_bytes: shapes.size_bytes() }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, self.inputs() - 1)] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let can = slot == 0 && !self.bias && !self.residual && !self.accumulate;
        can.then(|| Arc::new(Matmul { accumulate: true, ..self.clone() }) as Arc<dyn Op>)
    }
}

fn mark(transposed: bool) -> &'static str {
    if transposed { "^T" } else { "" }
}

/// (rows, columns) to (columns, rows).
fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    for (r, row) in x.chunks(columns).enumerate() {
        for (c, value) in row.iter().enumerate() {
            y[c * rows + r] = *value;
        }
    }
    y
}
