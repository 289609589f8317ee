// attention_backward_key_registers: dk and dv, without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(SCALE q k^T + bias - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = SCALE ds^T q
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dkv as k and v; where q, k and v are side by side, their parts of them all
//
// A workgroup is one subgroup. A lane owns ROWS keys: k, v, dk and dv are in registers. Queries pass LANES at a time, one in
// each lane, which reads it once; the others get its values by shuffles. They pass from the first one that sees a key of this
// workgroup to the last, one head of queries after the other. Writes the k and v parts of dqkv. Reference:
// src/ops/attention_backward.rs
// use: index attention
const ROWS: u32 = 2u;

// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;
const GROUPS: u32 = LANES / 4u;
const BK: u32 = LANES * ROWS;
const BLOCKS: u32 = (TK + BK - 1u) / BK;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

// One value of each of four lanes.
fn gather(value: f32, first: u32) -> vec4<f32> {
    return vec4<f32>(
        subgroupShuffle(value, first),
        subgroupShuffle(value, first + 1u),
        subgroupShuffle(value, first + 2u),
        subgroupShuffle(value, first + 3u),
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= ENTRIES * KVH * BLOCKS {
        return;
    }
    let kv_head = tile / BLOCKS;
    let j0 = tile % BLOCKS * BK;
    let batch = kv_head / KVH;
    let kv_at = batch * TK * KV_ROW + K_COLUMN + kv_head % KVH * HV;
    var j: array<u32, ROWS>;
    var k: array<array<vec4<f32>, HV>, ROWS>;
    var v: array<array<vec4<f32>, HV>, ROWS>;
    var dk: array<array<vec4<f32>, HV>, ROWS>;
    var dv: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        j[r] = min(j0 + LANES * r + lane, TK - 1u);
        for (var x = 0u; x < HV; x++) {
            k[r][x] = vec4<f32>(kv_quad(kv_at + j[r] * KV_ROW + x)) * SCALE;
            v[r][x] = vec4<f32>(kv_quad(kv_at + j[r] * KV_ROW + KV + x));
        }
    }
    let entry = B_FIRST + batch;
    let begin = first_query(entry, j0);
    let end = queries_end(entry, j0, j0 + BK - 1u);
    // The heads of queries that share these keys, one after the other.
    for (var n = 0u; n < NH / KVH; n++) {
        let head = kv_head % KVH * (NH / KVH) + n;
        let at = batch * TQ * Q_ROW + head * HV;
        let dy_at = batch * TQ * CV + head * HV;
        let first_row = (entry * NH + head) * TQ;
        for (var i0 = begin; i0 < end; i0 += LANES) {
            // This lane's query. Past the end the last one repeats, and is masked.
            let own = min(i0 + lane, TQ - 1u);
            let own_lse = lse[first_row + own];
            let own_delta = delta[first_row + own];
            var q_quads: array<vec4<f32>, HV>;
            var d_quads: array<vec4<f32>, HV>;
            var p: array<array<vec4<f32>, GROUPS>, ROWS>;
            var ds: array<array<vec4<f32>, GROUPS>, ROWS>;
            for (var x = 0u; x < HV; x++) {
                q_quads[x] = vec4<f32>(q_quad(at + own * Q_ROW + x));
                d_quads[x] = vec4<f32>(dy[dy_at + own * CV + x]);
                for (var n = 0u; n < LANES; n++) {
                    let q = subgroupShuffle(q_quads[x], n);
                    let d = subgroupShuffle(d_quads[x], n);
                    for (var r = 0u; r < ROWS; r++) {
                        p[r][n / 4u][n % 4u] += dot(k[r][x], q);
                        ds[r][n / 4u][n % 4u] += dot(v[r][x], d);
                    }
                }
            }
            for (var g = 0u; g < GROUPS; g++) {
                let i = i0 + 4u * g + vec4<u32>(0u, 1u, 2u, 3u);
                let row = first_row + min(i, vec4<u32>(TQ - 1u));
                let word = mask_words(entry, i);
                let row_lse = gather(own_lse, 4u * g);
                let row_delta = gather(own_delta, 4u * g);
                for (var r = 0u; r < ROWS; r++) {
                    let seen = sees(word, i, vec4<u32>(j[r])) & (i < vec4<u32>(TQ));
                    let score = biased(p[r][g], entry * NH + head, i, vec4<u32>(j[r]));
                    let weight = exp(select(vec4<f32>(MASKED), score - row_lse, seen));
                    var kept = vec4<f32>(1.0);
                    if DROPOUT {
                        kept = keep(row * TK + j[r], KEEP_SCALE);
                    }
                    p[r][g] = kept * weight;
                    ds[r][g] = weight * (kept * ds[r][g] - row_delta);
                }
            }
            for (var x = 0u; x < HV; x++) {
                for (var n = 0u; n < LANES; n++) {
                    let q = subgroupShuffle(q_quads[x], n);
                    let d = subgroupShuffle(d_quads[x], n);
                    for (var r = 0u; r < ROWS; r++) {
                        dk[r][x] += q * ds[r][n / 4u][n % 4u];
                        dv[r][x] += d * p[r][n / 4u][n % 4u];
                    }
                }
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if j0 + LANES * r + lane < TK {
            for (var x = 0u; x < HV; x++) {
                dkv_rows[kv_at + j[r] * KV_ROW + x] = vec4<X_TYPE>(dk[r][x] * SCALE);
                dkv_rows[kv_at + j[r] * KV_ROW + KV + x] = vec4<X_TYPE>(dv[r][x]);
            }
        }
    }
}
