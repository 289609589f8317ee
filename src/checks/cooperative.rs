//! Kernels on cooperative matrices against the reference: `wgpt doctor` must see them pass before a device chooses them.

use super::Compared;
use crate::executor::Executor;
use crate::files::sha256_hex;
use crate::gpu::Gpu;
use crate::graph::{Choices, Limits, Plan};
use crate::ops::case::{Built, Problem};
use crate::ops::cases;
use crate::reference::Cpu;
use crate::shaders::specialise;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Prefix of the names of variants on cooperative matrices.
const NAME: &str = "cooperative";

/// A case with one of its variants on cooperative matrices.
struct Trial {
    problem: Problem,
    choices: Choices,
}

impl Trial {
    fn limits(&self, limits: &Limits) -> Limits {
        Limits { choices: Arc::new(self.choices.clone()), ..limits.clone() }
    }
}

/// Every case in half precision with each of its variants on cooperative matrices that a device with these limits has.
fn trials(limits: &Limits) -> Vec<Trial> {
    let mut trials = vec![];
    for case in cases().into_iter().filter(|case| case.is_half()) {
        let (graph, _) = case.graph();
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (_, _, variants) in graph.choosable(limits) {
            let on_matrices = variants.names.into_iter().filter(|name| name.starts_with(NAME)).collect();
            names.insert(variants.class, on_matrices);
        }
        names.retain(|_, names| !names.is_empty());
        for nth in 0..names.values().map(Vec::len).max().unwrap_or(0) {
            let chosen = names.iter().map(|(class, names)| (class.clone(), names[nth % names.len()].clone()));
            trials.push(Trial { problem: case.problem(), choices: Choices::new(chosen.collect(), vec![]) });
        }
    }
    trials
}

/// A digest of all these kernels as a device with these limits runs them: it changes with the text of any of their shaders.
pub fn digest(limits: &Limits) -> String {
    let mut texts = vec![];
    for trial in trials(limits) {
        let plan = Plan::new(&trial.problem.graph().0, &trial.limits(limits));
        let plan = plan.expect("cases fit every device");
        texts.extend(plan.kernels().map(|k| specialise(k.shader, &k.constants, &k.swaps)));
    }
    sha256_hex(texts.concat().as_bytes())
}

/// Runs all of them against the reference and hands each to `each`, a case and its variants with the comparison. A variant
/// that the driver refuses is an error, too.
pub fn check(gpu: &mut Gpu, seed: u64, mut each: impl FnMut(String, Result<Vec<Compared>, String>)) {
    let limits = gpu.limits().clone();
    let mut built: Option<(String, Built, Vec<Vec<f32>>)> = None;
    for trial in trials(&limits) {
        let Trial { problem, choices } = &trial;
        let names: Vec<&str> = choices.chosen().values().map(String::as_str).collect();
        let name = format!("{} by {}", problem.name, names.join(", "));
        if built.as_ref().is_none_or(|(case, ..)| *case != problem.name) {
            let of_case = problem.build(seed);
            match of_case.run(&mut Cpu::default()) {
                Ok(want) => built = Some((problem.name.clone(), of_case, want)),
                Err(e) => {
                    each(name, Err(e.to_string()));
                    continue;
                }
            }
        }
        let Some((_, built, want)) = &built else { continue };
        *gpu.limits_mut() = trial.limits(&limits);
        let got = built.run(gpu).map_err(|e| e.to_string());
        each(name, got.and_then(|got| problem.compare(built, &got, want)));
    }
    *gpu.limits_mut() = limits;
}

/// Lets a device choose among them if all of them passed there, as they are now.
pub fn allow_proven(gpu: &mut Gpu) {
    let limits = Limits { cooperative: gpu.adapter().limits.cooperative, ..gpu.limits().clone() };
    if limits.cooperative > 0 && gpu.cooperative_passed().is_some_and(|passed| passed == digest(&limits)) {
        gpu.allow_cooperative();
    }
}
