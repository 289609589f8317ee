// attention_registers: y = softmax(mask(SCALE q k^T + bias)) v per head, without workgroup memory. For CPUs behind a graphics
// API, where a barrier is a coroutine switch and the lanes of a workgroup are SIMD.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A lane owns ROWS queries: q, and the output so far, are in registers. Keys pass four at a time, at addresses that all lanes
// share, with an online softmax; keys that no query sees are never visited. Dao et al. 2022, algorithm 1, a block being four
// keys. Reference: src/ops/attention.rs
// use: index attention
const ROWS: u32 = 2u;

const LANES: u32 = 8u;
const BQ: u32 = LANES * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

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
    let entry = B_FIRST + head / NH;
    let first_row = (B_FIRST * NH + head) * TQ;
    var i: array<u32, ROWS>;
    var word: array<u32, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    var q: array<array<vec4<f32>, HV>, ROWS>;
    var o: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        i[r] = min(i0 + LANES * r + lane, TQ - 1u);
        word[r] = mask_word(entry, i[r]);
        m[r] = MASKED;
        for (var x = 0u; x < HV; x++) {
            q[r][x] = vec4<f32>(q_quad(at + i[r] * Q_ROW + x)) * SCALE;
        }
    }
    let end = keys_end(entry, i0 + BQ);
    for (var j0 = first_key(entry, i0) / 4u * 4u; j0 < end; j0 += 4u) {
        let j = j0 + vec4<u32>(0u, 1u, 2u, 3u);
        var p: array<vec4<f32>, ROWS>;
        for (var x = 0u; x < HV; x++) {
            let k = four(kv_at, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                p[r] += q[r][x] * k;
            }
        }
        var rescale: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            let seen = sees(vec4<u32>(word[r]), vec4<u32>(i[r]), j);
            p[r] = select(vec4<f32>(MASKED), biased(p[r], entry * NH + head % NH, vec4<u32>(i[r]), j), seen);
            let most = max(m[r], max(max(p[r].x, p[r].y), max(p[r].z, p[r].w)));
            rescale[r] = exp(m[r] - most);
            m[r] = most;
            p[r] = exp(p[r] - most);
            l[r] = l[r] * rescale[r] + p[r].x + p[r].y + p[r].z + p[r].w;
            if DROPOUT {
                p[r] *= keep((first_row + i[r]) * TK + j, KEEP_SCALE);
            }
        }
        for (var x = 0u; x < HV; x++) {
            let v = four(kv_at + KV, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                o[r][x] = o[r][x] * rescale[r] + v * p[r];
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if i0 + LANES * r + lane < TQ {
            let has_keys = m[r] > MASKED;
            for (var x = 0u; x < HV; x++) {
                let value = select(vec4<f32>(0.0), o[r][x] / l[r], has_keys);
                y[(head / NH * TQ + i[r]) * CV + head % NH * HV + x] = vec4<X_TYPE>(value);
            }
            lse[first_row + i[r]] = select(MASKED, m[r] + log(l[r]), has_keys);
        }
    }
}
