//! `wgpt profile --compiled`: what the Vulkan driver's compiler makes of each kernel, beside its time where the device runs it.

use super::workload::{Wanted, Workload, graph, shape_text};
use super::{record::without_layer, save};
use crate::cli::{Global, console, host_memory};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wgpt::error::{Error, Result};
use wgpt::executor::{COPY, Executor, Timeline};
use wgpt::fail;
use wgpt::files::write_bytes;
use wgpt::gpu::compiled::{Compiled, Compiler, spirv};
use wgpt::gpu::reload::ShaderFiles;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::plan::{Command, Kernel};
use wgpt::graph::{Graph, Limits, Plan};
use wgpt::ops::{Case, cases_for};
use wgpt::shaders::specialise;

/// Which kernels, and what is written of them.
pub struct Request<'a> {
    pub wanted: &'a Wanted,
    /// Part of the names of cases, in place of a step.
    pub ops: Option<&'a str>,
    /// Whether variants that do not run are compiled as well.
    pub variants: bool,
    pub shaders: Option<&'a Path>,
    pub assembly: Option<&'a str>,
    pub spirv: Option<&'a Path>,
    pub json: Option<&'a PathBuf>,
    pub repeat: usize,
}

/// A distinct kernel.
struct Entry {
    place: String,
    shape: String,
    /// The variant of its op, where that has several.
    variant: Option<String>,
    /// Whether it is what runs: chosen or guessed.
    runs: bool,
    /// Launches of it.
    calls: usize,
    kernel: Kernel,
    /// Its text, from disk where it is there.
    text: String,
    /// Milliseconds of all launches, for each measurement.
    ms: Vec<f64>,
}

/// Distinct kernels in the order in which they were found.
#[derive(Default)]
struct Entries {
    list: Vec<Entry>,
    by_key: HashMap<String, usize>,
}

/// What tells kernels apart: their texts as they are built in, but for the number of a layer's stream of dropout, which changes no
/// instruction.
fn key(kernel: &Kernel) -> String {
    let constants = kernel.constants.iter().filter(|(name, _)| *name != "SALT").cloned();
    specialise(kernel.shader, &constants.collect::<Vec<_>>(), &kernel.swaps)
}

/// A kernel as it is saved.
#[derive(Serialize)]
struct Saved<'a> {
    place: &'a str,
    kernel: &'a str,
    shape: &'a str,
    variant: Option<&'a str>,
    runs: bool,
    calls: usize,
    ms: Option<f64>,
    subgroup: u32,
    registers: Option<u64>,
    spills: Option<u64>,
    scratch_bytes: Option<u64>,
    workgroup_bytes: Option<u64>,
    waves: Option<u64>,
    instructions: Option<u64>,
    statistics: BTreeMap<&'a str, u64>,
}

pub fn run(global: &Global, request: &Request) -> Result<()> {
    let compiler = Compiler::open(&global.device)?;
    global.say(&format!("device: {}", compiler.name));
    let files = request.shaders.map(ShaderFiles::read_all).transpose()?;
    let mut gpu = running(global, &compiler);
    if let Some(gpu) = &mut gpu {
        gpu.reload(files.clone());
    }
    let mut entries = Entries::default();
    let (files, every) = (files.as_ref(), request.variants);
    let title = if let Some(text) = request.ops {
        let limits = gpu.as_ref().map_or(&compiler.limits, |gpu| gpu.limits()).clone();
        let cases: Vec<&Case> = cases_for(&limits).into_iter().filter(|case| case.name.contains(text)).collect();
        if cases.is_empty() {
            fail!(Usage, "no case's name contains `{text}`: give the start of an op's, such as matmul");
        }
        for case in &cases {
            let (graph, _) = case.graph();
            entries.add(case.name, &graph, &limits, files, every)?;
            if let Some(gpu) = &mut gpu {
                time_case(gpu, case, request.repeat, &mut entries)?;
            }
        }
        format!("{} cases", cases.len())
    } else {
        match &mut gpu {
            Some(gpu) => time_step(gpu, request, files, &mut entries)?,
            None => {
                let (title, graph) = graph(request.wanted, &compiler.limits)?;
                entries.add("", &graph, &compiler.limits, files, every)?;
                title
            }
        }
    };
    let mut list = entries.list;
    let mut known: Vec<&str> = list.iter().map(|entry| entry.kernel.shader.stem).collect();
    known.sort_unstable();
    known.dedup();
    if let Some(name) = request.assembly {
        list.retain(|entry| entry.kernel.shader.stem == name);
        if list.is_empty() {
            fail!(Usage, "there is no kernel `{name}` in {title}: there are {}", known.join(", "));
        }
    }
    let made = |entry: &Entry| {
        let in_place = |e: Error| e.in_place(entry.kernel.shader.stem);
        let words = spirv(&entry.text).map_err(in_place)?;
        let compiled = compiler.compile(&entry.kernel, &words, request.assembly.is_some())?;
        Ok((words, compiled))
    };
    let made: Vec<(Vec<u32>, Compiled)> = list.par_iter().map(made).collect::<Result<_>>()?;
    if let Some(folder) = request.spirv {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        for (n, (entry, (words, _))) in list.iter().zip(&made).enumerate() {
            write_bytes(&folder.join(format!("{n}-{}.spv", entry.kernel.shader.stem)), bytemuck::cast_slice(words))?;
        }
        global.say(&format!("wrote {} modules to {}", list.len(), folder.display()));
    }
    let mut rows: Vec<(&Entry, &Compiled)> = list.iter().zip(made.iter().map(|(_, compiled)| compiled)).collect();
    rows.sort_by(|a, b| b.0.median().unwrap_or(0.0).total_cmp(&a.0.median().unwrap_or(0.0)));
    if request.assembly.is_some() {
        for (entry, compiled) in &rows {
            console::line(format_args!("== {} {}\n{}", entry.name(), entry.shape, compiled.assembly.trim_end()))?;
        }
    } else {
        table(&title, &rows).iter().try_for_each(console::line)?;
    }
    if let Some(path) = request.json {
        let saved: Vec<Saved> = rows.iter().map(|(entry, compiled)| entry.saved(compiled)).collect();
        save(global, path, serde_json::to_string_pretty(&saved).expect("numbers and texts are JSON"))?;
    }
    Ok(())
}

/// The same device through wgpu, where it runs kernels and gets one right: null and stub devices do not.
fn running(global: &Global, compiler: &Compiler) -> Option<Gpu> {
    let found = choose(&compiler.name).ok().filter(|a| a.name == compiler.name && a.backend == "vulkan");
    let opened = found.and_then(|adapter| Gpu::with(adapter, None, false).ok());
    let right = |gpu: &mut Gpu| matches!(wgpt::ops::add::CASES[0].check(gpu, 1), Ok(Ok(_)));
    let Some(mut gpu) = opened.and_then(|mut gpu| right(&mut gpu).then_some(gpu)) else {
        global.say("it compiles and does not run: there are no times");
        return None;
    };
    global.prepare(&mut gpu);
    crate::cli::force_variants(&mut gpu);
    Some(gpu)
}

impl Entries {
    /// Adds a graph's kernels: those that run, and on request those of every other variant.
    fn add(
        &mut self,
        place: &str,
        graph: &Graph,
        limits: &Limits,
        files: Option<&ShaderFiles>,
        every: bool,
    ) -> Result<()> {
        let classes: BTreeMap<String, Vec<String>> = if every {
            graph.choosable(limits).into_iter().map(|(_, _, v)| (v.class, v.names)).collect()
        } else {
            BTreeMap::new()
        };
        let rounds = classes.values().map(Vec::len).max().unwrap_or(1);
        for round in 0..rounds {
            let mut choices = (*limits.choices).clone();
            for (class, names) in classes.iter().filter(|_| round > 0) {
                // The one that runs first, then the others in turn.
                let runs = limits.choices.pick(class, names);
                let other = names.iter().enumerate().filter(|(n, _)| *n != runs).nth(round - 1);
                if let Some((_, name)) = other {
                    choices.choose(class, name);
                }
            }
            let limits = Limits { choices: Arc::new(choices), ..limits.clone() };
            let plan = Plan::new(graph, &limits)?;
            let mut from_disk = plan.clone();
            if let Some(files) = files {
                files.put_into(&mut from_disk)?;
            }
            let mut nth: HashMap<usize, usize> = HashMap::new();
            for (kernel, taken) in plan.kernels().zip(from_disk.kernels()) {
                let n = nth.entry(kernel.node).or_default();
                self.add_kernel(place, (graph, &limits), (kernel, *n), taken, round == 0);
                *n += 1;
            }
        }
        Ok(())
    }

    /// Adds one of a node's kernels, whose text is that of `taken`.
    fn add_kernel(
        &mut self,
        place: &str,
        (graph, limits): (&Graph, &Limits),
        (kernel, nth): (&Kernel, usize),
        taken: &Kernel,
        runs: bool,
    ) {
        let key = key(kernel);
        if let Some(at) = self.by_key.get(&key) {
            self.list[*at].runs |= runs;
            self.list[*at].calls += usize::from(runs);
            return;
        }
        let text = specialise(taken.shader, &taken.constants, &taken.swaps);
        let shape = shape_text(graph, limits, kernel.node, nth);
        let variants = graph.op(kernel.node).and_then(|op| op.variants(&graph.shapes(kernel.node), limits));
        let variant = variants.map(|v| v.names[limits.choices.pick(&v.class, &v.names)].clone());
        let label = without_layer(&kernel.label);
        let within = label.rsplit_once(": ").map_or(label.as_str(), |(within, _)| within);
        let place = if place.is_empty() { within } else { place }.to_string();
        self.by_key.insert(key, self.list.len());
        let (kernel, ms) = (kernel.clone(), vec![]);
        self.list.push(Entry { place, shape, variant, runs, calls: usize::from(runs), kernel, text, ms });
    }

    /// Adds the times of a replay of a plan.
    fn add_times(&mut self, plan: &Plan, segment: usize, timeline: &Timeline, repeat: usize) {
        let commands = plan.segments[segment].commands.iter().zip(&timeline.kernels);
        for (command, time) in commands.filter(|(_, time)| time.name != COPY) {
            let Command::Dispatch(kernel) = command else { continue };
            let entry = &mut self.list[self.by_key[&key(kernel)]];
            entry.ms.resize(repeat + 1, 0.0);
            entry.ms[repeat] += 1e3 * (time.seconds.end - time.seconds.start);
        }
    }
}

/// A case's times: its kernels as they run.
fn time_case(gpu: &mut Gpu, case: &Case, repeats: usize, entries: &mut Entries) -> Result<()> {
    let built = case.build(42);
    let plan = Plan::new(&built.graph, gpu.limits())?;
    let program = gpu.load(&built.graph, plan.clone())?;
    built.write_inputs(gpu, program)?;
    gpu.run(program, 0, &built.step())?;
    for repeat in 0..repeats {
        let timeline = gpu.profile(program, 0, &built.step())?;
        entries.add_times(&plan, 0, &timeline, repeat);
    }
    gpu.unload(program);
    Ok(())
}

/// A step's kernels and their times; its title.
fn time_step(gpu: &mut Gpu, request: &Request, files: Option<&ShaderFiles>, entries: &mut Entries) -> Result<String> {
    let available_bytes = host_memory(gpu);
    let workload = Workload::load(request.wanted, gpu, available_bytes)?;
    let limits = gpu.limits().clone();
    entries.add("", &workload.graph, &limits, files, request.variants)?;
    let plan = Plan::new(&workload.graph, &limits)?;
    workload.run(gpu)?;
    for repeat in 0..request.repeat {
        for (segment, timeline) in workload.profile(gpu)?.iter().enumerate() {
            entries.add_times(&plan, segment, timeline, repeat);
        }
    }
    Ok(workload.title)
}

impl Entry {
    fn name(&self) -> String {
        let variant = self.variant.as_deref().map_or(String::new(), |variant| format!(" [{variant}]"));
        format!("{}: {}{variant}", self.place, self.kernel.shader.stem)
    }

    fn median(&self) -> Option<f64> {
        (!self.ms.is_empty()).then(|| super::record::Spread::of(&self.ms).median)
    }

    fn saved<'a>(&'a self, compiled: &'a Compiled) -> Saved<'a> {
        Saved {
            place: &self.place,
            kernel: self.kernel.shader.stem,
            shape: &self.shape,
            variant: self.variant.as_deref(),
            runs: self.runs,
            calls: self.calls,
            ms: self.median(),
            subgroup: compiled.subgroup,
            registers: compiled.registers(),
            spills: compiled.spills(),
            scratch_bytes: compiled.scratch(),
            workgroup_bytes: compiled.workgroup_bytes(),
            waves: compiled.waves(),
            instructions: compiled.instructions(),
            statistics: compiled.statistics.iter().map(|(name, value)| (name.as_str(), *value)).collect(),
        }
    }
}

/// The table; what a driver does not tell is a dash.
fn table(title: &str, rows: &[(&Entry, &Compiled)]) -> Vec<String> {
    let names: Vec<String> = rows.iter().map(|(entry, _)| entry.name()).collect();
    let name = names.iter().map(String::len).max().unwrap_or(0).max("kernel".len());
    let shape = rows.iter().map(|(entry, _)| entry.shape.len()).max().unwrap_or(0).clamp(5, 40);
    let timed = rows.iter().any(|(entry, _)| entry.median().is_some());
    let ms = |text: String| if timed { format!(" {text:>10}") } else { String::new() };
    let head = format!("{:name$}  {:shape$} {:>6}{}", "kernel", "shape", "calls", ms("ms".into()));
    let columns = ["lanes", "registers", "spills", "scratch", "workgroup", "waves", "instructions"];
    let mut lines = vec![title.to_string(), String::new(), head + &cells(columns.map(String::from))];
    for ((entry, compiled), what) in rows.iter().zip(&names) {
        let told = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let numbers = [
            compiled.subgroup.to_string(),
            told(compiled.registers()),
            told(compiled.spills()),
            told(compiled.scratch()),
            told(compiled.workgroup_bytes()),
            told(compiled.waves()),
            told(compiled.instructions()),
        ];
        let text: String = entry.shape.chars().take(shape).collect();
        let time = ms(entry.median().map_or("-".into(), |ms| format!("{ms:.3}")));
        lines.push(format!("{what:name$}  {text:shape$} {:6}{time}{}", entry.calls, cells(numbers)));
    }
    lines.push(String::new());
    lines.push(
        "registers, spills: of a lane; scratch, workgroup: bytes; waves: that fit at a time. As the driver tells them"
            .into(),
    );
    lines
}

fn cells(texts: [String; 7]) -> String {
    texts.iter().zip([5, 9, 6, 7, 9, 5, 12]).map(|(text, width)| format!(" {text:>width$}")).collect()
}
