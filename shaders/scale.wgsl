// scale: y = FACTOR x, elementwise. Reference: src/ops/scale.rs
//
//   x, y (LEN), numbers or quads
// use: index values
const LEN: u32 = 256u;
const FACTOR: f32 = 1.0;

@group(0) @binding(0) var<storage, read> x: array<VALUES>;
@group(0) @binding(1) var<storage, read_write> y: array<VALUES>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        y[i] = FACTOR * x[i];
    }
}
