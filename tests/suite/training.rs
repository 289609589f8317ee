//! Whole runs of a tiny model: the same numbers on every executor, the same bits every time, and failures.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use wgpt::checks::check_close;
use wgpt::data::corpora::story;
use wgpt::data::corpus::Corpus;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::data::tokens::Tokens;
use wgpt::error::{Error, Result};
use wgpt::executor::{Executor, Program};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::memory::Class;
use wgpt::graph::{AdapterKind, Graph, Limits, Plan, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ops::add::add_in_place;
use wgpt::ops::fill::Fill;
use wgpt::ops::global_norm::report;
use wgpt::reference::Cpu;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::{Mode, RunFolder};
use wgpt::train::graph::{Optimizer, REPORT, TrainingGraph};
use wgpt::train::record::Record;
use wgpt::train::run::{End, Run, RunState, restore, run_state};
use wgpt::train::schedule::ScheduleKind;
use wgpt::train::settings::{self as run, Cadence, Settings, merged};
use wgpt::train::sinks::Sink;
use wgpt::train::trainer::Trainer;

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

pub fn gpu(family: AdapterKind) -> Gpu {
    Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap()
}

/// Choices of the tiny model and of its run.
#[derive(Clone, Default)]
pub struct Choices {
    pub preset: Option<String>,
    pub layers: Option<usize>,
    pub heads: Option<usize>,
    pub width: Option<usize>,
    pub context: Option<usize>,
    pub experts: Option<usize>,
    pub init_std: Option<f32>,
    pub run: run::Choices,
}

/// The tiny model: a constant learning rate of 1e-2, no dropout.
pub fn choices() -> Choices {
    Choices {
        layers: Some(2),
        heads: Some(2),
        width: Some(32),
        context: Some(16),
        init_std: Some(0.02),
        ..Choices::default()
    }
}

/// How the tiny model is trained.
pub fn run_choices() -> run::Choices {
    run::Choices {
        batch: Some(4),
        accumulate: Some(1),
        steps: Some(100),
        lr: Some(1e-2),
        warmup: Some(0),
        schedule: Some(ScheduleKind::Constant),
        eval_batches: Some(2),
        ..run::Choices::default()
    }
}

/// A model and how it is trained.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub settings: Settings,
}

pub fn setup(choices: Choices) -> Setup {
    let Choices { preset, layers, heads, width, context, experts, init_std, run } = choices;
    let tokenizer = None;
    let kept =
        ModelChoices { preset, layers, heads, width, context, experts, init_std, tokenizer, ..Default::default() };
    let settings = merged(&run, &run_choices()).resolve(&PresetRecipe::of(Some("demo")).run, |_| 1).unwrap();
    let config = kept.config(corpus().tokenizer.vocabulary_size(), 0.02).unwrap();
    Setup { config: Config { dropout: settings.dropout(), ..config }, settings }
}

/// The tiny model with other choices of its run.
pub fn run_setup(run: run::Choices) -> Setup {
    setup(Choices { run, ..choices() })
}

impl Setup {
    /// The objective of pretraining on the stories.
    pub fn objective(&self) -> Pretrain {
        let (training, validation) = (corpus().training.clone(), corpus().validation.clone());
        let vocabulary_size = corpus().tokenizer.vocabulary_size();
        let corpus = Corpus { training, validation, vocabulary_size, notes: vec![], warnings: vec![] };
        Pretrain::new(self.config.clone(), self.config.context, corpus, None)
    }

    pub fn blueprint(&self, limits: &Limits) -> Result<Blueprint> {
        Blueprint::new(&Pretrain::without_data(self.config.clone(), self.config.context), &self.settings, limits)
    }

    /// A trainer whose parameters are not set yet.
    pub fn blank(&self, executor: impl Executor + 'static) -> Trainer {
        let objective = Box::new(self.objective());
        let blueprint = Blueprint::new(objective.as_ref(), &self.settings, executor.limits()).unwrap();
        Trainer::new(Box::new(executor), blueprint, objective, self.settings.clone()).unwrap()
    }

    pub fn trainer(&self, executor: impl Executor + 'static) -> Trainer {
        let mut trainer = self.blank(executor);
        trainer.initialise(None).unwrap();
        trainer
    }
}

/// The loss on validation data.
pub fn validate(trainer: &mut Trainer) -> f64 {
    trainer.evaluate().unwrap().unwrap().loss
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
    let names: Vec<String> = trainer.parameters().iter().map(|p| p.name.clone()).collect();
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
    let setup = run_setup(run::Choices { dropout: Some(0.1), accumulate: Some(2), ..Default::default() });
    let reference = steps(&mut setup.trainer(Cpu::default()), 10);
    let curve = losses(&reference);
    assert!(curve[0] > curve[9] + 0.3, "the curve falls, so that updates matter: {curve:?}");
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let records = steps(&mut setup.trainer(gpu(family)), 10);
        // Losses near 3 round by 2e-7; AdamW turns the rounding of small gradients into steps of up to the learning rate,
        // but only where the loss hardly depends on them.
        check_close(&format!("{family:?}: losses"), &losses(&records), &curve, 0.0, 2e-5).unwrap();
        let norms = |records: &[Record]| records.iter().map(|r| r.grad_norm).collect::<Vec<_>>();
        check_close(&format!("{family:?}: norms"), &norms(&records), &norms(&reference), 0.0, 5e-4).unwrap();
    }
}

#[test]
fn a_run_repeats_and_resumes_bit_for_bit() {
    // With steps of one micro-batch, and then of two; and a decay that ends before the run.
    let run = run::Choices { batch_warmup: Some(4), decay_steps: Some(8), ..Default::default() };
    repeats_and_resumes(Choices { run, ..choices() });
}

/// Everything is halved and doubled again, which is exact.
#[test]
fn a_step_of_one_micro_batch_is_the_same_on_the_way_to_two() {
    let run = |accumulate, batch_warmup| run::Choices {
        accumulate: Some(accumulate),
        batch_warmup: Some(batch_warmup),
        steps: Some(4),
        ..Default::default()
    };
    let mut one = run_setup(run(1, 0)).trainer(Cpu::default());
    let mut growing = run_setup(run(2, 3)).trainer(Cpu::default());
    let (before, after) = (steps(&mut one, 3), steps(&mut growing, 3));
    assert_eq!(losses(&before), losses(&after));
    assert_eq!(
        before.iter().map(|r| r.grad_norm).collect::<Vec<_>>(),
        after.iter().map(|r| r.grad_norm).collect::<Vec<_>>()
    );
    assert_eq!(parameters(&mut one), parameters(&mut growing));
    assert_ne!(losses(&steps(&mut one, 1)), losses(&steps(&mut growing, 1)), "the fourth has two");
}

#[test]
fn a_run_with_experts_repeats_and_resumes_bit_for_bit() {
    repeats_and_resumes(Choices { preset: Some("mixtral".into()), experts: Some(5), ..choices() });
}

#[test]
fn a_run_with_few_rows_of_logits_at_a_time_repeats_and_resumes_bit_for_bit() {
    repeats_and_resumes(Choices {
        run: run::Choices { batch: Some(12), classifier_rows: Some(64), ..Default::default() },
        ..choices()
    });
}

/// The second run is interrupted by a save, the third goes on from that: all end with the same bits.
pub fn repeats_and_resumes(choices: Choices) {
    let setup = setup(Choices {
        run: run::Choices {
            dropout: Some(0.1),
            accumulate: Some(2),
            warmup: Some(3),
            schedule: Some(ScheduleKind::Cosine),
            steps: Some(10),
            save_every: Some(Cadence::Steps(0)),
            eval_every: Some(Cadence::Steps(0)),
            ..choices.run
        },
        ..choices
    });
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let mut whole = setup.trainer(gpu(family));
        let whole_losses = losses(&steps(&mut whole, 10));
        let want = everything(&mut whole);

        let folder = tempfile::tempdir().unwrap();
        let stopped = Interrupt::after(3);
        let mut run = start(&setup, folder.path(), setup.trainer(gpu(family)), &stopped);
        assert_eq!(run.go(&stopped.flag, &mut no_device).unwrap(), End::Interrupted, "{family:?}");
        let done = run.trainer.steps_done();
        assert!((3..10).contains(&done), "{done}");
        drop(run);

        let folder = RunFolder::open(folder.path()).unwrap();
        let checkpoint = folder.latest().unwrap().unwrap();
        let state = run_state(&checkpoint).unwrap();
        assert_eq!((state.step, &state.settings, state.objective.as_str()), (done, &setup.settings, "pretraining"));
        let mut resumed = setup.blank(gpu(family));
        restore(&mut resumed, &checkpoint).unwrap();
        let rest = losses(&steps(&mut resumed, 10 - done as usize));
        assert_eq!(rest, whole_losses[done as usize..], "{family:?}");
        assert_same(&everything(&mut resumed), &want);
    }
    // Another seed is another run.
    let mut other = setup.clone();
    other.settings.seed = 7;
    let (mut other, mut same) = (other.trainer(Cpu::default()), setup.trainer(Cpu::default()));
    assert_ne!(parameters(&mut other), parameters(&mut same));
}

/// Interrupts a run once so many records have come.
pub struct Interrupt {
    pub flag: Arc<AtomicBool>,
    after: usize,
}

impl Interrupt {
    pub fn after(after: usize) -> Interrupt {
        Interrupt { flag: Arc::default(), after }
    }
}

/// Counts the records down.
struct Countdown(Arc<AtomicBool>, usize);

impl Sink for Countdown {
    fn record(&mut self, _record: &Record) -> Result<()> {
        self.1 = self.1.saturating_sub(1);
        self.0.fetch_or(self.1 == 0, Ordering::SeqCst);
        Ok(())
    }
}

/// A run of a trainer in a new folder.
pub fn start(setup: &Setup, folder: &Path, trainer: Trainer, interrupt: &Interrupt) -> Run {
    let state = RunState {
        step: 0,
        objective: trainer.objective().name().into(),
        settings: setup.settings.clone(),
        command: serde_json::Value::Null,
        evaluations: vec![],
        variants: trainer.variants().clone(),
        kept: Default::default(),
    };
    Run {
        trainer,
        state,
        folder: RunFolder::create(folder, Mode::Fresh).unwrap(),
        best: folder.join("best"),
        tokenizer: Some(Tokenizer::bytes().unwrap()),
        sinks: vec![Box::new(Countdown(interrupt.flag.clone(), interrupt.after))],
        faults: vec![],
    }
}

/// For runs whose device is not lost.
pub fn no_device() -> Result<(Box<dyn Executor>, Option<u64>)> {
    panic!("no device is lost")
}

#[test]
fn the_load_of_experts_is_counted_between_two_looks_at_it() {
    let run = run::Choices { accumulate: Some(2), ..Default::default() };
    let setup = setup(Choices { preset: Some("mixtral".into()), run, ..choices() });
    let (settings, config) = (&setup.settings, &setup.config);
    let mut trainer = setup.trainer(gpu(AdapterKind::Software));
    for _ in 0..2 {
        let records = steps(&mut trainer, 3);
        assert!(records.iter().all(|r| r.expert_load.is_none()), "only at validations");
        let load = trainer.expert_load().unwrap().unwrap();
        assert_eq!(load.len(), config.layers);
        for layer in load {
            assert_eq!(layer.len(), 8);
            let choices: f32 = layer.iter().sum();
            assert!((choices - 8.0).abs() < 1e-5, "shares of all choices, even is 1 each: {layer:?}");
            let even = (2 * settings.batch * config.context * settings.accumulate * 3) as f32 / 8.0;
            for share in &layer {
                let counted = share * even;
                assert!((counted - counted.round()).abs() < 1e-2 && *share <= 4.0, "whole choices: {layer:?}");
            }
            assert!(layer.iter().any(|share| *share != 1.0), "{layer:?}");
        }
    }
    // A model without experts has none.
    let mut plain = self::setup(choices()).trainer(gpu(AdapterKind::Software));
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
    let setup = run_setup(run::Choices { batch: Some(8), lr: Some(5e-3), ..Default::default() });
    let gpu = Gpu::open("auto").unwrap();
    let memory_bytes = setup.blueprint(gpu.limits()).unwrap().memory_bytes();
    let mut trainer = setup.trainer(gpu);
    assert_eq!(trainer.executor().allocated_bytes(), memory_bytes, "what the plans say is what is allocated");
    let before = validate(&mut trainer);
    let uniform = (setup.config.vocab_size as f64).ln();
    assert!((before - uniform).abs() < 0.1, "an untrained model knows nothing: {before} for ln V = {uniform}");
    let first = steps(&mut trainer, 1);
    let created = trainer.executor().created();
    assert!(created.0 > 40 && created.1 > 20, "{created:?}");
    let records = steps(&mut trainer, 20);
    assert_eq!(trainer.executor().created(), created, "buffers and pipelines made while training");
    assert_eq!(validate(&mut trainer), validate(&mut trainer));
    let more = steps(&mut trainer, 39);
    assert_eq!(trainer.executor().created(), created);
    assert_eq!(trainer.executor().allocated_bytes(), memory_bytes);
    let numbers: Vec<u64> = first.iter().chain(&records).chain(&more).map(|r| r.step).collect();
    assert_eq!(numbers, (1..=60).collect::<Vec<u64>>());
    assert!(more.iter().all(|r| r.memory_bytes == memory_bytes && r.skipped.is_none() && r.lr == 5e-3));
    let after = validate(&mut trainer);
    let letters = f64::from(letter_entropy());
    assert!(
        after < letters - 0.2,
        "60 steps bring {before} to {after}; the frequency of letters alone gives {letters}"
    );
    let last = f64::from(more.iter().rev().take(5).map(|r| r.loss).sum::<f32>()) / 5.0;
    assert!((last - after).abs() < 0.3, "the training loss is {last}, held out {after}");
}

/// A training graph without a trainer: program, and windows of the corpus from `first` on.
struct Manual {
    program: Program,
    batch: usize,
    context: usize,
}

impl Manual {
    fn new(device: &mut dyn Executor, network: &Network, batch: usize, optimizer: &Optimizer) -> Manual {
        let context = network.config().context;
        let networks = std::slice::from_ref(network);
        let t = TrainingGraph::new(networks, Compute::default(), optimizer, |g, m| m[0].loss(g, batch, context));
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

fn write_initial(device: &mut dyn Executor, network: &Network) {
    for parameter in network.parameters() {
        device.write_state(&parameter.name, &initial_values(parameter, 3)).unwrap();
    }
}

#[test]
fn two_micro_batches_are_one_batch_of_twice_the_size() {
    let setup = setup(choices());
    let (config, network) = (&setup.config, Network::new(setup.config.clone()));
    let optimizer = |accumulate| Optimizer { accumulate, ..setup.settings.optimizer() };
    let devices: Vec<Box<dyn Executor>> =
        vec![Box::new(Cpu::default()), Box::new(gpu(AdapterKind::Gpu)), Box::new(gpu(AdapterKind::Software))];
    for mut device in devices {
        let device = device.as_mut();
        let (halves, whole) =
            (Manual::new(device, &network, 3, &optimizer(2)), Manual::new(device, &network, 6, &optimizer(1)));
        write_initial(device, &network);
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
    let setup = setup(choices());
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let mut trainer = setup.trainer(gpu(family));
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
    let setup = setup(choices());
    let devices: Vec<(&str, Trainer)> = vec![
        ("reference", setup.trainer(Cpu::default())),
        ("kernels for GPUs", setup.trainer(gpu(AdapterKind::Gpu))),
        ("kernels for software adapters", setup.trainer(gpu(AdapterKind::Software))),
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
    let mut trainer = setup(choices()).trainer(Gpu::open("auto").unwrap());
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
    let setup = setup(choices());
    let network = Network::new(setup.config.clone());
    let mut gpu = Gpu::open("auto").unwrap();
    let manual = Manual::new(&mut gpu, &network, 2, &setup.settings.optimizer());
    write_initial(&mut gpu, &network);
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
        let mut trainer = run_setup(run::Choices { clip: Some(clip), ..Default::default() }).trainer(gpu(family));
        let norm = steps(&mut trainer, 3)[2].grad_norm;
        let factor = f32::from_bits(bits(&mut trainer, REPORT)[report::CLIP]);
        (factor, norm, parameters(&mut trainer))
    };
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
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
        let mut trainer = run_setup(run::Choices { dropout: Some(dropout), ..Default::default() })
            .trainer(gpu(AdapterKind::Software));
        let before = (validate(&mut trainer), validate(&mut trainer));
        assert_eq!(before.0.to_bits(), before.1.to_bits(), "evaluation is the same every time");
        let loss = steps(&mut trainer, 1)[0].loss;
        let after = (validate(&mut trainer), validate(&mut trainer));
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
    let run = run::Choices { batch: Some(40), dropout: Some(0.1), ..Default::default() };
    let setup = setup(Choices { layers: Some(1), run, ..choices() });
    let whole = losses(&steps(&mut setup.trainer(Gpu::open("auto").unwrap()), 3));
    let mut small = Gpu::open("auto").unwrap();
    let plan = |limits: &Limits| setup.blueprint(limits).unwrap().training_plan().clone();
    let before = plan(small.limits());
    small_bindings(small.limits_mut(), 64 << 10);
    let after = plan(small.limits());
    for op in ACTIVATION_OPS {
        assert!(count(&after, op) > count(&before, op), "{op} works in one piece");
    }
    let pieces = losses(&steps(&mut setup.trainer(small), 3));
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
    let network = Network::new(config.clone());
    let loss = network.training(Compute::default()).loss(&mut g, batch, 16);
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
        write_initial(device, &network);
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
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
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
fn recomputed_blocks_change_no_bit_and_need_less_memory() {
    for preset in ["demo", "llama-mini", "mixtral"] {
        let setup = |recompute| {
            let run = run::Choices { batch: Some(16), dropout: Some(0.1), accumulate: Some(2), ..Default::default() };
            let run = run::Choices { recompute: Some(recompute), ..run };
            setup(Choices { preset: Some(preset.into()), layers: Some(4), run, ..choices() })
        };
        for family in [AdapterKind::Gpu, AdapterKind::Software] {
            let (mut kept, mut again) = (setup(false).trainer(gpu(family)), setup(true).trainer(gpu(family)));
            let records = steps(&mut kept, 3);
            assert_eq!(losses(&records), losses(&steps(&mut again, 3)), "{preset}");
            assert_same(&everything(&mut kept), &everything(&mut again));
        }
        let limits = Limits::portable(AdapterKind::Gpu);
        let temporary = |recompute| {
            let blueprint = setup(recompute).blueprint(&limits).unwrap();
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
