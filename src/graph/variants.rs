//! Ways to run an op where there are several, and which of them was chosen for a device.

use super::{Graph, Limits, Op, Shape, Shapes};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ways there are to run an op at some shapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Variants {
    /// Ops of one class share a choice: the op, its types and layout, its rough size.
    pub class: String,
    /// Their names, the best guess first, which runs until something was measured.
    pub names: Vec<String>,
    /// Shapes of the op's inputs that stand for the class, no larger than a measurement needs.
    pub inputs: Vec<Shape>,
}

/// A variant for every class that was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices {
    chosen: BTreeMap<String, String>,
    /// Parts of names: a variant with one of them in its name is run wherever there is one, whatever was measured.
    forced: Vec<String>,
}

impl Choices {
    pub fn new(chosen: BTreeMap<String, String>, forced: Vec<String>) -> Choices {
        Choices { chosen, forced }
    }

    /// Variants by class.
    pub fn chosen(&self) -> &BTreeMap<String, String> {
        &self.chosen
    }

    pub fn forced(&self) -> &[String] {
        &self.forced
    }

    /// Takes `variant` for a class from now on.
    pub fn choose(&mut self, class: &str, variant: &str) {
        self.chosen.insert(class.into(), variant.into());
    }

    /// Which of `names` to run for a class: the forced variant, the chosen one, or the best guess.
    pub fn pick(&self, class: &str, names: &[String]) -> usize {
        let is_forced = |name: &String| self.forced.iter().any(|part| name.contains(part.as_str()));
        let chosen = self.chosen.get(class);
        names.iter().position(is_forced).or_else(|| names.iter().position(|n| Some(n) == chosen)).unwrap_or(0)
    }
}

impl Graph {
    /// The chosen variants by class.
    pub fn variants(&self, limits: &Limits) -> BTreeMap<String, String> {
        let all = self.choosable(limits).into_iter().map(|(_, _, variants)| variants);
        all.map(|v| (v.class.clone(), v.names[limits.choices.pick(&v.class, &v.names)].clone())).collect()
    }

    /// Everything that runs and has variants, with its FLOPs: nodes that matter, and the ops within them.
    pub fn choosable(&self, limits: &Limits) -> Vec<(Arc<dyn Op>, u64, Variants)> {
        let mut found = vec![];
        let mut add = |op: &Arc<dyn Op>, shapes: &Shapes| {
            let variants = op.variants(shapes, limits);
            found.extend(variants.map(|variants| (op.clone(), op.cost(shapes).flops, variants)));
        };
        let live = self.live();
        for node in (0..self.nodes().len()).filter(|node| live[*node]) {
            let Some(op) = self.op(node) else { continue };
            let shapes = self.shapes(node);
            add(op, &shapes);
            for (part, inputs) in op.parts(&shapes) {
                let inputs: Vec<&Shape> = inputs.iter().collect();
                let outputs = part.outputs(&inputs);
                add(&part, &Shapes { inputs, outputs: outputs.iter().collect() });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forced_variant_precedes_a_measured_one_and_that_the_guess() {
        let names: Vec<String> = ["tiled 8x8", "tiled 4x4", "vector 4"].map(String::from).into();
        let mut choices = Choices::default();
        assert_eq!(choices.pick("matmul", &names), 0);
        choices.choose("matmul", "tiled 4x4");
        assert_eq!((choices.pick("matmul", &names), choices.pick("attention", &names)), (1, 0));
        // A variant that no longer exists is no choice.
        choices.choose("matmul", "tiled 2x2");
        assert_eq!(choices.pick("matmul", &names), 0);
        choices.choose("matmul", "tiled 4x4");
        let forced = Choices::new(choices.chosen().clone(), vec!["vector".into(), "registers".into()]);
        assert_eq!((forced.pick("matmul", &names), forced.pick("matmul", &names[..2])), (2, 1));
    }
}
