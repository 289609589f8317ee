//! Every op's cases on the best adapter: time, FLOP/s, bytes/s and the share of the ceiling that binds (multiply-adds or
//! copies, both measured first), by wall clock over enough replays to see past a submit.

use std::time::{Duration, Instant};
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::gpu::ceilings::Ceilings;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::Plan;
use wgpt::ops::{Case, cases_for};

fn main() {
    let filter: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let run = || -> Result<()> {
        let mut gpu = Gpu::with(choose("auto")?, None, false)?;
        println!("{}", gpu.description());
        let ceilings = Ceilings::measure(&mut gpu)?;
        let (flops, bytes) = (ceilings.f32_flops / 1e9, ceilings.copy_bytes / 1e9);
        println!("ceilings: {flops:.1} GFLOP/s of f32 multiply-adds, {bytes:.1} GB/s of a large copy");
        let what = "case, with its backward if it has one";
        println!("{what:66} {:>10} {:>12} {:>10} {:>8}", "ms", "GFLOP/s", "GB/s", "ceiling");
        let wanted = |c: &&Case| filter.iter().all(|f| c.name.contains(f));
        cases_for(gpu.limits()).into_iter().filter(wanted).try_for_each(|c| measure(&mut gpu, c, &ceilings))
    };
    if let Err(error) = run() {
        eprintln!("error: {error}");
        std::process::exit(error.exit_code().into());
    }
}

/// Median time of a case's graph, replayed until a tenth of a second has passed, five times.
fn measure(gpu: &mut Gpu, case: &Case, ceilings: &Ceilings) -> Result<()> {
    let built = case.build(42);
    let plan = Plan::new(&built.graph, gpu.limits())?;
    let cost = plan.kernels().map(|k| k.cost).sum::<wgpt::graph::Cost>();
    let program = gpu.load(&built.graph, plan)?;
    built.write_inputs(gpu, program)?;
    let output = built.outputs.last().expect("a case compares something");
    let mut replay = |times: u32| -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..times {
            gpu.run(program, 0, &built.step())?;
        }
        gpu.wait()?;
        Ok(start.elapsed() / times)
    };
    replay(1)?;
    let times = (Duration::from_millis(100).as_secs_f64() / replay(1)?.as_secs_f64()).clamp(1.0, 1000.0) as u32;
    let mut spans = [Duration::ZERO; 5];
    for span in &mut spans {
        *span = replay(times)?;
    }
    spans.sort();
    let seconds = spans[2].as_secs_f64();
    let (gflops, gbytes) = (cost.flops as f64 / seconds / 1e9, cost.size_bytes as f64 / seconds / 1e9);
    let share = 100.0 * ceilings.floor_seconds(case.name, cost.flops as f64, cost.size_bytes as f64).0 / seconds;
    println!("{:66} {:10.3} {gflops:12.2} {gbytes:10.2} {share:7.1}%", case.name, seconds * 1e3);
    gpu.read_any(program, output)?;
    gpu.unload(program);
    Ok(())
}
