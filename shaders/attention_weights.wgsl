// attention_weights: softmax(mask(SCALE q k^T + bias)) of each head, from the log-sum-exp that attention keeps; a thread for four
// keys of a query.
//
//   q (B, TQ, C);  k (B, TK, KVC): with q or with v side by side;  lse (B, NH, TQ);  weights (B, NH, TQ, TK)
//
// Reference: src/ops/attention_weights.rs
// use: index attention
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

const QUADS: u32 = (TK + 3u) / 4u;
const THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let n = workgroup_index(id, count) * THREADS + thread;
    if n >= ENTRIES * NH * TQ * QUADS {
        return;
    }
    let row = n / QUADS; // of (ENTRIES, NH, TQ)
    let i = row % TQ;
    let head = row / TQ;
    let j = n % QUADS * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    let q_at = head / NH * TQ * Q_ROW + head % NH * HV + i * Q_ROW;
    let kv_at = head / NH * TK * KV_ROW + K_COLUMN + head % NH / (NH / KVH) * HV;
    var scores: vec4<f32>;
    for (var x = 0u; x < HV; x++) {
        let q = vec4<f32>(q_quad(q_at + x)) * SCALE;
        for (var n = 0u; n < 4u; n++) {
            scores[n] += dot(q, vec4<f32>(kv_quad(kv_at + min(j[n], TK - 1u) * KV_ROW + x)));
        }
    }
    let seen = sees(vec4<u32>(mask_word(B_FIRST + head / NH, i)), vec4<u32>(i), j);
    let total = lse[B_FIRST * NH * TQ + row];
    let p = select(vec4<f32>(0.0), exp(biased(scores, head % NH, vec4<u32>(i), j) - total), seen & vec4<bool>(total > MASKED));
    for (var n = 0u; n < 4u; n++) {
        if j[n] < TK {
            weights[row * TK + j[n]] = p[n];
        }
    }
}
