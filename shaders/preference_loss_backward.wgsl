// preference_loss_backward: the gradient of both log-probabilities of a pair, a thread per pair.
//
//   log_probs, references, dx (2 LEN)    weights (LEN)    total, dloss (1)
//
// Reference: src/ops/preference_loss.rs
// use: index pair_loss
const LEN: u32 = 256u;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> references: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> total: array<f32>;
@group(0) @binding(4) var<storage, read> dloss: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let pair = workgroup_index(id, count) * 256u + thread;
    if pair < LEN {
        let c = log_probs[2u * pair] - references[2u * pair];
        let r = log_probs[2u * pair + 1u] - references[2u * pair + 1u];
        let d = weights[pair] * pair_gradient(c - r) * dloss[0] / max(total[0], 1e-20);
        dx[2u * pair] = d;
        dx[2u * pair + 1u] = -d;
    }
}
