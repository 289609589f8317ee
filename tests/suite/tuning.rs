//! Variants of kernels: all of them right, the fastest of them chosen, kept on disk, and the same again on request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use wgpt::checks::{check_close, cooperative};
use wgpt::executor::{Executor, Trial};
use wgpt::gpu::tuning::{WGPU_VERSION, Watch};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{
    AdapterKind, Choices, Cost, Dispatch, Dtype, Graph, Limits, Op, Plan, Shader, Shape, Shapes, Step, Tensor, Variants,
};
use wgpt::ops::{Case, cases};
use wgpt::reference::Cpu;

fn gpu(family: AdapterKind) -> Gpu {
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
    "attention 2x37, 6 heads of 16 over 2 of keys",
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
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let mut gpu = gpu(family);
        gpu.allow_cooperative();
        let all = cases();
        let mut counts = vec![];
        for name in CASES {
            let case = all.iter().find(|c| c.name == name).unwrap_or_else(|| panic!("there is no case `{name}`"));
            counts.push(check_variants(&mut gpu, case));
        }
        assert!(
            counts.iter().sum::<usize>() >= if family == AdapterKind::Gpu { 36 } else { 14 },
            "{family:?}: {counts:?}"
        );
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

/// A GPU's choice for [`ones`] and the number of trials.
fn chosen(folder: &std::path::Path, again: bool) -> (String, usize) {
    let mut gpu = gpu(AdapterKind::Software);
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

/// Shader of [`Twofold`], a thread per row.
const TWOFOLD: &str = "
const ROUNDS: u32 = 1u;
const SECOND: f32 = 0.0;
const SMALL: f32 = 0.0;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<f32>;
@group(0) @binding(2) var<storage, read_write> second: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    var sum = 0.0;
    for (var i = 0u; i < ROUNDS; i++) {
        sum += sin(x[6u * id.x] + f32(i));
    }
    for (var i = 6u * id.x; i < 6u * id.x + 4u; i++) {
        packed[i] = x[i];
    }
    for (var i = 6u * id.x + 4u; i < 6u * id.x + 6u; i++) {
        packed[i] = 0.001 * x[i] + SMALL;
    }
    second[id.x] = x[6u * id.x] + SECOND + select(0.0, 1.0, sum > 1e9);
}
";

/// Copies x (rows, 6) with its last two columns a thousand times smaller, and its first column as a second output. The
/// variants that are fast are wrong: one in the second output, one in the small columns, by as much as those are large.
#[derive(Debug)]
struct Twofold {
    /// Whether it says that the small columns are a tensor of their own.
    packed: bool,
}

impl Op for Twofold {
    fn name(&self) -> &'static str {
        "twofold"
    }
    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone(), Shape::f32(&[inputs[0].rows()])]
    }
    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let names = self.variants(shapes, limits).unwrap().names;
        let of = [(4000u32, 0.0f32, 0.0f32), (1, 1.0, 0.0), (1, 0.0, 0.001)];
        let (rounds, second, small) = of[limits.choices.pick("twofold", &names)];
        let d = Dispatch::new(Shader { stem: "twofold", source: TWOFOLD }).constant("ROUNDS", rounds);
        let d = d.constant("SECOND", second).constant("SMALL", small);
        vec![d.read(0).write(0).write(1).groups([shapes.inputs[0].rows() as u32 / 64, 1, 1])]
    }
    fn variants(&self, shapes: &Shapes, _limits: &Limits) -> Option<Variants> {
        let names = ["right", "wrong second output", "wrong small columns"].map(String::from).into();
        Some(Variants { class: "twofold".into(), names, inputs: vec![shapes.inputs[0].clone()] })
    }
    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        vec![None]
    }
    fn reference(&self, _shapes: &Shapes, _inputs: &[&[f32]], _outputs: &mut [Vec<f32>], _step: &Step) {
        unreachable!("variants are compared with each other")
    }
    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 1 << 30, size_bytes: shapes.size_bytes() }
    }
    fn packing(&self, shapes: &Shapes, slot: usize) -> Vec<usize> {
        if self.packed && slot == 0 { vec![4, 2] } else { vec![shapes.outputs[slot].columns()] }
    }
}

/// The variant of [`Twofold`] that is chosen, and those that are refused.
fn chosen_of_twofold(packed: bool) -> (String, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[4096, 6]));
    let y = g.apply(Twofold { packed }, &[x]);
    g.output("y", y);
    let mut gpu = gpu(AdapterKind::Software);
    gpu.enable_tuning(folder.path(), true, counter().1);
    gpu.tune(&[&g]).unwrap();
    let (_, measured) = gpu.measured().next().unwrap();
    let refused = measured.seconds.iter().filter(|(_, seconds)| seconds.is_none());
    (measured.variant.clone(), refused.map(|(name, _)| name.clone()).collect())
}

#[test]
fn a_variant_that_is_wrong_in_its_second_output_or_in_a_small_tensor_of_a_packed_one_is_refused() {
    let both = ["wrong second output", "wrong small columns"].map(String::from).to_vec();
    assert_eq!(chosen_of_twofold(true), ("right".into(), both.clone()));
    // As one tensor, the error is too small to see: that is why ops say what their rows hold side by side.
    assert_eq!(chosen_of_twofold(false), (both[1].clone(), both[..1].to_vec()));
}

/// The gradient of grouped heads has tensors of three widths side by side.
#[test]
fn the_tensors_of_a_packed_output_fill_its_rows() {
    let mut packed = 0;
    for case in cases() {
        let (graph, _) = case.graph();
        for node in 0..graph.nodes().len() {
            let (Some(op), shapes) = (graph.op(node), graph.shapes(node)) else { continue };
            for (slot, shape) in shapes.outputs.iter().enumerate() {
                let columns = op.packing(&shapes, slot);
                assert_eq!(columns.iter().sum::<usize>(), shape.columns(), "{} {}", case.name, op.name());
                packed += usize::from(columns.len() > 1);
            }
        }
    }
    assert!(packed >= 5, "{packed}");
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
    let mut settled = gpu(AdapterKind::Software);
    let (count, watch) = counter();
    settled.enable_tuning(folder.path(), true, watch);
    settled.settle(&BTreeMap::from([("ones".to_string(), "slow".to_string())]));
    settled.tune(&[&ones()]).unwrap();
    assert_eq!(ones().variants(settled.limits())["ones"], "slow");
    assert_eq!(count.load(Ordering::SeqCst), 0);
    let mut forced = gpu(AdapterKind::Software);
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
fn tuned_programs_run_the_chosen_variants() {
    let folder = tempfile::tempdir().unwrap();
    let mut gpu = gpu(AdapterKind::Gpu);
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

/// A software adapter that says it has cooperative matrices of 8 x 8; nothing is compiled for it here.
fn with_matrices(driver: &str) -> Gpu {
    let mut adapter = choose("auto").unwrap();
    (adapter.limits.cooperative, adapter.driver) = (8, driver.into());
    adapter.limits.subgroup = 32;
    Gpu::with(adapter, Some(AdapterKind::Gpu), true).unwrap()
}

/// Variants of a product of f16 matrices that plans for a device may take.
fn variants_of_product(gpu: &Gpu) -> Vec<String> {
    let mut g = Graph::new();
    let half = |dims: &[usize]| Shape::f32(dims).with_dtype(Dtype::F16);
    let (a, b) = (g.input("a", half(&[256, 128])), g.input("b", half(&[128, 256])));
    let c = g.apply(wgpt::ops::matmul::Matmul::default(), &[a, b]);
    g.output("c", c);
    g.choosable(gpu.limits()).remove(0).2.names
}

fn has_matrices(gpu: &Gpu) -> bool {
    variants_of_product(gpu).iter().any(|name| name.starts_with("cooperative"))
}

#[test]
fn kernels_on_cooperative_matrices_are_for_devices_where_they_passed_or_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let open = |driver| {
        let mut gpu = with_matrices(driver);
        assert!(!has_matrices(&gpu), "nothing is known of a device that was just opened");
        gpu.enable_tuning(folder.path(), false, counter().1);
        cooperative::allow_proven(&mut gpu);
        gpu
    };
    let mut gpu = open("a driver 1.0");
    assert!(!has_matrices(&gpu), "nothing was recorded");
    let limits = Limits { cooperative: 8, ..gpu.limits().clone() };
    let digest = cooperative::digest(&limits);
    gpu.record_cooperative(Some(&digest)).unwrap();
    assert!(has_matrices(&gpu));
    assert!(!variants_of_product(&gpu)[0].starts_with("cooperative"), "they are never the guess");
    assert!(has_matrices(&open("a driver 1.0")), "what passed is kept");
    assert!(!has_matrices(&open("a driver 1.1")), "another driver has to pass by itself");
    let mut again = with_matrices("a driver 1.0");
    again.enable_tuning(folder.path(), true, counter().1);
    cooperative::allow_proven(&mut again);
    assert!(has_matrices(&again), "--retune measures again, which makes nothing wrong");
    // Other kernels than those that passed.
    open("a driver 1.0").record_cooperative(Some(&digest.replace(|c: char| c.is_ascii_digit(), "x"))).unwrap();
    assert!(!has_matrices(&open("a driver 1.0")));
    // Found wrong.
    open("a driver 1.0").record_cooperative(Some(&digest)).unwrap();
    let mut wrong = open("a driver 1.0");
    wrong.record_cooperative(None).unwrap();
    assert!(!has_matrices(&wrong) && !has_matrices(&open("a driver 1.0")));
    // Asked for.
    for (names, has) in
        [("registers, tiled", false), ("64x64", false), ("tiled, coop", true), ("cooperative 64x64", true)]
    {
        let mut forced = open("a driver 1.0");
        forced.force_variants(names);
        assert_eq!(has_matrices(&forced), has, "WGPT_VARIANT={names}");
    }
    // A run that goes on with such a variant runs the guess where they are not allowed.
    let mut settled = open("a driver 1.0");
    settled.settle(&BTreeMap::from([(
        "matmul nn 256x256x128 f16".to_string(),
        "cooperative 64x64x32 2x2 of 32".to_string(),
    )]));
    assert!(!has_matrices(&settled));
}

#[test]
fn the_digest_of_kernels_on_cooperative_matrices_is_of_the_kernels_that_a_device_runs() {
    let limits = Limits { cooperative: 8, subgroup: 32, f16: true, ..Limits::portable(AdapterKind::Gpu) };
    let digest = cooperative::digest(&limits);
    assert_eq!(digest, cooperative::digest(&limits.clone()));
    assert_ne!(digest, cooperative::digest(&Limits { cooperative: 16, ..limits.clone() }));
    assert_ne!(digest, cooperative::digest(&Limits { cooperative: 0, ..limits }), "a digest of no kernels");
}
