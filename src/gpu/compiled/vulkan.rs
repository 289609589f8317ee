//! A Vulkan device that compiles and tells about it, with the features that wgpu asks for as far as they change code.

use super::Compiled;
use crate::error::{Error, Result};
use crate::fail;
use crate::gpu::adapter::named;
use crate::graph::plan::Kernel;
use crate::graph::{AdapterKind, Limits};
use ash::{ext, khr, vk};
use std::ffi::CStr;

/// A logical device without a queue that is used.
pub struct Compiler {
    pub name: String,
    /// The device's limits for plans.
    pub limits: Limits,
    executables: khr::pipeline_executable_properties::Device,
    device: ash::Device,
    instance: ash::Instance,
    /// The loader, which the others are functions of.
    _entry: ash::Entry,
}

/// One of the devices that a loader lists.
struct Found {
    physical: vk::PhysicalDevice,
    name: String,
    properties: vk::PhysicalDeviceProperties,
}

/// An error of the driver as our own.
fn refused(what: &str) -> impl Fn(vk::Result) -> Error {
    move |why| Error::Device(format!("the Vulkan driver refuses {what}: {why}"))
}

impl Compiler {
    /// Opens the Vulkan device that `wanted` means: the best kind for `auto`, otherwise the best whose name contains it.
    pub fn open(wanted: &str) -> Result<Compiler> {
        // SAFETY: the Vulkan loader is trusted, as it is by wgpu.
        let entry = unsafe { ash::Entry::load() }
            .map_err(|e| Error::Device(format!("no Vulkan loader: {e}; install one and a driver (libvulkan1)")))?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let info = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structures live until the call returns.
        let instance = unsafe { entry.create_instance(&info, None) }.map_err(refused("an instance"))?;
        match open(&entry, &instance, wanted) {
            Ok((name, limits, device)) => {
                let executables = khr::pipeline_executable_properties::Device::new(&instance, &device);
                Ok(Compiler { name, limits, executables, device, instance, _entry: entry })
            }
            Err(e) => {
                // SAFETY: nothing that was made from it is left.
                unsafe { instance.destroy_instance(None) };
                Err(e)
            }
        }
    }

    /// Compiles a kernel from its SPIR-V, and takes its assembly as well if that is asked for.
    pub fn compile(&self, kernel: &Kernel, words: &[u32], assembly: bool) -> Result<Compiled> {
        let bindings: Vec<_> = (0..)
            .zip(&kernel.bindings)
            .map(|(i, bound)| {
                let ty = if bound.buffer.is_none() {
                    vk::DescriptorType::UNIFORM_BUFFER
                } else {
                    vk::DescriptorType::STORAGE_BUFFER
                };
                let binding =
                    vk::DescriptorSetLayoutBinding::default().binding(i).descriptor_count(1).descriptor_type(ty);
                binding.stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let mut flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR;
        if assembly {
            flags |= vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
        }
        let what = format!("`{}`", kernel.shader.stem);
        let refused = refused(&what);
        // SAFETY: every handle is of this device and destroyed once, after what was made from it; the words are a whole module that naga
        // wrote.
        unsafe {
            let module = vk::ShaderModuleCreateInfo::default().code(words);
            let module = self.device.create_shader_module(&module, None).map_err(&refused)?;
            let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let set = self.device.create_descriptor_set_layout(&set, None).map_err(&refused);
            let layout = set.and_then(|set| {
                let sets = [set];
                let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
                Ok((set, self.device.create_pipeline_layout(&layout, None).map_err(&refused)?))
            });
            let compiled = layout.and_then(|(set, layout)| {
                let stage = vk::PipelineShaderStageCreateInfo::default()
                    .stage(vk::ShaderStageFlags::COMPUTE)
                    .module(module)
                    .name(c"main")
                    .flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE);
                let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(flags);
                let pipelines = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None);
                let compiled = pipelines.map_err(|(_, why)| refused(why)).and_then(|pipelines| {
                    let told = self.tell(pipelines[0], assembly);
                    self.device.destroy_pipeline(pipelines[0], None);
                    told
                });
                self.device.destroy_pipeline_layout(layout, None);
                self.device.destroy_descriptor_set_layout(set, None);
                compiled
            });
            self.device.destroy_shader_module(module, None);
            compiled
        }
    }

    /// What the driver tells about a pipeline's executable; of several widths, as Intel's driver makes, the widest.
    ///
    /// # Safety
    /// The pipeline is of this device, made to be told about.
    unsafe fn tell(&self, pipeline: vk::Pipeline, assembly: bool) -> Result<Compiled> {
        let refused = refused("statistics of a pipeline");
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: as the caller promises.
        let all = unsafe { self.executables.get_pipeline_executable_properties(&info) }.map_err(&refused)?;
        let Some((index, executable)) = (0..).zip(&all).last() else {
            fail!(Device, "{} tells nothing about its pipelines", self.name);
        };
        let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index);
        // SAFETY: as the caller promises; the index is one of those that the driver has just listed.
        let told = unsafe { self.executables.get_pipeline_executable_statistics(&which) }.map_err(&refused)?;
        let statistics = told.iter().map(|s| {
            // SAFETY: the format says which of the union's numbers it is.
            let value = unsafe {
                match s.format {
                    vk::PipelineExecutableStatisticFormatKHR::BOOL32 => u64::from(s.value.b32),
                    vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => s.value.f64 as u64,
                    _ => s.value.u64,
                }
            };
            (text(s.name_as_c_str()), value)
        });
        let statistics = statistics.collect();
        // SAFETY: as for statistics.
        let assembly = if assembly { unsafe { self.assembly(&which) }.map_err(&refused)? } else { String::new() };
        Ok(Compiled { subgroup: executable.subgroup_size, statistics, assembly })
    }

    /// The assembly of an executable, or the last text that the driver keeps of it.
    ///
    /// # Safety
    /// The executable is of a pipeline of this device, made with its internal representations kept.
    unsafe fn assembly(&self, which: &vk::PipelineExecutableInfoKHR) -> std::result::Result<String, vk::Result> {
        // SAFETY: as the caller promises. The first call tells sizes; the second fills buffers of those sizes, which live on.
        unsafe {
            let mut forms = self.executables.get_pipeline_executable_internal_representations(which)?;
            let mut texts: Vec<Vec<u8>> = forms.iter().map(|form| vec![0; form.data_size]).collect();
            for (form, text) in forms.iter_mut().zip(&mut texts) {
                form.p_data = text.as_mut_ptr().cast();
            }
            let mut count = forms.len() as u32;
            let get = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            get(self.device.handle(), which, &mut count, forms.as_mut_ptr()).result()?;
            let readable: Vec<_> = forms.iter().zip(&texts).filter(|(form, _)| form.is_text != 0).collect();
            let is_assembly = |form: &vk::PipelineExecutableInternalRepresentationKHR| {
                text(form.name_as_c_str()).to_lowercase().contains("assembly")
            };
            let best = readable.iter().find(|(form, _)| is_assembly(form)).or(readable.last());
            Ok(best.map_or(String::new(), |(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_string()))
        }
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // SAFETY: pipelines are destroyed where they are made, so nothing of the device or the instance is left.
        unsafe {
            self.device.destroy_device(None);
            self.instance.destroy_instance(None);
        }
    }
}

fn text<E>(name: std::result::Result<&CStr, E>) -> String {
    name.map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// Opens one of an instance's devices.
fn open(entry: &ash::Entry, instance: &ash::Instance, wanted: &str) -> Result<(String, Limits, ash::Device)> {
    // SAFETY: plain queries; the structures live until the calls return.
    let mut all: Vec<Found> = unsafe {
        let listed = instance.enumerate_physical_devices().map_err(refused("a list of devices"))?;
        let found = listed.into_iter().map(|physical| {
            let properties = instance.get_physical_device_properties(physical);
            Found { physical, name: text(properties.device_name_as_c_str()), properties }
        });
        found.collect()
    };
    all.sort_by_key(|found| match found.properties.device_type {
        vk::PhysicalDeviceType::DISCRETE_GPU => 0,
        vk::PhysicalDeviceType::INTEGRATED_GPU => 1,
        vk::PhysicalDeviceType::CPU => 3,
        _ => 2,
    });
    let names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
    let Found { physical, name, properties } = &all[named(&names, wanted)?];
    // SAFETY: as above.
    let extensions = unsafe { instance.enumerate_device_extension_properties(*physical) }
        .map_err(refused("a list of extensions"))?;
    let has = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
    if !has(khr::pipeline_executable_properties::NAME) || properties.api_version < vk::API_VERSION_1_3 {
        fail!(
            Device,
            "{name} does not tell what it compiles: --compiled needs Vulkan 1.3 and VK_KHR_pipeline_executable_properties, which Mesa's \
             drivers for AMD, NVIDIA and Intel GPUs have"
        );
    }
    let (cooperative, robust) = (has(khr::cooperative_matrix::NAME), has(ext::robustness2::NAME));

    let mut known2 = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
    let mut known11 = vk::PhysicalDeviceVulkan11Features::default();
    let mut known12 = vk::PhysicalDeviceVulkan12Features::default();
    let mut known = vk::PhysicalDeviceFeatures2::default().push_next(&mut known11).push_next(&mut known12);
    if robust {
        known = known.push_next(&mut known2);
    }
    // SAFETY: as above; the structures are those of Vulkan 1.2 and of an extension that the device has.
    unsafe { instance.get_physical_device_features2(*physical, &mut known) };
    let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(known.features.robust_buffer_access != 0);
    let f16 = known11.storage_buffer16_bit_access != 0
        && known11.uniform_and_storage_buffer16_bit_access != 0
        && known12.shader_float16 != 0;
    let cooperative = cooperative && f16 && known12.vulkan_memory_model != 0;

    let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
    let mut f11 = vk::PhysicalDeviceVulkan11Features::default()
        .storage_buffer16_bit_access(f16)
        .uniform_and_storage_buffer16_bit_access(f16);
    let mut f12 = vk::PhysicalDeviceVulkan12Features::default()
        .shader_float16(f16)
        .vulkan_memory_model(cooperative)
        .vulkan_memory_model_device_scope(cooperative && known12.vulkan_memory_model_device_scope != 0);
    let mut f13 = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true);
    let mut told = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
    let mut f2 =
        vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(known2.robust_buffer_access2 != 0);
    let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    let mut info = vk::DeviceCreateInfo::default()
        .queue_create_infos(&queues)
        .enabled_features(&core)
        .push_next(&mut f11)
        .push_next(&mut f12)
        .push_next(&mut f13)
        .push_next(&mut told);
    if robust {
        names.push(ext::robustness2::NAME.as_ptr());
        info = info.push_next(&mut f2);
    }
    if cooperative {
        names.push(khr::cooperative_matrix::NAME.as_ptr());
        info = info.push_next(&mut matrices);
    }
    info = info.enabled_extension_names(&names);
    // SAFETY: the device has the extensions and features that are asked for: Vulkan 1.3 has sizes of subgroups, the others were queried.
    let device = unsafe { instance.create_device(*physical, &info, None) }.map_err(refused("the device"))?;
    let side = if cooperative { side(entry, instance, *physical) } else { 0 };
    Ok((name.clone(), Limits { f16, cooperative: side, ..limits(instance, *physical) }, device))
}

/// Limits of plans, as wgpu finds them.
fn limits(instance: &ash::Instance, physical: vk::PhysicalDevice) -> Limits {
    let mut of11 = vk::PhysicalDeviceVulkan11Properties::default();
    let mut of13 = vk::PhysicalDeviceVulkan13Properties::default();
    let mut all = vk::PhysicalDeviceProperties2::default().push_next(&mut of11).push_next(&mut of13);
    // SAFETY: a plain query; the structures are those of Vulkan 1.3 and live until the call returns.
    unsafe { instance.get_physical_device_properties2(physical, &mut all) };
    let vk::PhysicalDeviceProperties { device_type, limits, .. } = all.properties;
    let adapter = if device_type == vk::PhysicalDeviceType::CPU { AdapterKind::Software } else { AdapterKind::Gpu };
    let shuffles = of11.subgroup_supported_operations.contains(vk::SubgroupFeatureFlags::SHUFFLE);
    let fixed = shuffles && of13.min_subgroup_size == of13.max_subgroup_size;
    Limits {
        binding_bytes: u64::from(limits.max_storage_buffer_range).min((1 << 31) - 4),
        // No buffer is made.
        buffer_bytes: u64::MAX,
        workgroups: limits.max_compute_work_group_count[0].min(65535),
        invocations: limits.max_compute_work_group_invocations,
        workgroup_bytes: limits.max_compute_shared_memory_size.into(),
        alignment_bytes: limits.min_storage_buffer_offset_alignment,
        subgroup: if fixed { of13.min_subgroup_size as usize } else { 0 },
        ..Limits::portable(adapter)
    }
}

/// Side of a device's cooperative matrices, f16 summed in f32: 16 or 8, or 0 where it has neither.
fn side(entry: &ash::Entry, instance: &ash::Instance, physical: vk::PhysicalDevice) -> usize {
    let loader = khr::cooperative_matrix::Instance::new(entry, instance);
    // SAFETY: a plain query of a device that has the extension.
    let all = unsafe { loader.get_physical_device_cooperative_matrix_properties(physical) }.unwrap_or_default();
    let (half, whole) = (vk::ComponentTypeKHR::FLOAT16, vk::ComponentTypeKHR::FLOAT32);
    let is_of = |p: &vk::CooperativeMatrixPropertiesKHR, side: u32| {
        [p.m_size, p.n_size, p.k_size] == [side; 3]
            && [p.a_type, p.b_type, p.c_type, p.result_type] == [half, half, whole, whole]
            && p.scope == vk::ScopeKHR::SUBGROUP
    };
    [16, 8].into_iter().find(|side| all.iter().any(|p| is_of(p, *side))).unwrap_or(0) as usize
}
