//! The matmul on cooperative matrices, which no portable device runs: valid in every transposition, epilogue, alignment and
//! tile size, and translated for the backends that have such matrices. SPIR-V takes both sizes, Metal 8 x 8 alone.

use crate::shaders::workgroup_bytes;
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, ValidationFlags, Validator};
use rayon::prelude::*;
use std::sync::Arc;
use wgpt::graph::{AdapterKind, Choices, Constant, Dtype, Graph, Limits, Plan, Shader, Shape};
use wgpt::ops::ceiling::Cooperative;
use wgpt::ops::matmul::Matmul;
use wgpt::shaders::specialise;

pub const SHADER: Shader = wgpt::shader!("matmul_cooperative");

/// The files of shaders on cooperative matrices, and those that they alone are made of.
pub fn files() -> Vec<String> {
    let shared = ["operands", "operands_unaligned", "cooperative_16", "cooperative_8", "sums_staged", "sums_direct"];
    let heads = ["cooperative_heads", "cooperative_heads_16", "cooperative_heads_8"];
    let shared = shared.into_iter().chain(heads).map(|name| format!("shared/{name}"));
    let attention = ["", "_backward_query", "_backward_key"].map(|part| format!("attention{part}_cooperative"));
    let own = [SHADER.stem.to_string(), "ceiling_cooperative".to_string()];
    shared.chain(own).chain(attention).collect()
}

/// Sizes of matrices, and of tiles: BM, BN, BK in elements, TM, TN in matrices.
#[derive(Clone, Copy, Debug)]
struct Tiling {
    side: usize,
    tile: [usize; 5],
}

/// One for each size of matrix that a tuner would try first.
const TILINGS: [Tiling; 2] =
    [Tiling { side: 16, tile: [128, 128, 32, 4, 4] }, Tiling { side: 8, tile: [64, 64, 32, 4, 4] }];

#[derive(Clone, Copy, Debug)]
struct Variant {
    tiling: Tiling,
    ta: bool,
    tb: bool,
    accumulate: bool,
    /// The replacement of `store`, or of `sums_direct`.
    epilogue: &'static str,
    aligned: bool,
    /// M, N, K.
    size: [usize; 3],
}

impl Variant {
    fn text(&self) -> String {
        let Variant { tiling, ta, tb, accumulate, epilogue, aligned, size: [m, n, k] } = *self;
        let mut constants: Vec<(&str, Constant)> =
            vec![("TA", ta.into()), ("TB", tb.into()), ("ACCUMULATE", accumulate.into())];
        let (lda, ldb) = (if ta { m } else { k }, if tb { k } else { n });
        let sizes = [("M", m), ("N", n), ("K", k), ("LDA", lda), ("LDB", ldb), ("LDC", n)];
        let tile = ["BM", "BN", "BK", "TM", "TN"].into_iter().zip(tiling.tile);
        constants.extend(sizes.into_iter().chain(tile).map(|(name, value)| (name, value.into())));
        let mut swaps = vec![];
        match epilogue {
            "store" => {}
            "sums_direct" => swaps.push(("sums_staged", epilogue)),
            epilogue => swaps.push(("store", epilogue)),
        }
        if tiling.side == 8 {
            swaps.push(("cooperative_16", "cooperative_8"));
        }
        if !aligned {
            swaps.push(("operands", "operands_unaligned"));
        }
        specialise(SHADER, &constants, &swaps)
    }
}

fn variants() -> Vec<Variant> {
    let mut all = vec![];
    for tiling in TILINGS {
        for flags in 0..16 {
            let [ta, tb, accumulate, aligned] = [1, 2, 4, 8].map(|bit| flags & bit > 0);
            // Whole tiles, edges on every side, and less than one tile.
            let sizes = if aligned { [[256, 384, 64], [100, 36, 52]] } else { [[130, 127, 33], [1, 3, 5]] };
            for (size, epilogue) in sizes.into_iter().flat_map(|size| EPILOGUES.map(|e| (size, e))) {
                if epilogue != "sums_direct" || size == [256, 384, 64] {
                    all.push(Variant { tiling, ta, tb, accumulate, epilogue, aligned, size });
                }
            }
        }
    }
    all
}

const EPILOGUES: [&str; 5] = ["store", "store_bias", "store_bias_gelu", "store_bias_residual", "sums_direct"];

/// Parses a text and validates it for devices with these capabilities.
pub fn validate(text: &str, capabilities: Capabilities) -> Result<(naga::Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info =
        validator.subgroup_stages(ShaderStages::COMPUTE).validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

/// What the shader asks of a device: `SHADER_F16`, `SUBGROUP` and `EXPERIMENTAL_COOPERATIVE_MATRIX` of wgpu.
pub fn needed() -> Capabilities {
    Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP | Capabilities::COOPERATIVE_MATRIX
}

/// How often an opcode occurs: an instruction's first word holds it and the length.
pub fn instructions(spirv: &[u32], opcode: u32) -> usize {
    let (mut at, mut count) = (5, 0);
    while at < spirv.len() {
        count += usize::from(spirv[at] & 0xffff == opcode);
        at += (spirv[at] >> 16) as usize;
    }
    count
}

/// Everything that is wrong with a variant.
fn check(variant: &Variant) -> Result<(), String> {
    let at = |why: String| format!("{variant:?}: {why}");
    let (module, info) = validate(&variant.text(), needed()).map_err(at)?;
    // Vulkan 1.3, whose memory model cooperative matrices build on.
    let options = naga::back::spv::Options { lang_version: (1, 6), ..Default::default() };
    let spirv = naga::back::spv::write_vec(&module, &info, &options, None).map_err(|e| at(format!("SPIR-V: {e}")))?;
    // OpCooperativeMatrixLoadKHR, of A and B row-major and column-major and perhaps of C, StoreKHR, and MulAddKHR for each sum.
    let found = [4457, 4458, 4459].map(|opcode| instructions(&spirv, opcode));
    if found != [4 + usize::from(variant.epilogue == "sums_direct"), 1, 16] {
        return Err(at(format!("SPIR-V: {found:?} loads, stores and products")));
    }
    if variant.tiling.side == 8 {
        let options =
            naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        let written = naga::back::msl::write_string(&module, &info, &options, &Default::default());
        let (metal, names) = written.map_err(|e| at(format!("MSL: {e}")))?;
        names.entry_point_names.into_iter().try_for_each(|n| n.map(|_| ())).map_err(|e| at(format!("MSL: {e}")))?;
        for part in ["simdgroup_half8x8", "simdgroup_float8x8", "simdgroup_load(", "simdgroup_store("] {
            if !metal.contains(part) {
                return Err(at(format!("MSL: no {part}")));
            }
        }
    }
    Ok(())
}

#[test]
fn every_variant_is_valid_and_translates_where_there_are_such_matrices() {
    let variants = variants();
    assert_eq!(variants.len(), 2 * (16 * 2 * 4 + 8));
    let failures: Vec<String> = variants.par_iter().filter_map(|v| check(v).err()).collect();
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn the_ceiling_of_matrix_units_is_valid_in_both_sizes() {
    for side in [16, 8] {
        let mut g = Graph::new();
        let inputs = [Shape::f32(&[side, side]), Shape::f32(&[256])];
        let inputs: Vec<_> = inputs.iter().enumerate().map(|(i, s)| g.input(&format!("x{i}"), s.clone())).collect();
        let y = g.apply(Cooperative { side, rounds: 8, lanes: 32 }, &inputs);
        g.output("y", y);
        let plan = Plan::new(&g, &Limits::portable(AdapterKind::Gpu)).unwrap();
        let kernel = plan.kernels().next().unwrap();
        let text = specialise(kernel.shader, &kernel.constants, &kernel.swaps);
        let (module, info) = validate(&text, needed()).unwrap();
        assert!(workgroup_bytes(&module) <= 32768);
        let options = naga::back::spv::Options { lang_version: (1, 6), ..Default::default() };
        let spirv = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
        assert_eq!(instructions(&spirv, 4459), 1, "one product");
        let options =
            naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        if side == 8 {
            let (metal, _) = naga::back::msl::write_string(&module, &info, &options, &Default::default()).unwrap();
            assert!(metal.contains("simdgroup_half8x8") && metal.contains("simdgroup_multiply_accumulate("), "{metal}");
        }
    }
}

/// Products of f16 matrices as plans for devices that have cooperative matrices of `side`, in every such variant.
fn plans(side: usize, subgroup: usize) -> Vec<(String, Plan)> {
    let mut all = vec![];
    let base = Limits { cooperative: side, subgroup, workgroup_bytes: 48 << 10, ..Limits::portable(AdapterKind::Gpu) };
    let limits = Limits { invocations: 1024, ..base };
    for (m, n, k, op) in [
        (256, 256, 64, Matmul { bias: true, output: Dtype::F16, ..Matmul::default() }),
        (256, 128, 96, Matmul { ta: true, ..Matmul::default() }),
        (130, 70, 36, Matmul { tb: true, ..Matmul::default() }),
    ] {
        let mut g = Graph::new();
        let shape = |dims: [usize; 2]| Shape::f32(&dims).with_dtype(Dtype::F16);
        let a = g.input("a", shape(if op.ta { [k, m] } else { [m, k] }));
        let b = g.input("b", shape(if op.tb { [n, k] } else { [k, n] }));
        let bias = op.bias.then(|| g.input("bias", Shape::f32(&[n])));
        let c = g.apply(op, &[a, b].into_iter().chain(bias).collect::<Vec<_>>());
        g.output("c", c);
        let variants = g.op(c.node).unwrap().variants(&g.shapes(c.node), &limits).unwrap();
        assert!(!variants.names[0].contains("cooperative"), "a device has to show first that they are right");
        for name in variants.names.iter().filter(|name| name.contains("cooperative")) {
            let choices = Arc::new(Choices::new(Default::default(), vec![name.clone()]));
            all.push((name.clone(), Plan::new(&g, &Limits { choices, ..limits.clone() }).unwrap()));
        }
    }
    all
}

#[test]
fn plans_choose_it_for_f16_on_devices_that_have_such_matrices() {
    for (side, subgroup, least) in [(16, 32, 12), (8, 32, 8), (16, 0, 20)] {
        let plans = plans(side, subgroup);
        assert!(plans.len() >= least, "{side}, {subgroup}: {}", plans.len());
        let mut direct = 0;
        for (name, plan) in &plans {
            let kernel = plan.kernels().next().unwrap();
            assert_eq!(kernel.shader, SHADER);
            direct += usize::from(kernel.swaps.iter().any(|(_, taken)| *taken == "sums_direct"));
            let text = specialise(kernel.shader, &kernel.constants, &kernel.swaps);
            let (module, info) = validate(&text, needed()).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert!(workgroup_bytes(&module) <= 48 << 10, "{name}");
            let options = naga::back::spv::Options { lang_version: (1, 6), ..Default::default() };
            naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
        }
        assert!(direct > 0 && direct < plans.len(), "{side}, {subgroup}: {direct} store straight to C");
    }
    assert!(plans(0, 32).is_empty());
}

#[test]
fn tiles_fit_workgroup_memory_and_impossible_ones_are_refused() {
    let bytes = |tiling, ta, tb| {
        let variant = Variant { tiling, ta, tb, ..variants()[0] };
        validate(&variant.text(), needed()).map(|(module, _)| workgroup_bytes(&module))
    };
    // Metal has 32 KiB, desktop Vulkan that at least.
    for (tiling, ta, tb) in TILINGS.into_iter().flat_map(|t| [(t, false, false), (t, true, false), (t, false, true)]) {
        let bytes = bytes(tiling, ta, tb).unwrap();
        assert!((4096..32768).contains(&bytes), "{tiling:?}: {bytes}");
    }
    for tile in [[128, 128, 24, 4, 4], [96, 128, 32, 4, 4], [128, 96, 32, 4, 4]] {
        let why = bytes(Tiling { side: 16, tile }, false, false).unwrap_err();
        assert!(why.contains("const_assert"), "{tile:?}: {why}");
    }
}

/// A and B of f32 are rounded as they are staged, or multiplied as they are where matrices of f32 exist, as on Metal.
#[test]
fn operands_may_be_f32() {
    for (variant, slice) in variants().iter().filter(|v| v.tiling.side == 8).flat_map(|v| [(v, "f16"), (v, "f32")]) {
        let text = variant.text().replace("alias A_TYPE = f16;", "alias A_TYPE = f32;");
        let text = text.replace("alias SLICE_TYPE = f16;", &format!("alias SLICE_TYPE = {slice};"));
        assert!(text.contains("alias A_TYPE = f32;") && text.contains(&format!("alias SLICE_TYPE = {slice};")));
        validate(&text, needed()).unwrap_or_else(|why| panic!("{variant:?}, {slice}: {why}"));
    }
}

#[test]
fn devices_without_such_matrices_refuse_it() {
    let text = specialise(SHADER, &[], &[]);
    assert!(validate(&text, needed()).is_ok());
    // HLSL has none: naga says so before it would write any.
    let dx = naga::back::hlsl::supported_capabilities();
    let refusal = validate(&text, dx).unwrap_err();
    assert!(refusal.contains("wgpu_cooperative_matrix") || refusal.contains("COOPERATIVE_MATRIX"), "{refusal}");
    assert!(naga::back::msl::supported_capabilities().contains(needed()));
    assert!(naga::back::spv::supported_capabilities().contains(needed()));
}
