// attention_backward_bias: the gradient of a bias by head and distance, of each batch entry and span of queries by itself.
//
//   ds = p (keep * (dy v^T) - delta), p = exp(SCALE q k^T + bias - lse), summed over pairs of one distance
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   parts (B * SPANS, NH, DISTANCES), added by column_sum_final in order
//
// A thread owns a distance, a diagonal of the scores, of one head, and goes along it four queries at a time: neighbours read the
// same queries and neighbouring keys. Reference: src/ops/attention_backward.rs
// use: index attention
const THREADS: u32 = 64u;
const SPAN: u32 = 256u;

const SPANS: u32 = (TQ + SPAN - 1u) / SPAN;
const BLOCKS: u32 = (DISTANCES + THREADS - 1u) / THREADS;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;
@group(0) @binding(5) var<uniform> step: Step;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(id, count);
    let distance = block % BLOCKS * THREADS + thread;
    if block >= ENTRIES * SPANS * NH * BLOCKS || distance >= DISTANCES {
        return;
    }
    let head = block / BLOCKS % NH;
    let span = block / (BLOCKS * NH) % SPANS;
    let batch = block / (BLOCKS * NH * SPANS);
    let entry = B_FIRST + batch;
    let at = batch * TQ * Q_ROW + head * HV;
    let kv_at = batch * TK * KV_ROW + K_COLUMN + head / (NH / KVH) * HV;
    let dy_at = batch * TQ * CV + head * HV;
    let rows = (entry * NH + head) * TQ;
    // Query i meets key i + distance - (TQ - 1), where there is one.
    let first = max(span * SPAN, TQ - 1u - min(distance, TQ - 1u));
    let end = min(min((span + 1u) * SPAN, TQ), DISTANCES - distance);
    var sum = vec4<f32>(0.0);
    for (var i0 = first; i0 < end; i0 += 4u) {
        let next = i0 + vec4<u32>(0u, 1u, 2u, 3u);
        let i = min(next, vec4<u32>(end - 1u));
        let j = i + distance - (TQ - 1u);
        let seen = sees(mask_words(entry, i), i, j) & (next < vec4<u32>(end));
        if any(seen) {
            var s = vec4<f32>(0.0);
            var dp = vec4<f32>(0.0);
            for (var n = 0u; n < 4u; n++) {
                for (var x = 0u; x < HV; x++) {
                    let k_at = kv_at + j[n] * KV_ROW + x;
                    s[n] += dot(vec4<f32>(q_quad(at + i[n] * Q_ROW + x)), vec4<f32>(kv_quad(k_at)));
                    dp[n] += dot(vec4<f32>(dy[dy_at + i[n] * CV + x]), vec4<f32>(kv_quad(k_at + KV)));
                }
            }
            if DROPOUT {
                dp *= keep((rows + i) * TK + j, KEEP_SCALE);
            }
            let row = rows + i;
            let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            let score = biased(s * SCALE, entry * NH + head, i, j);
            sum += exp(select(vec4<f32>(MASKED), score - row_lse, seen)) * (dp - row_delta);
        }
    }
    parts[((entry * SPANS + span) * NH + head) * DISTANCES + distance] = sum.x + sum.y + sum.z + sum.w;
}
