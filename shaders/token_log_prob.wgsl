// token_log_prob: log_probs[r] = logits[r, target] - log-sum-exp(logits[r]), 0 where the target is ignored, and lse[r] =
// log-sum-exp(logits[r]); one workgroup per row.
//
//   logits (ROWS, V)    targets (ROWS) u32, 2^32 - 1 to ignore    log_probs, lse (ROWS)
//
// The maximum first, so that no exponential overflows. Reference: src/ops/token_log_prob.rs
// use: index reduce
const ROWS: u32 = 1u;
const V: u32 = 64u;
const THREADS: u32 = 64u;
// Exponentials that a thread adds up before they go into its sum.
const PART: u32 = 64u;

// Element type of the logits.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> logits: array<X_TYPE>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> log_probs: array<f32>;
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

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
    var largest = -1e30;
    for (var i = thread; i < V; i += THREADS) {
        largest = max(largest, f32(logits[row * V + i]));
    }
    largest = workgroup_max(largest, thread);
    // In parts: thousands of small numbers added to a large sum in order would all round the same way.
    var sum = 0.0;
    for (var first = thread; first < V; first += PART * THREADS) {
        var part = 0.0;
        for (var i = first; i < min(V, first + PART * THREADS); i += THREADS) {
            part += exp(f32(logits[row * V + i]) - largest);
        }
        sum += part;
    }
    let total = largest + log(workgroup_sum(sum, thread));
    if thread == 0u {
        let target_id = targets[row];
        lse[row] = total;
        if target_id == 0xffffffffu {
            log_probs[row] = 0.0;
        } else {
            log_probs[row] = f32(logits[row * V + target_id]) - total;
        }
    }
}
