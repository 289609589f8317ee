//! Whole runs of a tiny model: the same numbers on every executor, the same bits every time, and what goes wrong.

use std::sync::{Arc, OnceLock};
use wgpt::checks::check_close;
use wgpt::data::corpora::story;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::tokens::Tokens;
use wgpt::error::{Error, Result};
use wgpt::executor::{Executor, Program};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::memory::Class;
use wgpt::graph::{Family, Graph, Limits, Plan, Step};
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::model::Model;
use wgpt::ops::add::add_in_place;
use wgpt::ops::fill::Fill;
use wgpt::ops::global_norm::report;
use wgpt::reference::Cpu;
use wgpt::train::checkpoint::{Mode, RunFolder};
use wgpt::train::graph::{Optimizer, REPORT, TrainingGraph};
use wgpt::train::log::Record;
use wgpt::train::schedule::ScheduleKind;
use wgpt::train::settings::{Choices, Settings};
use wgpt::train::trainer::{Blueprint, Trainer, trainer_state};

pub struct Story {
    pub tokenizer: Tokenizer,
    pub training: Arc<Tokens>,
    pub validation: Arc<Tokens>,
}

pub fn corpus() -> &'static Story {
    static STORY: OnceLock<Story> = OnceLock::new();
    STORY.get_or_init(|| {
        let (training, validation) = (story::training_text(1, 30_000), story::validation_text(1, 4_000));
        let tokenizer = Tokenizer::chars(&format!("{training}{validation}")).unwrap();
        let tokens = |text: &str| Arc::new(Tokens::from_ids(tokenizer.encode(text).unwrap()));
        let (training, validation) = (tokens(&training), tokens(&validation));
        Story { training, validation, tokenizer }
    })
}

pub fn gpu(family: Family) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

/// Settings of the tiny model: a constant learning rate of 1e-2, no dropout.
pub fn choices() -> Choices {
    Choices {
        layers: Some(2),
        heads: Some(2),
        width: Some(32),
        context: Some(16),
        batch: Some(4),
        accumulate: Some(1),
        steps: Some(100),
        lr: Some(1e-2),
        warmup: Some(0),
        schedule: Some(ScheduleKind::Constant),
        eval_batches: Some(2),
        init_std: Some(0.02),
        ..Choices::default()
    }
}

pub fn settings(choices: Choices) -> Settings {
    choices.resolve(None).unwrap()
}

pub fn config(settings: &Settings) -> Config {
    settings.config(corpus().tokenizer.vocabulary_size()).unwrap()
}

/// A trainer whose parameters are not set yet.
pub fn blank(executor: impl Executor + 'static, settings: &Settings) -> Trainer {
    let config = config(settings);
    let blueprint = Blueprint::new(&config, settings, executor.limits()).unwrap();
    let data = (corpus().training.clone(), corpus().validation.clone());
    Trainer::new(Box::new(executor), blueprint, config, settings.clone(), data).unwrap()
}

pub fn trainer(executor: impl Executor + 'static, settings: &Settings) -> Trainer {
    let mut trainer = blank(executor, settings);
    trainer.initialise().unwrap();
    trainer
}

/// Takes `count` steps and returns their records.
pub fn steps(trainer: &mut Trainer, count: usize) -> Vec<Record> {
    let mut records = vec![];
    for _ in 0..count {
        records.extend(trainer.step().unwrap());
    }
    records.extend(trainer.finish().unwrap());
    assert_eq!(records.len(), count, "a record for every step");
    records
}

pub fn losses(records: &[Record]) -> Vec<f32> {
    records.iter().map(|r| r.loss).collect()
}

/// Bits of all parameters by name.
pub fn parameters(trainer: &mut Trainer) -> Vec<(String, Vec<u32>)> {
    let names: Vec<String> = trainer.config().parameters().into_iter().map(|(name, _)| name).collect();
    names.into_iter().map(|name| (bits(trainer, &name), name)).map(|(bits, name)| (name, bits)).collect()
}

/// Bits of all parameters, both moments, gradients and the report.
pub fn everything(trainer: &mut Trainer) -> Vec<(String, Vec<u32>)> {
    let mut all = parameters(trainer);
    let names: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
    let suffixes = [".exp_avg", ".exp_avg_sq", ".grad"];
    let states = names.iter().flat_map(|name| suffixes.map(|suffix| format!("{name}{suffix}")));
    for name in states.chain([REPORT.into()]) {
        all.push((name.clone(), bits(trainer, &name)));
    }
    all
}

pub fn bits(trainer: &mut Trainer, state: &str) -> Vec<u32> {
    trainer.executor().read_state(state).unwrap().into_iter().map(f32::to_bits).collect()
}

#[track_caller]
pub fn assert_same(a: &[(String, Vec<u32>)], b: &[(String, Vec<u32>)]) {
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(b) {
        assert_eq!(name, other);
        let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(a.len() == b.len() && differing == 0, "{name} differs in {differing} of {} values", a.len());
    }
}

#[test]
fn every_executor_has_the_same_loss_curve() {
    // Dropout's masks are the same everywhere, too.
    let settings = settings(Choices { dropout: Some(0.1), accumulate: Some(2), ..choices() });
    let reference = steps(&mut trainer(Cpu::default(), &settings), 10);
    let curve = losses(&reference);
    assert!(curve[0] > curve[9] + 0.3, "the curve falls, so that updates matter: {curve:?}");
    for family in [Family::Gpu, Family::Software] {
        let records = steps(&mut trainer(gpu(family), &settings), 10);
        // Losses near 3 round by 2e-7; AdamW turns the rounding of small gradients into steps of up to the learning rate,
        // but only where the loss hardly depends on them.
        check_close(&format!("{family:?}: losses"), &losses(&records), &curve, 0.0, 2e-5).unwrap();
        let norms = |records: &[Record]| records.iter().map(|r| r.grad_norm).collect::<Vec<_>>();
        check_close(&format!("{family:?}: norms"), &norms(&records), &norms(&reference), 0.0, 5e-4).unwrap();
    }
}

#[test]
fn a_run_repeats_and_resumes_bit_for_bit() {
    repeats_and_resumes(choices());
}

#[test]
fn a_run_with_experts_repeats_and_resumes_bit_for_bit() {
    repeats_and_resumes(Choices { preset: Some("mixtral".into()), experts: Some(5), ..choices() });
}

#[test]
fn a_run_with_few_rows_of_logits_at_a_time_repeats_and_resumes_bit_for_bit() {
    repeats_and_resumes(Choices { batch: Some(12), classifier_rows: Some(64), ..choices() });
}

/// The second run is interrupted by a save, the third goes on from that: all end with the same bits.
pub fn repeats_and_resumes(choices: Choices) {
    let settings = settings(Choices {
        dropout: Some(0.1),
        accumulate: Some(2),
        warmup: Some(3),
        schedule: Some(ScheduleKind::Cosine),
        steps: Some(12),
        ..choices
    });
    for family in [Family::Gpu, Family::Software] {
        let mut whole = trainer(gpu(family), &settings);
        let whole_losses = losses(&steps(&mut whole, 10));
        let want = everything(&mut whole);

        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path(), Mode::Fresh).unwrap();
        let mut saving = trainer(gpu(family), &settings);
        let first = losses(&steps(&mut saving, 5));
        saving.save(&run, corpus().tokenizer.json(), Some("stories"), None).unwrap();
        let second = losses(&steps(&mut saving, 5));
        assert_eq!([first, second.clone()].concat(), whole_losses, "{family:?}");
        assert_same(&everything(&mut saving), &want);
        drop(run);

        let run = RunFolder::open(folder.path()).unwrap();
        let checkpoint = run.latest().unwrap().unwrap();
        let state = trainer_state(&checkpoint).unwrap();
        assert_eq!((state.step, state.batch_position, &state.settings), (5, 10, &settings));
        assert_eq!(state.data.as_deref(), Some("stories"));
        let mut resumed = blank(gpu(family), &state.settings);
        resumed.restore(&checkpoint, &state).unwrap();
        assert_eq!(losses(&steps(&mut resumed, 5)), second, "{family:?}");
        assert_eq!(resumed.steps_done(), 10);
        assert_same(&everything(&mut resumed), &want);
    }
    // Another seed is another run.
    let mut other = trainer(Cpu::default(), &Settings { seed: 7, ..settings.clone() });
    let mut same = trainer(Cpu::default(), &settings);
    assert_ne!(parameters(&mut other), parameters(&mut same));
}

#[test]
fn the_load_of_experts_is_counted_between_two_looks_at_it() {
    let choices = Choices { preset: Some("mixtral".into()), accumulate: Some(2), ..choices() };
    let settings = settings(choices);
    let mut trainer = trainer(gpu(Family::Software), &settings);
    for _ in 0..2 {
        let records = steps(&mut trainer, 3);
        assert!(records.iter().all(|r| r.expert_load.is_none()), "only at validations");
        let load = trainer.expert_load().unwrap().unwrap();
        assert_eq!(load.len(), settings.layers);
        for layer in load {
            assert_eq!(layer.len(), 8);
            let choices: f32 = layer.iter().sum();
            assert!((choices - 8.0).abs() < 1e-5, "shares of all choices, even is 1 each: {layer:?}");
            let even = (2 * settings.batch * settings.context * settings.accumulate * 3) as f32 / 8.0;
            for share in &layer {
                let counted = share * even;
                assert!((counted - counted.round()).abs() < 1e-2 && *share <= 4.0, "whole choices: {layer:?}");
            }
            assert!(layer.iter().any(|share| *share != 1.0), "{layer:?}");
        }
    }
    // A model without experts has none.
    let mut plain = self::trainer(gpu(Family::Software), &self::settings(self::choices()));
    steps(&mut plain, 1);
    assert!(plain.expert_load().unwrap().is_none());
}

/// The loss of a model that knows how often each character comes, and nothing else.
fn letter_entropy() -> f32 {
    let mut ids = vec![0; corpus().training.len() as usize];
    corpus().training.read(0, &mut ids).unwrap();
    let mut counts = vec![0.0f32; corpus().tokenizer.vocabulary_size()];
    ids.iter().for_each(|id| counts[*id as usize] += 1.0);
    let shares = counts.into_iter().filter(|n| *n > 0.0).map(|n| n / ids.len() as f32);
    shares.map(|p| -p * p.ln()).sum()
}

#[test]
fn training_learns_and_allocates_nothing_after_the_first_step() {
    let settings = settings(Choices { batch: Some(8), lr: Some(5e-3), ..choices() });
    let gpu = Gpu::open("auto").unwrap();
    let memory_bytes = Blueprint::new(&config(&settings), &settings, gpu.limits()).unwrap().memory_bytes();
    let mut trainer = trainer(gpu, &settings);
    assert_eq!(trainer.executor().allocated_bytes(), memory_bytes, "what the plans say is what is allocated");
    let before = trainer.validate().unwrap();
    let uniform = (config(&settings).vocab_size as f32).ln();
    assert!((before - uniform).abs() < 0.1, "an untrained model knows nothing: {before} for ln V = {uniform}");
    let first = steps(&mut trainer, 1);
    let created = trainer.executor().created();
    assert!(created.0 > 40 && created.1 > 20, "{created:?}");
    let records = steps(&mut trainer, 20);
    assert_eq!(trainer.executor().created(), created, "buffers and pipelines made while training");
    assert_eq!(trainer.validate().unwrap(), trainer.validate().unwrap());
    let more = steps(&mut trainer, 39);
    assert_eq!(trainer.executor().created(), created);
    assert_eq!(trainer.executor().allocated_bytes(), memory_bytes);
    let numbers: Vec<u64> = first.iter().chain(&records).chain(&more).map(|r| r.step).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<u64>>());
    assert!(more.iter().all(|r| r.memory_bytes == memory_bytes && r.skipped.is_none() && r.lr == 5e-3));
    let after = trainer.validate().unwrap();
    let letters = letter_entropy();
    assert!(
        after < letters - 0.2,
        "60 steps bring {before} to {after}; the frequency of letters alone gives {letters}"
    );
    let last = more.iter().rev().take(5).map(|r| r.loss).sum::<f32>() / 5.0;
    assert!((last - after).abs() < 0.3, "the training loss is {last}, held out {after}");
}

/// A training graph without a trainer: program, and windows of the corpus from `first` on.
struct Manual {
    program: Program,
    batch: usize,
    context: usize,
}

impl Manual {
    fn new(device: &mut dyn Executor, config: &Config, batch: usize, optimizer: &Optimizer) -> Manual {
        let context = config.context;
        let t = TrainingGraph::new(&config.parameters(), optimizer, |g| {
            Model { config, training: true, mixed: false }.loss(g, batch, context)
        });
        let plan = Plan::new(&t.graph, device.limits()).unwrap();
        let program = device.load(&t.graph, plan).unwrap();
        Manual { program, batch, context }
    }

    /// Writes the `batch` windows that follow the first `first` windows.
    fn windows(&self, device: &mut dyn Executor, first: usize) -> Result<()> {
        let (size, mut ids) = (self.batch * self.context, vec![0; self.batch * self.context + 1]);
        corpus().training.read((first * self.context) as u64, &mut ids)?;
        device.write(self.program, "ids", bytemuck::cast_slice(&ids[..size]))?;
        device.write(self.program, "targets", bytemuck::cast_slice(&ids[1..]))
    }
}

fn write_initial(device: &mut dyn Executor, config: &Config) {
    for (name, dims) in config.parameters() {
        device.write_state(&name, &initial_values(config, &name, dims.iter().product(), 0.02, 3)).unwrap();
    }
}

#[test]
fn two_micro_batches_are_one_batch_of_twice_the_size() {
    let config = config(&settings(choices()));
    let optimizer = |accumulate| Optimizer { accumulate, ..settings(choices()).optimizer() };
    let devices: Vec<Box<dyn Executor>> =
        vec![Box::new(Cpu::default()), Box::new(gpu(Family::Gpu)), Box::new(gpu(Family::Software))];
    for mut device in devices {
        let device = device.as_mut();
        let (halves, whole) =
            (Manual::new(device, &config, 3, &optimizer(2)), Manual::new(device, &config, 6, &optimizer(1)));
        write_initial(device, &config);
        let gradients = |device: &mut dyn Executor| {
            let read = |(name, _): &(String, _)| device.read_state(&format!("{name}.grad")).unwrap();
            config.parameters().iter().map(read).collect::<Vec<_>>()
        };
        let step = Step { learning_rate: 0.0, ..Step::default() };
        let mut measured = vec![];
        for (manual, firsts) in [(&halves, vec![0, 3]), (&whole, vec![0])] {
            for first in firsts {
                manual.windows(device, first).unwrap();
                device.run(manual.program, 0, &step).unwrap();
            }
            let sums = gradients(device);
            device.run(manual.program, 1, &step).unwrap();
            assert!(gradients(device).iter().flatten().all(|g| *g == 0.0), "an update leaves gradients at zero");
            measured.push((sums, device.read_state(REPORT).unwrap()));
        }
        for (((name, _), halves), whole) in config.parameters().iter().zip(&measured[0].0).zip(&measured[1].0) {
            let largest = whole.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            // Sums of 96 terms in another order: about ten roundings of the largest.
            check_close(&format!("{}: {name}", device.description()), halves, whole, 1e-6 * largest + 1e-9, 1e-5)
                .unwrap();
            assert!(largest > 1e-6, "{name} has a gradient");
        }
        for word in [report::LOSS, report::NORM] {
            check_close("report", &[measured[0].1[word]], &[measured[1].1[word]], 0.0, 2e-6).unwrap();
        }
    }
}

#[test]
fn a_step_that_is_not_finite_is_skipped_and_named() {
    const POISONED: &str = "h.1.mlp.c_fc.weight";
    let settings = settings(choices());
    for family in [Family::Gpu, Family::Software] {
        let mut trainer = trainer(gpu(family), &settings);
        assert!(steps(&mut trainer, 2).iter().all(|r| r.skipped.is_none()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let fine = trainer.executor().read_state(POISONED).unwrap();
            let before = everything(&mut trainer);
            let mut values = fine.clone();
            values[5] = bad;
            trainer.executor().write_state(POISONED, &values).unwrap();
            let poisoned = bits(&mut trainer, POISONED);
            let records = steps(&mut trainer, 1);
            let why = records[0].skipped.as_deref().expect("a bad step is skipped");
            assert!(why.contains("is not finite") && why.contains("weight"), "{family:?}, {bad}: {why}");
            assert!(!records[0].loss.is_finite(), "{family:?}, {bad}: the loss is {}", records[0].loss);
            // Nothing has changed: not the parameters, not the moments, not the count of updates; gradients are zero.
            let mut after = everything(&mut trainer);
            let (old, new) = (before.last().unwrap().1.clone(), after.last().unwrap().1.clone());
            assert_eq!(old[report::UPDATES], new[report::UPDATES], "{family:?}, {bad}");
            assert_eq!(new[report::SKIPPED_IN_A_ROW], 1);
            for (name, bits) in &mut after {
                if *name == POISONED {
                    assert_eq!(*bits, poisoned);
                    *bits = fine.iter().map(|v| v.to_bits()).collect();
                }
            }
            assert_same(&after[..after.len() - 1], &before[..before.len() - 1]);
            trainer.executor().write_state(POISONED, &fine).unwrap();
            let records = steps(&mut trainer, 1);
            assert!(records[0].skipped.is_none() && records[0].loss.is_finite(), "{family:?}: {records:?}");
            let report = bits(&mut trainer, REPORT);
            assert_eq!(report[report::UPDATES], old[report::UPDATES] + 1);
            assert_eq!(report[report::SKIPPED_IN_A_ROW], 0);
        }
    }
}

#[test]
fn the_tensor_whose_gradient_is_not_finite_is_named() {
    let settings = settings(choices());
    let devices: Vec<(&str, Trainer)> = vec![
        ("reference", trainer(Cpu::default(), &settings)),
        ("kernels for GPUs", trainer(gpu(Family::Gpu), &settings)),
        ("kernels for software adapters", trainer(gpu(Family::Software), &settings)),
    ];
    for (label, mut trainer) in devices {
        steps(&mut trainer, 1);
        for name in ["wte.weight", "wpe.weight", "h.0.attn.c_attn.bias", "h.1.mlp.c_proj.weight", "ln_f.bias"] {
            for bad in [f32::NAN, f32::INFINITY] {
                let before = parameters(&mut trainer);
                let mut gradient = trainer.executor().read_state(&format!("{name}.grad")).unwrap();
                *gradient.last_mut().unwrap() = bad;
                trainer.executor().write_state(&format!("{name}.grad"), &gradient).unwrap();
                let records = steps(&mut trainer, 1);
                let want = format!("the gradient of {name} is not finite");
                assert_eq!(records[0].skipped.as_deref(), Some(want.as_str()), "{label}, {bad}");
                assert!(records[0].loss.is_finite(), "the loss itself is fine");
                assert_same(&parameters(&mut trainer), &before);
            }
            // The bad gradient went with its step.
            assert!(steps(&mut trainer, 1)[0].skipped.is_none(), "{label}");
        }
        // A finite gradient whose square is not: the norm overflows, and the step is left out as well.
        let mut gradient = trainer.executor().read_state("wpe.weight.grad").unwrap();
        gradient[0] = 1e25;
        trainer.executor().write_state("wpe.weight.grad", &gradient).unwrap();
        let skipped = steps(&mut trainer, 1)[0].skipped.clone();
        // The reference sums in f64, but the partial sum is f32 there as well.
        assert_eq!(skipped.as_deref(), Some("the gradient of wpe.weight is not finite"), "{label}");
        // Squares that are finite by themselves, and not together with those of the tensor before it.
        for (name, value) in [("h.0.ln_1.weight", 1.7e19), ("h.0.ln_1.bias", 1.8e19)] {
            let mut gradient = trainer.executor().read_state(&format!("{name}.grad")).unwrap();
            gradient[7] = value;
            trainer.executor().write_state(&format!("{name}.grad"), &gradient).unwrap();
        }
        let skipped = steps(&mut trainer, 1)[0].skipped.clone();
        assert_eq!(skipped.as_deref(), Some("the gradient of h.0.ln_1.bias is not finite"), "{label}");
    }
}

#[test]
fn five_bad_steps_in_a_row_are_hopeless_and_four_are_not() {
    let mut trainer = trainer(Gpu::open("auto").unwrap(), &settings(choices()));
    let fine = trainer.executor().read_state("ln_f.weight").unwrap();
    let bad = vec![f32::NAN; fine.len()];
    steps(&mut trainer, 1);
    for round in 0..2 {
        trainer.executor().write_state("ln_f.weight", &bad).unwrap();
        steps(&mut trainer, 4);
        assert!(!trainer.is_hopeless(), "round {round}");
        trainer.executor().write_state("ln_f.weight", &fine).unwrap();
        steps(&mut trainer, 1);
        assert!(!trainer.is_hopeless());
    }
    trainer.executor().write_state("ln_f.weight", &bad).unwrap();
    let records = steps(&mut trainer, 5);
    assert!(records.iter().all(|r| r.skipped.is_some()) && trainer.is_hopeless());
}

#[test]
fn a_lost_device_is_an_error_from_every_call() {
    let config = config(&settings(choices()));
    let mut gpu = Gpu::open("auto").unwrap();
    let manual = Manual::new(&mut gpu, &config, 2, &settings(choices()).optimizer());
    write_initial(&mut gpu, &config);
    manual.windows(&mut gpu, 0).unwrap();
    gpu.run(manual.program, 0, &Step::default()).unwrap();
    gpu.run(manual.program, 1, &Step::default()).unwrap();
    gpu.post(REPORT, 1).unwrap();
    gpu.destroy();
    let lost = |what: &str, result: Result<()>| match result {
        Err(error @ Error::DeviceLost(_)) => {
            let message = error.to_string();
            assert_eq!(error.exit_code(), 1);
            assert!(message.contains("--resume") && !message.contains('\n'), "{message}");
        }
        other => panic!("{what} after the device was lost gives {other:?}"),
    };
    // The step that is under way when it happens: a call that does not wait may not know yet, collecting does.
    let mut under_way = || {
        manual.windows(&mut gpu, 1)?;
        gpu.run(manual.program, 0, &Step::default())?;
        gpu.run(manual.program, 1, &Step::default())?;
        gpu.post(REPORT, 2)?;
        gpu.collect(true).map(|_| ())
    };
    lost("a step", under_way());
    lost("write", manual.windows(&mut gpu, 1));
    lost("run", gpu.run(manual.program, 0, &Step::default()));
    lost("post", gpu.post(REPORT, 3));
    lost("collect", gpu.collect(true).map(|_| ()));
    lost("write_state", gpu.write_state("ln_f.bias", &[0.0; 32]));
    lost("read_state", gpu.read_state("ln_f.bias").map(|_| ()));
    lost("poison", gpu.poison(manual.program));
    let mut g = Graph::new();
    g.state("another", &[4]);
    let plan = Plan::new(&g, gpu.limits()).unwrap();
    lost("load", gpu.load(&g, plan).map(|_| ()));
    gpu.unload(manual.program);
}

#[test]
fn a_norm_below_the_limit_is_left_alone_to_the_bit() {
    let run = |family, clip| {
        let mut trainer = trainer(gpu(family), &settings(Choices { clip: Some(clip), ..choices() }));
        let norm = steps(&mut trainer, 3)[2].grad_norm;
        let factor = f32::from_bits(bits(&mut trainer, REPORT)[report::CLIP]);
        (factor, norm, parameters(&mut trainer))
    };
    for family in [Family::Gpu, Family::Software] {
        let (off, _, unclipped) = run(family, 0.0);
        let (huge, _, same) = run(family, 1e9);
        assert_eq!((off, huge), (1.0, 1.0), "{family:?}");
        assert_same(&same, &unclipped);
        let (small, norm, clipped) = run(family, 0.125);
        check_close("clip factor", &[small], &[0.125 / norm], 0.0, 1e-5).unwrap();
        assert!(small < 1.0 && norm > 0.125 && clipped != unclipped, "{family:?}: {small}");
    }
}

#[test]
fn dropout_is_for_training_only() {
    let run = |dropout| {
        let mut trainer = trainer(gpu(Family::Software), &settings(Choices { dropout: Some(dropout), ..choices() }));
        let before = (trainer.validate().unwrap(), trainer.validate().unwrap());
        assert_eq!(before.0.to_bits(), before.1.to_bits(), "evaluation is the same every time");
        let loss = steps(&mut trainer, 1)[0].loss;
        let after = (trainer.validate().unwrap(), trainer.validate().unwrap());
        assert_eq!(after.0.to_bits(), after.1.to_bits());
        assert_ne!(before.0, after.0, "a step changes the model");
        (before.0, loss)
    };
    let (plain, dropped) = (run(0.0), run(0.3));
    assert_eq!(plain.0, dropped.0, "the same model evaluates the same");
    assert!((plain.1 - dropped.1).abs() > 1e-4, "dropout changes the training loss: {} {}", plain.1, dropped.1);
}

/// Ops that have an activation for an operand.
const ACTIVATION_OPS: [&str; 11] = [
    "add",
    "attention",
    "attention_backward",
    "classifier",
    "column_sum",
    "dropout",
    "embedding",
    "gelu_backward",
    "layernorm",
    "layernorm_backward",
    "matmul",
];

/// Limits of a device that binds so little at a time that tensors are worked on in pieces.
fn small_bindings(limits: &mut Limits, binding_bytes: u64) {
    limits.binding_bytes = binding_bytes;
    limits.alignment_bytes = 256;
}

/// Kernels of a plan that belong to ops of this name.
fn count(plan: &Plan, op: &str) -> usize {
    plan.kernels().filter(|k| k.label == op || k.label.ends_with(&format!(": {op}"))).count()
}

#[test]
fn activations_beyond_one_binding_train_alike() {
    // 640 rows: not even those of 32 columns fit 64 KiB.
    let settings = settings(Choices { layers: Some(1), batch: Some(40), dropout: Some(0.1), ..choices() });
    let whole = losses(&steps(&mut trainer(Gpu::open("auto").unwrap(), &settings), 3));
    let mut small = Gpu::open("auto").unwrap();
    let plan = |limits: &Limits| Blueprint::new(&config(&settings), &settings, limits).unwrap().training_plan().clone();
    let before = plan(small.limits());
    small_bindings(small.limits_mut(), 64 << 10);
    let after = plan(small.limits());
    for op in ACTIVATION_OPS {
        assert!(count(&after, op) > count(&before, op), "{op} works in one piece");
    }
    let pieces = losses(&steps(&mut trainer(small, &settings), 3));
    // Only sums over rows are taken in another order.
    check_close("losses", &pieces, &whole, 0.0, 1e-5).unwrap();
}

#[test]
fn tables_and_weights_beyond_one_binding_have_the_same_gradients() {
    // A table of 300 x 96 and weights of 96 x 384 beyond 96 KiB, 288 rows of logits and of activations as well.
    let mut config = Config::new(300, 16, 1, 2, 96);
    config.dropout.attention = 0.1;
    config.dropout.residual = 0.1;
    let batch = 18;
    let mut g = Graph::new();
    let seed = g.apply(Fill { value: 1.0 }, &[]);
    g.set_seed(seed);
    let loss = Model { config: &config, training: true, mixed: false }.loss(&mut g, batch, 16);
    g.output("loss", loss);
    let mut wanted = vec![];
    for (name, dims) in config.parameters() {
        wanted.push((g.state(&name, &dims), g.state(&format!("{name}.grad"), &dims)));
    }
    gradient(&mut g, loss, seed, &wanted, &add_in_place());
    let mut tokens = vec![0; batch * 16 + 1];
    corpus().training.read(0, &mut tokens).unwrap();
    // Spread over the table, so that both of its pieces are used.
    tokens.iter_mut().enumerate().for_each(|(i, id)| *id = (*id * 7 + i as u32 % 2 * 150) % 300);
    let run = |device: &mut dyn Executor, plan: Plan| {
        let program = device.load(&g, plan).unwrap();
        write_initial(device, &config);
        device.poison(program).unwrap();
        device.write(program, "ids", bytemuck::cast_slice(&tokens[..batch * 16])).unwrap();
        device.write(program, "targets", bytemuck::cast_slice(&tokens[1..])).unwrap();
        device.run(program, 0, &Step { micro_batch: 3, seed: 5, ..Step::default() }).unwrap();
        let read = |(name, _): &(String, _)| device.read_state(&format!("{name}.grad")).unwrap();
        let gradients: Vec<_> = config.parameters().iter().map(read).collect();
        (device.read(program, "loss").unwrap(), gradients)
    };
    let mut reference = Cpu::default();
    let whole = Plan::new(&g, reference.limits()).unwrap();
    let (loss, gradients) = run(&mut reference, whole.clone());
    for family in [Family::Gpu, Family::Software] {
        let mut small = gpu(family);
        small_bindings(small.limits_mut(), 96 << 10);
        let pieces = Plan::new(&g, small.limits()).unwrap();
        for op in ACTIVATION_OPS {
            assert!(count(&pieces, op) > count(&whole, op), "{op} works in one piece");
        }
        // Two pieces of the table for each of two pieces of the rows.
        assert_eq!((count(&whole, "embedding"), count(&pieces, "embedding")), (1, 4));
        let (piece_loss, piece_gradients) = run(&mut small, pieces);
        check_close(&format!("{family:?}: loss"), &piece_loss, &loss, 0.0, 1e-6).unwrap();
        for (((name, _), got), want) in config.parameters().iter().zip(&piece_gradients).zip(&gradients) {
            if name.ends_with("c_attn.bias") {
                continue; // the keys' part is rounding noise around 0
            }
            let largest = want.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            // Products over K and sums over rows in pieces: a few roundings of the largest term.
            check_close(&format!("{family:?}: {name}"), got, want, 4e-6 * largest + 1e-9, 1e-5).unwrap();
        }
    }
}

#[test]
fn what_is_computed_again_changes_no_bit_and_needs_less_memory() {
    for preset in ["demo", "llama-mini", "mixtral"] {
        let settings = |recompute| {
            let kept = Choices { layers: Some(4), batch: Some(16), dropout: Some(0.1), ..choices() };
            settings(Choices { preset: Some(preset.into()), recompute: Some(recompute), accumulate: Some(2), ..kept })
        };
        for family in [Family::Gpu, Family::Software] {
            let (mut kept, mut again) = (trainer(gpu(family), &settings(false)), trainer(gpu(family), &settings(true)));
            let records = steps(&mut kept, 3);
            assert_eq!(losses(&records), losses(&steps(&mut again, 3)), "{preset}");
            assert_same(&everything(&mut kept), &everything(&mut again));
        }
        let limits = Limits::portable(Family::Gpu);
        let temporary = |recompute| {
            let settings = settings(recompute);
            let blueprint = Blueprint::new(&config(&settings), &settings, &limits).unwrap();
            let plan = blueprint.training_plan();
            let again = plan.kernels().filter(|k| k.label.starts_with("again: ")).count();
            assert_eq!(again > 0, recompute);
            // The last projection of a block and the addition after it are not needed: nothing computes them again.
            let last = |k: &&wgpt::graph::plan::Kernel| k.label.starts_with("again: ") && k.label.ends_with("mlp: add");
            assert_eq!(plan.kernels().filter(last).count(), 0);
            plan.size_bytes(|class| *class == Class::Temporary)
        };
        let (kept, again) = (temporary(false), temporary(true));
        assert!(again * 3 < kept * 2, "{preset}: {again} bytes of temporaries, where {kept} are kept");
    }
}
