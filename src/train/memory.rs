//! Whether a run fits a device's memory, and what would make it.

use super::settings::Settings;
use super::trainer::{Blueprint, mib};
use crate::error::{Error, Result};
use crate::fail;
use crate::graph::Limits;
use crate::models::config::Config;

/// Rows of the classifier that are suggested: enough for fast products, and few logits for any vocabulary.
pub const SUGGESTED_ROWS: usize = 512;

/// Fails where a software adapter or the CPU would need more memory than the machine has free, saying what would fit.
pub fn check_memory(
    config: &Config,
    settings: &Settings,
    limits: &Limits,
    available_bytes: Option<u64>,
) -> Result<Blueprint> {
    let blueprint = Blueprint::new(config, settings, limits);
    let too_much = match (&blueprint, available_bytes) {
        (Err(Error::OutOfMemory(why)), _) => why.clone(),
        (Ok(b), Some(available)) if b.memory_bytes() > available => {
            format!("this run needs {} and {} are free", mib(b.memory_bytes()), mib(available))
        }
        _ => return blueprint,
    };
    let fits = |b: &Blueprint| available_bytes.is_none_or(|available| b.memory_bytes() <= available);
    let (mut found, mut largest) = (vec![], 0);
    for way in ways(settings) {
        let halves = std::iter::successors(Some(settings.batch), |batch| Some(batch / 2));
        // A way that costs time is worth naming where it lets a larger batch fit than those before.
        for batch in halves.take_while(|batch| *batch > largest) {
            let accumulate = (settings.batch * settings.accumulate).div_ceil(batch);
            let smaller = Settings { batch, accumulate, ..way.clone() };
            if let Some(b) = Blueprint::new(config, &smaller, limits).ok().filter(fits) {
                let (flags, needs) = (flags(settings, &way), mib(b.memory_bytes()));
                found.push(format!("--batch {batch} --accumulate {accumulate}{flags} needs {needs}"));
                largest = batch;
                break;
            }
        }
    }
    if found.is_empty() {
        fail!(OutOfMemory, "{too_much}: even --batch 1 does not fit, use a smaller --preset, --context or --width")
    }
    fail!(OutOfMemory, "{too_much}: {}", found.join(", "))
}

/// These settings with fewer logits at a time, where that is fewer.
pub fn chunked(settings: &Settings) -> Option<Settings> {
    let rows = settings.chunk_rows().unwrap_or(usize::MAX).min(settings.batch * settings.context);
    (rows > SUGGESTED_ROWS).then(|| Settings { classifier_rows: SUGGESTED_ROWS, ..settings.clone() })
}

/// These settings, and those that need less memory for more time, from cheap to dear.
fn ways(settings: &Settings) -> Vec<Settings> {
    let kept: Vec<Settings> = std::iter::once(settings.clone()).chain(chunked(settings)).collect();
    let again = kept.iter().filter(|way| !way.recompute).map(|way| Settings { recompute: true, ..way.clone() });
    kept.iter().cloned().chain(again).collect()
}

/// The flags that make `settings` into `way`.
fn flags(settings: &Settings, way: &Settings) -> String {
    let rows = way.classifier_rows;
    let rows = if rows == settings.classifier_rows { String::new() } else { format!(" --classifier-rows {rows}") };
    format!("{rows}{}", if way.recompute == settings.recompute { "" } else { " --recompute" })
}
