//! `wgpt profile` and `wgpt doctor`: times that add up, files that other programs read, and the loop of a kernel author.

use crate::cli::{error, has, stderr};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use wgpt::executor::{COPY, Executor};
use wgpt::gpu::ceilings::Ceilings;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Limits, Op, Plan, Shape, Shapes, Step};
use wgpt::models::blocks::{Compute, Model};
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::ops::add::{Add, AddInPlace};
use wgpt::ops::ceiling::Fma;
use wgpt::shaders::specialise;
use wgpt::train::graph::{Optimizer, TrainingGraph};

/// A model that takes milliseconds.
const SMALL: &str = "profile --preset demo --batch 1 --context 16 --repeat 2";

/// The graph of its training step.
fn small() -> Graph {
    let network = Network::new(Config { context: 16, ..Config::preset("demo").unwrap() });
    let networks = std::slice::from_ref(&network);
    let loss = |g: &mut Graph, m: &[Model]| m[0].loss(g, 1, 16);
    TrainingGraph::new(networks, Compute::default(), &Optimizer::default(), loss).graph
}

fn wgpt(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgpt"));
    command.args(arguments.split_whitespace()).current_dir(folder).output().unwrap()
}

#[track_caller]
fn run(folder: &Path, arguments: &str) -> String {
    let output = wgpt(folder, arguments);
    assert!(output.status.success(), "{arguments}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn json(folder: &Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The table's rows as (kernel, calls, ms, share in %), found by where the columns end; the last one is the total.
fn rows(text: &str) -> Vec<(String, u64, f64, f64)> {
    let mut lines = text.lines().skip_while(|l| !l.starts_with("kernel "));
    let header = lines.next().expect("a table");
    let column = |line: &str, name: &str, width: usize| {
        let end = header.find(name).unwrap() + name.len();
        line[end - width..end].trim().trim_end_matches('%').to_string()
    };
    let row = |line: &str| {
        let number = |name: &str, width| column(line, name, width).parse::<f64>().unwrap();
        (line.to_string(), number("calls", 6) as u64, number(" ms", 10), number("share", 6))
    };
    lines.take_while(|l| !l.is_empty()).map(row).collect()
}

#[test]
fn the_table_adds_up_whether_all_kernels_are_shown_or_the_longest() {
    let place = tempfile::tempdir().unwrap();
    for more in ["", "--verbose"] {
        let text = run(place.path(), &format!("{SMALL} --json run.json {more}"));
        let mut rows = rows(&text);
        let total = rows.pop().unwrap();
        assert!(total.0.starts_with("total"), "{text}");
        assert_eq!(more.is_empty(), text.contains(" more kernels)"), "{text}");
        assert_eq!(rows.iter().map(|r| r.1).sum::<u64>(), total.1, "{text}");
        // Every figure is rounded: by up to half of 0.001 ms, and half of 0.1%.
        let ms: f64 = rows.iter().map(|r| r.2).sum();
        assert!((ms - total.2).abs() <= 0.0005 * (rows.len() + 1) as f64, "{ms} is not {}: {text}", total.2);
        let share: f64 = rows.iter().map(|r| r.3).sum();
        assert!(total.3 == 100.0 && (share - 100.0).abs() <= 0.05 * rows.len() as f64, "{share}: {text}");
        has(&text, &["tokens/s", "model FLOP utilisation", "by the device's clock, median of 2"]);

        let saved = json(place.path(), "run.json");
        let saved_rows = saved["rows"].as_array().unwrap();
        let saved_ms: f64 = saved_rows.iter().map(|r| number(&r["ms"]["median"])).sum();
        assert!((saved_ms - total.2).abs() <= 0.0005, "{saved_ms} is not {}", total.2);
        // The table's rates come from the ops' costs.
        let flops: f64 = saved_rows.iter().map(|r| number(&r["flops"])).sum();
        let (graph, limits) = (small(), choose("auto").unwrap().limits);
        let plan = Plan::new(&graph, &limits).unwrap();
        let nodes = (0..graph.nodes().len()).filter_map(|n| Some(graph.op(n)?.cost(&graph.shapes(n)).flops as f64));
        let wanted: f64 = nodes.sum();
        assert!((flops / wanted - 1.0).abs() < 1e-9, "{flops} FLOPs of {wanted}");
        let commands: usize = plan.segments.iter().map(|s| s.commands.len()).sum();
        assert_eq!(total.1, commands as u64, "every command of the plan is a call");
    }
}

#[test]
fn a_trace_has_a_row_for_the_device_and_one_for_the_host_without_overlaps() {
    let place = tempfile::tempdir().unwrap();
    for more in ["", "--host-clock"] {
        let text = run(place.path(), &format!("{SMALL} --trace trace.json {more}"));
        has(&text, &[if more.is_empty() { "device's clock" } else { "by the host's clock, waiting for each kernel" }]);
        let trace = json(place.path(), "trace.json");
        let mut spans: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        let mut names = vec![];
        for event in trace["traceEvents"].as_array().unwrap() {
            let row = event["tid"].as_u64().unwrap();
            match event["ph"].as_str().unwrap() {
                "M" => names.push((row, event["args"]["name"].as_str().unwrap().to_string())),
                "X" => spans.entry(row).or_default().push((number(&event["ts"]), number(&event["dur"]))),
                other => panic!("unknown event {other}"),
            }
        }
        assert_eq!(names, [(1, "device".into()), (2, "host".into())]);
        let calls = rows(&text).pop().unwrap().1;
        assert_eq!(spans[&1].len() as u64, calls, "a span for every call");
        assert!(spans[&2].len() >= 3, "the host encodes, submits and waits");
        for (row, spans) in spans {
            for pair in spans.windows(2) {
                let ((start, long), (next, _)) = (pair[0], pair[1]);
                // Microseconds in f64: their last digit is far below a nanosecond.
                assert!(long >= 0.0 && start + long <= next + 1e-4, "row {row}: {pair:?}");
            }
            assert!(spans.iter().any(|(_, long)| *long > 0.0), "row {row} has no time");
        }
    }
}

#[test]
fn a_roofline_names_the_kernels_and_both_ceilings() {
    let place = tempfile::tempdir().unwrap();
    run(place.path(), &format!("{SMALL} --svg roof.svg"));
    let svg = std::fs::read_to_string(place.path().join("roof.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    has(&svg, &["multiply-adds", "copy", "FLOPs per byte", "of the time"]);
    // Which kernels take longest, and so are named, differs from run to run.
    let drawn = svg.matches("<circle").count() / 2;
    assert_eq!(svg.matches("of the time").count(), drawn.min(12), "the first twelve are named");
    assert!(svg.matches("<circle").count() >= 20, "two circles for every kernel of some length");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "only numbers are drawn");
}

#[test]
fn a_comparison_finds_slower_and_faster_kernels() {
    let place = tempfile::tempdir().unwrap();
    run(place.path(), &format!("{SMALL} --json before.json"));
    let mut before = json(place.path(), "before.json");
    let rows = before["rows"].as_array_mut().unwrap();
    let count = rows.len();
    for row in rows {
        // So far apart from what is measured that no noise reaches them, or so wide that all noise is within.
        let (low, high): (f64, f64) = match row["label"].as_str().unwrap() {
            "lm_head: matmul" => (1e-9, 1e-9),
            "loss: classifier" => (1e9, 1e9),
            _ => (0.0, 1e12),
        };
        for (field, value) in [("low", low), ("high", high), ("median", low.max(1e-9))] {
            row["ms"][field] = value.into();
        }
    }
    std::fs::write(place.path().join("before.json"), before.to_string()).unwrap();
    let text = run(place.path(), &format!("{SMALL} --compare before.json"));
    let changed: Vec<&str> = text.lines().filter(|l| ["slower", "faster", "new", "gone"].contains(&first(l))).collect();
    assert_eq!(changed.len(), 2, "{text}");
    assert!(changed.iter().any(|l| l.starts_with("slower") && l.contains("lm_head: matmul")), "{text}");
    assert!(changed.iter().any(|l| l.starts_with("faster") && l.contains("loss: classifier")), "{text}");
    let same: usize = text.lines().find(|l| l.ends_with("within the spread")).map(first).unwrap().parse().unwrap();
    assert!(same >= count / 2 && same < count, "{same} of {count}: {text}");

    let other = wgpt(place.path(), "profile --decode --context 16 --compare before.json");
    has(&error(&other, 1), &["before.json", "batch 1, context 16", "decode", "same options"]);
    std::fs::write(place.path().join("text.json"), "{\"rows\": 3}").unwrap();
    has(&error(&wgpt(place.path(), &format!("{SMALL} --compare text.json")), 1), &["text.json", "--json"]);
    has(&error(&wgpt(place.path(), &format!("{SMALL} --compare none.json")), 1), &["none.json", "cannot read"]);
}

fn first(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or("")
}

#[test]
fn decoding_and_the_reference_are_profiled_and_impossible_sizes_refused() {
    let place = tempfile::tempdir().unwrap();
    let text = run(place.path(), "profile --decode --batch 2 --context 100 --repeat 2 --verbose");
    has(&text, &["one decode step of 2 rows at position 99", "attention_cached", "cache_append", "next_token"]);
    let text = run(place.path(), &format!("{SMALL} --device cpu"));
    has(&text, &["matmul", "adamw", "tokens/s", "host's clock"]);
    assert!(!text.contains("utilisation"), "the reference has no ceiling: {text}");
    let refused: &[(&str, i32, &[&str])] = &[
        ("--decode --context 129", 2, &["--context 129", "1 to 128"]),
        ("--decode --batch 1000", 2, &["--batch 1000"]),
        ("--preset nothing", 2, &["nothing", "demo"]),
        ("--repeat 0", 2, &["--repeat"]),
        ("--model nowhere", 1, &["nowhere", "config.json"]),
        ("--device cpu --svg roof.svg", 2, &["--svg"]),
        ("--device cpu --kernel gelu --shaders .", 2, &["--device"]),
    ];
    for (arguments, code, words) in refused {
        has(&error(&wgpt(place.path(), &format!("profile {arguments}")), *code), words);
    }
}

/// A folder with all shaders, to edit.
fn shaders() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for folder in ["shaders", "shaders/shared"] {
        std::fs::create_dir_all(place.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                std::fs::copy(entry.path(), place.path().join(folder).join(entry.file_name())).unwrap();
            }
        }
    }
    place
}

fn edit(place: &Path, file: &str, from: &str, to: &str) {
    let path = place.join("shaders").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no `{from}`");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_shader_on_disk_is_checked_and_timed_in_each_of_its_cases() {
    let place = shaders();
    // Another text with the same result.
    edit(
        place.path(),
        "gelu.wgsl",
        "y[i] = X_TYPE(gelu(VALUES(x[i])));",
        "let value = x[i];\n        y[i] = X_TYPE(gelu(VALUES(value)));",
    );
    let text = run(place.path(), "profile --kernel gelu --shaders shaders --repeat 2");
    let cases = wgpt::ops::gelu::CASES;
    assert_eq!(text.lines().count(), 1 + cases.len(), "{text}");
    for case in cases {
        has(&text, &[case.name]);
    }
    has(&text, &["ms before", "ms now", "GFLOP/s", "GB/s"]);
    // What another kind of adapter would run is found as well.
    let other = if choose("auto").unwrap().limits.adapter == AdapterKind::Gpu { "registers" } else { "tiled" };
    let text = run(place.path(), &format!("profile --kernel attention_{other} --shaders shaders --repeat 1"));
    has(&text, &["attention"]);
}

#[test]
fn a_broken_shader_on_disk_is_named_with_the_place() {
    let place = shaders();
    let refused = |kernel: &str, code| {
        error(&wgpt(place.path(), &format!("profile --kernel {kernel} --shaders shaders --repeat 1")), code)
    };
    // The wrong number, found by the checker: the tensor, the index and both values.
    edit(place.path(), "gelu.wgsl", "gelu(VALUES(x[i])));", "gelu(VALUES(x[i])) + 0.01);");
    has(&refused("gelu", 1), &["gelu.wgsl is wrong", "gelu tanh", "y0[", "should be", "budget"]);
    // Not WGSL: `y[i] = X_TYPE(gelo(` stands in line 21, and the name in column 23.
    edit(place.path(), "gelu.wgsl", "gelu(VALUES(x[i])) + 0.01);", "gelo(VALUES(x[i])));");
    has(&refused("gelu", 1), &["shaders/gelu.wgsl, line 21, column 23", "gelo"]);
    // The wrong type in a shared file, which is named with its own line.
    edit(place.path(), "gelu.wgsl", "gelo(VALUES(x[i])));", "gelu(VALUES(x[i])));");
    edit(place.path(), "shared/index.wgsl", "return id.x +", "let wrong = id.x + vec2f(1.0);\n    return id.x +");
    has(&refused("gelu", 1), &["shaders/shared/index.wgsl, line 3, column", "Add"]);
    // A constant that the op sets and the file has no more.
    edit(place.path(), "add.wgsl", "const LEN", "const LENGTH");
    has(&refused("add", 1), &["add.wgsl", "no constant `LEN`"]);
    std::fs::remove_file(place.path().join("shaders/dropout.wgsl")).unwrap();
    has(&refused("dropout", 1), &["dropout.wgsl", "cannot read"]);
    let unknown = refused("gelo", 2);
    has(&unknown, &["gelo", "gelu_backward", "matmul_tiled", "matmul_registers", "adamw"]);
    let alone = wgpt(place.path(), "profile --kernel gelu");
    assert_eq!(alone.status.code(), Some(2));
    has(&stderr(&alone), &["--shaders"]);
}

/// A profile is a replay like any other: the same numbers come out, and copies have their times.
#[test]
fn profiling_computes_the_values_of_running() {
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[100]));
    let doubled = g.apply(Add, &[x, x]);
    // In place over a tensor that is needed afterwards: it is copied first.
    let tripled = g.apply(AddInPlace, &[doubled, x]);
    let five = g.apply(Add, &[doubled, tripled]);
    g.output("five", five);
    for device_clock in [true, false] {
        let mut gpu = Gpu::open("auto").unwrap();
        if !device_clock {
            gpu.use_host_clock();
        }
        assert_eq!(gpu.has_device_clock(), device_clock, "the tests' adapters have timestamps");
        let plan = Plan::new(&g, gpu.limits()).unwrap();
        let program = gpu.load(&g, plan).unwrap();
        let values: Vec<f32> = (0..100).map(|i| i as f32).collect();
        gpu.write(program, "x", bytemuck::cast_slice(&values)).unwrap();
        let timeline = gpu.profile(program, 0, &Step::default()).unwrap();
        let found: Vec<(usize, &str)> = timeline.kernels.iter().map(|k| (k.node, k.name)).collect();
        assert_eq!(found, [(1, "add"), (2, COPY), (2, "add_in_place"), (3, "add")]);
        let got = gpu.read(program, "five").unwrap();
        assert!(got.iter().zip(&values).all(|(got, x)| *got == 5.0 * x), "{got:?}");
    }
}

/// More kernels than one set of timestamps holds.
#[test]
fn thousands_of_kernels_have_a_time_each() {
    let count = 4200;
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[4]));
    let mut sum = g.apply(Add, &[x, x]);
    for _ in 2..count {
        sum = g.apply(AddInPlace, &[sum, x]);
    }
    let sum = g.apply(Add, &[sum, x]);
    g.output("sum", sum);
    let mut gpu = Gpu::open("auto").unwrap();
    let plan = Plan::new(&g, gpu.limits()).unwrap();
    let program = gpu.load(&g, plan).unwrap();
    gpu.write(program, "x", bytemuck::cast_slice(&[1.0f32; 4])).unwrap();
    let timeline = gpu.profile(program, 0, &Step::default()).unwrap();
    assert_eq!(timeline.kernels.len(), count);
    assert!(timeline.kernels.iter().enumerate().all(|(i, k)| k.node == i + 1));
    let long = timeline.kernels.iter().filter(|k| k.seconds.end > k.seconds.start).count();
    assert!(long > count / 2, "only {long} of {count} kernels took any time");
    assert!(timeline.kernels.windows(2).all(|k| k[0].seconds.end <= k[1].seconds.start));
    assert_eq!(gpu.read(program, "sum").unwrap(), [1.0 + count as f32; 4]);
}

#[test]
fn ceilings_are_measured_and_the_larger_of_two_times_is_the_floor() {
    let mut gpu = Gpu::open("auto").unwrap();
    let ceilings = Ceilings::measure(&mut gpu).unwrap();
    assert!(ceilings.f32_flops > 1e8 && ceilings.f32_flops < 1e16, "{ceilings:?}");
    assert!(ceilings.copy_bytes > 1e8 && ceilings.copy_bytes < 1e14, "{ceilings:?}");
    assert_eq!(ceilings.f16_flops.is_some(), gpu.limits().f16);
    let (floor, arithmetic) = ceilings.floor_seconds("matmul_tiled", ceilings.f32_flops, ceilings.copy_bytes * 2.0);
    assert!((floor - 2.0).abs() < 1e-9 && !arithmetic, "two seconds of copying and one of arithmetic");
    let (floor, arithmetic) = ceilings.floor_seconds("matmul_tiled", ceilings.f32_flops * 3.0, 0.0);
    assert!((floor - 3.0).abs() < 1e-9 && arithmetic);
}

/// The f16 ceiling stands in no list of shaders, since not every device has f16.
#[test]
fn the_half_precision_ceiling_is_valid() {
    let op: Arc<dyn Op> = Arc::new(Fma { rounds: 64, half: true });
    let (x, two) = (Shape::f32(&[1000]), Shape::f32(&[2]));
    let shapes = Shapes { inputs: vec![&x, &two], outputs: vec![&x] };
    let dispatch = op.dispatch(&shapes, &Limits::portable(AdapterKind::Gpu)).remove(0);
    let text = specialise(dispatch.shader, &dispatch.constants, &dispatch.swaps);
    let module = naga::front::wgsl::parse_str(&text).unwrap();
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let validate = |capabilities| Validator::new(ValidationFlags::all(), capabilities).validate(&module).is_ok();
    assert!(validate(Capabilities::SHADER_FLOAT16));
    assert!(!validate(Capabilities::empty()), "it computes in f16");
}

#[test]
fn doctor_prints_one_object_for_bug_reports() {
    let place = tempfile::tempdir().unwrap();
    let list: Value = serde_json::from_str(&run(place.path(), "doctor --list --json")).unwrap();
    let chosen = list["adapters"].as_array().unwrap().iter().filter(|a| a["chosen"] == true).count();
    assert!(chosen == 1 && list["version"] == env!("CARGO_PKG_VERSION"), "{list}");
    assert!(list["ceilings"].is_null(), "--list measures nothing");

    let report: Value = serde_json::from_str(&run(place.path(), "doctor --json --ops gelu")).unwrap();
    let wanted = wgpt::ops::cases().into_iter().filter(|case| case.name.contains("gelu")).count();
    assert_eq!(report["cases"].as_array().unwrap().len(), wanted);
    assert!(report["cases"].as_array().unwrap().iter().all(|c| number(&c["share"]) <= 1.0 && c["wrong"].is_null()));
    assert!(number(&report["ceilings"]["f32_flops"]) > 0.0 && number(&report["ceilings"]["copy_bytes"]) > 0.0);
    let estimates = &report["estimates"];
    let share = number(&estimates["flops_share"]);
    assert!(share > 0.0 && share < 2.0, "{estimates}");
    let presets = estimates["presets"].as_array().unwrap();
    assert_eq!(presets.len(), wgpt::models::presets::PRESETS.len());
    let mut slower = f64::INFINITY;
    for preset in presets.iter().filter(|p| p["fits"] == true) {
        let (speed, hours) = (number(&preset["tokens_per_second"]), number(&preset["hours_for_1b_tokens"]));
        assert!((hours * speed * 3600.0 / 1e9 - 1.0).abs() < 1e-6, "{preset}");
        assert!(number(&preset["memory_bytes"]) <= number(&estimates["free_bytes"]), "{preset}");
        if preset["preset"].as_str().is_some_and(|name| name == "demo" || name.starts_with("gpt2")) {
            assert!(speed < slower, "larger is slower: {preset}");
            slower = speed;
        }
    }
    assert!(slower.is_finite(), "nothing fits: {estimates}");
    let text = run(place.path(), "doctor --ops gelu");
    has(&text, &["Measured ceilings", "large copy", "hours for 1B tokens", "gpt2-xl", "Estimated from the ceilings"]);
    has(&error(&wgpt(place.path(), "doctor --ops gelo"), 2), &["gelo"]);
}
