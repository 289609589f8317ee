// attention_backward_query_registers: dq, and delta = rowsum(dy * y), without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(q k^T / sqrt(HS) - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = ds k / sqrt(HS)
//   qkv, dqkv (B, T, C + 2 KVC): q | k | v, C = NH * HS, KVC = KVH * HS;  y, dy (B, T, C);  lse, delta (B, NH, T)
//
// A lane owns ROWS queries: q, dy and dq are in registers, keys pass four at a time at addresses that all lanes share. Writes
// the q part of dqkv; the other two come from attention_backward_key. Reference: src/ops/attention_backward.rs
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
@group(0) @binding(1) var<storage, read> y: array<vec4<X_TYPE>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

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
    let y_at = head / NH * T * CV + head % NH * HV;
    let first_row = (B_FIRST * NH + head) * T;
    var i: array<u32, ROWS>;
    var row_lse: array<f32, ROWS>;
    var row_delta: array<f32, ROWS>;
    var q: array<array<vec4<f32>, HV>, ROWS>;
    var d: array<array<vec4<f32>, HV>, ROWS>;
    var dq: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        i[r] = min(i0 + LANES * r + lane, T - 1u);
        row_lse[r] = lse[first_row + i[r]];
        for (var x = 0u; x < HV; x++) {
            q[r][x] = vec4<f32>(qkv[at + i[r] * ROW + x]) * SCALE;
            d[r][x] = vec4<f32>(dy[y_at + i[r] * CV + x]);
            row_delta[r] += dot(d[r][x], vec4<f32>(y[y_at + i[r] * CV + x]));
        }
    }
    for (var j0 = first_key(i0) / 4u * 4u; j0 < min(i0 + BQ, T); j0 += 4u) {
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
                ds[r] *= keep(first_row + i[r], j0);
            }
            let seen = sees(vec4<u32>(i[r]), j0 + vec4<u32>(0u, 1u, 2u, 3u));
            ds[r] = exp(select(vec4<f32>(MASKED), s[r] - row_lse[r], seen)) * (ds[r] - row_delta[r]);
        }
        for (var x = 0u; x < HV; x++) {
            let k = four(kv_at, j0, x);
            for (var r = 0u; r < ROWS; r++) {
                dq[r][x] += k * ds[r];
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        if i0 + LANES * r + lane < T {
            for (var x = 0u; x < HV; x++) {
                dqkv[at + i[r] * ROW + x] = vec4<X_TYPE>(dq[r][x] * SCALE);
            }
            delta[first_row + i[r]] = row_delta[r];
        }
    }
}
