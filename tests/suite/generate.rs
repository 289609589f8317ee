//! Next-token logits against the full forward pass, and the sampler's choices.

use wgpt::executor::Executor;
use wgpt::generate::{Generator, Sampler, Strategy};
use wgpt::gpu::Gpu;
use wgpt::graph::{Graph, Plan, Shape, Step};
use wgpt::models::config::Gpt2Config;
use wgpt::models::gpt2::{Gpt2, initial_values};
use wgpt::ops::case::check_close;
use wgpt::reference::Cpu;

const VOCABULARY: usize = 11;

fn config() -> Gpt2Config {
    Gpt2Config::new(VOCABULARY, 40, 2, 2, 16)
}

/// Logits (T, V) of a whole sequence.
fn all_logits(device: &mut dyn Executor, ids: &[u32]) -> Vec<f32> {
    let config = config();
    let mut g = Graph::new();
    let input = g.input("ids", Shape::u32(&[1, ids.len()]));
    let logits = Gpt2 { config: &config, training: false }.logits(&mut g, input);
    g.output("logits", logits);
    let plan = Plan::new(&g, device.limits()).unwrap();
    let program = device.load(&g, plan).unwrap();
    device.write(program, "ids", bytemuck::cast_slice(ids)).unwrap();
    device.run(program, 0, &Step::default()).unwrap();
    let values = device.read(program, "logits").unwrap();
    device.unload(program);
    values
}

#[test]
fn next_logits_are_those_of_the_full_forward_pass_at_every_length() {
    let devices: [Box<dyn Executor>; 2] = [Box::new(Cpu::default()), Box::new(Gpu::open("auto").unwrap())];
    for mut device in devices {
        let config = config();
        let mut generator = Generator::new(&config);
        let ids: Vec<u32> = (0..50u32).map(|i| (i * i + 3 * i) % VOCABULARY as u32).collect();
        generator.next_logits(device.as_mut(), &ids[..1]).unwrap(); // allocates the store
        for (name, dims) in config.parameters() {
            let values = initial_values(&config, &name, dims.iter().product(), 0.3, 5);
            device.write_state(&name, &values).unwrap();
        }
        let full = all_logits(device.as_mut(), &ids[..40]);
        for length in [1, 2, 15, 16, 17, 31, 32, 33, 39, 40] {
            let got = generator.next_logits(device.as_mut(), &ids[..length]).unwrap();
            let want = &full[(length - 1) * VOCABULARY..length * VOCABULARY];
            // The same sums over the same numbers; only the tiling of another length may differ.
            check_close(&format!("{length} tokens"), &got, want, 1e-5, 1e-5).unwrap();
        }
        // Past the context the last 40 tokens are seen.
        let got = generator.next_logits(device.as_mut(), &ids).unwrap();
        let slid = all_logits(device.as_mut(), &ids[10..]);
        check_close("a full context", &got, &slid[39 * VOCABULARY..], 1e-5, 1e-5).unwrap();
    }
}

#[test]
fn greedy_takes_the_largest_and_the_first_of_equals() {
    let mut sampler = Sampler::new(Strategy::Greedy, 0);
    assert_eq!(sampler.choose(&[0.0, 2.0, 1.0, 2.0]), 1);
    assert_eq!(sampler.choose(&[f32::NAN, -5.0, f32::NEG_INFINITY]), 1);
}

#[test]
fn samples_follow_the_softmax_and_top_k_cuts_it() {
    let logits = [0.5f32, -1.0, 2.0, 0.0, 1.0];
    let draws = 20_000;
    for (temperature, top_k) in [(1.0, 0), (0.5, 0), (1.0, 3), (2.0, 2)] {
        let mut sampler = Sampler::new(Strategy::Sample { temperature, top_k }, 9);
        let mut counts = [0usize; 5];
        (0..draws).for_each(|_| counts[sampler.choose(&logits) as usize] += 1);
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(if top_k == 0 { 5 } else { top_k });
        let weight = |i: &usize| f64::from(logits[*i] / temperature).exp();
        let total: f64 = order.iter().map(weight).sum();
        let mut chi_squared = 0.0;
        for (i, count) in counts.into_iter().enumerate() {
            let expected = if order.contains(&i) { draws as f64 * weight(&i) / total } else { 0.0 };
            assert!(expected > 0.0 || count == 0, "token {i} is beyond the top {top_k}");
            if expected > 0.0 {
                chi_squared += (count as f64 - expected).powi(2) / expected;
            }
        }
        // At most four degrees of freedom: 23.5 is passed by one seed in ten thousand.
        assert!(chi_squared < 23.5, "chi-squared {chi_squared} at temperature {temperature}, top {top_k}");
    }
}
