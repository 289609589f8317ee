//! Networks in one store: prefixes keep them apart, states are freed, and parameters are those that the graph declares.

use std::collections::BTreeMap;
use wgpt::executor::{Executor, tuned_plan};
use wgpt::generate::{Generator, SamplingParams};
use wgpt::gpu::Gpu;
use wgpt::graph::{Depth, Graph, Initial, Parameter, Shape};
use wgpt::models::blocks::Compute;
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::reference::Cpu;
use wgpt::train::graph::{Optimizer, TrainingGraph};

fn config() -> Config {
    Config { initializer_range: 0.3, ..Config::new(31, 16, 2, 2, 16) }
}

/// The logits' graph of a network, loaded.
fn load(device: &mut dyn Executor, network: &Network) -> wgpt::error::Result<()> {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, 4]));
    let logits = network.inference().logits(&mut g, ids);
    g.output("logits", logits);
    let plan = tuned_plan(device, &g)?;
    device.load(&g, plan).map(|_| ())
}

#[test]
fn two_networks_with_one_name_are_refused_and_two_prefixes_are_not() {
    let policy = Network::new(config());
    for (label, mut device) in [
        ("reference", Box::new(Cpu::default()) as Box<dyn Executor>),
        ("kernels", Box::new(Gpu::open("auto").unwrap())),
    ] {
        load(device.as_mut(), &policy).unwrap();
        load(device.as_mut(), &policy.clone()).unwrap();
        let error = load(device.as_mut(), &Network::new(config())).unwrap_err().to_string();
        assert!(error.contains("two networks") && error.contains("wte.weight"), "{label}: {error}");
        let reference = Network::with_prefix(config(), "reference.");
        load(device.as_mut(), &reference).unwrap();
        let [a, b] = ["wte.weight", "reference.wte.weight"];
        device.write_state(a, &vec![1.0; 31 * 16]).unwrap();
        assert_eq!(device.read_state(b).unwrap(), vec![0.0; 31 * 16], "{label}: states of their own");
    }
}

#[test]
#[should_panic(expected = "a state of another network")]
fn a_graph_does_not_merge_two_networks() {
    let mut g = Graph::new();
    let ids = g.input("ids", Shape::u32(&[1, 4]));
    Network::new(config()).inference().logits(&mut g, ids);
    Network::new(config()).inference().logits(&mut g, ids);
}

/// Of a policy and its frozen reference, only the first is trained.
#[test]
fn a_frozen_network_has_no_gradients_and_no_moments() {
    let networks = [Network::new(config()), Network::with_prefix(config(), "reference.").frozen()];
    let t = TrainingGraph::new(&networks, Compute::default(), &Optimizer::default(), |g, models| {
        let ids = g.input("ids", Shape::u32(&[1, 8]));
        let targets = g.input("targets", Shape::u32(&[1, 8]));
        let logits = models[1].logits(g, ids);
        g.output("reference", logits);
        let x = models[0].hidden(g, ids);
        models[0].token_loss(g, x, targets, 1.0)
    });
    let count = networks[0].parameters().len();
    assert_eq!((t.parameters().len(), t.trained().len()), (2 * count, count));
    let states = t.graph.nodes().iter().map(|n| n.label.as_str());
    let of_reference: Vec<&str> =
        states.filter(|name| name.starts_with("reference.") && name.contains(".grad")).collect();
    assert!(of_reference.is_empty(), "{of_reference:?}");
}

#[test]
fn a_generator_gives_its_caches_back() {
    let network = Network::new(config());
    let draw = SamplingParams::GREEDY;
    for (label, mut device) in [
        ("reference", Box::new(Cpu::default()) as Box<dyn Executor>),
        ("kernels", Box::new(Gpu::open("auto").unwrap())),
    ] {
        load(device.as_mut(), &network).unwrap();
        for parameter in network.parameters() {
            device.write_state(&parameter.name, &initial_values(parameter, 3)).unwrap();
        }
        let before = device.allocated_bytes();
        let mut texts = vec![];
        for _ in 0..2 {
            let mut generator = Generator::of_store(device.as_mut(), &network, 31, 2).unwrap();
            let mut text = vec![];
            let mut take = |_: usize, token: wgpt::generate::Token| {
                text.push(token.id);
                Ok(true)
            };
            generator.sample(device.as_mut(), &[3, 7], 6, &draw, 0, &mut take).unwrap();
            // Two layers' keys and values of two rows.
            assert!(device.allocated_bytes() >= before + 2 * 2 * 2 * 16 * 16 * 4, "{label}");
            generator.free(device.as_mut());
            assert_eq!(device.allocated_bytes(), before, "{label}: what was allocated is freed");
            texts.push(text);
        }
        assert_eq!(texts[0], texts[1], "{label}");
    }
}

/// Initial distribution and weight decay of a parameter are declared where the graph is built.
#[test]
fn parameters_are_declared_with_their_initial_values() {
    let by_name = |config: Config| -> BTreeMap<String, Parameter> {
        Network::new(config).parameters().iter().map(|p| (p.name.clone(), p.clone())).collect()
    };
    let gpt2 = by_name(Config { tied: false, ..config() });
    let normal = |std: f64| Initial::Normal { std };
    let std = f64::from(0.3f32);
    let expected = [
        ("wte.weight", normal(std), true, Depth::Embedding),
        ("wpe.weight", normal(std), true, Depth::Embedding),
        ("h.0.ln_1.weight", Initial::Ones, false, Depth::Block(0)),
        ("h.1.attn.c_attn.bias", Initial::Zeros, false, Depth::Block(1)),
        ("h.1.mlp.c_fc.weight", normal(std), true, Depth::Block(1)),
        // Two layers: 0.3 / sqrt(4), as GPT-2 scales projections onto the residual stream.
        ("h.1.mlp.c_proj.weight", normal(std / 2.0), true, Depth::Block(1)),
        ("ln_f.bias", Initial::Zeros, false, Depth::Top),
        ("lm_head.weight", normal(std), true, Depth::Head),
    ];
    for (name, initial, decays, depth) in expected {
        let p = &gpt2[name];
        assert_eq!((p.initial, p.decays, p.depth), (initial, decays, depth), "{name}");
    }
    let values = initial_values(&gpt2["h.1.mlp.c_proj.weight"], 1);
    let spread = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!((spread / 0.15 - 1.0).abs() < 0.1, "{spread}");
}

/// `config.json` names the standard deviation that matrices are drawn with, whatever chose it. Projections onto the residual
/// stream of GPT and GPT-2, and of the small presets of LLaMA, have it divided by sqrt(2 layers), those of other LLaMAs do not.
#[test]
fn config_json_says_the_standard_deviation_of_the_initial_values() {
    for (preset, layers, given, want, scaled) in [
        (None, None, None, 0.1, true),
        (None, Some(3), None, PresetRecipe::of(None).init_std, true),
        (None, Some(3), Some(0.07), 0.07, true),
        (Some("gpt-mini"), None, None, 0.1, true),
        (Some("llama-mini"), None, None, 0.1, true),
        (Some("mixtral"), None, Some(0.03), 0.03, true),
        (Some("smollm2-135m"), None, None, 0.02, false),
    ] {
        let choices = ModelChoices { preset: preset.map(String::from), layers, init_std: given, ..Default::default() };
        let config = choices.config(40, PresetRecipe::of(choices.recipe()).init_std).unwrap();
        let written: serde_json::Value = serde_json::from_str(&config.to_json()).unwrap();
        assert_eq!(written["initializer_range"].as_f64().map(|std| std as f32), Some(want), "{choices:?}");
        let residual = if scaled { f64::from(want) / (2.0 * config.layers as f64).sqrt() } else { f64::from(want) };
        for Parameter { name, initial, .. } in Network::new(config).parameters() {
            let Initial::Normal { std } = initial else { continue };
            let onto_residual = ["c_proj.weight", "o_proj.weight", "down_proj.weight", ".w2.weight"];
            let want = if onto_residual.iter().any(|end| name.ends_with(end)) { residual } else { f64::from(want) };
            assert!((std - want).abs() < 1e-9, "{choices:?}, {name}: {std} where {want} is right");
        }
    }
}
