//! Every op's cases: shader against reference for both families of kernels, and `vjp` against finite differences.

use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::plan::{Bound, Kernel};
use wgpt::graph::{AdapterKind, Limits, Plan};
use wgpt::ops::{Case, cases, cases_for};
use wgpt::reference::Cpu;
use wgpt::shaders::specialise;

/// The best adapter, with the kernels of `family`.
fn gpu(family: AdapterKind) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

/// Texts, workgroups and bindings of a case's kernels under these limits.
fn kernels(case: &Case, limits: &Limits) -> Vec<(String, [u32; 3], Vec<Bound>)> {
    let plan = Plan::new(&case.graph().0, limits).unwrap();
    let kernel = |k: &Kernel| (specialise(k.shader, &k.constants, &k.swaps), k.workgroups, k.bindings.clone());
    plan.kernels().map(kernel).collect()
}

/// The cases whose kernels differ between the two families: the others run once.
fn cases_that_differ(limits: &Limits) -> Vec<&'static Case> {
    let software = Limits { adapter: AdapterKind::Software, ..limits.clone() };
    let gpu = Limits { adapter: AdapterKind::Gpu, ..limits.clone() };
    cases_for(limits).into_iter().filter(|case| kernels(case, &software) != kernels(case, &gpu)).collect()
}

/// Cases against the reference, as released: without bounds checks, and with margins around each buffer. The other tests
/// of models and training run the same kernels with bounds checks.
fn check_all(family: AdapterKind) {
    let mut released = Gpu::with(choose("auto").unwrap(), Some(family), false).unwrap();
    let mut failures = vec![];
    let limits = released.limits().clone();
    let cases = if family == AdapterKind::Software { cases_for(&limits) } else { cases_that_differ(&limits) };
    assert!(cases.len() > 100, "{family:?}: only {} cases", cases.len());
    for case in cases {
        let problem = case.problem();
        let built = problem.build(42);
        let want = built.run(&mut Cpu::default()).unwrap();
        match problem.check_surrounded(&mut released, &built, &want).unwrap() {
            Ok(compared) => assert!(!compared.is_empty(), "{} compares nothing", case.name),
            Err(why) => failures.push(why),
        }
    }
    assert!(failures.is_empty(), "{family:?}: {} cases fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn shaders_for_software_adapters_agree_with_the_reference() {
    check_all(AdapterKind::Software);
}

#[test]
fn shaders_for_gpus_agree_with_the_reference() {
    check_all(AdapterKind::Gpu);
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
    if case.is_half() || case.inputs.iter().map(|(dims, _)| dims.iter().product::<usize>()).sum::<usize>() > 200_000 {
        return 0; // the same code in f32, at a smaller shape, is checked: half precision is too coarse for differences
    }
    let built = case.build(42);
    let values = built.run(&mut wgpt::reference::Cpu::default()).unwrap();
    let dy = built.inputs.last().unwrap().1.clone();
    let loss = |input: usize, at: usize, by: f32| {
        let mut moved = case.build(42);
        moved.inputs[input].1[at] += by;
        let y = moved.run(&mut wgpt::reference::Cpu::default()).unwrap().swap_remove(0);
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

/// Devices without half precision are given the other cases, and only those.
#[test]
fn cases_in_half_precision_are_for_devices_that_have_it() {
    let limits = Limits::portable(AdapterKind::Gpu);
    let (without, with) = (cases_for(&limits), cases_for(&Limits { f16: true, ..limits }));
    assert_eq!(with.len(), cases().len());
    let half: Vec<&str> = with.iter().filter(|case| case.is_half()).map(|case| case.name).collect();
    assert_eq!(without.len() + half.len(), with.len());
    for op in ["matmul", "layernorm", "rmsnorm", "attention", "rope", "gelu", "glu", "column_sum", "dropout", "add"] {
        assert!(half.iter().any(|name| name.starts_with(op)), "no case of {op} in half precision");
    }
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
    let mut gpu = gpu(AdapterKind::Software);
    let built = wgpt::ops::add::CASES[0].build(1);
    let plan = Plan::new(&built.graph, gpu.limits()).unwrap();
    let program = gpu.load(&built.graph, plan).unwrap();
    gpu.poison(program).unwrap();
    assert!(gpu.read_any(program, "y0").unwrap().iter().all(|v| v.is_nan()));
}
