// next_token: each row's next token, drawn from softmax(logits / temperature) cut by top-k, top-p and min-p; a workgroup per
// row. Reference: src/ops/next_token.rs
//
//   logits (B, COLUMNS), of which V count    ids (B): the token fed last, replaced by the next    report (B, 2): id, log p
//   positions (B): of the token fed last, replaced by the next one's    seeds (B)
//   params (B, 5): temperature, top-k, top-p, min-p, repetition penalty
//
// No sort: a token is kept if the number (top-k) or the mass (top-p) of the tokens above it is below a target, and the lowest
// logit for which that holds is found four bits at a time, from counts over the whole row.
// use: index random logit seen
const COLUMNS: u32 = 64u;
const V: u32 = 64u;
// Positions stay below it.
const CONTEXT: u32 = 64u;
const THREADS: u32 = 64u;
const WORDS: u32 = 2u;

const SALT: u32 = 0x746f6b65u;
const DIGITS: u32 = 15u;

@group(0) @binding(2) var<storage, read_write> ids: array<u32>;
@group(0) @binding(3) var<storage, read_write> report: array<u32>;
@group(0) @binding(4) var<storage, read_write> positions: array<u32>;
@group(0) @binding(5) var<storage, read> seeds: array<u32>;
@group(0) @binding(6) var<storage, read> params: array<f32>;

// How a row's token is drawn.
struct Params {
    // 0 takes the most likely token.
    temperature: f32,
    // 0 keeps all.
    top_k: f32,
    // 1 keeps all.
    top_p: f32,
    min_p: f32,
    penalty: f32,
}

var<workgroup> shares: array<f32, DIGITS * THREADS>;
var<workgroup> totals: array<f32, DIGITS>;

fn params_of(row: u32) -> Params {
    let at = 5u * row;
    return Params(params[at], params[at + 1u], params[at + 2u], params[at + 3u], params[at + 4u]);
}

fn processed(row: u32, i: u32, fed: u32, p: Params) -> f32 {
    let x = penalised(row, i, fed, logit(row, i), p.penalty);
    return select(x / p.temperature, x, p.temperature == 0.0);
}

// Unsigned numbers in the order of the floats.
fn ordered(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// The lowest key such that fewer than `goal` tokens, or less than `goal` of exp(x - most), lie above it.
fn lowest_kept(row: u32, fed: u32, thread: u32, p: Params, most: f32, by_mass: bool, goal: f32) -> u32 {
    var low = 0u;
    for (var turn = 0u; turn < 8u; turn++) {
        let shift = 28u - 4u * turn;
        var above: array<f32, DIGITS>;
        for (var i = thread; i < V; i += THREADS) {
            let x = processed(row, i, fed, p);
            let key = ordered(x);
            let weight = select(1.0, exp(x - most), by_mass);
            for (var d = 0u; d < DIGITS; d++) {
                above[d] += select(0.0, weight, key >= low + ((d + 1u) << shift));
            }
        }
        workgroupBarrier();
        for (var d = 0u; d < DIGITS; d++) {
            shares[d * THREADS + thread] = above[d];
        }
        workgroupBarrier();
        for (var d = thread; d < DIGITS; d += THREADS) {
            var total = 0.0;
            for (var t = 0u; t < THREADS; t++) {
                total += shares[d * THREADS + t];
            }
            totals[d] = total;
        }
        workgroupBarrier();
        var digit = 0u;
        for (var d = 0u; d < DIGITS; d++) {
            digit += select(0u, 1u, totals[d] >= goal);
        }
        low += digit << shift;
    }
    return low;
}

// An exponentially distributed number for a token, exact also where it is small, which decides.
fn exponential(row: u32, i: u32) -> f32 {
    let words = threefry(vec2<u32>(i / 2u, positions[row]), vec2<u32>(seeds[row], SALT));
    let t = (f32(select(words.x, words.y, i % 2u == 1u)) + 0.5) / 4294967296.0;
    return select(-log(1.0 - min(t, 0.9999999)), t + t * t * (0.5 + t * (1.0 / 3.0)), t < 0.01);
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count);
    if row >= arrayLength(&ids) {
        return;
    }
    let fed = ids[row];
    let p = params_of(row);
    let raw = largest_and_sum(row, thread);
    var lowest = 0u;
    var most = 0.0;
    if p.temperature > 0.0 {
        most = LOWEST;
        for (var i = thread; i < V; i += THREADS) {
            most = max(most, processed(row, i, fed, p));
        }
        most = workgroup_max(most, thread);
    }
    if p.temperature > 0.0 && p.top_k > 0.0 {
        lowest = lowest_kept(row, fed, thread, p, most, false, p.top_k);
    }
    if p.temperature > 0.0 && p.top_p < 1.0 {
        var mass = 0.0;
        for (var i = thread; i < V; i += THREADS) {
            let x = processed(row, i, fed, p);
            mass += select(0.0, exp(x - most), ordered(x) >= lowest);
        }
        mass = workgroup_sum(mass, thread);
        lowest = max(lowest, lowest_kept(row, fed, thread, p, most, true, p.top_p * mass));
    }
    // The winner of a race in which token i arrives at a rate of exp(x - most) is drawn from the softmax; without a
    // temperature the largest logit wins.
    var best = V - 1u;
    var highest = -3.4e38;
    for (var i = thread; i < V; i += THREADS) {
        let x = processed(row, i, fed, p);
        var score = x;
        if p.temperature > 0.0 {
            let weight = exp(x - most);
            let kept = ordered(x) >= lowest && weight >= p.min_p;
            score = select(-1.0, weight / exponential(row, i), kept);
        }
        best = select(best, i, score > highest);
        highest = max(highest, score);
    }
    let winner = workgroup_max(highest, thread);
    workgroupBarrier();
    shares[thread] = f32(select(V - 1u, best, highest == winner));
    workgroupBarrier();
    if thread == 0u {
        best = V - 1u;
        for (var t = 0u; t < THREADS; t++) {
            best = min(best, u32(shares[t]));
        }
        let log_probability = logit(row, best) - raw.x - log(raw.y);
        ids[row] = best;
        positions[row] = min(positions[row] + 1u, CONTEXT - 1u);
        report[2u * row] = best;
        report[2u * row + 1u] = told(log_probability, raw.z);
        remember(row, fed);
    }
}
