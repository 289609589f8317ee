// glu_backward: dgate = dy * up * f'(gate) and dup = dy * f(gate), elementwise; f is `gate_value`.
//
//   x (LEN / F, 2F): gate | up    dy (LEN / F, F)    dx (LEN / F, 2F): dgate | dup; numbers or quads
//
// Reference: src/ops/glu.rs
// use: index gate_silu
const LEN: u32 = 256u;
const F: u32 = 64u;

// Type of the operands.
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
    let gate = VALUES(x[at]);
    let d = VALUES(dy[i]);
    dx[at] = X_TYPE(d * VALUES(x[at + F]) * gate_derivative(gate));
    dx[at + F] = X_TYPE(d * gate_value(gate));
}
