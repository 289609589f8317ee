// attention_backward_query_registers: dq, and delta = rowsum(dy * y), without workgroup memory. For CPUs behind a graphics API.
//
//   p = exp(q k^T / sqrt(HS) - lse);  dp = keep * (dy v^T);  ds = p (dp - delta);  dq = ds k / sqrt(HS)
//   qkv, dqkv (B, T, 3C): q | k | v, C = NH * HS;  y, dy (B, T, C);  lse, delta (B, NH, T)
//
// A lane owns a query: q, dy and dq are in registers, keys pass KEYS at a time at addresses that all lanes share. Writes the
// q part of dqkv; the other two come from attention_backward_key. Reference: src/ops/attention_backward.rs
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
const KEYS: u32 = 4u;

const LANES: u32 = 8u;
const BLOCKS: u32 = (T + LANES - 1u) / LANES;
const FOURS: u32 = KEYS / 4u;
// Lengths in vec4: a head, a row of y, a row of qkv.
const HV: u32 = HS / 4u;
const CV: u32 = NH * HV;
const ROW: u32 = 3u * CV;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
// WGSL knows no infinity: low enough that exp is 0.
const MASKED: f32 = -1e30;
const_assert HS % 4u == 0u && KEYS % 4u == 0u;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> lse: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> step: Step;

fn keep(row: u32, j: u32) -> f32 {
    return keep_factor(row * T + j, step.micro_batch, step.seed, SALT, THRESHOLD, KEEP_SCALE);
}

// Element x of four consecutive positions from j. Past the end the last one repeats; the mask covers those.
fn four(at: u32, j: u32, x: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        qkv[at + min(j, T - 1u) * ROW + x],
        qkv[at + min(j + 1u, T - 1u) * ROW + x],
        qkv[at + min(j + 2u, T - 1u) * ROW + x],
        qkv[at + min(j + 3u, T - 1u) * ROW + x],
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
    let i0 = tile % BLOCKS * LANES;
    // Lanes past the end repeat the last row and do not store it.
    let i = min(i0 + lane, T - 1u);
    let row = (B_FIRST * NH + head) * T + i;
    let at = head / NH * T * ROW + head % NH * HV;
    let y_at = (head / NH * T + i) * CV + head % NH * HV;
    var q: array<vec4<f32>, HV>;
    var d: array<vec4<f32>, HV>;
    var dq: array<vec4<f32>, HV>;
    var row_delta = 0.0;
    for (var x = 0u; x < HV; x++) {
        q[x] = qkv[at + i * ROW + x] * SCALE;
        d[x] = dy[y_at + x];
        row_delta += dot(d[x], y[y_at + x]);
    }
    let row_lse = lse[row];
    for (var j0 = 0u; j0 < min(i0 + LANES, T); j0 += KEYS) {
        var s: array<vec4<f32>, FOURS>;
        var ds: array<vec4<f32>, FOURS>;
        for (var x = 0u; x < HV; x++) {
            for (var n = 0u; n < FOURS; n++) {
                s[n] += q[x] * four(at + CV, j0 + 4u * n, x);
                ds[n] += d[x] * four(at + 2u * CV, j0 + 4u * n, x);
            }
        }
        for (var n = 0u; n < FOURS; n++) {
            let j = j0 + 4u * n;
            if DROPOUT {
                ds[n] *= vec4<f32>(keep(row, j), keep(row, j + 1u), keep(row, j + 2u), keep(row, j + 3u));
            }
            let seen = j + vec4<u32>(0u, 1u, 2u, 3u) <= vec4<u32>(i);
            ds[n] = exp(select(vec4<f32>(MASKED), s[n] - row_lse, seen)) * (ds[n] - row_delta);
        }
        for (var x = 0u; x < HV; x++) {
            var sum = dq[x];
            for (var n = 0u; n < FOURS; n++) {
                sum += four(at + CV, j0 + 4u * n, x) * ds[n];
            }
            dq[x] = sum;
        }
    }
    if i0 + lane < T {
        for (var x = 0u; x < HV; x++) {
            dqkv[at + i * ROW + x] = dq[x] * SCALE;
        }
        delta[row] = row_delta;
    }
}
