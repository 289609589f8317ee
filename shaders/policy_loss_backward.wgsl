// policy_loss_backward: the gradient of each log-probability, a thread per element. Reference: src/ops/policy_loss.rs
//
//   log_probs, old, references, advantages, weights, dx (LEN)    dloss (1)
// use: index policy_ratio
const LEN: u32 = 256u;
const BETA: f32 = 0.0;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> old: array<f32>;
@group(0) @binding(2) var<storage, read> references: array<f32>;
@group(0) @binding(3) var<storage, read> advantages: array<f32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read> dloss: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    if weights[i] == 0.0 {
        dx[i] = 0.0;
        return;
    }
    let ratio = exp(log_probs[i] - old[i]);
    let of_gain = select(advantages[i] * ratio, 0.0, is_clipped(ratio, advantages[i]));
    // The ratio times the divergence has its own derivative, and the ratio's.
    let of_divergence = -ratio * (references[i] - log_probs[i]);
    dx[i] = weights[i] * dloss[0] * (BETA * of_divergence - of_gain);
}
