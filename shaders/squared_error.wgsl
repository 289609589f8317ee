// squared_error: loss = sum of weight * (x - target)^2 / sum of weights, in one workgroup. Reference: src/ops/squared_error.rs
//
//   x, targets, weights (ROWS)    loss (1)    total (1): the weights' sum
// use: reduce
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var weight = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        let by = x[row] - targets[row];
        sum += weights[row] * by * by;
        weight += weights[row];
    }
    sum = workgroup_sum(sum, thread);
    weight = workgroup_sum(weight, thread);
    if thread == 0u {
        loss[0] = sum / max(weight, 1e-20);
        total[0] = weight;
    }
}
