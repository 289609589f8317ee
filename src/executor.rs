//! The executors of plans: the GPU through wgpu, or the CPU through the ops' references. Callers see one trait.

pub mod programs;
pub mod store;

use crate::error::Result;
use crate::fail;
use crate::graph::{Graph, Limits, Plan, Step};
use std::collections::BTreeMap;
use std::ops::Range;

/// Handle of a loaded plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program(pub usize);

/// When the kernels of a replayed segment ran, in seconds since the replay began.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// In order, without overlaps.
    pub kernels: Vec<KernelTime>,
    /// The host's work meanwhile, in order, without overlaps.
    pub host: Vec<(&'static str, Range<f64>)>,
}

/// When one kernel ran.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The node of the graph that it belongs to.
    pub node: usize,
    /// Stem of its shader; [`COPY`] for a copy of a whole buffer; the op's name where the reference ran it.
    pub name: &'static str,
    pub seconds: Range<f64>,
}

/// Name of a copy, made because an op works in place over a tensor that is still needed.
pub const COPY: &str = "copy";

/// How far the measurement of variants is.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    pub done: usize,
    pub total: usize,
    /// The class under way.
    pub what: &'a str,
}

/// The plan of a graph with variants that are good on a device, which are measured if they were not yet.
pub fn tuned_plan(executor: &mut dyn Executor, graph: &Graph) -> Result<Plan> {
    executor.tune(&[graph])?;
    Plan::new(graph, executor.limits())
}

/// Fails where one of `values` is no finite number, saying what they are and which one it is.
pub fn check_finite(values: &[f32], what: impl FnOnce() -> String) -> Result<()> {
    // Without an early end, so that many are looked at at a time.
    let all = values.iter().fold(true, |all, value| all & value.is_finite());
    if all {
        return Ok(());
    }
    let (at, value) = values.iter().enumerate().find(|(_, value)| !value.is_finite()).unwrap_or((0, &f32::NAN));
    fail!(
        Input,
        "a value of {} is {value} (number {at} of {}), which is no finite number: the model has diverged or is damaged; go \
         back to an earlier one, or train it again with a lower --lr",
        what(),
        values.len()
    )
}

/// Fails unless this many bytes of host memory are free. For devices whose memory is the host's: the operating system grants
/// more than there is, and ends the process when it is used.
pub fn check_host_memory(bytes: u64) -> Result<()> {
    match free_host_memory() {
        Some(free) if bytes > free => fail!(
            OutOfMemory,
            "{} MiB of memory are needed and {} MiB are free: use a smaller batch, a shorter context or a smaller model",
            bytes.div_ceil(1 << 20),
            free >> 20
        ),
        _ => Ok(()),
    }
}

/// Bytes of host memory that buffers may take: 90% of the free memory of the machine or of the container that this runs in.
pub fn free_host_memory() -> Option<u64> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let machine = system.available_memory();
    let container = system.cgroup_limits().map_or(machine, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(machine.min(container) / 10 * 9)
}

/// A device with a store of named state and any number of loaded plans that share it.
pub trait Executor {
    /// One line for the user: adapter, driver, backend.
    fn description(&self) -> String;

    fn limits(&self) -> &Limits;

    /// Sees to it that [`Executor::limits`] choose good variants for these graphs, measuring them where need be. To be called
    /// before they are planned; does nothing where there is nothing to choose.
    fn tune(&mut self, _graphs: &[&Graph]) -> Result<()> {
        Ok(())
    }

    /// Has [`Executor::limits`] choose these variants by class, so that a run goes on with the same bits.
    fn settle(&mut self, _chosen: &BTreeMap<String, String>) {}

    /// Allocates the buffers of `plan`, which was made from `graph`, that the store lacks (zero-filled), and compiles. Of
    /// plans with states in common, one that stores them together ([`Graph::together`]) comes before those that do not.
    fn load(&mut self, graph: &Graph, plan: Plan) -> Result<Program>;

    /// Fills all temporaries and outputs of a program with NaN, so that a kernel which does not write shows.
    fn poison(&mut self, program: Program) -> Result<()>;

    /// Frees a program's own buffers; its handle must not be used again. The store stays.
    fn unload(&mut self, program: Program);

    /// Frees the states of the store whose names start with `prefix`. Programs that bind them must be unloaded.
    fn free_states(&mut self, prefix: &str);

    /// Writes an input of a program; `bytes` has exactly its size.
    fn write(&mut self, program: Program, input: &str, bytes: &[u8]) -> Result<()>;

    /// Replays one segment of a program. Does not wait for it.
    fn run(&mut self, program: Program, segment: usize, step: &Step) -> Result<()>;

    /// Replays one segment with every kernel by itself, waits, and says when each ran.
    fn profile(&mut self, program: Program, segment: usize, step: &Step) -> Result<Timeline>;

    /// Waits, then reads an output of a program. Fails where it holds something that is no finite number: nothing may be
    /// concluded from that.
    fn read(&mut self, program: Program, output: &str) -> Result<Vec<f32>> {
        let values = self.read_any(program, output)?;
        check_finite(&values, || format!("the model's {output}"))?;
        Ok(values)
    }

    /// As [`Executor::read`], of values that may not be finite: trials of kernels, token ids as bits.
    fn read_any(&mut self, program: Program, output: &str) -> Result<Vec<f32>>;

    /// Writes a named state of the store; `values` has exactly its size.
    fn write_state(&mut self, name: &str, values: &[f32]) -> Result<()>;

    /// Writes a part of a named state: `values` go to index `at` and on.
    fn write_state_at(&mut self, name: &str, at: usize, values: &[f32]) -> Result<()>;

    /// Waits, then reads a named state of the store.
    fn read_state(&mut self, name: &str) -> Result<Vec<f32>>;

    /// Waits, then reads a part of a named state, from index `at` on, into `values`.
    fn read_state_at(&mut self, name: &str, at: usize, values: &mut [f32]) -> Result<()>;

    /// Starts copying a small named state to the host, behind the work queued so far, under a tag.
    fn post(&mut self, state: &str, tag: u64) -> Result<()>;

    /// Copies that have arrived, in the order of their posting; all of them if `wait`.
    fn collect(&mut self, wait: bool) -> Result<Vec<(u64, Vec<f32>)>>;

    /// Loses the device, as a driver reset would: a fault for tests. The CPU cannot be lost.
    fn lose(&mut self) {}

    /// Bytes of all buffers allocated for the store and the loaded plans.
    fn allocated_bytes(&self) -> u64;

    /// Buffers allocated and pipelines compiled so far: neither may grow while a plan is replayed.
    fn created(&self) -> (usize, usize);
}
