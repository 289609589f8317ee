//! Which presets fit, and about how long they would train: each op's FLOPs and bytes at the speed that ops of its kind reach
//! in a step that is small enough to be measured.

use super::super::host_memory;
use super::super::profile::record::{Record, measure};
use super::super::profile::significant;
use super::super::profile::workload::{Wanted, Workload};
use serde::Serialize;
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::gpu::ceilings::{Ceilings, allocatable_bytes};
use wgpt::gpu::{Adapter, Gpu};
use wgpt::graph::{AdapterKind, Limits};
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::models::presets::PRESETS;
use wgpt::objectives::pretraining;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::graph::{ACCUMULATE, UPDATE};
use wgpt::train::memory::mib;
use wgpt::train::settings::{Choices, Settings};

/// Training of every preset on a device, and the measurements behind the estimates.
#[derive(Serialize)]
pub struct Estimates {
    /// The step that was measured.
    basis: String,
    /// Share of the multiply-adds' ceiling that its arithmetic reaches, and of the copy's that the rest reaches.
    flops_share: f64,
    bytes_share: f64,
    /// Time of the step beside that of its kernels.
    overhead: f64,
    /// Bytes that buffers can have.
    free_bytes: u64,
    presets: Vec<Estimate>,
}

#[derive(Serialize)]
struct Estimate {
    preset: &'static str,
    parameters: u64,
    /// The largest up to the preset's own that fits; the steps' tokens stay the same.
    batch: usize,
    context: usize,
    /// None where no plan is possible within the device's limits.
    memory_bytes: Option<u64>,
    fits: bool,
    tokens_per_second: Option<f64>,
    hours_for_1b_tokens: Option<f64>,
}

/// Largest amount that is tried to be allocated.
const MOST_BYTES: u64 = 256 << 30;

/// The base of estimates: a step that was measured, and the device.
pub struct Basis {
    record: Record,
    ceilings: Ceilings,
    adapter: Adapter,
    limits: Limits,
    /// Free memory, where buffers are host memory.
    host: Option<u64>,
}

pub fn estimate(gpu: &mut Gpu, ceilings: &Ceilings) -> Result<Basis> {
    let record = reference(gpu, ceilings)?;
    let (adapter, limits, host) = (gpu.adapter().clone(), gpu.limits().clone(), host_memory(gpu));
    Ok(Basis { record, ceilings: *ceilings, adapter, limits, host })
}

impl Basis {
    /// Estimates of all presets. The device must be free again: allocations show which presets fit.
    pub fn of_presets(self) -> Result<Estimates> {
        let Basis { record, ceilings, adapter, limits, host } = self;
        let ((flops_share, bytes_share), overhead) =
            (shares(&record, &ceilings), record.step_ms.median / record.kernel_ms());
        let free_bytes = host.map_or_else(|| allocatable_bytes(&adapter, MOST_BYTES), Ok)?;
        let mut estimates =
            Estimates { basis: record.title, flops_share, bytes_share, overhead, free_bytes, presets: vec![] };
        for preset in PRESETS {
            let estimate = estimates.preset(preset.name, &limits, &ceilings)?;
            estimates.presets.push(estimate);
        }
        Ok(estimates)
    }
}

/// A measured step: on a GPU two layers of GPT-2, which keep it as busy as the whole; on a software adapter the demo.
fn reference(gpu: &mut Gpu, ceilings: &Ceilings) -> Result<Record> {
    let demo = Wanted::default();
    let large = Wanted { preset: Some("gpt2".into()), layers: Some(2), batch: Some(2), ..Wanted::default() };
    let wanted = if gpu.limits().adapter == AdapterKind::Gpu && !gpu.adapter().is_software() { &large } else { &demo };
    let workload = match Workload::load(wanted, gpu, None) {
        Err(Error::OutOfMemory(_)) => Workload::load(&demo, gpu, None)?,
        loaded => loaded?,
    };
    let clock = if gpu.has_device_clock() { "device" } else { "host" };
    Ok(measure(&workload, gpu, 3, (clock, Some(*ceilings)))?.0)
}

/// Least time over measured time, of the kernels bound by arithmetic and of those bound by memory.
fn shares(record: &Record, ceilings: &Ceilings) -> (f64, f64) {
    let mut sums = [(0.0, 0.0); 2];
    for row in record.rows.iter().filter(|row| row.flops + row.bytes > 0.0) {
        let (floor, arithmetic) = ceilings.floor_seconds(&row.kernel, row.flops, row.bytes);
        let sum = &mut sums[usize::from(arithmetic)];
        *sum = (sum.0 + floor, sum.1 + row.seconds());
    }
    let [bytes, flops] = sums.map(|(floor, seconds): (f64, f64)| if seconds > 0.0 { floor / seconds } else { 1.0 });
    (flops, bytes)
}

impl Estimates {
    fn preset(&self, name: &'static str, limits: &Limits, ceilings: &Ceilings) -> Result<Estimate> {
        let recipe = PresetRecipe::of(Some(name));
        let mut settings = Choices::default().resolve(&recipe.run, |_| 1)?;
        let model = ModelChoices { preset: Some(name.into()), ..ModelChoices::default() };
        let config = model.config(Config::preset(name)?.vocab_size, recipe.init_std)?;
        let tokens = settings.batch * settings.accumulate;
        let mut memory_bytes = plan_bytes(&config, &settings, limits);
        let fits = |memory: Option<u64>| memory.is_some_and(|bytes| bytes <= self.free_bytes);
        while !fits(memory_bytes) && settings.batch > 1 {
            settings.batch /= 2;
            settings.accumulate = tokens.div_ceil(settings.batch);
            memory_bytes = plan_bytes(&config, &settings, limits);
        }
        let fits = fits(memory_bytes);
        let tokens_per_second =
            fits.then(|| self.tokens_per_second(&config, &settings, limits, ceilings)).transpose()?;
        Ok(Estimate {
            preset: name,
            parameters: config.parameter_count(),
            batch: settings.batch,
            context: config.context,
            memory_bytes,
            fits,
            tokens_per_second,
            hours_for_1b_tokens: tokens_per_second.map(|speed| 1e9 / speed / 3600.0),
        })
    }

    /// Every op of a step at the speed of its kind.
    fn tokens_per_second(
        &self,
        config: &Config,
        settings: &Settings,
        limits: &Limits,
        ceilings: &Ceilings,
    ) -> Result<f64> {
        let blueprint = Blueprint::new(pretraining(config.clone(), config.context).as_ref(), settings, limits)?;
        let graph = &blueprint.training_graph().graph;
        let seconds = |segment: &str| {
            let nodes = graph.segments().into_iter().filter(|(name, _)| name == segment).flat_map(|(_, nodes)| nodes);
            let costs = nodes.filter_map(|node| Some(graph.op(node)?.cost(&graph.shapes(node))));
            let second = |cost: wgpt::graph::Cost| {
                let (floor, arithmetic) = ceilings.floor_seconds("", cost.flops as f64, cost.size_bytes as f64);
                floor / if arithmetic { self.flops_share } else { self.bytes_share }
            };
            costs.map(second).sum::<f64>()
        };
        let step = settings.accumulate as f64 * seconds(ACCUMULATE) + seconds(UPDATE);
        let tokens = settings.batch * settings.accumulate * config.context;
        Ok(tokens as f64 / (step * self.overhead))
    }

    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("\nTraining in f32, with {} free for buffers:\n", mib(self.free_bytes)),
            format!(
                "    {:12} {:>12} {:>15} {:>11} {:>5} {:>10} {:>20}",
                "preset", "parameters", "batch x context", "memory", "fits", "tokens/s", "hours for 1B tokens"
            ),
        ];
        for p in &self.presets {
            let number = |value: Option<f64>| value.map_or("-".into(), significant);
            lines.push(format!(
                "    {:12} {:>12} {:>15} {:>11} {:>5} {:>10} {:>20}",
                p.preset,
                p.parameters,
                format!("{} x {}", p.batch, p.context),
                p.memory_bytes.map_or("-".into(), mib),
                if p.fits { "yes" } else { "no" },
                number(p.tokens_per_second),
                number(p.hours_for_1b_tokens),
            ));
        }
        lines.push(format!(
            "\nEstimated from the ceilings and from {}, whose arithmetic reached {:.0}% of the multiply-adds and the rest \
             {:.0}% of the copy; larger kernels may reach more.",
            self.basis,
            100.0 * self.flops_share,
            100.0 * self.bytes_share,
        ));
        lines
    }
}

/// Bytes of a run, or nothing where the device's limits allow no plan.
fn plan_bytes(config: &Config, settings: &Settings, limits: &Limits) -> Option<u64> {
    Blueprint::new(pretraining(config.clone(), config.context).as_ref(), settings, limits)
        .ok()
        .map(|b| b.memory_bytes())
}
