//! What a driver's compiler makes of a kernel: registers, spills, waves, assembly. Feature `compiled`.
//!
//! The user's Vulkan device tells it through VK_KHR_pipeline_executable_properties. Nothing runs: null and stub devices, such as Mesa's for
//! GPUs that are not there, compile as well. Kernels are compiled from the SPIR-V that wgpu makes of them in a release build.

mod spirv;
mod vulkan;

pub use spirv::spirv;
pub use vulkan::Compiler;

/// A kernel as it was compiled.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Lanes of a wave.
    pub subgroup: u32,
    /// What the driver counts, by its own names.
    pub statistics: Vec<(String, u64)>,
    /// Assembly, or the last form that the driver shows; empty unless it was asked for.
    pub assembly: String,
}

/// Names that drivers give to one thing, in lower case: AMD's, NVIDIA's and Intel's in Mesa.
type Names = &'static [&'static str];

const REGISTERS: Names = &["vgprs", "number of gprs", "max live registers"];
const SPILLS: Names = &["spilled vgprs", "spills to memory", "spills", "spill count"];
const SCRATCH: Names = &["scratch size", "slm size", "scratch memory size"];
const WORKGROUP: Names = &["lds size", "workgroup memory size"];
const WAVES: Names = &["subgroups per simd", "max warps/sm"];
const INSTRUCTIONS: Names = &["instructions", "instruction count"];

impl Compiled {
    /// Vector registers of a lane: those that are allocated, or that are live at most.
    pub fn registers(&self) -> Option<u64> {
        self.find(REGISTERS)
    }

    /// Registers that are kept in memory for want of more.
    pub fn spills(&self) -> Option<u64> {
        self.find(SPILLS)
    }

    /// Bytes of memory of its own for each lane or wave.
    pub fn scratch(&self) -> Option<u64> {
        self.find(SCRATCH)
    }

    /// Bytes of workgroup memory.
    pub fn workgroup_bytes(&self) -> Option<u64> {
        self.find(WORKGROUP)
    }

    /// Waves that a SIMD unit or a multiprocessor holds at a time.
    pub fn waves(&self) -> Option<u64> {
        self.find(WAVES)
    }

    pub fn instructions(&self) -> Option<u64> {
        self.find(INSTRUCTIONS)
    }

    fn find(&self, names: Names) -> Option<u64> {
        let is_one = |name: &String| names.contains(&name.to_lowercase().as_str());
        self.statistics.iter().find(|(name, _)| is_one(name)).map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_found_by_the_names_of_each_driver() {
        let of = |statistics: &[(&str, u64)]| {
            let statistics = statistics.iter().map(|(name, value)| (name.to_string(), *value)).collect();
            let c = Compiled { statistics, ..Compiled::default() };
            [c.registers(), c.spills(), c.scratch(), c.workgroup_bytes(), c.waves(), c.instructions()]
        };
        let amd = [
            ("SGPRs", 128),
            ("VGPRs", 120),
            ("Spilled SGPRs", 7),
            ("Spilled VGPRs", 1),
            ("LDS size", 2),
            ("Scratch size", 3),
            ("Subgroups per SIMD", 4),
            ("Instructions", 5),
        ];
        assert_eq!(of(&amd), [Some(120), Some(1), Some(3), Some(2), Some(4), Some(5)]);
        let intel = [("Instruction Count", 9), ("Spill count", 0), ("Scratch Memory Size", 8)];
        assert_eq!(of(&intel), [None, Some(0), Some(8), None, None, Some(9)]);
        assert_eq!(of(&[("Max warps/SM", 16)])[4], Some(16));
    }
}
