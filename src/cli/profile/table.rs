//! The tables: time of each kernel, and changes since an earlier profile.

use super::record::{Record, Row};
use std::collections::BTreeMap;
use wgpt::gpu::ceilings::Ceilings;

/// Rows that are shown unless more are asked for; the rest is one line, so that the totals add up.
const ROWS: usize = 30;

/// Everything about a profile, line by line.
pub fn lines(record: &Record, all: bool) -> Vec<String> {
    let mut lines = vec![record.title.clone(), String::new()];
    let total = record.kernel_ms();
    let shown = if all { record.rows.len() } else { record.rows.len().min(ROWS) };
    let names: Vec<String> = record.rows[..shown].iter().map(Row::name).collect();
    let width = |texts: &mut dyn Iterator<Item = usize>, least: usize| texts.max().unwrap_or(0).max(least);
    let name = width(&mut names.iter().map(String::len), "(100 more kernels)".len());
    let shape = width(&mut record.rows[..shown].iter().map(|r| r.shape.len()), 5).min(40);
    lines.push(format!(
        "{:name$}  {:shape$} {:>6} {:>10} {:>6} {:>7} {:>9} {:>9} {:>8}  {}",
        "kernel", "shape", "calls", "ms", "+-", "share", "TFLOP/s", "GB/s", "ceiling", "bound by"
    ));
    let line = |what: &str, row: &Row| {
        let (limit, share) = limit(row, record.ceilings.as_ref());
        let mut text: String = row.shape.chars().take(shape).collect();
        if text.len() < row.shape.len() {
            text.replace_range(shape - 2.., "..");
        }
        format!(
            "{what:name$}  {text:shape$} {:6} {:10.3} {:5.0}% {:6.1}% {:>9} {:>9} {share:>8}  {limit}",
            row.calls,
            row.ms.median,
            100.0 * row.ms.relative(),
            100.0 * row.ms.median / total,
            rate(row.flops, row.seconds(), 1e12),
            rate(row.bytes, row.seconds(), 1e9),
        )
    };
    lines.extend(record.rows[..shown].iter().zip(&names).map(|(row, name)| line(name, row).trim_end().to_string()));
    let rest = sum("", &record.rows[shown..]);
    if shown < record.rows.len() {
        let what = format!("({} more kernels)", record.rows.len() - shown);
        let line = format!("{what:name$}  {:shape$} {:6} {:10.3}", "--verbose", rest.calls, rest.ms.median);
        lines.push(format!("{line} {:>6} {:6.1}%", "", 100.0 * rest.ms.median / total));
    }
    let whole = sum("total", &record.rows);
    let line = format!("{:name$}  {:shape$} {:6} {:10.3} {:>6} {:6.1}%", "total", "", whole.calls, total, "", 100.0);
    let rates = (rate(whole.flops, total / 1e3, 1e12), rate(whole.bytes, total / 1e3, 1e9));
    lines.push(format!("{line} {:>9} {:>9}", rates.0, rates.1));
    lines.push(String::new());
    lines.extend(totals(record, &whole));
    lines
}

/// The lines below the table.
fn totals(record: &Record, whole: &Row) -> Vec<String> {
    let step = record.step_ms;
    let seconds = step.median / 1e3;
    let mut lines = vec![format!(
        "step outside of the profile: {:.3} ms (+-{:.0}%), {:.0} tokens/s, {} of the model's formula",
        step.median,
        100.0 * step.relative(),
        record.tokens as f64 / seconds,
        flops(record.model_flops / seconds),
    )];
    if let Some(ceilings) = &record.ceilings {
        let peak = record.rows.iter().map(|row| ceilings.flops_of(&row.kernel)).fold(ceilings.f32_flops, f64::max);
        lines.push(format!(
            "model FLOP utilisation: {:.1}% of {} measured; the kernels' least bytes at {:.1}% of the copy's {:.1} GB/s",
            100.0 * record.model_flops / seconds / peak,
            flops(peak),
            100.0 * whole.bytes / seconds / ceilings.copy_bytes,
            ceilings.copy_bytes / 1e9,
        ));
        let over = |row: &&Row| ceilings.floor_seconds(&row.kernel, row.flops, row.bytes).0 > row.seconds();
        if record.rows.iter().any(|row| over(&row)) {
            lines.push("over 100% of the ceiling: its data was still in a cache".into());
        }
    }
    lines.push(match record.clock.as_str() {
        "device" => format!("each kernel in a pass of its own, by the device's clock, median of {}", record.repeats),
        _ => format!("by the host's clock, waiting for each kernel, which adds to it; median of {}", record.repeats),
    });
    lines.push("+- is half the range. Kernels of one op share its cost by their times.".into());
    lines
}

/// Which ceiling binds, and the share of it that is reached.
fn limit(row: &Row, ceilings: Option<&Ceilings>) -> (&'static str, String) {
    let Some(ceilings) = ceilings.filter(|_| row.flops + row.bytes > 0.0 && row.ms.median > 0.0) else {
        return ("", String::new());
    };
    let (floor, arithmetic) = ceilings.floor_seconds(&row.kernel, row.flops, row.bytes);
    (if arithmetic { "FLOPs" } else { "bytes" }, format!("{:.1}%", 100.0 * floor / row.seconds()))
}

/// Calls, medians and costs together.
fn sum(label: &str, rows: &[Row]) -> Row {
    let mut sum = Row {
        label: label.into(),
        kernel: label.into(),
        shape: String::new(),
        calls: 0,
        ms: Default::default(),
        flops: 0.0,
        bytes: 0.0,
    };
    for row in rows {
        sum.calls += row.calls;
        sum.ms.median += row.ms.median;
        sum.ms.low += row.ms.low;
        sum.ms.high += row.ms.high;
        sum.flops += row.flops;
        sum.bytes += row.bytes;
    }
    sum
}

fn rate(amount: f64, seconds: f64, unit: f64) -> String {
    if amount == 0.0 || seconds == 0.0 { "-".into() } else { significant(amount / seconds / unit) }
}

/// Three digits, whatever the size.
pub fn significant(value: f64) -> String {
    let digits = if value <= 0.0 { 0 } else { (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize };
    format!("{value:.digits$}")
}

/// FLOP/s with the unit that fits.
pub fn flops(per_second: f64) -> String {
    let units = [(1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s")];
    let (size, unit) = units.into_iter().find(|(size, _)| per_second >= *size).unwrap_or((1e3, "kFLOP/s"));
    format!("{} {unit}", significant(per_second / size))
}

/// Kernels that got faster or slower since `before`: their ranges do not touch. Kernels are matched by place and shape, so
/// that another shader for the same work compares with the one before.
pub fn comparison(now: &Record, before: &Record) -> Vec<String> {
    let mut pairs: BTreeMap<(String, String), [Vec<Row>; 2]> = BTreeMap::new();
    for (side, record) in [before, now].into_iter().enumerate() {
        for row in &record.rows {
            let key = (row.label.clone(), row.shape.clone());
            pairs.entry(key).or_default()[side].push(row.clone());
        }
    }
    let mut lines = vec![];
    if now.device != before.device {
        lines.push(format!("note: before was on {}", before.device));
    }
    let mut changes = vec![];
    let mut same = 0;
    for ((label, shape), [before, now]) in pairs {
        let (was, is) = (sum("", &before).ms, sum("", &now).ms);
        let change = is.median - was.median;
        let verdict = match (before.is_empty(), now.is_empty()) {
            (true, _) => "new",
            (_, true) => "gone",
            _ if is.high < was.low => "faster",
            _ if is.low > was.high => "slower",
            _ => {
                same += 1;
                continue;
            }
        };
        let percent = if was.median > 0.0 { 100.0 * change / was.median } else { 0.0 };
        let kernels: Vec<&str> = now.iter().chain(&before).map(|r| r.kernel.as_str()).take(1).collect();
        let text = format!(
            "{verdict:6} {:10.3} -> {:10.3} ms {percent:+7.1}% (+-{:.0}%, +-{:.0}%)  {label} {shape} ({})",
            was.median,
            is.median,
            100.0 * was.relative(),
            100.0 * is.relative(),
            kernels.join(", "),
        );
        changes.push((change, text));
    }
    changes.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    lines.extend(changes.into_iter().map(|(_, text)| text));
    lines.push(format!("{same} kernels are within the spread"));
    let (was, is) = (before.step_ms, now.step_ms);
    lines.push(format!(
        "step: {:.3} (+-{:.0}%) -> {:.3} ms (+-{:.0}%), {:+.1}%",
        was.median,
        100.0 * was.relative(),
        is.median,
        100.0 * is.relative(),
        100.0 * (is.median / was.median - 1.0),
    ));
    lines
}
