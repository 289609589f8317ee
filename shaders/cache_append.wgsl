// cache_append: keys and values of qkv[b, s] to the cache at row + b, position + s, a thread per vec4.
//
//   qkv (B * S, 3C): rows FIRST_FED..    cache (ROWS, 2, NH, T, HS): rows FIRST_ROW..    HV = HS / 4
//
// Reference: src/ops/cache_append.rs
// use: index step
const LEN: u32 = 256u;
const S: u32 = 1u;
const T: u32 = 64u;
const NH: u32 = 1u;
const HV: u32 = 16u;
const FIRST_FED: u32 = 0u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 1u;

const CV: u32 = NH * HV;

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
    let fed = FIRST_FED + i / (2u * CV);
    // Below the first row this wraps to a number beyond any row.
    let row = step.row + fed / S - FIRST_ROW;
    let t = step.position + fed % S;
    // A head's keys, or its values.
    let part = i % (2u * CV) / HV;
    if row < ROWS && t < T {
        cache[((row * 2u * NH + part) * T + t) * HV + i % HV] = qkv[i / (2u * CV) * 3u * CV + CV + i % (2u * CV)];
    }
}
