//! An open device: buffers with errors of our own, transfers in bounded pieces, and errors that wgpu reports asynchronously.

use super::adapter::Adapter;
use crate::error::{Error, Result};
use crate::fail;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Bytes moved per transfer: wgpu keeps each piece in host-visible memory until it is submitted.
const TRANSFER_BYTES: u64 = 32 << 20;

/// A logical device and its queue.
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    /// First failure that wgpu reported outside a call of ours.
    failure: Arc<Mutex<Option<Failure>>>,
    /// Staging buffer for reads, made on the first one.
    staging: Option<wgpu::Buffer>,
    /// The last piece that was written, which may still be under way.
    piece: Option<wgpu::SubmissionIndex>,
    pub(super) buffers_created: usize,
}

#[derive(Clone, Debug)]
enum Failure {
    Lost(String),
    OutOfMemory(String),
    Other(String),
}

impl Device {
    /// Opens `adapter` with all of its limits and the optional features we have a use for.
    pub fn open(adapter: &Adapter) -> Result<Device> {
        let useful = wgpu::Features::PIPELINE_CACHE
            | wgpu::Features::SUBGROUP
            | wgpu::Features::SHADER_F16
            | wgpu::Features::TIMESTAMP_QUERY
            | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("wgpt"),
            required_features: adapter.inner.features() & useful,
            required_limits: adapter.inner.limits(),
            memory_hints: wgpu::MemoryHints::Performance,
            // SAFETY: the one experimental feature is cooperative matrices; kernels on them run where `wgpt doctor` found all of
            // them right, or where they are asked for by name.
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let opened = pollster::block_on(adapter.inner.request_device(&descriptor));
        let (device, queue) = match opened {
            Ok(pair) => pair,
            Err(e) => {
                fail!(Device, "cannot open {}: {e}; update its driver or choose another with --device", adapter.name)
            }
        };
        let failure = Arc::new(Mutex::new(None));
        let note = |failure: Arc<Mutex<Option<Failure>>>, what: Failure| {
            if let Ok(mut first) = failure.lock() {
                first.get_or_insert(what);
            }
        };
        let shared = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| {
            let what = match e {
                wgpu::Error::OutOfMemory { .. } => Failure::OutOfMemory(one_line(&e)),
                _ => Failure::Other(one_line(&e)),
            };
            note(shared.clone(), what);
        }));
        let shared = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            let what = format!("{reason:?}: {}", one_line(&message)).to_lowercase();
            note(shared.clone(), Failure::Lost(what.trim_end_matches([':', ' ']).to_string()));
        });
        Ok(Device { device, queue, failure, staging: None, piece: None, buffers_created: 0 })
    }

    /// The first failure that happened since the device was opened, as our own error.
    pub fn check(&self) -> Result<()> {
        let failure = self.failure.lock().map(|f| f.clone()).unwrap_or(None);
        match failure {
            None => Ok(()),
            Some(Failure::Lost(why)) => {
                fail!(DeviceLost, "the device was lost ({why}); continue from the last checkpoint with --resume")
            }
            Some(Failure::OutOfMemory(why)) => {
                fail!(OutOfMemory, "the device ran out of memory ({why}); use a smaller --batch and more --accumulate")
            }
            Some(Failure::Other(why)) => fail!(Device, "the driver refused a command: {why}"),
        }
    }

    /// A zero-filled buffer, or an error with the wanted size and its purpose.
    pub fn buffer(&mut self, label: &str, size_bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: size_bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        let errors = [pollster::block_on(validation.pop()), pollster::block_on(memory.pop())];
        self.check()?;
        if let Some(e) = errors.into_iter().flatten().next() {
            let mib = size_bytes.div_ceil(1 << 20);
            fail!(
                OutOfMemory,
                "cannot allocate {mib} MiB for `{label}` ({}); use a smaller --batch and more --accumulate, or a smaller model",
                one_line(&e)
            );
        }
        self.buffers_created += 1;
        Ok(buffer)
    }

    /// Writes a buffer from byte `start` on, in pieces, each submitted and waited for before the next where there are several.
    pub fn write(&self, buffer: &wgpu::Buffer, start: u64, bytes: &[u8]) -> Result<()> {
        for (i, piece) in bytes.chunks(TRANSFER_BYTES as usize).enumerate() {
            self.queue.write_buffer(buffer, start + i as u64 * TRANSFER_BYTES, piece);
            if bytes.len() as u64 > TRANSFER_BYTES {
                self.queue.submit([]);
                self.wait()?;
            }
        }
        self.check()
    }

    /// Writes one of many pieces of a buffer. The device copies a piece while the host prepares the next.
    pub fn write_piece(&mut self, buffer: &wgpu::Buffer, start: u64, bytes: &[u8]) -> Result<()> {
        self.queue.write_buffer(buffer, start, bytes);
        let queued = self.queue.submit([]);
        if let Some(before) = self.piece.replace(queued) {
            self.wait_for(Some(before))?;
        }
        self.check()
    }

    /// Waits for everything queued, then reads bytes `range` of a buffer.
    pub fn read(&mut self, buffer: &wgpu::Buffer, range: Range<u64>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; ((range.end - range.start) / 4) as usize];
        self.read_into(buffer, range.start, &mut values)?;
        Ok(values)
    }

    /// As [`Device::read`], from byte `start` on, without allocating.
    pub fn read_into(&mut self, buffer: &wgpu::Buffer, start: u64, values: &mut [f32]) -> Result<()> {
        if self.staging.is_none() {
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            self.staging = Some(self.buffer("read staging", TRANSFER_BYTES, usage)?);
        }
        let staging = self.staging.as_ref().expect("made just above");
        for (i, values) in values.chunks_mut(TRANSFER_BYTES as usize / 4).enumerate() {
            let (start, piece) = (start + i as u64 * TRANSFER_BYTES, 4 * values.len() as u64);
            let mut encoder = self.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(buffer, start, staging, 0, piece);
            self.queue.submit([encoder.finish()]);
            staging.slice(..piece).map_async(wgpu::MapMode::Read, |_| ());
            self.wait()?;
            match staging.slice(..piece).get_mapped_range() {
                Ok(view) => bytemuck::cast_slice_mut(values).copy_from_slice(&view),
                Err(e) => {
                    self.check()?;
                    fail!(Device, "cannot read back from the device: {}", one_line(&e));
                }
            }
            staging.unmap();
        }
        Ok(())
    }

    /// Waits for everything queued.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits for one submit and those before it; for everything queued if `None`.
    pub(super) fn wait_for(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        self.check()?;
        polled.map(|_| ()).map_err(|e| Error::Device(format!("waiting for the device failed: {}", one_line(&e))))
    }
}

/// An error's text on one line: wgpu's span several.
pub(super) fn one_line(e: &dyn std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
