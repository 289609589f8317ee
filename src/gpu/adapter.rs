//! Which adapters there are, and which one the user means.

use crate::error::Result;
use crate::fail;
use crate::graph::{AdapterKind, Limits};

/// An adapter with the properties that the rest of the program asks for.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub(super) inner: wgpu::Adapter,
    pub name: String,
    pub driver: String,
    pub backend: String,
    /// `discrete GPU`, `integrated GPU`, `virtual GPU`, `software` or `other`.
    pub kind: &'static str,
    pub limits: Limits,
    pub subgroup_sizes: (u32, u32),
    pub has_subgroups: bool,
    pub has_timestamps: bool,
    /// Shapes of cooperative matrices, as "MxNxK input->output".
    pub cooperative: Vec<String>,
}

/// The features that kernels on cooperative matrices need.
const COOPERATIVE: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

impl Adapter {
    fn new(inner: wgpu::Adapter) -> Self {
        let (info, limits, features) = (inner.get_info(), inner.limits(), inner.features());
        let (rank, kind) = kind(info.device_type);
        let adapter = if rank == SOFTWARE { AdapterKind::Software } else { AdapterKind::Gpu };
        let shuffles = features.contains(wgpu::Features::SUBGROUP) && info.subgroup_min_size == info.subgroup_max_size;
        let cooperative = inner.cooperative_matrix_properties();
        let usable = features.contains(COOPERATIVE);
        let side = |side: u32| {
            let summed = |c: &wgpu::CooperativeMatrixProperties| {
                let f16 =
                    c.ab_type == wgpu::CooperativeScalarType::F16 && c.cr_type == wgpu::CooperativeScalarType::F32;
                f16 && [c.m_size, c.n_size, c.k_size] == [side; 3]
            };
            usable && cooperative.iter().any(summed)
        };
        Adapter {
            name: info.name.clone(),
            driver: [info.driver.as_str(), info.driver_info.as_str()].join(" ").trim().to_string(),
            backend: info.backend.to_string(),
            kind,
            limits: Limits {
                adapter,
                // wgpu binds at most 2^31 - 1 bytes whatever the card says; whole words of that.
                binding_bytes: limits.max_storage_buffer_binding_size.min((1 << 31) - 4),
                buffer_bytes: limits.max_buffer_size,
                workgroups: limits.max_compute_workgroups_per_dimension.min(65535),
                invocations: limits.max_compute_invocations_per_workgroup,
                workgroup_bytes: limits.max_compute_workgroup_storage_size.into(),
                alignment_bytes: limits.min_storage_buffer_offset_alignment.into(),
                subgroup: if shuffles { info.subgroup_min_size as usize } else { 0 },
                cooperative: [16, 8].into_iter().find(|s| side(*s)).unwrap_or(0) as usize,
                choices: Default::default(),
                f16: features.contains(wgpu::Features::SHADER_F16),
            },
            subgroup_sizes: (info.subgroup_min_size, info.subgroup_max_size),
            has_subgroups: features.contains(wgpu::Features::SUBGROUP),
            has_timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            cooperative: cooperative
                .iter()
                .map(|c| format!("{}x{}x{} {:?}->{:?}", c.m_size, c.n_size, c.k_size, c.ab_type, c.cr_type))
                .collect(),
            inner,
        }
    }

    fn rank(&self) -> usize {
        kind(self.inner.get_info().device_type).0
    }

    /// True for a CPU behind a graphics API.
    pub fn is_software(&self) -> bool {
        self.rank() == SOFTWARE
    }

    /// One line: name, kind, backend, driver.
    pub fn description(&self) -> String {
        format!("{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

const SOFTWARE: usize = 4;

/// Rank of a device type (lower is preferred) and the word for it.
fn kind(device_type: wgpu::DeviceType) -> (usize, &'static str) {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => (0, "discrete GPU"),
        wgpu::DeviceType::IntegratedGpu => (1, "integrated GPU"),
        wgpu::DeviceType::VirtualGpu => (2, "virtual GPU"),
        wgpu::DeviceType::Other => (3, "other"),
        wgpu::DeviceType::Cpu => (SOFTWARE, "software"),
    }
}

/// All adapters that can run compute shaders, best kind first.
pub fn adapters() -> Vec<Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = backends;
    // Validation layers, where installed, belong to tests: they cost a multiple of the work they check.
    descriptor.flags =
        if cfg!(debug_assertions) { wgpu::InstanceFlags::VALIDATION } else { wgpu::InstanceFlags::empty() };
    let instance = wgpu::Instance::new(descriptor);
    let found = pollster::block_on(instance.enumerate_adapters(backends));
    let computes = |a: &wgpu::Adapter| {
        a.get_downlevel_capabilities().flags.contains(wgpu::DownlevelFlags::COMPUTE_SHADERS)
            && a.limits().max_compute_invocations_per_workgroup > 0
    };
    let mut adapters: Vec<Adapter> = found.into_iter().filter(computes).map(Adapter::new).collect();
    adapters.sort_by_key(Adapter::rank);
    adapters
}

/// Advice on drivers where no adapter is found.
const NO_ADAPTER: &str = "no GPU adapter found: install a Vulkan driver (Debian/Ubuntu: apt-get install \
    mesa-vulkan-drivers libvulkan1), or run on the CPU with --device cpu";

/// The adapter `wanted` means: the best one for `auto`, otherwise the best whose name contains it, whatever the case.
pub fn choose(wanted: &str) -> Result<Adapter> {
    choose_nth(wanted, 0)
}

/// Of the adapters of the kind, backend and name of [`choose`]'s, number `nth`; they are taken in turn.
pub(super) fn choose_nth(wanted: &str, nth: usize) -> Result<Adapter> {
    let all = adapters();
    let names: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
    let best = &all[named(&names, wanted)?];
    // One GPU is an adapter of each backend that it has a driver for.
    let is_alike = |a: &&Adapter| (a.kind, &a.backend, &a.name) == (best.kind, &best.backend, &best.name);
    let alike: Vec<&Adapter> = all.iter().filter(is_alike).collect();
    Ok(alike[nth % alike.len()].clone())
}

/// Which of `names`, best first, `wanted` means: the first for `auto`, otherwise the first that contains it, whatever the case.
pub(super) fn named(names: &[&str], wanted: &str) -> Result<usize> {
    if names.is_empty() {
        fail!(Device, "{NO_ADAPTER}");
    }
    let wanted = wanted.to_lowercase();
    match names.iter().position(|name| wanted == "auto" || name.to_lowercase().contains(&wanted)) {
        Some(at) => Ok(at),
        None => {
            let names = names.join("`, `");
            fail!(Usage, "no adapter's name contains `{wanted}`: there are `{names}` (or use --device auto or cpu)")
        }
    }
}
