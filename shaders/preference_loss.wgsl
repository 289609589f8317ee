// preference_loss: the weighted mean loss of pairs, in one workgroup. Reference: src/ops/preference_loss.rs
//
//   log_probs, references (2 PAIRS): chosen, rejected    weights (PAIRS)
//   loss, total, chosen, rejected, accuracy (1)
// use: reduce pair_loss
const PAIRS: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> log_probs: array<f32>;
@group(0) @binding(1) var<storage, read> references: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> total: array<f32>;
@group(0) @binding(5) var<storage, read_write> chosen: array<f32>;
@group(0) @binding(6) var<storage, read_write> rejected: array<f32>;
@group(0) @binding(7) var<storage, read_write> accuracy: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sums = vec4(0.0); // loss, chosen, rejected, accuracy
    var weight = 0.0;
    for (var pair = thread; pair < PAIRS; pair += THREADS) {
        let c = log_probs[2u * pair] - references[2u * pair];
        let r = log_probs[2u * pair + 1u] - references[2u * pair + 1u];
        let is_right = select(0.0, 1.0, c - r > 0.0);
        sums += weights[pair] * vec4(pair_loss(c - r), BETA * c, BETA * r, is_right);
        weight += weights[pair];
    }
    for (var i = 0u; i < 4u; i++) {
        sums[i] = workgroup_sum(sums[i], thread);
    }
    weight = workgroup_sum(weight, thread);
    if thread == 0u {
        let means = sums / max(weight, 1e-20);
        loss[0] = means.x;
        total[0] = weight;
        chosen[0] = means.y;
        rejected[0] = means.z;
        accuracy[0] = means.w;
    }
}
