//! One run's state on a device: programs, batches, and the steps between them. Nothing here prints.

use super::checkpoint::{Checkpoint, LoadedCheckpoint, RunFolder};
use super::clock::StepClock;
use super::graph::{ACCUMULATE, EXPERT_LOAD, REPORT, TrainingGraph, UPDATE};
use super::log::Record;
use super::settings::Settings;
use crate::data::batches::Batches;
use crate::data::tokens::Tokens;
use crate::error::{Error, Result};
use crate::executor::{Executor, Program};
use crate::fail;
use crate::formats::folder::{NamedTensor, Weights};
use crate::formats::upload::upload;
use crate::graph::memory::Class;
use crate::graph::{Graph, Limits, Plan, Step};
use crate::models::config::Config;
use crate::models::initial::initial_values;
use crate::models::model::Model;
use crate::ops::global_norm::report;
use crate::ops::loss_scale::scale_of;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bad steps in a row after which a run stops.
const MOST_SKIPPED: u32 = 5;

/// The graphs of a run and the buffers they need.
pub struct Blueprint {
    training: TrainingGraph,
    training_plan: Plan,
    evaluation: Graph,
    evaluation_plan: Plan,
}

impl Blueprint {
    /// Plans a run for a device's limits, before anything is allocated.
    pub fn new(config: &Config, settings: &Settings, limits: &Limits) -> Result<Blueprint> {
        let (batch, context, mixed) = (settings.batch, settings.context, settings.is_mixed());
        check_precision(settings, limits)?;
        let training = TrainingGraph::scaled(&config.parameters(), &settings.optimizer(), settings.grow_after(), |g| {
            if settings.recompute {
                g.recompute_regions();
            }
            Model { config, training: true, mixed }.chunked_objective(g, batch, context, settings.chunk_rows())
        });
        let mut evaluation = Graph::new();
        let model = Model { config, training: false, mixed };
        let loss = model.chunked_loss(&mut evaluation, batch, context, settings.chunk_rows());
        evaluation.output("loss", loss);
        let training_plan = Plan::new(&training.graph, limits)?;
        let evaluation_plan = Plan::new(&evaluation, limits)?;
        Ok(Blueprint { training, training_plan, evaluation, evaluation_plan })
    }

    /// Has the executor choose good variants for these graphs, which may take it some seconds, and plans them with those.
    pub fn tuned(mut self, executor: &mut dyn Executor) -> Result<Blueprint> {
        executor.tune(&[&self.training.graph, &self.evaluation])?;
        self.training_plan = Plan::new(&self.training.graph, executor.limits())?;
        self.evaluation_plan = Plan::new(&self.evaluation, executor.limits())?;
        Ok(self)
    }

    /// Bytes that loading this run allocates: state once, and each plan's own buffers.
    pub fn memory_bytes(&self) -> u64 {
        let own = |class: &Class| *class != Class::State;
        self.training_plan.size_bytes(|_| true) + self.evaluation_plan.size_bytes(own)
    }

    pub fn training_plan(&self) -> &Plan {
        &self.training_plan
    }
}

/// What goes into `trainer.json`: with the tensors, everything that is needed to go on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    pub step: u64,
    pub batch_position: u64,
    pub settings: Settings,
    /// Where the data comes from, to find it again.
    pub data: Option<String>,
    pub validation: Option<String>,
    /// What ran where there was a choice of kernels, so that a resumed run has the same bits.
    #[serde(default)]
    pub variants: ChosenVariants,
}

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

/// A run on a device.
pub struct Trainer {
    executor: Box<dyn Executor>,
    config: Config,
    settings: Settings,
    training: TrainingGraph,
    train: Program,
    evaluate: Program,
    variants: ChosenVariants,
    /// Whether a record has told the variants.
    told: bool,
    segments: (usize, usize),
    batches: Batches,
    validation: Batches,
    step: u64,
    ids: Vec<u32>,
    targets: Vec<u32>,
    clock: StepClock,
    skipped_in_a_row: u32,
    /// The counts of choices when [`Trainer::expert_load`] last looked.
    counted: Vec<u32>,
}

impl Trainer {
    /// Allocates and compiles a run. Parameters are zero until [`Trainer::initialise`] or [`Trainer::restore`].
    pub fn new(
        mut executor: Box<dyn Executor>,
        blueprint: Blueprint,
        config: Config,
        settings: Settings,
        (training, validation): (Arc<Tokens>, Arc<Tokens>),
    ) -> Result<Trainer> {
        let (batch, context) = (settings.batch, settings.context);
        let batches = Batches::new(training, batch, context, settings.seed)?;
        let validation = Batches::evenly(validation, batch, context, settings.eval_batches)?;
        let Blueprint { training, training_plan, evaluation, evaluation_plan } = blueprint;
        let segments = (training_plan.segment(ACCUMULATE), training_plan.segment(UPDATE));
        let mut chosen = training.graph.variants(executor.limits());
        chosen.extend(evaluation.variants(executor.limits()));
        let variants = ChosenVariants { device: executor.description(), chosen };
        let train = executor.load(&training.graph, training_plan)?;
        let evaluate = executor.load(&evaluation, evaluation_plan)?;
        Ok(Trainer {
            executor,
            config,
            training,
            train,
            evaluate,
            variants,
            told: false,
            segments,
            batches,
            validation,
            step: 0,
            ids: vec![0; batch * context],
            targets: vec![0; batch * context],
            settings,
            clock: StepClock::default(),
            skipped_in_a_row: 0,
            counted: vec![],
        })
    }

    /// Sets initial values, seeded.
    pub fn initialise(&mut self) -> Result<()> {
        for (name, dims) in self.config.parameters() {
            let values =
                initial_values(&self.config, &name, dims.iter().product(), self.settings.init_std, self.settings.seed);
            self.executor.write_state(&name, &values)?;
        }
        Ok(())
    }

    /// Starts from a model's weights, with a fresh optimiser.
    pub fn start_from(&mut self, weights: &Weights) -> Result<()> {
        upload(self.executor.as_mut(), weights)
    }

    /// Continues a checkpoint: weights, optimiser, counters and the position in the data.
    pub fn restore(&mut self, checkpoint: &LoadedCheckpoint, state: &TrainerState) -> Result<()> {
        self.start_from(&checkpoint.weights)?;
        for name in self.optimizer_names() {
            let values = checkpoint.optimizer.read(&name)?;
            self.executor.write_state(&name, &values)?;
        }
        self.step = state.step;
        self.batches.seek(state.batch_position);
        Ok(())
    }

    /// Queues one optimiser step and returns the records of steps that have finished meanwhile.
    pub fn step(&mut self) -> Result<Vec<Record>> {
        let rate = self.settings.schedule().learning_rate(self.step);
        let accumulate = self.settings.accumulate as u64;
        let mut step =
            Step { step: self.step as u32, seed: self.settings.seed as u32, learning_rate: rate, ..Step::default() };
        self.clock.start();
        for micro in 0..accumulate {
            self.batches.next(&mut self.ids, &mut self.targets)?;
            self.executor.write(self.train, "ids", bytemuck::cast_slice(&self.ids))?;
            self.executor.write(self.train, "targets", bytemuck::cast_slice(&self.targets))?;
            step.micro_batch = (self.step * accumulate + micro) as u32;
            self.executor.run(self.train, self.segments.0, &step)?;
        }
        self.executor.run(self.train, self.segments.1, &step)?;
        self.step += 1;
        self.executor.post(REPORT, self.step)?;
        self.records(false)
    }

    /// Waits for all queued steps and returns their records.
    pub fn finish(&mut self) -> Result<Vec<Record>> {
        let records = self.records(true);
        self.clock.pause();
        records
    }

    fn records(&mut self, wait: bool) -> Result<Vec<Record>> {
        let arrived = self.executor.collect(wait)?;
        let ms = self.clock.step_ms(arrived.len());
        let memory_bytes = self.executor.allocated_bytes();
        let mut records = vec![];
        for (step, words) in arrived {
            self.skipped_in_a_row = words[report::SKIPPED_IN_A_ROW].to_bits();
            let loss_scale = self.settings.is_mixed().then(|| scale_of(words[report::SCALE]));
            let bad = self.training.culprit(words[report::BAD].to_bits());
            // Only a step whose loss scale was halved is skipped and not counted.
            let halved = loss_scale.filter(|_| self.skipped_in_a_row == 0);
            let skipped = bad.map(|why| match halved {
                Some(scale) => format!("{why}, the loss scale is now {scale}"),
                None => why,
            });
            records.push(Record {
                step,
                loss: words[report::LOSS],
                val_loss: None,
                lr: self.settings.schedule().learning_rate(step - 1),
                grad_norm: words[report::NORM],
                step_ms: ms,
                tokens_per_second: self.settings.tokens_per_step() as f32 / (ms / 1e3),
                memory_bytes,
                expert_load: None,
                variants: (!std::mem::replace(&mut self.told, true)).then(|| self.variants.chosen.clone()),
                loss_scale,
                skipped,
            });
        }
        Ok(records)
    }

    /// True after five bad steps in a row: going on would not help.
    pub fn is_hopeless(&self) -> bool {
        self.skipped_in_a_row >= MOST_SKIPPED
    }

    /// Mean loss, in nats per token, over the fixed validation batches. Waits; call [`Trainer::finish`] first.
    pub fn validate(&mut self) -> Result<f32> {
        self.validation.seek(0);
        let mut sum = 0.0f64;
        for _ in 0..self.settings.eval_batches {
            self.validation.next(&mut self.ids, &mut self.targets)?;
            self.executor.write(self.evaluate, "ids", bytemuck::cast_slice(&self.ids))?;
            self.executor.write(self.evaluate, "targets", bytemuck::cast_slice(&self.targets))?;
            self.executor.run(self.evaluate, 0, &Step::default())?;
            sum += f64::from(self.executor.read(self.evaluate, "loss")?[0]);
        }
        Ok((sum / self.settings.eval_batches as f64) as f32)
    }

    /// For every layer with experts the share of choices that went to each since the last call, relative to an even one;
    /// nothing where there are none. Waits; call [`Trainer::finish`] first.
    pub fn expert_load(&mut self) -> Result<Option<Vec<Vec<f32>>>> {
        let Some(experts) = self.config.experts() else { return Ok(None) };
        let counts: Vec<u32> = self.executor.read_state(EXPERT_LOAD)?.into_iter().map(f32::to_bits).collect();
        self.counted.resize(counts.len(), 0);
        let since = counts.iter().zip(&self.counted).map(|(now, then)| now.wrapping_sub(*then)).collect::<Vec<_>>();
        self.counted = counts;
        let of_layer = |choices: &[u32]| {
            let even = choices.iter().map(|n| f64::from(*n)).sum::<f64>() / experts.count as f64;
            choices.iter().map(|n| (f64::from(*n) / even.max(1.0)) as f32).collect()
        };
        Ok(Some(since.chunks(experts.count).map(of_layer).collect()))
    }

    /// Writes a checkpoint of the steps done. Call [`Trainer::finish`] first.
    pub fn save(
        &mut self,
        folder: &RunFolder,
        tokenizer: &[u8],
        data: Option<&str>,
        validation: Option<&str>,
    ) -> Result<()> {
        let names: Vec<(String, Vec<usize>)> = self.config.parameters();
        let mut parameters = vec![];
        for (name, dims) in &names {
            parameters.push((name.clone(), dims.clone(), self.executor.read_state(name)?));
        }
        let mut optimizer = vec![];
        for name in self.optimizer_names() {
            let values = self.executor.read_state(&name)?;
            let of =
                names.iter().find(|(n, _)| name.strip_prefix(n.as_str()).is_some_and(|s| s.starts_with(".exp_avg")));
            let dims = of.map_or(vec![values.len()], |(_, dims)| dims.clone());
            optimizer.push((name, dims, values));
        }
        let state = TrainerState {
            step: self.step,
            batch_position: self.batches.position(),
            settings: self.settings.clone(),
            data: data.map(str::to_string),
            validation: validation.map(str::to_string),
            variants: self.variants.clone(),
        };
        folder.save(&Checkpoint {
            step: self.step,
            config: &self.config,
            tokenizer,
            parameters: &borrowed(&parameters),
            optimizer: &borrowed(&optimizer),
            trainer: &state,
        })
    }

    /// States of the optimiser that a checkpoint holds. Gradients are zero between steps, and are not among them.
    fn optimizer_names(&self) -> Vec<String> {
        let parameters = self.config.parameters();
        let moments = parameters.iter().flat_map(|(name, _)| [format!("{name}.exp_avg"), format!("{name}.exp_avg_sq")]);
        moments.chain([REPORT.to_string()]).collect()
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn executor(&mut self) -> &mut dyn Executor {
        self.executor.as_mut()
    }
}

fn borrowed(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<NamedTensor<'_>> {
    tensors.iter().map(|(name, dims, values)| (name.clone(), dims.clone(), values.as_slice())).collect()
}

/// Reads `trainer.json`.
pub fn trainer_state(checkpoint: &LoadedCheckpoint) -> Result<TrainerState> {
    serde_json::from_value(checkpoint.trainer.clone()).map_err(|e| {
        Error::Input(format!(
            "trainer.json of step {} is not what wgpt writes ({e}): resume another run",
            checkpoint.step
        ))
    })
}

/// Fails where a device cannot compute in the run's precision.
pub fn check_precision(settings: &Settings, limits: &Limits) -> Result<()> {
    if settings.is_mixed() && !limits.f16 {
        fail!(Device, "--precision mixed needs half precision (f16), which this device has not: use --precision f32");
    }
    Ok(())
}

/// Bytes as MiB, rounded up.
pub fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
