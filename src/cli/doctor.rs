//! `wgpt doctor`: what devices there are, and whether every op is right on the chosen one.

use super::Global;
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::gpu::{Adapter, Gpu, adapters, choose};
use wgpt::graph::Family;
use wgpt::ops::cases;

#[derive(clap::Args)]
pub struct Doctor {
    /// Check the kernels of this family instead of the adapter's own
    #[arg(long, value_enum)]
    family: Option<FamilyName>,
    /// Leave out the ops, list the adapters only
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FamilyName {
    Gpu,
    Software,
}

impl Doctor {
    pub fn run(&self, global: &Global) -> Result<()> {
        if global.device.eq_ignore_ascii_case("cpu") {
            fail!(Usage, "the CPU is what ops are checked against: give --device auto or part of an adapter's name");
        }
        let chosen = choose(&global.device)?;
        for adapter in adapters() {
            describe(&adapter, adapter.description() == chosen.description());
        }
        if self.list {
            return Ok(());
        }
        let family = self.family.map(|family| match family {
            FamilyName::Gpu => Family::Gpu,
            FamilyName::Software => Family::Software,
        });
        let mut gpu = Gpu::with(chosen, family, cfg!(debug_assertions))?;
        println!("\nEvery op against the CPU reference; the share is of the error budget, over 100% fails.\n");
        let mut failed = 0;
        for case in cases() {
            match case.check(&mut gpu as &mut dyn Executor, 42)? {
                Ok(compared) => {
                    let worst = compared.iter().max_by(|a, b| a.share.total_cmp(&b.share));
                    let (share, tensor) = worst.map_or((0.0, ""), |c| (c.share, c.tensor.as_str()));
                    println!("  ok    {:5.1}%  {:60} worst in {tensor}", 100.0 * share, case.name);
                }
                Err(why) => {
                    failed += 1;
                    println!("  FAIL          {:60} {why}", case.name);
                }
            }
        }
        if failed > 0 {
            fail!(
                Device,
                "{failed} of {} cases are wrong on this device: report it with the table above",
                cases().len()
            );
        }
        println!("\n{} cases, all right.", cases().len());
        Ok(())
    }
}

fn describe(adapter: &Adapter, chosen: bool) {
    let yes = |has: bool| if has { "yes" } else { "no" };
    let limits = &adapter.limits;
    println!("{} {}", if chosen { "*" } else { " " }, adapter.description());
    println!(
        "    f16 {}   subgroups {} ({} to {})   timestamps {}   cooperative matrices: {}",
        yes(adapter.has_f16),
        yes(adapter.has_subgroups),
        adapter.subgroup_sizes.0,
        adapter.subgroup_sizes.1,
        yes(adapter.has_timestamps),
        if adapter.cooperative.is_empty() { "none".into() } else { adapter.cooperative.join(", ") },
    );
    println!(
        "    buffers up to {} MiB, bindings {} MiB   workgroups {} per dimension, {} threads, {} KiB of shared memory",
        limits.buffer_bytes >> 20,
        limits.binding_bytes >> 20,
        limits.workgroups,
        limits.invocations,
        limits.workgroup_bytes >> 10,
    );
}
