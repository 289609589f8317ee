// token_scores: scores[r] = (logits[r, token] - log-sum-exp(logits[r]), tokens before it), one workgroup per row.
//
//   logits (ROWS, V)    tokens (ROWS) u32, 2^32 - 1 for a row of zeros    scores (ROWS, 2)
//
// Before a token come those with a larger logit, or the same and a smaller id. Reference: src/ops/token_scores.rs
// use: index reduce
const ROWS: u32 = 1u;
const V: u32 = 64u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> scores: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count);
    if row >= ROWS {
        return;
    }
    let token = tokens[row];
    let own = logits[row * V + min(token, V - 1u)];
    var largest = -1e30;
    var before = 0.0;
    var broken = 0.0;
    for (var i = thread; i < V; i += THREADS) {
        let x = logits[row * V + i];
        largest = max(largest, x);
        broken = select(broken, 1.0, (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u);
        before += select(0.0, 1.0, x > own || (x == own && i < token));
    }
    largest = workgroup_max(largest, thread);
    var sum = 0.0;
    for (var i = thread; i < V; i += THREADS) {
        sum += exp(logits[row * V + i] - largest);
    }
    sum = workgroup_sum(sum, thread);
    before = workgroup_sum(before, thread);
    broken = workgroup_max(broken, thread);
    if thread == 0u {
        let known = token < V;
        let bits = bitcast<u32>(own - largest - log(sum));
        // Of a row with something that is not finite nothing may be told.
        scores[2u * row] = select(0.0, bitcast<f32>(select(bits, 0x7fc00000u, broken > 0.0)), known);
        scores[2u * row + 1u] = select(0.0, before, known);
    }
}
