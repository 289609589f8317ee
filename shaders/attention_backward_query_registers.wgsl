// attention_backward_query_registers: dq, and delta = rowsum(dy * y), without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(SCALE q k^T + bias - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = SCALE ds k
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y, dy (B, TQ, C);  lse, delta (B, NH, TQ)
//   dq as q; where q, k and v are side by side, the q part of them all
//
// A lane owns ROWS queries: q, dy and dq are in registers, keys pass four at a time at addresses that all lanes share. Writes
// the q part of dqkv; the other two come from attention_backward_key. Reference: src/ops/attention_backward.rs
// use: index attention
const ROWS: u32 = 2u;

const LANES: u32 = 8u;
const BQ: u32 = LANES * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dq_rows: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

// Element x of four consecutive positions from j. Past the end the last one repeats; the mask covers those.
fn four(at: u32, j: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(kv_quad(at + min(j, TK - 1u) * KV_ROW + x)),
        vec4<f32>(kv_quad(at + min(j + 1u, TK - 1u) * KV_ROW + x)),
        vec4<f32>(kv_quad(at + min(j + 2u, TK - 1u) * KV_ROW + x)),
        vec4<f32>(kv_quad(at + min(j + 3u, TK - 1u) * KV_ROW + x)),
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
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
    for (var j0 = first_key(entry, i0) / 4u * 4u; j0 < end; j0 += 4u) {
        let j = j0 + vec4<u32>(0u, 1u, 2u, 3u);
        var s: array<vec4<f32>, ROWS>;
        var ds: array<vec4<f32>, ROWS>;
        for (var x = 0u; x < HV; x++) {
            let k = four(kv_at, j0, x);
            let v = four(kv_at + KV, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                s[r] += q[r][x] * k;
                ds[r] += d[r][x] * v;
            }
        }
        for (var r = 0u; r < ROWS; r++) {
            if DROPOUT {
                ds[r] *= keep((first_row + i[r]) * TK + j, KEEP_SCALE);
            }
            let seen = sees(vec4<u32>(word[r]), vec4<u32>(i[r]), j);
            let score = biased(s[r], entry * NH + head % NH, vec4<u32>(i[r]), j);
            ds[r] = exp(select(vec4<f32>(MASKED), score - row_lse[r], seen)) * (ds[r] - row_delta[r]);
        }
        for (var x = 0u; x < HV; x++) {
            let k = four(kv_at, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                dq[r][x] += k * ds[r];
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
