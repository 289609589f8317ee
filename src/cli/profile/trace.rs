//! A trace in Chrome's event format, which ui.perfetto.dev opens: one row for the device, one for the host.

use super::workload::{Workload, shape_text};
use serde_json::{Value, json};
use wgpt::executor::{Executor, Timeline};

const DEVICE: u32 = 1;
const HOST: u32 = 2;

/// One replay, its segments one after the other.
pub fn trace(workload: &Workload, executor: &dyn Executor, timelines: &[Timeline]) -> Value {
    let mut events = vec![name(DEVICE, "device"), name(HOST, "host")];
    let mut start = 0.0;
    for timeline in timelines {
        let mut nth = std::collections::HashMap::new();
        for kernel in &timeline.kernels {
            let n: &mut usize = nth.entry(kernel.node).or_default();
            let shape = shape_text(&workload.graph, executor.limits(), kernel.node, *n);
            *n += 1;
            let label = &workload.graph.nodes()[kernel.node].label;
            let more = json!({ "place": label, "shape": shape });
            events.push(event(DEVICE, kernel.name, start, &kernel.seconds, more));
        }
        for (what, seconds) in &timeline.host {
            events.push(event(HOST, what, start, seconds, json!({})));
        }
        let ends = timeline.kernels.iter().map(|k| k.seconds.end).chain(timeline.host.iter().map(|(_, s)| s.end));
        start += ends.fold(0.0, f64::max);
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events, "otherData": { "what": workload.title } })
}

/// Names a row and puts the rows in their order.
fn name(row: u32, name: &str) -> Value {
    json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": { "name": name } })
}

/// A span, in microseconds rounded to whole nanoseconds so that neighbours do not overlap by a rounding.
fn event(row: u32, name: &str, start: f64, seconds: &std::ops::Range<f64>, more: Value) -> Value {
    let at = |seconds: f64| ((start + seconds) * 1e9).round();
    let (from, to) = (at(seconds.start), at(seconds.end));
    json!({ "ph": "X", "name": name, "pid": 1, "tid": row, "ts": from / 1e3, "dur": (to - from) / 1e3, "args": more })
}
