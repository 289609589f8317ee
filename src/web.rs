//! A model as a page that runs it in a browser: plans as JSON, their kernels as WGSL, weights as a device stores them, and the player
//! that replays them. The player knows no model: what it allocates, compiles, binds and replays is what the plans say.

mod plans;
mod tokenizer;

use crate::data::corpora::story;
use crate::data::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::evaluate::inspect::inspection_graph;
use crate::executor::Executor;
use crate::formats::folder::Weights;
use crate::formats::upload::upload;
use crate::generate::{SamplingParams, decode_graph_of, prefill_graph, state_names, windows};
use crate::graph::{AdapterKind, Graph, Initial, Limits, Plan};
use crate::models::config::Config;
use crate::models::network::Network;
use crate::objectives::pretrain::Pretrain;
use crate::objectives::recipe::PresetRecipe;
use crate::ops::next_token::seen_words;
use crate::reference::Cpu;
use crate::train::blueprint::Blueprint;
use crate::train::settings::Choices;
use base64::Engine;
use flate2::Compression;
use flate2::write::GzEncoder;
use plans::Plans;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;

/// A file of a page: its name and its bytes.
pub type File = (String, Vec<u8>);

/// What a page is made of.
pub struct Page<'a> {
    pub name: String,
    pub config: Config,
    pub weights: &'a Weights,
    pub tokenizer: &'a Tokenizer,
    /// How texts are drawn at first.
    pub params: SamplingParams,
    /// Tokens that end a text.
    pub stop_tokens: Vec<u32>,
}

/// Bytes of a file of weights, at most.
const PIECE_BYTES: usize = 16 << 20;
/// Bytes of built-in text to train on.
const TEXT_BYTES: usize = 160 << 10;
/// Seed of that text, of initial values and of a run: that of `wgpt train`.
const SEED: u64 = 1337;
/// Tokens that can be looked at, each with plans of its own.
const LOOKS: [usize; 4] = [16, 32, 64, 128];
/// Likeliest tokens that are told after each block.
const BEST: usize = 5;

/// The parts of the page that every model has.
const PLAYER: [(&str, &str); 8] = [
    ("index.html", include_str!("../web/index.html")),
    ("style.css", include_str!("../web/style.css")),
    ("app.js", include_str!("../web/app.js")),
    ("player.js", include_str!("../web/player.js")),
    ("generate.js", include_str!("../web/generate.js")),
    ("tokenizer.js", include_str!("../web/tokenizer.js")),
    ("train.js", include_str!("../web/train.js")),
    ("look.js", include_str!("../web/look.js")),
];

/// The limits that pages are planned for: those that every WebGPU implementation offers.
pub fn limits() -> Limits {
    Limits::portable(AdapterKind::Gpu)
}

/// All files of a page.
pub fn files(page: &Page) -> Result<Vec<File>> {
    page.config.must_decode("run in a page")?;
    page.config.must_not_recur("run in a page")?;
    let (mut plans, vocabulary) = (Plans::default(), page.tokenizer.vocabulary_size());
    let network = Network::new(page.config.clone());
    let model = model(&mut plans, &network, vocabulary)?;
    let (states, mut files) = weights(&network, page.weights)?;
    let training = training(&mut plans, page.tokenizer, &page.config)?;
    let manifest = json!({
        "name": page.name,
        "parameters": page.config.parameter_count(),
        "params": page.params.words(),
        "stop": page.stop_tokens,
        "tokenizer": tokenizer::json(page.tokenizer)?,
        "model": model,
        "states": states,
        "training": training,
        "needs": plans.needs(),
    });
    files.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    files.extend(plans.files());
    files.extend(PLAYER.map(|(name, text)| (name.to_string(), text.as_bytes().to_vec())));
    Ok(files)
}

/// A page in one file, for places without a server: the files of [`files`] as texts within it, compressed.
pub fn single(files: &[File]) -> Result<Vec<u8>> {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let named = |name: &str| files.iter().find(|(file, _)| file == name).map_or(&[][..], |(_, bytes)| bytes);
    let mut modules = Map::new();
    let mut data = Map::new();
    for (name, bytes) in files {
        match name.rsplit_once('.') {
            Some((stem, "js")) => {
                modules.insert(format!("wgpt/{stem}"), json!(format!("data:text/javascript;base64,{}", encode(bytes))));
            }
            Some((_, "html" | "css")) => {}
            _ => _ = data.insert(name.clone(), json!(encode(&compressed(bytes)?))),
        }
    }
    let index = String::from_utf8_lossy(named("index.html"));
    let (before, rest) = index.split_once("<!-- modules -->").unwrap_or((&index, ""));
    let after = rest.split_once("<!-- end of modules -->").map_or(rest, |(_, after)| after);
    let style = String::from_utf8_lossy(named("style.css"));
    let before = before.replace("<link rel=\"stylesheet\" href=\"style.css\">", &format!("<style>{style}</style>"));
    let map = json!({"imports": modules});
    Ok(format!(
        "{before}<script type=\"importmap\">{map}</script>\n<script>globalThis.WGPT_FILES = {};</script>{after}",
        Value::Object(data)
    )
    .into_bytes())
}

/// Bytes in gzip's form, which browsers unpack by themselves.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_err(|source| Error::Io { action: "compress the page".into(), source })
}

/// The plans that draw texts from a model and look inside it.
fn model(plans: &mut Plans, network: &Network, vocabulary: usize) -> Result<Value> {
    let (limits, context) = (limits(), network.config().context);
    let mut add = |name: String, graph: Graph| plans.add(&name, &Plan::new(&graph, &limits)?);
    let decode = add("decode".into(), decode_graph_of(network, vocabulary, 1))?;
    let mut prefill = Map::new();
    for window in windows(context) {
        prefill.insert(window.to_string(), json!(add(format!("prefill_{window}"), prefill_graph(network, 1, window))?));
    }
    let mut look = Map::new();
    for length in LOOKS.into_iter().filter(|length| *length <= context) {
        let graph = inspection_graph(network, vocabulary, length, BEST);
        look.insert(length.to_string(), json!(add(format!("look_{length}"), graph)?));
    }
    Ok(json!({
        "context": context,
        "vocabulary": vocabulary,
        "seen_words": seen_words(vocabulary),
        "layers": network.config().layers,
        "names": state_names(network, 1),
        "decode": decode,
        "prefill": prefill,
        "look": look,
    }))
}

/// Where the states with a network's weights lie in files, and the files.
fn weights(network: &Network, weights: &Weights) -> Result<(Vec<Value>, Vec<File>)> {
    // The reference stores what a device would store, quantised or not.
    let mut store = Cpu::default();
    let mut g = Graph::new();
    network.declare(&mut g);
    let plan = Plan::new(&g, &limits())?;
    let names: Vec<String> = plan.states.iter().map(|state| state.name.clone()).collect();
    store.load(&g, plan)?;
    upload(&mut store, network, weights)?;
    let (mut states, mut files, mut piece) = (vec![], vec![], vec![]);
    for name in names {
        let values = store.read_state(&name)?;
        let bytes: &[u8] = bytemuck::cast_slice(&values);
        let mut parts = vec![];
        for part in bytes.chunks(PIECE_BYTES) {
            if piece.len() + part.len() > PIECE_BYTES {
                files.push(std::mem::take(&mut piece));
            }
            parts.push(json!([files.len(), piece.len(), part.len()]));
            piece.extend_from_slice(part);
        }
        states.push(json!({"name": name, "parts": parts}));
    }
    files.push(piece);
    // Names tell contents, so that what a browser has kept is never that of another export.
    let named = |bytes: Vec<u8>| {
        let digest: String = Sha256::digest(&bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        (format!("weights_{digest}.bin"), bytes)
    };
    let files: Vec<File> = files.into_iter().map(named).collect();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let placed = states.into_iter().map(|mut state| {
        for part in state["parts"].as_array_mut().into_iter().flatten() {
            let file = part[0].as_u64().unwrap_or(0) as usize;
            part[0] = json!(names[file]);
        }
        state
    });
    Ok((placed.collect(), files))
}

/// The demo preset from scratch on the page's tokenizer: the plan of its step, what it starts from, and its learning rates. None where the
/// model is none of few characters, for which the preset is made.
fn training(plans: &mut Plans, tokenizer: &Tokenizer, own: &Config) -> Result<Option<Value>> {
    let vocabulary = tokenizer.vocabulary_size();
    if vocabulary > 256 {
        return Ok(None);
    }
    let recipe = PresetRecipe::of(Some("demo"));
    let settings = Choices { seed: Some(SEED), ..Choices::default() }.resolve(&recipe.run, |_| 1)?;
    let config = Config { vocab_size: vocabulary, initializer_range: recipe.init_std, ..Config::preset("demo")? };
    let context = config.context;
    let objective = Pretrain::without_data(config.clone(), context);
    let blueprint = Blueprint::new(&objective, &settings, &limits())?;
    let plan = plans.add("train", blueprint.training_plan())?;
    let parameters = blueprint.training_graph().parameters();
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|parameter| {
            let values = vec![0.0; parameter.len()];
            let stored = config.stored(&[(parameter.name.clone(), parameter.dims.clone(), &values)]);
            let parts = stored.into_iter().map(|(name, dims, _)| json!({"name": name, "dims": dims}));
            let parts: Vec<Value> = parts.collect();
            let (kind, size) = match parameter.initial {
                Initial::Zeros => ("zeros", 0.0),
                Initial::Ones => ("ones", 0.0),
                Initial::Normal { std } => ("normal", std),
                Initial::Uniform { bound } => ("uniform", bound),
                Initial::Thirds { .. } => unreachable!("the demo preset has none"),
            };
            json!({"name": parameter.name, "length": parameter.len(), "initial": [kind, size], "parts": parts})
        })
        .collect();
    let network = Network::new(config.clone());
    // The page's own model, where it is the preset: its plans draw samples, too.
    let same = Config { eos_token_id: own.eos_token_id.clone(), ..config.clone() } == *own;
    let model = if same { Value::Null } else { plans.within("train", |plans| model(plans, &network, vocabulary))? };
    let schedule = settings.schedule();
    let rates: Vec<f32> = (0..settings.steps).map(|step| schedule.learning_rate(step)).collect();
    Ok(Some(json!({
        "plan": plan,
        "model": model,
        "parameters": parameters,
        "rates": rates,
        "seed": settings.seed,
        "batch": settings.batch * settings.accumulate,
        "context": context,
        "report": crate::train::graph::REPORT,
        "config": config.to_json(),
        "tokenizer": String::from_utf8_lossy(tokenizer.json()),
        "text": story::training_text(SEED, TEXT_BYTES),
        "floor": story::entropy().nats_per_character(),
    })))
}
