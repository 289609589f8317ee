//! The objective of a run, its loss and its data: one file in `objectives`, which gets every option of a run for free.

use std::path::Path;

use super::graph::Loss;
use super::settings::Settings;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use crate::executor::{Executor, Program};
use crate::formats::folder::{NamedTensor, WeightType, write_folder};
use crate::graph::{Graph, Step};
use crate::models::blocks::Model;
use crate::models::network::Network;

/// A program's shape: every shape is one program, and all of them share one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShapeKey {
    /// Sequences or examples of a micro-batch.
    pub batch: usize,
    /// Sequences of an example.
    pub sequences: usize,
    /// Tokens that sequences are padded to.
    pub length: usize,
}

/// An objective: the loss that a run minimises, and the data it is computed on.
pub trait Objective {
    /// Its name in messages.
    fn name(&self) -> &str;

    /// The networks in the store. The first is the one that is trained, saved and sampled; the others are trained as well unless
    /// they are [`Network::frozen`].
    fn networks(&self) -> &[Network];

    /// Whether its networks may be encoders; other objectives learn what follows a text.
    fn takes_encoders(&self) -> bool {
        false
    }

    /// Whether its networks have an encoder and a decoder.
    fn takes_encoder_decoders(&self) -> bool {
        false
    }

    /// Whether its networks may be models that pass texts in segments.
    fn takes_recurrence(&self) -> bool {
        false
    }

    /// Whether steps may have fewer micro-batches at first: not where a micro-batch's weights depend on the others of its step.
    fn takes_batch_warmup(&self) -> bool {
        true
    }

    /// The shapes of micro-batches of `batch` sequences or examples, at least one.
    fn shapes(&self, batch: usize) -> Vec<ShapeKey>;

    /// Builds the loss of a micro-batch over `models`, one for each network, in a graph that knows its seed. Routers' losses are
    /// added by the caller.
    fn loss(&self, g: &mut Graph, models: &[Model], shape: ShapeKey) -> Loss;

    /// Builds the graph that [`Objective::evaluate`] runs, with named outputs; models do not train.
    fn evaluation(&self, g: &mut Graph, models: &[Model], shape: ShapeKey);

    /// Micro-batches of `batch` sequences or examples in one pass over the training data.
    fn epoch(&self, batch: usize) -> u64;

    /// Fills micro-batch `number` of the run: a function of the seed and the number alone, so that a resumed run sees the
    /// batches of an uninterrupted one.
    fn fill(&mut self, number: u64, batch: &mut Batch) -> Result<()>;

    /// Numbers for the log of what so many micro-batches of `batch` sequences have drawn from the data, under their names.
    fn drawn(&self, _micro_batches: u64, _batch: usize) -> Vec<(String, f32)> {
        vec![]
    }

    /// Evaluates the parameters as they are on validation data; nothing where there is none.
    fn evaluate(&mut self, programs: &mut EvaluationPrograms) -> Result<Option<Evaluation>>;

    /// The graphs that run on the device beside the steps of micro-batches of `batch` sequences or examples: of references, reward models,
    /// and the decoder of roll-outs.
    fn inference_graphs(&self, _batch: usize) -> Vec<Graph> {
        vec![]
    }

    /// Whether step `step` needs a roll-out that has not been drawn yet.
    fn wants_roll_out(&self, _step: u64) -> bool {
        false
    }

    /// Draws what step `step` and perhaps further ones learn from, by the parameters as they are, for micro-batches of `batch` sequences,
    /// which are then a function of their number, the seed and this.
    fn roll_out(&mut self, _executor: &mut dyn Executor, _step: u64, _batch: usize) -> Result<RollOut> {
        Ok(RollOut::default())
    }

    /// Names and shapes of states beside the parameters that micro-batches change and checkpoints keep. They are zero at first. Each
    /// micro-batch of a step has as large a part of each, in their order, which no other micro-batch reads or writes.
    fn states(&self) -> Vec<(String, Vec<usize>)> {
        vec![]
    }

    /// What a checkpoint keeps of the objective beside the parameters: roll-outs that further steps learn from.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Goes on with what [`Objective::state`] said.
    fn restore(&mut self, _state: &serde_json::Value) -> Result<()> {
        Ok(())
    }

    /// Sets initial values of trained networks beside the first, where they are not drawn.
    fn initialise(&mut self, _executor: &mut dyn Executor) -> Result<()> {
        Ok(())
    }

    /// Loads networks that are not trained, such as a reference. Parameters of trained networks are set already, and the device holds
    /// nothing else that the objective has loaded.
    fn prepare(&mut self, _executor: &mut dyn Executor) -> Result<()> {
        Ok(())
    }

    /// Whether the first network has a head of its own, that is a head which `--freeze all` leaves to train.
    fn has_head(&self) -> bool {
        self.networks()[0].config().trains_head()
    }

    /// Writes the model as a folder that others load; `parameters` are those of the first network and of heads on it, by their
    /// names without prefix.
    fn save(&self, folder: &Path, parameters: &[NamedTensor], tokenizer: Option<&Tokenizer>) -> Result<()> {
        write_folder(folder, self.networks()[0].config(), parameters, tokenizer, WeightType::F32)
    }

    /// A loss that no model can beat, in nats, and its name, where one is known.
    fn floor(&self) -> Option<(f64, &'static str)> {
        None
    }
}

/// A micro-batch: the values of a program's inputs. It is filled again for every micro-batch, and keeps its memory.
#[derive(Debug)]
pub struct Batch {
    /// Sequences or examples.
    pub size: usize,
    pub seed: u64,
    /// Index in [`Objective::shapes`].
    pub shape: usize,
    /// Tokens that are trained on, for the log.
    pub tokens: usize,
    inputs: Vec<(&'static str, Vec<u32>)>,
    /// Inputs that this micro-batch has.
    used: usize,
}

impl Batch {
    pub fn new(size: usize, seed: u64) -> Batch {
        Batch { size, seed, shape: 0, tokens: 0, inputs: vec![], used: 0 }
    }

    /// Sets an input of u32, such as ids.
    pub fn set(&mut self, name: &'static str, words: &[u32]) {
        if self.used == self.inputs.len() {
            self.inputs.push((name, vec![]));
        }
        let (slot, values) = &mut self.inputs[self.used];
        *slot = name;
        values.clear();
        values.extend_from_slice(words);
        self.used += 1;
    }

    /// Sets an input of f32.
    pub fn set_f32(&mut self, name: &'static str, values: &[f32]) {
        self.set(name, bytemuck::cast_slice(values));
    }

    /// Forgets the inputs, and keeps their memory.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Writes the inputs to a program.
    pub fn write(&self, executor: &mut dyn Executor, program: Program) -> Result<()> {
        let mut inputs = self.inputs[..self.used].iter();
        inputs.try_for_each(|(name, words)| executor.write(program, name, bytemuck::cast_slice(words)))
    }
}

/// The evaluation program of each shape.
pub struct EvaluationPrograms<'a> {
    pub executor: &'a mut dyn Executor,
    pub programs: &'a [Program],
    pub shapes: &'a [ShapeKey],
    pub settings: &'a Settings,
}

impl EvaluationPrograms<'_> {
    /// Replays a batch on the program of its shape, which is not waited for.
    pub fn run(&mut self, batch: &Batch) -> Result<Program> {
        let program = self.programs[batch.shape];
        batch.write(self.executor, program)?;
        self.executor.run(program, 0, &Step::default())?;
        Ok(program)
    }
}

/// What was drawn before a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RollOut {
    /// Numbers that are logged with the step, under these names.
    pub scalars: Vec<(&'static str, f32)>,
    /// One of the texts, for people.
    pub sample: Option<String>,
    /// How it was drawn, for people.
    pub note: Option<String>,
}

impl RollOut {
    /// The measures of a roll-out on validation data: a policy is the better the higher its `reward`, which minus the loss is.
    pub fn evaluation(self) -> Evaluation {
        let reward = self.scalars.iter().find(|(name, _)| *name == "reward").map_or(f64::NAN, |(_, r)| f64::from(*r));
        let text = self.scalars.iter().map(|(name, value)| format!("{name} {value:.3}")).collect::<Vec<_>>().join(", ");
        let scalars = vec![("val_reward", reward)];
        Evaluation { loss: -reward, value: Some(reward), scalars, text }
    }
}

/// Measures of the validation data.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean loss, in nats per token or per example.
    pub loss: f64,
    /// The measure of the best model: higher is better. Nothing where it is not defined.
    pub value: Option<f64>,
    /// Further numbers, logged under these names.
    pub scalars: Vec<(&'static str, f64)>,
    /// The measures as text, where there are more than the loss.
    pub text: String,
}
