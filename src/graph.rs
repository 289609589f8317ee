//! The static graph of coarse ops: appended to by model code, differentiated by appending, planned once.
//!
//! Nodes are only ever appended, so an index is a topological order. Nothing here knows of a device.

pub mod gradient;
pub mod limits;
pub mod memory;
pub mod op;
pub mod parameter;
pub mod plan;
pub mod quantisation;
pub mod shape;
pub mod variants;

pub use limits::{AdapterKind, Limits};
pub use op::{Binding, Constant, Cost, Dispatch, Op, Shader, Shapes, Step};
pub use parameter::{Depth, Initial, NetworkId, Parameter};
pub use plan::{Command, Plan, Segment};
pub use quantisation::{Quantisation, QuantisedAs};
pub use shape::{Dtype, Shape};
pub use variants::{Choices, Variants};

use quantisation::scales_name;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// A small handle: output `slot` of node `node`. Only slot 0 carries a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tensor {
    pub node: usize,
    pub slot: usize,
}

/// Where a tensor without an op comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaf {
    /// A named buffer of the store that training changes: a parameter, a gradient, optimiser state.
    State,
    /// A named buffer that the host writes before a replay.
    Input,
}

/// Members of states that are stored together start at multiples of so many elements: in bytes, an offset that every device can
/// bind at.
pub const PLACE: usize = 64;

/// The op of a node, or its kind of leaf.
#[derive(Clone, Debug)]
pub enum Source {
    Leaf(Leaf),
    Op(Arc<dyn Op>),
}

/// One op applied to tensors, or a leaf.
#[derive(Clone, Debug)]
pub struct Node {
    /// Checkpoint name for a leaf (`h.3.attn.c_attn.weight`); the op's name and the place for the rest.
    pub label: String,
    pub source: Source,
    pub inputs: Vec<Tensor>,
    pub outputs: Vec<Shape>,
    /// The network that a state belongs to, where it belongs to one.
    pub network: Option<NetworkId>,
}

/// An append-only graph. Model code calls [`Graph::apply`] with ops.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Nodes of named leaves.
    leaves: HashMap<String, usize>,
    parameters: Vec<Parameter>,
    /// Nodes of parameters.
    declared: HashSet<usize>,
    outputs: Vec<(String, Tensor)>,
    segments: Vec<(String, usize)>,
    scope: String,
    depth: Depth,
    regions: Vec<Range<usize>>,
    /// What each region made.
    made: Vec<Tensor>,
    recomputes: bool,
    seed: Option<Tensor>,
}

impl Graph {
    pub fn new() -> Self {
        Self::default()
    }

    /// A named buffer of the store, shared by every plan that names it.
    pub fn state(&mut self, name: &str, dims: &[usize]) -> Tensor {
        self.leaf(name, Leaf::State, Shape::f32(dims), None)
    }

    /// A state that belongs to a network, such as its cache. Panics if another network has one of this name: give each network
    /// a prefix of its own.
    #[track_caller]
    pub fn state_of(&mut self, network: NetworkId, name: &str, dims: &[usize]) -> Tensor {
        self.leaf(name, Leaf::State, Shape::f32(dims), Some(network))
    }

    /// Declares a parameter of a network at the current [`Graph::depth`], or finds it where it is declared already. Matrices
    /// and tables are decayed.
    #[track_caller]
    pub fn parameter(&mut self, network: NetworkId, name: &str, dims: &[usize], initial: Initial) -> Tensor {
        let (decays, depth) = (dims.len() >= 2, self.depth);
        let (name, dims) = (name.into(), dims.to_vec());
        self.declare(network, &Parameter { name, dims, initial, decays, depth, adapter: false, quantised: None })
    }

    /// As [`Graph::parameter`], of an adapter.
    #[track_caller]
    pub fn adapter_parameter(&mut self, network: NetworkId, name: &str, dims: &[usize], initial: Initial) -> Tensor {
        let (name, dims, depth) = (name.into(), dims.to_vec(), self.depth);
        self.declare(network, &Parameter { name, dims, initial, decays: true, depth, adapter: true, quantised: None })
    }

    /// Declares a parameter that is described already. Of a quantised one it is the words, and its scales are a state beside it.
    #[track_caller]
    pub fn declare(&mut self, network: NetworkId, parameter: &Parameter) -> Tensor {
        let shape = match parameter.quantised {
            None => Shape::f32(&parameter.dims),
            Some(quantised) => {
                let (rows, columns) = quantised.sizes(&parameter.dims);
                let scales = quantised.quantisation.scale_words(rows * columns);
                if scales > 0 {
                    let name = scales_name(&parameter.name);
                    self.leaf(&name, Leaf::State, Shape::u32(&[scales]), Some(network));
                }
                Shape::u32(&[rows, columns / quantised.quantisation.per_word()])
            }
        };
        let tensor = self.leaf(&parameter.name, Leaf::State, shape, Some(network));
        if self.declared.insert(tensor.node) {
            self.parameters.push(parameter.clone());
        }
        tensor
    }

    /// The scales of a quantised parameter that is declared, where it has some.
    pub fn scales(&self, parameter: Tensor) -> Option<Tensor> {
        let name = scales_name(&self.nodes[parameter.node].label);
        self.leaves.get(&name).map(|&node| Tensor { node, slot: 0 })
    }

    /// The current depth of declarations.
    pub fn current_depth(&self) -> Depth {
        self.depth
    }

    /// All parameters, in the order of their declaration.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Parameters declared from now on stand at `depth`.
    pub fn depth(&mut self, depth: Depth) {
        self.depth = depth;
    }

    /// As [`Graph::state`], of token ids or bits.
    pub fn state_u32(&mut self, name: &str, dims: &[usize]) -> Tensor {
        self.leaf(name, Leaf::State, Shape::u32(dims), None)
    }

    /// A named input that the host writes before a replay.
    pub fn input(&mut self, name: &str, shape: Shape) -> Tensor {
        self.leaf(name, Leaf::Input, shape, None)
    }

    /// Stores f32 states one after another in one buffer and returns the whole of it as a state (n) called `name`, so that
    /// an update of all of them is one op. `members` are their newest versions; once the whole exists, ops work on that.
    /// Each member starts at a multiple of [`PLACE`] elements, and the elements between are 0.
    #[track_caller]
    pub fn together(&mut self, name: &str, members: &[Tensor]) -> Tensor {
        for member in members {
            let root = &self.nodes[self.root(*member).node];
            let fits = matches!(root.source, Source::Leaf(Leaf::State)) && self.shape(*member).dtype == Dtype::F32;
            assert!(fits && root.inputs.is_empty(), "`{}` cannot be stored in `{name}`", root.label);
        }
        let len = members.iter().map(|t| self.shape(*t).len().next_multiple_of(PLACE)).sum();
        let (source, inputs) = (Source::Leaf(Leaf::State), members.to_vec());
        self.push(Node { label: name.into(), source, inputs, outputs: vec![Shape::f32(&[len])], network: None })
    }

    /// Members of a node that stores states together, each with the byte it starts at.
    pub fn members(&self, node: usize) -> impl Iterator<Item = (Tensor, u64)> {
        let is_leaf = matches!(self.nodes[node].source, Source::Leaf(_));
        let mut next = 0;
        self.nodes[node].inputs.iter().filter(move |_| is_leaf).map(move |member| {
            let start = next;
            next += 4 * self.shape(*member).len().next_multiple_of(PLACE) as u64;
            (*member, start)
        })
    }

    #[track_caller]
    fn leaf(&mut self, name: &str, leaf: Leaf, shape: Shape, network: Option<NetworkId>) -> Tensor {
        if let Some(&node) = self.leaves.get(name) {
            let known = &self.nodes[node].outputs[0];
            assert!(*known == shape, "`{name}` is {known:?} already, and cannot be {shape:?} as well");
            let owner = &mut self.nodes[node].network;
            let same = owner.is_none() || network.is_none() || *owner == network;
            assert!(same, "`{name}` is a state of another network: give each network a prefix of its own");
            *owner = owner.or(network);
            return Tensor { node, slot: 0 };
        }
        self.leaves.insert(name.into(), self.nodes.len());
        self.push(Node {
            label: name.into(),
            source: Source::Leaf(leaf),
            inputs: vec![],
            outputs: vec![shape],
            network,
        })
    }

    /// Appends `op` over `inputs` and returns its slot 0; panics with the op's and the tensors' names if shapes do not fit.
    #[track_caller]
    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[Tensor]) -> Tensor {
        self.apply_shared(Arc::new(op), inputs)
    }

    /// [`Graph::apply`] with an op that is shared already.
    #[track_caller]
    pub fn apply_shared(&mut self, op: Arc<dyn Op>, inputs: &[Tensor]) -> Tensor {
        let shapes: Vec<&Shape> = inputs.iter().map(|t| self.shape(*t)).collect();
        let outputs = op.outputs(&shapes);
        assert!(!outputs.is_empty(), "{} has no output", op.name());
        let label = if self.scope.is_empty() { op.name().into() } else { format!("{}: {}", self.scope, op.name()) };
        self.push(Node { label, source: Source::Op(op), inputs: inputs.to_vec(), outputs, network: None })
    }

    fn push(&mut self, node: Node) -> Tensor {
        self.nodes.push(node);
        Tensor { node: self.nodes.len() - 1, slot: 0 }
    }

    /// Nodes appended from now on carry `scope` in their labels, so that profiles and errors name the place.
    pub fn scope(&mut self, scope: impl Into<String>) {
        self.scope = scope.into();
    }

    /// Makes the nodes that `build` appends a region: a part whose inner values the backward pass may compute again from its
    /// inputs, so that they need not be kept (see [`Graph::recompute_regions`]).
    pub fn region(&mut self, build: impl FnOnce(&mut Graph) -> Tensor) -> Tensor {
        let start = self.nodes.len();
        let made = build(self);
        self.regions.push(start..self.nodes.len());
        self.made.push(made);
        made
    }

    /// What each region made, in their order: of a model, its hidden states after each block.
    pub fn made_by_regions(&self) -> &[Tensor] {
        &self.made
    }

    /// Appends the ops after `from` up to `to` once more, over `by` in place of `from`; the copy of `to`.
    #[track_caller]
    pub fn repeat(&mut self, from: Tensor, to: Tensor, by: Tensor) -> Tensor {
        let copies = self.copy(from.node + 1..to.node + 1, HashMap::from([(from.node, by.node)]));
        Tensor { node: copies.get(&to.node).copied().unwrap_or(to.node), ..to }
    }

    /// Sets the gradient of the loss before there is a loss: ops may then make gradients in the forward pass.
    pub fn set_seed(&mut self, seed: Tensor) {
        self.seed = Some(seed);
    }

    /// The gradient of the loss, where it is known already.
    pub fn seed(&self) -> Option<Tensor> {
        self.seed
    }

    /// Has the backward pass compute the inside of regions again: less memory, one more forward pass (Chen et al. 2016,
    /// "Training Deep Nets with Sublinear Memory Cost").
    pub fn recompute_regions(&mut self) {
        self.recomputes = true;
    }

    /// The region of a node that is to be computed again.
    fn recomputed_region(&self, node: usize) -> Option<Range<usize>> {
        self.regions.iter().find(|region| self.recomputes && region.contains(&node)).cloned()
    }

    /// Appends the ops of `region` once more, over `copies` of nodes before it; the copy of each node.
    fn copy(&mut self, region: Range<usize>, mut copies: HashMap<usize, usize>) -> HashMap<usize, usize> {
        for node in region {
            let Some(op) = self.op(node).cloned() else { continue };
            let Node { label, inputs, outputs, .. } = self.nodes[node].clone();
            let changes = |(slot, _): &(usize, usize)| {
                matches!(self.nodes[self.root(Tensor { node, slot: *slot }).node].source, Source::Leaf(Leaf::State))
            };
            assert!(!op.in_place().iter().any(changes), "{label} changes a state, and must not be computed twice");
            let moved = |t: &Tensor| Tensor { node: copies.get(&t.node).copied().unwrap_or(t.node), ..*t };
            let inputs = inputs.iter().map(moved).collect();
            let copy =
                Node { label: format!("again: {label}"), source: Source::Op(op), inputs, outputs, network: None };
            copies.insert(node, self.push(copy).node);
        }
        copies
    }

    /// Which nodes matter: leaves, and ops that lead to an output or change a state.
    pub fn live(&self) -> Vec<bool> {
        let is_state = |t: Tensor| matches!(self.nodes[self.root(t).node].source, Source::Leaf(Leaf::State));
        let mut live = vec![false; self.nodes.len()];
        self.outputs.iter().for_each(|(_, t)| live[t.node] = true);
        for (i, node) in self.nodes.iter().enumerate().rev() {
            live[i] |= match &node.source {
                Source::Leaf(_) => true,
                Source::Op(op) => op.in_place().iter().any(|(slot, _)| is_state(Tensor { node: i, slot: *slot })),
            };
            if live[i] {
                node.inputs.iter().for_each(|t| live[t.node] = true);
            }
        }
        live
    }

    /// Keeps `tensor` readable under `name` after a replay.
    pub fn output(&mut self, name: &str, tensor: Tensor) {
        self.outputs.push((name.into(), tensor));
    }

    /// Starts a segment: the nodes appended from here to the next segment are replayed together.
    pub fn segment(&mut self, name: &str) {
        self.segments.push((name.into(), self.nodes.len()));
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn outputs(&self) -> &[(String, Tensor)] {
        &self.outputs
    }

    /// Segments as (name, range of nodes), in order; one called `main` if none was named.
    pub fn segments(&self) -> Vec<(String, Range<usize>)> {
        let mut starts = self.segments.clone();
        if starts.is_empty() {
            starts.push(("main".into(), 0));
        }
        let ends = starts.iter().skip(1).map(|s| s.1).chain([self.nodes.len()]).collect::<Vec<_>>();
        starts.into_iter().zip(ends).map(|((name, start), end)| (name, start..end)).collect()
    }

    pub fn shape(&self, tensor: Tensor) -> &Shape {
        &self.nodes[tensor.node].outputs[tensor.slot]
    }

    /// The op of a node, if it is not a leaf.
    pub fn op(&self, node: usize) -> Option<&Arc<dyn Op>> {
        match &self.nodes[node].source {
            Source::Op(op) => Some(op),
            Source::Leaf(_) => None,
        }
    }

    /// Shapes of a node's inputs and outputs, as its op wants them.
    pub fn shapes(&self, node: usize) -> Shapes<'_> {
        let at = &self.nodes[node];
        Shapes { inputs: at.inputs.iter().map(|t| self.shape(*t)).collect(), outputs: at.outputs.iter().collect() }
    }

    /// The named leaf that a tensor is stored in, following ops that work in place.
    pub fn root(&self, mut tensor: Tensor) -> Tensor {
        while let Some(op) = self.op(tensor.node) {
            match op.in_place().iter().find(|(slot, _)| *slot == tensor.slot) {
                Some((_, input)) => tensor = self.nodes[tensor.node].inputs[*input],
                None => break,
            }
        }
        tensor
    }

    /// Adds `value` to `into` in place and returns the sum. Where the op that made `value` can add by itself, it does:
    /// its node, which must be newer than `into` and unread, is amended; otherwise `add`, which adds in place, is appended.
    pub fn accumulate(&mut self, value: Tensor, into: Tensor, newer_than: usize, add: &Arc<dyn Op>) -> Tensor {
        let unread = value.node >= newer_than
            && value.node > into.node
            && self.nodes[value.node + 1..].iter().all(|n| !n.inputs.contains(&value));
        let amended = self.op(value.node).filter(|_| unread).and_then(|op| op.accumulating(value.slot));
        match amended {
            Some(op) => {
                let node = &mut self.nodes[value.node];
                node.inputs.push(into);
                node.source = Source::Op(op);
                value
            }
            None => self.apply_shared(add.clone(), &[into, value]),
        }
    }
}
