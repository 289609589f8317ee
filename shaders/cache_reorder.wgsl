// cache_reorder: x[r] = x[parents[r]] for all rows at once, a thread per vec4 of a row. Reference: src/ops/cache_reorder.rs
//
//   parents (ROWS)    x (ROWS, LEN), in vec4: all of it, or, where T > 0, of each head's (T, HV) only the filled positions
//
// use: index step
const LEN: u32 = 256u;
const ROWS: u32 = 4u;
const T: u32 = 0u;
const HV: u32 = 1u;

@group(0) @binding(0) var<storage, read> parents: array<u32>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i >= LEN || (T > 0u && i / HV % max(T, 1u) >= step.position) {
        return;
    }
    var moved: array<vec4<u32>, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        moved[r] = x[parents[r] * LEN + i];
    }
    for (var r = 0u; r < ROWS; r++) {
        x[r * LEN + i] = moved[r];
    }
}
