// tanh_backward: dy *= 1 - y^2, elementwise, in place. Reference: src/ops/tanh.rs
//
//   y, dy (LEN), numbers or quads
// use: index values
const LEN: u32 = 256u;

@group(0) @binding(0) var<storage, read> y: array<VALUES>;
@group(0) @binding(1) var<storage, read_write> dy: array<VALUES>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        dy[i] *= 1.0 - y[i] * y[i];
    }
}
