// cross_entropy_backward: logits <- (exp(logits - log-sum-exp) - onehot(target)) * dloss / count, in place; 0 where ignored.
//
//   logits (ROWS, V)    targets (ROWS) u32    rows (ROWS, 2): log-sum-exp and loss    counted, dloss (1)
//
// One workgroup per row. Reference: src/ops/cross_entropy.rs
// use: index
const ROWS: u32 = 1u;
const V: u32 = 64u;
const THREADS: u32 = 64u;

// Element type of the logits.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read> counted: array<f32>;
@group(0) @binding(3) var<storage, read> dloss: array<f32>;
@group(0) @binding(4) var<storage, read_write> logits: array<X_TYPE>;

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
    let lse = rows[2u * row];
    let scale = select(dloss[0] / max(counted[0], 1.0), 0.0, target_id == 0xffffffffu);
    for (var i = thread; i < V; i += THREADS) {
        let p = exp(f32(logits[row * V + i]) - lse);
        logits[row * V + i] = X_TYPE((p - select(0.0, 1.0, i == target_id)) * scale);
    }
}
