// relu_backward: dy = dy where y > 0, else 0, elementwise, in place. Reference: src/ops/relu.rs
//
//   y, dy (LEN), numbers or quads
// use: index
const LEN: u32 = 256u;

// Type of the operands.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> y: array<X_TYPE>;
@group(0) @binding(1) var<storage, read_write> dy: array<X_TYPE>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        dy[i] = select(X_TYPE(0.0), dy[i], y[i] > X_TYPE(0.0));
    }
}
