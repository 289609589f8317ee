// attention_backward_key_registers: dk and dv, without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(q k^T / sqrt(HS) - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = ds^T q / sqrt(HS)
//   qkv, dqkv (B, T, C + 2 KVC): q | k | v, C = NH * HS, KVC = KVH * HS;  dy (B, T, C);  lse, delta (B, NH, T)
//
// A lane owns ROWS keys: k, v, dk and dv are in registers, queries pass four at a time at addresses that all lanes share, from
// the first one that sees a key of this workgroup to the last, one head of queries after the other. Writes the k and v parts of
// dqkv. Reference: src/ops/attention_backward.rs
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
const BK: u32 = LANES * ROWS;
const BLOCKS: u32 = (T + BK - 1u) / BK;
// Lengths in vec4: a head, a row of dy, the keys of a row, a row of qkv.
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
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<X_TYPE>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<vec4<X_TYPE>>;
@group(0) @binding(5) var<uniform> step: Step;

fn keep(row: vec4<u32>, j: u32) -> vec4<f32> {
    var kept: vec4<f32>;
    for (var n = 0u; n < 4u; n++) {
        kept[n] = keep_factor(row[n] * T + j, step.micro_batch, step.seed, SALT, THRESHOLD, KEEP_SCALE);
    }
    return kept;
}

// Element x of q at four consecutive positions from i. Past the end the last one repeats; the mask covers those.
fn four_q(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(qkv[at + min(i, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(i + 1u, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(i + 2u, T - 1u) * ROW + x]),
        vec4<f32>(qkv[at + min(i + 3u, T - 1u) * ROW + x]),
    );
}

fn four_dy(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        vec4<f32>(dy[at + min(i, T - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 1u, T - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 2u, T - 1u) * CV + x]),
        vec4<f32>(dy[at + min(i + 3u, T - 1u) * CV + x]),
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
    let kv_at = batch * T * ROW + CV + kv_head % KVH * HV;
    var j: array<u32, ROWS>;
    var k: array<array<vec4<f32>, HV>, ROWS>;
    var v: array<array<vec4<f32>, HV>, ROWS>;
    var dk: array<array<vec4<f32>, HV>, ROWS>;
    var dv: array<array<vec4<f32>, HV>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        // Rows past the end repeat the last one and are not stored.
        j[r] = min(j0 + LANES * r + lane, T - 1u);
        for (var x = 0u; x < HV; x++) {
            k[r][x] = vec4<f32>(qkv[kv_at + j[r] * ROW + x]) * SCALE;
            v[r][x] = vec4<f32>(qkv[kv_at + j[r] * ROW + KV + x]);
        }
    }
    // The heads of queries that share these keys, one after the other.
    for (var n = 0u; n < NH / KVH; n++) {
        let head = kv_head % KVH * (NH / KVH) + n;
        let at = batch * T * ROW + head * HV;
        let dy_at = batch * T * CV + head * HV;
        let first_row = ((B_FIRST + batch) * NH + head) * T;
        for (var i0 = j0; i0 < queries_end(j0 + BK - 1u); i0 += 4u) {
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
            let row = first_row + min(i, vec4<u32>(T - 1u));
            let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            for (var r = 0u; r < ROWS; r++) {
                let seen = sees(i, vec4<u32>(j[r])) & (i < vec4<u32>(T));
                let weight = exp(select(vec4<f32>(MASKED), p[r] - row_lse, seen));
                var kept = vec4<f32>(1.0);
                if DROPOUT {
                    kept = keep(row, j[r]);
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
        if j0 + LANES * r + lane < T {
            for (var x = 0u; x < HV; x++) {
                dqkv[kv_at + j[r] * ROW + x] = vec4<X_TYPE>(dk[r][x] * SCALE);
                dqkv[kv_at + j[r] * ROW + KV + x] = vec4<X_TYPE>(dv[r][x]);
            }
        }
    }
}
