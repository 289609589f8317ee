// value_loss_backward: the gradient of each value, a thread per element. Reference: src/ops/value_loss.rs
//
//   values, old, returns, weights, dx (LEN)    dloss (1)
// use: index value_clip
const LEN: u32 = 256u;

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read> old: array<f32>;
@group(0) @binding(2) var<storage, read> returns: array<f32>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
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
        dx[i] = weights[i] * dloss[0] * value_gradient(values[i], old[i], returns[i]);
    }
}
