// dropout: y = x * keep, keep being 0 with probability p and 1 / (1 - p) otherwise, from a counter-based generator.
//
//   x, y (LEN), numbers or quads: those from FIRST on of the tensor. Backward is the same kernel over dy. Reference: src/ops/dropout.rs
// use: index random step keep_1
const LEN: u32 = 256u;
const FIRST: u32 = 0u;
const SALT: u32 = 0u;
// p * 2^32
const THRESHOLD: u32 = 429496729u;
const SCALE: f32 = 1.1111111;

// Type of the operands.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read_write> y: array<X_TYPE>;
@group(0) @binding(2) var<uniform> step: Step;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        y[i] = X_TYPE(VALUES(x[i]) * keep_values(FIRST + i));
    }
}
