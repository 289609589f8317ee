// policy_loss: the weighted sum of clipped policy losses, in one workgroup. Reference: src/ops/policy_loss.rs
//
//   log_probs, old, references, advantages, weights (N)    loss, kl, clipped (1)
// use: reduce policy_ratio
const N: u32 = 1u;
const THREADS: u32 = 64u;
const BETA: f32 = 0.0;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> old: array<f32>;
@group(0) @binding(2) var<storage, read> references: array<f32>;
@group(0) @binding(3) var<storage, read> advantages: array<f32>;
@group(0) @binding(4) var<storage, read> weights: array<f32>;
@group(0) @binding(5) var<storage, read_write> loss: array<f32>;
@group(0) @binding(6) var<storage, read_write> kl: array<f32>;
@group(0) @binding(7) var<storage, read_write> clipped: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sums = vec4(0.0); // loss, KL divergence, clipped, counted
    for (var i = thread; i < N; i += THREADS) {
        let weight = weights[i];
        if weight == 0.0 {
            continue;
        }
        let ratio = exp(log_probs[i] - old[i]);
        let gain = advantages[i] * select(ratio, clamp(ratio, LOW, HIGH), is_clipped(ratio, advantages[i]));
        let beyond = references[i] - log_probs[i];
        let divergence = exp(beyond) - beyond - 1.0;
        let out = select(0.0, 1.0, is_clipped(ratio, advantages[i]));
        sums += vec4(weight * (BETA * ratio * divergence - gain), divergence, out, 1.0);
    }
    for (var i = 0u; i < 4u; i++) {
        sums[i] = workgroup_sum(sums[i], thread);
    }
    if thread == 0u {
        let counted = max(sums.w, 1.0);
        loss[0] = sums.x;
        kl[0] = sums.y / counted;
        clipped[0] = sums.z / counted;
    }
}
