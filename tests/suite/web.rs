//! Pages: what `wgpt export --web` and `wgpt inspect` write. Browsers run them in scripts/web.sh.

use crate::cli::{Place, error, has, stderr};
use serde_json::Value;
use std::collections::BTreeSet;

use wgpt::evaluate::inspect::inspect;
use wgpt::executor::Executor;
use wgpt::formats::source::ModelSource;
use wgpt::formats::upload::upload;
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Step};
use wgpt::models::network::Network;
use wgpt::reference::Cpu;

fn json(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap()
}

/// Every file of the page that a value names.
fn files(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if [".json", ".bin"].iter().any(|end| text.ends_with(end)) && !text.contains(' ') => {
            found.insert(text.clone());
        }
        Value::Array(list) => list.iter().for_each(|value| files(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| files(value, found)),
        _ => {}
    }
}

#[test]
fn a_page_holds_plans_kernels_and_weights_that_belong_together() {
    let (place, tokenizer) = crate::sample::place();
    let written = place.wgpt("export --model model --web page");
    assert!(written.status.success(), "{}", stderr(&written));
    let (manifest, texts) = (json(&place, "page/manifest.json"), json(&place, "page/shaders.json"));
    let texts: Vec<&str> = texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    for text in &texts {
        naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    let mut named = BTreeSet::new();
    files(&manifest, &mut named);
    let (mut states, mut used) = (BTreeSet::new(), BTreeSet::new());
    for plan in named.iter().filter(|name| name.starts_with("plans/")) {
        let plan = json(&place, &format!("page/{plan}"));
        for kernel in plan["segments"].as_array().unwrap().iter().flat_map(|s| s["commands"].as_array().unwrap()) {
            if kernel["copy"].is_array() {
                continue;
            }
            used.insert(kernel["text"].as_u64().unwrap() as usize);
            for bound in kernel["bind"].as_array().unwrap() {
                let Some(buffer) = bound[0].as_u64() else { continue };
                let bytes = plan["buffers"][buffer as usize]["bytes"].as_u64().unwrap();
                assert!(bound[1].as_u64().unwrap() + bound[2].as_u64().unwrap() <= bytes, "{kernel}");
            }
        }
        states.extend(plan["states"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_string()));
    }
    assert_eq!(used, (0..texts.len()).collect(), "every kernel's text is there, and no other");
    // The weights are the model's, byte for byte, and the plans bind them by their names.
    let source = ModelSource::open(&place.path("model")).unwrap();
    let (config, weights) = source.model().unwrap();
    for state in manifest["states"].as_array().unwrap() {
        let name = state["name"].as_str().unwrap();
        assert!(states.contains(name), "{name}");
        let part = &state["parts"][0];
        let file = std::fs::read(place.path(&format!("page/{}", part[0].as_str().unwrap()))).unwrap();
        let start = part[1].as_u64().unwrap() as usize;
        let bytes = &file[start..start + part[2].as_u64().unwrap() as usize];
        assert_eq!(bytes, bytemuck::cast_slice::<f32, u8>(&weights.read(name).unwrap()), "{name}");
    }
    assert_eq!(manifest["states"].as_array().unwrap().len(), config.parameters().len());
    assert_eq!(manifest["tokenizer"]["tokens"].as_array().unwrap().len(), tokenizer.vocabulary_size());
    assert!(place.path("page/index.html").exists());

    let single = place.wgpt("export --model model --web page.html --dtype q8_0 -q");
    assert!(single.status.success(), "{}", stderr(&single));
    has(&std::fs::read_to_string(place.path("page.html")).unwrap(), &["data:text/javascript;base64,", "manifest.json"]);
    has(&error(&place.wgpt("export --model model --web page"), 2), &["page is there already"]);
    has(&error(&place.wgpt("export --model model --web model --overwrite"), 2), &["no page of ours"]);
    assert!(place.wgpt("export --model model --web page --overwrite").status.success());
}

#[test]
fn what_is_inside_a_model_is_what_it_computes() {
    let (place, tokenizer) = crate::sample::place();
    let source = ModelSource::open(&place.path("model")).unwrap();
    let (config, weights) = source.model().unwrap();
    let network = Network::new(config);
    let ids = tokenizer.encode("The cat sat").unwrap();
    let look = |executor: &mut dyn Executor| {
        let mut g = Graph::new();
        network.declare(&mut g);
        let logits = {
            let ids = g.input("ids", wgpt::graph::Shape::u32(&[1, ids.len()]));
            network.inference().logits(&mut g, ids)
        };
        g.output("logits", logits);
        let plan = Plan::new(&g, executor.limits()).unwrap();
        let program = executor.load(&g, plan).unwrap();
        upload(executor, &network, &weights).unwrap();
        executor.write(program, "ids", bytemuck::cast_slice(&ids)).unwrap();
        executor.run(program, 0, &Step::default()).unwrap();
        let logits = executor.read(program, "logits").unwrap();
        (inspect(executor, &network, (tokenizer.vocabulary_size(), 3), &ids).unwrap(), logits)
    };
    // Tolerances are for f32 sums in another order, and for the exp and log of a device, which are its own.
    let (blocks, logits) = look(&mut Cpu::default());
    let last = blocks.last().unwrap();
    let v = network.config().vocab_size;
    for (position, row) in logits.chunks(v).enumerate() {
        let most = row.iter().copied().fold(f32::MIN, f32::max);
        let total = row.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln() as f32 + most;
        let (id, log_p) = last.best[position][0];
        assert!((row[id as usize] - most).abs() < 1e-5 && (most - total - log_p).abs() < 1e-5, "{position}");
        if let Some(next) = ids.get(position + 1) {
            assert!((row[*next as usize] - total - last.log_probs[position]).abs() < 1e-5, "{position}");
        }
    }
    let (count, heads) = (ids.len(), last.heads);
    for (row, weights) in last.attention.chunks(count).enumerate() {
        let query = row % count;
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5 && weights[query + 1..].iter().all(|p| *p == 0.0));
    }
    assert_eq!(last.attention.len(), heads * count * count);
    // The device's kernels agree.
    let (on_gpu, _) = look(&mut Gpu::open("auto").unwrap());
    for (a, b) in blocks.iter().zip(&on_gpu) {
        a.attention.iter().zip(&b.attention).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
        a.log_probs.iter().zip(&b.log_probs).for_each(|(a, b)| assert!((a - b).abs() < 1e-4, "{a} {b}"));
    }
    let shown = place.wgpt("inspect --model model --device cpu --prompt The --out look.html -q");
    assert!(shown.status.success(), "{}", stderr(&shown));
    has(&std::fs::read_to_string(place.path("look.html")).unwrap(), &["\"attention\":\"", "export function show"]);
}
