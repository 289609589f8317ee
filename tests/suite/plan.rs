//! Plans without a device: which tensors share a buffer, what kernels bind, and what differentiation appends.

use proptest::prelude::*;
use std::path::Path;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::memory::{Class, Life, Storage, pack, peak};
use wgpt::graph::plan::Command;
use wgpt::graph::{AdapterKind, Constant, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::models::blocks::Compute;
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ops::Case;
use wgpt::ops::IGNORED;
use wgpt::ops::add::add_in_place;
use wgpt::ops::add::{Add, AddInPlace};
use wgpt::ops::fill::Fill;
use wgpt::ops::matmul::Matmul;
use wgpt::reference::Cpu;
use wgpt::shaders::specialise;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::graph::TrainingGraph;
use wgpt::train::settings::{Choices, Settings};

pub const FAMILIES: [AdapterKind; 2] = [AdapterKind::Gpu, AdapterKind::Software];

/// The limits of every WebGPU device, but for the size of buffers: GPT-2's activations are larger than that.
pub fn roomy(family: AdapterKind) -> Limits {
    Limits { buffer_bytes: 1 << 40, ..Limits::portable(family) }
}

/// Limits for both families of kernels, and for subgroups of every size that software adapters have.
pub fn devices() -> Vec<Limits> {
    let software = [0, 4, 8, 16].map(|subgroup| Limits { subgroup, ..roomy(AdapterKind::Software) });
    [roomy(AdapterKind::Gpu)].into_iter().chain(software).collect()
}

/// The op of a case over its inputs, with its gradients; no values are drawn.
pub fn case_graph(case: &Case) -> Graph {
    case.graph().0
}

/// The settings of a preset, and its model with dropout or without.
pub fn settings(preset: &str, dropout: f32) -> (Settings, Config) {
    let choices = Choices { dropout: Some(dropout), ..Choices::default() };
    let settings = choices.resolve(&PresetRecipe::of(Some(preset)).run, |_| 1).unwrap();
    let config = Config { dropout: settings.dropout(), ..Config::preset(preset).unwrap() };
    (settings, config)
}

/// Training, evaluation and generation of a preset.
pub fn preset_graphs(preset: &str, dropout: f32) -> [Graph; 3] {
    let (settings, config) = settings(preset, dropout);
    let (batch, context) = (settings.batch, config.context);
    let network = Network::new(config);
    let training = training(&settings, &network, settings.compute());
    let model = network.inference();
    let mut evaluation = Graph::new();
    let loss = model.loss(&mut evaluation, batch, context);
    evaluation.output("loss", loss);
    let mut generation = Graph::new();
    let ids = generation.state_u32("ids", &[2, 1]);
    let positions = generation.input("positions", Shape::u32(&[2]));
    let logits = model.decode(&mut generation, ids, positions);
    generation.output("logits", logits);
    [training, evaluation, generation]
}

/// Training of a preset in mixed precision, with logits all at once and in chunks.
pub fn mixed_graphs(preset: &str, dropout: f32) -> [Graph; 2] {
    let (settings, config) = settings(preset, dropout);
    let network = Network::new(config);
    [None, Some(256)].map(|classifier_rows| {
        training(&settings, &network, Compute { mixed: true, classifier_rows, ..Compute::default() })
    })
}

fn training(settings: &Settings, network: &Network, compute: Compute) -> Graph {
    let (batch, context) = (settings.batch, network.config().context);
    let networks = std::slice::from_ref(network);
    TrainingGraph::new(networks, compute, &settings.optimizer(), |g, m| m[0].loss(g, batch, context)).graph
}

/// Errors of a plan: dispatches that a device with `limits` would refuse, and data races.
fn problems(plan: &Plan, limits: &Limits) -> Vec<String> {
    let mut found = vec![];
    for kernel in plan.kernels() {
        let mut check = |fine: bool, what: &str| {
            if !fine {
                found.push(format!("{} ({:?}): {what}", kernel.label, kernel.shader));
            }
        };
        let storage: Vec<_> = kernel.bindings.iter().filter(|b| b.buffer.is_some()).collect();
        check(storage.len() <= 8, "more than 8 storage buffers");
        for (n, b) in storage.iter().enumerate() {
            let buffer = &plan.buffers[b.buffer.unwrap()];
            let (start, end) = (b.range.start, b.range.end);
            check(start < end && end <= buffer.size_bytes, "a range outside its buffer");
            check(end - start <= limits.binding_bytes, "a binding that is too large");
            check(start % limits.alignment_bytes == 0, "a range that starts unaligned");
            check(end % 4 == 0, "a range that is not whole words");
            // wgpu takes a buffer as a whole: read and written in one dispatch is refused, even in ranges apart.
            let clash = storage[n + 1..].iter().any(|o| o.buffer == b.buffer && (o.writes || b.writes));
            check(!clash, "one buffer bound twice, and written");
            check(!b.writes || buffer.class != Class::Input, "an input is written");
        }
        check(kernel.workgroups.iter().all(|n| (1..=limits.workgroups).contains(n)), "too many workgroups, or none");
    }
    for command in plan.segments.iter().flat_map(|s| &s.commands) {
        if let Command::Copy { from, to, size_bytes } = command {
            let fits = [from, to].iter().all(|b| plan.buffers[**b].size_bytes >= *size_bytes);
            if from == to || !fits {
                found.push(format!("a copy of {size_bytes} bytes from {from} to {to}"));
            }
        }
    }
    found
}

/// Lives of all temporaries.
fn temporaries(g: &Graph) -> Vec<Life> {
    let entries = Storage::new(g).entries;
    entries.into_iter().filter(|(class, ..)| *class == Class::Temporary).map(|(_, _, life)| life).collect()
}

fn overlap(a: &Life, b: &Life) -> bool {
    a.first <= b.last && b.first <= a.last
}

fn lives(nodes: usize, longest: usize, count: usize) -> impl Strategy<Value = Vec<Life>> {
    let life = (1u64..5000, 0..nodes, 0..longest);
    let life = life.prop_map(|(words, first, long)| Life { size_bytes: 4 * words, first, last: first + long });
    prop::collection::vec(life, 0..count)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tensors_that_live_at_the_same_time_have_buffers_of_their_own(lives in lives(60, 25, 80)) {
        let (assigned, sizes) = pack(&lives);
        prop_assert_eq!(assigned.len(), lives.len());
        for (i, a) in lives.iter().enumerate() {
            for (j, b) in lives.iter().enumerate().skip(i + 1) {
                prop_assert!(assigned[i] != assigned[j] || !overlap(a, b), "{a:?} and {b:?} share {}", assigned[i]);
            }
        }
        for (buffer, size) in sizes.iter().enumerate() {
            let tenants = lives.iter().zip(&assigned).filter(|(_, b)| **b == buffer).map(|(l, _)| l.size_bytes);
            prop_assert_eq!(tenants.max(), Some(*size), "a buffer is as large as its largest tenant");
        }
        let total: u64 = sizes.iter().sum();
        prop_assert!(total >= peak(&lives) && total <= lives.iter().map(|l| l.size_bytes).sum());
        prop_assert_eq!(pack(&lives), (assigned, sizes), "the same again");
    }

    #[test]
    fn the_peak_is_the_most_that_any_node_sees(lives in lives(40, 15, 40)) {
        let at = |node| lives.iter().filter(|l| l.first <= node && node <= l.last).map(|l| l.size_bytes).sum::<u64>();
        prop_assert_eq!(peak(&lives), (0..60).map(at).max().unwrap());
    }

    /// A network: activations of a few sizes live until a backward pass uses them in the opposite order, gradients live
    /// briefly.
    #[test]
    fn a_network_needs_its_peak_and_at_most_one_tensor_more(
        layers in 1usize..30, sizes in prop::collection::vec(1u64..2000, 1..6)
    ) {
        let (n, mut lives) = (layers * sizes.len(), vec![]);
        for i in 0..n {
            let size_bytes = 4 * sizes[i % sizes.len()];
            lives.push(Life { size_bytes, first: i, last: 2 * n - 1 - i });
            lives.push(Life { size_bytes, first: 2 * n - 1 - i, last: 2 * n - i });
        }
        let total: u64 = pack(&lives).1.iter().sum();
        let largest = lives.iter().map(|l| l.size_bytes).max().unwrap();
        prop_assert!(total <= peak(&lives) + largest, "{total} for a peak of {}, one of {largest}", peak(&lives));
    }
}

#[test]
fn nothing_needs_no_buffers() {
    assert_eq!(pack(&[]), (vec![], vec![]));
    assert_eq!(peak(&[]), 0);
    let plan = Plan::new(&Graph::new(), &roomy(AdapterKind::Gpu)).unwrap();
    assert!(plan.buffers.is_empty() && plan.kernels().count() == 0);
}

#[test]
fn a_training_step_needs_little_more_than_its_peak() {
    for (preset, dropout) in [("gpt2", 0.0), ("gpt2", 0.1), ("char", 0.2), ("demo", 0.0), ("mixtral", 0.0)] {
        let [training, ..] = preset_graphs(preset, dropout);
        let plan = Plan::new(&training, &roomy(AdapterKind::Gpu)).unwrap();
        let (total, bound) = (plan.size_bytes(|c| *c == Class::Temporary), peak(&temporaries(&training)));
        assert!(bound > 0 && total >= bound, "{preset}: {total} for a peak of {bound}");
        // Rows by expert and rows by token are of several sizes, which fit each other less well.
        let most = if preset == "mixtral" { 1.06 } else { 1.02 };
        assert!(total as f64 <= most * bound as f64, "{preset}: {total} for a peak of {bound}");
        // Parameters, gradients and two moments, once each.
        let config = Config::preset(preset).unwrap();
        let state = plan.size_bytes(|c| *c == Class::State);
        assert!(
            (16 * config.parameter_count()..16 * config.parameter_count() + (1 << 20)).contains(&state),
            "{preset}"
        );
        let copied = plan.segments.iter().flat_map(|s| &s.commands).any(|c| matches!(c, Command::Copy { .. }));
        assert!(!copied, "{preset} copies a tensor, which the model's graph does not need");
    }
}

#[test]
fn every_plan_keeps_within_the_limits() {
    for limits in devices() {
        let cases = wgpt::ops::cases().into_iter().map(|case| (case.name, case_graph(case)));
        let presets = [("demo", 0.1), ("char", 0.2), ("gpt2", 0.0), ("mixtral", 0.0)];
        let presets = presets.into_iter().flat_map(|(name, p)| preset_graphs(name, p).map(|graph| (name, graph)));
        let mixed = [("demo", 0.1), ("gpt2", 0.0), ("gpt-mini", 0.0), ("mixtral", 0.0)];
        let mixed = mixed.into_iter().flat_map(|(name, p)| mixed_graphs(name, p).map(|graph| (name, graph)));
        let mut kernels = 0;
        for (name, graph) in cases.chain(presets).chain(mixed) {
            let plan = Plan::new(&graph, &limits).unwrap();
            let found = problems(&plan, &limits);
            assert!(found.is_empty(), "{name}, {limits:?}:\n{}", found.join("\n"));
            kernels += plan.kernels().count();
        }
        assert!(kernels > 1000, "only {kernels} kernels were looked at");
    }
}

#[test]
fn a_plan_that_breaks_a_limit_is_seen() {
    let limits = roomy(AdapterKind::Gpu);
    let [graph, ..] = preset_graphs("demo", 0.1); // with dropout a sum is a kernel of its own
    let plan = Plan::new(&graph, &limits).unwrap();
    let spoiled = |spoil: &dyn Fn(&mut wgpt::graph::plan::Kernel)| {
        let mut plan = plan.clone();
        let commands = plan.segments.iter_mut().flat_map(|s| &mut s.commands);
        let kernels = commands.filter_map(|c| if let Command::Dispatch(kernel) = c { Some(kernel) } else { None });
        spoil(kernels.into_iter().find(|k| k.shader.stem == "add").unwrap());
        problems(&plan, &limits).join("; ")
    };
    assert_eq!(spoiled(&|_| ()), "");
    assert!(spoiled(&|k| k.bindings[2].buffer = k.bindings[0].buffer).contains("bound twice"));
    assert!(spoiled(&|k| k.bindings[0].range.start = 4).contains("unaligned"));
    assert!(spoiled(&|k| k.bindings[0].range.end += 4).contains("outside"));
    assert!(spoiled(&|k| k.workgroups[1] = 65536).contains("workgroups"));
    assert!(spoiled(&|k| (0..9).for_each(|_| k.bindings.push(k.bindings[0].clone()))).contains("8 storage buffers"));
    let small = Limits { binding_bytes: 1000, ..limits.clone() };
    assert!(problems(&plan, &small).iter().any(|p| p.contains("too large")));
}

#[test]
fn a_tensor_beyond_the_largest_buffer_is_named() {
    let [graph, ..] = preset_graphs("gpt2", 0.0);
    let error = Plan::new(&graph, &Limits::portable(AdapterKind::Gpu)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, wgpt::error::Error::OutOfMemory(_)), "{message}");
    assert!(message.contains("lm_head: matmul") && message.contains("256 MiB"), "{message}");
}

#[test]
fn a_plan_prints_the_same_every_time() {
    let print = || {
        let [graph, ..] = preset_graphs("char", 0.2);
        Plan::new(&graph, &roomy(AdapterKind::Software)).unwrap().to_string()
    };
    let text = print();
    assert_eq!(text, print());
    for part in ["buffer 0 ", "segment accumulate", "segment update", "wte.weight.exp_avg_sq", "adamw", "step"] {
        assert!(text.contains(part), "`{part}` is not in the printed plan");
    }
    let (settings, config) = settings("char", 0.2);
    let objective = Pretrain::without_data(config, 256);
    let blueprint = Blueprint::new(&objective, &settings, &roomy(AdapterKind::Software)).unwrap();
    assert_eq!(text, blueprint.training_plan().to_string(), "a run plans the same graph");
}

/// x0 + x1 as a temporary, to be worked on in place.
fn sum_of_inputs() -> (Graph, Tensor, Tensor) {
    let mut g = Graph::new();
    let (a, b) = (g.input("a", Shape::f32(&[3])), g.input("b", Shape::f32(&[3])));
    let sum = g.apply(Add, &[a, b]);
    (g, sum, b)
}

/// Outputs of a graph with a = (1, 2, 3) and b = (10, 20, 30) on every executor, which agree; and the plan's copies.
fn run_sums(g: &Graph, outputs: &[&str]) -> (Vec<Vec<f32>>, usize) {
    let mut devices: Vec<Box<dyn Executor>> = vec![Box::new(Cpu::default())];
    devices.push(Box::new(Gpu::with(choose("auto").unwrap(), None, true).unwrap()));
    let (mut values, mut copies) = (vec![], 0);
    for device in &mut devices {
        let plan = Plan::new(g, device.limits()).unwrap();
        assert_eq!(problems(&plan, device.limits()), Vec::<String>::new());
        let commands = plan.segments.iter().flat_map(|s| &s.commands);
        copies = commands.filter(|c| matches!(c, Command::Copy { .. })).count();
        let program = device.load(g, plan).unwrap();
        device.poison(program).unwrap();
        device.write(program, "a", bytemuck::cast_slice(&[1.0f32, 2.0, 3.0])).unwrap();
        device.write(program, "b", bytemuck::cast_slice(&[10.0f32, 20.0, 30.0])).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        values.push(outputs.iter().map(|name| device.read(program, name).unwrap()).collect::<Vec<_>>());
    }
    assert_eq!(values[0], values[1], "the reference and the device differ");
    (values.swap_remove(0), copies)
}

#[test]
fn an_op_in_place_takes_over_a_tensor_that_nobody_needs_any_more() {
    let (mut g, sum, b) = sum_of_inputs();
    let changed = g.apply(AddInPlace, &[sum, b]);
    let y = g.apply(Add, &[changed, b]);
    g.output("y", y);
    let storage = Storage::new(&g);
    assert_eq!(storage.of[&sum], storage.of[&changed]);
    let (values, copies) = run_sums(&g, &["y"]);
    assert_eq!((values, copies), (vec![vec![31.0, 62.0, 93.0]], 0));
}

#[test]
fn an_op_in_place_works_on_a_copy_of_a_tensor_that_is_still_needed() {
    // Read later.
    let (mut g, sum, b) = sum_of_inputs();
    let changed = g.apply(AddInPlace, &[sum, b]);
    let y = g.apply(Add, &[changed, sum]);
    g.output("y", y);
    assert_eq!(run_sums(&g, &["y"]), (vec![vec![32.0, 64.0, 96.0]], 1));
    // Read by the host.
    let (mut g, sum, b) = sum_of_inputs();
    let changed = g.apply(AddInPlace, &[sum, b]);
    g.output("sum", sum);
    g.output("changed", changed);
    let want = vec![vec![11.0, 22.0, 33.0], vec![21.0, 42.0, 63.0]];
    assert_eq!(run_sums(&g, &["sum", "changed"]), (want, 1));
    // Read by the op itself as well.
    let (mut g, sum, _) = sum_of_inputs();
    let changed = g.apply(AddInPlace, &[sum, sum]);
    g.output("y", changed);
    assert_eq!(run_sums(&g, &["y"]), (vec![vec![22.0, 44.0, 66.0]], 1));
    // An input, which the host need not write again.
    let (mut g, sum, b) = sum_of_inputs();
    let changed = g.apply(AddInPlace, &[b, sum]);
    g.output("y", changed);
    assert_eq!(run_sums(&g, &["y"]), (vec![vec![21.0, 42.0, 63.0]], 1));
}

#[test]
#[should_panic(expected = "reads `total` as it was before")]
fn state_that_was_changed_in_place_cannot_be_read_as_it_was() {
    let mut g = Graph::new();
    let (total, x) = (g.state("total", &[3]), g.input("x", Shape::f32(&[3])));
    g.apply(AddInPlace, &[total, x]);
    let stale = g.apply(Add, &[total, x]);
    g.output("stale", stale);
    let _ = Plan::new(&g, &roomy(AdapterKind::Gpu));
}

#[test]
fn dead_nodes_are_skipped() {
    let mut g = Graph::new();
    let (total, x) = (g.state("total", &[3]), g.input("x", Shape::f32(&[3])));
    let twice = g.apply(Add, &[x, x]);
    g.apply(AddInPlace, &[total, twice]);
    let unread = g.apply(Add, &[twice, x]);
    g.apply(Add, &[unread, unread]);
    let plan = Plan::new(&g, &roomy(AdapterKind::Gpu)).unwrap();
    assert_eq!(plan.kernels().map(|k| k.node).collect::<Vec<_>>(), [twice.node, twice.node + 1]);
    assert_eq!(plan.size_bytes(|class| *class == Class::Temporary), 12);
}

#[test]
#[should_panic(expected = "changes `total` while it reads it")]
fn state_cannot_be_added_to_itself_in_place() {
    let mut g = Graph::new();
    let total = g.state("total", &[3]);
    g.apply(AddInPlace, &[total, total]);
    let _ = Plan::new(&g, &roomy(AdapterKind::Gpu));
}

#[test]
#[should_panic(expected = "`x` is (3) F32 already")]
fn one_name_has_one_shape() {
    let mut g = Graph::new();
    g.state("x", &[3]);
    g.state("x", &[4]);
}

/// loss = (2 w v + 2 w) v + 2 w: w is used twice at once, x = 2 w three times, v twice.
/// d loss / d w = 2 v^2 + 2 v + 2 and d loss / d v = 4 w v + 2 w, all whole numbers.
#[test]
fn a_tensor_that_is_used_twice_gets_the_sum_of_its_gradients() {
    let mut devices: Vec<Box<dyn Executor>> = vec![Box::new(Cpu::default())];
    for family in FAMILIES {
        devices.push(Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()));
    }
    let mut g = Graph::new();
    let (w, v) = (g.state("w", &[1]), g.state("v", &[1, 1]));
    let (dw, dv) = (g.state("w.grad", &[1]), g.state("v.grad", &[1, 1]));
    let x = g.apply(Add, &[w, w]);
    let y = g.apply(Matmul::default(), &[x, v]);
    let z = g.apply(Add, &[y, x]);
    let y = g.apply(Matmul::default(), &[z, v]);
    let loss = g.apply(Add, &[y, x]);
    let seed = g.apply(Fill { value: 0.5 }, &[]);
    gradient(&mut g, loss, seed, &[(w, dw), (v, dv)], &add_in_place(), false);
    for device in &mut devices {
        let plan = Plan::new(&g, device.limits()).unwrap();
        assert_eq!(problems(&plan, device.limits()), Vec::<String>::new());
        let program = device.load(&g, plan).unwrap();
        for (name, value) in [("w", 3.0), ("v", 2.0), ("w.grad", 100.0), ("v.grad", 200.0)] {
            device.write_state(name, &[value]).unwrap();
        }
        device.poison(program).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        // Half of it, added to what was there.
        assert_eq!(device.read_state("w.grad").unwrap(), [100.0 + 0.5 * 14.0], "{}", device.description());
        assert_eq!(device.read_state("v.grad").unwrap(), [200.0 + 0.5 * 30.0], "{}", device.description());
        device.run(program, 0, &Step::default()).unwrap();
        assert_eq!(device.read_state("w.grad").unwrap(), [100.0 + 14.0], "once more adds once more");
    }
}

#[test]
fn chunks_of_rows_cover_all_and_start_aligned() {
    let limits = Limits { binding_bytes: 1 << 20, ..Limits::portable(AdapterKind::Gpu) };
    for (rows, row_bytes) in
        [(1, 4), (50257, 3072), (65601, 20), (262_144, 4), (262_145, 4), (300, 12_292), (9000, 1002)]
    {
        let chunks = limits.row_chunks(rows, row_bytes);
        assert_eq!((chunks[0].start, chunks.last().unwrap().end), (0, rows));
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start), "{chunks:?}");
        for chunk in chunks {
            assert!(!chunk.is_empty() && chunk.len() as u64 * row_bytes <= limits.binding_bytes);
            assert!((chunk.start as u64 * row_bytes).is_multiple_of(256) && chunk.start.is_multiple_of(64));
        }
    }
    for (count, folded) in [(1, [1, 1, 1]), (65535, [65535, 1, 1]), (65536, [32768, 2, 1]), (200_000, [50_000, 4, 1])] {
        assert_eq!(limits.fold(count), folded);
    }
}

#[test]
fn an_unknown_constant_or_shared_file_is_refused() {
    let fill = wgpt::shader!("fill");
    assert!(specialise(fill, &[("VALUE", Constant::F32(0.5))], &[]).contains("const VALUE: f32 = 0.5f;"));
    let constant = std::panic::catch_unwind(|| specialise(fill, &[("VALU", Constant::F32(0.5))], &[]));
    assert!(constant.unwrap_err().downcast_ref::<String>().unwrap().contains("fill has no constant `VALU`"));
    let swap = std::panic::catch_unwind(|| specialise(fill, &[], &[("store", "store_bias")]));
    assert!(swap.unwrap_err().downcast_ref::<String>().unwrap().contains("fill does not use `store`"));
    let file = std::panic::catch_unwind(|| specialise(wgpt::shader!("matmul_tiled"), &[], &[("store", "no_such")]));
    assert!(file.unwrap_err().downcast_ref::<String>().unwrap().contains("there is no shared shader `no_such`"));
}

/// Only `src/gpu` knows of wgpu: plans, ops and models are made and tested without a device.
#[test]
fn nothing_but_the_executor_knows_of_wgpu() {
    fn sources(at: &Path, found: &mut Vec<std::path::PathBuf>) {
        if at.is_dir() {
            std::fs::read_dir(at).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
        } else if at.extension().is_some_and(|e| e == "rs") {
            found.push(at.to_path_buf());
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for part in ["graph", "ops", "models", "train", "data", "generate", "shaders", "executor", "reference"] {
        let mut files = vec![];
        sources(&src.join(format!("{part}.rs")), &mut files);
        if src.join(part).is_dir() {
            sources(&src.join(part), &mut files);
        }
        for file in files.into_iter().filter(|file| file.exists()) {
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(!text.contains("wgpu::"), "{} names wgpu", file.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} files were read");
    assert!(std::fs::read_to_string(src.join("gpu/device.rs")).unwrap().contains("wgpu::"), "the search finds nothing");
    assert_eq!(IGNORED, u32::MAX, "shaders compare targets with this number");
}
