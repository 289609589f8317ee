//! A device's ceilings, measured: multiply-adds in f32 and f16, cooperative matrices, and a large copy.

use super::device::Device;
use super::{Adapter, Gpu};
use crate::error::Result;
use crate::executor::Executor;
use crate::graph::{AdapterKind, Cost, Graph, Op, Plan, Shape, Step};
use crate::ops::ceiling::{Cooperative, Copy, Fma};
use serde::{Deserialize, Serialize};

/// Measured ceilings of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// FLOP/s of f32 multiply-adds, each two.
    pub f32_flops: f64,
    /// FLOP/s of f16 multiply-adds, where the device has f16.
    pub f16_flops: Option<f64>,
    /// FLOP/s of cooperative matrices, f16 summed in f32, where the device has them.
    #[serde(default)]
    pub cooperative_flops: Option<f64>,
    /// Bytes read and written per second by a large copy.
    pub copy_bytes: f64,
}

/// Runs of each; the fastest counts, since a ceiling is the best that can be reached.
const RUNS: usize = 6;

impl Ceilings {
    pub fn measure(gpu: &mut Gpu) -> Result<Ceilings> {
        // Tens of milliseconds on a slow device of the kind, and a copy that no cache holds.
        let (threads, words) = match gpu.limits().adapter {
            AdapterKind::Gpu => (1 << 20, 64 << 20),
            AdapterKind::Software => (1 << 14, 16 << 20),
        };
        let words = words.min(gpu.limits().binding_bytes.min(gpu.limits().buffer_bytes) as usize / 4) & !3;
        let chains = [Shape::f32(&[threads]), Shape::f32(&[2])];
        let fma = |gpu: &mut Gpu, half| -> Result<f64> {
            let (cost, seconds) = fastest(gpu, Fma { rounds: 4096, half }, &chains)?;
            Ok(cost.flops as f64 / seconds)
        };
        let f32_flops = fma(gpu, false)?;
        let f16_flops = if gpu.limits().f16 { Some(fma(gpu, true)?) } else { None };
        let side = gpu.adapter().limits.cooperative;
        let cooperative_flops = if side > 0 {
            let lanes = gpu.adapter().subgroup_sizes.1 as usize;
            // Fewer than of multiply-adds: a round is 16 products of matrices for each subgroup.
            let rounds = if gpu.limits().adapter == AdapterKind::Gpu { 1024 } else { 64 };
            let (cost, seconds) = fastest(
                gpu,
                Cooperative { side, rounds, lanes },
                &[Shape::f32(&[side, side]), Shape::f32(&[threads / 4])],
            )?;
            Some(cost.flops as f64 / seconds)
        } else {
            None
        };
        let (cost, seconds) = fastest(gpu, Copy, &[Shape::f32(&[words])])?;
        Ok(Ceilings { f32_flops, f16_flops, cooperative_flops, copy_bytes: cost.size_bytes as f64 / seconds })
    }

    /// FLOP/s that a kernel can reach: of cooperative matrices if it is on them, otherwise of f32 multiply-adds.
    pub fn flops_of(&self, kernel: &str) -> f64 {
        self.cooperative_flops.filter(|_| kernel.contains("cooperative")).unwrap_or(self.f32_flops)
    }

    /// The least seconds that a kernel's work can take, and whether arithmetic, not memory, is the limit.
    pub fn floor_seconds(&self, kernel: &str, flops: f64, bytes: f64) -> (f64, bool) {
        let (arithmetic, memory) = (flops / self.flops_of(kernel), bytes / self.copy_bytes);
        (arithmetic.max(memory), arithmetic > memory)
    }
}

/// Bytes up to `most` that buffers can be allocated for on an adapter, found by trying.
pub fn allocatable_bytes(adapter: &Adapter, most: u64) -> Result<u64> {
    let mut device = Device::open(adapter)?;
    let mut buffers = vec![];
    let mut total = 0;
    let mut piece = (1 << 30).min(adapter.limits.buffer_bytes);
    while total < most && piece >= SMALLEST_PIECE {
        match device.buffer("trial", piece, wgpu::BufferUsages::STORAGE) {
            Ok(buffer) => {
                buffers.push(buffer);
                total += piece;
            }
            Err(_) => piece /= 4,
        }
    }
    Ok(total.min(most))
}

/// Smaller pieces would say little more.
const SMALLEST_PIECE: u64 = 64 << 20;

/// The cost of an op over inputs of these shapes, and the least seconds of several runs.
fn fastest(gpu: &mut Gpu, op: impl Op + 'static, shapes: &[Shape]) -> Result<(Cost, f64)> {
    let mut g = Graph::new();
    let inputs: Vec<_> = shapes.iter().enumerate().map(|(i, s)| g.input(&format!("x{i}"), s.clone())).collect();
    let y = g.apply(op, &inputs);
    g.output("y", y);
    let plan = Plan::new(&g, gpu.limits())?;
    let cost = plan.kernels().map(|k| k.cost).sum();
    let program = gpu.load(&g, plan)?;
    for (i, shape) in shapes.iter().enumerate() {
        // Numbers in 0..1 without a pattern: some devices are faster with zeros.
        let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
        let values: Vec<f32> = (1..=shape.len() as u32).map(value).collect();
        gpu.write(program, &format!("x{i}"), bytemuck::cast_slice(&values))?;
    }
    let mut least = f64::INFINITY;
    for _ in 0..RUNS {
        let timeline = gpu.profile(program, 0, &Step::default())?;
        least = timeline.kernels.iter().map(|k| k.seconds.end - k.seconds.start).fold(least, f64::min);
    }
    gpu.unload(program);
    Ok((cost, least))
}
