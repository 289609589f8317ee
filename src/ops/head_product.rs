//! head_product: products of matrices for each head, of heads that stand side by side in their columns.
//!
//!   y[m, h, n] = FACTOR * sum over k of op(a)[m, h, k] op(b)[k, h, n]
//!   a (M, NH * K), or (K, NH * M) if `ta`;  b (K, NH * N), or (N, NH * K) if `tb`;  y (M, NH * N), all f32
//!
//! The leading dimensions of a, and those of b, are one. Transformer-XL's term of positions is such a product: queries (B * T, NH * HS)
//! with the positions' keys (D, NH * HS) give a bias (B * T, NH * D) for each query and distance.
//! Cost: 2 M N K FLOPs for each head.

use super::case::{Case, Draw};
use crate::graph::{AdapterKind, Cost, Dispatch, Graph, Limits, Op, Shape, Shapes, Step, Tensor};
use crate::shader;
use rayon::prelude::*;
use std::sync::Arc;

/// y = factor * op(a) op(b) for each head; not both are stored as their transposes.
#[derive(Clone, Debug)]
pub struct HeadProduct {
    pub heads: usize,
    pub ta: bool,
    pub tb: bool,
    pub factor: f32,
}

/// Sizes of a head's product.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    m: usize,
    n: usize,
    k: usize,
}

/// Rows and columns of y that a workgroup makes: in workgroup memory, and in registers.
const TILE: [usize; 2] = [32, 32];
const REGISTERS: [usize; 2] = [8, 32];

impl HeadProduct {
    fn sizes(&self, inputs: &[&Shape]) -> Sizes {
        let HeadProduct { heads, ta, tb, .. } = *self;
        let [a, b] = inputs else { panic!("head_product takes two matrices, not {inputs:?}") };
        let fits = heads > 0 && a.columns().is_multiple_of(heads) && b.columns().is_multiple_of(heads) && !(ta && tb);
        assert!(fits, "{self:?} does not fit {inputs:?}");
        let [a, b] = [a, b].map(|x| [x.rows(), x.columns() / heads]);
        let ([m, k], [n, inner]) = (if ta { [a[1], a[0]] } else { a }, if tb { b } else { [b[1], b[0]] });
        assert!(k == inner, "{self:?} does not fit {inputs:?}");
        Sizes { m, n, k }
    }

    /// The elements of a and of b that are multiplied.
    fn places(&self, Sizes { m, n, k }: Sizes, head: usize, [i, j, l]: [usize; 3]) -> [usize; 2] {
        let a = if self.ta { (l * self.heads + head) * m + i } else { (i * self.heads + head) * k + l };
        let b = if self.tb { (j * self.heads + head) * k + l } else { (l * self.heads + head) * n + j };
        [a, b]
    }
}

impl Op for HeadProduct {
    fn name(&self) -> &'static str {
        "head_product"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let Sizes { m, n, .. } = self.sizes(inputs);
        let leading = inputs[0].dims.len() - 1;
        let mut dims = if self.ta { vec![m] } else { inputs[0].dims[..leading].to_vec() };
        dims.push(self.heads * n);
        vec![Shape::f32(&dims)]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let Sizes { m, n, k } = self.sizes(&shapes.inputs);
        let (shader, [rows, columns]) = match limits.adapter {
            AdapterKind::Gpu => (shader!("head_product_tiled"), TILE),
            AdapterKind::Software => (shader!("head_product_registers"), REGISTERS),
        };
        let d = Dispatch::new(shader)
            .constant("M", m)
            .constant("N", n)
            .constant("K", k)
            .constant("NH", self.heads)
            .constant("TA", self.ta)
            .constant("TB", self.tb)
            .constant("FACTOR", self.factor)
            .groups(limits.fold(self.heads * m.div_ceil(rows) * n.div_ceil(columns)));
        vec![d.read(0).read(1).write(0)]
    }

    fn vjp(&self, g: &mut Graph, node: usize, dy: Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
        let [a, b] = g.nodes()[node].inputs[..] else { unreachable!("checked in outputs") };
        let mut product = |ta, tb, x, y| Some(g.apply(HeadProduct { ta, tb, ..self.clone() }, &[x, y]));
        let da = match (self.ta, self.tb) {
            _ if !needed[0] => None,
            (true, _) => product(false, true, b, dy),
            (_, tb) => product(false, !tb, dy, b),
        };
        let db = match (self.ta, self.tb) {
            _ if !needed[1] => None,
            (_, true) => product(true, false, dy, a),
            (ta, _) => product(!ta, false, a, dy),
        };
        vec![da, db]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let sizes = self.sizes(&shapes.inputs);
        let Sizes { n, k, .. } = sizes;
        outputs[0].par_chunks_mut(self.heads * n).enumerate().for_each(|(i, row)| {
            for (at, y) in row.iter_mut().enumerate() {
                let term = |l| {
                    let [a, b] = self.places(sizes, at / n, [i, at % n, l]);
                    f64::from(inputs[0][a]) * f64::from(inputs[1][b])
                };
                *y = ((0..k).map(term).sum::<f64>() * f64::from(self.factor)) as f32;
            }
        });
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let Sizes { m, n, k } = self.sizes(&shapes.inputs);
        Cost { flops: 2 * (self.heads * m * n * k) as u64, size_bytes: shapes.size_bytes() }
    }
}

const REASON: &str = "sums of up to 74 products below 1: about 9 roundings of sums up to 9, tenfold";

pub const CASES: &[Case] = &[
    Case {
        name: "head_product of 2x37 queries and 51 positions, 3 heads of 16",
        op: || Arc::new(HeadProduct { heads: 3, ta: false, tb: true, factor: 0.25 }),
        inputs: &[(&[2, 37, 48], Draw::Uniform(1.0)), (&[51, 48], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 5e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "head_product 33x7 by 7x66, 2 heads",
        op: || Arc::new(HeadProduct { heads: 2, ta: false, tb: false, factor: 1.0 }),
        inputs: &[(&[33, 14], Draw::Uniform(1.0)), (&[7, 132], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 5e-6,
        rtol: 2e-6,
        reason: REASON,
    },
    Case {
        name: "head_product 65x9, transposed, by 65x5, one head",
        op: || Arc::new(HeadProduct { heads: 1, ta: true, tb: false, factor: 1.0 }),
        inputs: &[(&[65, 9], Draw::Uniform(1.0)), (&[65, 5], Draw::Uniform(1.0))],
        gradient: true,
        position: 0,
        atol: 5e-6,
        rtol: 2e-6,
        reason: REASON,
    },
];
