// classifier_mean: loss = WEIGHT * sum of rows' losses / rows that count, in one workgroup. Reference: src/ops/classifier.rs
//
//   losses (ROWS)    counted, loss (1)
// use: reduce
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;
const WEIGHT: f32 = 1.0;

@group(0) @binding(0) var<storage, read> losses: array<f32>;
@group(0) @binding(1) var<storage, read> counted: array<f32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        sum += losses[row];
    }
    sum = workgroup_sum(sum, thread);
    if thread == 0u {
        loss[0] = WEIGHT * sum / max(counted[0], 1.0);
    }
}
