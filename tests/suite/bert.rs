//! BERT against transformers: logits, pooled states, scores of heads, losses, gradients, folders both ways, and masked words.
//! tests/fixtures/bert_random.py makes the folders and the numbers.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::tempdir;
use wgpt::checks::check_close;
use wgpt::data::labelled::Task;
use wgpt::data::labelled::target::Target;
use wgpt::data::tagged::tags::Labels;
use wgpt::executor::Executor;
use wgpt::formats::folder::{NamedTensor, WeightType, Weights, read_config, write_folder};
use wgpt::formats::upload::upload;
use wgpt::generate::fill::Filler;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step};
use wgpt::models::blocks::Compute;
use wgpt::models::config::{Config, Dropout, Heads};
use wgpt::models::network::Network;
use wgpt::objectives::answer::Answer;
use wgpt::objectives::answer::folder::AnswerFile;
use wgpt::objectives::labelled::RECIPE;
use wgpt::objectives::labelled::head::{Head, OfEncoder};
use wgpt::objectives::labelled::scorer;
use wgpt::objectives::masked::Masked;
use wgpt::objectives::tag::Tag;
use wgpt::objectives::tag::folder::TagFile;
use wgpt::ops::IGNORED;
use wgpt::ops::gather_rows::GatherRows;
use wgpt::reference::Cpu;
use wgpt::train::graph::{Optimizer, TrainingGraph};
use wgpt::train::objective::{Objective, ShapeKey};
use wgpt::train::settings::Choices;

const BATCH: usize = 3;
const TIME: usize = 16;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert_random").join(name)
}

struct Case {
    config: Config,
    weights: Weights,
    numbers: Vec<u8>,
}

impl Case {
    fn open(name: &str) -> Case {
        let config = Config { dropout: Dropout::default(), ..read_config(&folder(name)).unwrap() };
        let weights = Weights::open(&folder(name), &config).unwrap();
        Case { config, weights, numbers: fs::read(folder(name).join("expected.safetensors")).unwrap() }
    }

    fn get<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, name: &str) -> Vec<T> {
        let file = safetensors::SafeTensors::deserialize(&self.numbers).unwrap();
        bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
    }

    /// An output of a graph over the padded ids.
    fn output(&self, device: &mut dyn Executor, build: impl Fn(&mut Graph, &Network)) -> Vec<f32> {
        let network = Network::new(self.config.clone());
        let mut g = Graph::new();
        network.declare(&mut g);
        build(&mut g, &network);
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        upload(device, &network, &self.weights).unwrap();
        let types = self.config.encoder.unwrap().token_types > 1;
        for name in ["ids", "lengths"].into_iter().chain(types.then_some("types")) {
            device.write(program, name, bytemuck::cast_slice(&self.get::<u32>(name))).unwrap();
        }
        device.run(program, 0, &Step::default()).unwrap();
        device.read(program, "output").unwrap()
    }
}

/// Hidden states of ids, types and lengths.
fn encoded(g: &mut Graph, network: &Network) -> wgpt::graph::Tensor {
    let ids = g.input("ids", Shape::u32(&[BATCH, TIME]));
    let has_types = network.config().encoder.unwrap().token_types > 1;
    let types = has_types.then(|| g.input("types", Shape::u32(&[BATCH, TIME])));
    let lengths = g.input("lengths", Shape::u32(&[BATCH]));
    network.inference().encoded(g, ids, types, Some(lengths))
}

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

/// Sums of 16 to 24 products of numbers around 1 in f32, through two blocks and norms that divide by small deviations.
const ATOL: f32 = 5e-5;

#[test]
fn logits_of_padded_rows_are_those_of_transformers() {
    for name in ["masked", "masked_half", "masked_sharded", "old_names", "pretraining", "roberta", "distilbert"] {
        let case = Case::open(name);
        let heads = if name == "pretraining" { Heads::Pretraining } else { Heads::Masked };
        assert_eq!(case.config.heads_of_encoder(), heads, "{name}");
        for (label, mut device) in devices() {
            let got = case.output(device.as_mut(), |g, network| {
                let x = encoded(g, network);
                let logits = network.inference().head(g, x);
                g.output("output", logits);
            });
            let (want, v) = (case.get::<f32>("logits"), case.config.vocab_size);
            for (row, length) in case.get::<u32>("lengths").iter().enumerate() {
                let counted = row * TIME * v..(row * TIME + *length as usize) * v;
                let what = format!("{name}, {label}, row {row}");
                check_close(&what, &got[counted.clone()], &want[counted], ATOL, 1e-5).unwrap();
            }
        }
    }
}

#[test]
fn the_pooler_and_what_follows_are_those_of_transformers() {
    let first = (0..BATCH as u32).map(|row| row * TIME as u32).collect::<Vec<_>>();
    for (name, wanted) in [("body", "pooled"), ("pretraining", "follows_logits")] {
        let case = Case::open(name);
        for (label, mut device) in devices() {
            let network = Network::new(case.config.clone());
            let mut g = Graph::new();
            network.declare(&mut g);
            let x = encoded(&mut g, &network);
            let rows = g.input("firsts", Shape::u32(&[BATCH]));
            let x = g.apply(GatherRows, &[x, rows]);
            let (family, model) = (case.config.family(), network.inference());
            let mut y = family.pooled(&model, &mut g, x);
            if name == "pretraining" {
                y = family.follows(&model, &mut g, y);
            }
            g.output("output", y);
            let plan = Plan::new(&g, device.limits()).unwrap();
            let program = device.load(&g, plan).unwrap();
            upload(device.as_mut(), &network, &case.weights).unwrap();
            for input in ["ids", "types", "lengths"] {
                device.write(program, input, bytemuck::cast_slice(&case.get::<u32>(input))).unwrap();
            }
            device.write(program, "firsts", bytemuck::cast_slice(&first)).unwrap();
            device.run(program, 0, &Step::default()).unwrap();
            let got = device.read(program, "output").unwrap();
            check_close(&format!("{name}, {label}"), &got, &case.get::<f32>(wanted), ATOL, 1e-5).unwrap();
        }
    }
}

#[test]
fn scores_of_heads_are_those_of_transformers() {
    let labels = || Target::Labels(["a", "b", "c"].map(String::from).to_vec());
    let cases = [
        ("classify", Task::Classify, labels(), 3),
        ("grades", Task::Similar, Target::Grade, 3),
        ("choose", Task::Choose, Target::Choices(3), 1),
        ("roberta_classify", Task::Classify, labels(), 3),
    ];
    for (name, task, target, batch) in cases {
        let case = Case::open(name);
        let types = case.config.encoder.unwrap().token_types > 1;
        assert_eq!((case.config.heads_of_encoder(), types), (Heads::Pooler, name != "roberta_classify"), "{name}");
        let encoder = Some(OfEncoder { separator: 3, types });
        let head = Head { task, target, width: 16, batch, dropout: 0.0, encoder };
        for (label, mut device) in devices() {
            let network = Network::new(case.config.clone());
            let g = scorer::graph(&network, &head, TIME);
            let plan = Plan::new(&g, device.limits()).unwrap();
            let program = device.load(&g, plan).unwrap();
            upload(device.as_mut(), &network, &case.weights).unwrap();
            for (tensor, _, values) in case.weights.head().unwrap() {
                device.write_state(tensor, &values).unwrap();
            }
            let firsts = (0..BATCH as u32).map(|row| row * TIME as u32).collect::<Vec<_>>();
            device.write(program, "positions.0", bytemuck::cast_slice(&firsts)).unwrap();
            for input in ["ids", "lengths"].into_iter().chain(types.then_some("types")) {
                device.write(program, input, bytemuck::cast_slice(&case.get::<u32>(input))).unwrap();
            }
            device.run(program, 0, &Step::default()).unwrap();
            let got = device.read(program, "scores").unwrap();
            check_close(&format!("{name}, {label}"), &got, &case.get::<f32>("scores"), ATOL, 1e-5).unwrap();
        }
    }
}

#[test]
fn scores_of_tokens_are_those_of_transformers() {
    let settings = Choices::default().resolve(&RECIPE, |_| 1).unwrap();
    let labels = Labels::named(["O", "B-A", "I-A", "B-B", "I-B"].map(String::from).to_vec()).unwrap();
    let shape = ShapeKey { batch: BATCH, sequences: 1, length: TIME };
    for name in ["tag", "answer"] {
        let case = Case::open(name);
        let config = case.config.clone();
        let objective: Box<dyn Objective> = match name {
            "tag" => {
                let file = TagFile::new(labels.clone(), 24, Default::default());
                Box::new(Tag::new(config, file, &settings, (vec![], vec![])))
            }
            _ => Box::new(Answer::new(
                config,
                AnswerFile::new(24, None, Default::default()),
                &settings,
                (vec![], vec![]),
            )),
        };
        // Rows of starts and ends, as the scores are here.
        let want = match name {
            "tag" => case.get::<f32>("scores"),
            _ => case.get::<f32>("start").into_iter().zip(case.get::<f32>("end")).flat_map(|(s, e)| [s, e]).collect(),
        };
        let columns = want.len() / BATCH / TIME;
        for (label, mut device) in devices() {
            let network = &objective.networks()[0];
            let mut g = Graph::new();
            objective.evaluation(&mut g, &[network.inference()], shape);
            let plan = Plan::new(&g, device.limits()).unwrap();
            let program = device.load(&g, plan).unwrap();
            upload(device.as_mut(), network, &case.weights).unwrap();
            for (tensor, _, values) in case.weights.head().unwrap() {
                device.write_state(tensor, &values).unwrap();
            }
            for input in ["ids", "types", "lengths"] {
                device.write(program, input, bytemuck::cast_slice(&case.get::<u32>(input))).unwrap();
            }
            device.run(program, 0, &Step::default()).unwrap();
            let got = device.read(program, "scores").unwrap();
            for (row, length) in case.get::<u32>("lengths").iter().enumerate() {
                let counted = row * TIME * columns..(row * TIME + *length as usize) * columns;
                let what = format!("{name}, {label}, row {row}");
                check_close(&what, &got[counted.clone()], &want[counted], ATOL, 1e-5).unwrap();
            }
        }
    }
}

#[test]
fn losses_of_pretraining_and_their_gradients_are_those_of_transformers() {
    let optimizer = Optimizer { max_norm: 0.0, ..Optimizer::default() };
    for name in ["masked", "pretraining"] {
        let case = Case::open(name);
        let objective = Masked::without_data(case.config.clone(), TIME);
        let shape = ShapeKey { batch: BATCH, sequences: 1, length: TIME };
        // As many places for masks in each row as the objective has.
        let targets: Vec<i32> = case.get("targets");
        let (mut positions, mut masked) = (vec![], vec![]);
        for (row, targets) in targets.chunks(TIME).enumerate() {
            let of_row = (0..TIME).filter(|at| targets[*at] >= 0).collect::<Vec<_>>();
            positions.extend(of_row.iter().map(|at| (row * TIME + at) as u32));
            masked.extend(of_row.iter().map(|at| targets[*at] as u32));
            positions.resize(3 * (row + 1), IGNORED);
            masked.resize(3 * (row + 1), IGNORED);
        }
        assert_eq!(
            masked.iter().filter(|id| **id == IGNORED).count(),
            1,
            "a row has fewer masks than there is room for"
        );
        let network = &objective.networks()[0];
        for (label, mut device) in devices() {
            let build = |g: &mut Graph, models: &[wgpt::models::blocks::Model]| objective.loss(g, models, shape);
            let t = TrainingGraph::new(objective.networks(), Compute::default(), &optimizer, build);
            let plan = Plan::new(&t.graph, device.limits()).unwrap();
            let program = device.load(&t.graph, plan).unwrap();
            upload(device.as_mut(), network, &case.weights).unwrap();
            let mut inputs =
                vec![("ids", case.get::<u32>("ids")), ("positions", positions.clone()), ("targets", masked.clone())];
            if name == "pretraining" {
                let firsts = (0..BATCH as u32).map(|row| row * TIME as u32).collect();
                inputs.extend([("types", case.get("types")), ("follows", case.get("follows")), ("firsts", firsts)]);
                inputs.push(("ones", vec![1.0f32.to_bits(); BATCH]));
            }
            for (input, words) in &inputs {
                device.write(program, input, bytemuck::cast_slice(words)).unwrap();
            }
            device.run(program, 0, &Step::default()).unwrap();
            let got = device.read_state("step.loss_sum").unwrap();
            check_close(&format!("{name}, {label}: loss"), &got, &case.get::<f32>("loss"), 0.0, 5e-6).unwrap();
            for (parameter, dims) in case.config.parameters() {
                let got = device.read_state(&format!("{parameter}.grad")).unwrap();
                let parts = case.config.parts(&parameter, &dims);
                let want: Vec<f32> =
                    parts.iter().flat_map(|(part, _)| case.get::<f32>(&format!("grad.{part}"))).collect();
                let largest = want.iter().fold(0f32, |m, v| m.max(v.abs()));
                // Roundings of the largest terms; the keys' biases have none but those.
                check_close(
                    &format!("{name}, {label}: gradient of {parameter}"),
                    &got,
                    &want,
                    3e-5 * largest + 1e-7,
                    5e-5,
                )
                .unwrap();
            }
        }
    }
}

#[test]
fn folders_are_written_back_with_every_bit_and_their_own_names() {
    for name in ["masked", "pretraining", "body"] {
        let config = read_config(&folder(name)).unwrap();
        let weights = Weights::open(&folder(name), &config).unwrap();
        let whole = |parameter: &str, dims: &[usize]| -> Vec<f32> {
            config
                .parts(parameter, dims)
                .iter()
                .flat_map(|(part, _)| weights.read(part).unwrap().into_owned())
                .collect()
        };
        let values: Vec<_> =
            config.parameters().into_iter().map(|(n, d)| (n.clone(), d.clone(), whole(&n, &d))).collect();
        let tensors: Vec<NamedTensor> = values.iter().map(|(n, dims, v)| (n.clone(), dims.clone(), &v[..])).collect();
        let written = tempdir().unwrap();
        write_folder(written.path(), &config, &tensors, None, WeightType::F32).unwrap();
        let again = read_config(written.path()).unwrap();
        assert_eq!(again, config, "{name}");
        let read_back = Weights::open(written.path(), &again).unwrap();
        for part in weights.names() {
            assert_eq!(read_back.read(part).unwrap(), weights.read(part).unwrap(), "{name}: {part}");
        }
        // The body alone has names without the model's prefix in transformers, and is loaded with it as well.
        let names = |folder: &Path| {
            let bytes = fs::read(folder.join("model.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let mut names: Vec<String> =
                file.names().into_iter().map(|n| n.trim_start_matches("bert.").to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(written.path()), names(&folder(name)), "{name}");
    }
}

#[test]
fn a_roberta_whose_head_has_another_activation_than_its_blocks_is_refused() {
    let read = |activation: &str, class: &str| {
        let mut config: Value =
            serde_json::from_slice(&fs::read(folder("roberta").join("config.json")).unwrap()).unwrap();
        (config["hidden_act"], config["architectures"]) = (activation.into(), json!([class]));
        Config::from_json(&config.to_string(), Path::new("config.json")).map_err(|error| error.to_string())
    };
    let refused = read("gelu_new", "RobertaForMaskedLM").unwrap_err();
    assert!(refused.contains("hidden_act") && refused.contains("must be gelu"), "{refused}");
    assert!(read("gelu", "RobertaForMaskedLM").is_ok() && read("gelu_new", "RobertaForTokenClassification").is_ok());
}

#[test]
fn masked_words_have_the_probabilities_of_the_logits() {
    let case = Case::open("masked");
    let network = Network::new(case.config.clone());
    // Texts of three lengths, in which token 4 is the mask: one has it twice, and one not at all.
    let texts: Vec<Vec<u32>> = vec![vec![2, 4, 9, 4, 3], (5..20).chain([4]).collect(), vec![2, 8, 3]];
    let mut cpu = Cpu::default();
    let filled = Filler::new(&mut cpu, &network, &case.weights).fill(&texts, 4, (45, 45)).unwrap();
    assert_eq!(filled.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 0]);
    for words in filled.iter().flatten() {
        let sum: f64 = words.iter().map(|word| f64::from(word.log_probability).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!(words.windows(2).all(|pair| pair[0].log_probability >= pair[1].log_probability), "the likeliest first");
    }
    // Padding changes nothing: a text alone, and beside longer ones, in the same program or another.
    let mut gpu = Gpu::with(choose("auto").unwrap(), Some(AdapterKind::Gpu), true).unwrap();
    let alone = Filler::new(&mut gpu, &network, &case.weights).fill(&texts[..1], 4, (3, 45)).unwrap();
    for (one, other) in alone[0].iter().flatten().zip(filled[0].iter().flat_map(|words| &words[..3])) {
        assert_eq!(one.id, other.id);
        assert!((one.log_probability - other.log_probability).abs() < 1e-4, "{one:?} {other:?}");
    }
}
