//! Fine-tuning on labelled data, as "Improving Language Understanding by Generative Pre-Training" (Radford et al. 2018, sections
//! 3.2 and 3.3) does it: L3 = L2 + lambda L1, the loss of a task's head plus lambda times the language model's.

pub mod batch;
pub mod class_weights;
pub mod folder;
pub mod head;
pub mod predict;
pub mod prepare;
pub mod scorer;

use std::path::Path;

use self::batch::{Item, LabelledBatch};
use self::folder::TaskFile;
use self::head::Head;
use self::scorer::{measure, scores_of};
use crate::data::buckets::{Buckets, Epochs, group};
use crate::data::labelled::target::Target;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::evaluate::metrics::Measure;
use crate::fail;
use crate::formats::folder::NamedTensor;
use crate::graph::{Graph, Shape};
use crate::models::blocks::Model;
use crate::models::config::Config;
use crate::models::network::Network;
use crate::ops::add::Add;
use crate::train::graph::Loss;
use crate::train::objective::{Batch, Evaluation, EvaluationPrograms, Objective, ShapeKey};
use crate::train::rates::Freeze;
use crate::train::schedule::ScheduleKind;
use crate::train::settings::{Cadence, Duration, Recipe, Settings, Warmup};

/// The paper's recipe (Radford et al. 2018, section 4.1).
pub const RECIPE: Recipe = Recipe {
    batch: 32,
    accumulate: 1,
    duration: Duration::Epochs(3),
    lr: 6.25e-5,
    min_lr_divisor: f32::INFINITY,
    warmup: Warmup::Share(0.002),
    schedule: ScheduleKind::Linear,
    weight_decay: 0.01,
    beta2: 0.999,
    dropout: 0.1,
    every: Cadence::Epoch,
};
/// The paper's weight of the language model's loss.
pub const LAMBDA: f32 = 0.5;
/// Lengths that sequences are padded to, at most.
pub const BUCKETS: usize = 4;

/// The objective of a task with a head.
pub struct Labelled {
    networks: [Network; 1],
    task: TaskFile,
    /// Weight of the language model's loss.
    lambda: f32,
    /// Of the hidden state before the head.
    dropout: f32,
    measure: Measure,
    buckets: Buckets,
    epochs: Epochs,
    training: Vec<Item>,
    validation: Vec<Item>,
}

/// Options of a task's training.
pub struct Options {
    /// Weight of the language model's loss beside the head's.
    pub lambda: f32,
    /// The measure of the best model; without it, accuracy, or Pearson's correlation of grades.
    pub measure: Option<Measure>,
    /// Lengths that sequences are padded to, at most so many.
    pub buckets: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { lambda: LAMBDA, measure: None, buckets: BUCKETS }
    }
}

impl Options {
    /// Refuses options that this target has no use for, as a usage error.
    pub fn check(&self, target: &Target) -> Result<()> {
        if !(self.lambda.is_finite() && self.lambda >= 0.0) {
            fail!(Usage, "--lambda {} is not a number from 0 up: give one", self.lambda);
        }
        if !(1..=1 << 20).contains(&self.buckets) {
            fail!(Usage, "--buckets is {}, but must be from 1 to 1048576", self.buckets);
        }
        let of_grades = matches!(self.measure(target), Measure::Pearson | Measure::Spearman);
        if of_grades != (*target == Target::Grade) {
            fail!(
                Usage,
                "--metric is not one of this task's: pearson and spearman are of grades, the others of labels"
            );
        }
        Ok(())
    }

    /// The measure that decides which model is the best.
    pub fn measure(&self, target: &Target) -> Measure {
        let usual = if *target == Target::Grade { Measure::Pearson } else { Measure::Accuracy };
        self.measure.unwrap_or(usual)
    }
}

impl Labelled {
    /// A task over training and validation items; the model's vocabulary holds the added tokens already.
    pub fn new(
        config: Config,
        task: TaskFile,
        options: &Options,
        settings: &Settings,
        (training, validation): (Vec<Item>, Vec<Item>),
    ) -> Labelled {
        let lengths = training.iter().chain(&validation).map(Item::length);
        let buckets = Buckets::fit(lengths, options.buckets, task.longest);
        let epochs = Epochs::new(training.iter().map(|item| buckets.of(item.length())).collect());
        // Nothing that the language model's loss could change is trained where all but the head is frozen.
        let is_encoder = config.encoder.is_some(); // which is no language model
        let lambda = if settings.freeze == Freeze::All || is_encoder { 0.0 } else { options.lambda };
        let measure = options.measure(&task.target);
        let config = Config { dropout: settings.dropout(), ..config };
        let networks = [Network::new(config)];
        let dropout = settings.dropout;
        Labelled { networks, task, lambda, dropout, measure, buckets, epochs, training, validation }
    }

    /// The head for batches of one size.
    fn head(&self, batch: usize) -> Head {
        Head { dropout: self.dropout, ..self.task.head(self.networks[0].config(), batch) }
    }

    /// Lengths that sequences are padded to.
    pub fn lengths(&self) -> &[usize] {
        &self.buckets.0
    }
}

/// L3 = L2 + lambda L1 of a batch of sequences of one length; L2 is logged as `task_loss`.
pub fn loss(g: &mut Graph, model: &Model, head: &Head, lambda: f32, length: usize) -> Loss {
    let dims = [head.batch * head.sequences(), length];
    let x = head.hidden(g, model, length);
    let scores = head.scores(g, model, x);
    let task = head.loss(g, scores);
    if lambda == 0.0 {
        return task.into();
    }
    let targets = g.input("targets", Shape::u32(&dims));
    let language_model = model.token_loss(g, x, targets, lambda);
    let sum = g.apply(Add, &[task, language_model]);
    Loss { minimised: sum, reported: sum, scalars: vec![("task_loss", task)] }
}

impl Objective for Labelled {
    fn name(&self) -> &str {
        self.task.task.name()
    }

    fn networks(&self) -> &[Network] {
        &self.networks
    }

    fn takes_encoders(&self) -> bool {
        true
    }

    fn shapes(&self, batch: usize) -> Vec<ShapeKey> {
        let sequences = self.head(batch).sequences();
        self.buckets.0.iter().map(|&length| ShapeKey { batch, sequences, length }).collect()
    }

    /// Reads inputs `ids`, `targets`, `positions.N`, `weights`, and `classes` or `grades`.
    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss {
        loss(g, &models[0], &self.head(shape.batch), self.lambda, shape.length)
    }

    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) {
        scorer::build(g, &models[0], &self.head(shape.batch), shape.length);
    }

    fn epoch(&self, batch: usize) -> u64 {
        self.epochs.len(batch)
    }

    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()> {
        let group = self.epochs.group(number, batch.size, batch.seed);
        let length = self.buckets.0[group.bucket];
        let members: Vec<&Item> = group.examples.iter().map(|&i| &self.training[i]).collect();
        let made = LabelledBatch::new(&self.head(batch.size), &members, length);
        made.set_inputs(batch);
        made.set_answers(batch, &self.task.target);
        if self.lambda > 0.0 {
            batch.set("targets", &made.targets);
        }
        (batch.shape, batch.tokens) = (group.bucket, made.ids.len());
        Ok(())
    }

    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>> {
        let size = programs.settings.batch;
        let buckets: Vec<usize> = self.validation.iter().map(|item| self.buckets.of(item.length())).collect();
        let order: Vec<usize> = (0..buckets.len()).collect();
        let (head, mut scores) = (self.head(size), vec![vec![]; buckets.len()]);
        let mut batch = Batch::new(size, 0);
        for group in group(&buckets, &order, size) {
            batch.clear();
            let members: Vec<&Item> = group.examples.iter().map(|&i| &self.validation[i]).collect();
            LabelledBatch::new(&head, &members, self.buckets.0[group.bucket]).set_inputs(&mut batch);
            batch.shape = group.bucket;
            let program = programs.run(&batch)?;
            scores_of(programs.executor, program, &head, &group, &mut scores)?;
        }
        let Some((metrics, loss)) = measure(&self.task.target, &self.validation, &scores) else { return Ok(None) };
        let value = metrics.get(self.measure);
        let scalars = vec![(self.measure.name(), value.unwrap_or(f64::NAN))];
        Ok(Some(Evaluation { loss, value, scalars, text: metrics.to_string() }))
    }

    fn has_head(&self) -> bool {
        true
    }

    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        let tokenizer = tokenizer.expect("labelled texts have a tokenizer");
        folder::save(folder, self.networks[0].config(), &self.task, tokenizer, parameters)
    }
}
