//! `wgpt profile --kernel`: the loop of a kernel author. Reads the shader from disk, checks it against the reference, and
//! times it beside the built-in one.

use super::record::Spread;
use super::significant;
use crate::cli::{Global, console};
use std::collections::BTreeSet;
use std::path::Path;
use wgpt::error::Result;
use wgpt::executor::{Executor, Program};
use wgpt::fail;
use wgpt::gpu::reload::ShaderFiles;
use wgpt::gpu::{Adapter, Gpu, choose};
use wgpt::graph::{AdapterKind, Cost, Limits, Plan};
use wgpt::ops::case::Built;
use wgpt::ops::{Case, cases_for};

pub fn run(global: &Global, name: &str, folder: &Path, repeats: usize, host_clock: bool) -> Result<()> {
    if global.device.eq_ignore_ascii_case("cpu") {
        fail!(Usage, "shaders do not run on the CPU reference: give --device auto or part of an adapter's name");
    }
    let adapter = choose(&global.device)?;
    let (stem, kind, cases) = find(&adapter, name)?;
    let files = ShaderFiles::read(folder, stem)?;
    global.say(&format!("device: {}", adapter.description()));
    if kind != adapter.limits.adapter {
        global.say(&format!("note: {stem} is no kernel for this kind of adapter; it is timed all the same"));
    }
    // Bounds checks are on while it is not known to be right.
    let mut checked = Gpu::with(adapter.clone(), Some(kind), true)?;
    checked.reload(Some(files.clone()));
    for case in &cases {
        if let Err(why) = case.check(&mut checked, 42)? {
            fail!(Input, "{} is wrong: {why}", folder.join(format!("{stem}.wgsl")).display());
        }
    }
    global.say(&format!("{} cases agree with the reference", cases.len()));
    drop(checked);
    let mut gpu = Gpu::with(adapter, Some(kind), cfg!(debug_assertions))?;
    if host_clock {
        gpu.use_host_clock();
    }
    console::line(format_args!(
        "{:50} {:>10} {:>10} {:>8} {:>6} {:>10} {:>9}",
        stem, "ms before", "ms now", "change", "+-", "GFLOP/s", "GB/s"
    ))?;
    cases.iter().try_for_each(|case| time(&mut gpu, case, stem, &files, repeats))
}

/// A kernel's stem, the kind of adapter that it is for, and the cases that launch it.
fn find(adapter: &Adapter, name: &str) -> Result<(&'static str, AdapterKind, Vec<&'static Case>)> {
    let own = adapter.limits.adapter;
    let other = if own == AdapterKind::Gpu { AdapterKind::Software } else { AdapterKind::Gpu };
    let mut known = BTreeSet::new();
    for kind in [own, other] {
        let limits = Limits { adapter: kind, ..adapter.limits.clone() };
        let mut found = vec![];
        let mut stem = None;
        for case in cases_for(&limits) {
            let stems = stems(case, &limits);
            if let Some(same) = stems.iter().find(|stem| **stem == name) {
                stem = Some(*same);
                found.push(case);
            }
            known.extend(stems);
        }
        if let Some(stem) = stem {
            return Ok((stem, kind, found));
        }
    }
    let known: Vec<&str> = known.into_iter().collect();
    fail!(Usage, "there is no kernel `{name}`: there are {}", known.join(", "));
}

/// The shaders that a case launches.
fn stems(case: &Case, limits: &Limits) -> BTreeSet<&'static str> {
    let (graph, _) = case.graph();
    let dispatches = (0..graph.nodes().len()).filter_map(|node| Some((node, graph.op(node)?)));
    dispatches.flat_map(|(node, op)| op.dispatch(&graph.shapes(node), limits)).map(|d| d.shader.stem).collect()
}

/// The kernel in one case as it was and as it is, in turn.
fn time(gpu: &mut Gpu, case: &Case, stem: &'static str, files: &ShaderFiles, repeats: usize) -> Result<()> {
    let built = case.build(42);
    gpu.reload(None);
    let (before, cost) = load(gpu, &built, stem)?;
    gpu.reload(Some(files.clone()));
    let (now, _) = load(gpu, &built, stem)?;
    let mut ms = [vec![], vec![]];
    for repeat in 0..=repeats {
        for (program, times) in [before, now].into_iter().zip(&mut ms) {
            let seconds = seconds(gpu, &built, program, stem)?;
            // The first time warms up.
            if repeat > 0 {
                times.push(1e3 * seconds);
            }
        }
    }
    let [was, is] = ms.map(|times| Spread::of(&times));
    let per_second = 1e3 / is.median;
    console::line(format_args!(
        "{:50} {:10.4} {:10.4} {:+7.1}% {:5.0}% {:>10} {:>9}",
        case.name,
        was.median,
        is.median,
        100.0 * (is.median / was.median - 1.0),
        100.0 * is.relative(),
        significant(cost.flops as f64 * per_second / 1e9),
        significant(cost.size_bytes as f64 * per_second / 1e9),
    ))?;
    gpu.unload(before);
    gpu.unload(now);
    Ok(())
}

/// Loads a case, and returns the cost of its kernels of this shader.
fn load(gpu: &mut Gpu, built: &Built, stem: &str) -> Result<(Program, Cost)> {
    let plan = Plan::new(&built.graph, gpu.limits())?;
    let cost = plan.kernels().filter(|k| k.shader.stem == stem).map(|k| k.cost).sum();
    let program = gpu.load(&built.graph, plan)?;
    built.write_inputs(gpu, program)?;
    Ok((program, cost))
}

/// Seconds of the kernel's launches in one replay.
fn seconds(gpu: &mut Gpu, built: &Built, program: Program, stem: &str) -> Result<f64> {
    let timeline = gpu.profile(program, 0, &built.step())?;
    let ours = timeline.kernels.iter().filter(|k| k.name == stem);
    Ok(ours.map(|k| k.seconds.end - k.seconds.start).sum())
}
