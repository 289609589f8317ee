//! A case: an op with shapes and tolerances. Tests, benches and `wgpt doctor` iterate the same list.

use super::global_norm::report;
use crate::graph::{Dtype, Graph, Limits, Op, Shape, Step, Tensor};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::sync::Arc;

/// How an input is drawn. Always seeded and random, never zeros.
#[derive(Clone, Copy, Debug)]
pub enum Draw {
    /// Uniform in `-scale..scale`.
    Uniform(f32),
    /// As `Uniform`, in half precision.
    Half(f32),
    /// Uniform in `low..high`, for values that must be positive.
    Between(f32, f32),
    /// Ids below a vocabulary size.
    Ids(u32),
    /// As `Ids`, and the output in their place is compared to the bit.
    Exact(u32),
    /// Ids below a vocabulary size, one in five ignored.
    Targets(u32),
    /// Whole numbers from -n to n, many of them equal.
    Whole(i32),
    /// Exactly these: ids that must fit those of another input.
    Words(fn() -> Vec<u32>),
    /// Exactly these numbers.
    Values(fn() -> Vec<f32>),
    /// The report of a fine step: clip factor 0.7, update number 5.
    Report,
}

/// One op at one shape.
pub struct Case {
    /// The op, the shape and the special feature of the case, for the reader of a table.
    pub name: &'static str,
    pub op: fn() -> Arc<dyn Op>,
    /// Dimensions and distribution of each input.
    pub inputs: &'static [(&'static [usize], Draw)],
    /// Whether `vjp` runs as well: backward kernels are compared, and checked against finite differences if small enough.
    pub gradient: bool,
    /// `Step::position` of the replay.
    pub position: u32,
    /// Absolute and relative tolerance of shader against reference.
    pub atol: f32,
    pub rtol: f32,
    /// Why these tolerances.
    pub reason: &'static str,
}

/// An op with its inputs at one shape, and how closely its shaders follow the reference: a case, or drawn at random.
pub struct Problem {
    pub name: String,
    pub op: Arc<dyn Op>,
    /// Dimensions and distribution of each input.
    pub inputs: Vec<(Vec<usize>, Draw)>,
    /// As of a case.
    pub gradient: bool,
    pub position: u32,
    pub atol: f32,
    pub rtol: f32,
}

/// In the name of a case whose tensors are larger than a binding may be: it runs as if that were [`SMALL_BINDING_BYTES`].
const BEYOND: &str = "beyond one binding";
/// What a binding holds there: far less than 128 MiB, the least that adapters give, so that the case takes a moment.
const SMALL_BINDING_BYTES: u64 = 8 << 20;

/// A graph of a problem: the op over its inputs, and its gradients if it has them.
pub struct Built {
    pub graph: Graph,
    pub inputs: Vec<(String, Vec<f32>)>,
    /// Names of the graph's outputs: `y0`, `y1`, ... and `d0`, `d1`, ... for the gradients of the inputs.
    pub outputs: Vec<String>,
    position: u32,
    /// What a binding holds at most, where that is less than on the device.
    binding_bytes: Option<u64>,
}

impl Case {
    pub fn problem(&self) -> Problem {
        let &Case { gradient, position, atol, rtol, .. } = self;
        let inputs = self.inputs.iter().map(|(dims, draw)| (dims.to_vec(), *draw)).collect();
        Problem { name: self.name.into(), op: (self.op)(), inputs, gradient, position, atol, rtol }
    }

    /// The op over its inputs `x0`, `x1`, ..., with its gradients if it has them, and the names of the graph's outputs.
    pub fn graph(&self) -> (Graph, Vec<String>) {
        self.problem().graph()
    }

    /// Whether any tensor is in half precision.
    pub fn is_half(&self) -> bool {
        self.problem().is_half()
    }

    /// The case's graph with inputs drawn from `seed`.
    pub fn build(&self, seed: u64) -> Built {
        self.problem().build(seed)
    }
}

impl Problem {
    /// The op over its inputs `x0`, `x1`, ..., with its gradients if it has them, and the names of the graph's outputs.
    pub fn graph(&self) -> (Graph, Vec<String>) {
        let op = &self.op;
        let mut g = Graph::new();
        let input = |(i, (dims, draw)): (usize, &(Vec<usize>, Draw))| {
            g.input(&format!("x{i}"), Shape { dims: dims.clone(), dtype: draw.dtype() })
        };
        let tensors: Vec<Tensor> = self.inputs.iter().enumerate().map(input).collect();
        let y = g.apply_shared(op.clone(), &tensors);
        let mut outputs = vec![];
        let slots = g.nodes()[y.node].outputs.len() - op.scratch();
        let mut keep = |g: &mut Graph, name: String, t: Tensor| {
            g.output(&name, t);
            outputs.push(name);
        };
        for slot in 0..slots {
            keep(&mut g, format!("y{slot}"), Tensor { node: y.node, slot });
        }
        if self.gradient {
            let shape = g.shape(y).clone();
            let dy = g.input("dy", shape);
            let needed: Vec<bool> = self.inputs.iter().map(|(_, draw)| draw.dtype() != Dtype::U32).collect();
            for (i, d) in op.vjp(&mut g, y.node, dy, &needed).into_iter().enumerate() {
                // An op may pass `dy` through as it is; then there is nothing to compare.
                if let Some(d) = d.filter(|d| *d != dy && needed[i]) {
                    keep(&mut g, format!("d{i}"), d);
                }
            }
        }
        (g, outputs)
    }

    /// Whether any tensor is in half precision.
    pub fn is_half(&self) -> bool {
        self.graph().0.nodes().iter().flat_map(|n| &n.outputs).any(|shape| shape.dtype == Dtype::F16)
    }

    /// The graph with inputs drawn from `seed`.
    pub fn build(&self, seed: u64) -> Built {
        let (graph, outputs) = self.graph();
        let mut rng = Pcg64::seed_from_u64(seed);
        let mut inputs = vec![];
        for (i, (dims, draw)) in self.inputs.iter().enumerate() {
            inputs.push((format!("x{i}"), draw.values(dims.iter().product(), &mut rng)));
        }
        if let Some(dy) = graph.nodes().iter().find(|n| n.label == "dy") {
            let draw = if dy.outputs[0].dtype == Dtype::F16 { Draw::Half(1.0) } else { Draw::Uniform(1.0) };
            inputs.push(("dy".into(), draw.values(dy.outputs[0].len(), &mut rng)));
        }
        let binding_bytes = self.name.contains(BEYOND).then_some(SMALL_BINDING_BYTES);
        Built { graph, inputs, outputs, position: self.position, binding_bytes }
    }

    /// Whether an output is compared to the bit: ids, but for numbers in place of an input that is not exact.
    pub fn is_bits(&self, output: &str, dtype: Dtype) -> bool {
        let in_place = self.op.in_place();
        let input = in_place.iter().find(|(slot, _)| output == format!("y{slot}")).map(|(_, input)| *input);
        input.map_or(dtype == Dtype::U32, |input| matches!(self.inputs[input].1, Draw::Exact(_)))
    }
}

impl Built {
    pub fn dtype(&self, output: &str) -> Dtype {
        let kept = self.graph.outputs().iter().find(|(name, _)| name == output);
        kept.map_or(Dtype::F32, |(_, t)| self.graph.shape(*t).dtype)
    }

    /// The limits that the graph is planned for, on a device with these.
    pub fn limits(&self, device: &Limits) -> Limits {
        let binding_bytes = self.binding_bytes.unwrap_or(u64::MAX).min(device.binding_bytes);
        Limits { binding_bytes, ..device.clone() }
    }

    /// Values of the step uniform for a replay: some numbers, and the problem's position.
    pub fn step(&self) -> Step {
        let position = self.position;
        Step { step: 3, micro_batch: 5, seed: 7, learning_rate: 0.01, position, growth: 1.5, ..Step::default() }
    }
}

impl Draw {
    pub fn dtype(self) -> Dtype {
        match self {
            Draw::Uniform(_) | Draw::Between(..) | Draw::Whole(_) | Draw::Report | Draw::Values(_) => Dtype::F32,
            Draw::Half(_) => Dtype::F16,
            Draw::Ids(_) | Draw::Exact(_) | Draw::Targets(_) | Draw::Words(_) => Dtype::U32,
        }
    }

    /// `len` values; ids travel as bits.
    fn values(self, len: usize, rng: &mut Pcg64) -> Vec<f32> {
        if let Draw::Report = self {
            let mut words = vec![0.5; len];
            words[report::CLIP] = 0.7;
            words[report::BAD] = f32::from_bits(report::FINE);
            words[report::UPDATES] = f32::from_bits(5);
            return words;
        }
        if let Draw::Values(values) = self {
            let values = values();
            assert!(values.len() == len, "{} values for {len} places", values.len());
            return values;
        }
        if let Draw::Words(words) = self {
            let words: Vec<f32> = words().into_iter().map(f32::from_bits).collect();
            assert!(words.len() == len, "{} words for {len} places", words.len());
            return words;
        }
        let mut one = || match self {
            Draw::Uniform(scale) => rng.random_range(-scale..scale),
            Draw::Half(scale) => Dtype::F16.round(rng.random_range(-scale..scale)),
            Draw::Between(low, high) => rng.random_range(low..high),
            Draw::Ids(vocabulary) | Draw::Exact(vocabulary) => f32::from_bits(rng.random_range(0..vocabulary)),
            Draw::Targets(_) if rng.random_ratio(1, 5) => f32::from_bits(super::IGNORED),
            Draw::Targets(vocabulary) => f32::from_bits(rng.random_range(0..vocabulary)),
            Draw::Whole(largest) => rng.random_range(-largest..=largest) as f32,
            Draw::Report | Draw::Words(_) | Draw::Values(_) => unreachable!("made above"),
        };
        (0..len).map(|_| one()).collect()
    }
}
