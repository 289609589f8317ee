//! When each kernel of a segment ran: one compute pass per kernel, timed by the device's clock.
//!
//! Timestamps inside a pass do not exist everywhere, so a pass holds one kernel. Where the adapter has no timestamps at all
//! the host's clock is read around each kernel, submitted and waited for by itself: that adds a submit to its time.

use super::executor::Gpu;
use super::submits::Action;
use crate::error::Result;
use crate::executor::{COPY, KernelTime, Program, Timeline};
use crate::graph::Step;
use crate::graph::plan::Command;
use std::ops::Range;
use std::time::Instant;

/// Queries per set: as many as every implementation allows. Two per kernel.
const SET: usize = 4096;

/// Where the two timestamps of a command go.
struct Slot<'a> {
    set: &'a wgpu::QuerySet,
    start: u32,
}

impl Slot<'_> {
    fn writes(&self, start: bool, end: bool) -> wgpu::ComputePassDescriptor<'_> {
        let timestamps = wgpu::ComputePassTimestampWrites {
            query_set: self.set,
            beginning_of_pass_write_index: start.then_some(self.start),
            end_of_pass_write_index: end.then_some(self.start + 1),
        };
        wgpu::ComputePassDescriptor { label: None, timestamp_writes: Some(timestamps) }
    }
}

impl Gpu {
    /// Whether kernels are timed by the device's clock rather than the host's.
    pub fn has_device_clock(&self) -> bool {
        self.timestamps
    }

    /// Times kernels by the host's clock from now on, as where the adapter has no timestamps.
    pub fn use_host_clock(&mut self) {
        self.timestamps = false;
    }

    pub(super) fn timeline(&mut self, program: Program, segment: usize, step: &Step) -> Result<Timeline> {
        self.device.queue.write_buffer(&self.step, 0, bytemuck::bytes_of(step));
        self.device.queue.submit([]);
        self.device.wait()?;
        let (spans, host) =
            if self.timestamps { self.by_device(program, segment)? } else { self.by_host(program, segment)? };
        let commands = &self.programs[program.0].plan.segments[segment].commands;
        assert_eq!(spans.len(), commands.len(), "a time for every command");
        let mut kernels: Vec<KernelTime> = vec![];
        let mut node = 0;
        // Backwards, because a copy belongs to the kernel after it.
        for (command, seconds) in commands.iter().zip(spans).rev() {
            let name = match command {
                Command::Dispatch(kernel) => {
                    node = kernel.node;
                    kernel.shader.stem
                }
                Command::Copy { .. } => COPY,
            };
            kernels.push(KernelTime { node, name, seconds });
        }
        kernels.reverse();
        Ok(Timeline { kernels, host })
    }

    /// Encodes one command; `slot` says where its timestamps go.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, program: Program, action: &Action, slot: Option<&Slot>) {
        match action {
            Action::Dispatch { pipeline, group, workgroups: [x, y, z] } => {
                let descriptor = slot.map_or_else(Default::default, |slot| slot.writes(true, true));
                let mut pass = encoder.begin_compute_pass(&descriptor);
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(*x, *y, *z);
            }
            Action::Copy { from, to, size_bytes } => {
                // Copies stand outside of passes: two empty ones carry the timestamps.
                if let Some(slot) = slot {
                    drop(encoder.begin_compute_pass(&slot.writes(true, false)));
                }
                let buffers = &self.programs[program.0].buffers;
                encoder.copy_buffer_to_buffer(&buffers[from.0], from.1, &buffers[to.0], to.1, *size_bytes);
                if let Some(slot) = slot {
                    drop(encoder.begin_compute_pass(&slot.writes(false, true)));
                }
            }
        }
    }

    fn by_device(&mut self, program: Program, segment: usize) -> Result<Times> {
        let device = self.device.device.clone();
        let submits = &self.programs[program.0].segments[segment];
        let count = submits.actions().count();
        let set = |commands: usize| {
            let (ty, count) = (wgpu::QueryType::Timestamp, 2 * commands as u32);
            device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("timestamps"), ty, count })
        };
        let sets: Vec<_> = (0..count).step_by(SET / 2).map(|first| set((count - first).min(SET / 2))).collect();
        let (began, mut host, mut n) = (Instant::now(), vec![], 0);
        let mut time = |what, start: f64| host.push((what, start..began.elapsed().as_secs_f64()));
        for submit in submits.iter() {
            let start = began.elapsed().as_secs_f64();
            let mut encoder = device.create_command_encoder(&Default::default());
            for action in submit {
                let slot = Slot { set: &sets[n / (SET / 2)], start: 2 * (n % (SET / 2)) as u32 };
                self.encode(&mut encoder, program, action, Some(&slot));
                n += 1;
            }
            let commands = encoder.finish();
            time("encode", start);
            let start = began.elapsed().as_secs_f64();
            self.device.queue.submit([commands]);
            time("submit", start);
        }
        let start = began.elapsed().as_secs_f64();
        self.device.wait()?;
        time("wait", start);
        let ticks = self.ticks(&sets, count)?;
        Ok((seconds(&ticks, self.device.queue.get_timestamp_period()), host))
    }

    /// All timestamps, start and end of every command in turn.
    fn ticks(&mut self, sets: &[wgpu::QuerySet], count: usize) -> Result<Vec<u64>> {
        if count == 0 {
            return Ok(vec![]);
        }
        let size_bytes = 16 * count as u64;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let buffer = self.device.buffer("timestamps", size_bytes, usage)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        for (i, set) in sets.iter().enumerate() {
            let queries = (2 * count - i * SET).min(SET);
            encoder.resolve_query_set(set, 0..queries as u32, &buffer, (8 * i * SET) as u64);
        }
        self.device.queue.submit([encoder.finish()]);
        let words = self.device.read(&buffer, 0..size_bytes)?;
        Ok(words.chunks(2).map(|w| u64::from(w[0].to_bits()) | u64::from(w[1].to_bits()) << 32).collect())
    }

    fn by_host(&self, program: Program, segment: usize) -> Result<Times> {
        let (began, mut spans, mut host) = (Instant::now(), vec![], vec![]);
        for action in self.programs[program.0].segments[segment].actions() {
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            self.encode(&mut encoder, program, action, None);
            let commands = encoder.finish();
            let start = began.elapsed().as_secs_f64();
            self.device.queue.submit([commands]);
            self.device.wait()?;
            let span = start..began.elapsed().as_secs_f64();
            host.push(("submit and wait", span.clone()));
            spans.push(span);
        }
        Ok((spans, host))
    }
}

/// Times of the commands and of the host's work.
type Times = (Vec<Range<f64>>, Vec<(&'static str, Range<f64>)>);

/// Seconds since the first timestamp. A kernel that starts while the one before it still runs counts from the end of that
/// one, so that times add up. The two clocks have no common zero: the first kernel starts when the replay does.
fn seconds(ticks: &[u64], nanoseconds_per_tick: f32) -> Vec<Range<f64>> {
    let first = ticks.first().copied().unwrap_or(0);
    let at = |tick: u64| tick.saturating_sub(first) as f64 * f64::from(nanoseconds_per_tick) * 1e-9;
    let mut free = 0.0;
    let mut span = |pair: &[u64]| {
        let start = at(pair[0]).max(free);
        free = at(pair[1]).max(start);
        start..free
    };
    ticks.chunks(2).map(&mut span).collect()
}
