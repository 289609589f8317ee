//! Log-probabilities of tokens with a gradient per row: from logits and from hidden states by chunks, against PyTorch, and what
//! memory they take.

use std::path::Path;
use wgpt::checks::check_close;
use wgpt::executor::Executor;
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::gradient::gradient;
use wgpt::graph::memory::Class;
use wgpt::graph::{AdapterKind, Graph, Limits, Plan, Shape, Step, Tensor};
use wgpt::ops::IGNORED;
use wgpt::ops::add::add_in_place;
use wgpt::ops::chunked_token_log_prob::{ChunkedTokenLogProb, ChunkedTokenLogProbBackward};
use wgpt::ops::fill::Fill;
use wgpt::ops::matmul::Matmul;
use wgpt::ops::squared_error::SquaredError;
use wgpt::ops::token_log_prob::{TokenLogProb, TokenLogProbBackward};
use wgpt::reference::Cpu;

const ROWS: usize = 70;
const C: usize = 8;
const V: usize = 50257;

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

/// As in tests/fixtures/token_log_prob.py.
fn numbers(count: usize, salt: u32, scale: f32) -> Vec<f32> {
    let bits = |i: u32| (i + salt).wrapping_mul(2_654_435_761) >> 8;
    (0..count as u32).map(|i| (bits(i) as f32 / (1 << 23) as f32 - 1.0) * scale).collect()
}

fn targets() -> Vec<u32> {
    (0..ROWS).map(|r| if r % 7 == 3 { IGNORED } else { (r * 7919 % V) as u32 }).collect()
}

/// How the logits come about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Logits {
    Whole,
    Chunks,
}

/// Log-probabilities of (rows, C) hidden states by a head of (V, C), and the gradients of both from dy.
fn graph(g: &mut Graph, rows: usize, c: usize, logits: Logits) {
    let (x, w) = (g.input("x", Shape::f32(&[rows, c])), g.input("w", Shape::f32(&[V, c])));
    let (targets, dy) = (g.input("targets", Shape::u32(&[rows])), g.input("dy", Shape::f32(&[rows])));
    let product = |ta, tb| Matmul { ta, tb, ..Matmul::default() };
    let (y, dx, dw) = match logits {
        Logits::Chunks => {
            let y = g.apply(ChunkedTokenLogProb { rows: 64 }, &[x, w, targets]);
            let lse = Tensor { node: y.node, slot: 1 };
            let backward = ChunkedTokenLogProbBackward { rows: 64, head_gradient: true, accumulate: false };
            let dx = g.apply(backward, &[x, w, targets, lse, dy]);
            (y, dx, Tensor { node: dx.node, slot: 1 })
        }
        Logits::Whole => {
            let logits = g.apply(product(false, true), &[x, w]);
            let y = g.apply(TokenLogProb, &[logits, targets]);
            let lse = Tensor { node: y.node, slot: 1 };
            let dlogits = g.apply(TokenLogProbBackward, &[logits, targets, lse, dy]);
            (y, g.apply(product(false, false), &[dlogits, w]), g.apply(product(true, false), &[dlogits, x]))
        }
    };
    for (name, tensor) in [("y", y), ("dx", dx), ("dw", dw)] {
        g.output(name, tensor);
    }
}

/// Fails unless every number is within 1e-5, or `part`, of the largest of its tensor.
fn assert_alike(what: &str, got: &[f32], want: &[f32]) {
    assert_within(1e-5, what, got, want);
}

fn assert_within(part: f32, what: &str, got: &[f32], want: &[f32]) {
    let largest = want.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    check_close(what, got, want, part * largest, 0.0).unwrap();
}

#[test]
fn log_probabilities_and_their_gradients_are_those_of_pytorch_for_a_vocabulary_of_50257() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/token_log_prob.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let dump = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let of = |name: &str| bytemuck::pod_collect_to_vec::<u8, f32>(dump.tensor(name).unwrap().data());
    let rows: Vec<u32> = of("dw.rows").iter().map(|r| r.to_bits()).collect();
    assert!(rows.len() > 100 && of("log_probs")[3] == 0.0);
    for (name, mut device) in devices() {
        for logits in [Logits::Whole, Logits::Chunks] {
            // The products of the whole are matmul's own, and slow through workgroup memory on a CPU.
            if logits == Logits::Whole && name == "kernels for GPUs" {
                continue;
            }
            let mut g = Graph::new();
            graph(&mut g, ROWS, C, logits);
            let plan = Plan::new(&g, device.limits()).unwrap();
            let program = device.load(&g, plan).unwrap();
            device.poison(program).unwrap();
            let inputs =
                [("x", numbers(ROWS * C, 1, 4.0)), ("w", numbers(V * C, 5000, 1.0)), ("dy", numbers(ROWS, 777, 1.0))];
            for (name, values) in inputs {
                device.write(program, name, bytemuck::cast_slice(&values)).unwrap();
            }
            device.write(program, "targets", bytemuck::cast_slice(&targets())).unwrap();
            device.run(program, 0, &Step::default()).unwrap();
            let [y, dx, dw] = ["y", "dx", "dw"].map(|output| device.read(program, output).unwrap());
            device.unload(program);
            let what = |tensor: &str| format!("{tensor}, {logits:?}, {name}");
            assert_alike(&what("y"), &y, &of("log_probs"));
            // A matmul of its own sums all 50257 products in order: most are tiny and of one sign, and round off the same way.
            assert_within(if logits == Logits::Whole { 1e-4 } else { 1e-5 }, &what("dx"), &dx, &of("dx"));
            let some: Vec<f32> = rows.iter().flat_map(|r| dw[*r as usize * C..][..C].to_vec()).collect();
            assert_alike(&what("dw"), &some, &of("dw"));
            let squares = |c: usize| dw.iter().skip(c).step_by(C).map(|d| f64::from(*d).powi(2)).sum::<f64>() as f32;
            assert_alike(&what("squares of dw"), &(0..C).map(squares).collect::<Vec<_>>(), &of("dw.squares"));
            // Rows that are ignored have no log-probability and no gradient, to the bit.
            let ignored = (0..ROWS).filter(|r| targets()[*r] == IGNORED);
            assert_eq!(ignored.clone().count(), 10);
            for r in ignored {
                assert!(y[r] == 0.0 && dx[r * C..][..C].iter().all(|d| *d == 0.0), "{}, row {r}", what("ignored"));
            }
        }
    }
}

/// Bytes of temporaries of a plan.
fn temporaries(rows: usize, c: usize, logits: Logits) -> u64 {
    let mut g = Graph::new();
    graph(&mut g, rows, c, logits);
    let limits = Limits { buffer_bytes: 1 << 40, ..Limits::portable(AdapterKind::Gpu) };
    Plan::new(&g, &limits).unwrap().size_bytes(|class| *class == Class::Temporary)
}

#[test]
fn logits_of_all_rows_never_exist() {
    let (rows, c) = (4096, 64);
    let logits = (rows * V * 4) as u64;
    let (whole, chunks) = (temporaries(rows, c, Logits::Whole), temporaries(rows, c, Logits::Chunks));
    assert!(whole >= logits, "{whole} bytes");
    // Logits of 64 rows; lse, and what the in-place gradient needs no copy of, are small.
    let least = (64 * V * 4) as u64;
    assert!((least..least + (1 << 20)).contains(&chunks), "{chunks} bytes, of which {least} are logits");
}

/// By differentiation of a loss of the log-probabilities, by chunks and from whole logits.
#[test]
fn differentiation_adds_the_gradient_of_the_head_where_it_is_kept() {
    let (rows, c, v) = (70, 12, 37);
    let gradients = |device: &mut dyn Executor, chunks: bool| {
        let mut g = Graph::new();
        let (x, dx) = (g.state("x", &[rows, c]), g.state("x.grad", &[rows, c]));
        let (w, dw) = (g.state("w", &[v, c]), g.state("w.grad", &[v, c]));
        let targets = g.input("targets", Shape::u32(&[rows]));
        let seed = g.apply(Fill { value: 0.7 }, &[]);
        let y = if chunks {
            g.apply(ChunkedTokenLogProb { rows: 64 }, &[x, w, targets])
        } else {
            let logits = g.apply(Matmul { tb: true, ..Matmul::default() }, &[x, w]);
            g.apply(TokenLogProb, &[logits, targets])
        };
        // A loss with another gradient for each row.
        let (goals, weights) = (g.input("goals", Shape::f32(&[rows])), g.input("weights", Shape::f32(&[rows])));
        let loss = g.apply(SquaredError, &[y, goals, weights]);
        gradient(&mut g, loss, seed, &[(x, dx), (w, dw)], &add_in_place(), false);
        let plan = Plan::new(&g, device.limits()).unwrap();
        let program = device.load(&g, plan).unwrap();
        device.write_state("x", &numbers(rows * c, 1, 4.0)).unwrap();
        device.write_state("w", &numbers(v * c, 9, 1.0)).unwrap();
        device.write_state("x.grad", &vec![0.5; rows * c]).unwrap();
        device.write_state("w.grad", &vec![-0.25; v * c]).unwrap();
        device.poison(program).unwrap();
        let ids: Vec<u32> = (0..rows as u32).map(|r| if r == 5 { IGNORED } else { r * 5 % v as u32 }).collect();
        device.write(program, "targets", bytemuck::cast_slice(&ids)).unwrap();
        device.write(program, "goals", bytemuck::cast_slice(&numbers(rows, 3, 8.0))).unwrap();
        let weights: Vec<f32> = numbers(rows, 4, 1.0).iter().map(|w| w.abs()).collect();
        device.write(program, "weights", bytemuck::cast_slice(&weights)).unwrap();
        device.run(program, 0, &Step::default()).unwrap();
        ["x.grad", "w.grad"].map(|name| device.read_state(name).unwrap())
    };
    let want = gradients(&mut Cpu::default(), false);
    for (name, mut device) in devices() {
        for chunks in [false, true] {
            let got = gradients(device.as_mut(), chunks);
            for (got, want) in got.iter().zip(&want) {
                assert_alike(&format!("{name}, chunks: {chunks}"), got, want);
            }
        }
    }
}
