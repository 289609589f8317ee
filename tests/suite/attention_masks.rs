//! Attention under every mask, packed and apart, with T5's biases, against PyTorch's `scaled_dot_product_attention`, forward and
//! backward. tests/fixtures/attention_masks.py makes the numbers, in f64. And what the cases of the op do not show.

use crate::llama_blocks::{Fixture, devices};
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Dtype, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::ops::attention::{Attention, Mask};
use wgpt::ops::cases;
use wgpt::ops::relative_bias::RelativeBias;
use wgpt::reference::Cpu;

const FILE: &str = "attention_masks";
const CAUSAL: Mask = Mask::Causal { window: None };
const DOCUMENTS: Mask = Mask::Documents { window: None };

/// Runs a block of the dump on every kind of device; compares y and the gradients of q, k, v and the table of a bias, which
/// is `bidirectional` or not.
fn check(block: &str, mask: Mask, scale: Option<f32>, bidirectional: Option<bool>) {
    let fixture = Fixture::open(FILE);
    let of = |name: &str| format!("{block}.{name}");
    let apart = block.starts_with("apart");
    let mut names = if apart { vec!["q", "kv"] } else { vec!["x"] };
    let mut g = Graph::new();
    let mut inputs: Vec<Tensor> = names.iter().map(|name| g.input(name, fixture.get(&of(name)).0)).collect();
    let mut written = names.clone();
    let (queries, keys) = (g.shape(inputs[0]).dims[1], g.shape(inputs[inputs.len() - 1]).dims[1]);
    if matches!(mask, Mask::Lengths | Mask::Documents { .. }) {
        inputs.push(g.input("words", fixture.get(&of("words")).0.with_dtype(Dtype::U32)));
        written.push("words");
    }
    let bias = bidirectional.map(|bidirectional| {
        let table = g.input("table", fixture.get(&of("table")).0);
        names.push("table");
        written.push("table");
        g.apply(RelativeBias { queries, keys, buckets: 8, max_distance: 20, bidirectional }, &[table])
    });
    inputs.extend(bias);
    let attention =
        Attention { heads: 4, kv_heads: 2, apart, mask, bias: bias.is_some(), scale, ..Attention::default() };
    let y = g.apply(attention, &inputs);
    let dy = g.input("dy", fixture.get(&of("dy")).0);
    written.push("dy");
    let gradients_of = |g: &mut Graph, of: Tensor, dy: Tensor| {
        let op = g.op(of.node).unwrap().clone();
        let needed = vec![true; g.nodes()[of.node].inputs.len()];
        op.vjp(g, of.node, dy, &needed)
    };
    let mut gradients: Vec<Tensor> = gradients_of(&mut g, y, dy).into_iter().flatten().collect();
    if let Some(bias) = bias {
        let dbias = gradients.pop().unwrap();
        gradients.extend(gradients_of(&mut g, bias, dbias).into_iter().flatten());
    }
    g.output("y", y);
    let mut outputs = vec!["y".to_string()];
    assert_eq!(gradients.len(), names.len());
    for (name, gradient) in names.iter().zip(gradients) {
        outputs.push(format!("d{name}"));
        g.output(&format!("d{name}"), gradient);
    }
    for (label, mut device) in devices() {
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        device.poison(program).unwrap();
        for name in &written {
            device.write(program, name, bytemuck::cast_slice(&fixture.get(&of(name)).1)).unwrap();
        }
        device.run(program, 0, &Step::default()).unwrap();
        for name in &outputs {
            let got = device.read(program, name).unwrap();
            // Scores up to 16 in f32, whose error of up to 1e-6 is that of a weight; gradients are sums of some tens of weights
            // times values up to 32.
            check_close(&format!("{label}: {}", of(name)), &got, &fixture.get(&of(name)).1, 2e-5, 1e-5).unwrap();
        }
    }
}

#[test]
fn every_mask_agrees_with_pytorch_packed_and_apart() {
    check("causal", CAUSAL, None, None);
    check("window", Mask::Causal { window: Some(5) }, None, None);
    check("full", Mask::Full, None, None);
    check("lengths", Mask::Lengths, None, None);
    check("documents", DOCUMENTS, None, None);
    check("documents_window", Mask::Documents { window: Some(3) }, None, None);
    check("apart_causal", CAUSAL, None, None);
    check("apart_window", Mask::Causal { window: Some(4) }, None, None);
    check("apart_full", Mask::Full, None, None);
    check("apart_lengths", Mask::Lengths, None, None);
}

#[test]
fn biases_of_t5_and_their_gradients_agree_with_pytorch() {
    check("bias_causal", CAUSAL, Some(1.0), Some(false));
    check("bias_lengths", Mask::Lengths, Some(1.0), Some(true));
    check("bias_documents", DOCUMENTS, None, Some(false));
    check("apart_bias_full", Mask::Full, Some(1.0), Some(true));
    check("apart_bias_causal", CAUSAL, None, Some(false));
}

#[test]
fn buckets_of_relative_positions_are_those_of_transformers() {
    let fixture = Fixture::open(FILE);
    for (name, bidirectional) in [("encoder", true), ("decoder", false)] {
        let op = RelativeBias { queries: 301, keys: 301, buckets: 32, max_distance: 128, bidirectional };
        let want: Vec<usize> =
            fixture.get(&format!("buckets.{name}")).1.iter().map(|bits| bits.to_bits() as usize).collect();
        let got: Vec<usize> = (-300..=300).map(|relative| op.bucket(relative)).collect();
        assert_eq!(got, want, "{name}");
    }
}

/// Words of masks are counted over the whole batch, whatever range of it a kernel is for.
#[test]
fn batches_larger_than_a_binding_find_the_words_of_their_mask() {
    for name in [
        "attention within lengths, 4x37, 3 heads of 16",
        "attention with a bias within documents, 2x41, 2 heads of 8",
        "attention apart within lengths, 3x19 queries to 33 keys, 4 heads of 8 over 2 of keys, dropout 0.2",
    ] {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let built = case.build(7);
        let want = built.run(&mut Cpu::default()).unwrap();
        for family in [AdapterKind::Software, AdapterKind::Gpu] {
            let mut gpu = Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap();
            let count = |limits: &Limits| Plan::new(&built.graph, limits).unwrap().kernels().count();
            let whole = count(gpu.limits());
            // One entry of the largest tensor, and a little more.
            let most =
                built.graph.nodes().iter().take(2).map(|n| n.outputs[0].size_bytes() / n.outputs[0].dims[0] as u64);
            gpu.limits_mut().binding_bytes = most.max().unwrap() + 64;
            assert!(count(gpu.limits()) > whole, "{name} is done in one go");
            let got = built.run(&mut gpu).unwrap();
            for ((output, got), want) in built.outputs.iter().zip(&got).zip(&want) {
                check_close(&format!("{name} {output}"), got, want, case.atol, case.rtol).unwrap();
            }
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let shapes = |dims: &[&[usize]]| dims.iter().map(|d| Shape::f32(d)).collect::<Vec<_>>();
    let refuses = |op: Attention, inputs: Vec<Shape>, why: &str| {
        let refused = std::panic::catch_unwind(|| {
            let mut g = Graph::new();
            let tensors: Vec<Tensor> =
                inputs.iter().enumerate().map(|(i, s)| g.input(&i.to_string(), s.clone())).collect();
            g.apply(op.clone(), &tensors);
        });
        let panic = refused.expect_err(&format!("{op:?} takes {inputs:?}"));
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains(why), "{text}");
    };
    let packed = Attention { heads: 2, kv_heads: 2, ..Attention::default() };
    let apart = Attention { apart: true, ..packed.clone() };
    refuses(apart.clone(), shapes(&[&[2, 5, 16], &[3, 7, 32]]), "belong to its queries");
    refuses(apart.clone(), shapes(&[&[2, 5, 16], &[2, 7, 48]]), "belong to its queries");
    let lengths = Attention { mask: Mask::Lengths, ..packed.clone() };
    refuses(lengths, shapes(&[&[2, 5, 48], &[2]]), "[2] of u32");
    let biased = Attention { bias: true, ..packed };
    refuses(biased, shapes(&[&[2, 5, 48], &[2, 10]]), "a bias of attention");
    let many = Attention { mask: Mask::Lengths, bias: true, ..apart };
    let mut inputs = shapes(&[&[2, 5, 16], &[2, 7, 32], &[2], &[2, 11]]);
    inputs[2] = inputs[2].with_dtype(Dtype::U32);
    refuses(many, inputs, "only where q, k and v are packed");
}
