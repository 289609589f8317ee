//! Every op's cases: shader against reference for both families of kernels, and `vjp` against finite differences.

use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::{Family, Graph, Plan, Shape, Step, Tensor};
use wgpt::ops::add::Add;
use wgpt::ops::case::check_close;
use wgpt::ops::classifier::Classifier;
use wgpt::ops::cross_entropy::CrossEntropy;
use wgpt::ops::fill::Fill;
use wgpt::ops::{Case, cases};
use wgpt::reference::Cpu;

/// The best adapter, with the kernels of `family`.
fn gpu(family: Family) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

fn check_all(family: Family) {
    let mut gpu = gpu(family);
    let mut failures = vec![];
    for case in cases() {
        match case.check(&mut gpu, 42).unwrap() {
            Ok(compared) => assert!(!compared.is_empty(), "{} compares nothing", case.name),
            Err(why) => failures.push(why),
        }
    }
    assert!(failures.is_empty(), "{family:?}: {} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn shaders_for_software_adapters_agree_with_the_reference() {
    check_all(Family::Software);
}

#[test]
fn shaders_for_gpus_agree_with_the_reference() {
    check_all(Family::Gpu);
}

#[test]
fn gradients_agree_with_finite_differences() {
    let mut checked = 0;
    for case in cases().into_iter().filter(|c| c.gradient) {
        checked += finite_differences(case);
    }
    assert!(checked > 100, "only {checked} gradients were checked");
}

/// Central differences of L = sum(dy * y) through the reference, at up to 12 elements of each input with a gradient.
fn finite_differences(case: &Case) -> usize {
    if case.inputs.iter().map(|(dims, _)| dims.iter().product::<usize>()).sum::<usize>() > 200_000 {
        return 0; // the same code at a smaller shape is checked
    }
    let built = case.build(42);
    let values = built.run(&mut Cpu::default()).unwrap();
    let dy = built.inputs.last().unwrap().1.clone();
    let loss = |input: usize, at: usize, by: f32| {
        let mut moved = case.build(42);
        moved.inputs[input].1[at] += by;
        let y = moved.run(&mut Cpu::default()).unwrap().swap_remove(0);
        let moved_by = f64::from(moved.inputs[input].1[at]) - f64::from(built.inputs[input].1[at]);
        (y.iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum::<f64>(), moved_by)
    };
    let mut checked = 0;
    for (name, got) in built.outputs.iter().zip(&values).filter(|(name, _)| name.starts_with('d')) {
        let input: usize = name[1..].parse().unwrap();
        for sample in 0..got.len().min(12) {
            let at = sample * (got.len() / got.len().min(12));
            let ((up, up_by), (down, down_by)) = (loss(input, at, 4e-3), loss(input, at, -4e-3));
            let want = ((up - down) / (up_by - down_by)) as f32;
            // Outputs are f32: their rounding, about 1e-7 of each of the n terms of L, is divided by the 8e-3 between the
            // two points; the third derivative adds about h^2 = 1.6e-5.
            let noise = 1e-7 * (dy.len() as f32).sqrt() / 8e-3;
            check_close(&format!("{} {name} at {at}", case.name), &[got[at]], &[want], 2e-3 + 3.0 * noise, 2e-3)
                .unwrap();
            checked += 1;
        }
    }
    checked
}

#[test]
fn the_checker_rejects_one_changed_element_and_nan() {
    let want: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).collect();
    let changed = |at: usize, value: f32| {
        let mut got = want.clone();
        got[at] = value;
        check_close("t", &got, &want, 1e-5, 1e-5)
    };
    assert!(changed(0, want[0]).unwrap() == 0.0);
    let message = changed(700, want[700] + 1e-3).unwrap_err();
    assert!(message.contains("t[700]"), "{message}");
    assert!(changed(3, f32::NAN).is_err() && changed(3, f32::INFINITY).is_err());
    assert!(check_close("t", &want, &[f32::NAN; 1000], 1e-5, 1e-5).is_err(), "a NaN reference passes nothing");
    assert!(check_close("t", &want[..999], &want, 1e-5, 1e-5).is_err(), "a missing element is a difference");
}

#[test]
fn a_kernel_that_writes_nothing_is_caught() {
    // Outputs are poisoned before a run: without a replay, every one of them is NaN.
    let mut gpu = gpu(Family::Software);
    let built = wgpt::ops::add::CASES[0].build(1);
    let plan = Plan::new(&built.graph, gpu.limits()).unwrap();
    let program = gpu.load(&built.graph, plan).unwrap();
    gpu.poison(program).unwrap();
    assert!(gpu.read(program, "y0").unwrap().iter().all(|v| v.is_nan()));
}

/// The gradient of logits (7, 33) that are a state, by `loss` from the logits and the targets; seed 0.7.
fn logit_gradient(device: &mut dyn Executor, loss: impl Fn(&mut Graph, Tensor, Tensor) -> Tensor) -> Vec<f32> {
    let mut g = Graph::new();
    let wanted = (g.state("logits", &[7, 33]), g.state("logits.grad", &[7, 33]));
    let targets = g.input("targets", Shape::u32(&[7]));
    let seed = g.apply(Fill { value: 0.7 }, &[]);
    g.set_seed(seed);
    // Training works in place over logits that an op has made, not over a state.
    let zero = g.state("zero", &[7, 33]);
    let logits = g.apply(Add, &[wanted.0, zero]);
    let loss = loss(&mut g, logits, targets);
    gradient(&mut g, loss, seed, &[wanted]);
    let plan = Plan::new(&g, device.limits()).unwrap();
    let program = device.load(&g, plan).unwrap();
    device.write_state("logits", &(0..231).map(|i| (i as f32 * 0.7).sin() * 5.0).collect::<Vec<_>>()).unwrap();
    device.write_state("logits.grad", &[0.0; 231]).unwrap();
    device.poison(program).unwrap();
    device.write(program, "targets", bytemuck::cast_slice(&[3, 0, 32, wgpt::data::IGNORED, 7, 7, 1])).unwrap();
    device.run(program, 0, &Step::default()).unwrap();
    device.read_state("logits.grad").unwrap()
}

#[test]
fn the_classifier_has_the_gradient_of_the_cross_entropy() {
    let mut devices: Vec<Box<dyn Executor>> = vec![Box::new(Cpu::default())];
    devices.extend([Family::Gpu, Family::Software].map(|family| Box::new(gpu(family)) as Box<dyn Executor>));
    for device in &mut devices {
        let want = logit_gradient(device.as_mut(), |g, logits, targets| g.apply(CrossEntropy, &[logits, targets]));
        let got = logit_gradient(device.as_mut(), |g, logits, targets| {
            let loss = classifier(g, logits, targets);
            // Beside another loss it is the same: addition hands the seed through.
            let other = g.apply(Fill { value: 2.0 }, &[]);
            g.apply(Add, &[loss, other])
        });
        assert!(want[3 * 33..4 * 33].iter().all(|d| *d == 0.0) && want[3].abs() > 0.01, "{want:?}");
        // The exponentials are of numbers down to -20, whose rounding makes 2e-6 of each.
        check_close(&device.description(), &got, &want, 1e-9, 5e-6).unwrap();
    }
}

fn classifier(g: &mut Graph, logits: Tensor, targets: Tensor) -> Tensor {
    let seed = g.seed().unwrap();
    g.apply(Classifier { weight: 1.0 }, &[logits, targets, seed])
}

#[test]
#[should_panic(expected = "classifier made its gradient from `fill`, but differentiation comes with")]
fn a_classifier_whose_loss_is_used_twice_is_refused() {
    logit_gradient(&mut Cpu::default(), |g, logits, targets| {
        let loss = classifier(g, logits, targets);
        g.apply(Add, &[loss, loss])
    });
}
