//! Heads on a model: losses and gradients against PyTorch, classifiers of transformers, padding, frozen layers.
//! tests/fixtures/finetune.py makes the numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::tempdir;
use wgpt::checks::check_close;
use wgpt::data::buckets::Buckets;
use wgpt::data::labelled::target::{Answer, Target};
use wgpt::data::labelled::{Example, Task};
use wgpt::data::tokenizer::Tokenizer;
use wgpt::executor::Executor;
use wgpt::executor::programs::Programs;
use wgpt::formats::source::ModelSource;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Limits, Plan, Step};
use wgpt::models::blocks::{Compute, Model};
use wgpt::models::config::{Config, SCORE};
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::labelled::batch::{Item, LabelledBatch};
use wgpt::objectives::labelled::folder::open;
use wgpt::objectives::labelled::head::Head;
use wgpt::objectives::labelled::prepare::prepare;
use wgpt::objectives::labelled::{loss, scorer};
use wgpt::ops::IGNORED;
use wgpt::reference::Cpu;
use wgpt::train::graph::{ACCUMULATE, Optimizer, TrainingGraph};
use wgpt::train::rates::{Freeze, Rates};

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

struct Dump(Vec<u8>);

impl Dump {
    fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Vec<T> {
        let file = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap_or_else(|_| panic!("{name}")).data())
    }
}

#[test]
fn losses_of_heads_and_their_gradients_are_those_of_pytorch() {
    let dump = Dump(fs::read(fixture("heads.safetensors")).unwrap());
    let config = Config::new(23, 8, 1, 2, 16);
    let labels = Target::Labels(["a", "b", "c"].map(String::from).to_vec());
    let tasks = [
        ("classify", Task::Classify, labels, 4),
        ("similar", Task::Similar, Target::Grade, 3),
        ("choose", Task::Choose, Target::Choices(4), 2),
    ];
    let optimizer = Optimizer { max_norm: 0.0, ..Optimizer::default() };
    for (name, task, target, batch) in tasks {
        let head = Head { task, target, width: 16, batch, dropout: 0.0, encoder: None };
        let of = |what: &str| format!("{name}.{what}");
        let targets: Vec<i32> = dump.get(&of("targets"));
        let targets: Vec<u32> = targets.into_iter().map(|id| if id < 0 { IGNORED } else { id as u32 }).collect();
        let ends: Vec<u32> = dump.get(&of("ends"));
        let last: Vec<u32> = ends.iter().zip(0..).map(|(end, row)| 8 * row + end).collect();
        for (lambda, key) in [(0.0, "task_loss"), (0.5, "loss")] {
            for (label, mut device) in devices() {
                let network = Network::new(config.clone());
                let networks = std::slice::from_ref(&network);
                let loss = |g: &mut Graph, m: &[Model]| loss(g, &m[0], &head, lambda, 8);
                let t = TrainingGraph::new(networks, Compute::default(), &optimizer, loss);
                let parameters = t.trained().to_vec();
                let plan = Plan::new(&t.graph, device.limits()).unwrap();
                let program = device.load(&t.graph, plan).unwrap();
                for (parameter, _) in config.parameters() {
                    device.write_state(&parameter, &dump.get::<f32>(&format!("param.{parameter}"))).unwrap();
                }
                device.write_state(SCORE, &dump.get::<f32>(&of("score"))).unwrap();
                device.write_state("step.loss_sum", &[0.0]).unwrap();
                for parameter in &parameters {
                    device.write_state(&format!("{}.grad", parameter.name), &vec![0.0; parameter.len()]).unwrap();
                }
                let mut write = |input: &str, words: &[u32]| {
                    device.write(program, input, bytemuck::cast_slice(words)).unwrap();
                };
                write("ids", &dump.get(&of("ids")));
                if lambda > 0.0 {
                    write("targets", &targets);
                }
                if task == Task::Similar {
                    let order = |n: usize| last.iter().skip(n).step_by(2).copied().collect::<Vec<_>>();
                    write("positions.0", &order(0));
                    write("positions.1", &order(1));
                    write("grades", &dump.get(&of("grades")));
                } else {
                    write("positions.0", &last);
                    write("classes", &dump.get(&of("classes")));
                }
                write("weights", &dump.get(&of("weights")));
                device.run(program, 0, &Step::default()).unwrap();
                let got = device.read_state("step.loss_sum").unwrap();
                // Two dozen logits of sums of 16 products, in f32.
                check_close(&format!("{label}: {name} {key}"), &got, &dump.get::<f32>(&of(key)), 0.0, 3e-6).unwrap();
                if lambda == 0.0 {
                    continue; // the fixture has the gradients of L3
                }
                for parameter in parameters.iter().map(|p| &p.name) {
                    let got = device.read_state(&format!("{parameter}.grad")).unwrap();
                    let want: Vec<f32> = dump.get(&of(&format!("grad.{parameter}")));
                    let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                    assert!(largest > 1e-5, "{name}: {parameter} has a gradient");
                    let what = format!("{label}: {name}: gradient of {parameter}");
                    // Roundings of the largest terms; the keys' biases have none but those.
                    check_close(&what, &got, &want, 1e-5 * largest + 1e-7, 2e-5).unwrap();
                }
            }
        }
    }
}

#[test]
fn a_classifier_of_transformers_has_its_logits() {
    let folder = tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("gpt2_classifier").join(file), folder.path().join(file)).unwrap();
    }
    Tokenizer::bytes().unwrap().save(folder.path()).unwrap();
    let model = open(&ModelSource::folder(folder.path())).unwrap();
    assert_eq!(model.task.target, Target::Labels(["no", "maybe", "yes"].map(String::from).to_vec()));
    let expected: Vec<Value> =
        serde_json::from_slice(&fs::read(fixture("gpt2_classifier/expected.json")).unwrap()).unwrap();
    let text = |case: &Value| case["text"].as_str().unwrap().to_string();
    let row =
        |case: &Value| Example { line: 1, texts: vec![text(case)], choices: vec![], label: None, rendered: false };
    let rows: Vec<Example> = expected.iter().map(row).collect();
    let prepared = prepare(&model.encoder(), &model.task.target, &rows, Path::new("texts")).unwrap();
    assert_eq!(prepared.cut, 1, "the context holds 12 tokens");
    for (label, mut device) in devices() {
        let scores = model.scores(device.as_mut(), &prepared.items, 2, 3).unwrap();
        for (case, got) in expected.iter().zip(&scores) {
            let want: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
            // Sums of 16 to 64 products through two blocks, in f32.
            check_close(&format!("{label}: {case}"), got, &want, 1e-5, 1e-5).unwrap();
        }
    }
    let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
    fs::write(folder.path().join("config.json"), config.replace("\"2\": \"yes\"", "\"2\": \"yes\", \"3\": \"?\""))
        .unwrap();
    let error = open(&ModelSource::folder(folder.path())).err().unwrap().to_string();
    assert!(error.contains("4 labels") && error.contains("3 outputs"), "{error}");
}

fn config() -> Config {
    Config::new(61, 32, 2, 2, 16)
}

fn head(batch: usize) -> Head {
    let target = Target::Labels(["a", "b", "c"].map(String::from).to_vec());
    Head { task: Task::Classify, target, width: 16, batch, dropout: 0.0, encoder: None }
}

/// Items of these lengths.
fn items(lengths: &[usize]) -> Vec<Item> {
    let item = |&n: &usize| {
        let ids = (0..n as u32).map(|i| (7 * i + n as u32) % 61).collect();
        Item { ids: vec![ids], answer: Some(Answer::Class(n % 3)), weight: 1.0 }
    };
    lengths.iter().map(item).collect()
}

/// The model of these tests; its parameters start far from zero.
fn network() -> Network {
    Network::new(Config { initializer_range: 0.3, ..config() })
}

/// The training graph of the head and the language model.
fn training_graph(network: &Network, head: &Head, freeze: Freeze, length: usize) -> TrainingGraph {
    let optimizer = Optimizer { rates: Rates { freeze, ..Rates::default() }, ..Optimizer::default() };
    let lambda = if freeze == Freeze::All { 0.0 } else { 0.5 };
    let networks = std::slice::from_ref(network);
    TrainingGraph::new(networks, Compute::default(), &optimizer, |g, m| loss(g, &m[0], head, lambda, length))
}

/// Every parameter, with seeded values.
fn write_parameters(device: &mut dyn Executor, network: &Network) {
    let t = training_graph(network, &head(1), Freeze::Layers(0), 8);
    for parameter in t.parameters() {
        device.write_state(&parameter.name, &initial_values(parameter, 4)).unwrap();
    }
}

#[test]
fn padding_changes_no_score() {
    let items = items(&[3, 9, 17, 30, 1, 12]);
    for (label, mut device) in devices() {
        let network = network();
        let mut score = |buckets: &[usize], batch: usize, items: &[Item]| {
            let (head, buckets, mut programs) = (head(batch), Buckets(buckets.to_vec()), Programs::default());
            for &length in &buckets.0 {
                programs.get(device.as_mut(), length, || scorer::graph(&network, &head, length)).unwrap();
            }
            write_parameters(device.as_mut(), &network);
            scorer::scores(device.as_mut(), &mut programs, (&network, &head, &buckets), items).unwrap()
        };
        let (all, bucketed) = (score(&[32], 6, &items), score(&[8, 16, 32], 4, &items));
        for (i, item) in items.iter().enumerate() {
            let alone = score(&[item.length()], 1, std::slice::from_ref(item)).remove(0);
            assert!(alone.iter().any(|score| score.abs() > 0.01), "{label}: scores are far from zero");
            // Attention and products may sum in pieces that depend on the length.
            check_close(&format!("{label}: padded {i}"), &all[i], &alone, 2e-6, 2e-6).unwrap();
            check_close(&format!("{label}: bucketed {i}"), &bucketed[i], &alone, 2e-6, 2e-6).unwrap();
        }
    }
}

#[test]
fn padding_changes_no_loss_and_no_gradient() {
    let items = items(&[5, 12, 9]);
    let members: Vec<&Item> = items.iter().collect();
    let network = network();
    for (label, mut device) in devices() {
        // Three examples in a batch of three of length 12, and in one of five of length 32.
        let mut results = vec![];
        for (batch, length) in [(3, 12), (5, 32)] {
            let t = training_graph(&network, &head(batch), Freeze::Layers(0), length);
            let plan = Plan::new(&t.graph, device.limits()).unwrap();
            let program = device.load(&t.graph, plan).unwrap();
            write_parameters(device.as_mut(), &network);
            let fed = LabelledBatch::new(&head(batch), &members, length);
            device.write(program, "ids", bytemuck::cast_slice(&fed.ids)).unwrap();
            device.write(program, "targets", bytemuck::cast_slice(&fed.targets)).unwrap();
            device.write(program, "positions.0", bytemuck::cast_slice(&fed.positions[0])).unwrap();
            device.write(program, "classes", bytemuck::cast_slice(&fed.classes)).unwrap();
            device.write(program, "weights", bytemuck::cast_slice(&fed.weights)).unwrap();
            let mut all = vec![];
            for parameter in t.trained() {
                let name = format!("{}.grad", parameter.name);
                device.write_state(&name, &vec![0.0; parameter.len()]).unwrap();
                all.push(name);
            }
            device.write_state("step.loss_sum", &[0.0]).unwrap();
            all.push("step.loss_sum".into());
            device.run(program, 0, &Step::default()).unwrap();
            let read = |name: String| (device.read_state(&name).unwrap(), name);
            results.push(all.into_iter().map(read).collect::<Vec<_>>());
        }
        let (long, short) = (results.pop().unwrap(), results.pop().unwrap());
        for ((want, name), (got, _)) in short.iter().zip(&long) {
            let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!(largest > 1e-5, "{label}: {name} is not zero");
            // Sums over rows, of which some are zero, in another order.
            check_close(&format!("{label}: {name}"), got, want, 4e-6 * largest + 1e-8, 1e-5).unwrap();
        }
    }
}

/// Kernels of the accumulate segment: (those of the model's parts below the head, going backwards, by place; all).
fn backward(freeze: Freeze, place: &str) -> (usize, usize) {
    let t = training_graph(&network(), &head(2), freeze, 8);
    let plan = Plan::new(&t.graph, &Limits::portable(AdapterKind::Gpu)).unwrap();
    let segment = &plan.segments[plan.segment(ACCUMULATE)];
    let kernels: Vec<_> = plan.kernels().take(segment.commands.len()).map(|k| k.label.clone()).collect();
    let prefix = format!("gradient of {place}");
    (kernels.iter().filter(|label| label.starts_with(&prefix)).count(), kernels.len())
}

#[test]
fn nothing_of_a_frozen_part_runs_backwards() {
    for place in ["h.0.", "h.1.", "embedding", "lm_head", "score"] {
        assert!(backward(Freeze::Layers(0), place).0 > 0, "{place} runs backwards where nothing is frozen");
    }
    for (place, runs) in [("h.0.", false), ("embedding", false), ("h.1.", true), ("lm_head", true), ("score", true)] {
        assert_eq!(backward(Freeze::Layers(1), place).0 > 0, runs, "{place} with one layer frozen");
    }
    assert_eq!(backward(Freeze::Layers(2), "h.").0, 0);
    assert!(backward(Freeze::Layers(2), "ln_f").0 > 0, "the norm above the layers is not frozen");
    for place in ["h.", "embedding", "ln_f", "lm_head"] {
        assert_eq!(backward(Freeze::All, place).0, 0, "{place} with all but the head frozen");
    }
    assert_eq!(backward(Freeze::All, "score: matmul").0, 1, "the gradient of the head's weight and nothing else");
    // Forward alone: what an evaluation runs, the loss, and three kernels of its gradient.
    let (_, all) = backward(Freeze::All, "");
    let evaluation = scorer::graph(&network(), &head(2), 8);
    let forward = Plan::new(&evaluation, &Limits::portable(AdapterKind::Gpu)).unwrap().kernels().count();
    let backward_only = ["fill", "class_loss_backward", "matmul", "add_in_place"].len();
    assert!(all <= forward + 2 + backward_only, "{all} kernels, {forward} of them forward");
    let names = |freeze| -> Vec<String> {
        let t = training_graph(&network(), &head(1), freeze, 8);
        t.trained().iter().map(|p| p.name.clone()).collect()
    };
    assert_eq!(names(Freeze::All), [SCORE]);
    assert!(names(Freeze::Layers(1)).iter().all(|name| !name.starts_with("h.0.") && !name.starts_with('w')));
    assert_eq!(names(Freeze::Layers(0)).len(), config().parameters().len() + 1);
}
