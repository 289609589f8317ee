//! Whether a run fits a device's memory, and which options would make it fit.

use super::blueprint::Blueprint;
use super::objective::Objective;
use super::settings::{Precision, Settings};
use crate::error::{Error, Result};
use crate::fail;
use crate::graph::Limits;

/// Rows of the classifier that are suggested: enough for fast products, and few logits for any vocabulary.
const SUGGESTED_ROWS: usize = 512;

/// Fails where a software adapter or the CPU would need more memory than the machine has free, and names options that fit.
pub fn check_memory(
    objective: &dyn Objective,
    settings: &Settings,
    limits: &Limits,
    available_bytes: Option<u64>,
) -> Result<Blueprint> {
    let blueprint = Blueprint::new(objective, settings, limits);
    let too_much = match (&blueprint, available_bytes) {
        (Err(Error::OutOfMemory(why)), _) => why.clone(),
        (Ok(b), Some(available)) if b.memory_bytes() > available => {
            format!("this run needs {} and {} are free", mib(b.memory_bytes()), mib(available))
        }
        _ => return blueprint,
    };
    let fits = |b: &Blueprint| available_bytes.is_none_or(|available| b.memory_bytes() <= available);
    let (mut found, mut largest) = (vec![], 0);
    for way in ways(objective, settings) {
        let halves = std::iter::successors(Some(settings.batch), |batch| Some(batch / 2));
        // A way that costs time is worth naming where it lets a larger batch fit than those before.
        let halves: Vec<usize> = halves.take_while(|batch| *batch > largest).collect();
        let smaller = |batch: usize| {
            let accumulate = (settings.batch * settings.accumulate).div_ceil(batch);
            let smaller = Settings { batch, accumulate, ..way.clone() };
            let needs = Blueprint::new(objective, &smaller, limits).ok().filter(fits)?.memory_bytes();
            Some((accumulate, needs))
        };
        // Less never takes more, so that few of them are planned.
        let first = halves.partition_point(|batch| smaller(*batch).is_none());
        if let Some((batch, (accumulate, needs))) = halves.get(first).and_then(|b| Some((*b, smaller(*b)?))) {
            let (flags, needs) = (flags(settings, &way), mib(needs));
            found.push(format!("--batch {batch} --accumulate {accumulate}{flags} needs {needs}"));
            largest = batch;
        }
    }
    if found.is_empty() {
        fail!(OutOfMemory, "{too_much}: even --batch 1 does not fit, use a smaller model or shorter sequences")
    }
    fail!(OutOfMemory, "{too_much}: {}", found.join(", "))
}

/// The memory of the run, and of other choices; planning them is quick.
pub fn advice(objective: &dyn Objective, settings: &Settings, limits: &Limits, blueprint: &Blueprint) -> String {
    let other = |other: Settings| {
        Blueprint::new(objective, &other, limits).map_or("no memory at all".into(), |b| mib(b.memory_bytes()))
    };
    let mut others = vec![];
    if let Some(chunked) = chunked(objective, settings) {
        others.push(format!("{} with --classifier-rows {SUGGESTED_ROWS}", other(chunked)));
    }
    if !settings.recompute {
        others.push(format!("{} with --recompute", other(Settings { recompute: true, ..settings.clone() })));
    }
    if settings.batch > 1 {
        let batch = settings.batch / 2;
        let accumulate = (settings.batch * settings.accumulate).div_ceil(batch);
        let smaller = other(Settings { batch, accumulate, ..settings.clone() });
        others.push(format!("{smaller} with --batch {batch} --accumulate {accumulate}"));
    }
    if !settings.is_mixed() && limits.f16 {
        let mixed = other(Settings { precision: Precision::Mixed, ..settings.clone() });
        others.push(format!("{mixed} with --precision mixed"));
    }
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    format!("memory: {} on the device{others}", mib(blueprint.memory_bytes()))
}

/// These settings with fewer logits at a time, where that is fewer.
fn chunked(objective: &dyn Objective, settings: &Settings) -> Option<Settings> {
    let tokens =
        objective.shapes(settings.batch).iter().map(|shape| shape.batch * shape.sequences * shape.length).max()?;
    let rows = settings.compute().classifier_rows.unwrap_or(usize::MAX).min(tokens);
    (rows > SUGGESTED_ROWS).then(|| Settings { classifier_rows: SUGGESTED_ROWS, ..settings.clone() })
}

/// These settings, and those that need less memory for more time, from cheap to dear.
fn ways(objective: &dyn Objective, settings: &Settings) -> Vec<Settings> {
    let kept: Vec<Settings> = std::iter::once(settings.clone()).chain(chunked(objective, settings)).collect();
    let again = kept.iter().filter(|way| !way.recompute).map(|way| Settings { recompute: true, ..way.clone() });
    kept.iter().cloned().chain(again).collect()
}

/// The flags that make `settings` into `way`.
fn flags(settings: &Settings, way: &Settings) -> String {
    let rows = way.classifier_rows;
    let rows = if rows == settings.classifier_rows { String::new() } else { format!(" --classifier-rows {rows}") };
    format!("{rows}{}", if way.recompute == settings.recompute { "" } else { " --recompute" })
}

/// Bytes as MiB, rounded up.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
