// kto_loss: the weighted mean loss of completions that are desirable or not, in one workgroup. Reference: src/ops/kto_loss.rs
//
//   log_probs, mismatched, labels, rewards (ROWS)    references (2, ROWS): own, mismatched
//   loss, kl, count (1)
// use: reduce silu
const ROWS: u32 = 1u;
const THREADS: u32 = 64u;
const BETA: f32 = 1.0;
const DESIRABLE: f32 = 1.0;
const UNDESIRABLE: f32 = 1.0;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> mismatched: array<f32>;
@group(0) @binding(2) var<storage, read> references: array<f32>;
@group(0) @binding(3) var<storage, read> labels: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> kl: array<f32>;
@group(0) @binding(6) var<storage, read_write> rewards: array<f32>;
@group(0) @binding(7) var<storage, read_write> count: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var rows = 0.0;
    var sum = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        rows += abs(labels[row]);
        sum += abs(labels[row]) * (mismatched[row] - references[ROWS + row]);
    }
    rows = max(workgroup_sum(rows, thread), 1.0);
    let z = max(workgroup_sum(sum, thread) / rows, 0.0);
    var losses = 0.0;
    for (var row = thread; row < ROWS; row += THREADS) {
        let label = labels[row];
        let ratio = log_probs[row] - references[row];
        losses += abs(label) * select(UNDESIRABLE, DESIRABLE, label > 0.0) * sigmoid(-label * BETA * (ratio - z));
        rewards[row] = BETA * ratio;
    }
    losses = workgroup_sum(losses, thread);
    if thread == 0u {
        loss[0] = losses / rows;
        kl[0] = z;
        count[0] = rows;
    }
}
