// kto_loss_backward: the gradient of the log-probabilities of completions, a thread per row.
//
//   log_probs, labels, dx (LEN)    references (2, LEN), of which the first row is read    kl, count, dloss (1)
//
// Reference: src/ops/kto_loss.rs
// use: index silu
const LEN: u32 = 256u;
const BETA: f32 = 1.0;
const DESIRABLE: f32 = 1.0;
const UNDESIRABLE: f32 = 1.0;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> references: array<f32>;
@group(0) @binding(2) var<storage, read> labels: array<f32>;
@group(0) @binding(3) var<storage, read> kl: array<f32>;
@group(0) @binding(4) var<storage, read> count: array<f32>;
@group(0) @binding(5) var<storage, read> dloss: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(id, workgroups) * 256u + thread;
    if row < LEN {
        let label = labels[row];
        let weight = abs(label) * select(UNDESIRABLE, DESIRABLE, label > 0.0);
        let x = label * BETA * (log_probs[row] - references[row] - kl[0]);
        dx[row] = -label * weight * BETA * sigmoid(x) * sigmoid(-x) * dloss[0] / count[0];
    }
}
