// token_log_prob_backward: logits <- (onehot(target) - exp(logits - lse)) * the row's gradient, in place; 0 where ignored.
//
//   logits (ROWS, V)    targets (ROWS) u32, 2^32 - 1 to ignore    lse (ROWS): log-sum-exp of each row
//
// One workgroup per row. The row's gradient is given, or that of a mean. Reference: src/ops/token_log_prob.rs
// use: index row_gradient
const ROWS: u32 = 1u;
const V: u32 = 64u;
const THREADS: u32 = 64u;

// Element type of the logits.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read_write> logits: array<X_TYPE>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;

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
    let target_id = targets[row];
    let total = lse[row];
    let scale = select(row_gradient(row), 0.0, target_id == 0xffffffffu);
    for (var i = thread; i < V; i += THREADS) {
        let p = exp(f32(logits[row * V + i]) - total);
        logits[row * V + i] = X_TYPE((select(0.0, 1.0, i == target_id) - p) * scale);
    }
}
