// attention_registers: y = softmax(q k^T / sqrt(HS), causal) v per head, without workgroup memory. For CPUs behind a graphics
// API, where a barrier is a coroutine switch and the lanes of a workgroup are SIMD.
//
//   qkv (B, T, C + 2 KVC): q | k | v, C = NH * HS, KVC = KVH * HS, head h at h * HS in each;  y (B, T, C)
//   lse (B, NH, T): log-sum-exp, for backward
//
// A lane owns ROWS queries: q, and the output so far, are in registers. Keys pass four at a time, at addresses that all lanes
// share, with an online softmax; keys that no query sees are never visited. Dao et al. 2022, algorithm 1, a block being four
// keys. Reference: src/ops/attention.rs
// use: index random step window
const ENTRIES: u32 = 1u;
// Batch entries before those of this dispatch.
const B_FIRST: u32 = 0u;
const T: u32 = 64u;
const NH: u32 = 1u;
// Heads of keys and values, each for NH / KVH heads of queries.
const KVH: u32 = 1u;
const HS: u32 = 64u;
const WINDOW: u32 = T;
const DROPOUT: bool = false;
// Of dropout: p * 2^32, and 1 / (1 - p).
const THRESHOLD: u32 = 0u;
const KEEP_SCALE: f32 = 1.0;
const SALT: u32 = 0u;
const ROWS: u32 = 2u;

const LANES: u32 = 8u;
const BQ: u32 = LANES * ROWS;
const BLOCKS: u32 = (T + BQ - 1u) / BQ;
// Lengths in vec4: a head, a row of y, the keys of a row, a row of qkv.
const HV: u32 = HS / 4u;
const CV: u32 = NH * HV;
const KV: u32 = KVH * HV;
const ROW: u32 = CV + 2u * KV;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// WGSL knows no infinity: low enough that exp is 0.
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && NH % KVH == 0u;

// Element type of q, k, v, y and their gradients.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<X_TYPE>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
@group(0) @binding(3) var<uniform> step: Step;

fn keep(row: u32, j: u32) -> vec4<f32> {
    var kept: vec4<f32>;
    for (var n = 0u; n < 4u; n++) {
        kept[n] = keep_factor(row * T + j + n, step.micro_batch, step.seed, SALT, THRESHOLD, KEEP_SCALE);
    }
    return kept;
}

// Element x of four consecutive positions from j. Past the end the last one repeats; the mask covers those.
fn four(at: u32, j: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(qkv[at + min(j, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(j + 1u, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(j + 2u, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(j + 3u, T - 1u) * ROW + x]),
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
    let at = head / NH * T * ROW + head % NH * HV;
    let kv_at = head / NH * T * ROW + CV + head % NH / (NH / KVH) * HV;
    let first_row = (B_FIRST * NH + head) * T;
    var i: array<u32, ROWS>;
    var m: array<f32, ROWS>;
    var l: array<f32, ROWS>;
    var q: array<array<vec4<f32>, HV>, ROWS>;
    var o: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        i[r] = min(i0 + LANES * r + lane, T - 1u);
        m[r] = MASKED;
        for (var x = 0u; x < HV; x++) {
            q[r][x] = vec4<f32>(qkv[at + i[r] * ROW + x]) * SCALE;
        }
    }
    for (var j0 = first_key(i0) / 4u * 4u; j0 < min(i0 + BQ, T); j0 += 4u) {
        var p: array<vec4<f32>, ROWS>;
        for (var x = 0u; x < HV; x++) {
            let k = four(kv_at, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                p[r] += q[r][x] * k;
            }
        }
        var rescale: array<f32, ROWS>;
        for (var r = 0u; r < ROWS; r++) {
            let seen = sees(vec4<u32>(i[r]), j0 + vec4<u32>(0u, 1u, 2u, 3u));
            p[r] = select(vec4<f32>(MASKED), p[r], seen);
            let most = max(m[r], max(max(p[r].x, p[r].y), max(p[r].z, p[r].w)));
            rescale[r] = exp(m[r] - most);
            m[r] = most;
            p[r] = exp(p[r] - most);
            l[r] = l[r] * rescale[r] + p[r].x + p[r].y + p[r].z + p[r].w;
            if DROPOUT {
                p[r] *= keep(first_row + i[r], j0);
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
        if i0 + LANES * r + lane < T {
            for (var x = 0u; x < HV; x++) {
                y[(head / NH * T + i[r]) * CV + head % NH * HV + x] = vec4<X_TYPE>(o[r][x] / l[r]);
            }
            lse[first_row + i[r]] = m[r] + log(l[r]);
        }
    }
}
