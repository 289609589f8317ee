//! Sizes that flags, configurations and files can bring: each is planned or refused, at once, and nothing panics.

use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use wgpt::error::Error;
use wgpt::graph::{AdapterKind, Dispatch, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::graph::{Cost, Op, Shapes};
use wgpt::models::choices::ModelChoices;
use wgpt::models::presets::PRESETS;
use wgpt::objectives::pretraining;
use wgpt::objectives::recipe::PresetRecipe;
use wgpt::ops::add::Add;
use wgpt::ops::attention::Attention;
use wgpt::train::blueprint::Blueprint;
use wgpt::train::settings::{Choices, Precision};

/// A GPU with as much of everything as any has.
fn large() -> Limits {
    Limits { binding_bytes: u32::MAX as u64, buffer_bytes: 1 << 40, f16: true, ..Limits::portable(AdapterKind::Gpu) }
}

/// Time that this thread has been on a processor, which a busy machine does not lengthen. Where the system does not tell, the
/// clock's.
fn on_processor() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| START.elapsed(), Duration::from_nanos)
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
    let op = Attention { heads: 25, kv_heads: 25, dropout: 0.1, salt: 1, ..Attention::default() };
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
fn sizes_that_a_kernel_cannot_hold_are_refused_whatever_the_op() {
    let with = |op: Launch, elements: usize| {
        let mut g = Graph::new();
        let x = g.input("x", Shape::f32(&[elements]));
        let y = g.apply(op, &[x]);
        g.output("y", y);
        g
    };
    let limits = Limits::portable(AdapterKind::Gpu);
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
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_settings_are_planned_or_refused_within_a_second(
        preset in 0..PRESETS.len(),
        sizes in prop::array::uniform10(size()),
        kept in prop::array::uniform10(0..3u8),
        mixed: bool,
        recompute: bool,
        is_large: bool,
    ) {
        // Some of the choices are left out.
        let given = |n: usize| (kept[n] > 0).then_some(sizes[n]);
        let model = ModelChoices {
            preset: Some(PRESETS[preset].name.into()),
            layers: given(0).map(|layers| layers.min(48)), // deeper ones take longer in a build without optimisation
            heads: given(1),
            kv_heads: given(2).filter(|_| kept[2] == 2),
            width: given(3),
            context: given(4),
            experts: given(5).filter(|_| PRESETS[preset].name == "mixtral"),
            ..ModelChoices::default()
        };
        let choices = Choices {
            batch: given(6),
            accumulate: given(7),
            classifier_rows: given(8),
            recompute: recompute.then_some(true),
            precision: Some(if mixed { Precision::Mixed } else { Precision::F32 }),
            ..Choices::default()
        };
        let limits = if is_large { large() } else { Limits { f16: true, ..Limits::portable(AdapterKind::Software) } };
        let began = on_processor();
        let planned = (|| {
            let config = model.config(sizes[9].max(1), 0.02)?;
            let settings = choices.clone().resolve(&PresetRecipe::of(Some(PRESETS[preset].name)).run, |_| 1)?;
            let context = config.context;
            let blueprint = Blueprint::new(pretraining(config, context).as_ref(), &settings, &limits)?;
            wgpt::error::Result::Ok(blueprint.memory_bytes())
        })();
        match planned {
            Ok(bytes) => prop_assert!(bytes > 0),
            Err(Error::Usage(why) | Error::OutOfMemory(why)) => prop_assert!(!why.is_empty()),
            Err(other) => prop_assert!(false, "{other}"),
        }
        let took = on_processor() - began;
        prop_assert!(took < Duration::from_secs(1), "{took:?}: {model:?} {choices:?}");
    }
}
