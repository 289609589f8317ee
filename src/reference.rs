//! The CPU executor: runs a graph from its ops' references, with numbers of f16 tensors as f32 that f16 can hold. Shaders are
//! tested against it, and it is `--device cpu`.

use crate::error::Result;
use crate::executor::store::Store;
use crate::executor::{Executor, KernelTime, Program, Timeline, check_host_memory};
use crate::graph::memory::Class;
use crate::graph::{AdapterKind, Dtype, Graph, Leaf, Limits, Plan, Shapes, Source, Step, Tensor};
use std::collections::HashMap;
use std::time::Instant;

/// A store of named values and the graphs that use it.
pub struct Cpu {
    limits: Limits,
    store: Store<Vec<f32>>,
    programs: Vec<Loaded>,
    posted: Vec<(u64, Vec<f32>)>,
    allocated_bytes: u64,
}

struct Loaded {
    /// Bytes of its plan's own buffers.
    own_bytes: u64,
    graph: Graph,
    inputs: HashMap<String, Vec<f32>>,
    /// Values of every op's outputs, freed after their last reader unless the host reads them.
    values: HashMap<Tensor, Vec<f32>>,
    last_use: HashMap<Tensor, usize>,
    live: Vec<bool>,
}

impl Default for Cpu {
    fn default() -> Self {
        let unlimited = Limits {
            binding_bytes: u64::MAX,
            buffer_bytes: u64::MAX,
            f16: true,
            ..Limits::portable(AdapterKind::Software)
        };
        Cpu { limits: unlimited, store: Store::default(), programs: vec![], posted: vec![], allocated_bytes: 0 }
    }
}

impl Loaded {
    fn new(graph: &Graph, own_bytes: u64) -> Self {
        let mut last_use = HashMap::new();
        for (i, node) in graph.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|t| _ = last_use.insert(*t, i));
        }
        graph.outputs().iter().for_each(|(_, t)| _ = last_use.insert(*t, usize::MAX));
        let live = graph.live();
        Loaded { own_bytes, graph: graph.clone(), inputs: HashMap::new(), values: HashMap::new(), last_use, live }
    }

    /// The values of a tensor: in the store, among the inputs, or made by an op.
    fn value<'a>(&'a self, store: &'a Store<Vec<f32>>, t: Tensor) -> &'a [f32] {
        let root = self.graph.root(t);
        let leaf = &self.graph.nodes()[root.node];
        match leaf.source {
            Source::Leaf(Leaf::State) => store.values(&leaf.label),
            Source::Leaf(Leaf::Input) if root == t => &self.inputs[&leaf.label],
            _ => &self.values[&t],
        }
    }

    /// Runs one op: outputs in place start as their input, the others as NaN.
    fn run_node(&mut self, store: &mut Store<Vec<f32>>, node: usize, step: &Step) {
        let Some(op) = self.graph.op(node).filter(|_| self.live[node]).cloned() else { return };
        let at = self.graph.nodes()[node].clone();
        let shapes = Shapes {
            inputs: at.inputs.iter().map(|t| self.graph.shape(*t)).collect(),
            outputs: at.outputs.iter().collect(),
        };
        let in_place = op.in_place();
        let mut outputs: Vec<Vec<f32>> = vec![];
        for (slot, shape) in at.outputs.iter().enumerate() {
            outputs.push(match in_place.iter().find(|(s, _)| *s == slot) {
                Some((_, input)) => self.value(store, at.inputs[*input]).to_vec(),
                None => vec![f32::NAN; shape.len()],
            });
        }
        let inputs: Vec<&[f32]> = at.inputs.iter().map(|t| self.value(store, *t)).collect();
        op.reference(&shapes, &inputs, &mut outputs, step);
        for (slot, mut output) in outputs.into_iter().enumerate() {
            let t = Tensor { node, slot };
            let dtype = at.outputs[slot].dtype;
            if dtype == Dtype::F16 {
                output.iter_mut().for_each(|x| *x = dtype.round(*x));
            }
            let root = &self.graph.nodes()[self.graph.root(t).node];
            match root.source {
                Source::Leaf(Leaf::State) => store.values_mut(&root.label).copy_from_slice(&output),
                _ => _ = self.values.insert(t, output),
            }
        }
        let dead = |t: &Tensor| self.last_use.get(t).is_none_or(|last| *last <= node);
        self.values.retain(|t, _| !dead(t));
    }
}

impl Executor for Cpu {
    fn description(&self) -> String {
        format!("CPU reference, {} threads", rayon::current_num_threads())
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn load(&mut self, graph: &Graph, plan: Plan) -> Result<Program> {
        check_host_memory(self.store.missing_bytes(&plan))?;
        for index in (0..plan.buffers.len()).filter(|i| plan.buffers[*i].class == Class::State) {
            self.store.hold(&plan, index, |buffer| {
                self.allocated_bytes += buffer.size_bytes;
                Ok(vec![0.0; (buffer.size_bytes / 4) as usize])
            })?;
        }
        let own_bytes = plan.size_bytes(|class| *class != Class::State);
        self.allocated_bytes += own_bytes;
        self.programs.push(Loaded::new(graph, own_bytes));
        Ok(Program(self.programs.len() - 1))
    }

    fn poison(&mut self, _program: Program) -> Result<()> {
        Ok(()) // every output that is not in place starts as NaN anyway
    }

    fn unload(&mut self, program: Program) {
        self.allocated_bytes -= self.programs[program.0].own_bytes;
        self.programs[program.0] = Loaded::new(&Graph::new(), 0);
    }

    fn free_states(&mut self, prefix: &str) {
        let freed = self.store.free(|name| name.starts_with(prefix));
        self.allocated_bytes -= freed.iter().map(|values| 4 * values.len() as u64).sum::<u64>();
    }

    fn write(&mut self, program: Program, input: &str, bytes: &[u8]) -> Result<()> {
        let Loaded { graph, inputs, .. } = &mut self.programs[program.0];
        let leaf = graph.nodes().iter().find(|n| n.label == input).expect("an input of the graph");
        let shape = &leaf.outputs[0];
        inputs.insert(input.into(), shape.dtype.values(bytes, shape.len()));
        Ok(())
    }

    fn run(&mut self, program: Program, segment: usize, step: &Step) -> Result<()> {
        let loaded = &mut self.programs[program.0];
        let (_, nodes) = loaded.graph.segments()[segment].clone();
        nodes.for_each(|node| loaded.run_node(&mut self.store, node, step));
        Ok(())
    }

    fn profile(&mut self, program: Program, segment: usize, step: &Step) -> Result<Timeline> {
        let loaded = &mut self.programs[program.0];
        let (_, nodes) = loaded.graph.segments()[segment].clone();
        let (began, mut timeline) = (Instant::now(), Timeline::default());
        for node in nodes {
            let Some(name) = loaded.graph.op(node).map(|op| op.name()) else { continue };
            let start = began.elapsed().as_secs_f64();
            loaded.run_node(&mut self.store, node, step);
            timeline.kernels.push(KernelTime { node, name, seconds: start..began.elapsed().as_secs_f64() });
        }
        timeline.host.push(("reference", 0.0..began.elapsed().as_secs_f64()));
        Ok(timeline)
    }

    fn read_any(&mut self, program: Program, output: &str) -> Result<Vec<f32>> {
        let loaded = &self.programs[program.0];
        let (_, t) =
            loaded.graph.outputs().iter().find(|(name, _)| name == output).expect("a named output of the graph");
        Ok(loaded.value(&self.store, *t).to_vec())
    }

    fn write_state(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.store.values_mut(name).copy_from_slice(values);
        Ok(())
    }

    fn write_state_at(&mut self, name: &str, at: usize, values: &[f32]) -> Result<()> {
        self.store.values_mut(name)[at..at + values.len()].copy_from_slice(values);
        Ok(())
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<f32>> {
        Ok(self.store.values(name).to_vec())
    }

    fn read_state_at(&mut self, name: &str, at: usize, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(&self.store.values(name)[at..at + values.len()]);
        Ok(())
    }

    fn post(&mut self, state: &str, tag: u64) -> Result<()> {
        self.posted.push((tag, self.store.values(state).to_vec()));
        Ok(())
    }

    fn collect(&mut self, _wait: bool) -> Result<Vec<(u64, Vec<f32>)>> {
        Ok(std::mem::take(&mut self.posted))
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    fn created(&self) -> (usize, usize) {
        (self.store.len(), 0)
    }
}
