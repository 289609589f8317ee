//! The LLaMA family against transformers: what is computed from its folders, what is written back, and what is refused.
//! tests/fixtures/llama_random.py makes the folders and the numbers.

use crate::cli::{Place, error, has, stderr};
use crate::hugging_face::{dump, fixture, logits, open, write};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::tempdir;
use wgpt::data::tokenizer::Tokenizer;
use wgpt::executor::Executor;
use wgpt::formats::folder::{TensorFile, WeightType};
use wgpt::formats::upload::upload;
use wgpt::generate::stop::Continuation;
use wgpt::generate::{Generator, SamplingParams};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::{AdapterKind, Graph, Plan, Step};
use wgpt::models::config::{Config, Experts, FeedForward, Norm, Position};

use wgpt::models::blocks::Compute;
use wgpt::models::choices::{FeedForwardKind, ModelChoices, PositionKind};
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::ops::add::add_in_place;
use wgpt::ops::fill::Fill;
use wgpt::ops::rope::Scaling;
use wgpt::reference::Cpu;
use wgpt::train::graph::{Optimizer, TrainingGraph};

const CASES: [&str; 12] = [
    "llama",
    "llama3_rope_biased",
    "llama_linear_rope_bfloat16",
    "mistral_half",
    "mistral_body",
    "mixtral",
    "mixtral_window_half",
    "qwen2",
    "qwen2_window",
    "qwen2_windows",
    "qwen3",
    "qwen3_untied_half",
];

fn case(name: &str) -> PathBuf {
    fixture("llama_random").join(name)
}

pub fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

pub fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

pub fn worst(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    // Written so that a NaN stays.
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, |m, e| if e <= m { m } else { e })
}

#[test]
fn logits_of_every_folder_are_those_of_pytorch() {
    logits_agree(&CASES.map(|name| (name, case(name))));
}

/// Folders by name.
pub type Folders = [(&'static str, PathBuf)];

pub fn logits_agree(folders: &Folders) {
    for (name, folder) in folders {
        let (config, weights) = open(folder);
        let (ids, shape) = dump::<u32>(folder, "ids");
        let (want, _) = dump::<f32>(folder, "logits");
        for (label, mut device) in devices() {
            let got = logits(device.as_mut(), &config, &weights, &ids, [shape[0], shape[1]]);
            let error = worst(&got, &want) / largest(&want);
            println!("{name} with {label}: logits {error:.1e} of the largest off");
            // f32 sums in another order, through two blocks.
            assert!(error <= 5e-6, "{name} with {label}: {error} of the largest logit off");
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_pytorch() {
    gradients_agree(&["llama", "mixtral", "qwen3"].map(|name| (name, case(name))));
}

pub fn gradients_agree(folders: &Folders) {
    let optimizer = Optimizer { beta1: 0.9, beta2: 0.95, weight_decay: 0.1, max_norm: 0.0, ..Optimizer::default() };
    for (name, folder) in folders {
        let (config, weights) = open(folder);
        let prefix = config.family().prefix();
        let (ids, shape) = dump::<u32>(folder, "ids");
        let (targets, _) = dump::<u32>(folder, "targets");
        for (label, mut device) in devices() {
            let network = Network::new(config.clone());
            let networks = std::slice::from_ref(&network);
            let training = TrainingGraph::new(networks, Compute::default(), &optimizer, |g, m| {
                let loss = m[0].loss(g, shape[0], shape[1]);
                g.output("loss", loss);
                loss
            });
            let plan = Plan::new(&training.graph, device.limits()).unwrap();
            let program = device.load(&training.graph, plan).unwrap();
            upload(device.as_mut(), &network, &weights).unwrap();
            device.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
            device.write(program, "targets", bytemuck::cast_slice(&targets)).unwrap();
            device.run(program, 0, &Step::default()).unwrap();
            let (loss, want) = (device.read(program, "loss").unwrap(), dump::<f32>(folder, "loss").0);
            assert!(worst(&loss, &want) <= 1e-6 * want[0], "{name} with {label}: loss {loss:?}, not {want:?}");
            for (parameter, dims) in config.parameters() {
                let gradient = device.read_state(&format!("{parameter}.grad")).unwrap();
                let mut rest = gradient.as_slice();
                for (part, dims) in config.parts(&parameter, &dims) {
                    let (got, after) = rest.split_at(dims.iter().product());
                    rest = after;
                    let (want, _) = dump::<f32>(folder, &format!("grad.{prefix}{part}"));
                    let error = worst(got, &want) / largest(&want);
                    println!("{name} with {label}: {part} {error:.1e} of its largest gradient off");
                    // f32 sums over 48 tokens, through two blocks and back.
                    assert!(error <= 1e-5, "{name} with {label}: {part} is {error} of its largest gradient off");
                }
            }
        }
    }
}

#[test]
fn greedy_text_through_the_cache_is_that_of_transformers() {
    greedy_agrees(&CASES.map(|name| (name, case(name))));
}

pub fn greedy_agrees(folders: &Folders) {
    for (name, folder) in folders {
        let (config, weights) = open(folder);
        let (ids, shape) = dump::<u32>(folder, "ids");
        let (want, wanted) = dump::<u32>(folder, "greedy");
        for family in [AdapterKind::Software, AdapterKind::Gpu] {
            let mut device = Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap();
            let network = Network::new(config.clone());
            let mut generator = Generator::new(&mut device, &network, &weights, config.vocab_size, 1).unwrap();
            for (row, want) in want.chunks(wanted[1]).enumerate() {
                let prompt = &ids[row * shape[1]..][..8];
                let mut got = vec![];
                let mut take = |_: usize, token: wgpt::generate::Token| {
                    got.push(token.id);
                    Ok(true)
                };
                generator.sample(&mut device, prompt, want.len(), &SamplingParams::GREEDY, 0, &mut take).unwrap();
                assert_eq!(got, want, "{name}, row {row}, {family:?}");
            }
        }
    }
}

#[test]
fn tensors_are_written_back_with_every_bit() {
    for name in CASES {
        let (config, weights) = open(&case(name));
        let written = tempdir().unwrap();
        write(written.path(), &config, &weights, WeightType::F32);
        let (again, read_back) = open(written.path());
        assert_eq!(again, config, "{name}");
        for tensor in weights.names() {
            let (a, b) = (weights.read(tensor).unwrap(), read_back.read(tensor).unwrap());
            assert!(a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())), "{name}: {tensor}");
        }
        let names = TensorFile::open(&written.path().join("model.safetensors")).unwrap().names();
        assert_eq!(names.contains(&"lm_head.weight".to_string()), !config.tied, "{name}");
        assert!(names.iter().all(|n| n.starts_with("model.") || n == "lm_head.weight"), "{name}: {names:?}");
        assert!(names.iter().any(|n| n == "model.layers.0.self_attn.k_proj.weight"), "{name}: {names:?}");
    }
}

fn parse(model_type: &str, extra: Value) -> wgpt::error::Result<Config> {
    let mut object = json!({
        "model_type": model_type, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32,
        "intermediate_size": 48, "max_position_embeddings": 64, "vocab_size": 9
    });
    object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    Config::from_json(&object.to_string(), Path::new("some/config.json"))
}

#[test]
fn configs_from_the_wild_are_read_with_the_defaults_of_transformers() {
    let llama = parse("llama", json!({})).unwrap();
    assert_eq!((llama.kv_heads, llama.head_size, llama.tied, llama.window), (4, 8, false, None));
    assert_eq!(llama.position, Position::Rope { base: 10_000.0, scaling: Scaling::None });
    assert_eq!((llama.norm, llama.norm_epsilon), (Norm::RmsNorm, 1e-6));
    let mistral = parse("mistral", json!({"num_key_value_heads": 2})).unwrap();
    assert_eq!((mistral.kv_heads, mistral.window), (2, Some(4096)));
    let mistral = parse("mistral", json!({"num_attention_heads": 8, "sliding_window": null})).unwrap();
    assert_eq!((mistral.kv_heads, mistral.window), (8, None));
    let mixtral = parse("mixtral", json!({"num_attention_heads": 8, "attention_bias": true})).unwrap();
    let eight = Experts { count: 8, top: 2, balance: 0.001, z: 0.0 };
    assert_eq!((mixtral.experts(), mixtral.kv_heads, mixtral.window), (Some(eight), 8, None));
    assert_eq!((mixtral.norm_epsilon, mixtral.attention_bias), (1e-5, (false, false)));
    assert_eq!(mixtral.position, Position::Rope { base: 1e6, scaling: Scaling::None });
    let qwen3 = parse("qwen3", json!({"num_key_value_heads": 2})).unwrap();
    assert_eq!((qwen3.head_size, qwen3.head_norm), (128, true));
    let qwen2 = parse("qwen2", json!({"num_key_value_heads": 2, "sliding_window": 8, "max_window_layers": 2})).unwrap();
    assert_eq!((qwen2.attention_bias, qwen2.window), ((true, false), None));
    let windows =
        json!({"num_key_value_heads": 2, "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    let qwen2 = parse("qwen2", windows).unwrap();
    assert_eq!((qwen2.window, &qwen2.full_layers[..]), (Some(8), &[0][..]));
    // As files were before version 5 of transformers.
    let scaling = json!({"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
        "original_max_position_embeddings": 8192});
    let old = parse("llama", json!({"rope_theta": 500000.0, "rope_scaling": scaling})).unwrap();
    let scaling = Scaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    assert_eq!(old.position, Position::Rope { base: 500_000.0, scaling });
    let older = parse("llama", json!({"rope_scaling": {"type": "linear", "factor": 2}})).unwrap();
    assert_eq!(older.position, Position::Rope { base: 10_000.0, scaling: Scaling::Linear { factor: 2.0 } });
}

#[test]
fn settings_that_are_not_implemented_are_refused_by_name() {
    let refused = |model_type: &str, extra: Value, named: &str| {
        let message = parse(model_type, extra.clone()).expect_err(&extra.to_string()).to_string();
        assert!(message.contains(named) && message.contains("some/config.json"), "{extra}: {message}");
        assert!(!message.contains('\n'), "{message}");
    };
    refused("llama", json!({"mlp_bias": true}), "mlp_bias");
    refused("llama", json!({"hidden_act": "gelu"}), "hidden_act");
    refused("llama", json!({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}), "yarn");
    refused("llama", json!({"rope_parameters": {"rope_type": "longrope"}}), "longrope");
    refused("llama", json!({"rope_parameters": 3}), "rope_parameters");
    refused("llama", json!({"rope_parameters": {"rope_type": "linear"}}), "factor");
    refused("llama", json!({"rope_parameters": {"rope_type": "linear", "factor": -1.0}}), "rope_scaling");
    refused("llama", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor");
    refused("llama", json!({"num_key_value_heads": 3}), "num_key_value_heads");
    refused("llama", json!({"num_key_value_heads": 0}), "num_key_value_heads");
    refused("llama", json!({"head_dim": 6}), "head size");
    refused("llama", json!({"rms_norm_eps": 0.0}), "rms_norm_eps");
    refused("llama", json!({"architectures": ["LlamaForTokenClassification"]}), "LlamaForCausalLM");
    refused("llama", json!({"quantization_config": {"bits": 4}}), "quantization_config");
    let types = json!({"num_key_value_heads": 4, "layer_types": ["full_attention"]});
    refused("qwen2", types, "layer_types names 1 layers");
    refused("phi3", json!({}), "phi3");
    let experts = |extra: Value| {
        let mut object = json!({"num_key_value_heads": 4, "num_local_experts": 4});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        object
    };
    refused("mixtral", experts(json!({"num_experts_per_tok": 5})), "num_experts_per_tok");
    refused("mixtral", experts(json!({"num_experts_per_tok": 0})), "num_experts_per_tok");
    refused("mixtral", experts(json!({"num_local_experts": 5000})), "num_local_experts");
    refused("mixtral", experts(json!({"num_local_experts": "many"})), "num_local_experts");
    refused("mixtral", experts(json!({"router_aux_loss_coef": -1.0})), "router_aux_loss_coef");
    refused("mixtral", experts(json!({"router_jitter_noise": 0.1})), "router_jitter_noise");
    for key in ["num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"] {
        refused("llama", json!({ key: null }), key);
    }
}

#[test]
fn presets_have_the_published_sizes() {
    // The number of parameters that transformers counts for the checkpoints of these names.
    let published = [("smollm2-135m", 134_515_008), ("smollm2-360m", 361_821_120), ("tinyllama-1.1b", 1_100_048_384)];
    for (name, count) in published {
        assert_eq!(Config::preset(name).unwrap().parameter_count(), count, "{name}");
    }
    let (mini, mixtral) = (Config::preset("llama-mini").unwrap(), Config::preset("mixtral").unwrap());
    let ratio = mixtral.multiplied_count() as f64 / mini.multiplied_count() as f64;
    assert!(
        (0.99..1.0).contains(&ratio),
        "a token uses as many values of mixtral as of llama-mini, not {ratio} of them"
    );
    let (mini, demo) = (Config::preset("llama-mini").unwrap(), Config::preset("demo").unwrap());
    let ratio = mini.parameter_count() as f64 / demo.parameter_count() as f64;
    assert!((0.85..1.0).contains(&ratio), "llama-mini is as large as the demo, not {ratio} of it");
}

#[test]
fn each_part_of_gpt2_can_be_exchanged_and_is_saved_and_read() {
    let choices =
        |norm, position, feed_forward| ModelChoices { norm, position, feed_forward, ..ModelChoices::default() };
    let swiglu = Some(FeedForwardKind::SwiGlu);
    let all = [
        choices(Some(Norm::RmsNorm), None, None),
        choices(None, Some(PositionKind::Rope), None),
        choices(None, None, swiglu),
        choices(Some(Norm::RmsNorm), Some(PositionKind::Rope), swiglu),
    ];
    let plain = Config::preset("demo").unwrap();
    for choices in all {
        let mut config = choices.config(plain.vocab_size, 0.02).unwrap();
        assert!(config.norm == Norm::RmsNorm || config.position != Position::Learned || config.inner == 172);
        let read = Config::from_json(&config.to_json(), Path::new("config.json")).unwrap();
        if config.feed_forward == FeedForward::SwiGlu {
            // Two thirds of the channels: about as many parameters.
            let ratio = config.parameter_count() as f64 / plain.parameter_count() as f64;
            assert!((0.95..1.05).contains(&ratio), "{ratio}");
        }
        assert_eq!(read, config);
        // What is trained is what is generated: the cache gives the logits of the whole forward pass.
        (config.layers, config.vocab_size, config.initializer_range) = (1, 11, 0.3);
        let network = Network::new(config.clone());
        let ids: Vec<u32> = (0..9).map(|i| i * 7 % 11).collect();
        let mut device = Gpu::open("auto").unwrap();
        let mut generator = Generator::of_store(&mut device, &network, 11, 1).unwrap();
        for parameter in network.parameters() {
            device.write_state(&parameter.name, &initial_values(parameter, 5)).unwrap();
        }
        let cached = generator.logits(&mut device, &ids).unwrap();
        let mut g = Graph::new();
        let input = g.input("ids", wgpt::graph::Shape::u32(&[1, ids.len()]));
        let logits = network.inference().logits(&mut g, input);
        g.output("logits", logits);
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        device.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        let whole = device.read(program, "logits").unwrap();
        let error = worst(&cached, &whole[whole.len() - 11..]);
        // The same sums in another order, of numbers up to 3.
        assert!(error <= 1e-5, "{choices:?}: {error}");
    }
    let refused = |choices: ModelChoices, named: &str| {
        let message = choices.config(256, 0.02).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
    };
    for preset in ["demo", "gpt-mini"] {
        let preset = Some(preset.into());
        refused(ModelChoices { preset: preset.clone(), kv_heads: Some(2), ..ModelChoices::default() }, "--kv-heads");
        // More heads than the preset's all have keys and values of their own.
        let more = ModelChoices { preset, heads: Some(16), ..ModelChoices::default() }.config(256, 0.02).unwrap();
        assert_eq!((more.heads, more.kv_heads, more.head_size), (16, 16, 4));
    }
    let shared = ModelChoices { preset: Some("llama-mini".into()), heads: Some(16), ..ModelChoices::default() };
    assert_eq!(shared.config(256, 0.02).unwrap().kv_heads, 4);
    let llama = ModelChoices { preset: Some("llama-mini".into()), ..ModelChoices::default() };
    refused(ModelChoices { norm: Some(Norm::LayerNorm), ..llama.clone() }, "--norm");
    refused(ModelChoices { kv_heads: Some(3), ..llama.clone() }, "num_key_value_heads");
    refused(ModelChoices { experts: Some(4), ..llama }, "--experts");
    let mixtral = ModelChoices { preset: Some("mixtral".into()), ..ModelChoices::default() };
    refused(ModelChoices { experts_per_token: Some(9), ..mixtral.clone() }, "experts-per-token");
    refused(ModelChoices { router_z: Some(f32::NAN), ..mixtral.clone() }, "router-z");
    let config = ModelChoices { experts: Some(4), experts_per_token: Some(1), router_balance: Some(0.5), ..mixtral };
    let config = config.config(256, 0.02).unwrap();
    assert_eq!(config.experts(), Some(Experts { count: 4, top: 1, balance: 0.5, z: 0.001 }));
    // How values are drawn at first is not in a LLaMA's config.json.
    let kept = Config { scaled_residual: false, ..config.clone() };
    assert_eq!(Config::from_json(&config.to_json(), Path::new("config.json")).unwrap(), kept);
}

#[test]
fn a_llama_trains_resumes_samples_and_is_exported_like_any_model() {
    let place = Place::new();
    let tiny = "--preset llama-mini --layers 1 --heads 2 --kv-heads 1 --width 16 --context 16 --batch 2 --steps 4 \
        --eval-every 2 --eval-batches 1 --save-every 2 --device cpu";
    let good = |arguments: &str| -> String {
        let output = place.wgpt(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    good(&format!("train --out run {tiny}"));
    let weights = |folder: &str| std::fs::read(place.path(folder).join("model.safetensors")).unwrap();
    let whole = weights("run");
    std::fs::remove_dir_all(place.path("run/checkpoints/step-000004")).unwrap();
    good("train --out run --resume --device cpu");
    assert_eq!(weights("run"), whole, "resuming changes no bit");
    let config = wgpt::formats::folder::read_config(&place.path("run")).unwrap();
    assert_eq!((config.family, config.kv_heads, config.inner), ("LLaMA", 1, 44));

    // Past the context, where the last half is read again.
    let text = good("sample --model run --prompt a --tokens 20 --device cpu --context 12");
    assert!(text.chars().count() > 20, "{text:?}");
    has(
        &error(&place.wgpt("sample --model run --prompt a --context 17 --device cpu"), 2),
        &["context of 17", "1 to 16"],
    );
    good("sample --model run --prompt a --tokens 5 --strategy beam --beams 2 --device cpu");
    place.write("text.txt", "a cat sat on a mat. ".repeat(20));
    let result: Value =
        serde_json::from_str(&good("eval --model run --data text.txt --window 8 --device cpu")).unwrap();
    assert!(result["loss"].as_f64().unwrap() > 0.5 && result["context"] == 8, "{result}");
    good("export --model run --out exported");
    assert_eq!(open(&place.path("exported")).0, config);
    good("train --out more --init run --steps 1 --batch 2 --device cpu --eval-batches 1");
    has(&error(&place.wgpt("train --out x --init run --norm rmsnorm --device cpu"), 2), &["--init", "--norm"]);

    let other = tiny.replace("llama-mini", "demo").replace("--kv-heads 1", "--norm rmsnorm --position rope");
    good(&format!("train --out other {other}"));
    assert_eq!(good("sample --model other --prompt a --tokens 3 --temperature 0 --device cpu").trim_end().len(), 4);
    has(&error(&place.wgpt("export --model other --out no"), 1), &["config.json", "transformers"]);
}

#[test]
fn tables_and_weights_beyond_one_binding_have_the_same_gradients() {
    // A table of 500 x 96 and weights of 520 x 96 beyond 160 KiB, 480 rows of logits and of activations as well.
    let llama = Config::preset("llama-mini").unwrap().resized(1, 4, 96);
    let config = Config { vocab_size: 500, context: 16, kv_heads: 2, initializer_range: 0.1, ..llama };
    let network = Network::new(config.clone());
    let batch = 30;
    let ids: Vec<u32> = (0..batch as u32 * 16 + 1).map(|i| i * i * 7 % 500).collect();
    let gradients = |device: &mut dyn Executor| -> Vec<(String, Vec<f32>)> {
        let mut g = Graph::new();
        let loss = network.training(Compute::default()).loss(&mut g, batch, 16);
        let wanted = config.parameters().into_iter();
        let wanted: Vec<_> = wanted.map(|(n, d)| (g.state(&n, &d), g.state(&format!("{n}.grad"), &d))).collect();
        let seed = g.apply(Fill { value: 1.0 }, &[]);
        gradient(&mut g, loss, seed, &wanted, &add_in_place(), false);
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        for parameter in network.parameters() {
            device.write_state(&parameter.name, &initial_values(parameter, 5)).unwrap();
        }
        device.write(program, "ids", bytemuck::cast_slice(&ids[..batch * 16])).unwrap();
        device.write(program, "targets", bytemuck::cast_slice(&ids[1..])).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        let read = |(name, _)| (format!("{name}.grad"), device.read_state(&format!("{name}.grad")).unwrap());
        config.parameters().into_iter().map(read).collect()
    };
    let want = gradients(&mut Cpu::default());
    for family in [AdapterKind::Gpu, AdapterKind::Software] {
        let mut small = Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap();
        small.limits_mut().binding_bytes = 160 << 10;
        small.limits_mut().alignment_bytes = 256;
        for ((name, got), (_, want)) in gradients(&mut small).iter().zip(&want) {
            let error = worst(got, want) / largest(want);
            // f32 sums over 480 tokens, through one block and back.
            assert!(error <= 2e-5, "{name} with {family:?}: {error}");
        }
    }
}

/// The form of LLaMA 2's tokenizer.json: a text starts with `<s>` and an underline that stands for a space.
const METASPACE: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
    "added_tokens": [{"id": 0, "content": "<s>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
    "post_processor": {"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": {"<s>": 0, "\u2581": 1, "a": 2, "b": 3, "\u2581a": 4, "\u2581b": 5},
        "merges": ["\u2581 a", "\u2581 b"]}}"#;

#[test]
fn a_prompt_starts_as_the_tokenizer_says_and_its_continuation_keeps_its_space() {
    let place = Place::new();
    let path = place.write("tokenizer.json", METASPACE);
    let tokenizer = Tokenizer::load(&path).unwrap();
    let prompt = tokenizer.encode_prompt("a b").unwrap();
    assert_eq!((prompt.as_slice(), tokenizer.encode("a b").unwrap().as_slice()), (&[0, 4, 5][..], &[4, 5][..]));
    let mut text = Continuation::new(&tokenizer, 3, &[], &[]).after(&tokenizer, &prompt).unwrap();
    for id in [4, 3, 5] {
        text.push(wgpt::generate::Token { id, log_probability: 0.0 }).unwrap();
    }
    assert_eq!(text.text(), " ab b");
    let mut alone = tokenizer.stream();
    assert_eq!(alone.extend(&[4, 3, 5]).unwrap(), "ab b", "a text of its own has no space before it");
}
