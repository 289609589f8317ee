// row_dot_backward: dx = weight * dy of its row, a thread per element. Reference: src/ops/row_dot.rs
//
//   weights, dx (LEN), rows of N    dy (rows)
// use: index
const LEN: u32 = 256u;
const N: u32 = 64u;

@group(0) @binding(0) var<storage, read> weights: array<f32>;
@group(0) @binding(1) var<storage, read> dy: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;

@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) id: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(id, count) * 256u + thread;
    if i < LEN {
        dx[i] = weights[i] * dy[i / N];
    }
}
