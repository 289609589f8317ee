//! `wgpt profile`: time of each kernel of a training or decode step, and its share of the device's ceilings.

#[cfg(feature = "compiled")]
mod compiled;
mod kernel;
pub mod record;
mod roofline;
mod table;
mod trace;
pub mod workload;

pub use table::{flops, significant};

use super::{Global, console};
use record::Record;
use std::path::{Path, PathBuf};
use wgpt::error::{Error, Result};
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::files::{one_line, write_atomic};
use wgpt::gpu::ceilings::Ceilings;
use workload::{Wanted, Workload};

#[derive(clap::Args)]
pub struct Profile {
    #[command(flatten)]
    wanted: Wanted,
    /// Measurements of each kernel, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 10, help_heading = "Clock")]
    repeat: usize,
    /// Write the last replay as a trace for ui.perfetto.dev
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    trace: Option<PathBuf>,
    /// Draw the kernels below the device's roofline
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    svg: Option<PathBuf>,
    /// Save the profile, to compare with
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    json: Option<PathBuf>,
    /// Compare with a saved profile: kernels that got faster, kernels that got slower
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    compare: Option<PathBuf>,
    /// Check and time one kernel's cases with its shader as it is on disk
    #[arg(long, value_name = "NAME", requires = "shaders",
        conflicts_with_all = ["model", "preset", "batch", "classifier_rows", "context", "precision", "train", "decode", "trace", "svg", "json", "compare"],
        help_heading = "One kernel")]
    kernel: Option<String>,
    /// Folder with the shader, or with --compiled the shaders, and in `shared` the files they use
    #[arg(long, value_name = "DIR", help_heading = "One kernel")]
    shaders: Option<PathBuf>,
    /// What the Vulkan driver's compiler makes of each kernel: registers, spills, scratch, workgroup memory, waves, instructions; with
    /// their times where the device runs them. Needs a build with the feature `compiled`
    #[arg(long, conflicts_with_all = ["kernel", "trace", "svg", "compare", "host_clock"], help_heading = "Compiled")]
    compiled: bool,
    /// The kernels of the ops' cases whose name contains TEXT, in place of a step
    #[arg(long, value_name = "TEXT", requires = "compiled",
        conflicts_with_all = ["model", "preset", "batch", "classifier_rows", "context", "precision", "train", "decode"],
        help_heading = "Compiled")]
    ops: Option<String>,
    /// Also the variants that do not run
    #[arg(long, requires = "compiled", help_heading = "Compiled")]
    variants: bool,
    /// The assembly of a kernel, in place of the table
    #[arg(long, value_name = "KERNEL", requires = "compiled", help_heading = "Compiled")]
    assembly: Option<String>,
    /// Write the kernels' SPIR-V modules, for other tools
    #[arg(long, value_name = "DIR", requires = "compiled", help_heading = "Compiled")]
    spirv: Option<PathBuf>,
    /// Time by the host's clock, as where a device has no timestamps
    #[arg(long, help_heading = "Clock")]
    host_clock: bool,
}

impl Profile {
    pub fn run(&self, global: &Global) -> Result<()> {
        if self.repeat == 0 {
            fail!(Usage, "--repeat 0 measures nothing: give 1 or more");
        }
        if self.compiled {
            return self.compile(global);
        }
        match (&self.kernel, &self.shaders) {
            (Some(name), Some(folder)) => return kernel::run(global, name, folder, self.repeat, self.host_clock),
            (None, Some(_)) => {
                fail!(Usage, "--shaders replaces shaders of --kernel NAME or of --compiled: give one of them")
            }
            _ => {}
        }
        let before = self.compare.as_deref().map(read).transpose()?;
        let (mut executor, clock, ceilings): (Box<dyn Executor>, _, _) = if global.device.eq_ignore_ascii_case("cpu") {
            (global.open()?, "host", None)
        } else {
            let mut gpu = global.open_gpu()?;
            if self.host_clock {
                gpu.use_host_clock();
            }
            let ceilings = Ceilings::measure(&mut gpu)?;
            let clock = if gpu.has_device_clock() { "device" } else { "host" };
            (Box::new(gpu), clock, Some(ceilings))
        };
        if self.svg.is_some() && ceilings.is_none() {
            fail!(Usage, "--svg draws the ceilings of a GPU, and the CPU reference has none: leave it out");
        }
        let available_bytes = super::host_memory(executor.as_ref());
        let model = self.wanted.model.as_deref().map(|name| global.model_folder(name)).transpose()?;
        let wanted = Wanted { model, ..self.wanted.clone() };
        let workload = Workload::load(&wanted, executor.as_mut(), available_bytes)?;
        if let (Some(before), Some(path)) = (before.as_ref().filter(|b| b.title != workload.title), &self.compare) {
            let (was, is) = (&before.title, &workload.title);
            fail!(Input, "{} is a profile of {was}, and this is {is}: give the same options", path.display());
        }
        let (record, timelines) = record::measure(&workload, executor.as_mut(), self.repeat, (clock, ceilings))?;
        table::lines(&record, global.verbose).iter().try_for_each(console::line)?;
        if let Some(before) = before {
            console::line("")?;
            table::comparison(&record, &before).iter().try_for_each(console::line)?;
        }
        if let Some(path) = &self.trace {
            save(global, path, trace::trace(&workload, executor.as_ref(), &timelines).to_string())?;
        }
        if let (Some(path), Some(ceilings)) = (&self.svg, &record.ceilings) {
            save(global, path, roofline::render(&record, ceilings))?;
        }
        if let Some(path) = &self.json {
            save(global, path, serde_json::to_string_pretty(&record).expect("numbers and texts are JSON"))?;
        }
        Ok(())
    }
}

#[cfg(feature = "compiled")]
impl Profile {
    fn compile(&self, global: &Global) -> Result<()> {
        if global.device.eq_ignore_ascii_case("cpu") {
            fail!(Usage, "the CPU reference compiles no shaders: give --device auto or part of a Vulkan device's name");
        }
        let model = self.wanted.model.as_deref().map(|name| global.model_folder(name)).transpose()?;
        let request = compiled::Request {
            wanted: &Wanted { model, ..self.wanted.clone() },
            ops: self.ops.as_deref(),
            variants: self.variants,
            shaders: self.shaders.as_deref(),
            assembly: self.assembly.as_deref(),
            spirv: self.spirv.as_deref(),
            json: self.json.as_ref(),
            repeat: self.repeat,
        };
        compiled::run(global, &request)
    }
}

#[cfg(not(feature = "compiled"))]
impl Profile {
    fn compile(&self, _global: &Global) -> Result<()> {
        fail!(Usage, "this wgpt was built without --compiled: build it with cargo build --release --features compiled");
    }
}

fn save(global: &Global, path: &Path, text: String) -> Result<()> {
    use std::io::Write;
    write_atomic(path, |writer| writer.write_all(text.as_bytes()))?;
    global.say(&format!("wrote {}", path.display()));
    Ok(())
}

fn read(path: &Path) -> Result<Record> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| {
        let why = one_line(&e.to_string());
        Error::Input(format!("{} is no profile of wgpt profile --json ({why}): save one with it", path.display()))
    })
}
