// class_loss: loss = sum of weight * (log-sum-exp(scores) - scores[target]) over the rows / sum of weights, in one workgroup.
//
//   scores (ROWS, CLASSES)    targets (ROWS) u32    weights (ROWS)    loss (1)    lse (ROWS)    total (1): the weights' sum
//
// A thread per row: classes are few. Reference: src/ops/class_loss.rs
// use: reduce
const ROWS: u32 = 1u;
const CLASSES: u32 = 2u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> scores: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var weight = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        let first = row * CLASSES;
        var largest = scores[first];
        for (var i = 1u; i < CLASSES; i++) {
            largest = max(largest, scores[first + i]);
        }
        var exponentials = 0.0;
        for (var i = 0u; i < CLASSES; i++) {
            exponentials += exp(scores[first + i] - largest);
        }
        lse[row] = largest + log(exponentials);
        sum += weights[row] * (lse[row] - scores[first + targets[row]]);
        weight += weights[row];
    }
    sum = workgroup_sum(sum, thread);
    weight = workgroup_sum(weight, thread);
    if thread == 0u {
        loss[0] = sum / max(weight, 1e-20);
        total[0] = weight;
    }
}
