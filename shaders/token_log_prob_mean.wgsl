// token_log_prob_mean: loss = -sum of weight * log-probability / total, total = sum of the rows' weights, in one workgroup.
//
//   log_probs (ROWS)    loss (1)    total (1)
//
// Reference: src/ops/cross_entropy.rs, src/ops/class_loss.rs
// use: reduce row_weight_counted
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read_write> loss: array<f32>;
@group(0) @binding(2) var<storage, read_write> total: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var weight = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        let own = row_weight(row);
        sum -= own * log_probs[row];
        weight += own;
    }
    sum = workgroup_sum(sum, thread);
    weight = workgroup_sum(weight, thread);
    if thread == 0u {
        loss[0] = sum / max(weight, LEAST_WEIGHT);
        total[0] = weight;
    }
}
