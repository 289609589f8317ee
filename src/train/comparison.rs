//! Finished or running runs side by side: their curves, final figures, settings that differ, and samples.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::checkpoint::{LOG_FILE, SAMPLES_FILE, TRAINER_FILE};
use super::record::Record;
use super::sinks::{log, samples};
use crate::error::{Error, Result};
use crate::fail;
use crate::formats::folder::CONFIG_FILE;

/// Points of a curve, at most: of more, neighbours are joined.
const MOST_POINTS: usize = 1500;

/// A run.
#[derive(Debug, Serialize)]
pub struct Compared {
    pub name: String,
    pub figures: Figures,
    pub curves: Curves,
    pub samples: Vec<samples::Sample>,
    /// Settings of the run, of its command and of its model, by their dotted names.
    #[serde(skip)]
    pub settings: BTreeMap<String, String>,
}

/// Final figures.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub steps: u64,
    /// The mean of the last tenth of the steps.
    pub loss: Option<f64>,
    /// The lowest, and its step.
    pub best_val_loss: Option<(f64, u64)>,
    /// The median.
    pub tokens_per_second: f64,
    pub tokens: f64,
    pub seconds: f64,
}

/// Numbers over the steps; none where a step has none.
#[derive(Debug, Default, Serialize)]
pub struct Curves {
    pub step: Vec<u64>,
    /// Tokens trained on so far.
    pub tokens: Vec<f64>,
    /// Seconds of steps so far.
    pub seconds: Vec<f64>,
    pub numbers: BTreeMap<String, Vec<Option<f64>>>,
}

impl Compared {
    /// Reads the run in a folder, or in `training/` of a folder.
    pub fn read(folder: &Path) -> Result<Compared> {
        let inner = folder.join("training");
        let root = if folder.join(LOG_FILE).exists() { folder } else { inner.as_path() };
        let records = log::read(&root.join(LOG_FILE))?;
        if records.is_empty() {
            let folder = folder.display();
            fail!(
                Input,
                "there is no run in {folder}: {LOG_FILE} in it, or in its training/, has no step; name a run's folder"
            );
        }
        let mut settings = BTreeMap::new();
        for file in [TRAINER_FILE, CONFIG_FILE] {
            let path = root.join(file);
            if path.exists() {
                let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
                let value: Value = serde_json::from_str(&text)
                    .map_err(|why| Error::Input(format!("{} is damaged ({why})", path.display())))?;
                match file {
                    TRAINER_FILE => ["objective", "settings", "command"]
                        .iter()
                        .for_each(|part| flatten("", &value[part], &mut settings)),
                    _ => flatten("config", &value, &mut settings),
                }
            }
        }
        let name = folder.display().to_string();
        let (figures, curves) = (figures(&records), curves(&records));
        Ok(Compared { name, figures, curves, samples: samples::read(&root.join(SAMPLES_FILE))?, settings })
    }
}

/// Names of settings that not all runs have alike, with the value in each run.
pub fn differences(runs: &[Compared]) -> Vec<(String, Vec<String>)> {
    let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let row = |name: &String| {
        let values = runs.iter().map(|run| run.settings.get(name).cloned().unwrap_or("-".into()));
        (name.clone(), values.collect::<Vec<_>>())
    };
    names.into_iter().map(row).filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// Parts of a command's record that say nothing of their own: settings as they were given, and checksums of data.
const PASSED_OVER: [&str; 2] = ["choices", "digest"];

/// Texts and numbers of a JSON value by their dotted names.
fn flatten(name: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().filter(|(key, _)| !PASSED_OVER.contains(&key.as_str())).for_each(|(key, value)| {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, into);
            })
        }
        Value::Null => {}
        Value::String(text) => _ = into.insert(if name.is_empty() { "objective" } else { name }.into(), text.clone()),
        other => _ = into.insert(name.into(), plain(other)),
    }
}

/// A value as somebody would write it: a number of 32 bits has no digits beyond them.
fn plain(value: &Value) -> String {
    match value {
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Number(number) => match number.as_f64() {
            Some(wide) if number.is_f64() && f64::from(wide as f32) == wide => (wide as f32).to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn tokens_of(record: &Record) -> f64 {
    let tokens = f64::from(record.tokens_per_second) * f64::from(record.step_ms) / 1e3;
    if tokens.is_finite() { tokens } else { 0.0 }
}

fn figures(records: &[Record]) -> Figures {
    let last = &records[records.len() - records.len().div_ceil(10)..];
    let losses: Vec<f64> = last.iter().map(|r| f64::from(r.loss)).filter(|loss| loss.is_finite()).collect();
    let validations = records.iter().filter_map(|r| Some((f64::from(r.val_loss?), r.step)));
    let mut speeds: Vec<f64> = records.iter().map(|r| f64::from(r.tokens_per_second)).collect();
    speeds.sort_by(f64::total_cmp);
    Figures {
        steps: records.last().map_or(0, |record| record.step),
        loss: (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64),
        best_val_loss: validations.filter(|(loss, _)| loss.is_finite()).min_by(|a, b| a.0.total_cmp(&b.0)),
        tokens_per_second: speeds[speeds.len() / 2],
        tokens: records.iter().map(tokens_of).sum(),
        seconds: records.iter().map(|r| f64::from(r.step_ms) / 1e3).filter(|seconds| seconds.is_finite()).sum(),
    }
}

/// Curves of as many points as steps, or of the means of neighbours where that is too many.
fn curves(records: &[Record]) -> Curves {
    let names: BTreeSet<&str> = records.iter().flat_map(|record| record.numbers().into_keys()).collect();
    let mut curves = Curves::default();
    let (mut tokens, mut seconds) = (0.0, 0.0);
    for joined in records.chunks(records.len().div_ceil(MOST_POINTS)) {
        tokens += joined.iter().map(tokens_of).sum::<f64>();
        seconds += joined.iter().map(|r| f64::from(r.step_ms) / 1e3).filter(|s| s.is_finite()).sum::<f64>();
        curves.step.push(joined[joined.len() - 1].step);
        curves.tokens.push(tokens);
        curves.seconds.push(seconds);
        let all: Vec<BTreeMap<&str, f64>> = joined.iter().map(Record::numbers).collect();
        for name in &names {
            let known: Vec<f64> = all.iter().filter_map(|numbers| numbers.get(name).copied()).collect();
            let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
            curves.numbers.entry(name.to_string()).or_default().push(mean);
        }
    }
    curves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64, loss: f32) -> Record {
        let val_loss = step.is_multiple_of(4).then_some(loss + 1.0);
        Record { step, loss, val_loss, step_ms: 500.0, tokens_per_second: 200.0, ..Record::default() }
    }

    #[test]
    fn figures_are_of_the_last_steps_and_the_lowest_validation() {
        let mut records: Vec<Record> = (1..=20).map(|step| record(step, 21.0 - step as f32)).collect();
        records[3].val_loss = Some(0.5);
        records[19].loss = f32::NAN;
        let Figures { steps, loss, best_val_loss, tokens_per_second, tokens, seconds } = figures(&records);
        assert_eq!((steps, loss, best_val_loss), (20, Some(2.0), Some((0.5, 4))));
        assert_eq!((tokens_per_second, tokens, seconds), (200.0, 2000.0, 10.0));
    }

    #[test]
    fn long_curves_are_joined_and_gaps_stay() {
        let records: Vec<Record> = (1..=3000).map(|step| record(step, step as f32)).collect();
        let curves = curves(&records);
        assert_eq!((curves.step.len(), curves.step[0], curves.seconds[0]), (1500, 2, 1.0));
        assert_eq!(curves.numbers["loss"][0], Some(1.5));
        assert_eq!(curves.numbers["val_loss"][..2], [None, Some(5.0)]);
    }
}
