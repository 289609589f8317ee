//! Faults that bounds checks hide are caught by kernels as released, with margins around their buffers: an index that is off by
//! one where it writes and where it reads, and a kernel that reads what lies beside its tensor.

use std::path::Path;
use std::sync::Arc;
use wgpt::executor::Executor;
use wgpt::gpu::margins::Fill;
use wgpt::gpu::reload::ShaderFiles;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Cost, Dispatch, Graph, Limits, Op, Plan, Shader, Shape, Shapes, Step, Tensor};
use wgpt::ops::case::Problem;
use wgpt::ops::{Case, Draw, cases};
use wgpt::reference::Cpu;

/// Software's kernels, with bounds checks and as released.
fn gpus() -> [Gpu; 2] {
    [true, false].map(|checks| Gpu::with(choose("auto").unwrap(), Some(AdapterKind::Software), checks).unwrap())
}

/// The outcome of a problem with bounds checks, and as released with margins: nothing, or the error.
fn outcomes(problem: &Problem, files: Option<&ShaderFiles>) -> [Option<String>; 2] {
    let [mut checked, mut released] = gpus();
    let built = problem.build(42);
    let want = built.run(&mut Cpu::default()).unwrap();
    [&mut checked, &mut released].into_iter().for_each(|gpu| gpu.reload(files.cloned()));
    let of_checked = problem.compare(&built, &built.run(&mut checked).unwrap(), &want);
    [of_checked.err(), problem.check_surrounded(&mut released, &built, &want).unwrap().err()]
}

fn case(name: &str) -> &'static Case {
    cases().into_iter().find(|c| c.name == name).unwrap_or_else(|| panic!("there is no case `{name}`"))
}

/// The outcomes of a case where `text` of a shader of ours is `fault`.
fn planted(case: &str, stem: &'static str, text: &str, fault: &str) -> [Option<String>; 2] {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{stem}.wgsl");
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders").join(&name)).unwrap();
    assert!(source.contains(text), "{stem} does not contain `{text}`");
    std::fs::write(folder.path().join(&name), source.replacen(text, fault, 1)).unwrap();
    let case = self::case(case);
    assert_eq!(outcomes(&case.problem(), None), [None, None], "{stem} as it is");
    outcomes(&case.problem(), Some(&ShaderFiles::read(folder.path(), stem).unwrap()))
}

#[test]
fn an_index_off_by_one_that_is_written_is_caught() {
    let [checked, released] = planted("gelu tanh 5x67", "gelu", "if i < LEN {", "if i <= LEN {");
    assert_eq!(checked, None, "bounds checks move the index to the last element, which is written twice");
    let why = released.unwrap();
    assert!(why.contains("was written word 0 of the margin behind it"), "{why}");
}

#[test]
fn an_index_off_by_one_that_is_read_is_caught() {
    // One logit too many where the largest is sought: the sum of exponentials is right whatever is taken for the largest.
    let fault = ["for (var i = thread; i < V; i += THREADS) {", "for (var i = thread; i <= V; i += THREADS) {"];
    let [checked, released] = planted("token_log_prob 1x2", "token_log_prob", fault[0], fault[1]);
    assert_eq!(checked, None, "bounds checks move the index to the last element, which is seen twice");
    let why = released.unwrap();
    assert!(why.contains("y0, with other margins,"), "{why}");
}

/// y = sums of a's rows, four numbers at a time: past the end of a row what follows is read, and multiplied by a mask of zeros.
const PADDED: &str = "
const ROWS: u32 = 1u;
const K: u32 = 1u;
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> mask: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) row: u32) {
    if row >= ROWS {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < (K + 3u) / 4u * 4u; k++) {
        sum += a[row * K + k] * f32(mask[k]);
    }
    y[row] = sum;
}
";

#[derive(Debug)]
struct Padded;

impl Op for Padded {
    fn name(&self) -> &'static str {
        "padded"
    }
    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![Shape::f32(&[inputs[0].rows()])]
    }
    fn dispatch(&self, shapes: &Shapes, _limits: &Limits) -> Vec<Dispatch> {
        let d = Dispatch::new(Shader { stem: "padded", source: PADDED }).constant("ROWS", shapes.inputs[0].rows());
        vec![d.constant("K", shapes.inputs[0].columns()).read(0).read(1).write(0)]
    }
    fn vjp(&self, _g: &mut Graph, _node: usize, _dy: Tensor, _needed: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("it is never differentiated")
    }
    fn reference(&self, shapes: &Shapes, inputs: &[&[f32]], outputs: &mut [Vec<f32>], _step: &Step) {
        for (y, row) in outputs[0].iter_mut().zip(inputs[0].chunks(shapes.inputs[0].columns())) {
            *y = row.iter().sum();
        }
    }
    fn cost(&self, shapes: &Shapes) -> Cost {
        Cost { flops: 2 * shapes.inputs[0].len() as u64, size_bytes: shapes.size_bytes() }
    }
}

/// Rows of `k` numbers, and a mask of eight words.
fn padded(k: usize, mask: fn() -> Vec<u32>) -> Problem {
    let inputs = vec![(vec![5, k], Draw::Uniform(1.0)), (vec![8], Draw::Words(mask))];
    let (atol, rtol) = (1e-6, 1e-6); // sums of eight numbers below 1
    Problem { name: format!("padded 5x{k}"), op: Arc::new(Padded), inputs, gradient: false, position: 0, atol, rtol }
}

#[test]
fn a_kernel_that_reads_beside_its_tensor_is_caught() {
    assert_eq!(outcomes(&padded(8, || vec![1; 8]), None), [None, None], "rows of whole quads");
    let [checked, released] = outcomes(&padded(7, || vec![1, 1, 1, 1, 1, 1, 1, 0]), None);
    assert_eq!(checked, None, "with bounds checks a number is read, and times zero it is none");
    let why = released.unwrap();
    assert!(why.contains("y0, with other margins,[4]"), "{why}");
}

/// A buffer with margins is written and read where it begins, and its bindings begin there; `arrayLength` is that of the tensor.
#[test]
fn programs_with_margins_give_the_same_results() {
    let [_, mut gpu] = gpus();
    for name in ["adamw 65x68", "squared_sum 181x180", "matmul 2x33x70 by 70x65"] {
        let case = case(name);
        let built = case.build(3);
        let plain = built.run(&mut gpu).unwrap();
        gpu.set_margins(Some(Fill::Nan));
        let plan = Plan::new(&built.graph, gpu.limits()).unwrap();
        let before = gpu.allocated_bytes();
        let program = gpu.load(&built.graph, plan).unwrap();
        gpu.unload(program);
        assert_eq!(gpu.allocated_bytes(), before);
        let surrounded = built.run(&mut gpu).unwrap();
        gpu.set_margins(None);
        let bits = |all: &[Vec<f32>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&plain), bits(&surrounded), "{}", case.name);
    }
}
