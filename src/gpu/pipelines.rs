//! Compiles the kernels of a plan: each distinct text once, all of them in parallel.

use super::device::{Device, one_line};
use super::pipeline_cache::PipelineCache;
use crate::error::{Error, Result};
use crate::graph::plan::{Bound, Kernel};
use crate::shaders::specialise;
use rayon::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;

/// A compiled kernel and the layout of its one bind group.
pub struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// Compiled kernels by their specialised text.
#[derive(Default)]
pub struct Pipelines {
    compiled: HashMap<String, Arc<Pipeline>>,
    /// The driver's cache, kept from run to run.
    pub(super) cache: Option<PipelineCache>,
}

impl Pipelines {
    /// Number of pipelines compiled so far.
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// Pipelines for `kernels`, in their order, compiling those that are missing. `checks` keeps bounds checks in the
    /// shaders.
    pub fn compile(&mut self, device: &Device, kernels: &[&Kernel], checks: bool) -> Result<Vec<Arc<Pipeline>>> {
        let texts: Vec<String> = kernels.iter().map(|k| specialise(k.shader, &k.constants, &k.swaps)).collect();
        let mut new: HashMap<&str, &Kernel> = HashMap::new();
        for (text, kernel) in texts.iter().zip(kernels) {
            if !self.compiled.contains_key(text) {
                new.insert(text, kernel);
            }
        }
        let cache = self.cache.as_ref().map(|cache| &cache.inner);
        let one = |(text, kernel): (&str, &Kernel)| (text.to_string(), build(device, text, kernel, checks, cache));
        let made: Vec<(String, Result<Pipeline>)> = new.into_par_iter().map(one).collect();
        if let Some(cache) = self.cache.as_mut().filter(|_| !made.is_empty()) {
            cache.save();
        }
        for (text, pipeline) in made {
            self.compiled.insert(text, Arc::new(pipeline?));
        }
        device.check()?;
        Ok(texts.iter().map(|text| self.compiled[text].clone()).collect())
    }
}

fn build(
    device: &Device,
    text: &str,
    kernel: &Kernel,
    checks: bool,
    cache: Option<&wgpu::PipelineCache>,
) -> Result<Pipeline> {
    let label = Some(kernel.shader.stem);
    // Error scopes are per thread, so parallel compilations do not see each other's errors.
    let scope = device.device.push_error_scope(wgpu::ErrorFilter::Validation);
    let source = wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(text.into()) };
    // Bounds on loops would keep drivers from unrolling them: arrays then stay in memory (lavapipe: a matmul at an eighth
    // of its speed).
    let runtime = wgpu::ShaderRuntimeChecks { bounds_checks: checks, ..wgpu::ShaderRuntimeChecks::unchecked() };
    // SAFETY: our own shaders end their loops and index inside their bindings; the tests run every specialisation with the
    // bounds checks on.
    let module = unsafe { device.device.create_shader_module_trusted(source, runtime) };
    let entries: Vec<_> = kernel.bindings.iter().enumerate().map(|(i, b)| layout_entry(i as u32, b)).collect();
    let layout = device.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
    let pipeline_layout = device.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let pipeline = device.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache,
    });
    match pollster::block_on(scope.pop()) {
        None => Ok(Pipeline { pipeline, layout }),
        Some(e) => Err(Error::Device(format!("shader {} does not compile: {}", kernel.shader.stem, one_line(&e)))),
    }
}

fn layout_entry(binding: u32, bound: &Bound) -> wgpu::BindGroupLayoutEntry {
    let ty = match bound.buffer {
        None => wgpu::BufferBindingType::Uniform,
        Some(_) => wgpu::BufferBindingType::Storage { read_only: !bound.writes },
    };
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    }
}
