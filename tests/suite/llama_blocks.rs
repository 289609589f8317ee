//! The blocks of the LLaMA family against what transformers computes with them. tests/fixtures/llama_blocks.py makes the
//! numbers, in f64.

use std::path::Path;
use std::sync::Arc;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Dtype, Graph, Op, Plan, Shape, Step, Tensor};
use wgpt::ops::attention::{Attention, Mask};
use wgpt::ops::glu::{Gate, Glu};
use wgpt::ops::rmsnorm::RmsNorm;
use wgpt::ops::rope::{Rope, RopeTable, Scaling};
use wgpt::reference::Cpu;

const HEADS: usize = 6;
const KV_HEADS: usize = 2;

/// A dump of PyTorch's numbers.
pub struct Fixture(Vec<u8>);

impl Fixture {
    /// Of `tests/fixtures/<name>.safetensors`.
    pub fn open(name: &str) -> Fixture {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        Fixture(std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap())
    }

    /// Shape and values of a tensor; integers travel as bits.
    pub fn get(&self, name: &str) -> (Shape, Vec<f32>) {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        (Shape::f32(tensor.shape()), bytemuck::pod_collect_to_vec(tensor.data()))
    }
}

/// Runs what `build` makes of inputs `<block>.<name>`, and its gradients, on every kind of device; compares y and the
/// gradients of the inputs with the dump.
fn check(block: &str, inputs: &[&str], position: u32, tolerance: f32, build: impl Fn(&mut Graph, &[Tensor]) -> Tensor) {
    let fixture = Fixture::open("llama_blocks");
    let mut g = Graph::new();
    let of = |name: &str| format!("{block}.{name}");
    let tensors: Vec<Tensor> = inputs.iter().map(|name| g.input(name, fixture.get(&of(name)).0)).collect();
    let y = build(&mut g, &tensors);
    let dy = g.input("dy", fixture.get(&of("dy")).0);
    let op: Arc<dyn Op> = g.op(y.node).unwrap().clone();
    let gradients = op.vjp(&mut g, y.node, dy, &vec![true; inputs.len()]);
    let mut outputs = vec!["y".to_string()];
    g.output("y", y);
    for (name, gradient) in inputs.iter().zip(gradients) {
        outputs.push(format!("d{name}"));
        g.output(&format!("d{name}"), gradient.unwrap());
    }
    for (label, mut device) in devices() {
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        device.poison(program).unwrap();
        for name in inputs.iter().chain(&["dy"]) {
            device.write(program, name, bytemuck::cast_slice(&fixture.get(&of(name)).1)).unwrap();
        }
        device.run(program, 0, &Step { position, ..Step::default() }).unwrap();
        for name in &outputs {
            let got = device.read(program, name).unwrap();
            check_close(&format!("{label}: {}", of(name)), &got, &fixture.get(&of(name)).1, tolerance, tolerance)
                .unwrap();
        }
    }
}

/// The reference, and the adapter with the kernels of either family.
pub fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

#[test]
fn rmsnorm_agrees_with_transformers() {
    // Sums of 64 numbers up to 4, in f32.
    check("rmsnorm", &["x", "weight"], 0, 4e-6, |g, x| {
        g.apply(RmsNorm { eps: 1e-6, groups: None, output: Dtype::F32 }, x)
    });
}

#[test]
fn a_norm_of_the_heads_of_keys_agrees_with_transformers() {
    // Sums of 8 numbers up to 4, of 28 in dweight; a row's root mean square may be small, and divides its errors.
    let groups = Some(HEADS..HEADS + KV_HEADS);
    check("head_norm", &["x", "weight"], 0, 1e-5, |g, x| {
        g.apply(RmsNorm { eps: 1e-6, groups: groups.clone(), output: Dtype::F32 }, x)
    });
}

#[test]
fn swiglu_agrees_with_transformers() {
    // exp is good to 11 ulp at 4.
    check("swiglu", &["x"], 0, 4e-6, |g, x| g.apply(Glu { gate: Gate::Silu }, x));
}

/// Name in the dump, head size, base, scaling and first position.
const ROPES: &[(&str, usize, f32, Scaling, u32)] = &[
    ("none", 16, 10000.0, Scaling::None, 0),
    ("linear", 16, 10000.0, Scaling::Linear { factor: 4.0 }, 4090),
    (
        "llama3",
        64,
        500_000.0,
        Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 },
        100_000,
    ),
];

#[test]
fn rotary_embedding_agrees_with_transformers() {
    let fixture = Fixture::open("llama_blocks");
    for &(name, head_size, base, scaling, position) in ROPES {
        let block = format!("rope.{name}");
        let (_, inverse) = fixture.get(&format!("{block}.inv_freq"));
        // powf rounds once on either side: the last bit may differ.
        check_close("inverse frequencies", &scaling.inverse_frequencies(base, head_size), &inverse, 0.0, 1.2e-7)
            .unwrap();
        let (table, _) = fixture.get(&format!("{block}.table"));
        let table = RopeTable { time: table.dims[0], head_size, base, scaling };
        // cos and sin are good to 3e-7, and two of their products with up to 2 are added.
        check(&block, &["x"], position, 2e-6, |g, x| {
            let table = g.apply(table.clone(), &[]);
            g.apply(Rope { heads: HEADS + KV_HEADS, inverse: false }, &[x[0], table])
        });
    }
}

#[test]
fn grouped_attention_agrees_with_transformers_with_and_without_a_window() {
    for (name, window) in [("causal", None), ("window", Some(5))] {
        let mask = Mask::Causal { window };
        let op = Attention { heads: HEADS, kv_heads: KV_HEADS, mask, ..Attention::default() };
        // Scores up to 11 in f32, whose error of up to 1e-6 is that of a weight, times values up to 4 in y and 32 in dqkv.
        check(&format!("attention.{name}"), &["x"], 0, 2e-5, |g, x| g.apply(op.clone(), x));
    }
}
