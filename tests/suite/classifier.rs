//! The classifier of training: the gradients of the cross-entropy, however many rows of logits exist at a time.

use std::sync::Arc;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::memory::Class;
use wgpt::graph::plan::Kernel;
use wgpt::graph::{AdapterKind, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::models::blocks::Compute;
use wgpt::models::config::{Config, Dropout};
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ops::add::Add;
use wgpt::ops::add::add_in_place;
use wgpt::ops::classifier::Classifier;
use wgpt::ops::cross_entropy::CrossEntropy;
use wgpt::ops::fill::Fill;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::graph::{Optimizer, TrainingGraph};
use wgpt::train::memory::check_memory;
use wgpt::train::settings::{Choices, Settings};

fn gpu(family: AdapterKind) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

fn devices() -> Vec<Box<dyn Executor>> {
    let gpus = [AdapterKind::Gpu, AdapterKind::Software].map(|family| Box::new(gpu(family)) as Box<dyn Executor>);
    std::iter::once(Box::new(Cpu::default()) as Box<dyn Executor>).chain(gpus).collect()
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
    gradient(&mut g, loss, seed, &[wanted], &add_in_place(), false);
    let plan = Plan::new(&g, device.limits()).unwrap();
    let program = device.load(&g, plan).unwrap();
    device.write_state("logits", &(0..231).map(|i| (i as f32 * 0.7).sin() * 5.0).collect::<Vec<_>>()).unwrap();
    device.write_state("logits.grad", &[0.0; 231]).unwrap();
    device.poison(program).unwrap();
    device.write(program, "targets", bytemuck::cast_slice(&[3, 0, 32, wgpt::ops::IGNORED, 7, 7, 1])).unwrap();
    device.run(program, 0, &Step::default()).unwrap();
    device.read_state("logits.grad").unwrap()
}

#[test]
fn the_classifier_has_the_gradient_of_the_cross_entropy() {
    for mut device in devices() {
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

const BATCH: usize = 10;
const TIME: usize = 20;

/// A model of 101 tokens with dropout, one block deep; 200 rows are three chunks of 64 and a rest of 8.
fn small(preset: &str) -> Config {
    let whole = Config::preset(preset).unwrap().resized(1, 2, 32);
    let tied = preset != "llama-mini";
    Config { vocab_size: 101, context: TIME, dropout: Dropout::of(0.1), tied, ..whole }
}

/// Losses of evaluation and of training, and every gradient of two micro-batches; logits of `rows` positions at a time.
fn gradients(
    device: &mut dyn Executor,
    config: &Config,
    rows: Option<usize>,
    recompute: bool,
) -> Vec<(String, Vec<f32>)> {
    let network = Network::new(Config { initializer_range: 0.1, ..config.clone() });
    let optimizer = Optimizer { accumulate: 2, ..Optimizer::default() };
    let compute = Compute { recompute, classifier_rows: rows, ..Compute::default() };
    let training = TrainingGraph::new(std::slice::from_ref(&network), compute, &optimizer, |g, m| {
        let loss = m[0].loss(g, BATCH, TIME);
        g.output("loss", loss);
        loss
    });
    let mut evaluation = Graph::new();
    let loss = network.evaluation(compute).loss(&mut evaluation, BATCH, TIME);
    evaluation.output("loss", loss);
    let programs = [&training.graph, &evaluation].map(|graph| {
        let plan = Plan::new(graph, device.limits()).unwrap();
        let chunked = plan.kernels().any(|k| k.label.starts_with("lm_head and loss"));
        assert_eq!(chunked, rows.is_some_and(|rows| rows < BATCH * TIME));
        let program = device.load(graph, plan).unwrap();
        device.poison(program).unwrap();
        program
    });
    for parameter in network.parameters() {
        let (name, values) = (&parameter.name, initial_values(parameter, 5));
        device.write_state(name, &values).unwrap();
        device.write_state(&format!("{name}.grad"), &vec![0.0; values.len()]).unwrap();
    }
    device.write_state("step.loss_sum", &[0.0]).unwrap();
    let mut found = vec![];
    let apart = config.vocab_size as u32 / 101;
    for micro_batch in 0..2u32 {
        let ids: Vec<u32> = (0..=(BATCH * TIME) as u32).map(|i| (i * i * 7 + micro_batch * 13) % 101 * apart).collect();
        let mut targets = ids[1..].to_vec();
        targets[130..150].fill(wgpt::ops::IGNORED);
        for program in programs {
            device.write(program, "ids", bytemuck::cast_slice(&ids[..BATCH * TIME])).unwrap();
            device.write(program, "targets", bytemuck::cast_slice(&targets)).unwrap();
            device.run(program, 0, &Step { micro_batch, seed: 5, ..Step::default() }).unwrap();
            found.push(("loss".to_string(), device.read(program, "loss").unwrap()));
        }
    }
    programs.into_iter().for_each(|program| device.unload(program));
    for (name, _) in config.parameters() {
        let name = format!("{name}.grad");
        let values = device.read_state(&name).unwrap();
        found.push((name, values));
    }
    // The next network has the same names.
    device.free_states("");
    found
}

fn bits(found: &[(String, Vec<f32>)]) -> Vec<Vec<u32>> {
    found.iter().map(|(_, values)| values.iter().map(|v| v.to_bits()).collect()).collect()
}

/// The same but for rounding: by `part` of the largest of a tensor.
fn assert_alike(what: &str, got: &[(String, Vec<f32>)], want: &[(String, Vec<f32>)], part: f32) {
    for ((name, got), (_, want)) in got.iter().zip(want) {
        let largest = want.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        check_close(&format!("{what}: {name}"), got, want, part * largest + 1e-8, 0.0).unwrap();
    }
}

#[test]
fn chunks_have_the_loss_and_gradients_of_the_whole() {
    for preset in ["demo", "llama-mini", "mixtral"] {
        let config = small(preset);
        assert_eq!(config.tied, preset != "llama-mini");
        for mut device in devices() {
            let device = device.as_mut();
            let what = format!("{preset} on {}", device.description());
            let want = gradients(device, &config, None, false);
            let got = gradients(device, &config, Some(64), false);
            // Sums over 200 rows and 101 tokens in another order: some roundings of the largest term.
            assert_alike(&what, &got, &want, 1e-5);
            assert_eq!(bits(&gradients(device, &config, Some(64), false)), bits(&got), "{what}: it repeats");
            assert_eq!(bits(&gradients(device, &config, Some(1), true)), bits(&got), "{what}: 1 is rounded up to 64");
            // As many rows as there are, or more, are the whole.
            assert_eq!(bits(&gradients(device, &config, Some(200), false)), bits(&want), "{what}");
        }
    }
}

#[test]
fn chunks_beyond_one_binding_have_the_same_gradients() {
    let config = Config { vocab_size: 12001, ..small("demo").resized(1, 2, 96) };
    let want = gradients(&mut Cpu::default(), &config, None, false);
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let mut device = gpu(family);
        // Less than the table of 12001 x 96 words, and logits of 64 rows at a time where a chunk has 128.
        device.limits_mut().binding_bytes = 4 << 20;
        device.limits_mut().alignment_bytes = 256;
        let got = gradients(&mut device, &config, Some(128), false);
        assert_alike(&format!("{family:?}"), &got, &want, 2e-5);
    }
}

/// A choice of variants reaches the products within, also those of the shorter last chunk.
#[test]
fn products_of_chunks_run_as_chosen() {
    let config = Config { vocab_size: 1000, ..small("demo").resized(1, 2, 96) };
    let mut g = Graph::new();
    let seed = g.apply(Fill { value: 1.0 }, &[]);
    g.set_seed(seed);
    let compute = Compute { classifier_rows: Some(64), ..Compute::default() };
    let loss = Network::new(config).training(compute).loss(&mut g, BATCH, TIME);
    g.output("loss", loss);
    let mut limits = Limits::portable(AdapterKind::Gpu);
    let guessed = Plan::new(&g, &limits).unwrap();
    let mut choices = limits.choices.as_ref().clone();
    for (_, _, variants) in g.choosable(&limits) {
        choices.choose(&variants.class, variants.names.last().unwrap());
    }
    limits.choices = Arc::new(choices);
    let chosen = Plan::new(&g, &limits).unwrap();
    let products = |plan: &Plan| -> Vec<Kernel> {
        plan.kernels().filter(|k| k.shader.stem.starts_with("matmul") && k.label.contains("loss")).cloned().collect()
    };
    let (guessed, chosen) = (products(&guessed), products(&chosen));
    assert_eq!(guessed.len(), 4 * 3, "three for each chunk");
    for (a, b) in guessed.iter().zip(&chosen) {
        assert_ne!((a.shader, &a.constants), (b.shader, &b.constants));
    }
}

/// Settings, and the objective of GPT-2's vocabulary and context on one narrow block.
fn wide_vocabulary(choices: Choices) -> (Settings, Pretrain) {
    let settings = choices.resolve(&PresetRecipe::of(Some("gpt2")).run, |_| 1).unwrap();
    let config = Config::preset("gpt2").unwrap().resized(1, 2, 32);
    (settings, Pretrain::without_data(config, 1024))
}

#[test]
fn logits_of_a_whole_batch_never_exist() {
    let limits = Limits { buffer_bytes: 1 << 40, ..Limits::portable(AdapterKind::Gpu) };
    let one = Choices { batch: Some(4), accumulate: Some(1), ..Choices::default() };
    let (settings, objective) = wide_vocabulary(one);
    let fewer = Settings { classifier_rows: 512, ..settings.clone() };
    let logits = (4 * 1024 * 50257 * 4) as u64;
    let plan = |settings: &Settings| Blueprint::new(&objective, settings, &limits).unwrap();
    let largest = |plan: &Plan| {
        let own = plan.buffers.iter().filter(|b| b.class == Class::Temporary);
        own.map(|b| b.size_bytes).max().unwrap()
    };
    let (whole, by_rows) = (plan(&settings), plan(&fewer));
    assert_eq!((largest(whole.training_plan()), largest(by_rows.training_plan())), (logits, logits / 8));
    // Training's and evaluation's.
    let saved = whole.memory_bytes() - by_rows.memory_bytes();
    assert!(saved > 2 * (logits - logits / 8) * 9 / 10, "{saved} bytes saved of 2 x {logits}");
    // The dW of the table is added where it is kept: nothing of its size is temporary. Of steps with several micro-batches the sum of
    // both uses of the table is, so that it is added as a whole.
    let tables = |plan: &Blueprint| {
        let own = plan.training_plan().buffers.iter().filter(|b| b.class == Class::Temporary);
        own.filter(|b| b.size_bytes == 50257 * 32 * 4).count()
    };
    let several = plan(&Settings { accumulate: 2, ..fewer.clone() });
    assert_eq!((tables(&by_rows), tables(&several)), (0, 1));
}

#[test]
fn a_run_that_does_not_fit_is_told_of_fewer_rows() {
    let limits = Limits { buffer_bytes: 1 << 40, ..Limits::portable(AdapterKind::Gpu) };
    let (settings, objective) = wide_vocabulary(Choices { batch: Some(4), accumulate: Some(2), ..Choices::default() });
    let needed = Blueprint::new(&objective, &settings, &limits).unwrap().memory_bytes();
    let why = check_memory(&objective, &settings, &limits, Some(needed / 2)).err().unwrap().to_string();
    let fits = ["--batch 1 --accumulate 8 needs", ", --batch 4 --accumulate 2 --classifier-rows 512 needs"];
    assert!(fits.iter().all(|part| why.contains(part)) && !why.contains("--recompute"), "{why}");
    assert!(check_memory(&objective, &settings, &limits, Some(needed)).is_ok());
}
