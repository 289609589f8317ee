//! The feed-forward of a mixture of experts, and the losses of its routers, against what transformers computes with them.
//! tests/fixtures/moe_block.py makes the numbers, in f64.

use std::path::Path;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step, Tensor};
use wgpt::ops::add::add_in_place;
use wgpt::ops::combine::Combine;
use wgpt::ops::cross_entropy::CrossEntropy;
use wgpt::ops::expert_groups::{ExpertGroups, Groups};
use wgpt::ops::expert_load::ExpertLoad;
use wgpt::ops::fill::Fill;
use wgpt::ops::glu::{Gate, Glu};
use wgpt::ops::grouped_matmul::GroupedMatmul;
use wgpt::ops::matmul::Matmul;
use wgpt::ops::router::Router;
use wgpt::ops::router_losses::RouterLosses;
use wgpt::reference::Cpu;

const EXPERTS: usize = 6;
const TOP: usize = 2;

/// The dump of PyTorch's numbers.
struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Fixture {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/moe_block.safetensors");
        Fixture(std::fs::read(path).unwrap())
    }

    fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        (tensor.shape().to_vec(), bytemuck::pod_collect_to_vec(tensor.data()))
    }

    /// Whole numbers, as bits.
    fn words(&self, name: &str) -> Vec<f32> {
        self.get(name).1.into_iter().map(|value| f32::from_bits(value as u32)).collect()
    }
}

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

/// A graph's outputs and states after `states` have been set and one replay.
fn run(device: &mut dyn Executor, g: &Graph, states: &[(&str, Vec<f32>)], targets: &[f32]) -> Vec<(String, Vec<f32>)> {
    let plan = Plan::new(g, device.limits()).unwrap();
    let names: Vec<String> = plan.states.iter().map(|s| s.name.clone()).collect();
    let sizes: Vec<usize> = plan.states.iter().map(|s| s.shape.len()).collect();
    let inputs: Vec<String> = plan.inputs.iter().map(|(name, ..)| name.clone()).collect();
    let program = device.load(g, plan).unwrap();
    device.poison(program).unwrap();
    for (name, size) in names.iter().zip(sizes) {
        let known = states.iter().find(|(state, _)| state == name);
        device.write_state(name, &known.map_or(vec![0.0; size], |(_, values)| values.clone())).unwrap();
    }
    for name in inputs {
        device.write(program, &name, bytemuck::cast_slice(targets)).unwrap();
    }
    device.run(program, 0, &Step::default()).unwrap();
    let mut kept: Vec<(String, Vec<f32>)> = vec![];
    for (name, _) in g.outputs() {
        kept.push((name.clone(), device.read(program, name).unwrap()));
    }
    for name in names {
        let values = device.read_state(&name).unwrap();
        kept.push((name, values));
    }
    kept
}

fn find<'a>(kept: &'a [(String, Vec<f32>)], name: &str) -> &'a [f32] {
    &kept.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1
}

/// Weights, ids and groups of some logits.
fn route(g: &mut Graph, logits: Tensor) -> (Tensor, Tensor, Groups) {
    let weights = g.apply(Router { top: TOP, renormalise: true }, &[logits]);
    let ids = Tensor { slot: 1, ..weights };
    (weights, ids, ExpertGroups { experts: EXPERTS }.apply(g, ids))
}

/// A parameter or an input that has a gradient, and the state that this is added to.
fn leaf(g: &mut Graph, fixture: &Fixture, name: &str) -> (Tensor, Tensor) {
    let dims = fixture.get(name).0;
    (g.state(name, &dims), g.state(&format!("{name}.grad"), &dims))
}

#[test]
fn a_mixture_of_experts_agrees_with_transformers_and_repeats_to_the_bit() {
    let fixture = Fixture::open();
    let mut g = Graph::new();
    let leaves = ["x", "gate", "gate_up", "down"];
    let wanted = leaves.map(|name| leaf(&mut g, &fixture, name));
    let [x, gate, gate_up, down] = wanted.map(|(tensor, _)| tensor);
    let logits = g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, gate]);
    let (weights, ids, groups) = route(&mut g, logits);
    let load = g.state_u32("load", &[1, EXPERTS]);
    g.apply(ExpertLoad { layer: 0 }, &[groups.offsets, load]);
    let (order, position, offsets) = (groups.order, groups.position, groups.offsets);
    let both = g.apply(GroupedMatmul { gather: true, tb: true }, &[x, gate_up, offsets, order, position]);
    let hidden = g.apply(Glu { gate: Gate::Silu }, &[both]);
    let made = g.apply(GroupedMatmul { gather: false, tb: true }, &[hidden, down, offsets]);
    let y = g.apply(Combine { weighted: true }, &[made, position, weights, order]);
    let targets = g.input("targets", Shape::u32(&[g.shape(y).rows()]));
    let loss = g.apply(CrossEntropy, &[y, targets]);
    // The dump has the gradients of the sum over tokens.
    let tokens = g.shape(y).rows() as f32;
    let seed = g.apply(Fill { value: tokens }, &[]);
    gradient(&mut g, loss, seed, &wanted, &add_in_place(), false);
    for (name, tensor) in [("y", y), ("weights", weights), ("ids", ids)] {
        g.output(name, tensor);
    }
    let states: Vec<(&str, Vec<f32>)> = leaves.iter().map(|name| (*name, fixture.get(name).1)).collect();
    for (label, mut device) in devices() {
        let kept = run(device.as_mut(), &g, &states, &fixture.words("targets"));
        assert_eq!(bits(find(&kept, "ids")), bits(&fixture.words("ids")), "{label}");
        for expert in 0..EXPERTS {
            let chosen = fixture.get("ids").1.iter().filter(|id| **id == expert as f32).count();
            assert_eq!(find(&kept, "load")[expert].to_bits(), chosen as u32, "{label}: load of expert {expert}");
        }
        // transformers rounds the router's softmax to f32; sums of up to 60 products below 2 in f32 follow.
        let check = |got: &str, want: &str| {
            let want = fixture.get(want).1;
            check_close(&format!("{label}: {got}"), find(&kept, got), &want, 4e-6, 1e-5).unwrap();
        };
        check("weights", "weights");
        check("y", "y");
        leaves.iter().for_each(|name| check(&format!("{name}.grad"), &format!("d{name}")));
        for (again, first) in run(device.as_mut(), &g, &states, &fixture.words("targets")).iter().zip(&kept) {
            assert_eq!(bits(&again.1), bits(&first.1), "{label}: {} does not repeat", first.0);
        }
    }
}

#[test]
fn the_losses_of_routers_agree_with_transformers() {
    let fixture = Fixture::open();
    for (name, op) in [("balance", RouterLosses { balance: 1.0, z: 0.0 }), ("z", RouterLosses { balance: 0.0, z: 1.0 })]
    {
        let mut g = Graph::new();
        let layers = ["logits.0", "logits.1"];
        let wanted = layers.map(|layer| leaf(&mut g, &fixture, layer));
        let logits = wanted.map(|(tensor, _)| tensor);
        let offsets = logits.map(|logits| route(&mut g, logits).2.offsets);
        let loss = g.apply(op, &[logits, offsets].concat());
        let seed = g.apply(Fill { value: 1.0 }, &[]);
        gradient(&mut g, loss, seed, &wanted, &add_in_place(), false);
        g.output("loss", loss);
        let states = layers.map(|layer| (layer, fixture.get(layer).1));
        for (label, mut device) in devices() {
            let kept = run(device.as_mut(), &g, &states, &[]);
            // Sums over 76 tokens of probabilities, or of squares up to 25, in f32.
            let check = |got: &str, want: String| {
                let want_values = fixture.get(&want).1;
                check_close(&format!("{label}: {want}"), find(&kept, got), &want_values, 1e-7, 4e-6).unwrap();
            };
            check("loss", name.into());
            for layer in layers {
                check(&format!("{layer}.grad"), format!("{name}.d{layer}"));
            }
        }
    }
}

/// Whatever an idle expert's matrix holds, it is not read: not even by rounding would a NaN stay out of sums.
#[test]
fn an_idle_experts_matrix_is_not_read() {
    let (tokens, width, inner) = (37, 20, 36);
    let ids: Vec<u32> = (0..TOP * tokens).map(|pair| [0, 1, 3, 5][pair % 4]).collect();
    let mut g = Graph::new();
    let chosen = g.input("targets", Shape::u32(&[tokens, TOP]));
    let (x, w) = (g.state("x", &[tokens, width]), g.state("w", &[EXPERTS, inner, width]));
    let Groups { order, position, offsets } = ExpertGroups { experts: EXPERTS }.apply(&mut g, chosen);
    let y = g.apply(GroupedMatmul { gather: true, tb: true }, &[x, w, offsets, order, position]);
    let dx = g.apply(GroupedMatmul { gather: false, tb: false }, &[y, w, offsets]);
    g.output("y", y);
    g.output("dx", dx);
    let mut weights = vec![0.5; EXPERTS * inner * width];
    for idle in [2, 4] {
        weights[idle * inner * width..][..inner * width].fill(f32::NAN);
    }
    let states = [("x", vec![0.25; tokens * width]), ("w", weights)];
    let ids: Vec<f32> = ids.into_iter().map(f32::from_bits).collect();
    for (label, mut device) in devices() {
        let kept = run(device.as_mut(), &g, &states, &ids);
        // 20 products of 0.125, and 36 of 0.5 * 2.5.
        assert!(find(&kept, "y").iter().all(|y| *y == 2.5), "{label}");
        assert!(find(&kept, "dx").iter().all(|dx| *dx == 45.0), "{label}");
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
