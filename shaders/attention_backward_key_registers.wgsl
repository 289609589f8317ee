// attention_backward_key_registers: dk and dv, without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(q k^T / sqrt(HS) - lse);  dv = (keep * p)^T dy;  ds = p (keep * (dy v^T) - delta);  dk = ds^T q / sqrt(HS)
//   qkv, dqkv (B, T, 3C): q | k | v, C = NH * HS;  dy (B, T, C);  lse, delta (B, NH, T)
//
// A lane owns a key: k, v, dk and dv are in registers, queries pass QUERIES at a time at addresses that all lanes share, from
// the first one that sees a key of this workgroup. Writes the k and v parts of dqkv. Reference: src/ops/attention_backward.rs
// use: index random step
const B: u32 = 1u;
// Batch entries before those of this dispatch.
const B_FIRST: u32 = 0u;
const T: u32 = 64u;
const NH: u32 = 1u;
const HS: u32 = 64u;
const DROPOUT: bool = false;
// Of dropout: p * 2^32, and 1 / (1 - p).
const THRESHOLD: u32 = 0u;
const KEEP_SCALE: f32 = 1.0;
const SALT: u32 = 0u;
const QUERIES: u32 = 4u;

const LANES: u32 = 8u;
const BLOCKS: u32 = (T + LANES - 1u) / LANES;
const FOURS: u32 = QUERIES / 4u;
// Lengths in vec4: a head, a row of dy, a row of qkv.
const HV: u32 = HS / 4u;
const CV: u32 = NH * HV;
const ROW: u32 = 3u * CV;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// WGSL knows no infinity: low enough that exp is 0.
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && QUERIES % 4u == 0u;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> lse: array<f32>;
@group(0) @binding(2) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<vec4<f32>>;
@group(0) @binding(5) var<uniform> step: Step;

fn keep(row: u32, j: u32) -> f32 {
    return keep_factor(row * T + j, step.micro_batch, step.seed, SALT, THRESHOLD, KEEP_SCALE);
}

// Element x of q at four consecutive positions from i. Past the end the last one repeats; the mask covers those.
fn four_q(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        qkv[at + min(i, T - 1u) * ROW + x],
        qkv[at + min(i + 1u, T - 1u) * ROW + x],
        qkv[at + min(i + 2u, T - 1u) * ROW + x],
        qkv[at + min(i + 3u, T - 1u) * ROW + x],
    );
}

fn four_dy(at: u32, i: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        dy[at + min(i, T - 1u) * CV + x],
        dy[at + min(i + 1u, T - 1u) * CV + x],
        dy[at + min(i + 2u, T - 1u) * CV + x],
        dy[at + min(i + 3u, T - 1u) * CV + x],
    );
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tile = workgroup_index(id, count);
    if tile >= B * NH * BLOCKS {
        return;
    }
    let head = tile / BLOCKS;
    let j0 = tile % BLOCKS * LANES;
    // Lanes past the end repeat the last row and do not store it.
    let j = min(j0 + lane, T - 1u);
    let rows = (B_FIRST * NH + head) * T;
    let at = head / NH * T * ROW + head % NH * HV;
    let dy_at = head / NH * T * CV + head % NH * HV;
    var k: array<vec4<f32>, HV>;
    var v: array<vec4<f32>, HV>;
    var dk: array<vec4<f32>, HV>;
    var dv: array<vec4<f32>, HV>;
    for (var x = 0u; x < HV; x++) {
        k[x] = qkv[at + j * ROW + CV + x] * SCALE;
        v[x] = qkv[at + j * ROW + 2u * CV + x];
    }
    for (var i0 = j0; i0 < T; i0 += QUERIES) {
        var p: array<vec4<f32>, FOURS>;
        var ds: array<vec4<f32>, FOURS>;
        for (var x = 0u; x < HV; x++) {
            for (var n = 0u; n < FOURS; n++) {
                p[n] += k[x] * four_q(at, i0 + 4u * n, x);
                ds[n] += v[x] * four_dy(dy_at, i0 + 4u * n, x);
            }
        }
        for (var n = 0u; n < FOURS; n++) {
            let i = i0 + 4u * n + vec4<u32>(0u, 1u, 2u, 3u);
            let row = rows + min(i, vec4<u32>(T - 1u));
            let seen = (vec4<u32>(j) <= i) & (i < vec4<u32>(T));
            let row_lse = vec4<f32>(lse[row.x], lse[row.y], lse[row.z], lse[row.w]);
            let row_delta = vec4<f32>(delta[row.x], delta[row.y], delta[row.z], delta[row.w]);
            p[n] = exp(select(vec4<f32>(MASKED), p[n] - row_lse, seen));
            if DROPOUT {
                let kept = vec4<f32>(keep(row.x, j), keep(row.y, j), keep(row.z, j), keep(row.w, j));
                ds[n] = p[n] * (kept * ds[n] - row_delta);
                p[n] *= kept;
            } else {
                ds[n] = p[n] * (ds[n] - row_delta);
            }
        }
        for (var x = 0u; x < HV; x++) {
            var dk_sum = dk[x];
            var dv_sum = dv[x];
            for (var n = 0u; n < FOURS; n++) {
                dk_sum += four_q(at, i0 + 4u * n, x) * ds[n];
                dv_sum += four_dy(dy_at, i0 + 4u * n, x) * p[n];
            }
            dk[x] = dk_sum;
            dv[x] = dv_sum;
        }
    }
    if j0 + lane < T {
        for (var x = 0u; x < HV; x++) {
            dqkv[at + j * ROW + CV + x] = dk[x] * SCALE;
            dqkv[at + j * ROW + 2u * CV + x] = dv[x];
        }
    }
}
