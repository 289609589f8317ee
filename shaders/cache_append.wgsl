// cache_append: cache[row + b, position + s] = k | v of qkv[b, s], a thread per vec4. Reference: src/ops/cache_append.rs
//
//   qkv (B * S, 3C): rows FIRST_NEW..    cache (ROWS, T, 2C): rows FIRST_ROW..    CV = C / 4, LEN = vec4s of k | v
//
// use: index step
const LEN: u32 = 256u;
const S: u32 = 1u;
const T: u32 = 64u;
const CV: u32 = 16u;
const FIRST_NEW: u32 = 0u;
const FIRST_ROW: u32 = 0u;
const ROWS: u32 = 1u;

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
    let fed = FIRST_NEW + i / (2u * CV);
    // Below the first row this wraps to a number beyond any row.
    let row = step.row + fed / S - FIRST_ROW;
    let t = step.position + fed % S;
    if row < ROWS && t < T {
        cache[(row * T + t) * 2u * CV + i % (2u * CV)] = qkv[(i / (2u * CV)) * 3u * CV + CV + i % (2u * CV)];
    }
}
