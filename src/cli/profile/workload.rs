//! The workload of a profile: a training step or a decode step of a model with random or given weights.

use std::path::PathBuf;
use wgpt::data::span_corruption::Lengths;
use wgpt::error::Result;
use wgpt::executor::{Executor, Program, Timeline, tuned_plan};
use wgpt::fail;
use wgpt::formats::folder::{Weights, read_config};
use wgpt::formats::upload::upload;
use wgpt::generate::{MOST_ROWS, decode_graph, positions_name};
use wgpt::graph::{Graph, Limits, Plan, Shape, Step};
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::{Config, EncoderDecoder, Heads};
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::objectives::masked::masked_positions;
use wgpt::objectives::pretraining;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::train::blueprint::check_precision;
use wgpt::train::graph::{ACCUMULATE, REPORT, TrainingGraph, UPDATE};
use wgpt::train::memory::mib;
use wgpt::train::objective::ShapeKey;
use wgpt::train::settings::{Choices, Precision, Settings};

/// Which model, at which sizes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Wanted {
    /// Model folder; its weights are used
    #[arg(long, value_name = "DIR", conflicts_with = "preset", help_heading = "Workload")]
    pub model: Option<PathBuf>,
    /// Named model size, with random weights [default: demo]
    #[arg(long, value_name = "NAME", help_heading = "Workload")]
    pub preset: Option<String>,
    /// Sequences per micro-batch, or texts decoded at once [default: the preset's for training, 1 for decoding]
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub batch: Option<usize>,
    /// Tokens per sequence, or before the decoded one [default: the model's context]
    #[arg(long, value_name = "N", help_heading = "Workload")]
    pub context: Option<usize>,
    /// Logits for so many tokens at a time, as in wgpt train
    #[arg(long, value_name = "N", conflicts_with = "decode", help_heading = "Workload")]
    pub classifier_rows: Option<usize>,
    /// Floating-point format of a training step [default: f32]
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "decode", help_heading = "Workload")]
    pub precision: Option<Precision>,
    /// Fewer layers than the preset's.
    #[arg(skip)]
    pub layers: Option<usize>,
    /// A training step: one micro-batch and the update (the default)
    #[arg(long, conflicts_with = "decode", help_heading = "Workload")]
    pub train: bool,
    /// One decode step with a full context
    #[arg(long, help_heading = "Workload")]
    pub decode: bool,
}

/// A loaded program and how it is replayed.
pub struct Workload {
    /// Model, kind of step, batch and context, for people.
    pub title: String,
    pub graph: Graph,
    /// Tokens that one replay reads.
    pub tokens: u64,
    /// FLOPs of the model's formula for one replay.
    pub model_flops: f64,
    program: Program,
    segments: Vec<usize>,
    step: Step,
    /// A small state that is changed last: reading it waits for everything.
    last: String,
}

impl Workload {
    /// Builds and loads it; `available_bytes` is the limit of buffers' memory, where that is known.
    pub fn load(wanted: &Wanted, executor: &mut dyn Executor, available_bytes: Option<u64>) -> Result<Workload> {
        if wanted.decode {
            decoding(wanted, executor, available_bytes)
        } else {
            training(wanted, executor, available_bytes)
        }
    }

    /// Replays it as usual and waits.
    pub fn run(&self, executor: &mut dyn Executor) -> Result<()> {
        self.segments.iter().try_for_each(|segment| executor.run(self.program, *segment, &self.step))?;
        executor.read_state(&self.last).map(|_| ())
    }

    /// Replays it kernel by kernel: one timeline per segment.
    pub fn profile(&self, executor: &mut dyn Executor) -> Result<Vec<Timeline>> {
        self.segments.iter().map(|segment| executor.profile(self.program, *segment, &self.step)).collect()
    }
}

/// A graph to replay, before it is planned.
struct Made {
    title: String,
    graph: Graph,
    network: Network,
    tokens: usize,
    model_flops: f64,
}

/// The graph of the wanted step for a device with these limits, and its title; nothing is loaded.
#[cfg(feature = "compiled")]
pub fn graph(wanted: &Wanted, limits: &Limits) -> Result<(String, Graph)> {
    let made = if wanted.decode { decode_step(wanted)?.0 } else { training_step(wanted, limits)?.0 };
    Ok((made.title, made.graph))
}

fn training_step(wanted: &Wanted, limits: &Limits) -> Result<(Made, Settings)> {
    let init = wanted.model.as_deref().map(read_config).transpose()?;
    let model = ModelChoices {
        preset: wanted.preset.clone(),
        context: wanted.context,
        layers: wanted.layers,
        ..ModelChoices::default()
    };
    let choices = Choices {
        batch: wanted.batch,
        classifier_rows: wanted.classifier_rows,
        accumulate: Some(1),
        precision: wanted.precision,
        ..Choices::default()
    };
    let recipe = PresetRecipe::of(wanted.preset.as_deref().or(Some("demo")));
    let settings = choices.resolve(&recipe.run, |_| 1)?;
    let (config, context) = match init {
        // Positions are learned: a shorter context uses the first of them.
        Some(config) => {
            let context = model.check_init(&config)?;
            (config, context)
        }
        None => {
            let name = wanted.preset.as_deref().unwrap_or("demo");
            let config = model.config(Config::preset(name)?.vocab_size, recipe.init_std)?;
            (config.clone(), config.context)
        }
    };
    let config = Config { dropout: settings.dropout(), ..config }.with_heads(Heads::Masked);
    let batch = settings.batch;
    check_precision(&settings, limits)?;
    let (objective, shape) = (pretraining(config.clone(), context), ShapeKey { batch, sequences: 1, length: context });
    let network = objective.networks()[0].clone();
    let networks = std::slice::from_ref(&network);
    let training = TrainingGraph::new(networks, settings.compute(), &settings.optimizer(), |g, models| {
        objective.loss(g, models, shape)
    });
    let tokens = batch * context;
    let mixed = if settings.is_mixed() { " in mixed precision" } else { "" };
    let rows =
        settings.compute().classifier_rows.map_or(String::new(), |rows| format!(", logits of {rows} tokens at a time"));
    let made = Made {
        title: format!("{}, one training step{mixed}, batch {batch}, context {context}{rows}", wanted.name()),
        graph: training.graph,
        network,
        tokens,
        model_flops: batch as f64 * training_flops(&config, context)?,
    };
    Ok((made, settings))
}

fn training(wanted: &Wanted, executor: &mut dyn Executor, available_bytes: Option<u64>) -> Result<Workload> {
    let (Made { title, graph, network, tokens, model_flops }, settings) = training_step(wanted, executor.limits())?;
    let plan = tuned_plan(executor, &graph)?;
    let segments = vec![plan.segment(ACCUMULATE), plan.segment(UPDATE)];
    let program = load(executor, &graph, plan, available_bytes)?;
    initialise(wanted, executor, &network)?;
    let ids = some_ids(tokens + 1, network.config().vocab_size);
    if network.config().encoder_decoder.is_none() {
        executor.write(program, "ids", bytemuck::cast_slice(&ids[1..]))?;
    }
    match network.config().encoder {
        None if network.config().encoder_decoder.is_some() => {
            let lengths = Lengths::fit(tokens / settings.batch)?;
            let (inputs, outputs) = (settings.batch * lengths.inputs(), settings.batch * lengths.targets());
            executor.write(program, "ids", bytemuck::cast_slice(&ids[..inputs]))?;
            executor.write(program, "outputs", bytemuck::cast_slice(&ids[..outputs]))?;
            executor.write(program, "targets", bytemuck::cast_slice(&ids[1..outputs + 1]))?;
        }
        None => executor.write(program, "targets", bytemuck::cast_slice(&ids[..tokens]))?,
        Some(_) => {
            // Masked positions at even distances.
            let masked = settings.batch * masked_positions(tokens / settings.batch);
            let positions: Vec<u32> = (0..masked).map(|n| (n * tokens / masked) as u32).collect();
            executor.write(program, "positions", bytemuck::cast_slice(&positions))?;
            executor.write(program, "targets", bytemuck::cast_slice(&ids[..masked]))?;
        }
    }
    Ok(Workload {
        title,
        tokens: tokens as u64,
        model_flops,
        graph,
        program,
        segments,
        step: Step { seed: 1, learning_rate: settings.lr, ..Step::default() },
        last: REPORT.into(),
    })
}

/// The decode step, and the position that it decodes.
fn decode_step(wanted: &Wanted) -> Result<(Made, usize)> {
    let config = match &wanted.model {
        Some(folder) => read_config(folder)?,
        None => Config::preset(wanted.preset.as_deref().unwrap_or("demo"))?,
    };
    config.must_decode("decode")?;
    config.must_not_recur("be profiled while it decodes")?;
    let (rows, context) = (wanted.batch.unwrap_or(1), wanted.context.unwrap_or(config.context));
    if !(1..=MOST_ROWS).contains(&rows) {
        fail!(Usage, "--batch {rows} cannot be decoded at once: give 1 to {MOST_ROWS}");
    }
    if !(1..=config.context).contains(&context) {
        fail!(Usage, "--context {context} is not within the model's context: give 1 to {}", config.context);
    }
    let network = Network::new(config.clone());
    // Two FLOPs per weight that is multiplied by, and the scores and sums of attention over the cache.
    let weights = config.multiplied_count();
    let attention = 4 * config.layers * config.heads * config.head_size * context;
    let made = Made {
        title: format!("{}, one decode step of {rows} rows at position {}", wanted.name(), context - 1),
        graph: decode_graph(&network, rows),
        network,
        tokens: rows,
        model_flops: rows as f64 * (2 * weights + attention as u64) as f64,
    };
    Ok((made, context - 1))
}

fn decoding(wanted: &Wanted, executor: &mut dyn Executor, available_bytes: Option<u64>) -> Result<Workload> {
    let (Made { title, graph, network, tokens: rows, model_flops }, position) = decode_step(wanted)?;
    let plan = tuned_plan(executor, &graph)?;
    let program = load(executor, &graph, plan, available_bytes)?;
    initialise(wanted, executor, &network)?;
    let position = f32::from_bits(position as u32);
    executor.write_state(&positions_name(&network, rows), &vec![position; rows])?;
    Ok(Workload {
        title,
        tokens: rows as u64,
        model_flops,
        graph,
        program,
        segments: vec![0],
        step: Step::default(),
        last: format!("decode.{rows}.report"),
    })
}

impl Wanted {
    /// The model's name, for people.
    fn name(&self) -> String {
        match (&self.model, &self.preset) {
            (Some(folder), _) => folder.display().to_string(),
            (None, preset) => preset.as_deref().unwrap_or("demo").into(),
        }
    }
}

/// FLOPs of forward and backward of a row: for each of its tokens 6 for every weight that is multiplied by, and for attention's scores and
/// sums 12 NH HS per layer and pair of a query and a key ("PaLM: Scaling Language Modeling with Pathways", Chowdhery et al. 2022,
/// appendix B). An encoder and decoder has S tokens of input, T of output, and pairs S S, T T and T S.
pub fn training_flops(config: &Config, context: usize) -> Result<f64> {
    let per_pair = (12 * config.heads * config.head_size) as f64;
    let Some(EncoderDecoder { decoder_layers, .. }) = config.encoder_decoder else {
        let pairs = (config.layers * context * context) as f64;
        return Ok((6 * config.multiplied_count()) as f64 * context as f64 + per_pair * pairs);
    };
    let lengths = Lengths::fit(context)?;
    let (s, t) = (lengths.inputs(), lengths.targets());
    let (by_inputs, by_outputs) = config.multiplied_by_stack(decoder_layers);
    let pairs = config.layers * s * s + decoder_layers * (t * t + t * s);
    Ok(6.0 * (by_inputs as f64 * s as f64 + by_outputs as f64 * t as f64) + per_pair * pairs as f64)
}

fn load(executor: &mut dyn Executor, graph: &Graph, plan: Plan, available_bytes: Option<u64>) -> Result<Program> {
    let size_bytes = plan.size_bytes(|_| true);
    if let Some(available) = available_bytes.filter(|available| size_bytes > *available) {
        let (needed, free) = (mib(size_bytes), mib(available));
        fail!(OutOfMemory, "this needs {needed} and {free} are free: use a smaller --batch, --context or --preset");
    }
    executor.load(graph, plan)
}

/// The model's weights, or random ones.
fn initialise(wanted: &Wanted, executor: &mut dyn Executor, network: &Network) -> Result<()> {
    if let Some(folder) = &wanted.model {
        return upload(executor, network, &Weights::open(folder, network.config())?);
    }
    network.parameters().iter().try_for_each(|p| executor.write_state(&p.name, &initial_values(p, 1)))
}

/// Ids of a whole vocabulary in no particular order.
fn some_ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count as u64).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % vocabulary as u64) as u32).collect()
}

/// Shape of a kernel's work: M x N x K where its shader has these constants, otherwise the op's inputs.
pub fn shape_text(graph: &Graph, limits: &Limits, node: usize, nth: usize) -> String {
    let Some(op) = graph.op(node) else { return String::new() };
    let shapes = graph.shapes(node);
    let dispatches = op.dispatch(&shapes, limits);
    if let Some(dispatch) = dispatches.get(nth) {
        let constant = |name: &str| match dispatch.constants.iter().find(|(known, _)| *known == name) {
            Some((_, wgpt::graph::Constant::U32(value))) => Some(value.to_string()),
            _ => None,
        };
        if let (Some(m), Some(n), Some(k)) = (constant("M"), constant("N"), constant("K")) {
            return format!("{m} x {n} x {k}");
        }
    }
    let mut texts: Vec<String> = shapes.inputs.iter().map(|s| dims(s)).collect();
    texts.dedup();
    texts.join(", ")
}

fn dims(shape: &Shape) -> String {
    shape.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}
