// attention_backward_query_registers: dq, and delta = rowsum(dy * y), without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(SCALE q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = SCALE ds k
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y, dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dq as q; where q, k and v are side by side, the q part of them all
//
// A workgroup is one subgroup. A lane owns ROWS queries: q, dy and dq are in registers. Keys pass LANES at a time, one in each
// lane, which reads it once; the others get its values by shuffles. Writes the q part of dqkv; the other two come from
// attention_backward_key. Reference: src/ops/attention_backward.rs
// use: index attention
const ROWS: u32 = 2u;

// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;
const GROUPS: u32 = LANES / 4u;
const BQ: u32 = LANES * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dq_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= ENTRIES * NH * BLOCKS {
        return;
    }
    let head = tile / BLOCKS;
    let i0 = tile % BLOCKS * BQ;
    let at = head / NH * TQ * Q_ROW + head % NH * HV;
    let kv_at = head / NH * TK * KV_ROW + K_COLUMN + head % NH / (NH / KVH) * HV;
    let y_at = head / NH * TQ * CV + head % NH * HV;
    let entry = B_FIRST + head / NH;
    let first_row = (B_FIRST * NH + head) * TQ;
    var i: array<u32, ROWS>;
    var word: array<u32, ROWS>;
    var row_lse: array<f32, ROWS>;
    var row_delta: array<f32, ROWS>;
    var q: array<array<vec4<f32>, HV>, ROWS>;
    var d: array<array<vec4<f32>, HV>, ROWS>;
    var dq: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        i[r] = min(i0 + LANES * r + lane, TQ - 1u);
        word[r] = mask_word(entry, i[r]);
        row_lse[r] = lse[first_row + i[r]];
        for (var x = 0u; x < HV; x++) {
            q[r][x] = vec4<f32>(q_quad(at + i[r] * Q_ROW + x)) * SCALE;
            d[r][x] = vec4<f32>(dy[y_at + i[r] * CV + x]);
            row_delta[r] += dot(d[r][x], vec4<f32>(y[y_at + i[r] * CV + x]));
        }
    }
    let end = keys_end(entry, i0 + BQ);
    for (var j0 = first_key(entry, i0) / LANES * LANES; j0 < end; j0 += LANES) {
        // This lane's key. Past the end the last one repeats; the mask covers those.
        let own = kv_at + min(j0 + lane, TK - 1u) * KV_ROW;
        var k_quads: array<vec4<f32>, HV>;
        var s: array<array<vec4<f32>, GROUPS>, ROWS>;
        var ds: array<array<vec4<f32>, GROUPS>, ROWS>;
        for (var x = 0u; x < HV; x++) {
            k_quads[x] = vec4<f32>(kv_quad(own + x));
            let v_quad = vec4<f32>(kv_quad(own + KV + x));
            for (var n = 0u; n < LANES; n++) {
                let k = subgroupShuffle(k_quads[x], n);
                let v = subgroupShuffle(v_quad, n);
                for (var r = 0u; r < ROWS; r++) {
                    s[r][n / 4u][n % 4u] += dot(q[r][x], k);
                    ds[r][n / 4u][n % 4u] += dot(d[r][x], v);
                }
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            for (var g = 0u; g < GROUPS; g++) {
                let j = j0 + 4u * g + vec4<u32>(0u, 1u, 2u, 3u);
                if DROPOUT {
                    ds[r][g] *= keep((first_row + i[r]) * TK + j, KEEP_SCALE);
                }
                let seen = sees(vec4<u32>(word[r]), vec4<u32>(i[r]), j);
                let score = biased(s[r][g], entry * NH + head % NH, vec4<u32>(i[r]), j);
                ds[r][g] = exp(select(vec4<f32>(MASKED), score - row_lse[r], seen)) * (ds[r][g] - row_delta[r]);
            }
        }
        for (var x = 0u; x < HV; x++) {
            for (var n = 0u; n < LANES; n++) {
                let k = subgroupShuffle(k_quads[x], n);
                for (var r = 0u; r < ROWS; r++) {
                    dq[r][x] += k * ds[r][n / 4u][n % 4u];
                }
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if i0 + LANES * r + lane < TQ {
            for (var x = 0u; x < HV; x++) {
                dq_rows[at + i[r] * Q_ROW + x] = vec4<X_TYPE>(dq[r][x] * SCALE);
            }
            delta[first_row + i[r]] = row_delta[r];
        }
    }
}
