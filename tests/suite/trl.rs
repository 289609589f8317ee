//! What the tests of trl's trainers have alike: three steps of adapters against the tensors that tests/fixtures/align.py keeps of them.

use crate::hugging_face::fixture;
use crate::llama::{largest, worst};
use std::fs;
use wgpt::data::dialogues::Encoded;
use wgpt::executor::Executor;
use wgpt::formats::adapter;
use wgpt::formats::folder::Weights;
use wgpt::graph::Parameter;
use wgpt::models::config::Config;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::objective::Objective;
use wgpt::train::record::Record;
use wgpt::train::settings::{Choices, Recipe, Settings};
use wgpt::train::trainer::Trainer;

/// Name, folder and the layers with adapters of each model.
pub const MODELS: [(&str, &str, &str); 2] =
    [("gpt2", "gpt2_random/inner_50_gelu", "c_attn"), ("llama", "llama_random/llama", "q_proj,v_proj")];

/// The dump of a model.
pub struct Dump(Vec<u8>);

impl Dump {
    pub fn of(objective: &str, model: &str) -> Dump {
        Dump(fs::read(fixture(&format!("{objective}/{model}.safetensors"))).unwrap())
    }

    pub fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> (Vec<T>, Vec<usize>) {
        let file = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        (bytemuck::pod_collect_to_vec(tensor.data()), tensor.shape().to_vec())
    }

    /// The answers with their prompts.
    pub fn answers(&self) -> Vec<Encoded> {
        let (ids, shape) = self.get::<i32>("ids");
        let (learned, _) = self.get::<i32>("learned");
        let answer = |(ids, learned): (&[i32], &[i32])| {
            let len = ids.iter().take_while(|id| **id >= 0).count();
            Encoded {
                ids: ids[..len].iter().map(|id| *id as u32).collect(),
                learned: learned[..len].iter().map(|flag| *flag == 1).collect(),
                parted: false,
            }
        };
        ids.chunks(shape[1]).zip(learned.chunks(shape[1])).map(answer).collect()
    }
}

/// A run as trl's in the fixtures: three steps, linear decay, no clipping.
pub fn settings(batch: usize, targets: &str, recipe: &Recipe) -> (Choices, Settings) {
    let choices = Choices {
        batch: Some(batch),
        accumulate: Some(4 / batch),
        steps: Some(3),
        lr: Some(1e-2),
        clip: Some(0.0),
        lora: Some(2),
        lora_alpha: Some(4.0),
        lora_targets: Some(targets.into()),
        ..Choices::default()
    };
    (choices.clone(), choices.resolve(recipe, |_| 2).unwrap())
}

/// Three steps that the fixtures have under `name`.
pub struct Steps<'a> {
    pub dump: &'a Dump,
    pub name: &'a str,
    /// For messages.
    pub label: String,
    pub config: &'a Config,
    pub settings: &'a Settings,
}

impl Steps<'_> {
    /// The values of a parameter in the dump.
    fn parts(&self, kind: &str, parameter: &Parameter) -> Vec<f32> {
        let parts = self.config.parts(&parameter.name, &parameter.dims);
        let stored = |part: &str| format!("{kind}.{}{}{part}", adapter::PREFIX, self.config.family().prefix());
        parts.iter().flat_map(|(part, _)| self.dump.get::<f32>(&stored(part)).0).collect()
    }

    /// Takes them from the fixture's adapters on; the gradients of the first step, the losses and the adapters behind the third are
    /// those of the fixture. The records of the steps.
    pub fn take(&self, device: Box<dyn Executor>, objective: Box<dyn Objective>, weights: &Weights) -> Vec<Record> {
        self.taken(device, objective, weights).0
    }

    /// As [`Steps::take`], with the run as it is after them.
    pub fn taken(
        &self,
        device: Box<dyn Executor>,
        objective: Box<dyn Objective>,
        weights: &Weights,
    ) -> (Vec<Record>, Trainer) {
        let (name, label) = (self.name, &self.label);
        let blueprint = Blueprint::new(objective.as_ref(), self.settings, device.limits()).unwrap();
        let mut trainer = Trainer::new(device, blueprint, objective, self.settings.clone()).unwrap();
        trainer.initialise(Some(weights)).unwrap();
        let adapters: Vec<_> = trainer.trained().iter().filter(|p| p.adapter).cloned().collect();
        for parameter in &adapters {
            trainer.executor().write_state(&parameter.name, &self.parts("start", parameter)).unwrap();
        }
        let mut records = trainer.step().unwrap();
        records.extend(trainer.finish().unwrap());
        for parameter in &adapters {
            let want = self.parts(&format!("{name}.grad"), parameter);
            let got = trainer.executor().read_state(&format!("{}.exp_avg", parameter.name)).unwrap();
            let got: Vec<f32> = got.iter().map(|mean| mean / 0.1).collect();
            let error = worst(&got, &want) / largest(&want).max(1e-6);
            println!("{label}: gradient of {} {error:.1e} of its largest off", parameter.name);
            // f32 sums over some 60 tokens, through two blocks and back; trl's head is f32, too.
            assert!(error <= 5e-5, "{label}: {} {error}", parameter.name);
        }
        while trainer.steps_done() < 3 {
            records.extend(trainer.step().unwrap());
        }
        records.extend(trainer.finish().unwrap());
        let losses: Vec<f32> = records.iter().map(|record| record.loss).collect();
        self.close("loss", &losses, largest(&losses));
        for parameter in &adapters {
            let want = self.parts(&format!("{name}.final"), parameter);
            let error = worst(&trainer.executor().read_state(&parameter.name).unwrap(), &want);
            // AdamW divides a gradient by its own size: where one is near 1e-5 of the largest, its rounding counts.
            let most = 2e-4 * largest(&want).max(0.01);
            assert!(error <= most, "{label}: {} is {error} off", parameter.name);
        }
        (records, trainer)
    }

    /// Numbers are those of the fixture, to 1e-4 of `scale`: f32 against float64. What trl does not log in a step is 0 here.
    pub fn close(&self, what: &str, got: &[f32], scale: f32) {
        let (mut want, _) = self.dump.get::<f32>(&format!("{}.{what}", self.name));
        want.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
        let error = worst(got, &want) / scale;
        println!("{}: {what} {got:?}, {error:.1e} off", self.label);
        assert!(error <= 1e-4, "{}: {what} {got:?}, not {want:?}", self.label);
    }
}
