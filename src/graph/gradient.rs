//! Reverse-mode differentiation by appending nodes: mark, walk backwards, call `vjp`, add where a tensor is used twice.

use super::{Dtype, Graph, Leaf, Op, Shape, Source, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// Appends the backward pass of the scalar `loss`. For each `(parameter, gradient)` pair it **adds**
/// `seed * d loss / d parameter` into the state `gradient` of the same shape, and returns the states as they are then.
/// Activations' gradients are written, not added; where a tensor is used twice, `add` sums in place. A parameter that several nodes
/// use gets the sum of its parts at once where `whole` says so: one replay then adds the bits that it adds to zero.
pub fn gradient(
    g: &mut Graph,
    loss: Tensor,
    seed: Tensor,
    wanted: &[(Tensor, Tensor)],
    add: &Arc<dyn Op>,
    whole: bool,
) -> Vec<Tensor> {
    assert!(g.shape(seed).len() == 1, "the seed is one number, not {:?}", g.shape(seed));
    assert!(g.shape(loss).len() == 1 && loss.slot == 0, "the loss is one number in slot 0, not {:?}", g.shape(loss));
    let mut sums: HashMap<Tensor, Tensor> = wanted.iter().copied().collect();
    let needed = mark(g, loss.node, wanted);
    // The parts so far of parameters that are used several times.
    let mut parts_of: HashMap<Tensor, Option<Tensor>> = HashMap::new();
    if whole {
        let used = |t: &Tensor| g.nodes()[..=loss.node].iter().filter(|node| node.inputs.contains(t)).count();
        parts_of.extend(wanted.iter().filter(|(t, _)| used(t) > 1).map(|(t, _)| (*t, None)));
    }
    let mut grads: HashMap<Tensor, Tensor> = HashMap::new();
    grads.insert(loss, seed);
    // The copies of the current region's nodes, where the region is recomputed.
    let mut copies: HashMap<usize, usize> = HashMap::new();
    for node in (0..=loss.node).rev() {
        let at = Tensor { node, slot: 0 };
        let (Some(op), Some(dy)) = (g.op(node).cloned(), grads.remove(&at)) else { continue };
        let inputs = g.nodes()[node].inputs.clone();
        let wants: Vec<bool> = inputs.iter().map(|t| t.slot == 0 && needed[t.node]).collect();
        if let Some(region) = g.recomputed_region(node).filter(|_| !copies.contains_key(&node)) {
            copies = g.copy(region, HashMap::new());
        }
        g.scope(format!("gradient of {}", g.nodes()[node].label));
        let first_new = g.nodes().len();
        let parts = op.vjp(g, copies.get(&node).copied().unwrap_or(node), dy, &wants);
        assert!(parts.len() == inputs.len(), "{}: vjp returns one gradient per input", op.name());
        for ((input, part), want) in inputs.iter().zip(&parts).zip(wants) {
            let Some(part) = part.filter(|_| want) else { continue };
            assert!(
                is_gradient(g.shape(part), g.shape(*input)),
                "{}: the gradient of {} is {:?}",
                op.name(),
                g.nodes()[input.node].label,
                g.shape(part)
            );
            // Nothing else reads the nodes that `vjp` has just appended; a tensor that it passes through has other readers,
            // unless it is the gradient of nothing else.
            let held = grads.values().chain(parts.iter().flatten()).filter(|other| **other == part).count();
            let own = match part {
                _ if part.node == node => node,
                _ if part == dy && held == 1 => 0,
                _ => first_new,
            };
            if let Some(of_parameter) = parts_of.get_mut(input) {
                let sum = of_parameter.map_or(part, |total| g.accumulate(part, total, own, add));
                *of_parameter = Some(sum);
                continue;
            }
            let totals = if sums.contains_key(input) { &mut sums } else { &mut grads };
            let total = totals.get(input).copied();
            let sum = total.map_or(part, |total| g.accumulate(part, total, own, add));
            totals.insert(*input, sum);
        }
    }
    g.scope("");
    for (parameter, state) in wanted {
        if let Some(Some(parts)) = parts_of.get(parameter) {
            let sum = g.apply_shared(add.clone(), &[*state, *parts]);
            sums.insert(*parameter, sum);
        }
    }
    wanted.iter().map(|(parameter, _)| sums[parameter]).collect()
}

/// Whether a gradient fits a tensor: of its type, or f32 for an f16 copy of a parameter.
fn is_gradient(gradient: &Shape, of: &Shape) -> bool {
    gradient.dims == of.dims && (gradient.dtype == of.dtype || gradient.dtype == Dtype::F32)
}

/// Nodes up to `last` on a path from a wanted parameter.
fn mark(g: &Graph, last: usize, wanted: &[(Tensor, Tensor)]) -> Vec<bool> {
    let mut needed = vec![false; last + 1];
    for (parameter, total) in wanted {
        assert!(
            matches!(g.nodes()[parameter.node].source, Source::Leaf(Leaf::State)),
            "only parameters have gradients"
        );
        assert!(g.shape(*parameter) == g.shape(*total), "a gradient has its parameter's shape");
        needed[parameter.node] = true;
    }
    for node in 0..=last {
        needed[node] |= g.nodes()[node].inputs.iter().any(|t| needed[t.node]);
    }
    needed
}
