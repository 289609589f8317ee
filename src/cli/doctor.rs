//! `wgpt doctor`: the adapters, every op against the reference on the chosen one, its speed, and the presets that fit.

mod presets;

use super::profile::{flops, significant};
use super::{Global, console};
use presets::Estimates;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use wgpt::checks::{Compared, cooperative};
use wgpt::error::Result;
use wgpt::executor::Executor;
use wgpt::fail;
use wgpt::gpu::ceilings::Ceilings;
use wgpt::gpu::tuning::Measured;
use wgpt::gpu::{Adapter, Gpu, adapters, choose};
use wgpt::graph::AdapterKind;
use wgpt::ops::{cases, cases_for};

#[derive(clap::Args)]
pub struct Doctor {
    /// Check the kernels for this kind of adapter instead of the adapter's own
    #[arg(long, value_enum)]
    family: Option<FamilyName>,
    /// Leave out everything that is measured, list the adapters only
    #[arg(long, conflicts_with_all = ["family", "ops"])]
    list: bool,
    /// Check only the cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    ops: String,
    /// Print one JSON object, for a bug report
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FamilyName {
    Gpu,
    Software,
}

/// Everything that is found out.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    system: String,
    adapters: Vec<Described>,
    cases: Vec<Checked>,
    /// Every case by every kernel on cooperative matrices, where the adapter has such matrices.
    cooperative: Vec<Checked>,
    ceilings: Option<Ceilings>,
    estimates: Option<Estimates>,
    /// The variants that were measured, by class.
    variants: BTreeMap<String, Measured>,
}

#[derive(Serialize)]
struct Described {
    chosen: bool,
    name: String,
    driver: String,
    backend: String,
    kind: &'static str,
    f16: bool,
    subgroups: bool,
    subgroup_sizes: (u32, u32),
    timestamps: bool,
    cooperative: Vec<String>,
    buffer_bytes: u64,
    binding_bytes: u64,
    workgroups: u32,
    invocations: u32,
    workgroup_bytes: u64,
}

/// One case of an op: the share of its error budget, or its error.
#[derive(Serialize)]
struct Checked {
    case: String,
    share: Option<f64>,
    tensor: String,
    wrong: Option<String>,
}

impl Doctor {
    pub fn run(&self, global: &Global) -> Result<()> {
        if global.device.eq_ignore_ascii_case("cpu") {
            fail!(Usage, "ops are checked against the CPU: give --device auto or part of an adapter's name");
        }
        if !cases().iter().any(|case| case.name.contains(&self.ops)) {
            fail!(Usage, "no case's name contains `{}`: give the start of an op's, such as matmul", self.ops);
        }
        let chosen = choose(&global.device)?;
        let describe = |a: &Adapter| Described::new(a, a.description() == chosen.description());
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            adapters: adapters().iter().map(describe).collect(),
            cases: vec![],
            cooperative: vec![],
            ceilings: None,
            estimates: None,
            variants: BTreeMap::new(),
        };
        self.tell(|| report.adapters.iter().map(Described::to_string).collect())?;
        if !self.list {
            self.measure(global, chosen, &mut report)?;
        }
        if self.json {
            console::line(serde_json::to_string_pretty(&report).expect("numbers and texts are JSON"))?;
        }
        let all = || report.cases.iter().chain(&report.cooperative);
        let failed = all().filter(|c| c.wrong.is_some()).count();
        if failed > 0 {
            let all = all().count();
            fail!(Device, "{failed} of {all} cases are wrong on this device: report it with the output of --json");
        }
        Ok(())
    }

    fn measure(&self, global: &Global, chosen: Adapter, report: &mut Report) -> Result<()> {
        let family = self.family.map(|family| match family {
            FamilyName::Gpu => AdapterKind::Gpu,
            FamilyName::Software => AdapterKind::Software,
        });
        let checks = cfg!(debug_assertions);
        let mut gpu = Gpu::with(chosen.clone(), family, checks)?;
        super::force_variants(&mut gpu);
        self.tell(|| {
            "\nEvery op against the CPU reference; the share is of the error budget, over 100% fails.\n\n".into()
        })?;
        let all = cases_for(gpu.limits());
        if all.len() < cases().len() {
            let left_out = cases().len() - all.len();
            self.tell(|| format!("No half precision here: its {left_out} cases are left out.\n\n"))?;
        }
        for case in all.into_iter().filter(|case| case.name.contains(&self.ops)) {
            let checked = Checked::new(case.name.into(), case.check(&mut gpu as &mut dyn Executor, 42)?);
            self.tell(|| checked.to_string())?;
            report.cases.push(checked);
        }
        // The cases' buffers are freed with the device.
        drop(gpu);
        let passed = self.check_cooperative(Gpu::with(chosen.clone(), family, checks)?, report)?;
        let mut gpu = Gpu::with(chosen, family, checks)?;
        let ceilings = Ceilings::measure(&mut gpu)?;
        self.tell(|| {
            let wrong = report.cases.iter().filter(|c| c.wrong.is_some()).count();
            let wrong = if wrong == 0 { "all right".into() } else { format!("{wrong} wrong") };
            format!("\n{} cases, {wrong}.\n\n{}", report.cases.len(), ceilings_text(&ceilings))
        })?;
        report.ceilings = Some(ceilings);
        global.prepare(&mut gpu);
        if let Some(passed) = passed
            && let Err(e) = gpu.record_cooperative(passed.as_deref())
        {
            global.say(&format!("note: that the kernels on cooperative matrices were checked cannot be kept: {e}"));
        }
        let estimates = presets::estimate(&mut gpu, &ceilings)?;
        report.variants = gpu.measured().map(|(class, measured)| (class.to_string(), measured.clone())).collect();
        self.tell(|| variants_text(&report.variants))?;
        drop(gpu);
        let estimates = estimates.of_presets()?;
        self.tell(|| estimates.lines().iter().map(|line| format!("{line}\n")).collect())?;
        report.estimates = Some(estimates);
        if checks {
            global.say("note: this is a debug build, whose kernels check their bounds: a release build is faster");
        }
        Ok(())
    }

    /// Checks every kernel on cooperative matrices where the adapter has them and no case is left out: their digest if all are
    /// right, which lets this device choose them from then on.
    fn check_cooperative(&self, mut gpu: Gpu, report: &mut Report) -> Result<Option<Option<String>>> {
        if gpu.adapter().limits.cooperative == 0 || !self.ops.is_empty() {
            return Ok(None);
        }
        gpu.allow_cooperative();
        self.tell(|| {
            "\nKernels on cooperative matrices, which are chosen only where all of them are right:\n\n".into()
        })?;
        let mut told = Ok(());
        cooperative::check(&mut gpu, 42, |name, compared| {
            let checked = Checked::new(name, compared);
            if told.is_ok() {
                told = self.tell(|| checked.to_string());
            }
            report.cooperative.push(checked);
        });
        told?;
        let right = !report.cooperative.is_empty() && report.cooperative.iter().all(|c| c.wrong.is_none());
        self.tell(|| format!("\n{}\n", if right { "All right: they may be chosen." } else { "They are not used." }))?;
        Ok(Some(right.then(|| cooperative::digest(gpu.limits()))))
    }

    /// Prints for people, unless JSON was asked for.
    fn tell(&self, text: impl FnOnce() -> String) -> Result<()> {
        if self.json { Ok(()) } else { console::data(&text()) }
    }
}

fn ceilings_text(ceilings: &Ceilings) -> String {
    let offered = |rate: Option<f64>| rate.map_or("not offered".into(), flops);
    let mut text = String::from("Measured ceilings:\n");
    text += &format!("    multiply-adds f32   {}\n", flops(ceilings.f32_flops));
    text += &format!("    multiply-adds f16   {}\n", offered(ceilings.f16_flops));
    text += &format!("    matrices f16 to f32 {}\n", offered(ceilings.cooperative_flops));
    text + &format!("    large copy          {} GB/s read and written\n", significant(ceilings.copy_bytes / 1e9))
}

fn variants_text(variants: &BTreeMap<String, Measured>) -> String {
    if variants.is_empty() {
        return String::new();
    }
    let mut text = String::from("\nKernels chosen by measurement, with their gain over the best guess:\n");
    for (class, measured) in variants {
        let (gain, count) = (measured.gain(), measured.seconds.len());
        text += &format!("    {class:32} {:24} {gain:.2} times as fast, of {count}\n", measured.variant);
        for (name, _) in measured.seconds.iter().filter(|(_, seconds)| seconds.is_none()) {
            text += &format!("      WRONG: {name} differs from the others, and is not used\n");
        }
    }
    text + "\n"
}

impl Checked {
    fn new(case: String, compared: std::result::Result<Vec<Compared>, String>) -> Checked {
        match compared {
            Ok(compared) => {
                let worst = compared.into_iter().max_by(|a, b| a.share.total_cmp(&b.share));
                let (share, tensor) = worst.map_or((0.0, String::new()), |c| (c.share, c.tensor));
                Checked { case, share: Some(share), tensor, wrong: None }
            }
            Err(why) => Checked { case, share: None, tensor: String::new(), wrong: Some(why) },
        }
    }
}

impl Display for Checked {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (&self.wrong, self.share) {
            (Some(why), _) => writeln!(f, "  FAIL          {:60} {why}", self.case),
            (None, share) => {
                let share = 100.0 * share.unwrap_or(0.0);
                writeln!(f, "  ok    {share:5.1}%  {:60} worst in {}", self.case, self.tensor)
            }
        }
    }
}

impl Described {
    fn new(adapter: &Adapter, chosen: bool) -> Described {
        let limits = &adapter.limits;
        Described {
            chosen,
            name: adapter.name.clone(),
            driver: adapter.driver.clone(),
            backend: adapter.backend.clone(),
            kind: adapter.kind,
            f16: limits.f16,
            subgroups: adapter.has_subgroups,
            subgroup_sizes: adapter.subgroup_sizes,
            timestamps: adapter.has_timestamps,
            cooperative: adapter.cooperative.clone(),
            buffer_bytes: limits.buffer_bytes,
            binding_bytes: limits.binding_bytes,
            workgroups: limits.workgroups,
            invocations: limits.invocations,
            workgroup_bytes: limits.workgroup_bytes,
        }
    }
}

impl Display for Described {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let yes = |has: bool| if has { "yes" } else { "no" };
        let mark = if self.chosen { "*" } else { " " };
        writeln!(f, "{mark} {} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)?;
        writeln!(
            f,
            "    f16 {}   subgroups {} ({} to {})   timestamps {}   cooperative matrices: {}",
            yes(self.f16),
            yes(self.subgroups),
            self.subgroup_sizes.0,
            self.subgroup_sizes.1,
            yes(self.timestamps),
            if self.cooperative.is_empty() { "none".into() } else { self.cooperative.join(", ") },
        )?;
        writeln!(
            f,
            "    buffers up to {} MiB, bindings {} MiB   workgroups {} per dimension, {} threads, {} KiB of shared memory",
            self.buffer_bytes >> 20,
            self.binding_bytes >> 20,
            self.workgroups,
            self.invocations,
            self.workgroup_bytes >> 10,
        )
    }
}
