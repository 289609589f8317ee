//! Replays plans on a GPU: bind groups and pipelines are made at load, a replay only encodes and submits.

use super::adapter::{Adapter, choose_nth};
use super::device::Device;
use super::margins::{Fill, MARGIN_BYTES};
use super::pipeline_cache::PipelineCache;
use super::pipelines::{Pipeline, Pipelines};
use super::reload::ShaderFiles;
use super::submits::{Action, Submits};
use super::tuning::Tuning;
use crate::error::Result;
use crate::executor::store::Store;
use crate::executor::{Executor, Program, Timeline, check_host_memory};
use crate::graph::memory::Class;
use crate::graph::plan::{Bound, Buffer, Command, Kernel};
use crate::graph::{AdapterKind, Dtype, Graph, Limits, Plan, Step};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Read-backs that may be under way at once; posting one more waits for the oldest, so the host never runs further ahead.
const RING: usize = 4;
/// Largest state that can be posted.
const POST_BYTES: u64 = 1024;

/// An open GPU with its store and loaded plans.
pub struct Gpu {
    adapter: Adapter,
    pub(super) device: Device,
    limits: Limits,
    checks: bool,
    pipelines: Pipelines,
    store: Store<wgpu::Buffer>,
    pub(super) programs: Vec<Loaded>,
    pub(super) step: wgpu::Buffer,
    ring: Vec<Posted>,
    /// Ring slots under way, oldest first.
    pending: VecDeque<usize>,
    allocated_bytes: u64,
    /// Whether kernels are timed by the device's clock.
    pub(super) timestamps: bool,
    /// Shaders that are read from disk in place of the built-in ones.
    pub(super) reloaded: Option<ShaderFiles>,
    /// How variants are measured, where they are.
    pub(super) tuning: Option<Tuning>,
    /// The fill of the margins around programs' buffers, where they have margins.
    pub(super) margins: Option<Fill>,
}

/// One slot of the read-back ring.
struct Posted {
    staging: wgpu::Buffer,
    tag: u64,
    size_bytes: u64,
    arrived: Arc<AtomicBool>,
    /// The submit that fills it.
    submission: Option<wgpu::SubmissionIndex>,
}

pub(super) struct Loaded {
    pub(super) plan: Plan,
    pub(super) buffers: Vec<wgpu::Buffer>,
    /// The byte at which each of the plan's buffers begins in its own.
    pub(super) starts: Vec<u64>,
    pub(super) segments: Vec<Submits>,
}

impl Gpu {
    /// Opens the adapter that `wanted` means (see [`choose`]); shaders keep their bounds checks in debug builds.
    pub fn open(wanted: &str) -> Result<Gpu> {
        Gpu::open_nth(wanted, 0)
    }

    /// As [`Gpu::open`], of the adapters that `wanted` means alike number `nth`, for ranks of one machine.
    pub fn open_nth(wanted: &str, nth: usize) -> Result<Gpu> {
        Gpu::with(choose_nth(wanted, nth)?, None, cfg!(debug_assertions))
    }

    /// Opens an adapter, optionally with the kernels of another kind of adapter.
    pub fn with(adapter: Adapter, kind: Option<AdapterKind>, checks: bool) -> Result<Gpu> {
        let mut device = Device::open(&adapter)?;
        let mut limits = adapter.limits.clone();
        limits.adapter = kind.unwrap_or(limits.adapter);
        limits.cooperative = 0; // until they are allowed
        let uniform = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let step = device.buffer("step", size_of::<Step>() as u64, uniform)?;
        let mut ring = vec![];
        for _ in 0..RING {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let staging = device.buffer("posted", POST_BYTES, usage)?;
            ring.push(Posted { staging, tag: 0, size_bytes: 0, arrived: Arc::default(), submission: None });
        }
        Ok(Gpu {
            adapter,
            timestamps: device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY),
            reloaded: None,
            tuning: None,
            margins: None,
            device,
            limits,
            checks,
            pipelines: Pipelines::default(),
            store: Store::default(),
            programs: vec![],
            step,
            ring,
            pending: VecDeque::new(),
            allocated_bytes: 0,
        })
    }

    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Keeps compiled pipelines in `folder` from now on, and takes those that are there.
    pub fn keep_pipelines(&mut self, folder: &Path) {
        self.pipelines.cache = PipelineCache::open(&self.device, &self.adapter, folder);
    }

    /// Restricts the limits of plans, so that a test can exercise a smaller device.
    pub fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Destroys the device, as a driver reset would; later calls end with a device-lost error.
    pub fn destroy(&self) {
        self.device.device.destroy();
    }

    /// Waits for everything queued.
    pub fn wait(&self) -> Result<()> {
        self.device.wait()
    }

    fn bind(&self, pipeline: &Pipeline, bindings: &[Bound], buffers: &[wgpu::Buffer]) -> wgpu::BindGroup {
        let entries: Vec<wgpu::BindGroupEntry> = bindings
            .iter()
            .enumerate()
            .map(|(i, b)| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: b.buffer.map_or(&self.step, |i| &buffers[i]),
                    offset: b.range.start,
                    size: wgpu::BufferSize::new(b.range.end - b.range.start),
                }),
            })
            .collect();
        let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries };
        self.device.device.create_bind_group(&descriptor)
    }

    /// Pipelines for kernels, in their order.
    pub(super) fn compile(&mut self, kernels: &[&Kernel]) -> Result<Vec<Arc<Pipeline>>> {
        self.pipelines.compile(&self.device, kernels, self.checks)
    }

    /// Binds a segment's commands to buffers and pipelines.
    pub(super) fn actions(
        &self,
        commands: &[Command],
        buffers: &[wgpu::Buffer],
        starts: &[u64],
        pipelines: &mut impl Iterator<Item = Arc<Pipeline>>,
    ) -> Submits {
        // A byte takes about as long as ten operations on most devices.
        let mut action = |command: &Command| match command {
            Command::Copy { from, to, size_bytes } => {
                let place = |buffer: usize| (buffer, starts[buffer]);
                (Action::Copy { from: place(*from), to: place(*to), size_bytes: *size_bytes }, 20 * size_bytes)
            }
            Command::Dispatch(kernel) => {
                let pipeline = pipelines.next().expect("a pipeline for every kernel");
                let group = self.bind(&pipeline, &kernel.bindings, buffers);
                let work = kernel.cost.flops.max(10 * kernel.cost.size_bytes);
                (Action::Dispatch { pipeline, group, workgroups: kernel.workgroups }, work)
            }
        };
        Submits::new(commands.iter().map(&mut action).collect(), submit_budget(self.limits.adapter))
    }

    /// Takes the oldest posted read-back, waiting for it if need be.
    fn take_posted(&mut self) -> Result<(u64, Vec<f32>)> {
        let slot = self.pending.pop_front().expect("a posted read-back");
        let posted = &self.ring[slot];
        if !posted.arrived.load(Ordering::Acquire) {
            self.device.wait_for(posted.submission.clone())?;
        }
        let view = posted.staging.slice(..posted.size_bytes).get_mapped_range();
        let values = view.map(|v| bytemuck::pod_collect_to_vec(&v)).map_err(|e| {
            let lost = self.device.check().err();
            lost.unwrap_or_else(|| crate::error::Error::Device(format!("cannot read back from the device: {e}")))
        })?;
        posted.staging.unmap();
        Ok((posted.tag, values))
    }
}

/// Work per submit, in FLOPs, before it is measured: tens of milliseconds on a slow device of the kind.
fn submit_budget(kind: AdapterKind) -> u64 {
    match kind {
        AdapterKind::Gpu => 40_000_000_000,
        AdapterKind::Software => 400_000_000,
    }
}

impl Executor for Gpu {
    fn description(&self) -> String {
        self.adapter.description()
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn tune(&mut self, graphs: &[&Graph]) -> Result<()> {
        self.measure(graphs)
    }

    fn settle(&mut self, chosen: &BTreeMap<String, String>) {
        self.settle_choices(chosen);
    }

    fn load(&mut self, _graph: &Graph, mut plan: Plan) -> Result<Program> {
        if let Some(files) = &self.reloaded {
            files.put_into(&mut plan)?;
        }
        if self.limits.adapter == AdapterKind::Software {
            check_host_memory(self.store.missing_bytes(&plan))?;
        }
        let margin_bytes = self.margins.map_or(0, |_| MARGIN_BYTES);
        let (device, allocated_bytes) = (&mut self.device, &mut self.allocated_bytes);
        let mut allocate = |info: &Buffer, margin_bytes: u64| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let buffer = device.buffer(&info.label, info.size_bytes + 2 * margin_bytes, usage)?;
            *allocated_bytes += info.size_bytes;
            Ok(buffer)
        };
        let (mut buffers, mut starts) = (vec![], vec![]);
        for (i, info) in plan.buffers.iter().enumerate() {
            if info.class == Class::State {
                let (buffer, start) = self.store.hold(&plan, i, |info| allocate(info, 0))?;
                buffers.push(self.store.buffer(buffer).clone());
                starts.push(start);
            } else {
                buffers.push(allocate(info, margin_bytes)?);
                starts.push(margin_bytes);
            }
        }
        plan.shift(&starts);
        if margin_bytes > 0 {
            self.surround(&mut plan, &buffers)?;
        }
        let kernels: Vec<_> = plan.kernels().collect();
        let pipelines = self.compile(&kernels)?;
        let mut pipelines = pipelines.into_iter();
        let segments = plan.segments.iter().map(|s| self.actions(&s.commands, &buffers, &starts, &mut pipelines));
        let segments = segments.collect();
        self.device.check()?;
        self.programs.push(Loaded { plan, buffers, starts, segments });
        Ok(Program(self.programs.len() - 1))
    }

    fn poison(&mut self, program: Program) -> Result<()> {
        let loaded = &self.programs[program.0];
        for (i, info) in loaded.plan.buffers.iter().enumerate() {
            if matches!(info.class, Class::Temporary | Class::Output) {
                self.device.write(&loaded.buffers[i], loaded.starts[i], &vec![0xff; info.size_bytes as usize])?;
            }
        }
        Ok(())
    }

    fn unload(&mut self, program: Program) {
        let loaded = &mut self.programs[program.0];
        self.allocated_bytes -= loaded.plan.size_bytes(|class| *class != Class::State);
        (loaded.segments, loaded.buffers) = (vec![], vec![]);
    }

    fn free_states(&mut self, prefix: &str) {
        let freed = self.store.free(|name| name.starts_with(prefix));
        self.allocated_bytes -= freed.iter().map(wgpu::Buffer::size).sum::<u64>();
    }

    fn write(&mut self, program: Program, input: &str, bytes: &[u8]) -> Result<()> {
        let loaded = &self.programs[program.0];
        let (_, buffer, shape) =
            loaded.plan.inputs.iter().find(|(name, ..)| name == input).expect("an input of the plan");
        assert_eq!(bytes.len() as u64, shape.size_bytes(), "input `{input}` has {shape:?}");
        self.device.write(&loaded.buffers[*buffer], loaded.starts[*buffer], bytes)
    }

    fn run(&mut self, program: Program, segment: usize, step: &Step) -> Result<()> {
        self.device.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(step));
        let timed = self.programs[program.0].segments[segment].is_timed();
        if timed {
            self.device.wait()?; // earlier work in the queue is not counted
        }
        let (mut seconds, mut start) = (vec![], Instant::now());
        let loaded = &self.programs[program.0];
        for submit in loaded.segments[segment].iter() {
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            let mut pass = None;
            for action in submit {
                match action {
                    Action::Copy { from, to, size_bytes } => {
                        pass = None;
                        let (from, start) = (&loaded.buffers[from.0], from.1);
                        encoder.copy_buffer_to_buffer(from, start, &loaded.buffers[to.0], to.1, *size_bytes);
                    }
                    Action::Dispatch { pipeline, group, workgroups: [x, y, z] } => {
                        let pass = pass
                            .get_or_insert_with(|| encoder.begin_compute_pass(&Default::default()).forget_lifetime());
                        pass.set_pipeline(&pipeline.pipeline);
                        pass.set_bind_group(0, group, &[]);
                        pass.dispatch_workgroups(*x, *y, *z);
                    }
                }
            }
            drop(pass);
            self.device.queue.submit([encoder.finish()]);
            if timed {
                self.device.wait()?;
                seconds.push((Instant::now() - start).as_secs_f64());
                start = Instant::now();
            }
        }
        if timed {
            self.programs[program.0].segments[segment].resize(&seconds);
        }
        self.device.check()
    }

    fn profile(&mut self, program: Program, segment: usize, step: &Step) -> Result<Timeline> {
        self.timeline(program, segment, step)
    }

    fn read_any(&mut self, program: Program, output: &str) -> Result<Vec<f32>> {
        let loaded = &self.programs[program.0];
        let (_, buffer, shape) = loaded.plan.outputs.iter().find(|(name, ..)| name == output).expect("a named output");
        let (dtype, len) = (shape.dtype, shape.len());
        let start = loaded.starts[*buffer];
        let words = self.device.read(&loaded.buffers[*buffer], start..start + shape.size_bytes())?;
        Ok(if dtype == Dtype::F16 { dtype.values(bytemuck::cast_slice(&words), len) } else { words })
    }

    fn write_state(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let (buffer, range) = self.store.state(name);
        assert_eq!(range.end - range.start, 4 * values.len() as u64, "state `{name}` has another size");
        self.device.write(buffer, range.start, bytemuck::cast_slice(values))
    }

    fn write_state_at(&mut self, name: &str, at: usize, values: &[f32]) -> Result<()> {
        let (buffer, range) = self.store.state(name);
        assert!(4 * (at + values.len()) as u64 <= range.end - range.start, "state `{name}` is shorter");
        self.device.write_piece(buffer, range.start + 4 * at as u64, bytemuck::cast_slice(values))
    }

    fn read_state(&mut self, name: &str) -> Result<Vec<f32>> {
        let (buffer, range) = self.store.state(name);
        self.device.read(buffer, range)
    }

    fn read_state_at(&mut self, name: &str, at: usize, values: &mut [f32]) -> Result<()> {
        let (buffer, range) = self.store.state(name);
        let start = range.start + 4 * at as u64;
        assert!(start + 4 * values.len() as u64 <= range.end, "state `{name}` is shorter");
        self.device.read_into(buffer, start, values)
    }

    fn post(&mut self, state: &str, tag: u64) -> Result<()> {
        assert!(self.pending.len() < RING, "collect before posting more than {RING} times");
        let (buffer, range) = self.store.state(state);
        let slot = (0..RING).find(|s| !self.pending.contains(s)).expect("a free slot");
        let posted = &mut self.ring[slot];
        (posted.tag, posted.size_bytes, posted.arrived) = (tag, range.end - range.start, Arc::default());
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(buffer, range.start, &posted.staging, 0, posted.size_bytes);
        posted.submission = Some(self.device.queue.submit([encoder.finish()]));
        let arrived = posted.arrived.clone();
        let done = move |_| arrived.store(true, Ordering::Release);
        posted.staging.slice(..posted.size_bytes).map_async(wgpu::MapMode::Read, done);
        self.pending.push_back(slot);
        self.device.check()
    }

    fn collect(&mut self, wait: bool) -> Result<Vec<(u64, Vec<f32>)>> {
        // A poll that fails means a lost device, which `check` reports in our own words.
        if self.device.device.poll(wgpu::PollType::Poll).is_err() {
            self.device.check()?;
        }
        let mut taken = vec![];
        while let Some(&slot) = self.pending.front() {
            let full = self.pending.len() == RING;
            if !(wait || full || self.ring[slot].arrived.load(Ordering::Acquire)) {
                break;
            }
            taken.push(self.take_posted()?);
        }
        self.device.check()?;
        Ok(taken)
    }

    fn lose(&mut self) {
        self.destroy();
    }

    fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    fn created(&self) -> (usize, usize) {
        (self.device.buffers_created, self.pipelines.len())
    }
}
