// attention_registers: y = softmax(mask(SCALE q k^T + bias)) v per head, without workgroup memory. For CPUs behind a graphics
// API, where a barrier is a coroutine switch, the lanes of a subgroup are SIMD, and a load in a loop takes the lanes one by one.
//
//   q (B, TQ, C);  k, v (B, TK, KVC): with q or with each other side by side;  y (B, TQ, C)
//   lse (B, NH, TQ): log-sum-exp, for backward, MASKED for a query that sees no key, whose y is 0
//
// A workgroup is one subgroup. A lane owns ROWS queries: q, and the output so far, are in registers. Keys pass LANES at a time,
// one in each lane, which reads it once; the others get its values by shuffles. The softmax is online; keys that no query sees
// are never visited. Dao et al. 2022, algorithm 1, a block being LANES keys. Reference: src/ops/attention.rs
// use: index attention
const ROWS: u32 = 2u;

// Size of a subgroup: a power of two, at least 4.
const LANES: u32 = 8u;
const GROUPS: u32 = LANES / 4u;
const BQ: u32 = LANES * ROWS;
const BLOCKS: u32 = (TQ + BQ - 1u) / BQ;

@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

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
    for (var j0 = first_key(entry, i0) / LANES * LANES; j0 < end; j0 += LANES) {
        // This lane's key. Past the end the last one repeats; the mask covers those.
        let own = kv_at + min(j0 + lane, TK - 1u) * KV_ROW;
        var p: array<array<vec4<f32>, GROUPS>, ROWS>;
        for (var x = 0u; x < HV; x++) {
            let quad = vec4<f32>(kv_quad(own + x));
            for (var n = 0u; n < LANES; n++) {
                let k = subgroupShuffle(quad, n);
                for (var r = 0u; r < ROWS; r++) {
                    p[r][n / 4u][n % 4u] += dot(q[r][x], k);
                }
            }
        }
        var rescale: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            var most = m[r];
            for (var g = 0u; g < GROUPS; g++) {
                let j = j0 + 4u * g + vec4<u32>(0u, 1u, 2u, 3u);
                let seen = sees(vec4<u32>(word[r]), vec4<u32>(i[r]), j);
                p[r][g] = select(vec4<f32>(MASKED), biased(p[r][g], entry * NH + head % NH, vec4<u32>(i[r]), j), seen);
                most = max(most, max(max(p[r][g].x, p[r][g].y), max(p[r][g].z, p[r][g].w)));
            }
            rescale[r] = exp(m[r] - most);
            m[r] = most;
            l[r] *= rescale[r];
            for (var g = 0u; g < GROUPS; g++) {
                p[r][g] = exp(p[r][g] - most);
                l[r] += p[r][g].x + p[r][g].y + p[r][g].z + p[r][g].w;
                if DROPOUT {
                    let j = j0 + 4u * g + vec4<u32>(0u, 1u, 2u, 3u);
                    p[r][g] *= keep((first_row + i[r]) * TK + j, KEEP_SCALE);
                }
            }
        }
        for (var x = 0u; x < HV; x++) {
            let quad = vec4<f32>(kv_quad(own + KV + x));
            for (var r = 0u; r < ROWS; r++) {
                o[r][x] *= rescale[r];
            }
            for (var n = 0u; n < LANES; n++) {
                let v = subgroupShuffle(quad, n);
                for (var r = 0u; r < ROWS; r++) {
                    o[r][x] += v * p[r][n / 4u][n % 4u];
                }
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
