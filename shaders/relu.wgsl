// relu: y = max(x, 0), elementwise. Reference: src/ops/relu.rs
//
//   x, y (LEN), numbers or quads
// use: index
const LEN: u32 = 256u;

// Type of the operands.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read_write> y: array<X_TYPE>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        y[i] = max(x[i], X_TYPE(0.0));
    }
}
