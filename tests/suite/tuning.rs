//! Variants of kernels: all of them right, the fastest of them chosen, kept on disk, and the same again on request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use wgpt::checks::check_close;
use wgpt::executor::{Executor, Trial};
use wgpt::gpu::tuning::{WGPU_VERSION, Watch};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{
    Choices, Cost, Dispatch, Family, Graph, Limits, Op, Plan, Shader, Shape, Shapes, Step, Tensor, Variants,
};
use wgpt::ops::{Case, cases};
use wgpt::reference::Cpu;

fn gpu(family: Family) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

/// Cases whose variants are all run: every transposition, epilogues, edges in each direction, pieces, head sizes.
const CASES: [&str; 12] = [
    "matmul 2x33x70 by 70x65",
    "matmul A^T 20x36 by B^T 44x20",
    "matmul A^T 70x65 by 70x33",
    "matmul with bias and gelu tanh 67x40 by 40x66",
    "matmul += A^T 33x20 by 33x70",
    "matmul 129x257 by 257x131",
    "matmul of four rows, with bias and gelu: 4x130 by 130x66",
    "matmul of eight rows, added: 8x257 by B^T 131x257",
    "attention 2x37, 3 heads of 16",
    "attention 1x33, 2 heads of 80",
    "attention 1x131 in a window of 33, 2 heads of 32",
    "attention 1x65, 9 heads of 64 over 3 of keys",
];

/// Runs a case with every variant of each of its nodes; how many were run.
fn check_variants(gpu: &mut Gpu, case: &Case) -> usize {
    let built = case.build(42);
    let want = built.run(&mut Cpu::default()).unwrap();
    let untuned = gpu.limits().clone();
    let all: Vec<Variants> = (0..built.graph.nodes().len())
        .filter_map(|node| built.graph.op(node)?.variants(&built.graph.shapes(node), &untuned))
        .collect();
    let most = all.iter().map(|v| v.names.len()).max().unwrap_or(0);
    for nth in 0..most {
        let mut choices = Choices::default();
        all.iter().for_each(|v| choices.choose(&v.class, &v.names[nth.min(v.names.len() - 1)]));
        gpu.limits_mut().choices = Arc::new(choices);
        let got = built.run(gpu).unwrap();
        for ((name, got), want) in built.outputs.iter().zip(&got).zip(&want) {
            let name = format!("{} {name}, variants {:?}", case.name, built.graph.variants(gpu.limits()));
            check_close(&name, got, want, case.atol, case.rtol).unwrap_or_else(|why| panic!("{why}"));
        }
    }
    *gpu.limits_mut() = untuned;
    most
}

#[test]
fn every_variant_agrees_with_the_reference() {
    for family in [Family::Gpu, Family::Software] {
        let mut gpu = gpu(family);
        let all = cases();
        let mut counts = vec![];
        for name in CASES {
            let case = all.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("there is no case `{name}`"));
            counts.push(check_variants(&mut gpu, case));
        }
        assert!(counts.iter().sum::<usize>() >= if family == Family::Gpu { 36 } else { 14 }, "{family:?}: {counts:?}");
    }
}

/// Shaders that fill `y` with a number, after so many rounds of doing nothing: slow or fast, right or wrong.
const FILL: &str = "
const VALUE: f32 = 1.0;
const ROUNDS: u32 = 1u;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = 0.0;
    for (var i = 0u; i < ROUNDS; i++) {
        sum += sin(x[id.x] + f32(i));
    }
    y[id.x] = VALUE + select(0.0, 1.0, sum > 1e9);
}
";

/// y = 1. Three ways: slowly, at once, and at once but wrong.
#[derive(Debug)]
struct Ones;

impl Op for Ones {
    fn name(&self) -> &'static str {
        "ones"
    }
    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }
    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let names = self.variants(shapes, limits).unwrap().names;
        let (rounds, value) = [(4000u32, 1.0f32), (1, 2.0), (400, 1.0)][limits.choices.pick("ones", &names)];
        let shader = Shader { stem: "ones", source: FILL };
        let d = Dispatch::new(shader).constant("ROUNDS", rounds).constant("VALUE", value);
        vec![d.read(0).write(0).groups([shapes.inputs[0].len() as u32 / 64, 1, 1])]
    }
    fn variants(&self, shapes: &Shapes, _limits: &Limits) -> Option<Variants> {
        let names = ["slow", "wrong", "fast"].map(String::from).into();
        Some(Variants { class: "ones".into(), names, inputs: vec![shapes.inputs[0].clone()] })
    }
    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![None]
    }
    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        outputs[0].fill(1.0);
    }
    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 1 << 30, size_bytes: shapes.size_bytes() }
    }
}

fn ones() -> Graph {
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[4096]));
    let y = g.apply(Ones, &[x]);
    g.output("y", y);
    g
}

/// Counts the trials that are begun.
fn counter() -> (Arc<AtomicUsize>, Watch) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let watch = move |trial: Trial| {
        if trial.done == trial.total {
            counted.fetch_add(trial.total, Ordering::SeqCst);
        }
    };
    (count, Box::new(watch))
}

/// What a GPU chooses for [`ones`] and how many trials that took.
fn chosen(folder: &std::path::Path, again: bool) -> (String, usize) {
    let mut gpu = gpu(Family::Software);
    let (count, watch) = counter();
    gpu.enable_tuning(folder, again, watch);
    gpu.tune(&[&ones()]).unwrap();
    (ones().variants(gpu.limits())["ones"].clone(), count.load(Ordering::SeqCst))
}

#[test]
fn the_fastest_variant_that_is_right_is_chosen_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(chosen(folder.path(), false), ("fast".into(), 3));
    assert_eq!(chosen(folder.path(), false), ("fast".into(), 0), "what was measured is kept");
    assert_eq!(chosen(folder.path(), true), ("fast".into(), 3), "--retune measures again");
    let file = std::fs::read_dir(folder.path().join("tuning")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |name: &str| {
        let all = kept["classes"]["ones"]["seconds"].as_array().unwrap();
        all.iter().find(|pair| pair[0] == name).unwrap()[1].as_f64()
    };
    assert!(of("slow") > of("fast") && of("fast").unwrap() > 0.0 && of("wrong").is_none(), "{text}");
    // Other texts of the shaders, another driver, a file that is none: all are measured again.
    for (from, to) in [("\"shaders\": \"", "\"shaders\": \"0"), ("Mesa", "Masa"), ("{", "")] {
        std::fs::write(&file, text.replace(from, to)).unwrap();
        if text.replace(from, to) != text {
            assert_eq!(chosen(folder.path(), false), ("fast".into(), 3), "after {from:?} became {to:?}");
        }
    }
}

#[test]
fn a_choice_that_cannot_be_kept_is_made_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    // A file where a folder should be.
    std::fs::write(folder.path().join("tuning"), "").unwrap();
    assert_eq!(chosen(folder.path(), false), ("fast".into(), 3));
    assert_eq!(chosen(folder.path(), false), ("fast".into(), 3));
}

#[test]
fn a_run_that_goes_on_keeps_its_variants_and_a_name_forces_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut settled = gpu(Family::Software);
    let (count, watch) = counter();
    settled.enable_tuning(folder.path(), true, watch);
    settled.settle(&BTreeMap::from([("ones".to_string(), "slow".to_string())]));
    settled.tune(&[&ones()]).unwrap();
    assert_eq!(ones().variants(settled.limits())["ones"], "slow");
    assert_eq!(count.load(Ordering::SeqCst), 0);
    let mut forced = gpu(Family::Software);
    let (count, watch) = counter();
    forced.enable_tuning(folder.path(), true, watch);
    forced.force_variants("vector, wro");
    assert_eq!(ones().variants(forced.limits())["ones"], "wrong");
    let why = forced.tune(&[&ones()]).unwrap_err().to_string();
    assert!(why.contains("`vector`") && why.contains("`slow`"), "{why}");
    forced.force_variants("wro");
    forced.tune(&[&ones()]).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_tuned_runs_as_it_was_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let mut gpu = gpu(Family::Gpu);
    let seen = Arc::new(Mutex::new(vec![]));
    let notes = seen.clone();
    let watch: Watch = Box::new(move |trial: Trial| notes.lock().unwrap().push(trial.what.to_string()));
    gpu.enable_tuning(folder.path(), false, watch);
    // One class of enough work, and one of too little.
    let mut g = Graph::new();
    let (a, b) = (g.input("a", Shape::f32(&[256, 128])), g.input("b", Shape::f32(&[128, 288])));
    let c = g.apply(wgpt::ops::matmul::Matmul::default(), &[a, b]);
    let small = g.input("small", Shape::f32(&[288, 4]));
    let d = g.apply(wgpt::ops::matmul::Matmul::default(), &[c, small]);
    g.output("d", d);
    gpu.tune(&[&g]).unwrap();
    assert_eq!(*seen.lock().unwrap(), ["compiling", "matmul nn 256x512x128", ""]);
    let measured: BTreeMap<String, _> = gpu.measured().map(|(class, m)| (class.to_string(), m.clone())).collect();
    let one = &measured["matmul nn 256x512x128"];
    assert!(one.seconds.len() >= 4 && one.seconds.iter().all(|(_, seconds)| seconds.is_some()), "{one:?}");
    assert!(one.gain() >= 1.0);
    let name = &g.variants(gpu.limits())["matmul nn 256x512x128"];
    assert_eq!(name, &one.variant);
    // Its tile is that of the plan.
    let plan = Plan::new(&g, gpu.limits()).unwrap();
    let kernel = plan.kernels().next().unwrap();
    let constant = |name| kernel.constants.iter().find(|(n, _)| *n == name).map(|(_, c)| format!("{c:?}"));
    let tile: Vec<String> = name["tiled ".len()..].split([' ', 'x']).map(|n| format!("U32({n})")).collect();
    assert_eq!([constant("BM"), constant("BN"), constant("BK")], [0, 1, 2].map(|i| Some(tile[i].clone())));
}

#[test]
fn the_version_of_wgpu_is_that_of_the_lock_file() {
    let lock: toml::Table = include_str!("../../Cargo.lock").parse().unwrap();
    let packages = lock["package"].as_array().unwrap();
    let wgpu = packages.iter().find(|p| p["name"].as_str() == Some("wgpu")).unwrap();
    assert_eq!(wgpu["version"].as_str(), Some(WGPU_VERSION));
}
