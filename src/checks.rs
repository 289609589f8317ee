//! Running cases: on a device and on the reference, and the comparison of the two. Tests and `wgpt doctor` use it.

pub mod cooperative;

use crate::error::Result;
use crate::executor::{Executor, Program};
use crate::gpu::Gpu;
use crate::gpu::margins::Fill;
use crate::graph::Plan;
use crate::ops::case::{Built, Case, Problem};
use crate::reference::Cpu;

/// Bytes of a problem's inputs from which it runs with margins of NaN alone: its kernels are those of smaller problems, over ranges
/// of a tensor, and take most of the time of all.
const LARGE_BYTES: usize = 64 << 20;

/// Comparison of one tensor: the largest share of its error budget that any element used.
#[derive(Debug)]
pub struct Compared {
    pub tensor: String,
    pub share: f64,
}

impl Case {
    /// Runs the case on `device` and on the reference and compares every output; the error budget's share of each, or
    /// the first element that is over it.
    pub fn check(&self, device: &mut dyn Executor, seed: u64) -> Result<std::result::Result<Vec<Compared>, String>> {
        let problem = self.problem();
        let built = problem.build(seed);
        let want = built.run(&mut Cpu::default())?;
        Ok(problem.compare(&built, &built.run(device)?, &want))
    }
}

impl Problem {
    /// Compares every output with that of the reference; the error budget's share of each, or the first element that is
    /// over it.
    pub fn compare(
        &self,
        built: &Built,
        got: &[Vec<f32>],
        want: &[Vec<f32>],
    ) -> std::result::Result<Vec<Compared>, String> {
        let mut compared = vec![];
        for ((name, got), want) in built.outputs.iter().zip(got).zip(want) {
            let name_of = format!("{} {name}", self.name);
            let share = if self.is_bits(name, built.dtype(name)) {
                check_bits(&name_of, got, want)?
            } else {
                check_close(&name_of, got, want, self.atol, self.rtol)?
            };
            compared.push(Compared { tensor: name.clone(), share });
        }
        Ok(compared)
    }

    /// Runs the problem with margins around its buffers, once for each [`Fill`] (a large one with NaN alone), and compares every
    /// output with the reference's. Nothing outside may be written, and other margins must leave the results the same to the bit: on
    /// a device without bounds checks this shows kernels that write or read beside their tensors.
    pub fn check_surrounded(
        &self,
        gpu: &mut Gpu,
        built: &Built,
        want: &[Vec<f32>],
    ) -> Result<std::result::Result<Vec<Compared>, String>> {
        let mut runs = vec![];
        let size_bytes: usize = built.inputs.iter().map(|(_, values)| 4 * values.len()).sum();
        let fills = if size_bytes < LARGE_BYTES { &[Fill::Nan, Fill::Large][..] } else { &[Fill::Nan][..] };
        for fill in fills.iter().copied() {
            gpu.set_margins(Some(fill));
            let run = built.start(gpu).and_then(|program| {
                let outside = gpu.written_outside(program)?;
                Ok((outside, built.finish(gpu, program)?))
            });
            gpu.set_margins(None);
            let (outside, outputs) = run?;
            if let Some(why) = outside {
                return Ok(Err(format!("{}: {why}", self.name)));
            }
            runs.push(outputs);
        }
        for second in &runs[1..] {
            for (name, (first, second)) in built.outputs.iter().zip(runs[0].iter().zip(second)) {
                let name = format!("{} {name}, with other margins,", self.name);
                if let Err(why) = check_bits(&name, second, first) {
                    return Ok(Err(why));
                }
            }
        }
        Ok(self.compare(built, &runs[0], want))
    }
}

impl Built {
    /// Writes all inputs of the loaded graph, each in its type.
    pub fn write_inputs(&self, device: &mut dyn Executor, program: Program) -> Result<()> {
        for (name, values) in &self.inputs {
            let leaf = self.graph.nodes().iter().find(|n| n.label == *name).expect("an input of the graph");
            device.write(program, name, &leaf.outputs[0].dtype.to_bytes(values))?;
        }
        Ok(())
    }

    /// Values of all outputs on a device, in the order of their names.
    pub fn run(&self, device: &mut dyn Executor) -> Result<Vec<Vec<f32>>> {
        let program = self.start(device)?;
        self.finish(device, program)
    }

    /// Loads the graph and runs it once.
    fn start(&self, device: &mut dyn Executor) -> Result<Program> {
        let plan = Plan::new(&self.graph, &self.limits(device.limits()))?;
        let program = device.load(&self.graph, plan)?;
        device.poison(program)?;
        self.write_inputs(device, program)?;
        device.run(program, 0, &self.step())?;
        Ok(program)
    }

    /// Reads all outputs and unloads the program.
    fn finish(&self, device: &mut dyn Executor, program: Program) -> Result<Vec<Vec<f32>>> {
        let outputs = self.outputs.iter().map(|name| device.read_any(program, name)).collect();
        device.unload(program);
        outputs
    }
}

/// Fails unless ids and bits are the same.
fn check_bits(tensor: &str, got: &[f32], want: &[f32]) -> std::result::Result<f64, String> {
    let differ = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
    match differ {
        Some(i) => Err(format!("{tensor}[{i}] is {:#x} and should be {:#x}", got[i].to_bits(), want[i].to_bits())),
        None => Ok(0.0),
    }
}

/// Fails unless `|got - want| <= atol + rtol * |want|` for every element, written so that NaN fails; returns the largest
/// share of the budget used, or a line with the tensor, the index and both values.
pub fn check_close(tensor: &str, got: &[f32], want: &[f32], atol: f32, rtol: f32) -> std::result::Result<f64, String> {
    if got.len() != want.len() {
        return Err(format!("{tensor} has {} elements and should have {}", got.len(), want.len()));
    }
    let mut largest = 0.0f64;
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let budget = f64::from(atol) + f64::from(rtol) * f64::from(w).abs();
        let share = if g == w { 0.0 } else { (f64::from(g) - f64::from(w)).abs() / budget };
        // A NaN share compares false with everything, so it must fail the comparison that lets an element pass.
        if share <= 1.0 {
            largest = largest.max(share);
        } else {
            return Err(format!("{tensor}[{i}] is {g} and should be {w}: {share:.2} of its budget {budget:.2e}"));
        }
    }
    Ok(largest)
}
