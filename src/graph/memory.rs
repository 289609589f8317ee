//! Which tensors share which buffer: whole buffers, never ranges of one, because wgpu tracks usage per buffer.

use super::{Graph, Leaf, Node, Source, Tensor};
use std::collections::HashMap;

/// Life of one piece of storage, in node indices, both ends included.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    pub size_bytes: u64,
    pub first: usize,
    pub last: usize,
}

impl Life {
    fn overlaps(&self, other: &Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Assigns each life a buffer: largest first, into the smallest buffer that is large enough and free throughout; returns
/// the buffer of each life and the size of each buffer. Two overlapping lives never share one, which is asserted.
pub fn pack(lives: &[Life]) -> (Vec<usize>, Vec<u64>) {
    let mut order: Vec<usize> = (0..lives.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lives[i].size_bytes), lives[i].first, i));
    let mut tenants: Vec<Vec<usize>> = vec![];
    let mut assigned = vec![usize::MAX; lives.len()];
    for i in order {
        let free = |buffer: &Vec<usize>| buffer.iter().all(|&other| !lives[other].overlaps(&lives[i]));
        // Buffers are in descending order of size, so the last free one is the best fit.
        let buffer = tenants.iter().rposition(free).unwrap_or_else(|| {
            tenants.push(vec![]);
            tenants.len() - 1
        });
        tenants[buffer].push(i);
        assigned[i] = buffer;
    }
    for lodgers in &tenants {
        for (n, &a) in lodgers.iter().enumerate() {
            assert!(lodgers[n + 1..].iter().all(|&b| !lives[a].overlaps(&lives[b])), "two live tensors share a buffer");
        }
    }
    let sizes = tenants.iter().map(|lodgers| lodgers.iter().map(|&i| lives[i].size_bytes).max().unwrap_or(0)).collect();
    (assigned, sizes)
}

/// The most bytes alive at any one node: no assignment can do better.
pub fn peak(lives: &[Life]) -> u64 {
    let at = |node: usize| lives.iter().filter(|l| l.first <= node && node <= l.last).map(|l| l.size_bytes).sum();
    lives.iter().map(|l| at(l.first)).max().unwrap_or(0)
}

/// The purpose of a piece of storage.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// A named buffer of the store, outside the plan.
    State,
    /// Written by the host before a replay; own buffer.
    Input,
    /// Read by the host after a replay; own buffer.
    Output,
    /// Shared with others by [`pack`].
    Temporary,
}

/// Storage of every tensor of a graph that matters ([`Graph::live`]).
#[derive(Debug, Default)]
pub struct Storage {
    /// Storage index of each tensor.
    pub of: HashMap<Tensor, usize>,
    /// Class, label and life of each storage.
    pub entries: Vec<(Class, String, Life)>,
    /// States that are stored in another one: its storage, and the byte they start at.
    pub within: HashMap<usize, (usize, u64)>,
    /// (node, from tensor, to slot): contents to copy before the node runs, because it works in place over a tensor that
    /// is still needed.
    pub copies: Vec<(usize, Tensor, usize)>,
}

impl Storage {
    pub fn new(g: &Graph) -> Self {
        let end = g.nodes().len();
        let live = g.live();
        let nodes = || g.nodes().iter().enumerate().filter(|(i, _)| live[*i]);
        let mut last_use: HashMap<Tensor, usize> = HashMap::new();
        for (i, node) in nodes() {
            node.inputs.iter().for_each(|t| _ = last_use.insert(*t, i));
        }
        let pinned = |t: Tensor| g.outputs().iter().any(|(_, output)| *output == t);
        let mut storage = Storage::default();
        for (i, node) in nodes() {
            for slot in 0..node.outputs.len() {
                let at = Tensor { node: i, slot };
                let last = if pinned(at) { end } else { last_use.get(&at).copied().unwrap_or(i) };
                let index = match &node.source {
                    Source::Leaf(leaf) => {
                        let class = if *leaf == Leaf::State { Class::State } else { Class::Input };
                        storage.add(class, node.label.clone(), node.outputs[slot].size_bytes(), 0, end)
                    }
                    Source::Op(op) => {
                        let over = op.in_place().iter().find(|(s, _)| *s == slot).map(|(_, input)| node.inputs[*input]);
                        storage.place(g, at, over, last, &last_use, pinned(at))
                    }
                };
                storage.of.insert(at, index);
            }
            for (member, start) in g.members(i) {
                let whole = storage.of[&Tensor { node: i, slot: 0 }];
                let before = storage.within.insert(storage.of[&member], (whole, start));
                assert!(before.is_none(), "{member:?} cannot be stored in `{}` as well", node.label);
            }
        }
        storage.check_versions(g, nodes());
        storage
    }

    fn add(&mut self, class: Class, label: String, size_bytes: u64, first: usize, last: usize) -> usize {
        self.entries.push((class, label, Life { size_bytes, first, last }));
        self.entries.len() - 1
    }

    /// Storage for an op's output: that of the tensor it works over in place, if nothing else still needs that one.
    fn place(
        &mut self,
        g: &Graph,
        at: Tensor,
        over: Option<Tensor>,
        last: usize,
        last_use: &HashMap<Tensor, usize>,
        pinned: bool,
    ) -> usize {
        let node = &g.nodes()[at.node];
        if let Some(over) = over {
            let shared = self.of[&over];
            let twice = node.inputs.iter().filter(|t| self.of[t] == shared).count() > 1;
            match self.entries[shared].0 {
                Class::State => {
                    assert!(!twice, "{} changes `{}` while it reads it", node.label, self.entries[shared].1);
                    assert!(!pinned, "state `{}` is read by name, not as an output", self.entries[shared].1);
                    return shared;
                }
                Class::Temporary if !twice && !pinned && last_use[&over] == at.node => {
                    self.entries[shared].2.last = last;
                    return shared;
                }
                _ => self.copies.push((at.node, over, at.slot)),
            }
        }
        let class = if pinned { Class::Output } else { Class::Temporary };
        self.add(class, node.label.clone(), g.shape(at).size_bytes(), at.node, last)
    }

    /// Asserts that nobody reads an older version of a state after an op changed it in place.
    fn check_versions<'a>(&self, g: &Graph, nodes: impl Iterator<Item = (usize, &'a Node)>) {
        let mut newest: HashMap<usize, Tensor> = HashMap::new();
        for (i, node) in nodes {
            for t in &node.inputs {
                let (class, label, _) = &self.entries[self.of[t]];
                let current = newest.get(&self.of[t]).copied();
                let stale = *class == Class::State && current.is_some_and(|c| c != *t);
                assert!(!stale, "{} reads `{label}` as it was before {current:?} changed it", node.label);
            }
            for slot in 0..node.outputs.len() {
                let at = Tensor { node: i, slot };
                newest.insert(self.of[&at], at);
            }
            // States that are stored together are from here on only reached through their common buffer.
            g.members(i).for_each(|(member, _)| _ = newest.insert(self.of[&member], Tensor { node: i, slot: 0 }));
        }
    }
}
