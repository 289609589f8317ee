//! States that are stored together in one buffer: one op over all of them, and each by its own name.

use crate::plan::{FAMILIES, preset_graphs, roomy};
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::memory::Class;
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step, Tensor};
use wgpt::ops::add::{Add, AddInPlace};
use wgpt::reference::Cpu;

fn devices() -> Vec<Box<dyn Executor>> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()) as Box<dyn Executor>;
    vec![Box::new(Cpu::default()), gpu(FAMILIES[0]), gpu(FAMILIES[1])]
}

fn load(device: &mut dyn Executor, g: &Graph) -> wgpt::executor::Program {
    let plan = Plan::new(g, device.limits()).unwrap();
    device.load(g, plan).unwrap()
}

/// a (3) += x, and then all of a and b (65) together += y (192).
fn both() -> (Graph, Tensor) {
    let mut g = Graph::new();
    let (a, b) = (g.state("a", &[3]), g.state("b", &[65]));
    let (x, y) = (g.input("x", Shape::f32(&[3])), g.input("y", Shape::f32(&[192])));
    let a = g.apply(AddInPlace, &[a, x]);
    let whole = g.together("both", &[a, b]);
    g.apply(AddInPlace, &[whole, y]);
    (g, a)
}

#[test]
fn an_op_over_the_whole_changes_every_member_and_plans_find_members_by_name() {
    let (g, _) = both();
    let mut single = Graph::new();
    let (b, x) = (single.state("b", &[65]), single.input("x", Shape::f32(&[65])));
    single.apply(AddInPlace, &[b, x]);
    let numbers = |from: usize, len: usize| (from..from + len).map(|i| i as f32).collect::<Vec<_>>();
    for mut device in devices() {
        let device = device.as_mut();
        let (program, alone) = (load(device, &g), load(device, &single));
        // Members take 64 and 128 elements; then the inputs.
        assert_eq!(device.allocated_bytes(), 4 * (192 + 3 + 192 + 65), "{}", device.description());
        device.write_state("a", &[1.0, 2.0, 3.0]).unwrap();
        device.write_state_at("b", 63, &[5.0, 7.0]).unwrap();
        device.write(program, "x", bytemuck::cast_slice(&[10.0f32, 20.0, 30.0])).unwrap();
        device.write(program, "y", bytemuck::cast_slice(&numbers(1000, 192))).unwrap();
        device.write(alone, "x", bytemuck::cast_slice(&numbers(0, 65))).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        device.run(alone, 0, &Step::default()).unwrap();
        assert_eq!(device.read_state("a").unwrap(), [1011.0, 1023.0, 1035.0]);
        let mut want: Vec<f32> = numbers(1064, 65).iter().zip(numbers(0, 65)).map(|(a, b)| a + b).collect();
        (want[63], want[64]) = (want[63] + 5.0, want[64] + 7.0);
        assert_eq!(device.read_state("b").unwrap(), want, "{}", device.description());
        let whole = device.read_state("both").unwrap();
        assert_eq!((whole.len(), whole[2], &whole[64..129]), (192, 1035.0, &want[..]));
        device.post("a", 9).unwrap();
        assert_eq!(device.collect(true).unwrap(), [(9, vec![1011.0, 1023.0, 1035.0])]);
        // The same plan once more takes nothing but its inputs.
        load(device, &g);
        assert_eq!(device.allocated_bytes(), 4 * (192 + 2 * (3 + 192) + 65));
    }
}

#[test]
#[should_panic(expected = "reads `a` as it was before")]
fn a_member_cannot_be_read_as_it_was_before_the_whole() {
    let (mut g, a) = both();
    let stale = g.apply(Add, &[a, a]);
    g.output("stale", stale);
    let _ = Plan::new(&g, &roomy(AdapterKind::Gpu));
}

#[test]
#[should_panic(expected = "both reads `a` as it was before")]
fn only_the_newest_version_of_a_member_is_stored() {
    let mut g = Graph::new();
    let (a, x) = (g.state("a", &[3]), g.input("x", Shape::f32(&[3])));
    g.apply(AddInPlace, &[a, x]);
    g.together("both", &[a]);
    let _ = Plan::new(&g, &roomy(AdapterKind::Gpu));
}

#[test]
#[should_panic(expected = "`a` is stored otherwise already")]
fn states_stored_apart_cannot_be_stored_together_later() {
    let mut single = Graph::new();
    single.state("a", &[3]);
    let mut device = Cpu::default();
    load(&mut device, &single);
    load(&mut device, &both().0);
}

#[test]
fn one_kernel_updates_many_parameters() {
    for limits in FAMILIES.map(roomy) {
        let [training, ..] = preset_graphs("gpt2", 0.0);
        let plan = Plan::new(&training, &limits).unwrap();
        // 148 tensors, 475 MiB: two buffers of matrices and one of what is not decayed, in bindings of 128 MiB.
        for stem in ["adamw", "squared_sum"] {
            assert_eq!(plan.kernels().filter(|k| k.shader.stem == stem).count(), 5, "{stem}");
        }
        // Values, gradients and two moments of these; sums of squares, their report and the loss.
        assert_eq!(plan.buffers.iter().filter(|b| b.class == Class::State).count(), 4 * 3 + 3);
    }
}
