//! Attention and its gradient on cooperative matrices, which no portable device runs: plans name them for f16 on devices that have
//! such matrices, of both sizes, and there they are valid, fit workgroup memory, and are translated for the backends that have them.

use crate::cooperative::{instructions, needed, validate};
use crate::shaders::workgroup_bytes;
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use wgpt::graph::plan::Kernel;
use wgpt::graph::{AdapterKind, Choices, Dtype, Graph, Limits, Plan, Shape, Tensor};
use wgpt::ops::attention::{Attention, Mask};
use wgpt::ops::attention_backward::AttentionBackward;
use wgpt::shaders::specialise;

/// Heads of queries, of keys, and their columns; the window, and dropout.
type Variant = (usize, usize, usize, Option<usize>, f32);

fn variants() -> Vec<Variant> {
    let widths = [16, 32, 48, 64, 80, 96, 112, 128];
    let all = widths.into_iter().flat_map(|hs| [(4, 2, hs, None, 0.0), (3, 3, hs, Some(33), 0.2)]);
    all.collect()
}

/// Attention and its gradient.
fn graph((heads, kv_heads, hs, window, dropout): Variant, dtype: Dtype) -> Graph {
    let forward =
        Attention { heads, kv_heads, mask: Mask::Causal { window }, dropout, salt: 11, ..Attention::default() };
    masked_graph(forward, hs, dtype)
}

/// The same of any kind: 70 queries, and 70 keys or, where they are apart, 50.
fn masked_graph(forward: Attention, hs: usize, dtype: Dtype) -> Graph {
    let Attention { heads, kv_heads, apart, mask, bias, .. } = forward;
    let mut g = Graph::new();
    let mut inputs = vec![];
    let mut add = |g: &mut Graph, name: &str, dims: &[usize], dtype: Dtype| {
        inputs.push(g.input(name, Shape::f32(dims).with_dtype(dtype)));
    };
    let keys = if apart { 50 } else { 70 };
    if apart {
        add(&mut g, "q", &[2, 70, heads * hs], dtype);
        add(&mut g, "kv", &[2, keys, 2 * kv_heads * hs], dtype);
    } else {
        add(&mut g, "qkv", &[2, 70, (heads + 2 * kv_heads) * hs], dtype);
    }
    match mask {
        Mask::Causal { .. } | Mask::Full => {}
        Mask::Lengths => add(&mut g, "lengths", &[2], Dtype::U32),
        Mask::Documents { .. } => add(&mut g, "documents", &[2, 70], Dtype::U32),
    }
    if bias {
        add(&mut g, "bias", &[heads, 70 + keys - 1], Dtype::F32);
    }
    let y = g.apply(forward.clone(), &inputs);
    let dy = g.input("dy", Shape::f32(&[2, 70, heads * hs]).with_dtype(dtype));
    inputs.extend([y, Tensor { slot: 1, ..y }, dy]);
    let d = g.apply(AttentionBackward { forward, bias_gradient: bias }, &inputs);
    g.output("y", y);
    g.output("d", d);
    g
}

/// Every mask, packed and apart, with a bias where no kernel needs more than eight buffers for it.
fn masked() -> Vec<Attention> {
    let masks = [Mask::default(), Mask::Full, Mask::Lengths, Mask::Documents { window: Some(9) }];
    let kinds = masks.into_iter().flat_map(|mask| [(mask, false), (mask, true)]);
    let all = kinds.map(|(mask, apart)| {
        let has_words = matches!(mask, Mask::Lengths | Mask::Documents { .. });
        Attention { heads: 4, kv_heads: 2, apart, mask, bias: !(apart && has_words), salt: 11, ..Attention::default() }
    });
    all.collect()
}

fn limits(side: usize, subgroup: usize, workgroup_bytes: u64) -> Limits {
    let base = Limits { cooperative: side, subgroup, workgroup_bytes, ..Limits::portable(AdapterKind::Gpu) };
    Limits { invocations: 1024, ..base }
}

/// All kernels on cooperative matrices that plans may have, each with the name of its variant.
fn kernels(g: &Graph, limits: &Limits) -> Vec<(String, Kernel)> {
    let mut all = vec![];
    let mut names: Vec<String> = vec![];
    for (_, _, variants) in g.choosable(limits) {
        assert!(!variants.names[0].contains("cooperative"), "a device has to show first that they are right");
        let new = |name: &String| name.contains("cooperative") && !names.contains(name);
        let new: Vec<String> = variants.names.into_iter().filter(new).collect();
        names.extend(new);
    }
    for name in names {
        let choices = Arc::new(Choices::new(Default::default(), vec![name.clone()]));
        let plan = Plan::new(g, &Limits { choices, ..limits.clone() }).unwrap();
        let found: Vec<Kernel> = plan.kernels().filter(|k| k.shader.stem.contains("cooperative")).cloned().collect();
        assert!(!found.is_empty(), "{name} runs no such kernel");
        all.extend(found.into_iter().map(|k| (name.clone(), k)));
    }
    all
}

/// Everything that is wrong with a kernel for matrices of `side`.
fn check(side: usize, kernel: &Kernel, most_bytes: u64) -> Result<(), String> {
    let text = specialise(kernel.shader, &kernel.constants, &kernel.swaps);
    let (module, info) = validate(&text, needed())?;
    let bytes = workgroup_bytes(&module);
    if bytes > most_bytes {
        return Err(format!("{bytes} bytes of workgroup memory, of {most_bytes}"));
    }
    // Vulkan 1.3, whose memory model cooperative matrices build on.
    let options = naga::back::spv::Options { lang_version: (1, 6), ..Default::default() };
    let spirv = naga::back::spv::write_vec(&module, &info, &options, None).map_err(|e| format!("SPIR-V: {e}"))?;
    // OpCooperativeMatrixLoadKHR, StoreKHR, MulAddKHR.
    let found = [4457, 4458, 4459].map(|opcode| instructions(&spirv, opcode));
    if found.contains(&0) {
        return Err(format!("SPIR-V: {found:?} loads, stores and products"));
    }
    if side == 8 {
        let options =
            naga::back::msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        let written = naga::back::msl::write_string(&module, &info, &options, &Default::default());
        let (metal, names) = written.map_err(|e| format!("MSL: {e}"))?;
        names.entry_point_names.into_iter().try_for_each(|n| n.map(|_| ())).map_err(|e| format!("MSL: {e}"))?;
        for part in ["simdgroup_half8x8", "simdgroup_float8x8", "simdgroup_load(", "simdgroup_store("] {
            if !metal.contains(part) {
                return Err(format!("MSL: no {part}"));
            }
        }
    }
    Ok(())
}

#[test]
fn attention_of_f16_may_run_on_such_matrices_and_is_valid_there() {
    // Metal has 32 KiB and simdgroups of 32; a device of 16 x 16 may have subgroups of several sizes; lavapipe's have 8 lanes.
    for (side, subgroup, bytes) in [(16, 32, 32 << 10), (16, 0, 48 << 10), (8, 32, 32 << 10), (8, 8, 32 << 10)] {
        let limits = limits(side, subgroup, bytes);
        let one = |variant: &Variant| -> Vec<String> {
            let kernels = kernels(&graph(*variant, Dtype::F16), &limits);
            let stems: BTreeSet<&str> = kernels.iter().map(|(_, k)| k.shader.stem).collect();
            let few = (stems.len() < 3).then(|| format!("only {stems:?}"));
            let failed = kernels.iter().filter_map(|(name, k)| Some((name, check(side, k, bytes).err()?)));
            let failed = failed.map(|(name, why)| format!("{name}: {why}"));
            few.into_iter().chain(failed).map(|why| format!("{variant:?} on {side}, {subgroup}: {why}")).collect()
        };
        let failures: Vec<String> = variants().par_iter().flat_map(one).collect();
        assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    }
}

#[test]
fn every_mask_is_valid_on_such_matrices_packed_and_apart_with_a_bias() {
    for (side, bytes) in [(16, 48 << 10), (8, 32 << 10)] {
        let one = |forward: &Attention| -> Vec<String> {
            let kernels = kernels(&masked_graph(forward.clone(), 32, Dtype::F16), &limits(side, 32, bytes));
            let stems: BTreeSet<&str> = kernels.iter().map(|(_, k)| k.shader.stem).collect();
            let few = (stems.len() < 3).then(|| format!("only {stems:?}"));
            let failed = kernels.iter().filter_map(|(name, k)| Some((name, check(side, k, bytes).err()?)));
            let failed = failed.map(|(name, why)| format!("{name}: {why}"));
            few.into_iter().chain(failed).map(|why| format!("{forward:?} on {side}: {why}")).collect()
        };
        let failures: Vec<String> = masked().par_iter().flat_map(one).collect();
        assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    }
}

#[test]
fn attention_of_f32_or_of_heads_that_are_no_whole_matrices_runs_without_them() {
    let variant = (2, 2, 64, None, 0.0);
    assert!(kernels(&graph(variant, Dtype::F32), &limits(16, 32, 48 << 10)).is_empty());
    assert!(kernels(&graph(variant, Dtype::F16), &limits(0, 32, 48 << 10)).is_empty());
    for (side, hs) in [(16, 20), (16, 72), (8, 36)] {
        let variant = (2, 2, hs, None, 0.0);
        assert!(kernels(&graph(variant, Dtype::F16), &limits(side, 32, 48 << 10)).is_empty(), "{hs} on {side}");
    }
}

#[test]
fn blocks_that_no_workgroup_can_make_are_refused() {
    let kernel = &kernels(&graph((2, 2, 64, None, 0.0), Dtype::F16), &limits(16, 32, 48 << 10))[0].1;
    let text = |constants: &[(&'static str, u32)]| {
        let mut all = kernel.constants.clone();
        all.extend(constants.iter().map(|(name, value)| (*name, (*value).into())));
        validate(&specialise(kernel.shader, &all, &kernel.swaps), needed()).map(|_| ())
    };
    assert_eq!(text(&[]), Ok(()));
    for wrong in [[("OWNED", 40), ("PASSING", 32)], [("OWNED", 64), ("PASSING", 40)], [("TM", 2), ("TN", 3)]] {
        let why = text(&wrong).unwrap_err();
        assert!(why.contains("const_assert"), "{wrong:?}: {why}");
    }
}
