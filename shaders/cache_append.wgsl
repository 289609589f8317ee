// cache_append: keys and values of qkv[b, s] to the cache at row + b, first_position(b) + s, a thread per vec4.
//
//   qkv (B * S, ROW): rows FIRST_FED.., q | k | v    cache (ROWS, 2, KVH, T, HS): rows FIRST_ROW..    HV = HS / 4
//
// Reference: src/ops/cache_append.rs
// use: index step first_position
const LEN: u32 = 256u;
const S: u32 = 1u;
const T: u32 = 64u;
const KVH: u32 = 1u;
const HV: u32 = 16u;
// A row of qkv in vec4.
const ROW: u32 = 48u;
const FIRST_FED: u32 = 0u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 1u;

// Of k | v.
const KV: u32 = 2u * KVH * HV;

@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> cache: array<vec4<f32>>;
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN {
        return;
    }
    let fed = FIRST_FED + i / KV;
    // Below the first row this wraps to a number beyond any row.
    let row = step.row + fed / S - FIRST_ROW;
    let t = first_position(fed / S) + fed % S;
    // A head's keys, or its values.
    let part = i % KV / HV;
    if row < ROWS && t < T {
        cache[((row * 2u * KVH + part) * T + t) * HV + i % HV] = qkv[i / KV * ROW + ROW - KV + i % KV];
    }
}
