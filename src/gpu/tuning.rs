//! Chooses among the variants of ops by timing them on the adapter: once for each class, outside of any step loop.
//!
//! Measurements are kept in a file for each adapter, driver and version of wgpu, and made again where the text of a shader
//! changed. A variant counts only if all of its outputs agree with those of the best guess.

use super::executor::{Gpu, Loaded};
use crate::error::{Error, Result};
use crate::executor::{COPY, Executor, Program, Trial};
use crate::fail;
use crate::files::{sha256_hex, write_bytes};
use crate::graph::plan::Kernel;
use crate::graph::{Choices, Dtype, Graph, Limits, Op, Plan, Shape, Step, Tensor, Variants};
use crate::shaders::specialise;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Classes that take less of a graph's arithmetic than this, or fewer FLOPs, run the best guess.
const LEAST_SHARE: f64 = 0.005;
const LEAST_FLOPS: u64 = 1 << 24;
/// Runs of a variant after the one that warms up; fewer where they take long.
const RUNS: usize = 7;
/// Seconds after which no further run of a variant is made.
const ENOUGH: f64 = 0.05;
/// After this no further class is begun: the rest runs the best guess, and is measured by the next program.
const BUDGET: Duration = Duration::from_secs(20);
/// A variant this many times slower than the fastest so far is not run again.
const HOPELESS: f64 = 2.0;
/// Largest difference to the best guess, relative to the largest result of the same tensor: f16 results are good to 5e-4, and
/// a mistake in a kernel shows as differences of the size of the results.
const TOLERANCE: f32 = 4e-3;
/// The version of the comparison, as part of a measurement's digest: measurements that compared less are made again.
const COMPARED: &str = "every tensor of every output";

/// The measurements on one adapter with one driver.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    adapter: String,
    driver: String,
    wgpu: String,
    classes: BTreeMap<String, Measured>,
    /// Digest of the kernels on cooperative matrices that `wgpt doctor` found right.
    #[serde(default)]
    cooperative: Option<String>,
}

/// How the variants of one class did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The fastest.
    pub variant: String,
    /// Seconds of each variant, the best guess first; `None` where its results were wrong.
    pub seconds: Vec<(String, Option<f64>)>,
    /// Of the text of all kernels that were compared.
    shaders: String,
}

impl Measured {
    /// How many times faster the choice is than the best guess.
    pub fn gain(&self) -> f64 {
        let of = |name: &str| self.seconds.iter().find(|(n, _)| n == name).and_then(|(_, seconds)| *seconds);
        let guess = self.seconds.first().and_then(|(name, _)| of(name));
        guess.zip(of(&self.variant)).map_or(1.0, |(guess, best)| guess / best)
    }
}

/// Measuring as it was enabled.
pub(super) struct Tuning {
    kept: Kept,
    watch: Watch,
    /// Classes that are not measured: a run goes on as it began.
    settled: BTreeSet<String>,
}

impl Tuning {
    pub(super) fn cooperative_passed(&self) -> Option<&str> {
        self.kept.tuned.cooperative.as_deref()
    }

    pub(super) fn record_cooperative(&mut self, passed: Option<&str>) -> Result<()> {
        self.kept.tuned.cooperative = passed.map(String::from);
        self.kept.save()
    }
}

/// A file of choices.
struct Kept {
    path: PathBuf,
    tuned: Tuned,
}

impl Kept {
    /// Opens or begins the file of an adapter in `folder`. One that cannot be read is measured anew.
    fn open(folder: &Path, adapter: &str, driver: &str) -> Kept {
        let fresh = Tuned {
            adapter: adapter.into(),
            driver: driver.into(),
            wgpu: WGPU_VERSION.into(),
            classes: BTreeMap::new(),
            cooperative: None,
        };
        let key = sha256_hex(format!("{adapter}\n{driver}\n{WGPU_VERSION}").as_bytes());
        let path = folder.join("tuning").join(format!("{}.json", &key[..16]));
        let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Tuned>(&bytes).ok());
        let same = |t: &Tuned| (&t.adapter, &t.driver, &t.wgpu) == (&fresh.adapter, &fresh.driver, &fresh.wgpu);
        Kept { path, tuned: read.filter(same).unwrap_or(fresh) }
    }

    fn save(&self) -> Result<()> {
        let parent = self.path.parent().expect("a file in a folder");
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        let text = serde_json::to_vec_pretty(&self.tuned).expect("plain data");
        write_bytes(&self.path, &text)
    }
}

/// The version of wgpu that this program is built with: a test compares it with `Cargo.lock`.
pub const WGPU_VERSION: &str = "30.0.1";

/// Sees how a measurement goes on.
pub type Watch = Box<dyn FnMut(Trial)>;

/// A class of a graph with its candidates.
struct Candidates {
    variants: Variants,
    graph: Graph,
    /// Name, type and columns of each output's tensors ([`Op::packing`]).
    outputs: Vec<(String, Dtype, Vec<usize>)>,
    /// One for each variant.
    plans: Vec<Plan>,
    shaders: String,
}

impl Gpu {
    /// Measures variants from now on where graphs need it, and keeps the measurements in `folder`; those that it holds already
    /// are taken, unless `again`.
    pub fn enable_tuning(&mut self, folder: &Path, again: bool, watch: Watch) {
        let adapter = self.adapter();
        let mut kept = Kept::open(folder, &adapter.name, &format!("{} {}", adapter.backend, adapter.driver));
        if again {
            kept.tuned.classes.clear();
        }
        let choices = Arc::make_mut(&mut self.limits_mut().choices);
        kept.tuned.classes.iter().for_each(|(class, measured)| choices.choose(class, &measured.variant));
        self.tuning = Some(Tuning { kept, watch, settled: BTreeSet::new() });
    }

    /// The measurements on this adapter, by class.
    pub fn measured(&self) -> impl Iterator<Item = (&str, &Measured)> {
        let tuned = self.tuning.iter().flat_map(|t| &t.kept.tuned.classes);
        tuned.map(|(class, measured)| (class.as_str(), measured))
    }

    /// Runs variants with one of these in their name wherever there is one: names or parts of names, with commas between. Those
    /// on cooperative matrices have to be named by the start of their name.
    pub fn force_variants(&mut self, names: &str) {
        let parts: Vec<String> = names.split(',').map(str::trim).filter(|p| !p.is_empty()).map(String::from).collect();
        if parts.iter().any(|part| part.starts_with("coop")) {
            self.allow_cooperative();
        }
        let choices = &mut self.limits_mut().choices;
        *choices = Arc::new(Choices::new(choices.chosen().clone(), parts));
    }

    /// Runs these variants by class, whatever is measured.
    pub(super) fn settle_choices(&mut self, chosen: &BTreeMap<String, String>) {
        let choices = Arc::make_mut(&mut self.limits_mut().choices);
        chosen.iter().for_each(|(class, variant)| choices.choose(class, variant));
        if let Some(tuning) = &mut self.tuning {
            tuning.settled.extend(chosen.keys().cloned());
        }
    }

    /// Measures the classes of `graphs` that matter and were not measured yet; none where tuning was not enabled.
    pub(super) fn measure(&mut self, graphs: &[&Graph]) -> Result<()> {
        let Some(mut tuning) = self.tuning.take() else { return Ok(()) };
        let measured = self.measure_for(graphs, &mut tuning);
        self.tuning = Some(tuning);
        measured
    }

    fn measure_for(&mut self, graphs: &[&Graph], tuning: &mut Tuning) -> Result<()> {
        check_forced(graphs, self.limits())?;
        let mut open = classes(graphs, self.limits());
        open.retain(|c| {
            let known = tuning.kept.tuned.classes.get(&c.variants.class);
            !tuning.settled.contains(&c.variants.class) && known.is_none_or(|m| m.shaders != c.shaders)
        });
        if open.is_empty() {
            return Ok(());
        }
        let measured = self.measure_all(&open, &mut tuning.watch)?;
        let choices = Arc::make_mut(&mut self.limits_mut().choices);
        measured.iter().for_each(|(class, m)| choices.choose(class, &m.variant));
        tuning.kept.tuned.classes.extend(measured);
        // A measurement that cannot be saved is made again by the next program, and no reason to end this one.
        tuning.kept.save().ok();
        Ok(())
    }

    fn measure_all(&mut self, open: &[Candidates], watch: &mut Watch) -> Result<Vec<(String, Measured)>> {
        let total = open.iter().map(|c| c.plans.len()).sum();
        watch(Trial { done: 0, total, what: "compiling" });
        let kernels: Vec<&Kernel> = open.iter().flat_map(|c| &c.plans).flat_map(Plan::kernels).collect();
        self.compile(&kernels)?;
        let (mut measured, mut done, began) = (vec![], 0, Instant::now());
        for candidates in open {
            if began.elapsed() > BUDGET {
                break;
            }
            watch(Trial { done, total, what: &candidates.variants.class });
            match self.race(candidates) {
                Ok(race) => measured.push((candidates.variants.class.clone(), race)),
                Err(Error::OutOfMemory(_)) => {} // no room for a trial: the best guess runs
                Err(other) => return Err(other),
            }
            done += candidates.plans.len();
        }
        watch(Trial { done: total, total, what: "" });
        Ok(measured)
    }

    /// Times all variants of a class on the same random data.
    fn race(&mut self, candidates: &Candidates) -> Result<Measured> {
        let program = self.load(&candidates.graph, candidates.plans[0].clone())?;
        for (name, _, shape) in candidates.plans[0].inputs.clone() {
            self.write(program, &name, &noise(&shape))?;
        }
        let mut seconds: Vec<(String, Option<f64>)> = vec![];
        let (mut fastest, mut wanted) = (f64::INFINITY, None);
        for (name, plan) in candidates.variants.names.iter().zip(&candidates.plans) {
            self.put(program, plan.clone())?;
            self.poison(program)?;
            self.once(program)?; // drivers compile when a kernel first runs
            let outputs = candidates.outputs.iter();
            let got = outputs.map(|(name, ..)| self.read_any(program, name)).collect::<Result<Vec<_>>>()?;
            let wanted = wanted.get_or_insert_with(|| got.clone());
            let mut pairs = candidates.outputs.iter().zip(got.iter().zip(wanted.iter()));
            let agrees = pairs.all(|((_, dtype, columns), (got, wanted))| agree(got, wanted, *dtype, columns));
            let (mut best, mut spent) = (f64::INFINITY, 0.0);
            for _ in 0..RUNS {
                let took = self.once(program)?;
                (best, spent) = (best.min(took), spent + took);
                if spent > ENOUGH || best > HOPELESS * fastest {
                    break;
                }
            }
            if agrees {
                fastest = fastest.min(best);
            }
            seconds.push((name.clone(), agrees.then_some(best)));
        }
        self.unload(program);
        let best = seconds.iter().filter_map(|(name, s)| s.map(|s| (name, s))).min_by(|a, b| a.1.total_cmp(&b.1));
        let variant = best.map_or(&candidates.variants.names[0], |(name, _)| name).clone();
        Ok(Measured { variant, seconds, shaders: candidates.shaders.clone() })
    }

    /// Puts the kernels of `plan` in place of a program's own: the same graph with another variant.
    fn put(&mut self, program: Program, plan: Plan) -> Result<()> {
        let kernels: Vec<_> = plan.kernels().collect();
        let mut pipelines = self.compile(&kernels)?.into_iter();
        let loaded = &mut self.programs[program.0];
        let (buffers, starts) = (std::mem::take(&mut loaded.buffers), std::mem::take(&mut loaded.starts));
        let actions = plan.segments.iter().map(|s| self.actions(&s.commands, &buffers, &starts, &mut pipelines));
        let segments = actions.collect();
        self.programs[program.0] = Loaded { plan, buffers, starts, segments };
        Ok(())
    }

    /// Seconds of a program's kernels.
    fn once(&mut self, program: Program) -> Result<f64> {
        let timeline = self.profile(program, 0, &Step::default())?;
        let kernels = timeline.kernels.iter().filter(|k| k.name != COPY);
        Ok(kernels.map(|k| k.seconds.end - k.seconds.start).sum())
    }
}

/// The classes of graphs, with everything that is needed to measure them, the most work first.
fn classes(graphs: &[&Graph], limits: &Limits) -> Vec<Candidates> {
    let mut work: BTreeMap<String, (u64, Arc<dyn Op>, Variants)> = BTreeMap::new();
    let mut total = 0;
    for graph in graphs {
        let live = graph.live();
        let nodes = (0..graph.nodes().len()).filter(|node| live[*node]);
        total += nodes.filter_map(|node| Some(graph.op(node)?.cost(&graph.shapes(node)).flops)).sum::<u64>();
        for (op, flops, variants) in graph.choosable(limits) {
            work.entry(variants.class.clone()).or_insert_with(|| (0, op, variants)).0 += flops;
        }
    }
    let least = LEAST_FLOPS.max((LEAST_SHARE * total as f64) as u64);
    let is_forced = |v: &Variants| v.names.iter().any(|n| limits.choices.forced().iter().any(|f| n.contains(f)));
    let mut classes: Vec<_> = work.into_values().collect();
    classes.retain(|(flops, _, variants)| *flops >= least && variants.names.len() > 1 && !is_forced(variants));
    classes.sort_by_key(|(flops, ..)| std::cmp::Reverse(*flops));
    classes.into_iter().filter_map(|(_, op, variants)| candidates(op, variants, limits)).collect()
}

/// Fails where a name is forced that no kernel of these graphs has.
fn check_forced(graphs: &[&Graph], limits: &Limits) -> Result<()> {
    let of = |graph: &Graph| {
        let choosable = graph.choosable(limits).into_iter();
        choosable.flat_map(|(_, _, variants)| variants.names).collect::<BTreeSet<_>>()
    };
    let names: BTreeSet<String> = graphs.iter().copied().flat_map(of).collect();
    let unknown = limits.choices.forced().iter().find(|part| !names.iter().any(|name| name.contains(*part)));
    if let Some(unknown) = unknown.filter(|_| !names.is_empty()) {
        let names = names.into_iter().collect::<Vec<_>>().join("`, `");
        fail!(Usage, "WGPT_VARIANT names `{unknown}`, and no kernel here is called that: there are `{names}`");
    }
    Ok(())
}

/// Plans of all variants; `None` where one does not fit the device.
fn candidates(op: Arc<dyn Op>, mut variants: Variants, limits: &Limits) -> Option<Candidates> {
    let mut graph = Graph::new();
    let input = |(i, shape): (usize, &Shape)| graph.input(&format!("x{i}"), shape.clone());
    let inputs: Vec<_> = variants.inputs.iter().enumerate().map(input).collect();
    let y = graph.apply_shared(op, &inputs);
    let (op, shapes) = (graph.op(y.node)?.clone(), graph.shapes(y.node));
    let of = op.variants(&shapes, limits)?;
    let kept = 0..shapes.outputs.len() - op.scratch();
    let output = |slot: usize| (format!("y{slot}"), shapes.outputs[slot].dtype, op.packing(&shapes, slot));
    let outputs: Vec<_> = kept.map(output).collect();
    for (slot, (name, ..)) in outputs.iter().enumerate() {
        graph.output(name, Tensor { node: y.node, slot });
    }
    variants.names.retain(|name| of.names.contains(name));
    let plan = |name: &String| {
        // The trial's shapes may be of another class than the one that they stand for.
        let mut choices = Choices::default();
        choices.choose(&of.class, name);
        Plan::new(&graph, &Limits { choices: Arc::new(choices), ..limits.clone() }).ok()
    };
    let plans: Vec<Plan> = variants.names.iter().map(plan).collect::<Option<_>>()?;
    let texts = plans.iter().flat_map(Plan::kernels).map(|k| specialise(k.shader, &k.constants, &k.swaps));
    let texts = std::iter::once(COMPARED.to_string()).chain(texts);
    let shaders = sha256_hex(texts.collect::<Vec<_>>().concat().as_bytes());
    Some(Candidates { variants, graph, outputs, plans, shaders })
}

/// Numbers in -1..1 without a pattern, which repeat after 2^20: some devices are faster with zeros.
fn noise(shape: &Shape) -> Vec<u8> {
    let value = |i: u32| (i.wrapping_mul(2_654_435_761).rotate_left(9).wrapping_mul(0x9e37_79b1) >> 8) as f32;
    let block = (1..=1u32 << 20).map(|i| value(i) / (1 << 23) as f32 - 1.0);
    let mut bytes: Vec<u8> = match shape.dtype {
        Dtype::F32 => block.flat_map(f32::to_le_bytes).collect(),
        Dtype::F16 => block.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
        Dtype::U32 => unreachable!("variants are measured on numbers"),
    };
    let whole = shape.size_bytes() as usize;
    while bytes.len() < whole {
        bytes.extend_from_within(..bytes.len().min(whole - bytes.len()));
    }
    bytes.truncate(whole);
    bytes
}

/// Whether two results are the same but for rounding: each of the tensors that their rows hold side by side, relative to its own
/// largest number; ids to the bit.
fn agree(got: &[f32], wanted: &[f32], dtype: Dtype, columns: &[usize]) -> bool {
    if got.len() != wanted.len() || dtype == Dtype::U32 {
        return got.len() == wanted.len() && got.iter().zip(wanted).all(|(g, w)| g.to_bits() == w.to_bits());
    }
    let width = columns.iter().sum::<usize>();
    let mut start = 0;
    columns.iter().all(|columns| {
        let part = start..start + columns;
        start = part.end;
        let rows = || got.chunks(width).zip(wanted.chunks(width)).map(|(g, w)| (&g[part.clone()], &w[part.clone()]));
        let largest = rows().flat_map(|(_, w)| w).fold(0.0f32, |most, w| most.max(w.abs()));
        // A NaN compares false.
        rows().all(|(g, w)| g.iter().zip(w).all(|(g, w)| (g - w).abs() <= TOLERANCE * largest))
    })
}
