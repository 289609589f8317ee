//! Every shader in every specialisation that plans ask for: valid WGSL without extensions, within the limits that every
//! device has, and translatable for Vulkan, Metal and DX12.

use crate::plan::{case_graph, devices, mixed_graphs, preset_graphs, roomy};
use naga::AddressSpace;
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use wgpt::graph::plan::Kernel;
use wgpt::graph::{AdapterKind, Limits, Plan, Shader};
use wgpt::shaders::specialise;

/// Distinct texts of the kernels of all cases and of three presets, each with its shader.
fn texts(limits: &Limits) -> BTreeMap<String, Shader> {
    kernels(limits).into_iter().map(|k| (specialise(k.shader, &k.constants, &k.swaps), k.shader)).collect()
}

fn kernels(limits: &Limits) -> Vec<Kernel> {
    let presets = [("demo", 0.0), ("demo", 0.1), ("char", 0.2), ("gpt2", 0.0), ("mixtral", 0.0)];
    let presets = presets.into_iter().flat_map(|(name, dropout)| preset_graphs(name, dropout));
    let mixed = [("demo", 0.1), ("gpt2", 0.0), ("gpt-mini", 0.0), ("mixtral", 0.0)];
    let mixed = mixed.into_iter().flat_map(|(name, dropout)| mixed_graphs(name, dropout));
    let graphs: Vec<_> = wgpt::ops::cases().into_iter().map(case_graph).chain(presets).chain(mixed).collect();
    graphs.iter().flat_map(|g| Plan::new(g, limits).unwrap().kernels().cloned().collect::<Vec<_>>()).collect()
}

/// Parses and validates with nothing beyond core WGSL, but for subgroups on devices that have them and f16 where it is asked
/// for: plans ask only on devices that have it.
fn validate(text: &str, subgroups: bool) -> Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities(text, subgroups));
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

fn capabilities(text: &str, subgroups: bool) -> Capabilities {
    // Every WebGPU device reads pairs of f16 from a word.
    let core = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let subgroups = if subgroups { core | Capabilities::SUBGROUP } else { core };
    if text.starts_with("enable f16;") { subgroups | Capabilities::SHADER_FLOAT16 } else { subgroups }
}

/// What the other backends make of a module, or why they cannot.
fn translate(module: &naga::Module, info: &ModuleInfo, subgroups: bool) -> Result<(Vec<u32>, String, String), String> {
    use naga::back::{hlsl, msl, spv};
    // Versions as of the oldest Vulkan, macOS and DX12 that wgpu runs on, or the oldest that have subgroups or f16.
    let half = module.types.iter().any(|(_, t)| t.inner.scalar() == Some(naga::Scalar::F16));
    let (spirv_version, metal_version, shader_model) = match (subgroups, half) {
        (_, true) => ((1, 3), (2, 4), hlsl::ShaderModel::V6_2),
        (false, false) => ((1, 0), (2, 0), hlsl::ShaderModel::V5_1),
        (true, false) => ((1, 3), (2, 4), hlsl::ShaderModel::V6_0),
    };
    let options = spv::Options { lang_version: spirv_version, ..Default::default() };
    let spirv = spv::write_vec(module, info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    let options = msl::Options { lang_version: metal_version, fake_missing_bindings: true, ..Default::default() };
    let pipeline = msl::PipelineOptions::default();
    let (metal, names) = msl::write_string(module, info, &options, &pipeline).map_err(|e| format!("MSL: {e}"))?;
    names.entry_point_names.into_iter().try_for_each(|name| name.map(|_| ()).map_err(|e| format!("MSL: {e}")))?;
    let options = hlsl::Options { shader_model, fake_missing_bindings: true, ..Default::default() };
    let (mut dx, pipeline) = (String::new(), hlsl::PipelineOptions::default());
    let names = hlsl::Writer::new(&mut dx, &options, &pipeline).write(module, info, None);
    let names = names.map_err(|e| format!("HLSL: {e}"))?;
    names.entry_point_names.into_iter().try_for_each(|name| name.map(|_| ()).map_err(|e| format!("HLSL: {e}")))?;
    Ok((spirv, metal, dx))
}

/// Bytes of workgroup memory, each variable rounded up to 16 as WebGPU counts them.
pub fn workgroup_bytes(module: &naga::Module) -> u64 {
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    shared.map(|(_, v)| u64::from(module.types[v.ty].inner.size(module.to_ctx())).next_multiple_of(16)).sum()
}

fn invocations(module: &naga::Module) -> u32 {
    module.entry_points[0].workgroup_size.iter().product()
}

/// Everything that is wrong with a text under these limits.
fn check(shader: Shader, text: &str, limits: &Limits) -> Result<(u64, u32), String> {
    let at = |why: String| format!("{shader:?}: {why}");
    let subgroups = limits.subgroup > 0;
    let (module, info) = validate(text, subgroups).map_err(at)?;
    if module.entry_points.len() != 1 || module.entry_points[0].name != "main" {
        return Err(at("it has not one entry point called main".into()));
    }
    translate(&module, &info, subgroups).map_err(at)?;
    let (memory, threads) = (workgroup_bytes(&module), invocations(&module));
    if memory > limits.workgroup_bytes || threads > limits.invocations {
        return Err(at(format!("{memory} bytes of workgroup memory, {threads} invocations")));
    }
    Ok((memory, threads))
}

/// Writes texts to the folder that WGPT_WGSL names, and the SPIR-V made of them, named by the oldest Vulkan that takes it, for other
/// compilers and validators (`scripts/tint.sh`, `scripts/spirv_val.sh`).
fn hand_out(texts: &BTreeMap<String, Shader>, (device, limits): (usize, &Limits)) {
    let Some(folder) = std::env::var_os("WGPT_WGSL").map(PathBuf::from) else { return };
    for (n, (text, shader)) in texts.iter().enumerate() {
        let name = format!("{}-{device}-{n}", shader.stem);
        std::fs::write(folder.join(format!("{name}.wgsl")), text).unwrap();
        let (module, info) = validate(text, limits.subgroup > 0).unwrap();
        let (spirv, ..) = translate(&module, &info, limits.subgroup > 0).unwrap();
        // The second word is the version.
        let vulkan = if spirv[1] > 0x1_0000 { "vulkan1.1" } else { "vulkan1.0" };
        std::fs::write(folder.join(format!("{name}.{vulkan}.spv")), bytemuck::cast_slice(&spirv)).unwrap();
    }
}

#[test]
fn every_specialisation_is_valid_and_translates_for_every_backend() {
    for (device, limits) in devices().into_iter().enumerate() {
        assert_eq!((limits.workgroup_bytes, limits.invocations), (16384, 256), "what every device has");
        let texts = texts(&limits);
        hand_out(&texts, (device, &limits));
        assert!(texts.len() > 150, "{limits:?}: only {} texts", texts.len());
        let checked: Vec<_> = texts.par_iter().map(|(text, shader)| check(*shader, text, &limits)).collect();
        let failures: Vec<String> = checked.iter().filter_map(|c| c.clone().err()).collect();
        assert!(failures.is_empty(), "{limits:?}: {} fail:\n{}", failures.len(), failures.join("\n"));
        let most = checked.into_iter().flatten().map(|(memory, _)| memory).max().unwrap();
        let least = if limits.adapter == AdapterKind::Gpu { 8192 } else { 1 };
        assert!(most >= least, "{limits:?}: at most {most} bytes of workgroup memory, which cannot be right");
    }
}

/// Tilings grow with what a device offers; they must not outgrow it.
#[test]
fn specialisations_for_larger_devices_keep_within_them() {
    for (workgroup_bytes, invocations) in [(32 << 10, 256), (32 << 10, 1024), (48 << 10, 1024), (100 << 10, 1024)] {
        let limits = Limits { workgroup_bytes, invocations, ..roomy(AdapterKind::Gpu) };
        let failures: Vec<String> = texts(&limits)
            .into_par_iter()
            .filter(|(_, shader)| shader.stem.contains("tiled"))
            .filter_map(|(text, shader)| check(shader, &text, &limits).err())
            .collect();
        assert!(failures.is_empty(), "{workgroup_bytes} bytes, {invocations}:\n{}", failures.join("\n"));
    }
}

#[test]
fn invalid_or_too_large_dispatches_are_found() {
    let limits = Limits::portable(AdapterKind::Gpu);
    let fill = wgpt::shader!("fill");
    let text = specialise(fill, &[], &[]);
    assert!(check(fill, &text, &limits).is_ok());
    let wide = text.replace("@workgroup_size(1)", "@workgroup_size(257)");
    assert!(check(fill, &wide, &limits).unwrap_err().contains("257 invocations"));
    let large = format!("{text}\nvar<workgroup> shared_words: array<f32, 4097>;");
    assert!(check(fill, &large, &limits).unwrap_err().contains("16400 bytes"));
    let wrong = text.replace("y[0] = VALUE", "y[0] = 1u");
    assert!(check(fill, &wrong, &limits).is_err());
    let extended = text.replace("y: array<f32>", "y: array<f64>");
    assert!(check(fill, &extended, &limits).is_err());
    let shuffled = text.replace("= VALUE", "= subgroupShuffle(VALUE, 0u)");
    assert!(check(fill, &shuffled, &limits).unwrap_err().contains("SUBGROUP"));
    assert!(check(fill, &shuffled, &Limits { subgroup: 4, ..limits }).is_ok());
}

/// All files under shaders/, with their stems.
fn files() -> Vec<(String, PathBuf)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut found = vec![];
    for (prefix, folder) in [("", folder.clone()), ("shared/", folder.join("shared"))] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                assert_eq!(path.extension().unwrap(), "wgsl", "{} does not belong there", path.display());
                found.push((format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap()), path));
            }
        }
    }
    assert!(found.len() > 30, "only {} files", found.len());
    found.sort();
    found
}

#[test]
fn every_shader_file_is_valid_wgsl_and_opens_with_a_description() {
    let limits = Limits { subgroup: 8, ..Limits::portable(AdapterKind::Gpu) };
    for (stem, path) in files() {
        let source: &'static str = String::leak(std::fs::read_to_string(&path).unwrap());
        assert!(source.ends_with('\n') && !source.contains('\t') && !source.contains('\r'), "{stem}");
        assert!(!source.lines().any(|l| l.ends_with(' ')), "{stem} has blanks at a line's end");
        if stem.starts_with("shared/") {
            assert!(source.starts_with("// "), "{stem} says what it is");
            continue;
        }
        assert!(source.starts_with(&format!("// {stem}: ")), "{stem} does not start with its name");
        // Needs more than every device has: tests/suite/cooperative.rs.
        if crate::cooperative::files().contains(&stem) {
            continue;
        }
        let shader = Shader { stem: String::leak(stem), source };
        check(shader, &specialise(shader, &[], &[]), &limits).unwrap();
    }
}

#[test]
fn no_file_is_unused() {
    // No plan for portable limits asks for cooperative matrices.
    let mut used: BTreeSet<String> = crate::cooperative::files().into_iter().collect();
    let names = |source: &str| -> Vec<String> {
        let line = source.lines().find_map(|l| l.strip_prefix("// use:")).unwrap_or("");
        line.split_whitespace().map(|name| format!("shared/{name}")).collect()
    };
    let sources: BTreeMap<String, String> =
        files().into_iter().map(|(stem, path)| (stem, std::fs::read_to_string(path).unwrap())).collect();
    let mut pending: Vec<String> = vec![];
    for kernel in devices().iter().flat_map(kernels) {
        assert_eq!(sources[kernel.shader.stem], kernel.shader.source, "the file is what was compiled in");
        used.insert(kernel.shader.stem.into());
        // A file that is swapped for another is not used itself.
        let swapped = |name: &String| kernel.swaps.iter().any(|(named, _)| *name == format!("shared/{named}"));
        pending.extend(names(kernel.shader.source).into_iter().filter(|name| !swapped(name)));
        pending.extend(kernel.swaps.iter().map(|(_, taken)| format!("shared/{taken}")));
    }
    while let Some(name) = pending.pop() {
        if used.insert(name.clone()) {
            pending.extend(names(&sources[&name]));
        }
    }
    let unused: Vec<&String> = sources.keys().filter(|stem| !used.contains(*stem)).collect();
    assert!(unused.is_empty(), "no op uses {unused:?}");
}
