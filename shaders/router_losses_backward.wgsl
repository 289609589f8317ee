// router_losses_backward: dlogits = dy * p * (slope - sum of p * slope + 2 * Z / TOKENS * lse), p the softmax of a token's logits;
// a thread per token. Reference: src/ops/router_losses.rs
//
//   logits, dlogits (ROWS, E)    slopes (E)    dy (1)
// use: index
const ROWS: u32 = 64u;
const E: u32 = 8u;
const TOKENS: u32 = 256u;
const Z: f32 = 0.001;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> slopes: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dlogits: array<f32>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, count) * 64u + thread;
    if row >= ROWS {
        return;
    }
    var largest = -3.4e38;
    for (var e = 0u; e < E; e++) {
        largest = max(largest, logits[row * E + e]);
    }
    var sum = 0.0;
    var mean = 0.0;
    for (var e = 0u; e < E; e++) {
        let p = exp(logits[row * E + e] - largest);
        sum += p;
        mean += p * slopes[e];
    }
    let rest = 2.0 * Z / f32(TOKENS) * (largest + log(sum)) - mean / sum;
    for (var e = 0u; e < E; e++) {
        let p = exp(logits[row * E + e] - largest) / sum;
        dlogits[row * E + e] = dy[0] * p * (slopes[e] + rest);
    }
}
