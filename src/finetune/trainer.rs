//! A fine-tuning run on a device: a training program for each length, and the steps between validations. Nothing here prints.

use std::collections::VecDeque;

use super::batches::{Batch, Buckets, Group, Item, epoch};
use super::head::Head;
use super::metrics::Metrics;
use super::scorer::{Scorer, measure};
use super::settings::{Freeze, Settings};
use crate::error::Result;
use crate::executor::{Executor, Program, tuned_plan};
use crate::fail;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::memory::Class;
use crate::graph::{Graph, Plan, Shape, Step, Tensor};
use crate::models::config::Config;
use crate::models::initial::initial_values;
use crate::models::model::Model;
use crate::ops::add::Add;
use crate::ops::classifier::Classifier;
use crate::ops::global_norm::report;
use crate::train::clock::StepClock;
use crate::train::graph::{ACCUMULATE, REPORT, TrainingGraph, UPDATE};
use crate::train::log::Record;
use crate::train::schedule::Schedule;
use crate::train::trainer::{ChosenVariants, mib};

/// Bad steps in a row after which a run stops.
const MOST_SKIPPED: u32 = 5;

/// The loss L3 = L2 + lambda L1 of a batch of sequences of one length, in a graph that knows its seed: inputs `ids`, `targets`, `positions.N`, `weights`, and `classes` or
/// `grades`.
pub fn loss(g: &mut Graph, config: &Config, head: &Head, lambda: f32, length: usize) -> Tensor {
    let rows = head.batch * head.sequences();
    let model = Model { config, training: true, mixed: false };
    let ids = g.input("ids", Shape::u32(&[rows, length]));
    let x = model.hidden(g, ids);
    let scores = head.scores(g, x, true);
    let task = head.loss(g, scores);
    if lambda == 0.0 {
        return task;
    }
    let targets = g.input("targets", Shape::u32(&[rows, length]));
    let logits = model.head(g, x);
    let seed = g.seed().expect("a training graph has a seed");
    g.scope("loss");
    let language_model = g.apply(Classifier { weight: lambda }, &[logits, targets, seed]);
    g.apply(Add, &[task, language_model])
}

/// Names and shapes of the parameters that are trained, the head's last.
pub fn trained(config: &Config, head: &Head, freeze: Freeze) -> Vec<(String, Vec<usize>)> {
    let parameters = config.parameters().into_iter().filter(|(name, _)| freeze.trains(config, name));
    parameters.chain([head.parameter()]).collect()
}

/// The training graph of one length.
pub fn training_graph(config: &Config, head: &Head, settings: &Settings, length: usize) -> TrainingGraph {
    let trained = trained(config, head, settings.freeze);
    TrainingGraph::new(&trained, &settings.optimizer(), |g| loss(g, config, head, lambda(settings), length))
}

/// Lambda, where there is anything that a language model's loss could change.
fn lambda(settings: &Settings) -> f32 {
    if settings.freeze == Freeze::All { 0.0 } else { settings.lambda }
}

/// Fails where the programs would take more than is there: state once, and each plan's own buffers.
fn check_memory(plans: &[(TrainingGraph, Plan)], available_bytes: Option<u64>) -> Result<()> {
    let state = plans.first().map_or(0, |(_, plan)| plan.size_bytes(|class| *class == Class::State));
    let own = plans.iter().map(|(_, plan)| plan.size_bytes(|class| *class != Class::State)).sum::<u64>();
    if let Some(available) = available_bytes.filter(|available| state + own > *available) {
        let (needed, free) = (mib(state + own), mib(available));
        fail!(
            OutOfMemory,
            "this run needs {needed} and {free} are free: use a smaller --batch with more --accumulate, a smaller \
             --max-length, or fewer --buckets"
        );
    }
    Ok(())
}

/// Name, shape and values of a tensor.
pub type Owned = (String, Vec<usize>, Vec<f32>);

/// A run on a device.
pub struct Trainer {
    executor: Box<dyn Executor>,
    config: Config,
    head: Head,
    settings: Settings,
    schedule: Schedule,
    items: Vec<Item>,
    /// The bucket of each item.
    bucket_of: Vec<usize>,
    buckets: Buckets,
    training: Vec<(TrainingGraph, Program)>,
    segments: (usize, usize),
    scorer: Scorer,
    /// The epoch whose groups these are.
    groups: (u64, Vec<Group>),
    step: u64,
    skipped_in_a_row: u32,
    clock: StepClock,
    /// Tokens of the steps that are queued, oldest first.
    queued: VecDeque<usize>,
}

impl Trainer {
    /// Allocates and compiles a run; `validation` only counts for the lengths. Parameters are zero until they are set.
    pub fn new(
        mut executor: Box<dyn Executor>,
        config: Config,
        head: Head,
        settings: Settings,
        (items, validation): (Vec<Item>, &[Item]),
        available_bytes: Option<u64>,
    ) -> Result<Trainer> {
        let lengths = items.iter().chain(validation).map(Item::length);
        let buckets = Buckets::fit(lengths, settings.buckets, settings.longest(&config));
        let mut plans = vec![];
        for &length in &buckets.0 {
            let graph = training_graph(&config, &head, &settings, length);
            let plan = tuned_plan(executor.as_mut(), &graph.graph)?;
            plans.push((graph, plan));
        }
        check_memory(&plans, available_bytes)?;
        let mut training = vec![];
        let mut segments = (0, 0);
        for (graph, plan) in plans {
            segments = (plan.segment(ACCUMULATE), plan.segment(UPDATE));
            let program = executor.load(&graph.graph, plan)?;
            training.push((graph, program));
        }
        let scorer = Scorer::load(executor.as_mut(), &config, &head, &buckets)?;
        let bucket_of: Vec<usize> = items.iter().map(|item| buckets.of(item.length())).collect();
        let groups = (0, epoch(&bucket_of, head.batch, settings.seed, 0));
        let schedule = settings.schedule(settings.epochs * groups.1.len() as u64);
        Ok(Trainer {
            executor,
            config,
            head,
            settings,
            schedule,
            items,
            bucket_of,
            buckets,
            training,
            segments,
            scorer,
            groups,
            step: 0,
            skipped_in_a_row: 0,
            clock: StepClock::default(),
            queued: VecDeque::new(),
        })
    }

    /// Starts from a model's weights: rows that its tables lack (those of the added tokens) and the head are drawn.
    pub fn start_from(&mut self, weights: &Weights) -> Result<()> {
        self.initialise()?;
        upload(self.executor.as_mut(), weights)
    }

    /// Draws all parameters, the head's as the model's, with a fresh optimiser.
    pub fn initialise(&mut self) -> Result<()> {
        for (name, dims) in self.states().split_off(self.parameters().len()) {
            self.executor.write_state(&name, &vec![0.0; dims.iter().product()])?;
        }
        let (std, seed) = (self.config.initializer_range, self.settings.seed);
        for (name, dims) in self.config.parameters() {
            let values = initial_values(&self.config, &name, dims.iter().product(), std, seed);
            self.executor.write_state(&name, &values)?;
        }
        let (name, dims) = self.head.parameter();
        let values = initial_values(&self.config, &name, dims.iter().product(), std, seed);
        self.executor.write_state(&name, &values)
    }

    /// Goes on after `step` steps, whose states have been written.
    pub fn seek(&mut self, step: u64) {
        self.step = step;
    }

    /// Queues one optimiser step and returns the records of steps that have finished meanwhile.
    pub fn step(&mut self) -> Result<Vec<Record>> {
        let (seed, accumulate) = (self.settings.seed as u32, self.settings.accumulate as u64);
        let learning_rate = self.schedule.learning_rate(self.step);
        let mut step = Step { step: self.step as u32, seed, learning_rate, ..Step::default() };
        self.clock.start();
        let (mut program, mut tokens) = (self.training[0].1, 0);
        for micro in 0..accumulate {
            let number = self.step * accumulate + micro;
            let length;
            (program, length) = self.feed(number)?;
            tokens += length * self.head.batch * self.head.sequences();
            step.micro_batch = number as u32;
            self.executor.run(program, self.segments.0, &step)?;
        }
        self.executor.run(program, self.segments.1, &step)?;
        self.step += 1;
        self.queued.push_back(tokens);
        self.executor.post(REPORT, self.step)?;
        self.records(false)
    }

    /// Writes micro-batch `number` of the run to the program of its length; both.
    fn feed(&mut self, number: u64) -> Result<(Program, usize)> {
        let count = self.groups.1.len() as u64;
        let of = number / count;
        if self.groups.0 != of {
            self.groups = (of, epoch(&self.bucket_of, self.head.batch, self.settings.seed, of));
        }
        let group = &self.groups.1[(number % count) as usize];
        let (program, length) = (self.training[group.bucket].1, self.buckets.0[group.bucket]);
        let members: Vec<&Item> = group.examples.iter().map(|&i| &self.items[i]).collect();
        let batch = Batch::new(self.head.task, &members, self.head.batch, length);
        let mut write = |input: &str, bytes: &[u8]| self.executor.write(program, input, bytes);
        write("ids", bytemuck::cast_slice(&batch.ids))?;
        if lambda(&self.settings) > 0.0 {
            write("targets", bytemuck::cast_slice(&batch.targets))?;
        }
        for (order, positions) in batch.positions.iter().enumerate() {
            write(&format!("positions.{order}"), bytemuck::cast_slice(positions))?;
        }
        write("weights", bytemuck::cast_slice(&batch.weights))?;
        match self.head.target {
            super::task::Target::Grade => write("grades", bytemuck::cast_slice(&batch.grades))?,
            _ => write("classes", bytemuck::cast_slice(&batch.classes))?,
        }
        Ok((program, length))
    }

    /// Waits for all queued steps and returns their records.
    pub fn finish(&mut self) -> Result<Vec<Record>> {
        let records = self.records(true);
        self.clock.pause();
        records
    }

    fn records(&mut self, wait: bool) -> Result<Vec<Record>> {
        let arrived = self.executor.collect(wait)?;
        let step_ms = self.clock.step_ms(arrived.len());
        let memory_bytes = self.executor.allocated_bytes();
        let mut records = vec![];
        for (step, words) in arrived {
            self.skipped_in_a_row = words[report::SKIPPED_IN_A_ROW].to_bits();
            let tokens = self.queued.pop_front().unwrap_or(0);
            records.push(Record {
                step,
                loss: words[report::LOSS],
                val_loss: None,
                lr: self.schedule.learning_rate(step - 1),
                grad_norm: words[report::NORM],
                step_ms,
                tokens_per_second: tokens as f32 / (step_ms / 1e3),
                memory_bytes,
                expert_load: None,
                variants: None,
                loss_scale: None,
                skipped: self.training[0].0.culprit(words[report::BAD].to_bits()),
            });
        }
        Ok(records)
    }

    /// True after five bad steps in a row: going on would not help.
    pub fn is_hopeless(&self) -> bool {
        self.skipped_in_a_row >= MOST_SKIPPED
    }

    /// Metrics and mean loss of other items. Waits; call [`Trainer::finish`] first.
    pub fn evaluate(&mut self, items: &[Item]) -> Result<Option<(Metrics, f64)>> {
        let scores = self.scorer.scores(self.executor.as_mut(), items)?;
        Ok(measure(&self.head.target, items, &scores))
    }

    /// Names and shapes of all that a checkpoint holds: parameters, then what the optimiser keeps of the trained ones.
    pub fn states(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = self.parameters();
        for (name, dims) in trained(&self.config, &self.head, self.settings.freeze) {
            all.push((format!("{name}.exp_avg"), dims.clone()));
            all.push((format!("{name}.exp_avg_sq"), dims));
        }
        all.push((REPORT.into(), vec![report::LEN]));
        all
    }

    /// Names and shapes of the model's parameters and the head's.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.config.parameters().into_iter().chain([self.head.parameter()]).collect()
    }

    /// Steps of the whole run, and those done.
    pub fn steps(&self) -> (u64, u64) {
        (self.schedule.steps, self.step)
    }

    /// Whether the steps done end an epoch, and which one, counted from 1: the last step ends the last.
    pub fn epoch_ended(&self) -> Option<u64> {
        let (per_epoch, accumulate) = (self.groups.1.len() as u64, self.settings.accumulate as u64);
        let epochs = |steps: u64| (steps * accumulate / per_epoch).min(self.settings.epochs);
        let done = if self.step >= self.schedule.steps { self.settings.epochs } else { epochs(self.step) };
        (self.step > 0 && done > epochs(self.step - 1)).then_some(done)
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Lengths that sequences are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.buckets.0
    }

    /// What its steps run where there is a choice of kernels.
    pub fn variants(&self) -> ChosenVariants {
        let of = |(graph, _): &(TrainingGraph, Program)| graph.graph.variants(self.executor.limits());
        let chosen = self.training.iter().flat_map(of).collect();
        ChosenVariants { device: self.executor.description(), chosen }
    }

    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }

    /// Ends the run and hands on the device; the store stays.
    pub fn into_executor(mut self) -> Box<dyn Executor> {
        self.training.iter().for_each(|(_, program)| self.executor.unload(*program));
        self.scorer.unload(self.executor.as_mut());
        self.executor
    }

    /// Current values of the model's parameters and the head's.
    pub fn read_parameters(&mut self) -> Result<Vec<Owned>> {
        let read = |(name, dims): (String, Vec<usize>)| {
            let values = self.executor.read_state(&name)?;
            Ok((name, dims, values))
        };
        self.config.parameters().into_iter().chain([self.head.parameter()]).map(read).collect()
    }
}
