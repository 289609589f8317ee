// add: y = a + b, elementwise. Reference: src/ops/add.rs
//
//   a, b, y (LEN), numbers or quads
// use: index values
const LEN: u32 = 256u;

// Types of the operands.
alias A_TYPE = f32;
alias B_TYPE = f32;
alias Y_TYPE = f32;

@group(0) @binding(0) var<storage, read> a: array<A_TYPE>;
@group(0) @binding(1) var<storage, read> b: array<B_TYPE>;
@group(0) @binding(2) var<storage, read_write> y: array<Y_TYPE>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        y[i] = Y_TYPE(VALUES(a[i]) + VALUES(b[i]));
    }
}
