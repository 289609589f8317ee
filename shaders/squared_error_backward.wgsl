// squared_error_backward: dx = 2 * weight * (x - target) * dloss / total, a thread per element.
//
//   x, targets, weights, dx (LEN)    total, dloss (1)
//
// Reference: src/ops/squared_error.rs
// use: index
const LEN: u32 = 256u;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<f32>;
@group(0) @binding(2) var<storage, read> weights: array<f32>;
@group(0) @binding(3) var<storage, read> total: array<f32>;
@group(0) @binding(4) var<storage, read> dloss: array<f32>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        dx[i] = 2.0 * weights[i] * (x[i] - targets[i]) * dloss[0] / max(total[0], 1e-20);
    }
}
