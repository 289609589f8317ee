//! A profile as it is printed, saved and compared: kernels of one name and shape are one row.

use super::workload::{Workload, shape_text};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::time::Instant;
use wgpt::error::Result;
use wgpt::executor::{COPY, Executor, Timeline};
use wgpt::gpu::ceilings::Ceilings;

/// The median of some times and their range, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(samples: &[f64]) -> Spread {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) = (sorted.first(), sorted.last()) else { return Spread::default() };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] };
        Spread { median, low: *low, high: *high }
    }

    /// Half of the range as a share of the median.
    pub fn relative(&self) -> f64 {
        if self.median > 0.0 { (self.high - self.low) / 2.0 / self.median } else { 0.0 }
    }
}

/// All kernels of one shader, place and shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The place in the model, without the layer's number, and the op.
    pub label: String,
    /// Stem of the shader.
    pub kernel: String,
    pub shape: String,
    /// Launches per step.
    pub calls: usize,
    /// Of all calls together.
    pub ms: Spread,
    /// FLOPs and least bytes of all calls together.
    pub flops: f64,
    pub bytes: f64,
}

impl Row {
    pub fn seconds(&self) -> f64 {
        self.ms.median / 1e3
    }

    /// The place and the shader.
    pub fn name(&self) -> String {
        match self.label.rsplit_once(": ") {
            Some((place, _)) => format!("{place}: {}", self.kernel),
            None => self.kernel.clone(),
        }
    }
}

/// One profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub device: String,
    /// The workload that was replayed.
    pub title: String,
    /// `device` or `host`.
    pub clock: String,
    pub repeats: usize,
    /// Tokens of one replay.
    pub tokens: u64,
    pub model_flops: f64,
    /// One replay as it is outside of a profile: all kernels in few passes.
    pub step_ms: Spread,
    /// None on the CPU reference.
    pub ceilings: Option<Ceilings>,
    /// Longest first.
    pub rows: Vec<Row>,
}

impl Record {
    /// Milliseconds of all kernels.
    pub fn kernel_ms(&self) -> f64 {
        self.rows.iter().map(|r| r.ms.median).sum()
    }
}

/// A row in the making.
struct Sum {
    row: Row,
    order: usize,
    ms: Vec<f64>,
}

/// Replays a workload `repeats` times each way, after one warm-up; returns the last timelines as well.
pub fn measure(
    workload: &Workload,
    executor: &mut dyn Executor,
    repeats: usize,
    (clock, ceilings): (&str, Option<Ceilings>),
) -> Result<(Record, Vec<Timeline>)> {
    workload.run(executor)?;
    let mut steps = vec![];
    for _ in 0..repeats {
        let start = Instant::now();
        workload.run(executor)?;
        steps.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let mut last = workload.profile(executor)?;
    let mut sums: HashMap<(String, &'static str, String), Sum> = HashMap::new();
    let mut shapes: HashMap<(usize, usize), String> = HashMap::new();
    for repeat in 0..repeats {
        last = workload.profile(executor)?;
        for timeline in &last {
            add(&mut sums, &mut shapes, (workload, &*executor), timeline, (repeat, repeats));
        }
    }
    let mut sums: Vec<Sum> = sums.into_values().collect();
    sums.sort_by_key(|s| s.order);
    let mut rows: Vec<Row> =
        sums.into_iter().map(|s| Row { ms: Spread::of(&s.ms), calls: s.row.calls / repeats, ..s.row }).collect();
    rows.sort_by(|a, b| b.ms.median.total_cmp(&a.ms.median));
    let record = Record {
        device: executor.description(),
        title: workload.title.clone(),
        clock: clock.into(),
        repeats,
        tokens: workload.tokens,
        model_flops: workload.model_flops,
        step_ms: Spread::of(&steps),
        ceilings,
        rows,
    };
    Ok((record, last))
}

/// Adds a timeline's kernels to their rows. The cost of an op is known, that of each of its kernels is not: it is shared
/// by their times, so that all kernels of an op show the op's rates.
fn add(
    sums: &mut HashMap<(String, &'static str, String), Sum>,
    shapes: &mut HashMap<(usize, usize), String>,
    (workload, executor): (&Workload, &dyn Executor),
    timeline: &Timeline,
    (repeat, repeats): (usize, usize),
) {
    let graph = &workload.graph;
    let mut node_seconds: HashMap<usize, (f64, usize)> = HashMap::new();
    for kernel in timeline.kernels.iter().filter(|k| k.name != COPY) {
        let (seconds, count) = node_seconds.entry(kernel.node).or_default();
        *seconds += kernel.seconds.end - kernel.seconds.start;
        *count += 1;
    }
    let mut nth: HashMap<usize, usize> = HashMap::new();
    for kernel in &timeline.kernels {
        let seconds = kernel.seconds.end - kernel.seconds.start;
        let mut share = 0.0;
        let mut shape = String::new();
        if kernel.name != COPY {
            let (all, count) = node_seconds[&kernel.node];
            share = if all > 0.0 { seconds / all } else { 1.0 / count as f64 };
            let n = nth.entry(kernel.node).or_default();
            let made = || shape_text(graph, executor.limits(), kernel.node, *n);
            shape = shapes.entry((kernel.node, *n)).or_insert_with(made).clone();
            *n += 1;
        }
        let cost = graph.op(kernel.node).map(|op| op.cost(&graph.shapes(kernel.node))).unwrap_or_default();
        let label = without_layer(&graph.nodes()[kernel.node].label);
        let order = sums.len();
        let sum = sums.entry((label.clone(), kernel.name, shape.clone())).or_insert_with(|| {
            let (kernel, ms) = (kernel.name.into(), Spread::default());
            Sum { row: Row { label, kernel, shape, calls: 0, ms, flops: 0.0, bytes: 0.0 }, order, ms: vec![] }
        });
        sum.ms.resize(repeat + 1, 0.0);
        sum.ms[repeat] += seconds * 1e3;
        sum.row.calls += 1;
        sum.row.flops += share * cost.flops as f64 / repeats as f64;
        sum.row.bytes += share * cost.size_bytes as f64 / repeats as f64;
    }
}

/// `h.3.attn: matmul` as `h.*.attn: matmul`.
pub fn without_layer(label: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = label.split('.').map(|part| if is_number(part) { "*" } else { part }).collect();
    parts.join(".")
}
