// value_loss: the weighted sum of clipped squared errors of values, in one workgroup. Reference: src/ops/value_loss.rs
//
//   values, old, returns, weights (N)    loss, clipped (1)
// use: reduce value_clip
const N: u32 = 1u;
const THREADS: u32 = 64u;

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> old: array<f32>;
@group(0) @binding(2) var<storage, read> returns: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> clipped: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
    var sums = vec3(0.0); // loss, clipped, counted
    for (var i = thread; i < N; i += THREADS) {
        if weights[i] == 0.0 {
            continue;
        }
        let error = value_error(values[i], old[i], returns[i]);
        let is_clipped = select(0.0, 1.0, error != values[i] - returns[i]);
        sums += vec3(weights[i] * 0.5 * error * error, is_clipped, 1.0);
    }
    for (var i = 0u; i < 3u; i++) {
        sums[i] = workgroup_sum(sums[i], thread);
    }
    if thread == 0u {
        loss[0] = sums.x;
        clipped[0] = sums.y / max(sums.z, 1.0);
    }
}
