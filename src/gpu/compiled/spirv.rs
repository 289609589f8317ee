//! SPIR-V as wgpu makes it of our shaders in a release build: no bounds checks, no bounds on loops, workgroup memory as it is.

use crate::error::{Error, Result};
use crate::gpu::device::one_line;
use crate::gpu::reload::validate;
use wgpu::naga::ShaderStage;
use wgpu::naga::back::spv;
use wgpu::naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};

/// The SPIR-V module of a specialised shader.
pub fn spirv(text: &str) -> Result<Vec<u32>> {
    let (module, info) =
        validate(text).map_err(|(_, why)| Error::Input(format!("not valid WGSL: {}", one_line(&why))))?;
    let unchecked = BoundsCheckPolicy::Unchecked;
    // wgpu-hal 30, Adapter::device_from_raw and Device::compile_stage of vulkan, on a device with Vulkan 1.3.
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::LABEL_VARYINGS | spv::WriterFlags::FORCE_POINT_SIZE,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ray_query_initialization_tracking: false,
        emit_int_div_checks: false,
        task_dispatch_limits: None,
        mesh_shader_primitive_indices_clamp: false,
        ..Default::default()
    };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let written = spv::write_vec(&module, &info, &options, Some(&pipeline));
    written.map_err(|e| Error::Input(format!("cannot be SPIR-V: {}", one_line(&e))))
}
