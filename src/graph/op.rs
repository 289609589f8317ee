//! The one trait an op implements, and the dispatches it hands to the planner, as plain data.

use super::{Dtype, Graph, Limits, Shape, Tensor, Variants};
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// One coarse operation. Everything that is known about it stands in its own file.
pub trait Op: Debug + Send + Sync {
    /// The stem of its file, its shader and its label.
    fn name(&self) -> &'static str;

    /// Shapes of all outputs; slot 0 is the result. Panics with the shapes where they do not fit.
    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape>;

    /// The kernels to run, in order.
    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch>;

    /// The ways there are to run it, where there are several; [`Limits::choices`] says which of them `dispatch` takes.
    fn variants(&self, _shapes: &Shapes, _limits: &Limits) -> Option<Variants> {
        None
    }

    /// Other ops whose kernels run within this one, with the shapes of their inputs: their variants are chosen, too.
    fn parts(&self, _shapes: &Shapes) -> Vec<(Arc<dyn Op>, Vec<Shape>)> {
        vec![]
    }

    /// Gradients with respect to each input, given that of slot 0: pushes nodes on the graph. `needed` says which inputs
    /// lead to a wanted parameter; the others may be `None`. Ops of backward passes, updates and decoding have none.
    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        panic!("{} has no gradient, and may not stand in a loss", self.name())
    }

    /// The CPU twin. Sums in f64. u32 tensors travel as bits (see [`as_ids`]). Outputs computed in place arrive filled with
    /// that input; the others arrive poisoned with NaN.
    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], step: &Step);

    /// FLOPs, and bytes that must be moved at least.
    fn cost(&self, shapes: &Shapes) -> Cost;

    /// (output slot, input) pairs that share one buffer: the op reads and writes it in place.
    fn in_place(&self) -> Vec<(usize, usize)> {
        vec![]
    }

    /// The same op, adding output `slot` into one more input at the end of its list, in place.
    fn accumulating(&self, _slot: usize) -> Option<Arc<dyn Op>> {
        None
    }

    /// Output slots, from the last, that only this op's own kernels read.
    fn scratch(&self) -> usize {
        0
    }

    /// The op that makes the weights of an attention, (B, heads, queries, keys), from this op's inputs and its slot 1.
    fn attention_weights(&self) -> Option<Arc<dyn Op>> {
        None
    }

    /// Columns of each tensor that the rows of output `slot` hold side by side, such as q, k and v: tensors with scales of
    /// their own are compared by themselves. One tensor unless an op says otherwise.
    fn packing(&self, shapes: &Shapes, slot: usize) -> Vec<usize> {
        vec![shapes.outputs[slot].columns()]
    }
}

/// Shapes of a node's inputs and outputs.
#[derive(Debug)]
pub struct Shapes<'a> {
    pub inputs: Vec<&'a Shape>,
    pub outputs: Vec<&'a Shape>,
}

impl Shapes<'_> {
    /// Bytes of all inputs and outputs, each moved once.
    pub fn size_bytes(&self) -> u64 {
        self.inputs.iter().chain(&self.outputs).map(|s| s.size_bytes()).sum()
    }
}

/// Floating-point operations (a multiply and an add are two) and bytes moved at least.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub flops: u64,
    pub size_bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;
    fn add(self, other: Cost) -> Cost {
        Cost { flops: self.flops + other.flops, size_bytes: self.size_bytes + other.size_bytes }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), std::ops::Add::add)
    }
}

/// A WGSL file: its stem and its text. Made by [`crate::shader!`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shader {
    pub stem: &'static str,
    pub source: &'static str,
}

impl Debug for Shader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.stem)
    }
}

/// `shader!("layernorm")` is `shaders/layernorm.wgsl`.
#[macro_export]
macro_rules! shader {
    ($stem:literal) => {
        $crate::graph::Shader {
            stem: $stem,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $stem, ".wgsl")),
        }
    };
}

/// The right-hand side of a shader's `const`.
#[derive(Clone, Debug, PartialEq)]
pub enum Constant {
    U32(u32),
    F32(f32),
    Bool(bool),
    /// An array of f32.
    Table(Arc<[f32]>),
    /// The element type of an operand.
    Element(Dtype),
    /// Four elements of this type side by side.
    Quad(Dtype),
    /// A size that 32 bits do not hold: a kernel with one is not planned.
    Beyond(usize),
}

impl From<usize> for Constant {
    fn from(value: usize) -> Self {
        u32::try_from(value).map_or(Constant::Beyond(value), Constant::U32)
    }
}

impl From<u32> for Constant {
    fn from(value: u32) -> Self {
        Constant::U32(value)
    }
}

impl From<f32> for Constant {
    fn from(value: f32) -> Self {
        Constant::F32(value)
    }
}

impl From<bool> for Constant {
    fn from(value: bool) -> Self {
        Constant::Bool(value)
    }
}

/// Which of a node's tensors a binding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Input(usize),
    Output(usize),
    /// The small uniform that changes from replay to replay.
    Step,
}

/// One binding: bytes `range` of an operand, all of it if `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    pub operand: Operand,
    pub range: Option<Range<u64>>,
    pub writes: bool,
}

/// One kernel launch as data. Bindings take the numbers 0, 1, 2, ... in the order in which they were added.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub shader: Shader,
    pub constants: Vec<(&'static str, Constant)>,
    /// Shared files that stand in for one the shader names in its `use:` line: (named there, taken instead).
    pub swaps: Vec<(&'static str, &'static str)>,
    pub bindings: Vec<Binding>,
    pub workgroups: [u32; 3],
}

impl Dispatch {
    pub fn new(shader: Shader) -> Self {
        Dispatch { shader, constants: vec![], swaps: vec![], bindings: vec![], workgroups: [1, 1, 1] }
    }

    pub fn constant(mut self, name: &'static str, value: impl Into<Constant>) -> Self {
        self.constants.push((name, value.into()));
        self
    }

    /// Sets `alias name = ...;` of the shader: the element type of an operand.
    pub fn element(mut self, name: &'static str, dtype: Dtype) -> Self {
        self.constants.push((name, Constant::Element(dtype)));
        self
    }

    /// As [`Dispatch::element`], for operands whose elements are numbers (`width` 1) or quads of them (4).
    pub fn elements(mut self, name: &'static str, dtype: Dtype, width: usize) -> Self {
        self.constants.push((name, if width == 4 { Constant::Quad(dtype) } else { Constant::Element(dtype) }));
        self
    }

    /// Sets THREADS of a shader whose threads sum up together (shared file `reduce`): through subgroups, where those are all of one size.
    pub fn reducing(self, threads: u32, limits: &Limits) -> Self {
        let d = self.constant("THREADS", threads);
        if limits.subgroup > 1 && (threads as usize).is_multiple_of(limits.subgroup) {
            return d.swap("reduce", "reduce_subgroups").constant("SUBGROUP", limits.subgroup);
        }
        d
    }

    pub fn swap(mut self, named: &'static str, taken: &'static str) -> Self {
        self.swaps.push((named, taken));
        self
    }

    pub fn read(self, input: usize) -> Self {
        self.bind(Operand::Input(input), None, false)
    }

    pub fn read_range(self, input: usize, range: Range<u64>) -> Self {
        self.bind(Operand::Input(input), Some(range), false)
    }

    /// Binds an output for reading only, after an earlier kernel of the same op wrote it.
    pub fn read_back(self, output: usize) -> Self {
        self.bind(Operand::Output(output), None, false)
    }

    pub fn write(self, output: usize) -> Self {
        self.bind(Operand::Output(output), None, true)
    }

    pub fn write_range(self, output: usize, range: Range<u64>) -> Self {
        self.bind(Operand::Output(output), Some(range), true)
    }

    pub fn step(self) -> Self {
        self.bind(Operand::Step, None, false)
    }

    pub fn bind(mut self, operand: Operand, range: Option<Range<u64>>, writes: bool) -> Self {
        self.bindings.push(Binding { operand, range, writes });
        self
    }

    pub fn groups(mut self, workgroups: [u32; 3]) -> Self {
        self.workgroups = workgroups;
        self
    }
}

/// The values that change from replay to replay: the uniform `step` of `shaders/shared/step.wgsl`, which `web/player.js` writes as well.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Optimiser steps done before this one.
    pub step: u32,
    /// Micro-batches done before this one, over the whole run: the counter of the dropout generator.
    pub micro_batch: u32,
    /// Seed of the dropout generator.
    pub seed: u32,
    /// Learning rate of this step.
    pub learning_rate: f32,
    /// Position of the first token that is fed.
    pub position: u32,
    /// First row of a key/value cache that is written.
    pub row: u32,
    /// The most micro-batches of a step, by which its sums are divided, over the number that this step has: 1 where all have as many.
    pub growth: f32,
    pub reserved: u32,
}

impl Default for Step {
    fn default() -> Step {
        Step { step: 0, micro_batch: 0, seed: 0, learning_rate: 0.0, position: 0, row: 0, growth: 1.0, reserved: 0 }
    }
}

/// Reads a u32 tensor that travels as f32 bits.
pub fn as_ids(bits: &[f32]) -> &[u32] {
    bytemuck::cast_slice(bits)
}
