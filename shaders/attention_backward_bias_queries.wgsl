// attention_backward_bias_queries: the gradient of a bias of each query, by head and distance of a key before the query.
//
//   ds = p (keep * (dy v^T) - delta), p = exp(SCALE q k^T + bias - lse); 0 where there is no key at a distance, or it is masked
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dbias (B, TQ, NH, TK)
//
// A thread owns a key, or a place before the first, and four queries that follow one another: it reads the key once, and neighbours
// read the same queries and neighbouring keys. Reference: src/ops/attention_backward.rs
// use: index attention
const THREADS: u32 = 64u;

const QUERIES: u32 = 4u;
const SPANS: u32 = (TQ + QUERIES - 1u) / QUERIES;
// Keys of all distances from one query, and of those from the others.
const PLACES: u32 = TK + QUERIES - 1u;
const BLOCKS: u32 = (PLACES + THREADS - 1u) / THREADS;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(5) var<uniform> step: Step;

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = workgroup_index(id, count);
    let place = block % BLOCKS * THREADS + thread;
    if block >= ENTRIES * SPANS * NH * BLOCKS || place >= PLACES {
        return;
    }
    let head = block / BLOCKS % NH;
    let i0 = block / (BLOCKS * NH) % SPANS * QUERIES;
    let batch = block / (BLOCKS * NH * SPANS);
    let entry = B_FIRST + batch;
    let at = batch * TQ * Q_ROW + head * HV;
    let kv_at = batch * TK * KV_ROW + K_COLUMN + head / (NH / KVH) * HV;
    let dy_at = batch * TQ * CV + head * HV;
    let rows = (entry * NH + head) * TQ;
    // The first place is TK - 1 before the first query's own key, which may be before all keys.
    let has_key = i0 + place >= TQ - 1u;
    let j = i0 + place - select(0u, TQ - 1u, has_key);
    let next = i0 + vec4<u32>(0u, 1u, 2u, 3u);
    let i = min(next, vec4<u32>(TQ - 1u));
    let seen = sees(mask_words(entry, i), i, vec4<u32>(j)) & vec4<bool>(has_key && j < TK);
    var ds = vec4<f32>(0.0);
    if any(seen) {
        var s = vec4<f32>(0.0);
        var dp = vec4<f32>(0.0);
        for (var x = 0u; x < HV; x++) {
            let k = vec4<f32>(kv_quad(kv_at + j * KV_ROW + x));
            let v = vec4<f32>(kv_quad(kv_at + j * KV_ROW + KV + x));
            for (var n = 0u; n < QUERIES; n++) {
                s[n] += dot(vec4<f32>(q_quad(at + i[n] * Q_ROW + x)), k);
                dp[n] += dot(vec4<f32>(dy[dy_at + i[n] * CV + x]), v);
            }
        }
        let row = rows + i;
        if DROPOUT {
            dp *= keep(row * TK + j, KEEP_SCALE);
        }
        let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
        let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
        let score = biased(s * SCALE, entry * NH + head, i, vec4<u32>(j));
        ds = exp(select(vec4<f32>(MASKED), score - row_lse, seen)) * (dp - row_delta);
    }
    for (var n = 0u; n < QUERIES; n++) {
        // Query i0 + n is at distance TK - 1 - (place - n).
        if next[n] < TQ && place >= n && place - n < TK {
            dbias[((entry * TQ + next[n]) * NH + head) * TK + TK - 1u - (place - n)] = ds[n];
        }
    }
}
