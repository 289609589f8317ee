//! Sizes that flags, configurations and files can bring: each is planned or refused, at once, and nothing panics.

use proptest::prelude::*;
use std::time::{Duration, Instant};
use wgpt::error::Error;
use wgpt::graph::{Cost, Op, Shapes};
use wgpt::graph::{Dispatch, Family, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::models::config::{Config, PRESETS};
use wgpt::models::model::Model;
use wgpt::ops::add::Add;
use wgpt::ops::attention::Attention;

/// A GPU with as much of everything as any has.
fn large() -> Limits {
    Limits { binding_bytes: u32::MAX as u64, buffer_bytes: 1 << 40, f16: true, ..Limits::portable(Family::Gpu) }
}

#[track_caller]
fn refused(g: &Graph, limits: &Limits, words: &[&str]) {
    match Plan::new(g, limits) {
        Err(Error::OutOfMemory(text)) => {
            words.iter().for_each(|word| assert!(text.contains(word), "`{word}` is missing in: {text}"));
            assert!(text.contains("use a smaller batch"), "{text}");
        }
        other => panic!("planned, or refused otherwise: {:?}", other.map(|plan| plan.buffers)),
    }
}

#[test]
fn a_tensor_beyond_32_bits_is_refused_whatever_the_op() {
    let mut g = Graph::new();
    let qkv = g.input("qkv", Shape::f32(&[4096, 1024, 3 * 1600]));
    let op = Attention { heads: 25, kv_heads: 25, window: None, dropout: 0.1, salt: 1 };
    let y = g.apply(op, &[qkv]);
    g.output("y", y);
    refused(&g, &large(), &["qkv", "(4096, 1024, 4800)", "2^32"]);
    // A product of dimensions that not even 64 bits hold.
    let mut g = Graph::new();
    let x = g.input("x", Shape::f32(&[1 << 30, 1 << 30, 1 << 30]));
    let y = g.apply(Add, &[x, x]);
    g.output("y", y);
    refused(&g, &large(), &["`x`", "2^32"]);
    assert_eq!(Shape::f32(&[1 << 30; 3]).size_bytes(), u64::MAX);
}

/// An op that launches what it is told to.
#[derive(Debug)]
struct Launch {
    constant: usize,
    workgroups: usize,
    row_bytes: u64,
}

impl Op for Launch {
    fn name(&self) -> &'static str {
        "launch"
    }

    fn outputs(&self, inputs: &[&Shape]) -> Vec<Shape> {
        vec![inputs[0].clone()]
    }

    fn dispatch(&self, shapes: &Shapes, limits: &Limits) -> Vec<Dispatch> {
        let rows = (shapes.inputs[0].size_bytes() / self.row_bytes) as usize;
        let range = |rows: std::ops::Range<usize>| rows.start as u64 * self.row_bytes..rows.end as u64 * self.row_bytes;
        let piece = |rows: std::ops::Range<usize>| {
            Dispatch::new(wgpt::shader!("add"))
                .constant("LEN", self.constant)
                .read_range(0, range(rows.clone()))
                .write_range(0, range(rows))
                .groups(limits.fold(self.workgroups))
        };
        let rows = if self.row_bytes > 1 << 20 {
            limits.entry_chunks(rows, self.row_bytes)
        } else {
            limits.row_chunks(rows, self.row_bytes)
        };
        rows.into_iter().map(piece).collect()
    }

    fn vjp(&self, _: &mut Graph, _: usize, _: Tensor, _: &[bool]) -> Vec<Option<Tensor>> {
        unreachable!("stands in no training graph")
    }

    fn reference(&self, _: &Shapes, _: &[&[f32]], _: &mut [Vec<f32>], _: &Step) {}

    fn cost(&self, _: &Shapes) -> Cost {
        Cost::default()
    }
}

#[test]
fn what_a_kernel_cannot_hold_is_refused_whatever_the_op() {
    let with = |op: Launch, elements: usize| {
        let mut g = Graph::new();
        let x = g.input("x", Shape::f32(&[elements]));
        let y = g.apply(op, &[x]);
        g.output("y", y);
        g
    };
    let limits = Limits::portable(Family::Gpu);
    assert!(Plan::new(&with(Launch { constant: 1, workgroups: 65535 * 65535, row_bytes: 4 }, 64), &limits).is_ok());
    refused(&with(Launch { constant: 1 << 32, workgroups: 1, row_bytes: 4 }, 64), &limits, &["LEN", "4294967296"]);
    for workgroups in [65535 * 65535 + 1, usize::MAX] {
        refused(&with(Launch { constant: 1, workgroups, row_bytes: 4 }, 64), &limits, &["workgroups", "65535"]);
    }
    // One row, and one entry, that no binding holds.
    let small = Limits { binding_bytes: 1 << 16, ..limits };
    refused(&with(Launch { constant: 1, workgroups: 1, row_bytes: 1 << 17 }, 1 << 16), &small, &["binds"]);
    refused(&with(Launch { constant: 1, workgroups: 1, row_bytes: 1 << 21 }, 1 << 20), &small, &["binds"]);
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0usize..70, (0u32..33, 0usize..3).prop_map(|(bits, less)| (1usize << bits).saturating_sub(less))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_model_and_batch_is_planned_or_refused_within_a_second(
        preset in 0..PRESETS.len(),
        sizes in prop::array::uniform8(size()),
        batch in size(),
        mixed: bool,
        is_large: bool,
    ) {
        let [layers, heads, kv_heads, head_size, inner, context, vocab_size, window] = sizes;
        // One size in four is the preset's.
        let base = (PRESETS[preset].config)();
        let or = |n: usize, own: usize| if n % 4 == 3 { own } else { n };
        let heads = or(heads, base.heads);
        let head_size = or(head_size, base.head_size);
        let config = Config {
            layers: or(layers, base.layers).min(64), // deeper ones take longer in a build without optimisation
            heads,
            kv_heads: or(kv_heads, heads),
            head_size,
            width: heads.saturating_mul(head_size),
            inner: or(inner, base.inner),
            context: or(context, base.context),
            vocab_size: or(vocab_size, base.vocab_size),
            window: (window > 9).then_some(window),
            ..base
        };
        let began = Instant::now();
        if config.validate().is_ok() {
            let limits = if is_large { large() } else { Limits::portable(Family::Software) };
            let mut g = Graph::new();
            let loss = Model { config: &config, training: false, mixed }.loss(&mut g, batch.max(1), config.context);
            g.output("loss", loss);
            if let Ok(plan) = Plan::new(&g, &limits) {
                prop_assert!(plan.kernels().all(|k| k.workgroups.iter().all(|n| *n <= limits.workgroups)));
                prop_assert!(plan.buffers.iter().all(|b| b.size_bytes <= limits.buffer_bytes));
            }
        }
        prop_assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}
