// swiglu_backward: dgate = dy * up * s * (1 + gate * (1 - s)) and dup = dy * gate * s, with s = sigmoid(gate), elementwise.
//
//   x (LEN / F, 2F): gate | up    dy (LEN / F, F)    dx (LEN / F, 2F): dgate | dup. Reference: src/ops/swiglu.rs
// use: index silu
const LEN: u32 = 256u;
const F: u32 = 64u;

// Element type of the operands.
alias X_TYPE = f32;

@group(0) @binding(0) var<storage, read> x: array<X_TYPE>;
@group(0) @binding(1) var<storage, read> dy: array<X_TYPE>;
@group(0) @binding(2) var<storage, read_write> dx: array<X_TYPE>;

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
    let at = i / F * F + i;
    let gate = f32(x[at]);
    let d = f32(dy[i]);
    let s = sigmoid(gate);
    dx[at] = X_TYPE(d * f32(x[at + F]) * s * (1.0 + gate * (1.0 - s)));
    dx[at + F] = X_TYPE(d * gate * s);
}
