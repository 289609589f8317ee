//! An objective's run on a device: programs, micro-batches, and the steps between validations. Nothing here prints or saves.

mod shared;
mod states;

use super::blueprint::Blueprint;
use super::clock::StepClock;
use super::exchange::Exchange;
use super::graph::{ACCUMULATE, EXPERT_LOAD, REPORT, TrainingGraph, UPDATE};
use super::objective::{Batch, Evaluation, EvaluationPrograms, Objective, RollOut, ShapeKey};
use super::record::Record;
use super::settings::Settings;
use crate::error::Result;
use crate::executor::{Executor, Program};
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::graph::{Graph, Plan, Step};
use crate::models::initial::initial_values;
use crate::models::network::Network;
use crate::ops::global_norm::report;
use crate::ops::loss_scale::scale_of;
use crate::ranks::Ranks;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Bad steps in a row after which a run stops.
const MOST_SKIPPED: u32 = 5;

/// Variants by class, on a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChosenVariants {
    pub device: String,
    pub chosen: BTreeMap<String, String>,
}

impl ChosenVariants {
    /// Has an executor run the same, if it is the same device.
    pub fn settle(&self, executor: &mut dyn Executor) {
        if executor.description() == self.device {
            executor.settle(&self.chosen);
        }
    }
}

/// Name, shape and values of a tensor.
pub type Owned = (String, Vec<usize>, Vec<f32>);

/// A run's programs on a device.
struct Loaded {
    executor: Box<dyn Executor>,
    shapes: Vec<ShapeKey>,
    /// The training graph of the first shape.
    graph: TrainingGraph,
    training: Vec<Program>,
    evaluation: Vec<Program>,
    variants: ChosenVariants,
    segments: (usize, usize),
}

impl Loaded {
    /// Allocates and compiles.
    fn new(mut executor: Box<dyn Executor>, blueprint: Blueprint) -> Result<Loaded> {
        let variants = ChosenVariants { device: executor.description(), chosen: blueprint.variants(executor.limits()) };
        let Blueprint { shapes, training, evaluation, .. } = blueprint;
        let segments = (training[0].1.segment(ACCUMULATE), training[0].1.segment(UPDATE));
        let (mut graph, mut programs) = (None, vec![]);
        for (training, plan) in training {
            programs.push(executor.load(&training.graph, plan)?);
            graph.get_or_insert(training);
        }
        let load = |(graph, plan): (Graph, Plan)| executor.load(&graph, plan);
        let evaluation = evaluation.into_iter().map(load).collect::<Result<Vec<_>>>()?;
        let graph = graph.expect("an objective has at least one shape");
        Ok(Loaded { executor, shapes, graph, training: programs, evaluation, variants, segments })
    }
}

/// A run on a device.
pub struct Trainer {
    /// None while a device that was lost is opened again.
    loaded: Option<Loaded>,
    objective: Box<dyn Objective>,
    settings: Settings,
    /// Whether a record has told the variants.
    told: bool,
    batch: Batch,
    step: u64,
    clock: StepClock,
    ranks: Arc<Ranks>,
    exchange: Exchange,
    /// Whether this rank wants to stop, and whether all have agreed to.
    stop: bool,
    agreed: bool,
    /// The step after which all ranks had the same weights, with local steps.
    synchronised: u64,
    /// Tokens of the steps that are queued, oldest first, and what was measured of the roll-out before each.
    queued: VecDeque<(usize, Vec<(&'static str, f32)>)>,
    /// What was measured of the roll-out before the next step, where there was one, and records that came before it.
    rolled: Vec<(&'static str, f32)>,
    early: Vec<Record>,
    skipped_in_a_row: u32,
    /// The counts of choices when [`Trainer::expert_load`] last looked.
    counted: Vec<u32>,
}

impl Trainer {
    /// Allocates and compiles a run. Parameters are zero until [`Trainer::initialise`].
    pub fn new(
        executor: Box<dyn Executor>,
        blueprint: Blueprint,
        objective: Box<dyn Objective>,
        settings: Settings,
    ) -> Result<Trainer> {
        let loaded = Loaded::new(executor, blueprint)?;
        let ranks = Arc::new(Ranks::default());
        Ok(Trainer {
            exchange: Exchange::new(Arc::clone(&ranks), &loaded.graph.groups),
            ranks,
            stop: false,
            agreed: false,
            synchronised: 0,
            loaded: Some(loaded),
            objective,
            told: false,
            batch: Batch::new(settings.batch, settings.seed),
            step: 0,
            settings,
            clock: StepClock::default(),
            queued: VecDeque::new(),
            rolled: vec![],
            early: vec![],
            skipped_in_a_row: 0,
            counted: vec![],
        })
    }

    /// Moves the run to a device that `open` opens, with its programs, once the old device's buffers are freed. All
    /// states are zero.
    pub fn reload(
        &mut self,
        open: impl FnOnce(&dyn Objective) -> Result<(Box<dyn Executor>, Blueprint)>,
    ) -> Result<()> {
        self.loaded = None;
        let (executor, blueprint) = open(self.objective.as_ref())?;
        self.loaded = Some(Loaded::new(executor, blueprint)?);
        (self.clock, self.queued, self.skipped_in_a_row) = (StepClock::default(), VecDeque::new(), 0);
        self.counted.clear();
        self.rolled.clear();
        self.early.clear();
        Ok(())
    }

    fn loaded(&self) -> &Loaded {
        self.loaded.as_ref().expect("a run is on a device")
    }

    /// Sets initial values, seeded, with a fresh optimiser; then the weights of the first network, where there are some. Rows
    /// that the tables of `weights` lack (those of added tokens) and heads keep their initial values.
    pub fn initialise(&mut self, weights: Option<&Weights>) -> Result<()> {
        let seed = self.settings.seed;
        for (name, dims) in self.optimizer_states() {
            self.executor().write_state(&name, &vec![0.0; dims.iter().product()])?;
        }
        for parameter in self.parameters().iter().filter(|p| p.quantised.is_none()).cloned().collect::<Vec<_>>() {
            self.executor().write_state(&parameter.name, &initial_values(&parameter, seed))?;
        }
        if let Some(weights) = weights {
            let network = self.network().clone();
            upload(self.executor(), &network, weights)?;
        }
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        self.objective.initialise(loaded.executor.as_mut())?;
        self.anchor(|_| Ok(None))?;
        self.prepare()
    }

    /// Loads the networks that are not trained.
    pub fn prepare(&mut self) -> Result<()> {
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        self.objective.prepare(loaded.executor.as_mut())
    }

    /// Goes on after `step` steps, whose states have been written, with what the objective kept.
    pub fn seek(&mut self, step: u64, objective: &serde_json::Value) -> Result<()> {
        (self.step, self.synchronised) = (step, step);
        self.objective.restore(objective)
    }

    /// Draws what the next step learns from, where its objective does so and it is not there yet; what is returned has texts for people
    /// alone. Its time is a part of the step's.
    pub fn roll_out(&mut self) -> Result<RollOut> {
        if !self.objective.wants_roll_out(self.step) {
            return Ok(RollOut::default());
        }
        self.clock.start();
        let records = self.records(true)?;
        self.early.extend(records);
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        let mut rolled = self.objective.roll_out(loaded.executor.as_mut(), self.step, self.settings.batch)?;
        self.rolled = std::mem::take(&mut rolled.scalars);
        Ok(rolled)
    }

    /// Queues one optimiser step and returns the records of steps that have finished meanwhile.
    pub fn step(&mut self) -> Result<Vec<Record>> {
        self.roll_out()?;
        let learning_rate = self.settings.schedule().learning_rate(self.step);
        let accumulation = self.settings.accumulation();
        let (first, count) = (accumulation.before(self.step), accumulation.at(self.step));
        let growth = accumulation.most as f32 / count as f32;
        let seed = self.settings.seed as u32;
        let mut step = Step { step: self.step as u32, seed, learning_rate, growth, ..Step::default() };
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        self.clock.start();
        let (mut program, mut tokens) = (loaded.training[0], 0);
        for micro in self.ranks.part(count) {
            let number = first + micro;
            self.batch.clear();
            self.objective.fill(number, &mut self.batch)?;
            program = loaded.training[self.batch.shape];
            self.batch.write(loaded.executor.as_mut(), program)?;
            step.micro_batch = number as u32;
            loaded.executor.run(program, loaded.segments.0, &step)?;
            tokens += self.batch.tokens;
        }
        let mut measured = std::mem::take(&mut self.rolled);
        let is_shared = self.ranks.are_several() && self.settings.sync_every == 0;
        if is_shared {
            let (wire, scalars) = (self.settings.wire(), loaded.graph.scalars.len());
            let said = self.exchange.gradients(loaded.executor.as_mut(), wire, scalars, (tokens, self.stop))?;
            (tokens, self.agreed) = (said.tokens, said.stop);
            measured.extend([("wait_ms", said.wait_ms), ("transfer_ms", said.transfer_ms)]);
        } else {
            // With local steps the others have as many, on average.
            tokens *= self.ranks.count();
        }
        loaded.executor.run(program, loaded.segments.1, &step)?;
        self.step += 1;
        self.queued.push_back((tokens, measured));
        loaded.executor.post(REPORT, self.step)?;
        if self.settings.sync_every > 0 && self.step.is_multiple_of(self.settings.sync_every) {
            self.synchronise()?;
        }
        // Ranks that share a step learn of it at the same time, so that all go on or end alike.
        self.records(is_shared)
    }

    /// Waits for all queued steps and returns their records.
    pub fn finish(&mut self) -> Result<Vec<Record>> {
        let records = self.records(true);
        self.clock.pause();
        records
    }

    fn records(&mut self, wait: bool) -> Result<Vec<Record>> {
        let loaded = self.loaded.as_mut().expect("a run is on a device");
        let arrived = loaded.executor.collect(wait)?;
        let step_ms = self.clock.step_ms(arrived.len());
        let memory_bytes = loaded.executor.allocated_bytes();
        let mut records = std::mem::take(&mut self.early);
        for (step, words) in arrived {
            self.skipped_in_a_row = words[report::SKIPPED_IN_A_ROW].to_bits();
            let loss_scale = self.settings.is_mixed().then(|| scale_of(words[report::SCALE]));
            let bad = loaded.graph.culprit(words[report::BAD].to_bits());
            // Only a step whose loss scale was halved is skipped and not counted.
            let halved = loss_scale.filter(|_| self.skipped_in_a_row == 0);
            let skipped = bad.map(|why| match halved {
                Some(scale) => format!("{why}, the loss scale is now {scale}"),
                None => why,
            });
            let (tokens, rolled) = self.queued.pop_front().unwrap_or_default();
            let scalars = loaded.graph.scalars.iter().copied().zip(words[report::LEN..].iter().copied());
            let drawn = self.objective.drawn(self.settings.accumulation().before(step), self.settings.batch);
            records.push(Record {
                step,
                loss: words[report::LOSS],
                lr: self.settings.schedule().learning_rate(step - 1),
                grad_norm: words[report::NORM],
                step_ms,
                tokens_per_second: tokens as f32 / (step_ms / 1e3),
                memory_bytes,
                variants: (!std::mem::replace(&mut self.told, true)).then(|| loaded.variants.chosen.clone()),
                loss_scale,
                skipped,
                scalars: scalars.chain(rolled).map(|(name, value)| (name.to_string(), value)).chain(drawn).collect(),
                ..Record::default()
            });
        }
        Ok(records)
    }

    /// True after five bad steps in a row: going on would not help.
    pub fn is_hopeless(&self) -> bool {
        self.skipped_in_a_row >= MOST_SKIPPED
    }

    /// The objective's measures of its validation data. Waits; call [`Trainer::finish`] first.
    pub fn evaluate(&mut self) -> Result<Option<Evaluation>> {
        let Loaded { executor, evaluation, shapes, .. } = self.loaded.as_mut().expect("a run is on a device");
        let executor = executor.as_mut();
        let mut programs = EvaluationPrograms { executor, programs: evaluation, shapes, settings: &self.settings };
        self.objective.evaluate(&mut programs)
    }

    /// For every layer with experts the share of choices that went to each since the last call, relative to an even one;
    /// nothing where there are none. Waits; call [`Trainer::finish`] first.
    pub fn expert_load(&mut self) -> Result<Option<Vec<Vec<f32>>>> {
        let network = self.network();
        let Some(experts) = network.config().experts() else { return Ok(None) };
        let state = format!("{}{EXPERT_LOAD}", network.prefix());
        let counts: Vec<u32> = self.executor().read_state(&state)?.into_iter().map(f32::to_bits).collect();
        self.counted.resize(counts.len(), 0);
        let since: Vec<u32> = counts.iter().zip(&self.counted).map(|(now, then)| now.wrapping_sub(*then)).collect();
        self.counted = counts;
        let since = self.ranks.sum(since.into_iter().map(|count| count as f32).collect());
        let of_layer = |choices: &[f32]| {
            let even = choices.iter().map(|n| f64::from(*n)).sum::<f64>() / experts.count as f64;
            choices.iter().map(|n| (f64::from(*n) / even.max(1.0)) as f32).collect()
        };
        Ok(Some(since.chunks(experts.count).map(of_layer).collect()))
    }

    /// Passes over the training data that are done, where the last step has ended one; the run's last step always does.
    pub fn epoch_ended(&self) -> Option<u64> {
        let per_epoch = self.objective.epoch(self.settings.batch).max(1);
        let epochs = |steps: u64| self.settings.accumulation().before(steps) / per_epoch;
        let at_end = self.step >= self.settings.steps;
        let done = if at_end { epochs(self.step).max(epochs(self.step - 1) + 1) } else { epochs(self.step) };
        (self.step > 0 && done > epochs(self.step - 1)).then_some(done)
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn objective(&self) -> &dyn Objective {
        self.objective.as_ref()
    }

    /// The network that is saved and sampled.
    pub fn network(&self) -> &Network {
        &self.objective.networks()[0]
    }

    /// Lengths that sequences are padded to.
    pub fn shapes(&self) -> &[ShapeKey] {
        &self.loaded().shapes
    }

    /// The chosen kernels of its steps, by class.
    pub fn variants(&self) -> &ChosenVariants {
        &self.loaded().variants
    }

    pub fn executor(&mut self) -> &mut dyn Executor {
        self.loaded.as_mut().expect("a run is on a device").executor.as_mut()
    }

    /// Ends the run on this device: its programs are freed, the store stays.
    pub fn into_parts(self) -> (Box<dyn Executor>, Box<dyn Objective>) {
        let Loaded { mut executor, training, evaluation, .. } = self.loaded.expect("a run is on a device");
        training.iter().chain(&evaluation).for_each(|program| executor.unload(*program));
        (executor, self.objective)
    }
}
