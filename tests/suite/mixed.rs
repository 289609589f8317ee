//! Mixed precision: gradients beside those of f32, the loss scale on the device, memory, and who is refused.

use crate::plan::{FAMILIES, roomy};
use crate::training::{Choices, Interrupt, Setup, assert_same, bits, choices, everything, gpu, losses, parameters};
use crate::training::{repeats_and_resumes, run_setup, setup, start, steps, validate};
use std::collections::BTreeMap;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::graph::memory::Class;
use wgpt::graph::{AdapterKind, Dtype, Graph, Limits, Plan, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ops::global_norm::report;
use wgpt::ops::loss_scale::{INITIAL, LEAST};
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::RunFolder;
use wgpt::train::graph::{Optimizer, REPORT, TrainingGraph};
use wgpt::train::run::{Run, restore, run_state};
use wgpt::train::settings::{self as run, Precision};

const BATCH: usize = 3;
const TIME: usize = 24;

fn mixed(run: run::Choices) -> Setup {
    run_setup(run::Choices { precision: Some(Precision::Mixed), ..run })
}

/// A small model with the parts of a preset, whose initial values are larger than where training begins, so that attention and
/// the feed-forward parts matter.
fn small(preset: &str) -> Network {
    let whole = Config::preset(preset).unwrap();
    let sized = whole.clone().resized(2, whole.heads, 64);
    Network::new(Config { vocab_size: 101, context: TIME, initializer_range: 0.1, ..sized })
}

/// A training step's graph of a small model; the seed is 1 in f32, and the loss scale in mixed precision.
fn training(network: &Network, mixed: bool, classifier_rows: Option<usize>) -> Graph {
    let compute = Compute { mixed, classifier_rows, ..Compute::default() };
    let networks = std::slice::from_ref(network);
    TrainingGraph::new(networks, compute, &Optimizer::default(), |g, m| m[0].loss(g, BATCH, TIME)).graph
}

/// The loss, and the gradient of each parameter, after one micro-batch.
fn gradients(device: &mut dyn Executor, network: &Network, graph: &Graph) -> (f32, BTreeMap<String, Vec<f32>>) {
    let plan = Plan::new(graph, device.limits()).unwrap();
    let program = device.load(graph, plan).unwrap();
    for parameter in network.parameters() {
        device.write_state(&parameter.name, &initial_values(parameter, 3)).unwrap();
    }
    let words = |salt: u32| (0..(BATCH * TIME) as u32).map(|i| (i * 37 + salt * 11) % 101).collect::<Vec<u32>>();
    device.write(program, "ids", bytemuck::cast_slice(&words(1))).unwrap();
    device.write(program, "targets", bytemuck::cast_slice(&words(2))).unwrap();
    device.run(program, 0, &Step { seed: 5, ..Step::default() }).unwrap();
    let read = |(name, _): (String, Vec<usize>)| (name.clone(), device.read_state(&format!("{name}.grad")).unwrap());
    let gradients = network.config().parameters().into_iter().map(read).collect();
    (device.read_state("step.loss_sum").unwrap()[0], gradients)
}

fn norm(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Relative to its norm, how far a gradient may be from that of f32. Weights, activations and their gradients are each rounded
/// to 11 bits, by up to 4.9e-4, about a dozen times on the way through two blocks and back: sqrt(12) times that is 1.7e-3.
const FAR: f64 = 3e-3;

#[test]
fn gradients_are_those_of_f32_but_for_eleven_bits() {
    for preset in ["demo", "llama-mini", "gpt-mini", "mixtral"] {
        let config = small(preset);
        let (loss, wanted) = gradients(&mut Cpu::default(), &config, &training(&config, false, None));
        let devices: Vec<(&str, Box<dyn Executor>)> = vec![
            ("reference", Box::new(Cpu::default())),
            ("kernels for GPUs", Box::new(gpu(AdapterKind::Gpu))),
            ("kernels for software adapters", Box::new(gpu(AdapterKind::Software))),
        ];
        for (label, mut device) in devices {
            let (got, scaled) = gradients(device.as_mut(), &config, &training(&config, true, None));
            check_close(&format!("{preset}, {label}: loss"), &[got], &[loss], 0.0, 1e-3).unwrap();
            for (name, want) in &wanted {
                let difference = scaled[name].iter().zip(want).map(|(got, want)| got / INITIAL - want);
                let share = norm(difference) / norm(want.iter().copied());
                assert!(share < FAR, "{preset}, {label}: the gradient of {name} is off by {share:.1e} of its norm");
            }
        }
    }
}

#[test]
fn logits_in_chunks_give_the_same_gradients() {
    let config = small("demo");
    for family in FAMILIES {
        let (loss, wanted) = gradients(&mut gpu(family), &config, &training(&config, true, None));
        let (got, chunked) = gradients(&mut gpu(family), &config, &training(&config, true, Some(64)));
        check_close(&format!("{family:?}: loss"), &[got], &[loss], 0.0, 1e-6).unwrap();
        for (name, want) in &wanted {
            let largest = want.iter().fold(0.0f32, |most, g| most.max(g.abs()));
            // The same products, summed in two pieces; what differs in its last bit may round to another f16 further down.
            check_close(&format!("{family:?}: {name}"), &chunked[name], want, 1e-3 * largest, 1e-3).unwrap();
        }
    }
}

/// A weight's gradient goes from the product that makes it into the state, without a tensor and an addition between.
#[test]
fn gradients_of_weights_are_added_by_the_products_that_make_them() {
    for preset in ["demo", "llama-mini"] {
        let config = small(preset);
        let additions = |mixed: bool| {
            let g = training(&config, mixed, None);
            g.nodes().iter().filter(|n| n.label.contains("add_in_place")).count()
        };
        assert_eq!(additions(true), additions(false), "{preset}");
    }
}

#[test]
fn a_mixed_run_repeats_and_resumes_bit_for_bit() {
    let run = run::Choices { precision: Some(Precision::Mixed), ..Default::default() };
    repeats_and_resumes(Choices { run, ..choices() });
}

#[test]
fn blocks_that_are_computed_again_change_no_bit() {
    let kept = mixed(run::Choices { dropout: Some(0.1), ..Default::default() });
    let mut again = kept.clone();
    again.settings.recompute = true;
    for family in FAMILIES {
        let [mut kept, mut again] = [&kept, &again].map(|setup| setup.trainer(gpu(family)));
        assert_eq!(losses(&steps(&mut again, 5)), losses(&steps(&mut kept, 5)), "{family:?}");
        assert_same(&everything(&mut again), &everything(&mut kept));
    }
}

#[test]
fn a_mixed_run_learns_like_one_in_f32() {
    let (plain, mixed) = (setup(choices()), mixed(run::Choices::default()));
    let end = |run: &[f32]| run.iter().rev().take(10).sum::<f32>() / 10.0;
    let curve = losses(&steps(&mut plain.trainer(gpu(AdapterKind::Software)), 60));
    for family in FAMILIES {
        let mut run = mixed.trainer(gpu(family));
        let records = steps(&mut run, 60);
        assert!(records.iter().all(|r| r.loss_scale == Some(INITIAL) && r.skipped.is_none()), "{family:?}");
        let (got, want) = (end(&losses(&records)), end(&curve));
        assert!(want < curve[0] - 0.5, "the loss falls from {} to {want}", curve[0]);
        assert!((got / want - 1.0).abs() < 0.01, "{family:?}: {got} in mixed precision, {want} in f32");
        // Validation is of the same precision, on the same weights.
        let val = validate(&mut run) as f32;
        assert!((val - got).abs() < 0.3, "{family:?}: validation loss {val}, training loss {got}");
    }
}

/// A scale at which every gradient overflows is halved until none does; nothing is counted as a failure, and the run goes on,
/// also from a checkpoint in between, with the same bits.
#[test]
fn a_loss_scale_that_overflows_backs_off_on_the_device() {
    let setup = mixed(run::Choices { accumulate: Some(2), ..Default::default() });
    let absurd = |executor: &mut dyn Executor| {
        let mut words = executor.read_state(REPORT).unwrap();
        words[report::SCALE] = 2f32.powi(40);
        executor.write_state(REPORT, &words).unwrap();
    };
    for family in FAMILIES {
        let mut run = setup.trainer(gpu(family));
        absurd(run.executor());
        let before = parameters(&mut run);
        let first = steps(&mut run, 8);
        for (i, record) in first.iter().enumerate() {
            let scale = 2f32.powi(39 - i as i32);
            assert_eq!(record.loss_scale, Some(scale), "{family:?}: halved in each step");
            let why = record.skipped.as_deref().expect("the step is left out");
            assert!(why.contains("is not finite") && why.contains(&format!("loss scale is now {scale}")), "{why}");
            assert!(record.loss.is_finite() && !run.is_hopeless());
        }
        assert_same(&parameters(&mut run), &before);

        let folder = tempfile::tempdir().unwrap();
        let mut saved = start(&setup, folder.path(), run, &Interrupt::after(usize::MAX));
        saved.save().unwrap();
        let Run { trainer: mut run, folder: saved, .. } = saved;
        drop(saved);
        let rest = steps(&mut run, 32);
        let applied = rest.iter().filter(|r| r.skipped.is_none()).count();
        assert!(
            (10..32).contains(&applied),
            "{family:?}: {applied} of 32 steps are applied after the scale has fallen"
        );
        assert!(rest[0].skipped.is_some() && rest[31].skipped.is_none() && rest[31].loss < first[0].loss - 0.2);
        let words = bits(&mut run, REPORT);
        assert_eq!((words[report::UPDATES], words[report::SKIPPED_IN_A_ROW]), (applied as u32, 0), "{family:?}");

        let checkpoint = RunFolder::open(folder.path()).unwrap().latest().unwrap().unwrap();
        let state = run_state(&checkpoint).unwrap();
        assert_eq!(state.settings.precision, Precision::Mixed, "a checkpoint says what it was trained in");
        let mut resumed = setup.blank(gpu(family));
        restore(&mut resumed, &checkpoint).unwrap();
        assert_eq!(losses(&steps(&mut resumed, 32)), losses(&rest), "{family:?}");
        assert_same(&everything(&mut resumed), &everything(&mut run));
    }
}

/// At a scale of 1 there is nothing left to halve: five such steps in a row end a run, as in f32. A loss that is not finite
/// has nothing to do with the scale.
#[test]
fn overflows_that_no_smaller_scale_mends_are_counted() {
    let mut run = mixed(run::Choices::default()).trainer(gpu(AdapterKind::Software));
    let mut words = run.executor().read_state(REPORT).unwrap();
    words[report::SCALE] = LEAST;
    run.executor().write_state(REPORT, &words).unwrap();
    for step in 1..=5 {
        let mut gradient = run.executor().read_state("wpe.weight.grad").unwrap();
        gradient[3] = f32::INFINITY;
        run.executor().write_state("wpe.weight.grad", &gradient).unwrap();
        let record = steps(&mut run, 1).remove(0);
        assert_eq!(record.skipped.as_deref(), Some("the gradient of wpe.weight is not finite"));
        assert_eq!((record.loss_scale, run.is_hopeless()), (Some(LEAST), step == 5));
    }
    let mut run = mixed(run::Choices::default()).trainer(gpu(AdapterKind::Software));
    let mut weight = run.executor().read_state("h.0.mlp.c_fc.weight").unwrap();
    weight[3] = 1e6; // beyond f16
    run.executor().write_state("h.0.mlp.c_fc.weight", &weight).unwrap();
    let record = steps(&mut run, 1).remove(0);
    assert!(!record.loss.is_finite() && record.skipped.is_some());
    assert_eq!((record.loss_scale, bits(&mut run, REPORT)[report::SKIPPED_IN_A_ROW]), (Some(INITIAL), 1));
}

#[test]
fn a_loss_scale_doubles_after_steps_that_were_fine() {
    let mut run = mixed(run::Choices::default()).trainer(gpu(AdapterKind::Gpu));
    for (scale, steady, want) in [(1024.0, 1999, (2048.0, 0)), (1024.0, 7, (1024.0, 8))] {
        let mut words = run.executor().read_state(REPORT).unwrap();
        (words[report::SCALE], words[report::STEADY]) = (scale, f32::from_bits(steady));
        run.executor().write_state(REPORT, &words).unwrap();
        assert!(steps(&mut run, 1)[0].skipped.is_none(), "{scale}");
        let words = bits(&mut run, REPORT);
        assert_eq!((f32::from_bits(words[report::SCALE]), words[report::STEADY]), want);
    }
}

#[test]
fn activations_take_half_the_memory() {
    let limits = Limits { f16: true, ..roomy(AdapterKind::Gpu) };
    let temporary = |preset: &str, precision: Option<Precision>| {
        let choices = run::Choices { batch: Some(8), precision, ..Default::default() };
        let settings = choices.resolve(&PresetRecipe::of(Some(preset)).run, |_| 1).unwrap();
        let config = Config { context: 1024, ..Config::preset(preset).unwrap() };
        let blueprint = Blueprint::new(&Pretrain::without_data(config, 1024), &settings, &limits).unwrap();
        blueprint.training_plan().size_bytes(|class| *class == Class::Temporary)
    };
    for preset in ["gpt2", "smollm2-135m"] {
        let (plain, mixed) = (temporary(preset, None), temporary(preset, Some(Precision::Mixed)));
        let share = mixed as f64 / plain as f64;
        // The residual stream and the statistics stay f32, and there are the copies of the weights.
        assert!((0.5..0.65).contains(&share), "{preset}: {mixed} of {plain} bytes, {share:.2}");
    }
}

#[test]
fn a_device_without_half_precision_is_refused_with_a_reason() {
    let setup = mixed(run::Choices::default());
    let limits = Limits::portable(AdapterKind::Gpu);
    let why = setup.blueprint(&limits).err().expect("no f16, no mixed precision").to_string();
    assert!(why.contains("--precision mixed") && why.contains("f16") && why.contains("--precision f32"), "{why}");
    assert!(setup.blueprint(&Limits { f16: true, ..limits }).is_ok());
}

/// Tensors of graphs in f32 are f32: the switch is off unless it is on.
#[test]
fn half_precision_is_only_where_it_was_asked_for() {
    let half = |mixed: bool| {
        let g = training(&small("demo"), mixed, None);
        let outputs = g.nodes().iter().flat_map(|n| &n.outputs);
        outputs.filter(|shape| shape.dtype == Dtype::F16).count()
    };
    assert_eq!(half(false), 0);
    assert!(half(true) > 30);
}
