// ceiling_copy: y = x, four words per thread: the peak of memory. Reference: src/ops/ceiling.rs
//
//   x, y (4 QUADS)
// use: index
const QUADS: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < QUADS {
        y[i] = x[i];
    }
}
