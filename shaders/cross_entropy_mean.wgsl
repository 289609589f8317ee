// cross_entropy_mean: loss = sum of rows' losses / rows that count, in one workgroup. Reference: src/ops/cross_entropy.rs
//
//   targets (ROWS) u32, 2^32 - 1 to ignore    rows (ROWS, 2): log-sum-exp and loss    loss (1)    counted (1)
// use: reduce
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> rows: array<f32>;
@group(0) @binding(2) var<storage, read_write> loss: array<f32>;
@group(0) @binding(3) var<storage, read_write> counted: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sum = 0.0;
    var count = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        sum += rows[2u * row + 1u];
        count += select(1.0, 0.0, targets[row] == 0xffffffffu);
    }
    sum = workgroup_sum(sum, thread);
    count = workgroup_sum(count, thread);
    if thread == 0u {
        loss[0] = sum / max(count, 1.0);
        counted[0] = count;
    }
}
