//! The plan: buffers and dispatches as plain data, made once from a graph. No closures, no device types.

use super::limits::Limits;
use super::memory::{Class, Life, Storage, pack};
use super::op::{Constant, Cost, Dispatch, Operand, Shader};
use super::{Graph, Leaf, NetworkId, Shape, Tensor};
use crate::error::Result;
use std::fmt;
use std::ops::Range;

/// A buffer of a plan. State is found in the store by the names of the states in it; the others belong to the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    pub class: Class,
    pub label: String,
    pub size_bytes: u64,
}

/// A named state: where in which buffer it lies.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub name: String,
    pub buffer: usize,
    pub start_byte: u64,
    pub shape: Shape,
    /// The network that it belongs to, where it belongs to one.
    pub network: Option<NetworkId>,
}

/// A binding of a kernel: bytes `range` of buffer `buffer`, or the step uniform where that is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    pub buffer: Option<usize>,
    pub range: Range<u64>,
    pub writes: bool,
}

/// One kernel launch.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The node of the graph that it belongs to.
    pub node: usize,
    /// The node's label: the op and the place it stands at.
    pub label: String,
    pub shader: Shader,
    pub constants: Vec<(&'static str, Constant)>,
    pub swaps: Vec<(&'static str, &'static str)>,
    pub bindings: Vec<Bound>,
    pub workgroups: [u32; 3],
    /// The op's cost, shared evenly among its kernels.
    pub cost: Cost,
}

/// A command of a segment; they run in order.
#[derive(Clone, Debug)]
pub enum Command {
    Dispatch(Kernel),
    /// Copies a whole buffer: an op works in place over a tensor that is still needed.
    Copy {
        from: usize,
        to: usize,
        size_bytes: u64,
    },
}

/// A run of commands that is replayed as one.
#[derive(Clone, Debug)]
pub struct Segment {
    pub name: String,
    pub commands: Vec<Command>,
}

/// Everything a host needs to allocate buffers and replay a graph.
#[derive(Clone, Debug)]
pub struct Plan {
    pub buffers: Vec<Buffer>,
    pub segments: Vec<Segment>,
    /// Tensors that the host reads: (name, buffer, shape).
    pub outputs: Vec<(String, usize, Shape)>,
    /// Tensors that the host writes: (name, buffer, shape).
    pub inputs: Vec<(String, usize, Shape)>,
    /// States by name. Those that are stored together lie in one buffer, which is a state as well.
    pub states: Vec<State>,
}

impl Plan {
    /// Plans memory and kernels. Fails where a tensor or a binding is larger than `limits` allow, naming it.
    pub fn new(g: &Graph, limits: &Limits) -> Result<Plan> {
        let live = g.live();
        check_tensors(g, &live, limits)?;
        let storage = Storage::new(g);
        let (buffers, place_of) = allocate(&storage);
        let place = |t: Tensor| place_of[storage.of[&t]];
        let buffer = |t: Tensor| place(t).0;
        let states = states(g, &place);
        for (i, buffer) in buffers.iter().enumerate() {
            if buffer.size_bytes > limits.buffer_bytes {
                // A state that is too large by itself is a more useful name than that of the buffer it is stored in.
                let state = states.iter().find(|s| s.buffer == i);
                too_large(state.map_or(&buffer.label, |s| &s.name), buffer.size_bytes, limits)?;
            }
        }
        let mut segments = vec![];
        for (name, range) in g.segments() {
            let mut commands = vec![];
            for node in range.filter(|node| live[*node]) {
                for (_, from, slot) in storage.copies.iter().filter(|c| c.0 == node) {
                    let size_bytes = g.shape(*from).size_bytes();
                    commands.push(Command::Copy {
                        from: buffer(*from),
                        to: buffer(Tensor { node, slot: *slot }),
                        size_bytes,
                    });
                }
                for kernel in kernels(g, node, limits, &place)? {
                    commands.push(Command::Dispatch(kernel));
                }
            }
            segments.push(Segment { name, commands });
        }
        let input = |(t, at): (Tensor, &super::Node)| (at.label.clone(), buffer(t), at.outputs[0].clone());
        let inputs = leaves(g, Leaf::Input).map(input).collect();
        let outputs = g.outputs().iter().map(|(name, t)| (name.clone(), buffer(*t), g.shape(*t).clone())).collect();
        Ok(Plan { inputs, states, buffers, segments, outputs })
    }

    /// Bytes of all buffers that satisfy `wanted`.
    pub fn size_bytes(&self, wanted: impl Fn(&Class) -> bool) -> u64 {
        self.buffers.iter().filter(|b| wanted(&b.class)).map(|b| b.size_bytes).sum()
    }

    /// Moves all that is bound of each buffer by a number of bytes: states may lie among others in the store.
    pub fn shift(&mut self, by: &[u64]) {
        for command in self.segments.iter_mut().flat_map(|s| &mut s.commands) {
            let Command::Dispatch(kernel) = command else { continue };
            for bound in &mut kernel.bindings {
                let by = bound.buffer.map_or(0, |buffer| by[buffer]);
                bound.range = bound.range.start + by..bound.range.end + by;
            }
        }
    }

    /// Index of the segment called `name`.
    #[track_caller]
    pub fn segment(&self, name: &str) -> usize {
        self.segments.iter().position(|s| s.name == name).unwrap_or_else(|| panic!("the plan has no segment `{name}`"))
    }

    /// All kernels, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &Kernel> {
        self.segments.iter().flat_map(|s| &s.commands).filter_map(|c| match c {
            Command::Dispatch(kernel) => Some(kernel),
            Command::Copy { .. } => None,
        })
    }
}

impl fmt::Display for Plan {
    /// One line per buffer and per command, for reading and for diffs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, b) in self.buffers.iter().enumerate() {
            writeln!(f, "buffer {i} {:?} {} bytes {}", b.class, b.size_bytes, b.label)?;
            for state in self.states.iter().filter(|s| s.buffer == i && s.name != b.label) {
                writeln!(f, "  from {} on {}", state.start_byte, state.name)?;
            }
        }
        for segment in &self.segments {
            writeln!(f, "segment {}", segment.name)?;
            for command in &segment.commands {
                match command {
                    Command::Copy { from, to, size_bytes } => writeln!(f, "  copy {from} -> {to} {size_bytes} bytes")?,
                    Command::Dispatch(k) => {
                        let bound = |b: &Bound| {
                            let mark = if b.writes { "*" } else { "" };
                            b.buffer.map_or("step".into(), |i| format!("{mark}{i}[{}..{}]", b.range.start, b.range.end))
                        };
                        let bindings: Vec<String> = k.bindings.iter().map(bound).collect();
                        writeln!(f, "  {:?} {:?} {} {}", k.shader, k.workgroups, bindings.join(" "), k.label)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Fails where a tensor is larger than a device's buffers, or has more elements than kernels count: everything that ops and
/// planning compute with sizes is within 64 bits for those that are not.
fn check_tensors(g: &Graph, live: &[bool], limits: &Limits) -> Result<()> {
    let nodes = g.nodes().iter().zip(live).filter(|(_, live)| **live);
    for (node, shape) in nodes.flat_map(|(node, _)| node.outputs.iter().map(move |shape| (node, shape))) {
        if u32::try_from(shape.len()).is_err() {
            crate::fail!(
                OutOfMemory,
                "`{}` {shape:?} has more elements than the 2^32 that kernels count: use a smaller batch or a smaller model",
                node.label
            );
        }
        if shape.size_bytes() > limits.buffer_bytes {
            too_large(&node.label, shape.size_bytes(), limits)?;
        }
    }
    Ok(())
}

fn too_large(label: &str, size_bytes: u64, limits: &Limits) -> Result<()> {
    let (mib, limit) = (size_bytes >> 20, limits.buffer_bytes >> 20);
    crate::fail!(
        OutOfMemory,
        "`{label}` needs a buffer of {mib} MiB and this device allows {limit} MiB: use a smaller batch or a smaller model"
    )
}

/// Fails where a kernel cannot be launched: a size that its shader cannot hold, or too many workgroups.
fn check_launch(label: &str, dispatch: &Dispatch, limits: &Limits) -> Result<()> {
    for (name, value) in &dispatch.constants {
        if let Constant::Beyond(value) = value {
            crate::fail!(
                OutOfMemory,
                "{label} counts to {value} ({name}), beyond the 2^32 of kernels: use a smaller batch or a smaller model"
            );
        }
    }
    if let Some(count) = dispatch.workgroups.iter().find(|count| **count > limits.workgroups) {
        let limit = limits.workgroups;
        crate::fail!(
            OutOfMemory,
            "{label} needs {count} workgroups in one dimension and this device allows {limit}: use a smaller batch or a \
             smaller model"
        );
    }
    Ok(())
}

/// Leaves of a kind.
fn leaves(g: &Graph, wanted: Leaf) -> impl Iterator<Item = (Tensor, &super::Node)> {
    let is_wanted = move |node: &super::Node| matches!(node.source, super::Source::Leaf(leaf) if leaf == wanted);
    let nodes = g.nodes().iter().enumerate().filter(move |(_, at)| is_wanted(at));
    nodes.map(|(node, at)| (Tensor { node, slot: 0 }, at))
}

fn states(g: &Graph, place: &impl Fn(Tensor) -> (usize, u64)) -> Vec<State> {
    let state = |(t, at): (Tensor, &super::Node)| {
        let (buffer, start_byte) = place(t);
        State { name: at.label.clone(), buffer, start_byte, shape: at.outputs[0].clone(), network: at.network }
    };
    leaves(g, Leaf::State).map(state).collect()
}

/// Buffers of all storage, and the place of each, a buffer and a byte in it: temporaries are packed, states may lie within
/// others, the remaining one owns its buffer.
fn allocate(storage: &Storage) -> (Vec<Buffer>, Vec<(usize, u64)>) {
    let mut buffers = vec![];
    let mut place_of = vec![(usize::MAX, 0); storage.entries.len()];
    let mut temporary: Vec<usize> = vec![];
    for (i, (class, label, life)) in storage.entries.iter().enumerate() {
        if *class == Class::Temporary {
            temporary.push(i);
        } else if !storage.within.contains_key(&i) {
            place_of[i].0 = buffers.len();
            buffers.push(Buffer { class: class.clone(), label: label.clone(), size_bytes: life.size_bytes });
        }
    }
    let lives: Vec<Life> = temporary.iter().map(|&i| storage.entries[i].2.clone()).collect();
    let (assigned, sizes) = pack(&lives);
    let first = buffers.len();
    for (n, size_bytes) in sizes.into_iter().enumerate() {
        let largest = temporary.iter().zip(&assigned).filter(|(_, a)| **a == n).map(|(&i, _)| &storage.entries[i]);
        let label = largest.max_by_key(|e| e.2.size_bytes).map_or(String::new(), |e| e.1.clone());
        buffers.push(Buffer { class: Class::Temporary, label, size_bytes });
    }
    for (n, &i) in temporary.iter().enumerate() {
        place_of[i].0 = first + assigned[n];
    }
    for (&i, &(whole, start)) in &storage.within {
        place_of[i] = (place_of[whole].0, start);
    }
    (buffers, place_of)
}

/// The kernels of one node, bound to buffers.
fn kernels(g: &Graph, node: usize, limits: &Limits, place: &impl Fn(Tensor) -> (usize, u64)) -> Result<Vec<Kernel>> {
    let Some(op) = g.op(node) else { return Ok(vec![]) };
    let at = &g.nodes()[node];
    let shapes = g.shapes(node);
    let dispatches = op.dispatch(&shapes, limits);
    let share = op.cost(&shapes);
    let count = dispatches.len().max(1) as u64;
    let cost = Cost { flops: share.flops / count, size_bytes: share.size_bytes / count };
    let mut kernels = vec![];
    for d in dispatches {
        check_launch(&at.label, &d, limits)?;
        let mut bindings = vec![];
        for b in &d.bindings {
            let tensor = match b.operand {
                Operand::Input(i) => Some(at.inputs[i]),
                Operand::Output(slot) => Some(Tensor { node, slot }),
                Operand::Step => None,
            };
            let range = b.range.clone().unwrap_or(0..tensor.map_or(32, |t| g.shape(t).size_bytes()));
            let size_bytes = range.end - range.start;
            if size_bytes > limits.binding_bytes {
                let (mib, limit) = (size_bytes >> 20, limits.binding_bytes >> 20);
                crate::fail!(
                    OutOfMemory,
                    "{} binds {mib} MiB at once and this device allows {limit} MiB: use a smaller batch or a smaller model",
                    at.label
                );
            }
            let (buffer, start) = tensor.map(place).map_or((None, 0), |(buffer, start)| (Some(buffer), start));
            bindings.push(Bound { buffer, range: start + range.start..start + range.end, writes: b.writes });
        }
        kernels.push(Kernel {
            node,
            label: at.label.clone(),
            shader: d.shader,
            constants: d.constants,
            swaps: d.swaps,
            bindings,
            workgroups: d.workgroups,
            cost,
        });
    }
    Ok(kernels)
}
