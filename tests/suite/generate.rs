//! Generation: cached against uncached logits, sliding, rows, what is drawn against exact probabilities, beams.

use std::path::Path;
use std::sync::OnceLock;
use wgpt::checks::check_close;
use wgpt::executor::{Executor, Program};
use wgpt::formats::folder::{Weights, read_config};
use wgpt::generate::beam::{BeamOptions, BeamSearch, EarlyStopping, Next};
use wgpt::generate::{Generator, Request, SamplingParams, Token};
use wgpt::gpu::{Gpu, choose};
use wgpt::graph::{AdapterKind, Graph, Plan, Shape, Step};
use wgpt::models::config::Config;
use wgpt::models::initial::initial_values;
use wgpt::models::network::Network;
use wgpt::ops::next_token::{NextToken, PARAMS, seen_words};
use wgpt::reference::Cpu;

const VOCABULARY: usize = 11;
const CONTEXT: usize = 40;

fn config() -> Config {
    Config::new(VOCABULARY, CONTEXT, 2, 2, 16)
}

fn devices() -> Vec<(&'static str, Box<dyn Executor>)> {
    let gpu = |family| Box::new(Gpu::with(choose("auto").unwrap(), Some(family), true).unwrap());
    vec![
        ("reference", Box::new(Cpu::default())),
        ("kernels for software adapters", gpu(AdapterKind::Software)),
        ("kernels for GPUs", gpu(AdapterKind::Gpu)),
    ]
}

/// The model of all tests on one device.
fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| Network::new(Config { initializer_range: 0.3, ..config() }))
}

/// A generator of a random model.
fn generator(device: &mut dyn Executor, rows: usize) -> Generator {
    let generator = Generator::of_store(device, network(), VOCABULARY, rows).unwrap();
    for parameter in network().parameters() {
        device.write_state(&parameter.name, &initial_values(parameter, 5)).unwrap();
    }
    generator
}

/// The forward pass over whole sequences, without a cache.
struct Uncached(Program);

impl Uncached {
    fn new(device: &mut dyn Executor) -> Uncached {
        let mut g = Graph::new();
        let input = g.input("ids", Shape::u32(&[1, CONTEXT]));
        let logits = network().inference().logits(&mut g, input);
        g.output("logits", logits);
        let plan = Plan::new(&g, device.limits()).unwrap();
        Uncached(device.load(&g, plan).unwrap())
    }

    /// Logits (V) after the last `window` of `ids`. What is filled up comes after and changes nothing.
    fn logits(&self, device: &mut dyn Executor, ids: &[u32], window: usize) -> Vec<f32> {
        let mut seen = ids[ids.len() - window..].to_vec();
        seen.resize(CONTEXT, 0);
        device.write(self.0, "ids", bytemuck::cast_slice(&seen)).unwrap();
        device.run(self.0, 0, &Step::default()).unwrap();
        device.read(self.0, "logits").unwrap()[(window - 1) * VOCABULARY..window * VOCABULARY].to_vec()
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    logits.iter().map(|x| f64::from(*x) - total.ln()).collect()
}

fn ids(len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i + 3 * i) % VOCABULARY as u32).collect()
}

/// The tokens of each row.
fn sample(
    device: &mut dyn Executor,
    generator: &mut Generator,
    rows: usize,
    prompt: &[u32],
    tokens: usize,
    draw: &SamplingParams,
    seed: u32,
) -> Vec<Vec<Token>> {
    let mut texts = vec![vec![]; rows];
    let mut take = |row: usize, token| {
        let text: &mut Vec<Token> = &mut texts[row];
        text.push(token);
        Ok(true)
    };
    generator.sample(device, prompt, tokens, draw, seed, &mut take).unwrap();
    texts
}

#[test]
fn cached_logits_are_those_of_the_full_forward_pass_at_every_position() {
    for (label, mut device) in devices() {
        let device = device.as_mut();
        let mut generator = generator(device, 1);
        let ids = ids(50);
        let uncached = Uncached::new(device);
        // Of a prompt longer than the context the last tokens that fit are seen.
        for length in (1..=CONTEXT).chain([50]) {
            let got = generator.logits(device, &ids[..length]).unwrap();
            let want = uncached.logits(device, &ids[..length], length.min(CONTEXT));
            // The same sums over the same numbers, in another order.
            check_close(&format!("{label}: {length} tokens"), &got, &want, 1e-5, 1e-5).unwrap();
        }
    }
}

#[test]
fn every_token_is_drawn_from_the_full_forward_passs_distribution_also_after_sliding() {
    for (label, mut device) in devices() {
        let device = device.as_mut();
        let mut generator = generator(device, 1);
        let uncached = Uncached::new(device);
        for start in [1, 5, CONTEXT, CONTEXT + 9] {
            let mut text = ids(start);
            let mut window = start.min(CONTEXT);
            let tokens = sample(device, &mut generator, 1, &text, 100, &SamplingParams::GREEDY, 0).remove(0);
            for token in tokens {
                let log_probabilities = log_softmax(&uncached.logits(device, &text, window));
                let largest = log_probabilities.iter().copied().fold(f64::MIN, f64::max);
                let drawn = log_probabilities[token.id as usize];
                // Rounding may decide between equals; what is drawn must be among the largest.
                assert!(largest - drawn < 1e-4, "{label}: {} is drawn at {drawn}, below {largest}", token.id);
                assert!((f64::from(token.log_probability) - drawn).abs() < 1e-4, "{label}: {token:?} at {drawn}");
                text.push(token.id);
                // Half a context and the new token are seen once the context is full.
                window = if window == CONTEXT { CONTEXT / 2 + 1 } else { window + 1 };
            }
        }
    }
}

#[test]
fn rows_draw_the_tokens_that_they_draw_alone() {
    let draw = SamplingParams { temperature: 0.9, top_k: 8, repetition_penalty: 1.1, ..SamplingParams::GREEDY };
    for (label, mut device) in devices() {
        let device = device.as_mut();
        let mut three = generator(device, 3);
        let together = sample(device, &mut three, 3, &ids(7), 60, &draw, 11);
        assert_ne!(together[0], together[1], "{label}: rows have seeds of their own");
        let mut one = generator(device, 1);
        for (row, text) in together.iter().enumerate() {
            let alone = sample(device, &mut one, 1, &ids(7), 60, &draw, 11 + row as u32).remove(0);
            let ids = |text: &[Token]| text.iter().map(|token| token.id).collect::<Vec<_>>();
            assert_eq!(ids(text), ids(&alone), "{label}: row {row}");
        }
    }
}

#[test]
fn a_row_that_has_ended_stays_silent_and_generation_ends_with_the_last_row() {
    let mut device = Gpu::open("auto").unwrap();
    let mut generator = generator(&mut device, 2);
    let mut taken = [0, 0];
    let mut take = |row: usize, _| {
        taken[row] += 1;
        Ok(taken[row] < [3, 7][row])
    };
    generator.sample(&mut device, &[1, 2], 1000, &SamplingParams::GREEDY, 0, &mut take).unwrap();
    assert_eq!(taken, [3, 7]);
}

#[test]
fn the_loop_allocates_and_compiles_nothing() {
    let mut device = Gpu::open("auto").unwrap();
    let mut generator = generator(&mut device, 2);
    let draw = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    sample(&mut device, &mut generator, 2, &ids(9), 60, &draw, 1);
    let before = device.created();
    sample(&mut device, &mut generator, 2, &ids(9), 60, &draw, 2);
    assert_eq!(device.created(), before);
}

/// How often each token is drawn from `logits` in one way, over `draws` positions and rows.
fn counts(device: &mut dyn Executor, params: &SamplingParams, logits: &[f32], draws: usize) -> Vec<f64> {
    let (rows, v) = (64, logits.len());
    let mut g = Graph::new();
    let x = g.input("logits", Shape::f32(&[rows, v]));
    let seen = g.state_u32("seen", &[rows, seen_words(v)]);
    let ids = g.state_u32("ids", &[rows, 1]);
    let report = g.state("report", &[rows, 2]);
    let positions = g.state_u32("positions", &[rows]);
    let seeds = g.state_u32("seeds", &[rows]);
    let how = g.input("params", Shape::f32(&[rows, PARAMS]));
    let op = NextToken { vocabulary: v, context: 1 << 20 };
    g.apply(op, &[x, seen, ids, report, positions, seeds, how]);
    let plan = Plan::new(&g, device.limits()).unwrap();
    let program = device.load(&g, plan).unwrap();
    device.write(program, "logits", bytemuck::cast_slice(&logits.repeat(rows))).unwrap();
    device.write(program, "params", bytemuck::cast_slice(&params.words().repeat(rows))).unwrap();
    let mut counts = vec![0.0; v];
    // Every row has a seed of its own, and its position goes on by itself.
    let words = |values: &[u32]| values.iter().map(|value| f32::from_bits(*value)).collect::<Vec<_>>();
    device.write_state("positions", &words(&vec![0; rows])).unwrap();
    device.write_state("seeds", &words(&(99..99 + rows as u32).collect::<Vec<_>>())).unwrap();
    for _ in 0..draws / rows {
        device.run(program, 0, &Step::default()).unwrap();
        let ids = device.read_state("ids").unwrap();
        ids.iter().for_each(|id| counts[id.to_bits() as usize] += 1.0);
    }
    device.unload(program);
    counts
}

#[test]
fn draws_follow_the_exact_probabilities() {
    let logits: Vec<f32> = (0..23).map(|i| ((i * 7 % 23) as f32 - 11.0) / 5.0).collect();
    let plain = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };
    // Cuts by number, by mass and by the ratio to the largest, made by sorting.
    let cases = [
        (plain, 23),
        (SamplingParams { temperature: 0.5, ..plain }, 23),
        (SamplingParams { top_k: 6, temperature: 1.4, ..plain }, 6),
        (SamplingParams { top_p: 0.5, ..plain }, 0),
        (SamplingParams { min_p: 0.2, ..plain }, 0),
        (SamplingParams { top_k: 12, top_p: 0.8, min_p: 0.15, temperature: 1.2, ..plain }, 0),
    ];
    for (label, mut device) in devices() {
        for (op, size) in &cases {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let p = |i: usize| f64::from(logits[i] / op.temperature).exp();
            order.truncate(if op.top_k > 0 { op.top_k } else { order.len() });
            let total: f64 = order.iter().map(|i| p(*i)).sum();
            let mut mass = 0.0;
            order.retain(|i| {
                let keep = op.top_p == 1.0 || mass < f64::from(op.top_p) * total;
                mass += p(*i);
                keep
            });
            let most = p(order[0]);
            order.retain(|i| p(*i) >= f64::from(op.min_p) * most);
            assert!(*size == 0 || order.len() == *size);
            let total: f64 = order.iter().map(|i| p(*i)).sum();
            let draws = 64 * 150;
            let counts = counts(device.as_mut(), op, &logits, draws);
            let mut chi_squared = 0.0;
            for (i, count) in counts.iter().enumerate() {
                if order.contains(&i) {
                    let expected = draws as f64 * p(i) / total;
                    chi_squared += (count - expected).powi(2) / expected;
                } else {
                    assert!(*count == 0.0, "{label}: {op:?} draws token {i}, which it cuts");
                }
            }
            // Wilson and Hilferty's approximation of the value that one seed in ten thousand passes (3.72 sigma).
            let freedom = (order.len() - 1) as f64;
            let spread = 2.0 / (9.0 * freedom);
            let limit = freedom * (1.0 - spread + 3.72 * spread.sqrt()).powi(3);
            assert!(chi_squared < limit, "{label}: chi-squared {chi_squared} is beyond {limit} for {op:?}");
        }
    }
}

#[test]
fn beams_are_those_of_a_search_over_uncached_logits() {
    let stop_tokens = [3];
    for (penalty, early_stopping, tokens) in
        [(1.0, EarlyStopping::No, 12), (0.0, EarlyStopping::Yes, 60), (2.0, EarlyStopping::Never, 12)]
    {
        let options = BeamOptions {
            beams: 4,
            length_penalty: penalty,
            early_stopping,
            repetition_penalty: 1.0,
            stop_tokens: &stop_tokens,
            stops: None,
            num_return: 4,
        };
        for (label, mut device) in devices() {
            let device = device.as_mut();
            let mut generator = generator(device, 4);
            let uncached = Uncached::new(device);
            let prompt = ids(6);
            let got = generator.beams(device, &prompt, tokens, &options).unwrap();
            // The same search with every logit from a whole forward pass; sliding as documented.
            let mut search = BeamSearch::new(options, tokens);
            let mut texts = vec![prompt.clone(); 4];
            let mut window = prompt.len();
            for _ in 0..tokens {
                let row = |text: &Vec<u32>| {
                    let all = log_softmax(&uncached.logits(&mut *device, text, window));
                    let mut all: Vec<(u32, f32)> = (0..).zip(all.iter().map(|x| *x as f32)).collect();
                    all.sort_by(|a, b| b.1.total_cmp(&a.1));
                    all.truncate(options.candidates());
                    all
                };
                let candidates: Vec<_> = texts.iter().map(row).collect();
                let Next::Continue { ids, parents } = search.advance(&candidates) else { break };
                texts = parents.iter().map(|parent| texts[*parent as usize].clone()).collect();
                texts.iter_mut().zip(ids).for_each(|(text, id)| text.push(id));
                window = if window == CONTEXT { CONTEXT / 2 + 1 } else { window + 1 };
            }
            let want = search.finish();
            assert_eq!(got.len(), want.len(), "{label}");
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(got.ids, want.ids, "{label}: length penalty {penalty}");
                assert!((got.score - want.score).abs() < 1e-4 * want.score.abs(), "{label}: {got:?} {want:?}");
            }
        }
    }
}

const FIXTURES: [&str; 8] = [
    "head_size_4",
    "no_prefix",
    "untied",
    "inner_50_gelu",
    "half",
    "bfloat16_untied",
    "sharded",
    "sharded_half_untied",
];

/// A tensor of a folder that transformers wrote, and what it generated from it.
fn dump<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(folder: &Path, name: &str) -> Vec<T> {
    let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    bytemuck::pod_collect_to_vec(file.tensor(name).unwrap().data())
}

#[test]
fn greedy_text_and_beams_are_those_of_transformers() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2_random");
    let cases = std::fs::read_to_string(fixtures.join("cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&cases).unwrap();
    for name in FIXTURES {
        let (folder, case) = (fixtures.join(name), &cases[name]);
        let config = read_config(&folder).unwrap();
        let weights = Weights::open(&folder, &config).unwrap();
        let prompt_tokens = case["prompt_tokens"].as_u64().unwrap() as usize;
        let ids = dump::<u32>(&folder, "ids");
        let sequences: Vec<&[u32]> = ids.chunks(ids.len() / 2).collect();
        for (label, mut device) in devices() {
            let device = device.as_mut();
            let network = Network::new(config.clone());
            let mut one = Generator::new(device, &network, &weights, config.vocab_size, 1).unwrap();
            let greedy = dump::<u32>(&folder, "greedy");
            for (sequence, want) in sequences.iter().zip(greedy.chunks(greedy.len() / 2)) {
                let text =
                    sample(device, &mut one, 1, &sequence[..prompt_tokens], want.len(), &SamplingParams::GREEDY, 0);
                let got: Vec<u32> = text[0].iter().map(|token| token.id).collect();
                assert_eq!(got, want, "{name}, {label}");
            }
            let mut four = Generator::new(device, &network, &weights, config.vocab_size, 4).unwrap();
            for (n, search) in case["beams"].as_array().unwrap().iter().enumerate() {
                let stop_tokens: Vec<u32> = search["eos_token_id"].as_u64().map(|id| id as u32).into_iter().collect();
                let tokens = search["max_new_tokens"].as_u64().unwrap() as usize;
                let options = BeamOptions {
                    beams: 4,
                    length_penalty: search["length_penalty"].as_f64().unwrap(),
                    early_stopping: match search["early_stopping"].as_bool() {
                        Some(true) => EarlyStopping::Yes,
                        Some(false) => EarlyStopping::No,
                        None => EarlyStopping::Never,
                    },
                    repetition_penalty: 1.0,
                    stop_tokens: &stop_tokens,
                    stops: None,
                    num_return: 4,
                };
                let found = four.beams(device, &sequences[0][..prompt_tokens], tokens, &options).unwrap();
                let want = dump::<i32>(&folder, &format!("beams.{n}"));
                let scores = dump::<f32>(&folder, &format!("beam_scores.{n}"));
                assert_eq!(found.len(), 4, "{name}, {label}");
                for ((found, want), score) in found.iter().zip(want.chunks(tokens)).zip(scores) {
                    let want: Vec<u32> = want.iter().filter(|id| **id >= 0).map(|id| *id as u32).collect();
                    assert_eq!(found.ids, want, "{name}, {label}: search {n}");
                    // f32 sums of 24 log-probabilities of up to -100, whose logits are good to a few 1e-7.
                    let off = (found.score - score).abs();
                    assert!(off < 1e-4 + 2e-6 * score.abs(), "{name}, {label}: {} for {score}", found.score);
                }
            }
        }
    }
}

/// Prompts of different lengths, also longer than the context, with different numbers of tokens, drawn in different ways: more
/// than there are rows.
fn requests() -> Vec<Request> {
    let params = [
        SamplingParams::GREEDY,
        SamplingParams { temperature: 1.0, repetition_penalty: 1.3, ..SamplingParams::GREEDY },
        SamplingParams { temperature: 1.4, top_k: 9, top_p: 0.8, ..SamplingParams::GREEDY },
    ];
    let request = |(n, (prompt, tokens)): (usize, (usize, usize))| Request {
        prompt: ids(prompt).into_iter().map(|id| (id + n as u32) % VOCABULARY as u32).collect(),
        tokens,
        seed: 40 + n as u32,
        params: params[n % 3],
        best: 0,
    };
    let sizes = [(3, 30), (1, 4), (17, 60), (60, 9), (2, 0), (8, 12), (8, 12), (33, 20), (5, 1)];
    sizes.into_iter().enumerate().map(request).collect()
}

/// The request that ends before it has all its tokens, and after how many.
const ENDS: (usize, usize) = (2, 21);

/// The texts of requests, and the numbers of the requests whose tokens came, in the order in which they came.
fn texts(device: &mut dyn Executor, generator: &mut Generator, requests: &[Request]) -> (Vec<Vec<Token>>, Vec<usize>) {
    let (mut texts, mut order) = (vec![vec![]; requests.len()], vec![]);
    let ends = |n: usize, tokens: usize| requests[n].seed == 40 + ENDS.0 as u32 && tokens == ENDS.1;
    let mut take = |n: usize, token: Token| {
        texts[n].push(token);
        order.push(n);
        Ok(!ends(n, texts[n].len()))
    };
    generator.generate(device, &mut requests.iter().cloned(), &mut take).unwrap();
    (texts, order)
}

#[test]
fn a_text_is_the_same_alone_and_in_a_batch_and_the_next_takes_the_row_of_one_that_ends() {
    let requests = requests();
    for (label, mut device) in devices() {
        let device = device.as_mut();
        let mut one = generator(device, 1);
        let mut three = Generator::of_store(device, network(), VOCABULARY, 3).unwrap();
        let (batched, order) = texts(device, &mut three, &requests);
        for (n, (request, batched)) in requests.iter().zip(batched).enumerate() {
            let alone = texts(device, &mut one, std::slice::from_ref(request)).0.remove(0);
            let ids = |text: &[Token]| text.iter().map(|token| token.id).collect::<Vec<_>>();
            assert_eq!(ids(&batched), ids(&alone), "text {n} on {label}");
            assert_eq!(batched.len(), if n == ENDS.0 { ENDS.1 } else { request.tokens }, "text {n} on {label}");
            let probabilities = |text: &[Token]| text.iter().map(|token| token.log_probability).collect::<Vec<_>>();
            // Kernels for other numbers of rows sum in another order.
            check_close("log-probabilities", &probabilities(&batched), &probabilities(&alone), 1e-5, 1e-5).unwrap();
        }
        // The fourth text begins while the first and the third are under way: a row that ends is given away at once.
        let first = |n: usize| order.iter().position(|m| *m == n).unwrap();
        let last = |n: usize| order.iter().rposition(|m| *m == n).unwrap();
        assert!(first(3) > last(1) && first(3) < last(0) && first(3) < last(2), "{label}: {order:?}");
    }
}
