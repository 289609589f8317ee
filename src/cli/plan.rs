//! `wgpt plan`: what a step takes on several machines, and which steps to take there.

use std::path::{Path, PathBuf};

use super::compare::aligned;
use super::{Global, console};
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::formats::source::ModelSource;
use wgpt::gpu::ceilings::Ceilings;
use wgpt::graph::plan::Kernel;
use wgpt::graph::{AdapterKind, Command, Limits};
use wgpt::models::choices::ModelChoices;
use wgpt::models::config::Config;
use wgpt::models::network::Network;
use wgpt::objectives::pretrain::Pretrain;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ranks::Wire;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::checkpoint::LOG_FILE;
use wgpt::train::forecast::{Bandwidth, Cluster, Forecast, Work};
use wgpt::train::graph::{ACCUMULATE, UPDATE};
use wgpt::train::record::Record;
use wgpt::train::run::RunState;
use wgpt::train::settings::{Choices, Precision};
use wgpt::train::sinks::log;

#[derive(clap::Args)]
pub struct Plan {
    /// Named model [default: demo]
    #[arg(long)]
    preset: Option<String>,
    /// A run on one machine, in place of a model: its model and the median of its steps' times
    #[arg(long, value_name = "RUN", conflicts_with_all = ["preset", "batch", "context", "precision", "gflops", "gbytes"])]
    run: Option<PathBuf>,
    /// Machines, with one GPU each
    #[arg(long, default_value_t = 2)]
    machines: usize,
    /// Bandwidth of each machine's network, such as 100Mbit or 10Gbit
    #[arg(long, default_value = "1Gbit")]
    network: Bandwidth,
    /// Milliseconds from one machine to another
    #[arg(long, value_name = "MS", default_value_t = 0.2)]
    latency: f64,
    /// Sequences per micro-batch [default: as the preset trains]
    #[arg(long)]
    batch: Option<usize>,
    /// Micro-batches per step, over all machines [default: as the preset trains]
    #[arg(long)]
    accumulate: Option<usize>,
    /// Tokens per sequence [default: the model's]
    #[arg(long)]
    context: Option<usize>,
    /// Floating-point format [default: f32]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// A GPU's billions of FLOPs per second, in place of a measurement of this machine's
    #[arg(long, requires = "gbytes")]
    gflops: Option<f64>,
    /// A GPU's billions of bytes read and written per second
    #[arg(long, requires = "gflops")]
    gbytes: Option<f64>,
}

/// More are no question for this.
const MOST_MACHINES: usize = 1 << 16;

impl Plan {
    pub fn run(&self, global: &Global) -> Result<()> {
        if !(2..=MOST_MACHINES).contains(&self.machines) {
            fail!(Usage, "--machines {} is not possible: give 2 to {MOST_MACHINES}", self.machines);
        }
        if !(self.latency.is_finite() && self.latency >= 0.0) {
            fail!(Usage, "--latency {} is not a number from 0 up: give one", self.latency);
        }
        for (name, value) in [("gflops", self.gflops), ("gbytes", self.gbytes)] {
            if let Some(value) = value.filter(|value| !(value.is_finite() && *value > 0.0)) {
                fail!(Usage, "--{name} {value} is not a number above 0: give one");
            }
        }
        if self.accumulate == Some(0) {
            fail!(Usage, "--accumulate 0 does nothing: give 1 or more");
        }
        let (title, work) = match &self.run {
            Some(run) => self.measured(run)?,
            None => self.estimated(global)?,
        };
        let cluster = Cluster { machines: self.machines, bandwidth: self.network, latency: self.latency / 1e3 };
        console::line(title)?;
        console::data(&table(&cluster, &work))?;
        console::line(advice(&cluster, &work))
    }

    /// A run's model and its steps, as they were measured on one machine.
    fn measured(&self, run: &Path) -> Result<(String, Work)> {
        let records = log::read(&run.join(LOG_FILE))?;
        let state = RunState::read(run)?;
        let shown = run.display();
        if state.ranks > 1 {
            fail!(Input, "the run in {shown} was of {} ranks: name one of a single rank", state.ranks);
        }
        let network = Network::new(ModelSource::open(run)?.config()?);
        let trained = network.parameters().iter().filter(|parameter| !network.freezes(parameter));
        let seconds = median(&records)
            .ok_or_else(|| Error::Input(format!("the run in {shown} has no steps in its {LOG_FILE}: name another")))?;
        let work = Work {
            parameters: trained.map(|parameter| parameter.len() as u64).sum(),
            micro_batches: self.accumulate.unwrap_or(state.settings.accumulate) as u64,
            micro_batch_seconds: seconds / state.settings.accumulate as f64,
            update_seconds: 0.0, // in that of a micro-batch
        };
        Ok((
            format!("{shown}, {} trained parameters, {:.1} ms a step on one machine", work.parameters, 1e3 * seconds),
            work,
        ))
    }

    /// A preset's steps, of kernels that reach a device's ceilings.
    fn estimated(&self, global: &Global) -> Result<(String, Work)> {
        let name = self.preset.as_deref().unwrap_or("demo");
        let recipe = PresetRecipe::of(Some(name));
        let model = ModelChoices { preset: Some(name.into()), context: self.context, ..ModelChoices::default() };
        let choices =
            Choices { batch: self.batch, accumulate: self.accumulate, precision: self.precision, ..Choices::default() };
        let settings = choices.resolve(&recipe.run.for_ranks(self.machines), |_| 1)?;
        let config = model.config(Config::preset(name)?.vocab_size, recipe.init_std)?;
        if config.encoder.is_some() || config.encoder_decoder.is_some() || config.recurrence.is_some() {
            fail!(
                Usage,
                "--preset {name} is a {}, whose steps are not estimated: train it on one machine for some steps, and give that --run",
                config.family
            );
        }
        let (limits, ceilings) = match (self.gflops, self.gbytes) {
            (Some(gflops), Some(gbytes)) => {
                let given = Ceilings { f32_flops: gflops * 1e9, copy_bytes: gbytes * 1e9, ..Ceilings::default() };
                (
                    Limits {
                        f16: true,
                        binding_bytes: (1 << 31) - 4,
                        buffer_bytes: 1 << 40,
                        ..Limits::portable(AdapterKind::Gpu)
                    },
                    given,
                )
            }
            _ => {
                let mut gpu = global.open_gpu()?;
                let measured = Ceilings::measure(&mut gpu)?;
                (gpu.limits().clone(), measured)
            }
        };
        let (batch, context) = (settings.batch, config.context);
        let objective = Pretrain::without_data(config.clone(), context);
        let blueprint = Blueprint::new(&objective, &settings, &limits)?;
        let seconds = blueprint.training_plan().segments.iter().map(|segment| {
            let kernels = segment.commands.iter().filter_map(|command| match command {
                Command::Dispatch(kernel) => Some(kernel),
                Command::Copy { .. } => None,
            });
            let floor = |kernel: &Kernel| {
                ceilings.floor_seconds(kernel.shader.stem, kernel.cost.flops as f64, kernel.cost.size_bytes as f64).0
            };
            (segment.name.as_str(), kernels.map(floor).sum::<f64>())
        });
        let of = |wanted: &str| seconds.clone().filter(|(name, _)| *name == wanted).map(|(_, s)| s).sum::<f64>();
        let work = Work {
            parameters: config.parameter_count(),
            micro_batches: settings.accumulate as u64,
            micro_batch_seconds: of(ACCUMULATE),
            update_seconds: of(UPDATE),
        };
        let title = format!(
            "{name}, {} parameters, {} micro-batches of {batch} x {context} tokens a step; kernels at the ceilings of {:.0} GFLOP/s and \
             {:.0} GB/s: a real step takes longer, measure one with --run",
            work.parameters,
            work.micro_batches,
            ceilings.f32_flops / 1e9,
            ceilings.copy_bytes / 1e9
        );
        Ok((title, work))
    }
}

/// The median seconds of a step.
fn median(records: &[Record]) -> Option<f64> {
    let mut times: Vec<f64> = records.iter().map(|r| f64::from(r.step_ms)).filter(|ms| ms.is_finite()).collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).map(|ms| ms / 1e3).filter(|seconds| *seconds > 0.0)
}

fn table(cluster: &Cluster, work: &Work) -> String {
    let alone = Cluster { machines: 1, ..*cluster }.synchronous(work, Wire::F32);
    let head = ["steps", "wire", "compute ms", "transfer ms", "step ms", "idle", "speed-up"].map(String::from).to_vec();
    let row = |wire: &str, forecast: &Forecast| {
        let name = match forecast.every {
            1 => "synchronous".to_string(),
            every => format!("local, --sync-every {every}"),
        };
        let ms = [forecast.compute, forecast.transfer, forecast.step()].map(|seconds| format!("{:.1}", 1e3 * seconds));
        let shares = [format!("{:.0}%", 100.0 * forecast.idle()), format!("{:.1}", alone.step() / forecast.step())];
        [vec![name, wire.to_string()], ms.to_vec(), shares.to_vec()].concat()
    };
    let [synchronous, local] = cluster.all(work);
    let rows = ["f32", "f16"].into_iter().zip(&synchronous).map(|(wire, forecast)| row(wire, forecast));
    aligned([head].into_iter().chain(rows).chain(local.iter().map(|forecast| row("f16", forecast))).collect())
}

fn advice(cluster: &Cluster, work: &Work) -> String {
    let (wire, forecast) = cluster.advice(work);
    let (machines, network, idle) = (cluster.machines, cluster.bandwidth, 100.0 * forecast.idle());
    let flags = match (wire, forecast.every) {
        (Wire::F32, 1) => "synchronous steps".to_string(),
        (Wire::F16, 1) => "synchronous steps with --wire f16".to_string(),
        (_, every) => format!("local steps with --sync-every {every}"),
    };
    format!("take {flags}: devices of {machines} machines over {network} are idle {idle:.0}% of the time")
}
