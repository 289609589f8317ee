//! block_diagonal: the second factors of the adapters of a linear layer as one matrix, so that one product applies all of them.
//!
//!   x (sum of the blocks' heights, r);  y (rows, blocks * r) = scale * x's blocks on a diagonal, zeros elsewhere
//!
//! Block n is the n-th piece of x, and stands in y in columns n r to (n + 1) r, from row `starts[n]` on. Where q, k and v are one
//! matrix, an adapter of v has its block in v's rows (Hu et al. 2021, "LoRA", section 4.1: h = W x + alpha / r B A x).
//! Backward: dx = scale * the same blocks of dy. Cost: y is written once; small beside a weight, of which it has r / K for each block.

use super::case::{Case, Draw};
use super::elementwise::elementwise;
use crate::graph::op::Constant;
use crate::graph::{Cost, Dispatch, Graph, Limits, Op, Shader, Shape, Shapes, Step, Tensor};
use crate::shader;
use std::sync::Arc;

/// y = scale * blocks of x on a diagonal.
#[derive(Clone, Debug)]
pub struct BlockDiagonal {
    /// First row and height of each block, in rising order.
    pub blocks: Vec<(usize, usize)>,
    /// Rows of y.
    pub rows: usize,
    pub scale: f32,
}

impl BlockDiagonal {
    /// Rows of x.
    fn heights(&self) -> usize {
        self.blocks.iter().map(|(_, height)| height).sum()
    }

    /// The first row of each block in x.
    fn offsets(&self) -> Vec<usize> {
        let after = |end: &mut usize, (_, height): &(usize, usize)| {
            let start = *end;
            *end += height;
            Some(start)
        };
        self.blocks.iter().scan(0, after).collect()
    }

    /// For each row of x the place of its first column in y.
    fn places(&self, rank: usize) -> Vec<usize> {
        let columns = self.blocks.len() * rank;
        let of_block = |(n, (start, height)): (usize, &(usize, usize))| {
            (*start..start + height).map(move |row| row * columns + n * rank).collect::<Vec<_>>()
        };
        self.blocks.iter().enumerate().flat_map(of_block).collect()
    }

    fn kernel(&self, shader: Shader, len: usize, rank: usize, limits: &Limits) -> Dispatch {
        let table = |values: Vec<usize>| Constant::Table(values.into_iter().map(|v| v as f32).collect());
        elementwise(shader, len, limits)
            .constant("SCALE", self.scale)
            .constant("BLOCKS", self.blocks.len())
            .constant("RANK", rank)
            .constant("STARTS", table(self.blocks.iter().map(|block| block.0).collect()))
            .constant("HEIGHTS", table(self.blocks.iter().map(|block| block.1).collect()))
            .constant("OFFSETS", table(self.offsets()))
            .read(0)
            .write(0)
    }
}

impl Op for BlockDiagonal {
    fn name(&self) -> &'static str {
        "block_diagonal"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let fits = inputs.len() == 1 && inputs[0].dims.len() == 2 && inputs[0].dims[0] == self.heights();
        assert!(fits && !self.blocks.is_empty(), "block_diagonal takes {} rows, not {inputs:?}", self.heights());
        let apart = self.blocks.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0);
        let inside = self.blocks.last().is_some_and(|(start, height)| start + height <= self.rows);
        assert!(apart && inside, "block_diagonal's blocks do not fit {} rows: {:?}", self.rows, self.blocks);
        // Tables of a shader are f32, which hold these numbers exactly.
        assert!(self.rows < 1 << 24, "block_diagonal of {} rows", self.rows);
        vec![Shape::f32(&[self.rows, self.blocks.len() * inputs[0].dims[1]])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (len, rank) = (shapes.outputs[0].len(), shapes.inputs[0].columns());
        vec![self.kernel(shader!("block_diagonal"), len, rank, limits)]
    }

    fn vjp(&self, g: &mut Graph, _node: usize, dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![Some(g.apply(BlockDiagonalBackward { forward: self.clone(), accumulate: false }, &[dy]))]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let rank = shapes.inputs[0].columns();
        outputs[0].fill(0.0);
        for (row, place) in inputs[0].chunks(rank).zip(self.places(rank)) {
            outputs[0][place..place + rank].iter_mut().zip(row).for_each(|(y, x)| *y = self.scale * x);
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// dx (+)= scale * the blocks of dy.
#[derive(Clone, Debug)]
pub struct BlockDiagonalBackward {
    pub forward: BlockDiagonal,
    /// The last input is added to, in place.
    pub accumulate: bool,
}

impl Op for BlockDiagonalBackward {
    fn name(&self) -> &'static str {
        "block_diagonal_backward"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        let (rows, blocks) = (self.forward.rows, self.forward.blocks.len());
        let fits = inputs[0].dims[0] == rows && inputs[0].columns().is_multiple_of(blocks);
        assert!(fits, "block_diagonal_backward takes {rows} rows of {blocks} blocks, not {inputs:?}");
        vec![Shape::f32(&[self.forward.heights(), inputs[0].columns() / blocks])]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let (len, rank) = (shapes.outputs[0].len(), shapes.outputs[0].columns());
        let d = self.forward.kernel(shader!("block_diagonal_backward"), len, rank, limits);
        vec![d.constant("ACCUMULATE", self.accumulate)]
    }

    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        let rank = shapes.outputs[0].columns();
        for (row, place) in outputs[0].chunks_mut(rank).zip(self.forward.places(rank)) {
            for (dx, dy) in row.iter_mut().zip(&inputs[0][place..]) {
                *dx = if self.accumulate { *dx } else { 0.0 } + self.forward.scale * dy;
            }
        }
    }

    fn cost(&self, shapes: &Shapes) -> Cost {
        let len = shapes.outputs[0].len() as u64;
        Cost { flops: len, size_bytes: 4 * len * if self.accumulate { 3 } else { 2 } }
    }

    fn in_place(&self) -> Vec<(usize, usize)> {
        if self.accumulate { vec![(0, 1)] } else { vec![] }
    }

    fn accumulating(&self, slot: usize) -> Option<Arc<dyn Op>> {
        let op = BlockDiagonalBackward { accumulate: true, ..self.clone() };
        (slot == 0 && !self.accumulate).then(|| Arc::new(op) as Arc<dyn Op>)
    }
}

macro_rules! case {
    ($name:literal, $blocks:expr, $rows:literal, $x:expr) => {
        Case {
            name: $name,
            op: || Arc::new(BlockDiagonal { blocks: $blocks.to_vec(), rows: $rows, scale: 2.5 }),
            inputs: &[(&$x, Draw::Uniform(1.0))],
            gradient: true,
            position: 0,
            atol: 1e-6,
            rtol: 1e-6,
            reason: "one product",
        }
    };
}

pub const CASES: &[Case] = &[
    case!("block_diagonal of q and v, rank 8", [(0, 24), (36, 12)], 48, [36, 8]),
    case!("block_diagonal of one whole block, rank 3", [(0, 70)], 70, [70, 3]),
    case!("block_diagonal of the second of two, rank 1", [(9, 9)], 18, [9, 1]),
    case!("block_diagonal of three blocks, rank 16", [(0, 320), (320, 64), (384, 64)], 448, [448, 16]),
];
