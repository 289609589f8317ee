// attention_backward_key_registers: dk and dv, without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(SCALE q k^T + bias - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = SCALE ds^T q
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dkv as k and v; where q, k and v are side by side, their parts of them all
//
// A lane owns ROWS keys: k, v, dk and dv are in registers, queries pass four at a time at addresses that all lanes share, from
// the first one that sees a key of this workgroup to the last, one head of queries after the other. Writes the k and v parts of
// dqkv. Reference: src/ops/attention_backward.rs
// use: index attention
const ROWS: u32 = 2u;

const LANES: u32 = 8u;
const BK: u32 = LANES * ROWS;
const BLOCKS: u32 = (TK + BK - 1u) / BK;

@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dkv_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

// Element x of q at four consecutive positions from i. Past the end the last one repeats; the mask covers those.
fn four_q(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(q_quad(at + min(i, TQ - 1u) * Q_ROW + x)),
        vec4<f32>(q_quad(at + min(i + 1u, TQ - 1u) * Q_ROW + x)),
        vec4<f32>(q_quad(at + min(i + 2u, TQ - 1u) * Q_ROW + x)),
        vec4<f32>(q_quad(at + min(i + 3u, TQ - 1u) * Q_ROW + x)),
    );
}

fn four_dy(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(dy[at + min(i, TQ - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 1u, TQ - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 2u, TQ - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 3u, TQ - 1u) * CV + x]),
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
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
        for (var i0 = begin; i0 < end; i0 += 4u) {
            var p: array<vec4<f32>, ROWS>;
            var ds: array<vec4<f32>, ROWS>;
            for (var x = 0u; x < HV; x++) {
                let q = four_q(at, i0, x);
                let d = four_dy(dy_at, i0, x);
                for (var r = 0u; r < ROWS; r++) {
                    p[r] += k[r][x] * q;
                    ds[r] += v[r][x] * d;
                }
            }
            let i = i0 + vec4<u32>(0u, 1u, 2u, 3u);
            let row = first_row + min(i, vec4<u32>(TQ - 1u));
            let word = mask_words(entry, i);
            let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            for (var r = 0u; r < ROWS; r++) {
                let seen = sees(word, i, vec4<u32>(j[r])) & (i < vec4<u32>(TQ));
                let score = biased(p[r], entry * NH + head, i, vec4<u32>(j[r]));
                let weight = exp(select(vec4<f32>(MASKED), score - row_lse, seen));
                var kept = vec4<f32>(1.0);
                if DROPOUT {
                    kept = keep(row * TK + j[r], KEEP_SCALE);
                }
                p[r] = kept * weight;
                ds[r] = weight * (kept * ds[r] - row_delta);
            }
            for (var x = 0u; x < HV; x++) {
                let q = four_q(at, i0, x);
                let d = four_dy(dy_at, i0, x);
                for (var r = 0u; r < ROWS; r++) {
                    dk[r][x] += q * ds[r];
                    dv[r][x] += d * p[r];
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
