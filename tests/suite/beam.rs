//! Beam search against an exhaustive search, and against what transformers found on the same tables.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::Deserialize;
use wgpt::generate::beam::{BeamOptions, BeamSearch, EarlyStopping, Hypothesis, Next};

/// Log-probabilities (V, V) of the next token by the last one.
type Table = Vec<Vec<f32>>;

const STOPPINGS: [EarlyStopping; 3] = [EarlyStopping::Yes, EarlyStopping::No, EarlyStopping::Never];

fn options(beams: usize, stop_tokens: &[u32]) -> BeamOptions<'_> {
    BeamOptions {
        beams,
        length_penalty: 1.0,
        early_stopping: EarlyStopping::Never,
        repetition_penalty: 1.0,
        stop_tokens,
        stops: None,
        num_return: beams,
    }
}

/// The best next tokens, as the device hands them over.
fn candidates(table: &Table, last: u32, count: usize) -> Vec<(u32, f32)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(table[last as usize].iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}

/// Runs a search to its end; also the number of its steps.
fn search(table: &Table, prompt: u32, tokens: usize, options: &BeamOptions) -> (Vec<Hypothesis>, usize) {
    let mut search = BeamSearch::new(*options, tokens);
    let mut rows = vec![prompt; options.beams];
    for step in 1.. {
        let all: Vec<_> = rows.iter().map(|last| candidates(table, *last, options.candidates())).collect();
        match search.advance(&all) {
            Next::Done => return (search.finish(), step),
            Next::Continue { ids, parents } => {
                assert!(step < tokens, "no more than {tokens} tokens are drawn");
                assert_eq!((ids.len(), parents.len()), (options.beams, options.beams));
                assert!(parents.iter().all(|p| (*p as usize) < options.beams));
                rows = ids;
            }
        }
    }
    unreachable!("the search ends")
}

fn random_table(rng: &mut Pcg64, vocabulary: usize) -> Table {
    let row = |rng: &mut Pcg64| {
        let weights: Vec<f64> = (0..vocabulary).map(|_| rng.random_range(0.05..1.0)).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| (w / total).ln() as f32).collect()
    };
    (0..vocabulary).map(|_| row(rng)).collect()
}

/// Every text of up to `tokens` tokens that ends with token 0 or has `tokens` of them, with the sum of its log-probabilities.
fn every_text(table: &Table, prompt: u32, tokens: usize) -> Vec<(Vec<u32>, f64)> {
    let (mut open, mut complete) = (vec![(vec![], 0.0)], vec![]);
    while let Some((ids, sum)) = open.pop() {
        let last = ids.last().copied().unwrap_or(prompt);
        for (id, log_probability) in (0..).zip(&table[last as usize]) {
            let longer: Vec<u32> = ids.iter().copied().chain([id]).collect();
            let is_complete = id == 0 || longer.len() == tokens;
            let text = (longer, sum + f64::from(*log_probability));
            if is_complete { complete.push(text) } else { open.push(text) }
        }
    }
    complete
}

#[test]
fn with_a_beam_for_every_prefix_the_search_is_exhaustive() {
    let mut rng = Pcg64::seed_from_u64(7);
    for round in 0..60 {
        let table = random_table(&mut rng, 3);
        let tokens = 1 + round % 4;
        // 15 texts of up to four tokens end with token 0, and 16 do not: 31 at most, so all of them are kept.
        let options = BeamOptions { length_penalty: [-0.5, 0.0, 1.0, 1.7][round / 4 % 4], ..options(32, &[0]) };
        let (found, _) = search(&table, 1, tokens, &options);
        let mut every = every_text(&table, 1, tokens);
        let score = |(ids, sum): &(Vec<u32>, f64)| sum / (ids.len() as f64).powf(options.length_penalty);
        every.sort_by(|a, b| score(b).total_cmp(&score(a)));
        assert_eq!(found.len(), every.len());
        for (got, want) in found.iter().zip(&every) {
            // Sums of at most four f32 of size 3, divided: 1e-6 is eight roundings.
            assert!((f64::from(got.score) - score(want)).abs() < 1e-6 * score(want).abs(), "{got:?}, not {want:?}");
            assert_eq!(got.finished, got.ids.last() == Some(&0));
            let sum: f32 = got.log_probabilities.iter().sum();
            assert_eq!(got.log_probabilities.len(), got.ids.len());
            assert!((f64::from(sum) - want.1).abs() < 1e-5, "the parts make the sum");
        }
        assert_eq!(found[0].ids, every[0].0, "the best text");
    }
}

/// One beam that never stops early is a greedy search.
#[test]
fn one_beam_takes_the_likeliest_token_each_time() {
    let mut rng = Pcg64::seed_from_u64(8);
    for _ in 0..20 {
        let table = random_table(&mut rng, 9);
        let (found, steps) = search(&table, 4, 12, &options(1, &[]));
        let mut last = 4;
        for id in &found[0].ids {
            assert_eq!(*id, candidates(&table, last, 1)[0].0);
            last = *id;
        }
        assert_eq!((found.len(), found[0].ids.len(), steps), (1, 12, 12));
    }
}

#[derive(Deserialize)]
struct Fixture {
    prompt: u32,
    tables: Vec<Table>,
    cases: Vec<Case>,
}

#[derive(Deserialize, Debug)]
struct Case {
    table: usize,
    beams: usize,
    length_penalty: f64,
    early_stopping: serde_json::Value,
    stop_tokens: Vec<u32>,
    stop_pair: Option<[u32; 2]>,
    tokens: usize,
    ids: Vec<Vec<u32>>,
    scores: Vec<f32>,
}

#[test]
fn transformers_finds_the_same_texts_and_scores() {
    let fixture: Fixture = serde_json::from_str(include_str!("../fixtures/beam_search.json")).unwrap();
    let (mut endings, mut pairs) = (0, 0);
    for case in &fixture.cases {
        let ends = |ids: &[u32]| case.stop_pair.is_some_and(|pair| ids.ends_with(&pair));
        let early_stopping = match &case.early_stopping {
            serde_json::Value::Bool(true) => EarlyStopping::Yes,
            serde_json::Value::Bool(false) => EarlyStopping::No,
            _ => EarlyStopping::Never,
        };
        let options = BeamOptions {
            length_penalty: case.length_penalty,
            early_stopping,
            stops: Some(&ends),
            ..options(case.beams, &case.stop_tokens)
        };
        let (found, _) = search(&fixture.tables[case.table], fixture.prompt, case.tokens, &options);
        let ids: Vec<&[u32]> = found.iter().map(|text| text.ids.as_slice()).collect();
        assert_eq!(ids, case.ids, "{case:?}");
        for (got, want) in found.iter().zip(&case.scores) {
            // The same f32 sums; a vectorised division may round the last bit another way.
            assert!((got.score - want).abs() <= 2.0 * f32::EPSILON * want.abs(), "{} not {want}: {case:?}", got.score);
        }
        endings += found.iter().filter(|text| case.stop_tokens.contains(text.ids.last().unwrap())).count();
        pairs += found.iter().filter(|text| ends(&text.ids)).count();
    }
    assert!(endings >= 20 && pairs >= 10, "the cases end in many ways: {endings} with a token, {pairs} with a pair");
}

/// Where a stop token is likely, the three settings stop the search at different times, from early to late.
#[test]
fn early_stopping_orders_the_lengths_of_the_search() {
    let mut rng = Pcg64::seed_from_u64(9);
    let mut total = [0; 3];
    for _ in 0..40 {
        let table = random_table(&mut rng, 8);
        let steps = STOPPINGS.map(|early_stopping| {
            let options = BeamOptions { early_stopping, ..options(3, &[0]) };
            search(&table, 1, 40, &options).1
        });
        assert!(steps[0] <= steps[1] && steps[1] <= steps[2], "{steps:?}");
        total = std::array::from_fn(|i| total[i] + steps[i]);
    }
    assert!(total[0] < total[1] && total[1] < total[2], "{total:?}");
}

#[test]
fn equal_sums_go_to_the_lower_beam_and_id() {
    let table = vec![vec![(0.25f32).ln(); 4]; 4];
    let (found, _) = search(&table, 0, 3, &options(3, &[]));
    let ids: Vec<Vec<u32>> = found.into_iter().map(|text| text.ids).collect();
    assert_eq!(ids, [[0, 0, 0], [0, 0, 1], [0, 0, 2]]);
}

#[test]
fn too_small_a_vocabulary_gives_the_texts_there_are() {
    let table = vec![vec![(0.5f32).ln(); 2]; 2];
    let (found, steps) = search(&table, 0, 2, &options(6, &[]));
    assert_eq!((found.len(), steps), (4, 2), "two tokens make four texts of two");
    // Both tokens end a text: after one step there is nothing to go on with.
    let (found, steps) = search(&table, 0, 9, &options(6, &[0, 1]));
    assert_eq!((found.len(), steps), (2, 1));
    assert!(found.iter().all(|text| text.finished && text.ids.len() == 1));
}

/// A broken model gives no numbers; what was found before is returned.
#[test]
fn values_that_are_not_finite_are_passed_over() {
    let mut search = BeamSearch::new(options(2, &[]), 9);
    let next = search.advance(&[vec![(3, -1.0), (1, f32::NAN), (2, f32::NEG_INFINITY)], vec![]]);
    assert_eq!(next, Next::Continue { ids: vec![3, 3], parents: vec![0, 0] });
    assert_eq!(search.advance(&[vec![(0, f32::NAN)], vec![(0, -1.0)]]), Next::Done);
    let found = search.finish();
    assert_eq!(found, [Hypothesis { ids: vec![3], log_probabilities: vec![-1.0], score: -1.0, finished: false }]);
}

#[test]
fn as_many_texts_come_back_as_were_asked_for() {
    let table = random_table(&mut Pcg64::seed_from_u64(3), 6);
    let (all, _) = search(&table, 2, 5, &options(4, &[0]));
    let (some, _) = search(&table, 2, 5, &BeamOptions { num_return: 2, ..options(4, &[0]) });
    assert_eq!((all.len(), &all[..2]), (4, &some[..]));
    assert!(all.windows(2).all(|pair| pair[0].score >= pair[1].score), "best first");
    assert!(BeamSearch::new(options(2, &[]), 5).finish().is_empty(), "no step, no text");
}
